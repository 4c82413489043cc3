"""Same seed, same history: the one place that takes trio's dice away, and keeps threads out.

trio shuffles the tasks of each scheduling pass on purpose. A private switch makes it sort them first and shuffle them
with a generator that can be seeded; trio's own tests rely on it, but it may change with any release, so
`seed_scheduler` refuses to go on where it does not find what it knows. The second source of chance is the hash of
strings, which orders sets: a run must start with PYTHONHASHSEED=0 (`fix_hash_seed`). The third is a worker thread,
which a virtual clock cannot see and would leave behind by hours: `without_threads` makes one an error.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import trio
import trio.testing
from trio._core import _run as scheduler

T = TypeVar("T")


def rng_for(seed: int, node: str, purpose: str) -> random.Random:
    """A generator for one purpose of one node, so that a draw more here does not shift those of others."""
    return random.Random(f"{seed}:{node}:{purpose}")


def seed_scheduler(seed: int) -> None:
    """From now on trio's order of tasks follows from `seed`. Raises RuntimeError if this trio has no such switch."""
    switch = getattr(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", None)
    dice = getattr(scheduler, "_r", None)
    if type(switch) is not bool or not isinstance(dice, random.Random):
        raise RuntimeError(f"this release of trio has lost its deterministic scheduling; see {__name__}")
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    dice.seed(seed)


@contextmanager
def without_threads() -> Iterator[None]:
    """Inside a trio run: a thread that is started, or taken from trio's pool, raises RuntimeError."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("a thread under the virtual clock: use `Ports.in_thread`")

    limiter: Any = trio.to_thread.current_default_thread_limiter()
    start = threading.Thread.start
    limiter.acquire_on_behalf_of = refuse
    threading.Thread.start = refuse  # type: ignore[method-assign]
    try:
        yield
    finally:
        del limiter.acquire_on_behalf_of
        threading.Thread.start = start  # type: ignore[method-assign]


def run(main: Callable[[], Awaitable[T]], seed: int) -> T:
    """`trio.run` under a clock that jumps to the next deadline whenever every task waits."""

    async def guarded() -> T:
        with without_threads():
            return await main()

    seed_scheduler(seed)
    return trio.run(guarded, clock=trio.testing.MockClock(autojump_threshold=0))


async def inline(work: Callable[[], T], /) -> T:
    """`Ports.in_thread` of a simulated node."""
    await trio.lowlevel.checkpoint()
    return work()


def hash_seed_is_fixed() -> bool:
    return os.environ.get("PYTHONHASHSEED") == "0"


def fix_hash_seed(arguments: Sequence[str]) -> None:
    """Starts this program again with PYTHONHASHSEED=0, unless it runs so already."""
    if not hash_seed_is_fixed():
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        os.execve(sys.executable, [sys.executable, "-m", "peerinfer_sim", *arguments], environment)  # noqa: S606
