"""What a coordinator keeps in mind of its jobs and workers, and which requirement rules a worker out for a job.

Everything that would have to be searched for at every event is kept beside it and follows each change: who could be
used for a job, which frames a job and a worker have, and the table of candidates that placement reads.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from peerinfer.assignment import JobPicture, JobSpec, WorkerOffer
from peerinfer.breaker import Breaker
from peerinfer.doubles import Doubles
from peerinfer.ids import JobId, PeerId
from peerinfer.ledger import Ledger, TaskState
from peerinfer.limits import FRAMES_IN_FLIGHT_PER_DEVICE, PEERS_REMEMBERED_MAX
from peerinfer.placement_table import Candidate, CandidateTable, Demand
from peerinfer.track_record import BYTES_PER_S_PRIOR, TrackRecords
from peerinfer.units import format_group
from peerinfer.verification import Verification

RTT_PRIOR_S = 0.05
"""Of a peer whose round trip was not measured yet."""

CACHED_LOAD_S = 1.0
"""A model that lies on the worker's disk is ready about so soon."""


@dataclass(slots=True)
class SentFrame:
    number: int
    job: JobId
    peer: PeerId
    tasks: tuple[int, ...]
    sent_s: float
    expires_s: float
    due_s: float
    """When its answer is expected."""
    expected_s: float
    """What its computation is expected to take."""
    was_alone: bool
    """Its worker had no other frame when it was sent."""
    is_shared: bool = False
    """Somebody else was given the same tasks, or this is the second copy."""
    is_double: bool = False
    """Its tasks have answers already, which are to be compared with what comes of it."""


