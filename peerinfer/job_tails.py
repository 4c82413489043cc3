"""The end of a job: what is late goes to workers that have nothing to do.

When nothing of a job waits any more, a regular look at its frames gives those that are expected last to others: frames
that have not begun are taken back for it, others are computed twice, and the first result counts (Dean and Barroso, The
Tail at Scale).
"""

from __future__ import annotations

from peerinfer.frame_orders import FrameOrders
from peerinfer.ledger import TaskState
from peerinfer.placement_pull import Backup, InFlight, Pull
from peerinfer.worker_room import WorkerRoom
from peerinfer.workforce import CoordinatedJob, SentFrame, Workforce


class JobTails:
    def __init__(self, force: Workforce, room: WorkerRoom, orders: FrameOrders) -> None:
        self._force = force
        self._room = room
        self._orders = orders

    def hasten(self, job: CoordinatedJob, pull: Pull, now_s: float) -> None:
        """Nothing of the job waits."""
        idle = [peer for peer in self._room.idle if peer in job.usable]
        late = [self._in_flight(job, frame) for frame in job.frames.values() if not frame.is_double]
        for backup in pull.backups(idle, late, now_s, job_tasks=job.ledger.tasks):
            self._back_up(job, backup, now_s)

    def _in_flight(self, job: CoordinatedJob, frame: SentFrame) -> InFlight:
        worker = self._force.workers[frame.peer]
        ahead = 0
        for number in worker.frames:
            if number == frame.number or ahead >= worker.slots:
                break
            ahead += 1
        return InFlight(
            frame.number,
            frame.peer,
            job.spec.job,
            job.demand,
            len(frame.tasks),
            frame.due_s,
            frame.expected_s,
            is_started=ahead < worker.slots,
            copies=2 if frame.is_shared else 1,
            holders=job.ledger.failed_by(frame.tasks),
        )

    def _back_up(self, job: CoordinatedJob, backup: Backup, now_s: float) -> None:
        worker, frame = self._force.workers[backup.peer], self._force.frames[backup.frame]
        tasks = [task for task in frame.tasks if job.ledger.state(task) == TaskState.ASSIGNED][-backup.tasks :]
        if not tasks:
            return
        if backup.revoke:
            alone = self._orders.take_back(frame, "somebody else has nothing to do", now_s)
            self._orders.send(job, worker, alone, now_s)
            return
        job.add_copies(tasks)
        job.hedged += len(tasks)
        self._force.share(frame)
        self._force.share(self._orders.send(job, worker, tasks, now_s))
