"""How long a job has no coordinator when the one that it has is stopped on purpose: three real daemons, a detached job.

Twice by the coordinator's own clock: from the moment at which it was told to stop (SIGTERM, as a service manager does
it), and from the moment at which it gave its lease back, up to the moment at which another one opened its term. All
three daemons run on this machine, so their clocks are one.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import trio
from harness import Measurement

_TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(_TESTS), str(_TESTS / "integration")]

import models  # noqa: E402
from committees import Five  # noqa: E402
from job_files import write_model, write_npz  # noqa: E402
from swarm import Daemon, Swarm  # noqa: E402

STOPPED = "handover_after_stop"
STOPPED_WORST = "handover_after_stop_worst"
RELEASED = "handover_after_release"

_ITEMS = 6000
_NAMES = ("ada", "bob", "cyd")


async def run(quick: bool) -> list[Measurement]:
    return await trio.to_thread.run_sync(_measure, 3 if quick else 8)


def _measure(rounds: int) -> list[Measurement]:
    stopped: list[float] = []
    released: list[float] = []
    with tempfile.TemporaryDirectory(prefix="peerinfer-bench-") as name:
        folder = Path(name)
        with Swarm(folder / "swarm") as swarm:
            daemons = Five(swarm, _NAMES)
            daemons.ensure_up()
            rows = np.linspace(-1, 1, _ITEMS, dtype=np.float32).reshape(_ITEMS, 1)
            model = write_model(folder / "slow.onnx", models.slow(20))
            job = daemons.detach("ada", model, write_npz(folder / "rows.npz", x=rows), 3)
            for _ in range(rounds):
                before = job.wait_final(job.seen()["final"] + 5)
                coordinator = daemons.name_of(before["coordinator"])
                daemon = daemons[coordinator]
                stopped_s = time.time()
                daemon.send(signal.SIGTERM)
                after = job.wait_term(before["term"], but=(coordinator,))
                daemon.wait()
                taken_s = after["handovers"][-1]["at"]
                stopped.append(taken_s - stopped_s)
                released.append(taken_s - _lost_at_s(daemon))
                daemons.ensure_up(coordinator)
            assert daemons.swarm.run("ada", "jobs", "cancel", job.id).code == 0
    return [
        Measurement(RELEASED, median(released), "s", budget=0.5),
        Measurement(STOPPED, median(stopped), "s", budget=0.5),
        Measurement(STOPPED_WORST, max(stopped), "s"),
    ]


def _lost_at_s(daemon: Daemon) -> float:
    """When it lost its last lease, by its own log."""
    return float([event["time"] for event in daemon.events() if event["event"] == "lease lost"][-1])
