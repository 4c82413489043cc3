"""Frames begin and end here, in all that is kept of them at once: jobs, workers, room, shares and the table.

What is ordered must happen in the order in which it was ordered: whoever takes a frame back to give its tasks to somebody
else says so first.
"""

from __future__ import annotations

from peerinfer.assignment import CancelFrame, SendFrame
from peerinfer.fairness import FairQueue
from peerinfer.ids import JobId, PeerId
from peerinfer.limits import ATTEMPT_TIMEOUT_MAX_S, ATTEMPT_TIMEOUT_MIN_S
from peerinfer.worker_room import WorkerRoom
from peerinfer.workforce import CoordinatedJob, SentFrame, Worker, Workforce

COLD_BYTES_PER_S = 200_000.0
"""The slowest model transfer that is waited for, added to the time of a worker's first frame of a job."""

COLD_START_S = 90.0
TIMEOUT_FACTOR = 10.0
"""A frame may take this many times what is expected of its worker."""


class FrameOrders:
    def __init__(self, force: Workforce, fair: FairQueue, room: WorkerRoom, *, first_frame: int) -> None:
        self._force = force
        self._fair = fair
        self._room = room
        self._next_frame = first_frame
        self._waiting: list[SendFrame | CancelFrame] = []
        self.touched: dict[JobId, None] = {}
        """Jobs of which tasks may wait for workers."""
        self.stirred: dict[PeerId, None] = {}
        """Workers that may have more room than before."""

    def taken(self) -> list[SendFrame | CancelFrame]:
        """What was ordered since this was asked last."""
        orders, self._waiting = self._waiting, []
        return orders

    def send(self, job: CoordinatedJob, worker: Worker, tasks: list[int], now_s: float) -> SentFrame:
        spec, peer, table = job.spec, worker.peer, self._force.table
        row = table.row_of(peer)
        expected_s = table.seconds_per_task(job.demand, row) * len(tasks)
        way_s = table.rtt_s.item(row) + spec.bytes_per_task * len(tasks) / table.bytes_per_s.item(row)
        load_s = 0.0 if worker.frames else table.load_seconds(job.demand, row)
        frame = SentFrame(
            self._next_frame,
            spec.job,
            peer,
            tuple(tasks),
            now_s,
            now_s + self._allowed_s(job, worker, expected_s, len(tasks)),
            now_s + table.wait_s.item(row) + load_s + way_s + expected_s,
            expected_s,
            not worker.frames,
        )
        self._next_frame += 1
        self._force.begin(frame)
        worker.room -= 1
        table.add_load(peer, 1, expected_s, room=worker.room)
        self._room.file(worker)
        self._fair.charge(spec.job, expected_s, now_s)
        attempts = tuple(job.ledger.attempt_number(task) for task in tasks)
        self._waiting.append(SendFrame(peer, frame.number, spec.job, frame.tasks, attempts))
        return frame

    def over(self, frame: SentFrame, took_s: float) -> None:
        """A frame is answered, refused, lost or taken back; `took_s` of the worker's time went into it."""
        self._force.end(frame)
        self._force.table.add_load(frame.peer, -1, -frame.expected_s)
        job = self._force.jobs.get(frame.job)
        if job is not None:
            self._fair.settle(job.spec.submitter, frame.expected_s, took_s)
            self.touched[frame.job] = None
        if frame.peer in self._force.workers:
            self.stirred[frame.peer] = None

    def take_back(self, frame: SentFrame, why: str, now_s: float) -> list[int]:
        """Its worker has not begun with it. Returns those of its tasks that nobody has now."""
        self._waiting.append(CancelFrame(frame.peer, frame.number, why))
        alone = self._force.jobs[frame.job].let_go(frame)
        self.over(frame, 0.0)
        self._room.note(self._force.workers[frame.peer], now_s)
        return alone

    def _allowed_s(self, job: CoordinatedJob, worker: Worker, expected_s: float, tasks: int) -> float:
        spec = job.spec
        if spec.task_timeout_s is not None:
            allowed = spec.task_timeout_s * tasks
        else:
            allowed = min(max(ATTEMPT_TIMEOUT_MIN_S, TIMEOUT_FACTOR * expected_s), ATTEMPT_TIMEOUT_MAX_S)
        allowed *= len(worker.frames) + 1
        if worker.peer not in job.warm:
            allowed += COLD_START_S + spec.model_bytes / COLD_BYTES_PER_S
        return allowed
