"""The coordinator: which worker gets which tasks of which job, and what becomes of what they answer.

Theory of operation. Workers pull: each states a *window*, the frames it will hold at once. Whenever a window has room,
an eligible worker gets a frame of the job that is served least, sized by what is known of its speed. Every task of the
frame comes back as a result, as a failure with its kind, or not at all (the worker vanished, or the frame's time ran
out). Failures are tried again elsewhere after a wait that doubles; what vanished goes back to the front of the queue.

Results of other nodes are *provisional* under the `spot` policy: a random sample, at least one task of each worker, is
computed again on this node's own device. A worker cannot know which. One disagreement voids everything provisional of
that worker in the job, and the worker gets nothing more from this node. A job ends when every task is answered and
every audit is in; then what is provisional becomes final.

The machine knows tasks by number only. Tensors, files and streams belong to the roles that perform its effects.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Literal

from peerinfer.assignment import (
    Audit,
    AuditDone,
    CancelFrame,
    DropResults,
    DropWorker,
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
    JobPicture,
    JobSpec,
    KeepResults,
    Settle,
    TaskFailedForGood,
    TasksAdded,
    TasksCommitted,
    VoidResults,
    WindowSet,
    WorkerJoined,
    WorkerLost,
)
from peerinfer.dispatch import Dispatch
from peerinfer.ids import JobId, PeerId
from peerinfer.ledger import Ledger, TaskState
from peerinfer.limits import PEERS_REMEMBERED_MAX
from peerinfer.machine import NEVER, Tick
from peerinfer.spotcheck import SpotCheck
from peerinfer.workforce import CoordinatedJob, Worker, why_not

AUDITS_WAITING_MAX = 256
"""Beyond this many waiting audits no new ones are drawn: the device that audits is the bottleneck then."""

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

    def __init__(self, rng: random.Random, *, first_frame: int = 1) -> None:
        """Receipts are kept by frame number, so a node that starts again must not count from the same `first_frame`."""
        self._rng = rng
        self._jobs: dict[JobId, CoordinatedJob] = {}
        self._workers: dict[PeerId, Worker] = {}
        self._caught: dict[PeerId, str] = {}
        self._dispatch = Dispatch(self._jobs, self._workers, self._caught, rng=rng, first_frame=first_frame)
        self._effects: list[Effect] = []
        self.deadline_s = NEVER

    # --- the door --------------------------------------------------------------------------------------------------

    def handle(self, event: Event | Tick, now_s: float) -> list[Effect]:
        match event:
            case JobAccepted(spec):
                self._accept(spec, now_s)
            case TasksAdded(job, count):
                if job in self._jobs:
                    self._jobs[job].ledger.add(count)
            case JobClosed(job):
                if job in self._jobs:
                    self._jobs[job].closed = True
            case JobCancelled(job, reason):
                if job in self._jobs:
                    self._end(self._jobs[job], "cancelled", reason, "")
            case JobBroken(job, reason, kind):
                if job in self._jobs:
                    self._end(self._jobs[job], "failed", reason, kind)
            case JobDropped(job, reason):
                if job in self._jobs:
                    self._drop(self._jobs[job], reason)
            case TasksCommitted(job, tasks):
                if job in self._jobs:
                    self._committed(self._jobs[job], tasks)
            case WorkerJoined(peer, offer):
                self._lose(peer, "came again")
                self._workers[peer] = Worker(peer, offer, self._dispatch.breaker(peer))
            case WorkerLost(peer, reason):
                self._lose(peer, reason)
            case WindowSet(peer, frames, reason):
                if peer in self._workers:
                    self._workers[peer].window = frames
                    self._workers[peer].reason = reason
            case FrameAnswered():
                self._answered(event, now_s)
            case FrameRefused():
                self._refused(event, now_s)
            case AuditDone():
                self._audit_done(event)
            case Tick():
                pass
        self._expire(now_s)
        self._conclude(now_s)  # before the filling: a job that ends makes room for others
        self._effects += self._dispatch.fill(now_s)
        self.deadline_s = min(self._deadlines(now_s), default=NEVER)
        effects, self._effects = self._effects, []
        return effects

    # --- jobs ------------------------------------------------------------------------------------------------------

    def _accept(self, spec: JobSpec, now_s: float) -> None:
        if spec.job in self._jobs:
            return
        ledger = Ledger(spec.tasks, retries=spec.retries, final=spec.final, failed=spec.failed)
        job = CoordinatedJob(
            spec, ledger, accepted_s=now_s, last_usable_s=now_s, served_s=self._least_served(), closed=not spec.online
        )
        self._jobs[spec.job] = job
        for peer, local, tasks in spec.kept:
            believed = ledger.adopt([task for task in tasks if peer not in self._caught])
            if believed:
                self._take(job, peer, believed, local=local)
        self._effects.append(JobChanged(spec.job))

    def _least_served(self) -> float:
        return min((job.served_s for job in self._jobs.values()), default=0.0)

    def _end(self, job: CoordinatedJob, state: Literal["done", "failed", "cancelled"], reason: str, kind: str) -> None:
        picture = self._picture(job)
        self._drop(job, reason or "the job has ended")
        self._effects.append(JobEnded(job.spec.job, state, reason, kind, picture))

    def _drop(self, job: CoordinatedJob, reason: str) -> None:
        for worker in self._workers.values():
            for frame in [frame for frame in worker.frames.values() if frame.job == job.spec.job]:
                del worker.frames[frame.number]
                self._effects.append(CancelFrame(worker.peer, frame.number, reason))
        del self._jobs[job.spec.job]
        self._effects.append(JobChanged(job.spec.job))

    def _conclude(self, now_s: float) -> None:
        for job in list(self._jobs.values()):
            spec = job.spec
            if job.closed and job.ledger.all_answered:
                self._draw_last(job)
            if job.closed and job.ledger.all_answered and not job.ledger.count(TaskState.PROVISIONAL):
                self._end(job, "done", "", "")
            elif spec.deadline_s is not None and now_s >= job.accepted_s + spec.deadline_s:
                self._end(job, "failed", f"not done within its deadline of {spec.deadline_s:g} s", "JobFailed")
            elif not spec.online:
                usable = any(self._why_not(job, worker) is None for worker in self._workers.values())
                if usable or job.usable:  # until just now, however long ago the last event was
                    job.last_usable_s = now_s
                job.usable = usable
                if not usable and now_s >= job.last_usable_s + spec.patience_s and not job.ledger.all_answered:
                    reason = f"no suitable peer within {spec.patience_s:g} s: {self.blocked(job.spec.job)}"
                    self._end(job, "failed", reason, "NoSuitablePeer")

    def breakers(self, now_s: float) -> dict[str, int]:
        """How many peers' breakers are in which state."""
        return self._dispatch.breakers(now_s)

    def _why_not(self, job: CoordinatedJob, worker: Worker) -> str | None:
        return why_not(job, worker, self._caught)

    def blocked(self, job_id: JobId) -> str:
        """Which requirement ruled out how many peers, or "" if somebody can be used."""
        job = self._jobs.get(job_id)
        if job is None:
            return ""
        reasons: dict[str, int] = {}
        for worker in self._workers.values():
            reason = self._why_not(job, worker)
            if reason is None:
                return ""
            reasons[reason] = reasons.get(reason, 0) + 1
        if not reasons:
            return "no peer that lends a device is connected"
        return "; ".join(f"{count} {'peer' if count == 1 else 'peers'}: {reason}" for reason, count in reasons.items())

    # --- answers ---------------------------------------------------------------------------------------------------

    def _answered(self, event: FrameAnswered, now_s: float) -> None:
        worker = self._workers.get(event.peer)
        frame = worker.frames.pop(event.frame, None) if worker else None
        job = self._jobs.get(frame.job) if frame else None
        if worker is None or frame is None or job is None:
            self._effects.append(DropResults(event.peer, event.frame))
            return
        peer, spec = event.peer, job.spec
        job.warm.add(peer)
        job.strikes.pop(peer, None)
        job.refusals.pop(peer, None)
        compute_s = min(event.compute_s, now_s - frame.sent_s)  # it cannot have taken longer than it was away
        if event.done and compute_s > 0:
            self._dispatch.estimates.observe(peer, spec.model, len(event.done) * spec.items_per_task, compute_s)
        kept = [frame.tasks[position] for position in event.done if job.ledger.answered(frame.tasks[position])]
        if kept:
            self._effects.append(KeepResults(peer, frame.number, spec.job, tuple(kept)))
            self._take(job, peer, kept, local=worker.offer.local)
        else:
            self._effects.append(DropResults(peer, frame.number))
        alone = set(job.let_go(frame))
        for position, kind, reason in event.failures:
            if frame.tasks[position] in alone:
                self._task_failed(job, frame.tasks[position], peer, kind, reason, now_s)
        self._note_health(worker, event, now_s)
        if frame.is_shared:
            self._cancel_answered(job)
        self._effects.append(JobChanged(spec.job))

    def _note_health(self, worker: Worker, event: FrameAnswered, now_s: float) -> None:
        """A model that fails is the job's fault; anything else without a single result is the peer's."""
        if event.done:
            worker.breaker.succeeded()
        elif any(kind not in ("model", "cancelled") for _, kind, _ in event.failures):
            worker.breaker.failed(now_s)

    def _cancel_answered(self, job: CoordinatedJob) -> None:
        """Stops the losers of a race: frames of which every task has its result."""
        for worker in self._workers.values():
            for frame in [frame for frame in worker.frames.values() if frame.is_shared and frame.job == job.spec.job]:
                if all(job.ledger.state(task) != TaskState.ASSIGNED for task in frame.tasks):
                    del worker.frames[frame.number]
                    job.let_go(frame)
                    self._effects.append(CancelFrame(worker.peer, frame.number, "somebody else was faster"))

    def _take(self, job: CoordinatedJob, peer: PeerId, tasks: list[int], *, local: bool) -> None:
        """Results are here: they count at once, or when a sample has stood up to its check."""
        job.kept[peer] = job.kept.get(peer, 0) + len(tasks)
        if job.spec.verify != "spot" or local:
            self._settle(job, peer, tasks)
            return
        check = job.checks.setdefault(peer, SpotCheck(self._rng))
        for task in check.add(tasks, draw=job.audits < AUDITS_WAITING_MAX):
            self._audit(job, peer, task)

    def _audit(self, job: CoordinatedJob, peer: PeerId, task: int) -> None:
        job.audits += 1
        self._effects.append(Audit(job.spec.job, task, peer))

    def _draw_last(self, job: CoordinatedJob) -> None:
        for peer, check in job.checks.items():
            task = check.draw_last()
            if task is not None:
                self._audit(job, peer, task)

    def _settle(self, job: CoordinatedJob, peer: PeerId, tasks: list[int]) -> None:
        if job.spec.online:
            for task in tasks:
                job.ledger.finalise(task)
            return
        job.settling += len(tasks)
        unsettled = any(check.unsettled for check in job.checks.values())
        is_last = job.ledger.all_answered and not unsettled
        self._effects.append(Settle(job.spec.job, peer, tuple(tasks), is_last))

    def _committed(self, job: CoordinatedJob, tasks: tuple[int, ...]) -> None:
        for task in tasks:
            if job.ledger.state(task) == TaskState.PROVISIONAL:
                job.ledger.finalise(task)
                job.settling -= 1
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
        peer = event.peer
        worker = self._workers.get(peer)
        frame = worker.frames.pop(event.frame, None) if worker else None
        job = self._jobs.get(frame.job) if frame else None
        if worker is None or frame is None or job is None:
            return
        job.ledger.give_back(job.let_go(frame))
        job.refusals[peer] = job.refusals.get(peer, 0) + 1
        if event.final or job.refusals[peer] >= REFUSALS_MAX:
            job.refused[peer] = event.reason
        else:
            worker.rests_until_s = now_s + REFUSAL_REST_S
        self._effects.append(JobChanged(job.spec.job))

    def _lose(self, peer: PeerId, reason: str) -> None:
        worker = self._workers.pop(peer, None)
        if worker is None:
            return
        for frame in worker.frames.values():
            job = self._jobs.get(frame.job)
            if job is None:
                continue
            for task in reversed(job.let_go(frame)):
                job.ledger.lost(task, peer, reason, losses_max=LOSSES_MAX)
                if job.ledger.state(task) == TaskState.FAILED:
                    self._effects.append(TaskFailedForGood(job.spec.job, task, reason))
                else:
                    job.retried += 1
            self._effects.append(JobChanged(job.spec.job))

    def _expire(self, now_s: float) -> None:
        for worker in self._workers.values():
            for frame in [frame for frame in worker.frames.values() if now_s >= frame.expires_s]:
                del worker.frames[frame.number]
                self._effects.append(CancelFrame(worker.peer, frame.number, "it took too long"))
                job = self._jobs.get(frame.job)
                if job is None:
                    continue
                for task in job.let_go(frame):
                    self._task_failed(job, task, worker.peer, "timeout", "no answer in time", now_s)
                worker.breaker.failed(now_s)
                job.strikes[worker.peer] = job.strikes.get(worker.peer, 0) + 1
                if job.strikes[worker.peer] >= STRIKES_MAX:
                    job.refused[worker.peer] = f"answered none of {STRIKES_MAX} frames in time"

    # --- audits ----------------------------------------------------------------------------------------------------

    def _audit_done(self, event: AuditDone) -> None:
        job = self._jobs.get(event.job)
        check = job.checks.get(event.peer) if job else None
        if job is None or check is None or event.task not in check.audits:
            return
        job.audited += event.agrees is not None
        if event.agrees is False:
            job.audits_failed += 1
            self._catch(event.peer, event.detail)  # This audit goes with all the others of the peer.
        else:
            job.audits -= 1
            counts = check.passed(event.task)
            if counts:
                self._settle(job, event.peer, counts)
        self._effects.append(JobChanged(event.job))

    def _catch(self, peer: PeerId, detail: str) -> None:
        reason = f"a result did not stand up to its check: {detail}"
        self._caught[peer] = reason
        if len(self._caught) > PEERS_REMEMBERED_MAX:
            del self._caught[next(iter(self._caught))]
        for job in self._jobs.values():
            check = job.checks.pop(peer, None)
            void = tuple(check.unsettled) if check else ()
            for task in void:
                job.ledger.void(task, peer, reason)
            if check is not None:
                job.audits -= len(check.audits)
            if void:
                job.retried += len(void)
                job.kept[peer] = job.kept.get(peer, 0) - len(void)
                self._effects.append(VoidResults(job.spec.job, peer, void, reason))
        self._lose(peer, reason)
        self._effects.append(DropWorker(peer, reason))

    # --- pictures --------------------------------------------------------------------------------------------------

    def _deadlines(self, now_s: float) -> Iterable[float]:
        for worker in self._workers.values():
            if worker.rests_until_s > now_s:
                yield worker.rests_until_s
            if worker.breaker.opens_until_s > now_s:
                yield worker.breaker.opens_until_s
            for frame in worker.frames.values():
                yield frame.expires_s
                if not frame.is_shared and frame.late_s > now_s:
                    yield frame.late_s
        for job in self._jobs.values():
            delayed = job.ledger.next_delayed_s
            if delayed is not None:
                yield delayed
            if job.spec.deadline_s is not None:
                yield job.accepted_s + job.spec.deadline_s
            stuck = not job.spec.online and not job.ledger.all_answered
            if stuck and not any(self._why_not(job, worker) is None for worker in self._workers.values()):
                yield job.last_usable_s + job.spec.patience_s

    @property
    def jobs(self) -> tuple[JobId, ...]:
        return tuple(self._jobs)

    @property
    def caught(self) -> dict[PeerId, str]:
        """Peers that gave a wrong result, and how it was seen."""
        return dict(self._caught)

    def why_not(self, job_id: JobId, peer: PeerId) -> str | None:
        job, worker = self._jobs.get(job_id), self._workers.get(peer)
        return None if job is None or worker is None else self._why_not(job, worker)

    def picture(self, job_id: JobId) -> JobPicture | None:
        job = self._jobs.get(job_id)
        return None if job is None else self._picture(job)

    def _picture(self, job: CoordinatedJob) -> JobPicture:
        return job.picture(self.blocked(job.spec.job))

    def in_flight(self, peer: PeerId) -> int:
        worker = self._workers.get(peer)
        return len(worker.frames) if worker else 0

    def snapshot(self) -> dict[JobId, JobPicture]:
        pictures = {job: self.picture(job) for job in self._jobs}
        return {job: picture for job, picture in pictures.items() if picture is not None}

    def check(self) -> None:
        with_workers: dict[JobId, dict[int, int]] = {}
        for worker in self._workers.values():
            for frame in worker.frames.values():
                held = with_workers.setdefault(frame.job, {})
                for task in frame.tasks:
                    held[task] = held.get(task, 0) + 1
        for job in self._jobs.values():
            job.check()
            held = with_workers.get(job.spec.job, {})
            assigned = job.ledger.count(TaskState.ASSIGNED)
            waiting = sum(job.ledger.state(task) == TaskState.ASSIGNED for task in held)
            assert waiting == assigned, f"job {job.spec.job}: {assigned} tasks are assigned, {waiting} are in frames"
            copies = {task: count for task, count in held.items() if count > 1}
            assert copies == job.copies, f"job {job.spec.job}: copies {job.copies}, but frames hold {copies}"