@dataclass(slots=True)
class Worker:
    peer: PeerId
    offer: WorkerOffer
    breaker: Breaker
    window: int = 0
    room: int = 0
    """Frames it would be given now."""
    reason: str = "has not said yet how much it takes"
    rests_until_s: float = 0.0
    """After a refusal, so that the same frame is not offered in a circle."""
    frames: dict[int, SentFrame] = field(default_factory=dict)

    @property
    def slots(self) -> int:
        """Frames that it computes at once."""
        return max(-(-self.window // FRAMES_IN_FLIGHT_PER_DEVICE), 1)


@dataclass(slots=True)
class CoordinatedJob:
    spec: JobSpec
    ledger: Ledger
    demand: Demand
    accepted_s: float
    last_usable_s: float
    usable: dict[PeerId, None] = field(default_factory=dict)
    """Workers that it could be given to."""
    frames: dict[int, SentFrame] = field(default_factory=dict)
    shared: dict[int, SentFrame] = field(default_factory=dict)
    """Those of its frames that somebody else has as well."""
    refused: dict[PeerId, str] = field(default_factory=dict)
    refusals: dict[PeerId, int] = field(default_factory=dict)
    """In a row, and not for good."""
    strikes: dict[PeerId, int] = field(default_factory=dict)
    warm: set[PeerId] = field(default_factory=set)
    verification: Verification | None = None
    """None where everybody is believed."""
    doubles: Doubles = field(default_factory=Doubles)
    settling: int = 0
    """Tasks that are on their way into the journal."""
    kept: dict[PeerId, int] = field(default_factory=dict)
    copies: dict[int, int] = field(default_factory=dict)
    """Tasks that are with more than one worker, and with how many."""
    closed: bool = True
    failures: int = 0
    retried: int = 0
    hedged: int = 0
    copied: int = 0
    believed: int = 0
    """Results that count although nobody checked anything, since nobody asked for it."""

    @property
    def unsettled(self) -> int:
        """Results that wait for evidence."""
        return 0 if self.verification is None else self.verification.provisional

    def add_copies(self, tasks: Iterable[int]) -> None:
        """One more worker has each of these."""
        for task in tasks:
            self.copies[task] = self.copies.get(task, 1) + 1

    def let_go(self, frame: SentFrame) -> list[int]:
        """The tasks of a frame that is over which no other worker has, and which wait for a result."""
        if frame.is_double:
            self.doubles.back(frame.tasks)
            return []
        if not self.copies:
            return self.ledger.assigned(frame.tasks)
        alone = []
        for task in frame.tasks:
            others = self.copies.get(task, 1) - 1
            if others > 1:
                self.copies[task] = others
            elif others == 1:
                del self.copies[task]
            elif self.ledger.state(task) == TaskState.ASSIGNED:
                alone.append(task)
        return alone

    def picture(self, blocked: str) -> JobPicture:
        """The job as people see it."""
        ledger = self.ledger
        return JobPicture(
            job=self.spec.job,
            tasks=ledger.tasks,
            open=ledger.count(TaskState.OPEN),
            assigned=ledger.count(TaskState.ASSIGNED),
            provisional=ledger.count(TaskState.PROVISIONAL),
            final=ledger.count(TaskState.FINAL),
            failed=ledger.failed(),
            retried=self.retried,
            audited=0 if self.verification is None else self.verification.audited,
            audits_failed=0 if self.verification is None else self.verification.audits_failed,
            peers={peer: count for peer, count in self.kept.items() if count},
            blocked=blocked,
            hedged=self.hedged,
            verify=self.spec.verify,
            copied=self.copied,
            error_bound=None if self.verification is None else self.verification.doubt,
            grounds=self._grounds(),
            earlier=len(self.spec.final),
        )

    def _grounds(self) -> dict[str, int]:
        found = {} if self.verification is None else {str(ground): n for ground, n in self.verification.finals.items()}
        return found | ({"unchecked": self.believed} if self.believed else {})

    def check(self) -> None:
        """Asserts that every provisional task is accounted for."""
        self.ledger.check()
        if self.verification is not None:
            self.verification.check()
        self.doubles.check()
        job = self.spec.job
        provisional = self.ledger.count(TaskState.PROVISIONAL)
        accounted = self.settling + self.unsettled
        assert provisional == accounted, (
            f"job {job}: {provisional} tasks are provisional, {accounted} are accounted for"
        )


def demand_of(spec: JobSpec) -> Demand:
    """What one task of the job asks of a peer."""
    return Demand(
        spec.model,
        units=spec.items_per_task,
        transfer_bytes=spec.bytes_per_task,
        prior_s=max(spec.seconds_per_item, 1e-9),
        model_bytes=spec.model_bytes,
        kind=spec.device_kind,
        memory_bytes_min=spec.memory_bytes_min,
        local_only=spec.local_only,
    )


def candidate_of(
    peer: PeerId, offer: WorkerOffer, *, bytes_per_s: float = BYTES_PER_S_PRIOR, leave_rate: float = 0.0
) -> Candidate:
    return Candidate(
        peer,
        kinds=offer.kinds,
        memory_bytes=offer.memory_bytes,
        local=offer.local,
        rtt_s=0.0 if offer.local else RTT_PRIOR_S if offer.rtt_s is None else offer.rtt_s,
        bytes_per_s=bytes_per_s,
        leave_rate=leave_rate,
        p_ok=offer.p_ok,
        copies=offer.copies,
        is_relayed=offer.is_relayed,
    )


class Workforce:
    """Jobs, workers, and the frames between them."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.jobs: dict[JobId, CoordinatedJob] = {}
        self.workers: dict[PeerId, Worker] = {}
        self.frames: dict[int, SentFrame] = {}
        self.caught: dict[PeerId, str] = {}
        """Peers that gave a wrong result, and how it was seen."""
        self.table = CandidateTable()
        self.records = TrackRecords()
        self._breakers: dict[PeerId, Breaker] = {}

    # --- workers ---------------------------------------------------------------------------------------------------

    def join(self, peer: PeerId, offer: WorkerOffer, now_s: float) -> Worker:
        worker = self.workers[peer] = Worker(peer, offer, self._breaker(peer))
        self.records.joined(peer, now_s)
        table = self.table
        table.add(
            candidate_of(
                peer,
                offer,
                bytes_per_s=1e12 if offer.local else self.records.bytes_per_s(peer),
                leave_rate=0.0 if offer.local else self.records.leave_rate(peer),
            )
        )
        table.update(peer, room=0)
        if peer in self.caught:
            table.bar(peer, "gave a wrong result")
        table.pause(peer, worker.reason)
        for model in offer.models:
            table.set_load(peer, model, CACHED_LOAD_S)
        return worker

    def leave(self, peer: PeerId, now_s: float) -> Worker | None:
        """Its frames are the caller's to end."""
        worker = self.workers.pop(peer, None)
        if worker is not None:
            self.records.left(peer, now_s, with_work=bool(worker.frames))
            self.table.remove(peer)
            for job in self.jobs.values():
                self._unusable(job, peer, now_s)
        return worker

    def set_window(self, worker: Worker, frames: int, reason: str, now_s: float) -> None:
        worker.window, worker.reason = frames, reason
        self.table.update(worker.peer, slots=worker.slots)
        self.table.pause(worker.peer, "" if frames else reason or "takes no work now")
        for job in self.jobs.values():
            self.judge(job, worker, now_s)

    def bar(self, peer: PeerId, reason: str) -> None:
        """It gave a wrong result, and gets nothing more."""
        self.caught[peer] = reason
        if len(self.caught) > PEERS_REMEMBERED_MAX:
            del self.caught[next(iter(self.caught))]
        if peer in self.table:
            self.table.bar(peer, "gave a wrong result")

    def keep_out(self, peer: PeerId, reason: str) -> None:
        """It gets nothing as long as it stays, although it did nothing wrong."""
        self.table.bar(peer, reason)

    def _breaker(self, peer: PeerId) -> Breaker:
        """The peer's breaker, which outlives its streams."""
        if peer not in self._breakers:
            while len(self._breakers) >= PEERS_REMEMBERED_MAX:
                del self._breakers[next(iter(self._breakers))]
            self._breakers[peer] = Breaker(self._rng)
        return self._breakers[peer]

    def breaker(self, peer: PeerId, now_s: float) -> tuple[str, float]:
        """The state of this peer's breaker, and for how long it is open still."""
        breaker = self._breakers.get(peer)
        if breaker is None:
            return "closed", 0.0
        state = breaker.state(now_s)
        return state, breaker.opens_until_s - now_s if state == "open" else 0.0

    def breakers(self, now_s: float) -> dict[str, int]:
        """How many peers' breakers are in which state."""
        counts = {"closed": 0, "open": 0, "half-open": 0}
        for breaker in self._breakers.values():
            counts[breaker.state(now_s)] += 1
        return counts

    # --- jobs ------------------------------------------------------------------------------------------------------

    def accept(self, spec: JobSpec, now_s: float) -> CoordinatedJob:
        demand = demand_of(spec)
        ledger = Ledger(spec.tasks, retries=spec.retries, final=spec.final, failed=spec.failed)
        job = CoordinatedJob(spec, ledger, demand, now_s, now_s, kept=dict(spec.workers), closed=not spec.online)
        self.jobs[spec.job] = job
        for worker in self.workers.values():
            self.judge(job, worker, now_s)
        return job

    def refuse(self, job: CoordinatedJob, peer: PeerId, reason: str, now_s: float) -> None:
        """This worker gets no more of this job."""
        job.refused[peer] = reason or "refuses the job"
        self._unusable(job, peer, now_s)

    def judge(self, job: CoordinatedJob, worker: Worker, now_s: float) -> None:
        """Whether the job could be given to this worker may have changed."""
        if self.why_not(job, worker.peer) is None:
            job.usable[worker.peer] = None
        else:
            self._unusable(job, worker.peer, now_s)

    def _unusable(self, job: CoordinatedJob, peer: PeerId, now_s: float) -> None:
        if peer in job.usable:
            del job.usable[peer]
            job.last_usable_s = now_s  # until just now, however long ago the last event was

    def why_not(self, job: CoordinatedJob, peer: PeerId) -> str | None:
        """The requirement that rules this worker out for this job, or None."""
        return job.refused[peer] if peer in job.refused else self.table.why_not(job.demand, peer)

    def blocked(self, job: CoordinatedJob) -> str:
        """Which requirement ruled out how many peers, or "" if somebody can be used."""
        if job.usable:
            return ""
        reasons: dict[str, int] = {}
        for peer in self.workers:
            reason = self.why_not(job, peer) or ""
            reasons[reason] = reasons.get(reason, 0) + 1
        if not reasons:
            return "no peer that lends a device is connected"
        return "; ".join(format_group(count, reason) for reason, count in reasons.items())

    # --- frames ----------------------------------------------------------------------------------------------------

    def begin(self, frame: SentFrame) -> None:
        self.frames[frame.number] = frame
        self.workers[frame.peer].frames[frame.number] = frame
        self.jobs[frame.job].frames[frame.number] = frame

    def share(self, frame: SentFrame) -> None:
        """Somebody else has its tasks as well."""
        frame.is_shared = True
        self.jobs[frame.job].shared[frame.number] = frame

    def end(self, frame: SentFrame) -> None:
        del self.frames[frame.number]
        worker, job = self.workers.get(frame.peer), self.jobs.get(frame.job)
        if worker is not None:
            del worker.frames[frame.number]
        if job is not None:
            del job.frames[frame.number]
            job.shared.pop(frame.number, None)

    def check(self) -> None:
        self.table.check()
        assert set(self.table.peers) == self.workers.keys(), "the table has other candidates than there are workers"
        of_workers = {number for worker in self.workers.values() for number in worker.frames}
        of_jobs = {number for job in self.jobs.values() for number in job.frames}
        assert of_workers == of_jobs == self.frames.keys(), "a frame is lost between its job and its worker"
        for job in self.jobs.values():
            job.check()
            usable = {peer for peer in self.workers if self.why_not(job, peer) is None}
            assert job.usable.keys() == usable, (
                f"job {job.spec.job}: {len(usable)} workers fit, {len(job.usable)} known"
            )
            shared = {number for number, frame in job.frames.items() if frame.is_shared}
            assert job.shared.keys() == shared, f"job {job.spec.job}: shared frames {shared}, known {set(job.shared)}"
