"""A hundred random kills over real daemons: no task may be lost, and none accepted twice. `make kills`; CI runs a few.

    python tests/integration/hundred_kills.py [--kills 100] [--seed N] [--minutes 30]

Detached jobs follow each other on five daemons. At random moments one is killed as `kill -9` does it, every second time
the one that coordinates, and started again a little later; up to two are down at once, so that a job may lose its
quorum for a while. After each job its journals are read from the electors' disks, and its results are fetched and
compared. The seed is printed first, and last how long it took until somebody else coordinated. Exit code 1 if anything is
not as it should be, or there was no time for all kills.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import models  # noqa: E402
import numpy as np  # noqa: E402
from committees import ENDED, Five, Job  # noqa: E402
from job_files import SLOW_ATOL, assert_same, write_model, write_npz  # noqa: E402
from swarm import Daemon, Swarm  # noqa: E402

ITEMS, BATCH = 600, 3
TASKS = ITEMS // BATCH
DOWN_MAX = 2
BETWEEN_KILLS_S = (0.3, 4.0)
DOWN_S = (0.0, 4.0)
HEALS_WITHIN_S = 180.0
"""A job that has not ended so long after the last kill is lost."""


class Killer:
    """Kills daemons and starts them again, at times and in an order that the seed decides."""

    def __init__(self, five: Five, rng: random.Random) -> None:
        self.five = five
        self._rng = rng
        self._again: dict[str, float] = {}
        self._starting: dict[str, Daemon] = {}
        self._next_s = 0.0
        self.kills = 0
        self.coordinators = 0
        self.last_s = time.monotonic()
        self._led: tuple[int, float, bool] | None = None
        """The term of a coordinator that was killed, when that was, and whether a quorum of its job was left."""
        self.takeovers_s: list[float] = []
        self.delayed_s: list[float] = []
        """Where the job had lost its quorum as well: until enough electors were back, and somebody coordinated."""

    def note(self, view: dict[str, Any]) -> None:
        """How the job stands."""
        if self._led is not None and view["term"] > self._led[0]:
            _, since_s, had_quorum = self._led
            (self.takeovers_s if had_quorum else self.delayed_s).append(time.monotonic() - since_s)
            self._led = None

    def step(self, job: Job, *, may_kill: bool) -> None:
        now_s = time.monotonic()
        for name, at_s in list(self._again.items()):
            if now_s >= at_s:
                del self._again[name]
                self._starting[name] = self.five.start(name)
        for name, daemon in list(self._starting.items()):
            if daemon.stdout.endswith("\n"):
                daemon.wait_ready()
                self.five.daemons[name] = daemon
                del self._starting[name]
            assert daemon.code is None, daemon.told()
        if may_kill and now_s >= self._next_s and len(self._again) + len(self._starting) < DOWN_MAX:
            self._kill(job, now_s)

    def _kill(self, job: Job, now_s: float) -> None:
        up = [name for name in self.five.names if self.five.is_up(name)]
        victim = self._rng.choice(up)
        view = job.seen()
        coordinator = self.five.name_of(view["coordinator"]) if view["coordinator"] else ""
        if self._rng.random() < 0.5 and coordinator in up:
            victim = coordinator
        self.five.kill(victim)
        self.kills += 1
        left = [name for name in job.committee if name in up and name != victim]
        if victim == coordinator:
            self.coordinators += 1
            self._led = view["term"], now_s, 2 * len(left) > len(job.committee)
        elif self._led is not None and victim in job.committee:
            self._led = self._led[0], self._led[1], 2 * len(left) > len(job.committee)
        self.last_s = now_s
        self._again[victim] = now_s + self._rng.uniform(*DOWN_S)
        self._next_s = now_s + self._rng.uniform(*BETWEEN_KILLS_S)

    @property
    def is_healed(self) -> bool:
        return not self._again and not self._starting


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--minutes", type=float, default=30.0)
    asked = parser.parse_args()
    print(f"seed {asked.seed}", flush=True)
    rng = random.Random(asked.seed)
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Swarm(Path(folder) / "swarm") as swarm:
        five = Five(swarm)
        five.ensure_up()
        killer = Killer(five, rng)
        rows = np.linspace(-1, 1, ITEMS, dtype=np.float32).reshape(ITEMS, 1)
        model = write_model(Path(folder) / "slow.onnx", models.slow(20))
        inputs = write_npz(Path(folder) / "rows.npz", x=rows)
        jobs = 0
        while killer.kills < asked.kills and time.monotonic() - began_s < asked.minutes * 60:
            submitter = rng.choice([name for name in five.names if five.is_up(name)])
            job = five.detach(submitter, model, inputs, BATCH)
            view = run_through(job, killer, until_kills=asked.kills, until_s=began_s + asked.minutes * 60)
            assert view["state"] == "done", f"job {job.id} is {view['state']}: {view['reason']}"
            heal(job, killer)
            job.wait_ended()
            entries = job.check_journals(tasks=TASKS)
            out = Path(folder) / "out.npz"
            job.fetch(submitter, out)
            assert_same(out, {"y": rows}, atol=SLOW_ATOL)
            jobs += 1
            print(
                f"{time.monotonic() - began_s:6.0f} s  job {jobs}: {len(entries)} tasks accepted, each once, in "
                f"{len(view['handovers'])} terms; {killer.kills} kills so far, {killer.coordinators} of coordinators",
                flush=True,
            )
    done = killer.kills >= asked.kills
    print(
        f"{killer.kills} kills{'' if done else ' (no time for more)'} over {jobs} jobs, {killer.coordinators} of "
        f"coordinators: 0 tasks lost, 0 accepted twice"
    )
    for which, seconds in (("a quorum left", killer.takeovers_s), ("no quorum left for a while", killer.delayed_s)):
        if seconds:
            print(
                f"coordinator killed, {which}: taken over {len(seconds)} times, after {median(seconds):.1f} s "
                f"(median), {max(seconds):.1f} s at most"
            )
    print(f"again: python tests/integration/hundred_kills.py --kills {asked.kills} --seed {asked.seed}")
    return 0 if done else 1


def run_through(job: Job, killer: Killer, *, until_kills: int, until_s: float) -> dict[str, Any]:
    """The job after its end, however often somebody was killed meanwhile."""
    killer.last_s = time.monotonic()
    while True:
        killer.step(job, may_kill=killer.kills < until_kills and time.monotonic() < until_s)
        view = job.seen()
        killer.note(view)
        if view["state"] in ENDED:
            return view
        assert time.monotonic() - killer.last_s < HEALS_WITHIN_S, f"job {job.id} is lost: {view}"
        time.sleep(0.05)


def heal(job: Job, killer: Killer) -> None:
    while not killer.is_healed:
        killer.step(job, may_kill=False)
        time.sleep(0.05)
    killer.five.wait_connected()


if __name__ == "__main__":
    sys.exit(main())
