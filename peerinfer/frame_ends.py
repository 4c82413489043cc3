"""How frames end: answered, refused, overdue, or gone with their worker; and what becomes of their tasks then.

A failure is tried again elsewhere after a wait that doubles; what vanished goes back to the front of the queue. A
model that fails is the job's fault, anything else the worker's.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from peerinfer.alarms import Alarms
from peerinfer.assignment import (
    WITHDRAWN,
    CancelFrame,
    CompareCopies,
    DropResults,
    Effect,
    FrameAnswered,
    FrameRefused,
    JobChanged,
    KeepResults,
    TaskFailedForGood,
)
from peerinfer.dispatch import Dispatch
from peerinfer.ids import JobId, PeerId
from peerinfer.judgement import REFUSAL_WEIGHT, Judgement
from peerinfer.ledger import TaskState
from peerinfer.machine import NEVER
from peerinfer.workforce import CoordinatedJob, SentFrame, Worker, Workforce

LOSSES_MAX = 10
"""A task that was with more workers than this when they vanished fails: it may be what kills them."""

RETRY_WAIT_S = 0.2
RETRY_WAIT_MAX_S = 10.0
REFUSAL_REST_S = 1.0
REFUSALS_MAX = 10
"""Refusals in a row for passing reasons, after which a worker gets no more of this job."""

RETRIES_SHARE = 0.25
RETRIES_FREE = 100
"""A job may have so many failed attempts, by its size and in any case; beyond that something is wrong with the job."""

STRIKES_MAX = 3
"""Frames in a row that timed out, after which a worker gets no more of this job; or the first ones, if each broke it."""

_BREAKS = {"memory": "too little memory", "crash": "its process died", "timeout": "a task took too long there"}
"""Kinds of failure that a job can do to a worker, whatever it is else good for."""


class FrameEnds:
    """Over a coordinator's jobs and workers, which are the coordinator's; effects go to `say`, in order."""

    def __init__(
        self,
        force: Workforce,
        *,
        dispatch: Dispatch,
        judgement: Judgement,
        alarms: Alarms[tuple[str, JobId | int]],
        rng: random.Random,
        say: Callable[[Effect], None],
        touch: Callable[[JobId], None],
    ) -> None:
        self._force = force
        self._jobs, self._workers = force.jobs, force.workers
        self._dispatch = dispatch
        self._judgement = judgement
        self._alarms = alarms
        self._rng = rng
        self._say = say
        self._touch = touch

    def over(self, frame: SentFrame, took_s: float = 0.0) -> None:
        self._alarms.clear(("expires", frame.number))
        self._dispatch.over(frame, took_s)

    def answered(self, event: FrameAnswered, now_s: float) -> None:
        frame = self._frame(event.peer, event.frame)
        if frame is None:
            self._say(DropResults(event.peer, event.frame))
            return
        peer, job, worker = event.peer, self._jobs[frame.job], self._workers[event.peer]
        spec = job.spec
        broken = self._broken(job, event)
        if not broken:
            job.strikes.pop(peer, None)
        job.refusals.pop(peer, None)
        compute_s = min(event.compute_s, now_s - frame.sent_s)  # it cannot have taken longer than it was away
        if event.done and compute_s > 0:
            self._dispatch.learn(job, frame, len(event.done), compute_s, now_s)
        job.warm.add(peer)
        self.over(frame, compute_s)
        late_s = now_s - frame.due_s - frame.expected_s
        self._judgement.answered(worker, late_s=late_s, energy_j=event.energy_j)
        if frame.is_double:
            self._copies_answered(job, frame, event)
            self._note_health(worker, event, broken, now_s)
            self._touch(spec.job)
            return
        kept = job.ledger.answered(frame.tasks[position] for position in event.done)
        if kept:
            self._say(KeepResults(peer, frame.number, spec.job, tuple(kept)))
            self._judgement.took(job, peer, kept, local=worker.offer.local)
        else:
            self._say(DropResults(peer, frame.number))
        alone = set(job.let_go(frame))
        for position, kind, reason in event.failures:
            if frame.tasks[position] in alone:
                self._task_failed(job, frame.tasks[position], peer, kind, reason, now_s)
        if len(frame.tasks) > 1:
            broken = ""  # They may only have been too much together: each travels alone next.
        self._note_health(worker, event, broken, now_s)
        if broken:
            self._strike(job, peer, f"gave no result for {STRIKES_MAX} tasks: {broken}", now_s)
        if frame.is_shared:
            self._cancel_answered(job)
        self._touch(spec.job)
        self._say(JobChanged(spec.job))

    def _frame(self, peer: PeerId, number: int) -> SentFrame | None:
        """The frame of this number, if it is this worker's and still waited for."""
        frame = self._force.frames.get(number)
        return frame if frame is not None and frame.peer == peer else None

    def _copies_answered(self, job: CoordinatedJob, frame: SentFrame, event: FrameAnswered) -> None:
        done = tuple(frame.tasks[position] for position in event.done)
        job.doubles.back(frame.tasks[position] for position, _, _ in event.failures)
        if done:
            self._say(CompareCopies(frame.peer, frame.number, job.spec.job, done))
        else:
            self._say(DropResults(frame.peer, frame.number))

    def _broken(self, job: CoordinatedJob, event: FrameAnswered) -> str:
        """What a frame did to a worker that has given nothing of this job yet, in words: it may be too much for it."""
        kinds = {kind for _, kind, _ in event.failures}
        if event.done or event.peer in job.kept or not kinds or not kinds <= _BREAKS.keys():
            return ""
        return ", ".join(words for kind, words in _BREAKS.items() if kind in kinds)

    def _strike(self, job: CoordinatedJob, peer: PeerId, reason: str, now_s: float) -> None:
        job.strikes[peer] = job.strikes.get(peer, 0) + 1
        if job.strikes[peer] >= STRIKES_MAX:
            self.refuse(job, peer, reason, now_s)

    def _note_health(self, worker: Worker, event: FrameAnswered, broken: str, now_s: float) -> None:
        """A model that fails is the job's fault, and so is one that needs more memory than a worker ever had for it;
        anything else without a single result is the peer's."""
        if event.done:
            worker.breaker.succeeded()
        elif broken != _BREAKS["memory"] and any(kind not in ("model", "cancelled") for _, kind, _ in event.failures):
            worker.breaker.failed(now_s)

    def _cancel_answered(self, job: CoordinatedJob) -> None:
        """Stops the losers of a race: frames of which every task has its result."""
        for frame in list(job.shared.values()):
            if all(job.ledger.state(task) != TaskState.ASSIGNED for task in frame.tasks):
                self.over(frame)
                job.let_go(frame)
                self._say(CancelFrame(frame.peer, frame.number, "somebody else was faster"))

    def _task_failed(self, job: CoordinatedJob, task: int, peer: PeerId, kind: str, reason: str, now_s: float) -> None:
        if job.ledger.state(task) != TaskState.ASSIGNED:
            return
        if kind == "cancelled":
            job.ledger.give_back([task])
            return
        wait_s = min(RETRY_WAIT_S * 2 ** job.ledger.attempt_number(task), RETRY_WAIT_MAX_S)
        retry_at_s = now_s + wait_s * (0.5 + 0.5 * self._rng.random())
        job.failures += 1
        is_spent = job.failures > RETRIES_FREE + RETRIES_SHARE * job.ledger.tasks
        again = job.ledger.failed_at(
            task,
            peer,
            f"{kind}: {reason}",
            crashed=kind in ("crash", "memory", "timeout"),
            retry_at_s=retry_at_s,
            is_last=is_spent,
        )
        if again:
            job.retried += 1
        else:
            self._say(TaskFailedForGood(job.spec.job, task, f"{kind}: {reason}"))

    def refused(self, event: FrameRefused, now_s: float) -> None:
        peer, frame = event.peer, self._frame(event.peer, event.frame)
        if frame is None:
            return
        job = self._jobs[frame.job]
        self.over(frame)
        job.ledger.give_back(job.let_go(frame))
        job.refusals[peer] = job.refusals.get(peer, 0) + 1
        self._judgement.answered(self._workers[peer], late_s=NEVER, weight=REFUSAL_WEIGHT)
        if event.final or job.refusals[peer] >= REFUSALS_MAX:
            self.refuse(job, peer, event.reason, now_s)
        else:
            self._workers[peer].rests_until_s = now_s + REFUSAL_REST_S
        self._touch(job.spec.job)
        self._say(JobChanged(job.spec.job))

    def vanished(self, worker: Worker, reason: str) -> None:
        """The worker is gone, and what it held with it."""
        for frame in list(worker.frames.values()):
            job = self._jobs[frame.job]
            self.over(frame)
            for task in reversed(job.let_go(frame)):
                job.ledger.lost(task, worker.peer, reason, losses_max=LOSSES_MAX)
                if job.ledger.state(task) == TaskState.FAILED:
                    self._say(TaskFailedForGood(job.spec.job, task, reason))
                else:
                    job.retried += 1
            self._say(JobChanged(job.spec.job))

    def expire(self, frame: SentFrame, now_s: float) -> None:
        job, worker = self._jobs[frame.job], self._workers[frame.peer]
        self.over(frame)
        self._say(CancelFrame(worker.peer, frame.number, "it took too long"))
        for task in job.let_go(frame):
            self._task_failed(job, task, worker.peer, "timeout", "no answer in time", now_s)
        worker.breaker.failed(now_s)
        self._judgement.answered(worker, late_s=NEVER)
        self._strike(job, worker.peer, f"answered none of {STRIKES_MAX} frames in time", now_s)
        self._touch(job.spec.job)

    def withdraw(self, job: CoordinatedJob, task: int) -> None:
        """Stops the frames that nobody waits for any more; those that carry other tasks too go on."""
        if task >= job.ledger.tasks or not job.ledger.withdraw(task, WITHDRAWN):
            return
        for frame in list(job.frames.values()):
            if task in frame.tasks and all(job.ledger.state(other) != TaskState.ASSIGNED for other in frame.tasks):
                self.over(frame)
                job.let_go(frame)
                self._say(CancelFrame(frame.peer, frame.number, WITHDRAWN))
        self._say(TaskFailedForGood(job.spec.job, task, WITHDRAWN))

    def refuse(self, job: CoordinatedJob, peer: PeerId, reason: str, now_s: float) -> None:
        """The worker gets no more of this job, and what it has of it goes to others."""
        self._force.refuse(job, peer, reason, now_s)
        for frame in [frame for frame in self._workers[peer].frames.values() if frame.job == job.spec.job]:
            self.over(frame)
            self._say(CancelFrame(peer, frame.number, reason))
            job.ledger.give_back(job.let_go(frame))
        self._touch(job.spec.job)
        self._dispatch.workers_changed()
