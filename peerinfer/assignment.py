"""What a coordinator's machine is told and what it answers: jobs, workers, frames, audits, in its own words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from peerinfer.fairness import Priority
from peerinfer.ids import Cid, JobId, PeerId


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What the machine needs to know of a job."""

    job: JobId
    model: Cid
    model_bytes: int
    tasks: int
    items_per_task: int
    bytes_per_task: int
    seconds_per_item: float
    """A guess, until workers have been measured."""
    verify: str = "none"
    """What `--verify` says: none, spot, quorum:K or adaptive."""
    retries: int = 3
    patience_s: float = 60.0
    """How long the job waits without any worker it could use."""
    task_timeout_s: float | None = None
    deadline_s: float | None = None
    """From acceptance."""
    final: tuple[int, ...] = ()
    """Tasks that the journal says are done."""
    workers: tuple[tuple[PeerId, int], ...] = ()
    """Who did those, and how many each."""
    failed: tuple[tuple[int, str], ...] = ()
    """Tasks that the journal says failed for good, and why."""
    settles_s: float = 0.0
    """So long nothing is given out but what workers say that they have computed for an earlier coordinator."""
    kept: tuple[tuple[PeerId, bool, tuple[int, ...]], ...] = ()
    """Results that are here but not in the journal: by whom, whether that was this node, and of which tasks."""
    flops_per_item: float = 1.0
    online: bool = False
    """Tasks keep arriving until the job is closed; it does not end for want of workers."""
    priority: Priority = Priority.NORMAL
    submitter: str = ""
    """Whose job it is: submitters share the workers' time."""
    strategy: str = "adaptive"
    local_only: bool = False
    device_kind: str | None = None
    memory_bytes_min: int = 0


@dataclass(frozen=True, slots=True)
class WorkerOffer:
    """What a worker brings."""

    local: bool
    """This node's own devices."""
    kinds: tuple[str, ...]
    memory_bytes: int
    """Of its largest device."""
    device_class: str = ""
    """Devices of one class are believed to be equally fast until they are measured."""
    speed: float = 0.0
    """Its benchmark, in GFLOP/s; 0 where it is not known."""
    rtt_s: float | None = None
    models: tuple[Cid, ...] = ()
    """Models that lie on its disk."""
    is_relayed: bool = False
    p_ok: float = 1.0
    """Chance that a result of it comes and is right."""
    copies: float = 1.0
    """Executions that one result of it costs: 2 where all its work is done twice."""
    groups: tuple[str, ...] = ()
    """Its public subnets: no two copies of a task go to peers that share one."""


# --- events --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JobAccepted:
    spec: JobSpec


@dataclass(frozen=True, slots=True)
class TasksAdded:
    job: JobId
    count: int


WITHDRAWN = "whoever asked for it has gone"


@dataclass(frozen=True, slots=True)
class TaskWithdrawn:
    """Nobody waits for this task of an online job any more: it fails for good, as `WITHDRAWN`."""

    job: JobId
    task: int


@dataclass(frozen=True, slots=True)
class JobClosed:
    """An online job gets no more tasks."""

    job: JobId


@dataclass(frozen=True, slots=True)
class PriorityChanged:
    job: JobId
    priority: Priority


@dataclass(frozen=True, slots=True)
class JobCancelled:
    job: JobId
    reason: str


@dataclass(frozen=True, slots=True)
class JobBroken:
    """This node cannot go on with the job (its disk is full, its inputs are gone)."""

    job: JobId
    reason: str
    kind: str
    """Name of the error."""


@dataclass(frozen=True, slots=True)
class JobDropped:
    """Somebody else may coordinate the job from now on: stop at once, without an end."""

    job: JobId
    reason: str


@dataclass(frozen=True, slots=True)
class TasksCommitted:
    """The journal has these tasks on a quorum."""

    job: JobId
    tasks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WorkerJoined:
    peer: PeerId
    offer: WorkerOffer


@dataclass(frozen=True, slots=True)
class WorkerLost:
    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerRated:
    """What is believed of a worker has changed: its chance of a right result, and the executions that one costs."""

    peer: PeerId
    p_ok: float
    copies: float = 1.0


@dataclass(frozen=True, slots=True)
class LinkMeasured:
    """The way to a worker: its round trip, and whether it leads through a relay."""

    peer: PeerId
    rtt_s: float
    is_relayed: bool


@dataclass(frozen=True, slots=True)
class WindowSet:
    peer: PeerId
    frames: int
    reason: str


@dataclass(frozen=True, slots=True)
class FrameAnswered:
    """Every task of the frame is in `done` or in `failures`, by position."""

    peer: PeerId
    frame: int
    done: tuple[int, ...]
    failures: tuple[tuple[int, str, str], ...]
    compute_s: float
    energy_j: float = 0.0
    """As the worker's receipt says."""


@dataclass(frozen=True, slots=True)
class FrameRefused:
    peer: PeerId
    frame: int
    reason: str
    final: bool


