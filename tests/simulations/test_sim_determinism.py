"""Same seed, same history: the switches that make it so, and the thing itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time

import pytest
import trio
from trio._core import _run as scheduler

from peerinfer_sim import determinism


def order_of_tasks(seed: int) -> list[int]:
    """In which order trio runs twenty tasks that nothing sets apart."""
    order: list[int] = []

    async def note(number: int) -> None:
        await trio.lowlevel.checkpoint()
        order.append(number)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(note, number)

    determinism.run(main, seed)
    return order


def digests_of(*runs: tuple[str, ...]) -> list[str]:
    """The event log's hash that each run of the command prints; they run beside each other."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
    command = [sys.executable, "-m", "peerinfer_sim"]
    children = [
        subprocess.Popen([*command, *run], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for run in runs
    ]
    digests = []
    for child in children:
        out, err = child.communicate()
        assert child.returncode == 0, out + err
        found = re.search(r" ([0-9a-f]{12})$", out.rstrip())
        assert found is not None, out
        digests.append(found[1])
    return digests


def test_the_order_of_tasks_follows_from_the_seed() -> None:
    orders = {seed: order_of_tasks(seed) for seed in (1, 2, 3)}
    assert {seed: order_of_tasks(seed) for seed in (3, 2, 1)} == orders
    assert len({tuple(order) for order in orders.values()}) == 3


@pytest.mark.parametrize("name", ["_ALLOW_DETERMINISTIC_SCHEDULING", "_r"])
def test_a_trio_that_lost_its_switch_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(scheduler, name)
    with pytest.raises(RuntimeError, match="lost its deterministic scheduling"):
        determinism.seed_scheduler(1)


def test_an_hour_of_sleep_takes_no_time() -> None:
    async def sleep() -> float:
        await trio.sleep(3600)
        return trio.current_time()

    started_s = time.perf_counter()
    assert determinism.run(sleep, 1) == 3600
    assert time.perf_counter() - started_s < 60


async def _borrow_a_thread() -> None:
    await trio.to_thread.run_sync(time.time)


async def _start_a_thread() -> None:
    threading.Thread(target=time.time).start()


@pytest.mark.parametrize("use", [_borrow_a_thread, _start_a_thread])
def test_a_thread_under_the_virtual_clock_is_an_error(use) -> None:
    with pytest.raises(RuntimeError, match="a thread under the virtual clock"):
        determinism.run(use, 1)


async def test_threads_come_back_after_a_run() -> None:
    async def nothing() -> None:
        with determinism.without_threads():
            await trio.lowlevel.checkpoint()

    await nothing()
    assert await trio.to_thread.run_sync(lambda: 7) == 7


def test_a_draw_more_of_one_purpose_does_not_shift_another() -> None:
    first = determinism.rng_for(1, "volunteer-0", "speed").random()
    determinism.rng_for(1, "volunteer-0", "clock").random()
    assert determinism.rng_for(1, "volunteer-0", "speed").random() == first
    assert determinism.rng_for(1, "volunteer-1", "speed").random() != first
    assert determinism.rng_for(2, "volunteer-0", "speed").random() != first


@pytest.mark.slow
@pytest.mark.parametrize(("name", "nodes"), [("deaths", "12"), ("thousand", "80")])
def test_the_same_seed_gives_the_same_history_in_another_process(name: str, nodes: str) -> None:
    size = ("--nodes", nodes, "--items", "300")
    first, again, other = digests_of(*((name, "--seed", seed, *size) for seed in ("11", "11", "12")))
    assert first == again
    assert first != other
