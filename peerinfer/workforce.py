"""What a coordinator keeps in mind of its jobs and workers, and which requirement rules a worker out for a job."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass, field

from peerinfer.assignment import JobPicture, JobSpec, WorkerOffer
from peerinfer.breaker import Breaker
from peerinfer.ids import JobId, PeerId
from peerinfer.ledger import Ledger, TaskState
from peerinfer.spotcheck import SpotCheck


@dataclass(slots=True)
class SentFrame:
    number: int
    job: JobId
    peer: PeerId
    tasks: tuple[int, ...]
    sent_s: float
    expires_s: float
    late_s: float
    """When somebody else may be given the same tasks."""
    is_shared: bool = False
    """Somebody else was, or this is the second copy."""


@dataclass(slots=True)
class Worker:
    peer: PeerId
    offer: WorkerOffer
    breaker: Breaker
    window: int = 0
    reason: str = "has not said yet how much it takes"
    rests_until_s: float = 0.0
    """After a refusal, so that the same frame is not offered in a circle."""
    frames: dict[int, SentFrame] = field(default_factory=dict)


@dataclass(slots=True)
class CoordinatedJob:
    spec: JobSpec
    ledger: Ledger
    accepted_s: float
    last_usable_s: float
    usable: bool = False
    """Whether there was a worker for it after the last event."""
    refused: dict[PeerId, str] = field(default_factory=dict)
    refusals: dict[PeerId, int] = field(default_factory=dict)
    """In a row, and not for good."""
    strikes: dict[PeerId, int] = field(default_factory=dict)
    warm: set[PeerId] = field(default_factory=set)
    served_s: float = 0.0
    checks: dict[PeerId, SpotCheck] = field(default_factory=dict)
    audits: int = 0
    """Out at this moment."""
    settling: int = 0
    """Tasks that are on their way into the journal."""
    kept: dict[PeerId, int] = field(default_factory=dict)
    copies: dict[int, int] = field(default_factory=dict)
    """Tasks that are with more than one worker, and with how many."""
    closed: bool = True
    failures: int = 0
    retried: int = 0
    hedged: int = 0
    audited: int = 0
    audits_failed: int = 0

    def let_go(self, frame: SentFrame) -> list[int]:
        """The tasks of a frame that is over which no other worker has, and which wait for a result."""
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
            audited=self.audited,
            audits_failed=self.audits_failed,
            peers={peer: count for peer, count in self.kept.items() if count},
            blocked=blocked,
            hedged=self.hedged,
        )

    def check(self) -> None:
        """Asserts that every provisional task and every audit is accounted for."""
        self.ledger.check()
        for check in self.checks.values():
            check.check()
        job = self.spec.job
        accounted = self.settling + sum(len(check.unsettled) for check in self.checks.values())
        provisional = self.ledger.count(TaskState.PROVISIONAL)
        assert provisional == accounted, (
            f"job {job}: {provisional} tasks are provisional, {accounted} are accounted for"
        )
        audits = sum(len(check.audits) for check in self.checks.values())
        assert audits == self.audits, f"job {job}: {audits} audits are out, {self.audits} are counted"
        assert math.isfinite(self.served_s)


def why_not(job: CoordinatedJob, worker: Worker, caught: Container[PeerId]) -> str | None:
    """The requirement that rules this worker out for this job, or None. `caught` gave wrong results."""
    spec, offer = job.spec, worker.offer
    if spec.local_only and not offer.local:
        return "only this node's own devices were asked for"
    if worker.peer in caught:
        return "gave a wrong result"
    if worker.peer in job.refused:
        return job.refused[worker.peer]
    if spec.device_kind is not None and spec.device_kind not in offer.kinds:
        return f"has no {spec.device_kind.upper()} to lend"
    if offer.memory_bytes < spec.memory_bytes_min:
        return "has too little device memory"
    if worker.window == 0:
        return worker.reason or "takes no work now"
    return None
