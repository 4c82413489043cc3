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
    AuditDone,
    CancelFrame,
    CopiesCompared,
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
    LinkMeasured,
    PeerProven,
    PriorityChanged,
    ResultsOffered,
    TasksAdded,
    TasksCommitted,
    TaskWithdrawn,
    WindowSet,
    WorkerJoined,
    WorkerLost,
    WorkerRated,
)
from peerinfer.dispatch import Dispatch
from peerinfer.frame_ends import FrameEnds
from peerinfer.ids import JobId, PeerId
from peerinfer.job_ends import UNVERIFIED
from peerinfer.judgement import Judgement
from peerinfer.ledger import TaskState
from peerinfer.machine import NEVER, Tick
from peerinfer.reputation import Reputation
from peerinfer.units import format_count
from peerinfer.vouching import Vouching
from peerinfer.workforce import CoordinatedJob, Workforce


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
        self.whitewashing = self._judgement.whitewashing
        self._ends = FrameEnds(
            self._force,
            dispatch=self._dispatch,
            judgement=self._judgement,
            alarms=self._alarms,
            rng=rng,
            say=self._say,
            touch=self._touch,
        )
        self.estimates = self._dispatch.estimates
        self.deadline_s = NEVER

    # --- the door --------------------------------------------------------------------------------------------------

    def handle(self, event: Event | Tick, now_s: float) -> list[Effect]:
        self._judgement.now_s = now_s
        match event:
            case FrameAnswered():
                self._ends.answered(event, now_s)
            case FrameRefused():
                self._ends.refused(event, now_s)
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
                self._ends.withdraw(job, task)
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
                    self._ends.expire(frame, now_s)
            else:
                self._changed[JobId(str(key))] = None

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
            self._ends.over(frame)
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
            self._end(job, *_how_it_ended(job))
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

    def bytes_per_s(self, peer: PeerId) -> float:
        """How fast inputs reached this peer, or a guess."""
        return self._force.records.bytes_per_s(peer)

    def breaker(self, peer: PeerId, now_s: float) -> tuple[str, float]:
        """The state of this peer's breaker, and for how long it is open still."""
        return self._force.breaker(peer, now_s)

    def breakers(self, now_s: float) -> dict[str, int]:
        """How many peers' breakers are in which state."""
        return self._force.breakers(now_s)

    def blocked(self, job_id: JobId) -> str:
        """Which requirement ruled out how many peers, or "" if somebody can be used."""
        job = self._jobs.get(job_id)
        return "" if job is None else self._force.blocked(job)

    def _committed(self, job: CoordinatedJob, tasks: tuple[int, ...]) -> None:
        job.settling -= job.ledger.finalise(tasks)
        self._effects.append(JobChanged(job.spec.job))

    def _lose(self, peer: PeerId, reason: str, now_s: float) -> None:
        worker = self._force.leave(peer, now_s)
        if worker is None:
            return
        if worker.frames:
            self._judgement.vanished(worker)
        self._ends.vanished(worker, reason)
        self._judgement.left(peer)
        self._dispatch.left(peer)
        self._workers_changed()

    def _refuse(self, job: CoordinatedJob, peer: PeerId, reason: str, now_s: float) -> None:
        self._ends.refuse(job, peer, reason, now_s)

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

    def is_kept_out(self, peer: PeerId) -> bool:
        """It is one name too many from where somebody was caught."""
        return peer in self._judgement.kept_out

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

    def tasks_left(self, job_id: JobId) -> int | None:
        """Tasks of a job that are neither final nor failed; None of a job that is not known."""
        job = self._jobs.get(job_id)
        if job is None:
            return None
        return job.ledger.tasks - job.ledger.count(TaskState.FINAL) - job.ledger.count(TaskState.FAILED)

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


def _how_it_ended(job: CoordinatedJob) -> tuple[Literal["done", "failed"], str, str]:
    """State, reason and kind of a job whose tasks all have their end: one of which nothing came is not done."""
    tasks = job.ledger.tasks
    if not tasks or job.spec.online or job.ledger.count(TaskState.FAILED) < tasks:
        return "done", "", ""
    reasons = job.ledger.failed()
    unverified = [reason for reason in reasons.values() if reason.startswith(UNVERIFIED)]
    all_tasks = "the only task" if tasks == 1 else f"all {format_count(tasks, 'task')}"
    if unverified:
        which = all_tasks if len(unverified) == tasks else f"{format_count(len(unverified))} of {all_tasks}"
        return "failed", f"results of {which} could not be verified: {unverified[0]}", "VerificationFailed"
    return "failed", f"{all_tasks} failed: {next(iter(reasons.values()))}", "JobFailed"
