"""What must be done within a time, on a machine that may be busy: to be late once is no fault, to be late every time is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

TRIES = 5


async def check_prompt(attempt: Callable[[], Awaitable[float]], within_s: float) -> None:
    """One of a few attempts must take less than `within_s`; each says how long it took."""
    took_s: list[float] = []
    while not took_s or took_s[-1] >= within_s:
        assert len(took_s) < TRIES, f"it took {took_s} s, and never less than {within_s:g} s"
        took_s.append(await attempt())