@dataclass(frozen=True, slots=True)
class AuditDone:
    """This node's own device computed the task, and every answer that was there was compared."""

    job: JobId
    task: int
    right: tuple[PeerId, ...] | None
    """None: this node could not compute it either, so nothing is known."""
    wrong: tuple[PeerId, ...] = ()
    detail: str = ""
    imprecise: tuple[PeerId, ...] = ()
    """Who of those in `wrong` is only less precise than the job asks for."""


@dataclass(frozen=True, slots=True)
class CopiesCompared:
    """What `CompareCopies` found: for each task, whose earlier answers say the same."""

    job: JobId
    peer: PeerId
    agrees: tuple[tuple[int, tuple[PeerId, ...]], ...]


@dataclass(frozen=True, slots=True)
class ResultsOffered:
    """This worker computed just these tasks for an earlier coordinator, and answers a frame of them without a new run."""

    peer: PeerId
    job: JobId
    tasks: tuple[int, ...]


JobEvent = (
    TasksAdded | TaskWithdrawn | JobClosed | PriorityChanged | JobCancelled | JobBroken | JobDropped | TasksCommitted
)
"""What happens to one job that the machine has."""


@dataclass(frozen=True, slots=True)
class PeerProven:
    """Another node has caught this peer, and this one has seen for itself that it lied."""

    peer: PeerId
    detail: str


Event = (
    JobAccepted
    | TasksAdded
    | TaskWithdrawn
    | JobClosed
    | PriorityChanged
    | JobCancelled
    | JobBroken
    | JobDropped
    | TasksCommitted
    | WorkerJoined
    | WorkerLost
    | WorkerRated
    | LinkMeasured
    | WindowSet
    | ResultsOffered
    | FrameAnswered
    | FrameRefused
    | AuditDone
    | CopiesCompared
    | PeerProven
)

# --- pictures ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JobPicture:
    """A job as people see it."""

    job: JobId
    tasks: int
    open: int
    assigned: int
    provisional: int
    final: int
    failed: dict[int, str]
    retried: int
    audited: int
    audits_failed: int
    peers: dict[PeerId, int]
    """Tasks that each peer's results were kept of."""
    blocked: str
    """Why nothing can be sent now, or ""."""
    hedged: int = 0
    """Tasks that were given to a second peer because the first was slow."""
    verify: str = "none"
    copied: int = 0
    """Tasks that a further peer has computed, so that the answers could be compared."""
    error_bound: float | None = None
    """Expected share of wrong results among those that were verified; None where nothing was."""
    grounds: dict[str, int] = field(default_factory=dict)
    """Why results are final: how many by a clean window, a check of their own, a quorum, their peers' record."""
    earlier: int = 0
    """Of the final ones, how many were so before this term: whatever is said here of checks is of the others."""


# --- effects -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendFrame:
    peer: PeerId
    frame: int
    job: JobId
    tasks: tuple[int, ...]
    attempts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CancelFrame:
    peer: PeerId
    frame: int
    reason: str
    goes_on: bool = False
    """Somebody else coordinates its job from now on: what the worker has begun is worth finishing."""


@dataclass(frozen=True, slots=True)
class KeepResults:
    """Write these tasks of an answered frame down; the others of it are not wanted."""

    peer: PeerId
    frame: int
    job: JobId
    tasks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DropResults:
    """Nothing of this answer is wanted."""

    peer: PeerId
    frame: int


@dataclass(frozen=True, slots=True)
class CompareCopies:
    """Keep what an answered frame says of these tasks beside the first answers, and compare."""

    peer: PeerId
    frame: int
    job: JobId
    tasks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Audit:
    """Compute the task on this node's own device and compare with what these peers answered, in order of arrival."""

    job: JobId
    task: int
    peers: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class Settle:
    """These results stand up to the job's policy: write them into the journal."""

    job: JobId
    peer: PeerId
    tasks: tuple[int, ...]
    is_last: bool
    """Nothing else of the job is on its way: do not wait for more."""


@dataclass(frozen=True, slots=True)
class VoidResults:
    """These results are not believed any more: forget them before their tasks are given out again."""

    job: JobId
    peer: PeerId
    tasks: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class JobChanged:
    """Something that people may watch has changed."""

    job: JobId


@dataclass(frozen=True, slots=True)
class TaskFailedForGood:
    job: JobId
    task: int
    reason: str


@dataclass(frozen=True, slots=True)
class JobEnded:
    job: JobId
    state: Literal["done", "failed", "cancelled"]
    reason: str
    kind: str
    """Name of the error kind where it failed ("NoSuitablePeer", …), else ""."""
    picture: JobPicture


@dataclass(frozen=True, slots=True)
class DropWorker:
    peer: PeerId
    reason: str


Effect = (
    SendFrame
    | CancelFrame
    | KeepResults
    | DropResults
    | CompareCopies
    | Audit
    | Settle
    | VoidResults
    | JobChanged
    | TaskFailedForGood
    | JobEnded
    | DropWorker
)
