"""Real daemons on one machine become one swarm, and say little once they are one.

`PEERINFER_TEST_DAEMONS=30` takes as many as the target asks for: two minutes on two quiet cores, most of them for their
starting. What they say is counted on a loopback device of their own, where one can be had.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from namespaces import Internet, open_internet
from swarm import Daemon, Swarm, wait_for

pytestmark = pytest.mark.slow

DAEMONS = int(os.environ.get("PEERINFER_TEST_DAEMONS", "8"))
STARTING_AT_ONCE = 2 * (os.cpu_count() or 1)
"""A daemon takes four seconds of a processor to start, with the benchmark of its device."""

SEEN_WITHIN_S = 60.0
DEAD_WITHIN_S = 20.0
"""Five seconds are promised, and shown where the machine has no part in it (`test_membership_world`). Here all of them
share it with each other and with whatever else runs."""

SETTLE_S = 8.0
"""They find out whether they can be dialled."""

IDLE_S = 10.0
TRAFFIC_MAX = 2000.0
MEMORY_MAX = 150 * 2**20


@pytest.fixture
def machine() -> Iterator[Internet | None]:
    """A machine whose loopback device carries these daemons alone; None where there cannot be one."""
    try:
        made = open_internet()
    except pytest.skip.Exception:
        yield None
        return
    try:
        yield made
    finally:
        made.close()


def states(daemon: Daemon) -> dict[str, str]:
    return {peer["peer_id"]: peer["state"] for peer in daemon.ask("GET", "/peers")}


def seen_alive(daemon: Daemon) -> set[str]:
    return {peer for peer, state in states(daemon).items() if state == "alive"}


def join_all(swarm: Swarm) -> list[Daemon]:
    daemons = [swarm.join("0")]
    while len(daemons) < DAEMONS:
        numbers = range(len(daemons), min(len(daemons) + STARTING_AT_ONCE, DAEMONS))
        started = [swarm.join(str(number), bootstrap=daemons[0], wait=False) for number in numbers]
        for daemon in started:
            daemon.wait_ready()
        daemons += started
    return daemons


def wait_all_see_all(daemons: list[Daemon], within_s: float) -> float:
    """How long it took."""
    started_s = time.monotonic()
    everybody = {daemon.peer_id for daemon in daemons}
    for daemon in daemons:
        left_s = within_s - (time.monotonic() - started_s)
        wait_for(
            lambda d=daemon: seen_alive(d) == everybody - {d.peer_id},
            timeout_s=max(left_s, 0.1),
            saying="all to see all",
        )
    return time.monotonic() - started_s


def watch_idle(daemons: list[Daemon], machine: Internet | None) -> None:
    """They take and say little, each of them."""
    time.sleep(SETTLE_S)
    processes = [psutil.Process(daemon.pid) for daemon in daemons]
    before = [sum(process.cpu_times()[:2]) for process in processes]
    carried = machine.carried("hub") if machine else 0
    started_s = time.monotonic()
    time.sleep(IDLE_S)
    idle_s = time.monotonic() - started_s
    carried = machine.carried("hub") - carried if machine else 0
    used = [sum(process.cpu_times()[:2]) - old for process, old in zip(processes, before, strict=True)]
    memory = max(process.memory_info().rss for process in processes)
    said = carried / len(daemons) / idle_s
    print(
        f"idle, each of {len(daemons)}: {100 * sum(used) / len(used) / idle_s:.2f}% of a core, "
        f"{said:.0f} B/s sent and as much received, {memory / 2**20:.0f} MiB at most"
    )
    assert said < TRAFFIC_MAX / 2
    assert memory < MEMORY_MAX


def test_all_see_all_soon_and_a_killed_one_is_missed_by_all(tmp_path: Path, machine: Internet | None) -> None:
    inside = machine.inside("hub") if machine else contextlib.nullcontext()
    with inside, Swarm(tmp_path) as swarm:
        daemons = join_all(swarm)
        seen_s = wait_all_see_all(daemons, SEEN_WITHIN_S)
        print(f"{DAEMONS} daemons: all see all {seen_s:.2f} s after the last was ready")
        watch_idle(daemons, machine)

        # The one that everybody bootstrapped from.
        first, others = daemons[0], daemons[1:]
        everybody = {daemon.peer_id for daemon in daemons}
        first.kill()
        killed_s = time.monotonic()
        for daemon in others:
            left_s = DEAD_WITHIN_S - (time.monotonic() - killed_s)
            wait_for(
                lambda d=daemon: states(d)[first.peer_id] == "dead", timeout_s=max(left_s, 0.1), saying="the death"
            )
        print(f"killed: dead for all after {time.monotonic() - killed_s:.2f} s")
        for daemon in others:  # who was slow to answer may be suspected for a moment, but nobody else is buried
            assert [peer for peer, state in states(daemon).items() if state == "dead"] == [first.peer_id]
            alive = everybody - {daemon.peer_id, first.peer_id}
            wait_for(lambda d=daemon, a=alive: seen_alive(d) == a, timeout_s=SEEN_WITHIN_S, saying="the others alive")

        # It comes back as the same peer, and one that joins by another member knows everybody at once.
        again = swarm.join("0", bootstrap=others[0])
        assert again.peer_id == first.peer_id
        back_s = wait_all_see_all([again, *others], SEEN_WITHIN_S)
        late = swarm.join("late", bootstrap=others[-1])
        ready_s = time.monotonic()
        wait_for(lambda: seen_alive(late) == everybody, timeout_s=SEEN_WITHIN_S, saying="a late joiner to know all")
        print(
            f"after they are ready: one that comes back is alive for all, and all for it, after {back_s:.2f} s; "
            f"a late joiner knows all after {time.monotonic() - ready_s:.2f} s"
        )
