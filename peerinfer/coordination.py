"""The coordinator: which worker gets which tasks of which job, and what becomes of what they answer.

Theory of operation. Workers pull: each states a *window*, the frames it will hold at once. Whenever a window has room,
an eligible worker gets a frame of the job that comes first, sized by what is known of its speed. Every task of the frame
comes back as a result, as a failure with its kind, or not at all (the worker vanished, or the frame's time ran
out). Failures are tried again elsewhere after a wait that doubles; what vanished goes back to the front of the queue.

Results of other nodes are *provisional* until there is evidence for them, by the job's verification policy: samples are
computed again on this node's own device, or by other workers (`judgement`, `verification`). A worker cannot know which.
One wrong result voids everything provisional of that worker in all jobs, and it gets nothing more from this node. A job
ends when every task is answered and nothing is provisional any more.

The machine knows tasks by number only. Tensors, files and streams belong to the roles that perform its effects.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Literal

from peerinfer.alarms import Alarms
from peerinfer.assignment import (
    WITHDRAWN,
    AuditDone,
    CancelFrame,
    CompareCopies,
    CopiesCompared,
    DropResults,
    Effect,
    Event,
    FrameAnswered,
    FrameRefused,
    JobAccepted,
    JobBroken,
    JobCancelled,
    JobChanged,
    JobClosed,
    JobDropped,
    JobEnded,
    JobEvent,
    JobPicture,
    JobSpec,
    KeepResults,
    LinkMeasured,
    PeerProven,
    PriorityChanged,
    ResultsOffered,
    TaskFailedForGood,
    TasksAdded,
    TasksCommitted,
    TaskWithdrawn,
    WindowSet,
    WorkerJoined,
    WorkerLost,
    WorkerRated,
)
from peerinfer.dispatch import Dispatch
from peerinfer.ids import JobId, PeerId
from peerinfer.judgement import REFUSAL_WEIGHT, Judgement
from peerinfer.ledger import TaskState
from peerinfer.machine import NEVER, Tick
from peerinfer.reputation import Reputation
from peerinfer.vouching import Vouching
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
"""Frames in a row that timed out, after which a worker gets no more of this job."""


class Coordination:
    """The machine. One for each node, over all the jobs that the node coordinates."""

    def __init__(
        self,
        rng: random.Random,
        *,
        first_frame: int = 1,
        reputation: Reputation | None = None,
        vouching: Vouching | None = None,
        wall_offset_s: float = 0.0,
    ) -> None:
        """Receipts are kept by frame number, so a node that starts again must not count from the same `first_frame`.

        `reputation` outlives the machine; `wall_offset_s` leads from the machine's clock to the one that it lives by.
        """
        self._rng = rng
        self._force = Workforce(rng)
        self._jobs, self._workers, self._caught = self._force.jobs, self._force.workers, self._force.caught
        self._dispatch = Dispatch(self._force, rng=rng, first_frame=first_frame)
        self._alarms: Alarms[tuple[str, JobId | int]] = Alarms()
        self._changed: dict[JobId, None] = {}
        """Jobs that may be over, or without anybody to work for them."""
        self._effects: list[Effect] = []
        known = reputation or Reputation()
        self.vouching = vouching or Vouching(known)
        self._judgement = Judgement(
            self._force,
            reputation=known,
            vouching=self.vouching,
            wall_offset_s=wall_offset_s,
            rng=rng,
            say=self._say,
            lose=self._lose,
            refuse=self._refuse,
            touch=self._touch,
        )
        self.estimates = self._dispatch.estimates
        self.deadline_s = NEVER

    # --- the door --------------------------------------------------------------------------------------------------

    def handle(self, event: Event | Tick, now_s: float) -> list[Effect]:
        self._judgement.now_s = now_s
        match event:
            case FrameAnswered():
                self._answered(event, now_s)
            case FrameRefused():
                self._refused(event, now_s)
            case AuditDone():
                self._judgement.audited(event)
            case CopiesCompared():
                self._judgement.compared(event)
            case PeerProven(peer, detail):
                self._judgement.proven(peer, detail)
            case WorkerJoined(peer, offer):
                self._lose(peer, "came again", now_s)
                worker = self._force.join(peer, offer, now_s)
                self._judgement.joined(worker)
                self._dispatch.joined(worker)
            case WorkerLost(peer, reason):
                self._lose(peer, reason, now_s)
            case WindowSet(peer, frames, reason):
                if peer in self._workers:
                    self._force.set_window(self._workers[peer], frames, reason, now_s)
                    self._workers_changed()
                    self._dispatch.stir(peer)
            case ResultsOffered(peer, job_id, tasks):
                if peer in self._workers and job_id in self._jobs:
                    self._dispatch.offered(self._workers[peer], self._jobs[job_id], tasks)
            case WorkerRated(peer, p_ok, copies):
                if peer in self._workers:
                    self._force.table.update(peer, p_ok=p_ok, copies=copies)
            case LinkMeasured(peer, rtt_s, is_relayed):
                if peer in self._workers and not self._workers[peer].offer.local:
                    self._force.table.update(peer, rtt_s=rtt_s, is_relayed=is_relayed)
            case Tick():
                pass
            case JobAccepted(spec):
                self._accept(spec, now_s)
            case _:
                if event.job in self._jobs:
                    self._told(self._jobs[event.job], event)
        self._ring(now_s)
        self._conclude(now_s)  # before the filling: a job that ends makes room for others
        for order in self._dispatch.fill(now_s):
            self._effects.append(order)
            frame = self._force.frames.get(order.frame)  # None: taken back, maybe as soon as it was given
            if frame is None:
                self._alarms.clear(("expires", order.frame))
            else:
                self._alarms.set(("expires", order.frame), frame.expires_s)
        self.deadline_s = min(self._alarms.next_s, self._dispatch.deadline_s)
        effects, self._effects = self._effects, []
        return effects

    def _say(self, effect: Effect) -> None:
        self._effects.append(effect)

    def _told(self, job: CoordinatedJob, event: JobEvent) -> None:
        match event:
            case TasksAdded(_, count):
                job.ledger.add(count)
            case TaskWithdrawn(_, task):
                self._withdraw(job, task)
            case JobClosed():
                job.closed = True
            case PriorityChanged(_, priority):
                job.spec = replace(job.spec, priority=priority)
                self._dispatch.prioritised(job)
            case JobCancelled(_, reason):
                self._end(job, "cancelled", reason, "")
            case JobBroken(_, reason, kind):
                self._end(job, "failed", reason, kind)
            case JobDropped(_, reason):
                self._drop(job, reason, goes_on=True)
            case TasksCommitted(_, tasks):
                self._committed(job, tasks)
        self._touch(event.job)

    def _touch(self, job: JobId) -> None:
        """Something of the job has changed: it is looked at before the machine answers."""
        self._changed[job] = None
        self._dispatch.touch(job)

    def _ring(self, now_s: float) -> None:
        for kind, key in self._alarms.ring(now_s):
            if kind == "expires":
                frame = self._force.frames.get(int(key))
                if frame is not None:
                    self._expire(frame, now_s)
            else:
                self._changed[JobId(str(key))] = None

    def _over(self, frame: SentFrame, took_s: float = 0.0) -> None:
        self._alarms.clear(("expires", frame.number))
        self._dispatch.over(frame, took_s)

    # --- jobs ------------------------------------------------------------------------------------------------------

    def _accept(self, spec: JobSpec, now_s: float) -> None:
        if spec.job in self._jobs:
            return
        job = self._force.accept(spec, now_s)
        self._judgement.begin(job)
        self._dispatch.accepted(job, now_s)
        for peer, local, tasks in spec.kept:
            believed = job.ledger.adopt([task for task in tasks if peer not in self._caught])
            if believed:
                self._judgement.took(job, peer, believed, local=local)
        if spec.deadline_s is not None:
            self._alarms.set(("deadline", spec.job), now_s + spec.deadline_s)
        self._touch(spec.job)
        self._effects.append(JobChanged(spec.job))

    def _end(self, job: CoordinatedJob, state: Literal["done", "failed", "cancelled"], reason: str, kind: str) -> None:
        picture = self._picture(job)
        self._drop(job, reason or "the job has ended")
        self._effects.append(JobEnded(job.spec.job, state, reason, kind, picture))

    def _drop(self, job: CoordinatedJob, reason: str, *, goes_on: bool = False) -> None:
        for frame in list(job.frames.values()):
            self._over(frame)
            self._effects.append(CancelFrame(frame.peer, frame.number, reason, goes_on))
        del self._jobs[job.spec.job]
        self._alarms.clear(("deadline", job.spec.job))
        self._alarms.clear(("patience", job.spec.job))
        self._alarms.clear(("copies", job.spec.job))
        self._dispatch.ended(job)
        self._effects.append(JobChanged(job.spec.job))

    def _conclude(self, now_s: float) -> None:
        while self._changed:
            changed, self._changed = self._changed, {}
            for job_id in changed:
                job = self._jobs.get(job_id)
                if job is not None:
                    self._conclude_one(job, now_s)

    def _conclude_one(self, job: CoordinatedJob, now_s: float) -> None:
        spec, is_answered = job.spec, job.ledger.all_answered
        if job.closed and is_answered:
            self._judgement.conclude(job)
            is_answered = job.ledger.all_answered
        self._judgement.look_for_copies(job)
        if job.doubles.look_s < NEVER:
            self._alarms.set(("copies", spec.job), job.doubles.look_s)
        gives_up_s = job.last_usable_s + spec.patience_s
        if job.closed and is_answered and not job.ledger.count(TaskState.PROVISIONAL):
            self._end(job, "done", "", "")
        elif spec.deadline_s is not None and now_s >= job.accepted_s + spec.deadline_s:
            self._end(job, "failed", f"not done within its deadline of {spec.deadline_s:g} s", "JobFailed")
        elif job.usable or is_answered or spec.online:
            self._alarms.clear(("patience", spec.job))
        elif now_s < gives_up_s:
            self._alarms.set(("patience", spec.job), gives_up_s)
        else:
            reason = f"no suitable peer within {spec.patience_s:g} s: {self._force.blocked(job)}"
            self._end(job, "failed", reason, "NoSuitablePeer")

    def _workers_changed(self) -> None:
        """Any job may have found or lost the only workers that it could be given to."""
        self._changed |= dict.fromkeys(self._jobs)
        self._dispatch.workers_changed()

    def _refuse(self, job: CoordinatedJob, peer: PeerId, reason: str, now_s: float) -> None:
        self._force.refuse(job, peer, reason, now_s)
        for frame in [frame for frame in self._workers[peer].frames.values() if frame.job == job.spec.job]:
            self._over(frame)
            self._effects.append(CancelFrame(peer, frame.number, reason))
            job.ledger.give_back(job.let_go(frame))
        self._changed[job.spec.job] = None
        self._dispatch.workers_changed()

    def breakers(self, now_s: float) -> dict[str, int]:
        """How many peers' breakers are in which state."""
        return self._force.breakers(now_s)

    def blocked(self, job_id: JobId) -> str:
        """Which requirement ruled out how many peers, or "" if somebody can be used."""
        job = self._jobs.get(job_id)
        return "" if job is None else self._force.blocked(job)

    # --- answers ---------------------------------------------------------------------------------------------------

    def _answered(self, event: FrameAnswered, now_s: float) -> None:
        frame = self._frame(event.peer, event.frame)
        if frame is None:
            self._effects.append(DropResults(event.peer, event.frame))
            return
        peer, job, worker = event.peer, self._jobs[frame.job], self._workers[event.peer]
        spec = job.spec
        job.strikes.pop(peer, None)
        job.refusals.pop(peer, None)
        compute_s = min(event.compute_s, now_s - frame.sent_s)  # it cannot have taken longer than it was away
        if event.done and compute_s > 0:
            self._dispatch.learn(job, frame, len(event.done), compute_s, now_s)
        job.warm.add(peer)
        self._over(frame, compute_s)
        late_s = now_s - frame.due_s - frame.expected_s
        self._judgement.answered(worker, late_s=late_s, energy_j=event.energy_j)
        if frame.is_double:
            self._copies_answered(job, frame, event)
            self._note_health(worker, event, now_s)
            self._touch(spec.job)
            return
        kept = job.ledger.answered(frame.tasks[position] for position in event.done)
        if kept:
            self._effects.append(KeepResults(peer, frame.number, spec.job, tuple(kept)))
            self._judgement.took(job, peer, kept, local=worker.offer.local)
        else:
            self._effects.append(DropResults(peer, frame.number))
        alone = set(job.let_go(frame))
        for position, kind, reason in event.failures:
            if frame.tasks[position] in alone:
                self._task_failed(job, frame.tasks[position], peer, kind, reason, now_s)
        self._note_health(worker, event, now_s)
        if frame.is_shared:
            self._cancel_answered(job)
        self._touch(spec.job)
        self._effects.append(JobChanged(spec.job))

    def _frame(self, peer: PeerId, number: int) -> SentFrame | None:
        """The frame of this number, if it is this worker's and still waited for."""
        frame = self._force.frames.get(number)
        return frame if frame is not None and frame.peer == peer else None

    def _copies_answered(self, job: CoordinatedJob, frame: SentFrame, event: FrameAnswered) -> None:
        done = tuple(frame.tasks[position] for position in event.done)
        job.doubles.back(frame.tasks[position] for position, _, _ in event.failures)
        if done:
            self._effects.append(CompareCopies(frame.peer, frame.number, job.spec.job, done))
        else:
            self._effects.append(DropResults(frame.peer, frame.number))

    def _note_health(self, worker: Worker, event: FrameAnswered, now_s: float) -> None:
        """A model that fails is the job's fault; anything else without a single result is the peer's."""
        if event.done:
            worker.breaker.succeeded()
        elif any(kind not in ("model", "cancelled") for _, kind, _ in event.failures):
            worker.breaker.failed(now_s)

    def _withdraw(self, job: CoordinatedJob, task: int) -> None:
        """Stops the frames that nobody waits for any more; those that carry other tasks too go on."""
        if task >= job.ledger.tasks or not job.ledger.withdraw(task, WITHDRAWN):
            return
        for frame in list(job.frames.values()):
            if task in frame.tasks and all(job.ledger.state(other) != TaskState.ASSIGNED for other in frame.tasks):
                self._over(frame)
                job.let_go(frame)
                self._effects.append(CancelFrame(frame.peer, frame.number, WITHDRAWN))
        self._effects.append(TaskFailedForGood(job.spec.job, task, WITHDRAWN))

    def _cancel_answered(self, job: CoordinatedJob) -> None:
        """Stops the losers of a race: frames of which every task has its result."""
        for frame in list(job.shared.values()):
            if all(job.ledger.state(task) != TaskState.ASSIGNED for task in frame.tasks):
                self._over(frame)
                job.let_go(frame)
                self._effects.append(CancelFrame(frame.peer, frame.number, "somebody else was faster"))

    def _committed(self, job: CoordinatedJob, tasks: tuple[int, ...]) -> None:
        job.settling -= job.ledger.finalise(tasks)
        self._effects.append(JobChanged(job.spec.job))

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
            self._effects.append(TaskFailedForGood(job.spec.job, task, f"{kind}: {reason}"))

    def _refused(self, event: FrameRefused, now_s: float) -> None:
        peer, frame = event.peer, self._frame(event.peer, event.frame)
        if frame is None:
            return
        job = self._jobs[frame.job]
        self._over(frame)
        job.ledger.give_back(job.let_go(frame))
        job.refusals[peer] = job.refusals.get(peer, 0) + 1
        self._judgement.answered(self._workers[peer], late_s=NEVER, weight=REFUSAL_WEIGHT)
        if event.final or job.refusals[peer] >= REFUSALS_MAX:
            self._refuse(job, peer, event.reason, now_s)
        else:
            self._workers[peer].rests_until_s = now_s + REFUSAL_REST_S
        self._touch(job.spec.job)
        self._effects.append(JobChanged(job.spec.job))

    def _lose(self, peer: PeerId, reason: str, now_s: float) -> None:
        worker = self._force.leave(peer, now_s)
        if worker is None:
            return
        if worker.frames:
            self._judgement.vanished(worker)
        for frame in list(worker.frames.values()):
            job = self._jobs[frame.job]
            self._over(frame)
            for task in reversed(job.let_go(frame)):
                job.ledger.lost(task, peer, reason, losses_max=LOSSES_MAX)
                if job.ledger.state(task) == TaskState.FAILED:
                    self._effects.append(TaskFailedForGood(job.spec.job, task, reason))
                else:
                    job.retried += 1
            self._effects.append(JobChanged(job.spec.job))
        self._judgement.left(peer)
        self._dispatch.left(peer)
        self._workers_changed()

    def _expire(self, frame: SentFrame, now_s: float) -> None:
        job, worker = self._jobs[frame.job], self._workers[frame.peer]
        self._over(frame)
        self._effects.append(CancelFrame(worker.peer, frame.number, "it took too long"))
        for task in job.let_go(frame):
            self._task_failed(job, task, worker.peer, "timeout", "no answer in time", now_s)
        worker.breaker.failed(now_s)
        self._judgement.answered(worker, late_s=NEVER)
        job.strikes[worker.peer] = job.strikes.get(worker.peer, 0) + 1
        if job.strikes[worker.peer] >= STRIKES_MAX:
            self._refuse(job, worker.peer, f"answered none of {STRIKES_MAX} frames in time", now_s)
        self._touch(job.spec.job)

    # --- pictures --------------------------------------------------------------------------------------------------

    @property
    def jobs(self) -> tuple[JobId, ...]:
        return tuple(self._jobs)

    def recall(self, now_s: float) -> None:
        """The reputation was read from the store."""
        self._judgement.now_s = now_s
        self._judgement.recall()

    def is_barred(self, peer: PeerId) -> bool:
        """It was caught with a wrong result."""
        return peer in self._caught

    @property
    def reputation(self) -> Reputation:
        """What this node has seen of its peers."""
        return self._judgement.reputation

    @property
    def specs(self) -> list[JobSpec]:
        return [job.spec for job in self._jobs.values()]

    @property
    def caught(self) -> dict[PeerId, str]:
        """Peers that gave a wrong result, and how it was seen."""
        return dict(self._caught)

    def why_not(self, job_id: JobId, peer: PeerId) -> str | None:
        job = self._jobs.get(job_id)
        return None if job is None or peer not in self._workers else self._force.why_not(job, peer)

    def picture(self, job_id: JobId) -> JobPicture | None:
        job = self._jobs.get(job_id)
        return None if job is None else self._picture(job)

    def _picture(self, job: CoordinatedJob) -> JobPicture:
        return job.picture(self._force.blocked(job))

    def in_flight(self, peer: PeerId) -> int:
        worker = self._workers.get(peer)
        return len(worker.frames) if worker else 0

    def snapshot(self) -> dict[JobId, JobPicture]:
        pictures = {job: self.picture(job) for job in self._jobs}
        return {job: picture for job, picture in pictures.items() if picture is not None}

    def check(self) -> None:
        self._force.check()
        self._dispatch.check()
        self._alarms.check()
        assert not self._changed, "a change of a job was not looked at"
        with_workers: dict[JobId, dict[int, int]] = {}
        for worker in self._workers.values():
            for frame in [frame for frame in worker.frames.values() if not frame.is_double]:
                held = with_workers.setdefault(frame.job, {})
                for task in frame.tasks:
                    held[task] = held.get(task, 0) + 1
        for job in self._jobs.values():
            held = with_workers.get(job.spec.job, {})
            assigned = job.ledger.count(TaskState.ASSIGNED)
            waiting = sum(job.ledger.state(task) == TaskState.ASSIGNED for task in held)
            assert waiting == assigned, f"job {job.spec.job}: {assigned} tasks are assigned, {waiting} are in frames"
            copies = {task: count for task, count in held.items() if count > 1}
            assert copies == job.copies, f"job {job.spec.job}: copies {job.copies}, but frames hold {copies}"
