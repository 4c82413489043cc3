"""Who gets which tasks next: frames for workers with room, and second copies of what is late.

Jobs are served by the share of the workers' time that they have had, weighted by priority (stride scheduling; Waldspurger
and Weihl 1995), so that an urgent job goes first and a low one still goes on. A frame that is late is given to an idle
worker as well; the first result counts (Dean and Barroso, The Tail at Scale).
"""

from __future__ import annotations

import random
from collections.abc import Container, Mapping

from peerinfer.assignment import SendFrame
from peerinfer.breaker import Breaker
from peerinfer.estimates import Estimates
from peerinfer.ids import JobId, PeerId
from peerinfer.ledger import TaskState
from peerinfer.limits import ATTEMPT_TIMEOUT_MAX_S, ATTEMPT_TIMEOUT_MIN_S, PEERS_REMEMBERED_MAX
from peerinfer.splitting import frame_tasks
from peerinfer.workforce import CoordinatedJob, SentFrame, Worker, why_not

COLD_BYTES_PER_S = 200_000.0
"""The slowest model transfer that is waited for, added to the time of a worker's first frame of a job."""

COLD_START_S = 90.0
HEDGE_FACTOR = 3.0
HEDGE_MIN_S = 1.0
"""A frame that takes this many times what is expected, and this much longer, is late: an idle worker gets its tasks too."""

TIMEOUT_FACTOR = 10.0
"""A frame may take this many times what is expected of its worker."""


class Dispatch:
    """Over a coordinator's jobs and workers, which it reads and marks; they are the coordinator's."""

    def __init__(
        self,
        jobs: Mapping[JobId, CoordinatedJob],
        workers: Mapping[PeerId, Worker],
        caught: Container[PeerId],
        *,
        rng: random.Random,
        first_frame: int,
    ) -> None:
        self._jobs = jobs
        self._workers = workers
        self._caught = caught
        self._rng = rng
        self._next_frame = first_frame
        self._orders: list[SendFrame] = []
        self._breakers: dict[PeerId, Breaker] = {}
        self.estimates = Estimates()

    def breaker(self, peer: PeerId) -> Breaker:
        """The peer's breaker, which outlives its streams."""
        if peer not in self._breakers:
            while len(self._breakers) >= PEERS_REMEMBERED_MAX:
                del self._breakers[next(iter(self._breakers))]
            self._breakers[peer] = Breaker(self._rng)
        return self._breakers[peer]

    def breakers(self, now_s: float) -> dict[str, int]:
        """How many peers' breakers are in which state."""
        counts = {"closed": 0, "open": 0, "half-open": 0}
        for breaker in self._breakers.values():
            counts[breaker.state(now_s)] += 1
        return counts

    def fill(self, now_s: float) -> list[SendFrame]:
        """Gives every worker with room the next frame, until nobody has room or nothing waits."""
        self._orders = []
        for job in self._jobs.values():
            job.ledger.wake(now_s)
        late = self._late(now_s)
        if late or any(job.ledger.waiting for job in self._jobs.values()):
            for worker in self._workers.values():
                while self._has_room(worker, now_s) and (
                    self._give_one(worker, now_s) or self._back_up(worker, late, now_s)
                ):
                    pass
        return self._orders

    def _late(self, now_s: float) -> list[SentFrame]:
        """Frames whose tasks somebody else may be given, the one that is late the longest first."""
        found = [
            frame
            for worker in self._workers.values()
            for frame in worker.frames.values()
            if now_s >= frame.late_s and not frame.is_shared
        ]
        return sorted(found, key=lambda frame: frame.late_s)

    def _has_room(self, worker: Worker, now_s: float) -> bool:
        in_flight = len(worker.frames)
        return in_flight < worker.window and now_s >= worker.rests_until_s and worker.breaker.allows(now_s, in_flight)

    def _back_up(self, worker: Worker, late: list[SentFrame], now_s: float) -> bool:
        """Gives an idle worker the tasks of a frame that is late elsewhere; the first result counts."""
        if worker.frames:
            return False
        for frame in late:
            job = self._jobs[frame.job]
            if frame.is_shared or frame.peer == worker.peer or why_not(job, worker, self._caught) is not None:
                continue
            tasks = [task for task in frame.tasks if job.ledger.state(task) == TaskState.ASSIGNED]
            frame.is_shared = True
            if tasks:
                job.copies |= {task: job.copies.get(task, 1) + 1 for task in tasks}
                job.hedged += len(tasks)
                self._send(job, worker, tasks, now_s).is_shared = True
                return True
        return False

    def _give_one(self, worker: Worker, now_s: float) -> bool:
        waiting = [
            job for job in self._jobs.values() if job.ledger.waiting and why_not(job, worker, self._caught) is None
        ]
        for job in sorted(waiting, key=lambda job: job.served_s):
            eligible = [other.peer for other in self._workers.values() if why_not(job, other, self._caught) is None]
            spec = job.spec
            seconds_per_item = self.estimates.seconds_per_item(worker.peer, spec.model, spec.seconds_per_item)
            seconds_per_task = seconds_per_item * spec.items_per_task
            count = frame_tasks(
                open_tasks=job.ledger.waiting,
                workers=len(eligible),
                seconds_per_task=seconds_per_task,
                bytes_per_task=spec.bytes_per_task,
                rate_known=self.estimates.known(worker.peer, spec.model),
            )
            tasks = job.ledger.take(count, worker.peer, eligible)
            if not tasks:
                continue
            self._send(job, worker, tasks, now_s)
            return True
        return False

    def _send(self, job: CoordinatedJob, worker: Worker, tasks: list[int], now_s: float) -> SentFrame:
        spec = job.spec
        seconds_per_item = self.estimates.seconds_per_item(worker.peer, spec.model, spec.seconds_per_item)
        expected_s = seconds_per_item * spec.items_per_task * len(tasks)
        allowed_s = self._allowed_s(job, worker, expected_s, len(tasks))
        cold_s = 0.0 if worker.peer in job.warm else COLD_START_S
        late_s = now_s + cold_s + HEDGE_MIN_S + HEDGE_FACTOR * expected_s * (len(worker.frames) + 1)
        frame = SentFrame(self._next_frame, spec.job, worker.peer, tuple(tasks), now_s, now_s + allowed_s, late_s)
        self._next_frame += 1
        worker.frames[frame.number] = frame
        job.served_s += expected_s / spec.priority
        attempts = tuple(job.ledger.attempt_number(task) for task in tasks)
        self._orders.append(SendFrame(worker.peer, frame.number, spec.job, frame.tasks, attempts))
        return frame

    def _allowed_s(self, job: CoordinatedJob, worker: Worker, expected_s: float, tasks: int) -> float:
        spec = job.spec
        if spec.task_timeout_s is not None:
            allowed = spec.task_timeout_s * tasks
        else:
            allowed = min(max(ATTEMPT_TIMEOUT_MIN_S, TIMEOUT_FACTOR * expected_s), ATTEMPT_TIMEOUT_MAX_S)
        queued = sum(1 for frame in worker.frames.values())
        allowed *= queued + 1
        if worker.peer not in job.warm:
            allowed += COLD_START_S + spec.model_bytes / COLD_BYTES_PER_S
        return allowed
