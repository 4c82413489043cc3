"""Who gets which tasks next: frames for workers with room, and second copies of what is late.

Theory of operation. Two things lead to a frame. A worker has room again: it *pulls* the next frame of the job that
comes first by fairness, unless the job's strategy holds it back. Or work has come while workers have room: each frame
is *placed* with the best of them. Either way the strategy says who, and the worker's speed says how much. So an event
costs what it changes: its worker, its job, and one look at the columns of the candidates.

At the end of a job, when nothing waits any more, a regular look at its frames hastens those that are late (`job_tails`).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from enum import Enum

from peerinfer.alarms import Alarms
from peerinfer.assignment import CancelFrame, SendFrame
from peerinfer.estimates import Estimates
from peerinfer.fairness import FairQueue
from peerinfer.frame_orders import FrameOrders
from peerinfer.ids import JobId, PeerId
from peerinfer.job_tails import JobTails
from peerinfer.known_answers import KnownAnswers
from peerinfer.limits import FRAME_SECONDS_TARGET
from peerinfer.placement import Strategy, strategy_named
from peerinfer.placement_fill import frame_size
from peerinfer.placement_pull import Hold, OpenJob, Pull
from peerinfer.worker_room import WorkerRoom
from peerinfer.workforce import CoordinatedJob, SentFrame, Worker, Workforce

TAIL_CHECK_S = 0.25
"""So often the last frames of a job are looked at while somebody has nothing to do."""

COPIES_GATHER_S = FRAME_SECONDS_TARGET
"""So long copies for comparison wait for company while the job has other work to give out: a frame of two tasks costs as
much as one of a thousand, and each answer asks for a few copies."""

HELD_ASKED_MAX = 16
"""Workers that are asked in the place of one that is held back, the ones included that these are held back for."""

TAIL_CHECK_MAX_S = 10.0
"""As long as nothing happens meanwhile they are looked at ever more seldom, down to this."""


_TAIL = ("tail", "")


class _Given(Enum):
    FRAME = 1
    HELD = 2
    """Somebody else is expected to be done sooner."""
    NOTHING = 3
    """No job has anything for it."""


class Dispatch:
    """Over a coordinator's jobs and workers, which it reads and marks."""

    def __init__(self, force: Workforce, *, rng: random.Random, first_frame: int) -> None:
        self._force = force
        self._rng = rng
        self._pulls: dict[str, Pull] = {}
        self._fair = FairQueue()
        self._alarms: Alarms[tuple[str, str]] = Alarms()
        self._room = WorkerRoom(force.table, self._alarms)
        self._orders = FrameOrders(force, self._fair, self._room, first_frame=first_frame)
        self._known = KnownAnswers(force, self._orders)
        self._tails = JobTails(force, self._room, self._orders)
        self._ready: dict[JobId, int] = {}
        """Jobs with tasks that wait, and how many they were when it looked last."""
        self._doubled: dict[JobId, float] = {}
        """Jobs of which further copies are wanted, and since when."""
        self._settling: dict[JobId, float] = {}
        """Jobs of which nothing else is given out yet, and until when."""
        self._asks_all = False
        self._tail_wait_s = TAIL_CHECK_S
        self.estimates = Estimates()

    @property
    def deadline_s(self) -> float:
        return self._alarms.next_s

    # --- what has changed --------------------------------------------------------------------------------------------

    def accepted(self, job: CoordinatedJob, now_s: float) -> None:
        spec = job.spec
        ends_s = None if spec.deadline_s is None else now_s + spec.deadline_s
        self._fair.add(spec.job, spec.submitter, now_s, priority=spec.priority, deadline_s=ends_s)
        for peer in self._force.workers:
            self._teach(peer, job)
        if spec.settles_s:
            self._settling[spec.job] = now_s + spec.settles_s
        self.touch(spec.job)

    def prioritised(self, job: CoordinatedJob) -> None:
        self._fair.prioritise(job.spec.job, job.spec.priority)
        self.touch(job.spec.job)

    def ended(self, job: CoordinatedJob) -> None:
        """Its frames are over already."""
        self._fair.remove(job.spec.job)
        self._pull(job).job_ended(job.spec.job)
        self._alarms.clear(("delayed", job.spec.job))
        self._alarms.clear(("copies", job.spec.job))
        for among in (self._ready, self._doubled, self._orders.touched, self._settling):
            among.pop(job.spec.job, None)
        self._known.job_ended(job.spec.job)

    def joined(self, worker: Worker) -> None:
        offer = worker.offer
        self.estimates.describe(worker.peer, offer.device_class, offer.speed or None)
        for job in self._force.jobs.values():
            self._teach(worker.peer, job)
        self.workers_changed()

    def left(self, peer: PeerId) -> None:
        self._orders.stirred.pop(peer, None)
        self._room.left(peer)
        self._known.left(peer)
        self.workers_changed()

    def workers_changed(self) -> None:
        """Whoever is held back, or was passed over for a task, is judged anew."""
        self._asks_all = True
        for pull in self._pulls.values():
            pull.changed()

    def offered(self, worker: Worker, job: CoordinatedJob, tasks: tuple[int, ...]) -> None:
        """It answers a frame of just these tasks without a second run."""
        self._known.offered(worker, job, tasks)

    def touch(self, job: JobId) -> None:
        """Its tasks may wait for workers."""
        self._orders.touched[job] = None

    def stir(self, peer: PeerId) -> None:
        """It may have room."""
        self._orders.stirred[peer] = None

    def over(self, frame: SentFrame, took_s: float) -> None:
        """A frame is answered, refused or lost; `took_s` of the worker's time went into it."""
        self._orders.over(frame, took_s)

    def learn(self, job: CoordinatedJob, frame: SentFrame, tasks: int, compute_s: float, now_s: float) -> None:
        """`tasks` of a frame were computed within `compute_s`."""
        peer, spec, table = frame.peer, job.spec, self._force.table
        self.estimates.observe(peer, spec.model, tasks * spec.items_per_task, compute_s)
        self._teach(peer, job)
        row = table.row_of(peer)
        if frame.was_alone and peer in job.warm:
            carried_s = now_s - frame.sent_s - compute_s - table.rtt_s.item(row)
            rate = self._force.records.carried(peer, spec.bytes_per_task * len(frame.tasks), carried_s)
            if rate is not None:
                table.update(peer, bytes_per_s=rate)
        if table.load_seconds(job.demand, row) > 0:
            table.set_load(peer, spec.model, 0.0)

    def _teach(self, peer: PeerId, job: CoordinatedJob) -> None:
        estimate = self.estimates.estimate(peer, job.spec.model, job.demand.prior_s)
        self._force.table.set_speed(peer, job.spec.model, estimate)

    # --- giving ------------------------------------------------------------------------------------------------------

    def fill(self, now_s: float) -> list[SendFrame | CancelFrame]:
        """Gives workers with room what waits, and hastens what is late. What is ordered must happen in this order."""
        is_tail = False
        for kind, key in self._alarms.ring(now_s):
            if kind == "delayed":
                self.touch(JobId(key))
            elif kind == "again":
                self.stir(PeerId(key))
                self._asks_all = True  # what it was held back for may have waited for it alone
            elif kind == "tail":
                is_tail = True
        came = self._note_waiting(now_s) or self._asks_all
        self._asks_all = False
        stirred, self._orders.stirred = self._orders.stirred, {}
        workers = [self._force.workers[peer] for peer in stirred if peer in self._force.workers]
        for worker in workers:
            self._room.note(worker, now_s)
        for job in self._known.give(now_s):
            if job.spec.job in self._ready:
                self._set_ready(job.spec.job, job.ledger.waiting)
        if self._doubled:
            self._give_doubles(now_s)
        for worker in workers:
            if worker.room:
                while worker.room and self._ready and self._give(worker, list(self._ready), now_s) is _Given.FRAME:
                    pass
        if came:
            self._place(now_s)
        if is_tail:
            self._hasten(now_s)
        orders = self._orders.taken()
        if orders or stirred:
            self._tail_wait_s = TAIL_CHECK_S
        elif is_tail:
            self._tail_wait_s = min(2 * self._tail_wait_s, TAIL_CHECK_MAX_S)
        if not self._room.idle or not self._force.frames or len(self._ready) == len(self._force.jobs):
            self._alarms.clear(_TAIL)
        elif _TAIL not in self._alarms:
            self._alarms.set(_TAIL, now_s + self._tail_wait_s)
        return orders

    def _note_waiting(self, now_s: float) -> bool:
        """Which jobs have tasks that wait; True if there are more than before."""
        came = False
        for job_id in self._orders.touched:
            job = self._force.jobs.get(job_id)
            if job is None:
                continue
            job.ledger.wake(now_s)
            delayed_s = job.ledger.next_delayed_s
            settles_s = self._settling.get(job_id, 0.0)
            if now_s < settles_s:
                self._alarms.set(("delayed", job_id), settles_s)
                continue
            self._settling.pop(job_id, None)
            if delayed_s is None:
                self._alarms.clear(("delayed", job_id))
            else:
                self._alarms.set(("delayed", job_id), delayed_s)
            waiting = job.ledger.waiting
            came = came or waiting > self._ready.get(job_id, 0)
            self._set_ready(job_id, waiting)
            if job.doubles.waiting:
                self._doubled.setdefault(job_id, now_s)
            else:
                self._copies_given(job_id)
        self._orders.touched = {}
        return came

    def _set_ready(self, job: JobId, waiting: int) -> None:
        if waiting:
            self._ready[job] = waiting
        else:
            self._ready.pop(job, None)

    def _copies_given(self, job: JobId) -> None:
        self._doubled.pop(job, None)
        self._alarms.clear(("copies", job))

    def _give_doubles(self, now_s: float) -> None:
        """Tasks that others have answered, for comparison: first, since results wait for it. Like any frame to look at."""
        for job_id, since_s in list(self._doubled.items()):
            if job_id in self._ready and now_s < since_s + COPIES_GATHER_S:
                self._alarms.set(("copies", job_id), since_s + COPIES_GATHER_S)
                continue
            job = self._force.jobs[job_id]
            machine = job.verification
            for peer in list(self._room.roomy) if machine is not None else ():
                worker = self._force.workers[peer]
                while machine is not None and worker.room and job.doubles.waiting and peer in job.usable:
                    table, row = self._force.table, self._force.table.row_of(peer)
                    seconds = table.seconds_per_task(job.demand, row)
                    count = frame_size(
                        open_tasks=job.doubles.waiting,
                        share=1 / max(len(self._room.roomy), 1),
                        seconds_per_task=seconds,
                        bytes_per_task=job.spec.bytes_per_task,
                        rtt_s=table.rtt_s.item(row),
                        is_relayed=table.is_relayed(row),
                    )
                    tasks = job.doubles.take(peer, worker.offer.groups, machine.is_trusted(peer), count)
                    if not tasks:
                        break
                    self._orders.send(job, worker, tasks, now_s).is_double = True
            if not job.doubles.waiting:
                self._copies_given(job_id)

    def _place(self, now_s: float) -> None:
        """Work has come: it goes to the best of those with room, one frame after the other, as long as both last."""
        open_jobs = list(self._ready)
        passed: dict[JobId, dict[PeerId, None]] = {}
        while open_jobs and self._room.roomy:
            first = open_jobs[0] if len(open_jobs) == 1 else self._fair.next(open_jobs, now_s)
            if first is None:
                return
            job_id = JobId(first)
            job = self._force.jobs[job_id]
            unfit = passed.setdefault(job_id, dict.fromkeys(job.refused))
            worker = self._best(job, unfit, now_s)
            given = _Given.HELD if worker is None else self._give(worker, [job_id], now_s, unfit)
            if given is _Given.NOTHING and worker is not None:
                unfit[worker.peer] = None
            if given is _Given.HELD or job_id not in self._ready:
                open_jobs.remove(job_id)

    def _best(self, job: CoordinatedJob, unfit: dict[PeerId, None], now_s: float) -> Worker | None:
        if len(self._room.roomy) == 1:
            (peer,) = self._room.roomy
            return self._force.workers[peer] if peer in job.usable and peer not in unfit else None
        strategy = self._pull(job).strategy
        chosen = strategy.choose(job.demand, self._force.table, now_s, self._rng, excluded=unfit)
        return None if chosen is None else self._force.workers[chosen]

    def _give(
        self, worker: Worker, jobs: Sequence[JobId], now_s: float, unfit: dict[PeerId, None] | None = None
    ) -> _Given:
        """Sends the worker its next frame of one of these jobs, or somebody with room for whom it is held back."""
        given, instead = self._ask(worker, jobs, now_s, unfit)
        asked, waiting = {worker.peer}, deque(instead)
        while waiting and len(asked) <= HELD_ASKED_MAX:
            # Each of them may have been held back for another, when that one was the better: nobody would work at all.
            other = self._force.workers[waiting.popleft()]
            if other.room and other.peer not in asked:
                asked.add(other.peer)
                found, further = self._ask(other, jobs, now_s, unfit)
                if found is _Given.FRAME:
                    return found
                waiting += further
        return given

    def _ask(
        self, worker: Worker, jobs: Sequence[JobId], now_s: float, unfit: dict[PeerId, None] | None
    ) -> tuple[_Given, list[PeerId]]:
        """What it gets, if anything now, and who should have what it does not get."""
        given, instead = _Given.NOTHING, dict[PeerId, None]()
        # Placed work goes to the best of those with room: nobody else can be better while everybody has room.
        is_best = unfit is not None and len(self._room.roomy) == len(self._force.workers)
        for strategy, offers in self._offers(worker, jobs, now_s, unfit):
            found = self._pulls[strategy].next_frame(worker.peer, offers, now_s, is_best=is_best)
            if isinstance(found, Hold):
                until_s = min(found.until_s, self._alarms.at(("again", worker.peer)))
                self._alarms.set(("again", worker.peer), until_s)
                given = _Given.HELD
                instead |= dict.fromkeys(found.instead)
            elif found is not None:
                job = self._force.jobs[found.job]
                tasks = job.ledger.take(found.tasks, worker.peer, job.usable)
                self._set_ready(found.job, job.ledger.waiting)
                self._orders.send(job, worker, tasks, now_s)
                return _Given.FRAME, []
        return given, list(instead)

    def _offers(
        self, worker: Worker, jobs: Sequence[JobId], now_s: float, unfit: dict[PeerId, None] | None
    ) -> list[tuple[str, list[OpenJob]]]:
        """The jobs that this worker could do, the most deserving first; those of one strategy together."""
        force, peer = self._force, worker.peer
        fitting = []
        for job_id in jobs:
            job = force.jobs[job_id]
            if peer in job.usable and job.ledger.offers(peer, job.usable):
                fitting.append(job_id)
        if len(fitting) > 1:
            fitting = [JobId(job) for job in self._fair.ordered(fitting, now_s)]
        grouped: dict[str, list[OpenJob]] = {}
        for job_id in fitting:
            job = force.jobs[job_id]
            if not self.estimates.known(peer, job.spec.model):
                self._teach(peer, job)  # what is believed of it follows what others were measured at
            lag_s = self._fair.lag_s(job_id) if len(fitting) > 1 else 0.0
            self._pull(job)
            offer = OpenJob(job_id, job.demand, job.ledger.waiting, job.refused if unfit is None else unfit, lag_s)
            grouped.setdefault(job.spec.strategy, []).append(offer)
        return list(grouped.items())

    def _pull(self, job: CoordinatedJob) -> Pull:
        name = job.spec.strategy
        if name not in self._pulls:
            strategy: Strategy = strategy_named(name)
            self._pulls[name] = Pull(strategy, self._force.table)
        return self._pulls[name]

    def _hasten(self, now_s: float) -> None:
        for job in list(self._force.jobs.values()):
            if not self._room.idle:
                return
            if job.frames and job.spec.job not in self._ready:
                self._tails.hasten(job, self._pull(job), now_s)

    def check(self) -> None:
        self._alarms.check()
        self._fair.check()
        ready = {
            job.spec.job: job.ledger.waiting
            for job in self._force.jobs.values()
            if job.ledger.waiting and job.spec.job not in self._settling
        }
        assert self._ready == ready, f"tasks wait in {ready}, {self._ready} is known"
        if not self._force.frames:
            for job in [self._force.jobs[job_id] for job_id in self._ready]:
                idle = [peer for peer in self._room.roomy if peer in job.usable and job.ledger.offers(peer, job.usable)]
                assert not idle, f"{idle} wait for each other, and tasks of {job.spec.job} for them"
        self._known.check()
        for worker in self._force.workers.values():
            self._room.check(worker)
