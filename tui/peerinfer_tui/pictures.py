"""What the window knows: frozen pictures of a node, its devices, peers and jobs. Figures that nobody knows are None."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """Why the node or a device does not lend; `until_s` is wall clock, None if it ends with its cause."""

    reason: str
    until_s: float | None = None


@dataclass(frozen=True, slots=True)
class NodePicture:
    peer_id: str = ""
    name: str = ""
    swarm: str = ""
    state: str = ""
    reasons: tuple[Reason, ...] = ()
    addresses: tuple[str, ...] = ()
    reachability: str = ""
    sandbox: str = ""
    version: str = ""
    api: str = ""
    pid: int = 0
    alive: int = 0
    suspect: int = 0
    relayed: int = 0
    jobs_coordinated: int = 0
    coordinators_served: int = 0
    frames_running: int = 0
    frames_waiting: int = 0
    tasks_done: int = 0
    items_done: int = 0
    """For others and for itself, since the daemon began."""
    energy_j: float | None = None
    tasks_given: int = 0
    """For others, over all restarts."""
    compute_given_s: float | None = None


@dataclass(frozen=True, slots=True)
class DevicePicture:
    name: str = ""
    kind: str = ""
    provider: str = ""
    memory_bytes: float | None = None
    memory_used_bytes: float | None = None
    temperature_c: float | None = None
    max_temp_c: float | None = None
    power_w: float | None = None
    max_power_w: float | None = None
    busy_ratio: float | None = None
    gemm_gflops: float | None = None
    bandwidth_gbs: float | None = None
    is_certified: bool | None = None
    state: str = ""
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class PeerPicture:
    peer_id: str = ""
    name: str = ""
    state: str = ""
    lends: str = ""
    """What the peer says of itself: running, paused and so on."""
    path: str = ""
    rtt_ms: float | None = None
    addresses: tuple[str, ...] = ()
    devices: tuple[DevicePicture, ...] = ()
    integrity: float | None = None
    reliability: float | None = None
    evidence: int = 0
    why_not: str = ""
    """Why it gets no work now, or nothing."""
    queue: int = 0
    last_seen_s: float | None = None
    agent: str = ""
    sandbox: str = ""


@dataclass(frozen=True, slots=True)
class Handover:
    """One term of a job: who coordinates, since when, and why."""

    term: int
    coordinator: str
    at_s: float | None
    why: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A task that failed for good."""

    task: int
    first_item: int
    items: int
    reason: str


@dataclass(frozen=True, slots=True)
class JobPicture:
    job_id: str = ""
    state: str = ""
    submitter: str = ""
    coordinator: str = ""
    term: int = 0
    committee: tuple[str, ...] = ()
    handovers: tuple[Handover, ...] = ()
    model: str = ""
    items: int = 0
    tasks: int = 0
    open: int = 0
    assigned: int = 0
    accepted: int = 0
    final: int = 0
    failed: int = 0
    failures: tuple[Failure, ...] = ()
    retried: int = 0
    hedged: int = 0
    audited: int = 0
    audits_failed: int = 0
    peers: tuple[tuple[str, int], ...] = ()
    """Peers and the tasks that were kept of each."""
    elapsed_s: float | None = None
    items_per_second: float | None = None
    verify: str = ""
    priority: str = ""
    strategy: str = ""
    reason: str = ""
    blocked: str = ""
    """Why it does not move, or nothing."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of the daemon's log; its number only grows while the daemon runs."""

    number: int = 0
    at_s: float | None = None
    level: str = ""
    event: str = ""
    fields: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the window shows, as of one moment."""

    node: NodePicture
    devices: tuple[DevicePicture, ...] = ()
    peers: tuple[PeerPicture, ...] = ()
    jobs: tuple[JobPicture, ...] = ()
    log: tuple[LogLine, ...] = ()
    """Lines that were not in a snapshot before."""
