"""Real daemons on one machine become one swarm. `PEERINFER_TEST_DAEMONS=30` takes as many as the target asks for."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest
from swarm import Daemon, Swarm, wait_for

pytestmark = pytest.mark.slow

DAEMONS = int(os.environ.get("PEERINFER_TEST_DAEMONS", "8"))
SEEN_WITHIN_S = 15.0
DEAD_WITHIN_S = 5.0
IDLE_S = 10.0


def seen_alive(daemon: Daemon) -> set[str]:
    return {peer["peer_id"] for peer in daemon.ask("GET", "/peers") if peer["state"] == "alive"}


def states(daemon: Daemon) -> dict[str, str]:
    return {peer["peer_id"]: peer["state"] for peer in daemon.ask("GET", "/peers")}


def test_all_see_all_soon_and_a_killed_one_is_missed_by_all(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        first = swarm.join("0")
        others = [swarm.join(str(number), bootstrap=first, wait=False) for number in range(1, DAEMONS)]
        for daemon in others:
            daemon.wait_ready()
        ready_s = time.monotonic()
        daemons = [first, *others]
        everybody = {daemon.peer_id for daemon in daemons}
        for daemon in daemons:
            missing = everybody - {daemon.peer_id}
            left_s = SEEN_WITHIN_S - (time.monotonic() - ready_s)
            wait_for(
                lambda d=daemon, m=missing: seen_alive(d) == m, timeout_s=max(left_s, 0.1), saying="all to see all"
            )
        print(f"{DAEMONS} daemons: all see all {time.monotonic() - ready_s:.2f} s after the last was ready")

        processes = [psutil.Process(daemon.pid) for daemon in daemons]
        before = [sum(process.cpu_times()[:2]) for process in processes]
        time.sleep(IDLE_S)
        used = [sum(process.cpu_times()[:2]) - old for process, old in zip(processes, before, strict=True)]
        memory = [process.memory_info().rss / 2**20 for process in processes]
        print(f"idle: {100 * sum(used) / len(used) / IDLE_S:.2f} % of a core each, {max(memory):.0f} MiB at most")

        # The one that everybody bootstrapped from.
        first.kill()
        killed_s = time.monotonic()
        for daemon in others:
            left_s = DEAD_WITHIN_S - (time.monotonic() - killed_s)
            wait_for(
                lambda d=daemon: states(d)[first.peer_id] == "dead", timeout_s=max(left_s, 0.1), saying="the death"
            )
        print(f"killed: dead for all after {time.monotonic() - killed_s:.2f} s")
        assert all(seen_alive(daemon) == everybody - {daemon.peer_id, first.peer_id} for daemon in others)

        # It comes back as the same peer, and one that joins by another member knows everybody at once.
        again = swarm.join("0", bootstrap=others[0])
        assert again.peer_id == first.peer_id
        late = swarm.join("late", bootstrap=others[-1])
        wait_for(lambda: seen_alive(late) == everybody, timeout_s=SEEN_WITHIN_S, saying="a late joiner to know all")
        assert seen_alive(again) >= everybody - {again.peer_id}
