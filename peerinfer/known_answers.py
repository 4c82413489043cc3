"""Frames that workers have answered before, for an earlier coordinator, and answer again without a second run.

They are given out before everything else, since they cost next to nothing.
"""

from __future__ import annotations

from peerinfer.frame_orders import FrameOrders
from peerinfer.ids import JobId, PeerId
from peerinfer.ledger import TaskState
from peerinfer.limits import FRAME_TASKS_MAX
from peerinfer.workforce import CoordinatedJob, Worker, Workforce

OFFERS_MAX = 512
"""Frames that one worker may say at once that it has computed before."""


class KnownAnswers:
    def __init__(self, force: Workforce, orders: FrameOrders) -> None:
        self._force = force
        self._orders = orders
        self._offered: dict[PeerId, dict[tuple[JobId, tuple[int, ...]], None]] = {}

    def offered(self, worker: Worker, job: CoordinatedJob, tasks: tuple[int, ...]) -> None:
        """It answers a frame of just these tasks without a second run."""
        if not 0 < len(set(tasks)) == len(tasks) <= FRAME_TASKS_MAX:
            return
        offers = self._offered.setdefault(worker.peer, {})
        if len(offers) < OFFERS_MAX:
            offers[job.spec.job, tasks] = None
            self._orders.stirred[worker.peer] = None

    def of(self, peer: PeerId) -> int:
        """How many frames are known to be answered by this peer."""
        return len(self._offered.get(peer, ()))

    def job_ended(self, job: JobId) -> None:
        for offers in self._offered.values():
            for offer in [offer for offer in offers if offer[0] == job]:
                del offers[offer]

    def left(self, peer: PeerId) -> None:
        self._offered.pop(peer, None)

    def give(self, now_s: float) -> list[CoordinatedJob]:
        """What somebody else is at already is given twice, and cancelled there. Returns jobs of which less waits now."""
        changed: dict[JobId, CoordinatedJob] = {}
        for peer, offers in list(self._offered.items()):
            worker = self._force.workers[peer]
            while offers and worker.room:
                job_id, tasks = next(iter(offers))
                del offers[job_id, tasks]
                if self._give(worker, self._force.jobs[job_id], tasks, now_s):
                    changed[job_id] = self._force.jobs[job_id]
            if not offers:
                del self._offered[peer]
        return list(changed.values())

    def _give(self, worker: Worker, job: CoordinatedJob, tasks: tuple[int, ...], now_s: float) -> bool:
        """The frame that the worker has answered before, and no other: if all of it is still to be done."""
        ledger, peer = job.ledger, worker.peer
        wanted = (TaskState.OPEN, TaskState.ASSIGNED)
        if (
            peer not in job.usable
            or max(tasks) >= ledger.tasks
            or any(ledger.state(task) not in wanted for task in tasks)
        ):
            return False
        others = [frame for frame in job.frames.values() if not set(tasks).isdisjoint(frame.tasks)]
        if any(frame.peer == peer or frame.is_double or frame.is_shared for frame in others):
            return False
        given = ledger.assigned(tasks)
        ledger.claim(tasks)
        job.add_copies(given)
        frame = self._orders.send(job, worker, list(tasks), now_s)
        for other in others:
            self._force.share(other)
        if others:
            self._force.share(frame)
        return True

    def check(self) -> None:
        assert self._offered.keys() <= self._force.workers.keys(), "somebody offers results who is not here"
