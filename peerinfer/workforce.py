"""What a coordinator keeps in mind of its jobs and workers, and which requirement rules a worker out for a job."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

from peerinfer.assignment import JobSpec, WorkerOffer
from peerinfer.ids import JobId, PeerId
from peerinfer.ledger import Ledger
from peerinfer.spotcheck import SpotCheck


@dataclass(slots=True)
class SentFrame:
    number: int
    job: JobId
    peer: PeerId
    tasks: tuple[int, ...]
    sent_s: float
    expires_s: float


@dataclass(slots=True)
class Worker:
    peer: PeerId
    offer: WorkerOffer
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
    closed: bool = True
    retried: int = 0
    audited: int = 0
    audits_failed: int = 0


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
