"""Messages about work. docs/PROTOCOL.md explains the conversations; a test keeps the two in step.

Tags 1–19 work streams, 20–29 blobs, 30–39 members and relays (`member_messages`), 40–49 signed statements, 50–59 records
on disk, 60–79 lease and journal (`lease_messages`), 80–89 copies of a job (`replica_messages`), 90–99 reachability
(`member_messages`), 100–109 statements that spread (`spread_messages`).
"""

from __future__ import annotations

from peerinfer.codec import (
    blob,
    flag,
    listed,
    message,
    number,
    one_of,
    optional,
    packed_u32,
    part,
    record,
    text,
    uint,
    wire,
)
from peerinfer.limits import (
    ADDRESSES_PER_PEER_MAX,
    BLOB_CHUNKS_MAX,
    BLOB_OTHERS_MAX,
    COMMITTEE_MAX,
    DEVICES_PER_NODE_MAX,
    EPOCHS_MAX,
    EXECUTIONS_MAX,
    FRAME_TASKS_MAX,
    MODELS_PER_ADVERT_MAX,
    NAME_CHARS_MAX,
    REASON_CHARS_MAX,
    TENSORS_MAX,
    TERM_ROUND_MAX,
    WINDOW_FRAMES_MAX,
)
from peerinfer.tensors import Port, TensorSpec

PROTOCOL_VERSION = 1

PROTOCOL_REVISION = 4
"""Grows with every message, every dtype and every limit that is raised in version 1: a peer is sent only what it knows."""

RESULTS_HELD_REVISION = 2
STRINGS_REVISION = 2
"""The first that carries tensors of strings."""

_id = text(64)
_cid = text(64)
_reason = text(REASON_CHARS_MAX)
_name = text(NAME_CHARS_MAX)
_digest = blob(32, exactly=32)

# --- work streams --------------------------------------------------------------------------------------------------


@message(1)
class Hello:
    """The first message of each side on every stream. A peer with another version is told so and left alone."""

    version: int = wire(uint(16))
    agent: str = wire(_name)
    swarm: str = wire(text(64), default="")
    revision: int = wire(uint(16), default=0)
    """Of the protocol's version: which messages, added since, the sender understands."""


def _window(value: object) -> int:
    if type(value) is not int or not 0 <= value <= WINDOW_FRAMES_MAX:
        raise ValueError(f"not a window of at most {WINDOW_FRAMES_MAX} frames")
    return value


@message(2)
class Window:
    """From the worker: how many frames the coordinator may have in flight here, from now on. Zero with its reason.

    A window is absolute and not a count of permits, so that a repeated or lost one cannot add up to an error.
    """

    frames: int = wire(_window)
    reason: str = wire(_reason, default="")


def _term_round(value: object) -> int:
    if type(value) is not int or not 0 <= value <= TERM_ROUND_MAX:
        raise ValueError("not a term's round")
    return value


@part
class Term:
    """The fencing token of a job's coordinator: grows with every lease, ordered by round, then by candidate."""

    round: int = wire(_term_round)
    candidate: str = wire(_id)

    @property
    def order(self) -> tuple[int, str]:
        return (self.round, self.candidate)


@message(3)
class JobBrief:
    """From the coordinator, before the first frame of a job on a stream: what the frames will be about."""

    job: str = wire(_id)
    term: Term = wire(record(Term))
    model: str = wire(_cid)
    model_bytes: int = wire(uint(48))
    outputs: tuple[str, ...] = wire(listed(_name, TENSORS_MAX))
    """Names of the outputs wanted, in order; empty means all."""
    merge: bool = wire(flag)
    """True if the tasks' inputs may be joined along their first axis into one batch."""
    timeout_s: float = wire(number)
    """Longest time for one task."""
    receipts: bool = wire(flag, default=True)
    """False for online requests, which leave nothing behind: signing and checking would be a tenth of their time."""
    manifest: bytes = wire(blob(1 << 19), default=b"")
    """The job's `Signed` `Manifest`, which names its committee; with `certificate`, or not at all."""
    certificate: tuple[bytes, ...] = wire(listed(blob(4096), COMMITTEE_MAX), default=())
    """The `Signed` `Grant`s that made `term` the coordinator's."""
    priority: int = wire(uint(8), default=2)
    """0 urgent, 1 high, 2 normal, 3 low. It decides between jobs of one submitter, and between those in credit."""
    deadline_s: float = wire(number, default=0.0)
    """Seconds from now until the job should be done; 0 if there is no such time."""
    changes: tuple[bytes, ...] = wire(listed(blob(16384), EPOCHS_MAX), default=())
    """Every `CommitteeChange` of the job, where its first committee is not the one that granted the term."""


@message(4)
class Frame:
    """Tasks for the worker. The body holds the tensors one after the other, unless `inputs` names a blob that does."""

    frame: int = wire(uint(48))
    job: str = wire(_id)
    term: Term = wire(record(Term))
    tasks: tuple[int, ...] = wire(packed_u32(FRAME_TASKS_MAX))
    attempts: tuple[int, ...] = wire(packed_u32(FRAME_TASKS_MAX))
    items: tuple[int, ...] = wire(packed_u32(FRAME_TASKS_MAX))
    """Items (rows along the first axis) of each task."""
    tensors: tuple[TensorSpec, ...] = wire(listed(record(TensorSpec), TENSORS_MAX))
    """The first dimension is the sum of `items`, except for scalars, which all items share."""
    inputs: str | None = wire(optional(_cid), default=None)
    inputs_bytes: int = wire(uint(48), default=0)


@part
class OutputGroup:
    """Outputs of several tasks of a frame that share everything but the first dimension."""

    positions: tuple[int, ...] = wire(packed_u32(FRAME_TASKS_MAX))
    """Which tasks of the frame, by position; their items stand along the first axis in this order."""
    tensors: tuple[TensorSpec, ...] = wire(listed(record(TensorSpec), TENSORS_MAX))


FAILURE_KINDS = ("model", "timeout", "memory", "crash", "cancelled", "internal")


@part
class TaskFailure:
    """Why one task of a frame has no outputs."""

    position: int = wire(uint(16))
    kind: str = wire(one_of(*FAILURE_KINDS))
    reason: str = wire(_reason)


@part
class Execution:
    """Runs of a model over equally many rows."""

    rows: int = wire(uint(32))
    runs: int = wire(uint(32))
    compute_s: float = wire(number)
    """All of them together."""


@message(5)
class Results:
    """From the worker: what became of a frame, every task in exactly one group or failure."""

    frame: int = wire(uint(48))
    groups: tuple[OutputGroup, ...] = wire(listed(record(OutputGroup), FRAME_TASKS_MAX))
    failures: tuple[TaskFailure, ...] = wire(listed(record(TaskFailure), FRAME_TASKS_MAX))
    compute_s: float = wire(number)
    receipt: bytes = wire(blob(16384))
    """A `Signed` `Receipt`."""
    outputs: str | None = wire(optional(_cid), default=None)
    outputs_bytes: int = wire(uint(48), default=0)
    executions: tuple[Execution, ...] = wire(listed(record(Execution), EXECUTIONS_MAX), default=())
    """Of online requests: in which batches they ran."""


@message(6)
class Refused:
    """From the worker: it will not run this frame, and nothing of it was run."""

    frame: int = wire(uint(48))
    reason: str = wire(_reason)
    final: bool = wire(flag)
    """True if it would refuse the job's other frames too (model refused), false if it is only busy now."""


@message(7)
class Cancel:
    """From the coordinator: stop this frame; no answer is expected."""

    frame: int = wire(uint(48))
    reason: str = wire(_reason)
    goes_on: bool = wire(flag, default=False)
    """The job goes on under another coordinator: what has begun is worth finishing and keeping."""


@message(8)
class JobDone:
    """From the coordinator: nothing of this job will come any more; what is held for it may go."""

    job: str = wire(_id)


@message(11)
class ResultsHeld:
    """From the worker: it has computed these tasks for an earlier coordinator of the job, or is about to have.

    A frame of just these tasks, in this order, is answered without a second run. Nothing follows from it by itself.
    """

    job: str = wire(_id)
    tasks: tuple[int, ...] = wire(packed_u32(FRAME_TASKS_MAX))


@message(9)
class KeepAlive:
    """Says that the sender is alive and has nothing else to say."""


@message(10)
class Goodbye:
    """The last message: the sender closes the stream on purpose."""

    reason: str = wire(_reason)


# --- blobs ---------------------------------------------------------------------------------------------------------


@message(20)
class BlobManifestWanted:
    cid: str = wire(_cid)
    again: bool = wire(flag, default=False)
    """Only what the other one holds by now is asked; the answer has no body."""


@message(21)
class BlobManifest:
    """The body holds the manifest's bytes, whose hash is the cid."""

    cid: str = wire(_cid)
    holds: bytes = wire(blob(BLOB_CHUNKS_MAX // 8), default=b"")
    """One bit for each chunk, the lowest of the first byte first; empty from whoever has all of them."""
    others: tuple[str, ...] = wire(listed(_id, BLOB_OTHERS_MAX), default=())
    """Peers that asked for it lately: they have it, or some of it."""


@message(22)
class BlobChunksWanted:
    cid: str = wire(_cid)
    first: int = wire(uint(32))
    count: int = wire(uint(16))


@message(23)
class BlobChunk:
    """The body holds one chunk."""

    cid: str = wire(_cid)
    index: int = wire(uint(32))


@message(24)
class BlobRefused:
    cid: str = wire(_cid)
    reason: str = wire(_reason)


# --- signed statements ---------------------------------------------------------------------------------------------


@message(40)
class Signed:
    """A message with its author. See `envelope.py` for what the signature covers."""

    signer: str = wire(_id)
    payload: bytes = wire(blob(1 << 20))
    signature: bytes = wire(blob(64, exactly=64))


@part
class DeviceAdvert:
    """One device as its owner offers it."""

    name: str = wire(_name)
    kind: str = wire(one_of("cpu", "gpu"))
    provider: str = wire(text(64))
    memory_bytes: int = wire(uint(63))
    gemm_gflops: float = wire(number)
    bandwidth_gbs: float = wire(number)


@message(41)
class Advert:
    """A node's capability advertisement. Of two with the same signer the higher (incarnation, sequence) is the truth."""

    incarnation: int = wire(uint(63))
    """Wall-clock milliseconds at which the node started: grows with every start."""
    sequence: int = wire(uint(48))
    issued_at_s: float = wire(number)
    """Wall clock of the signer, seconds since 1970."""
    name: str = wire(_name)
    agent: str = wire(_name)
    addresses: tuple[str, ...] = wire(listed(text(256), ADDRESSES_PER_PEER_MAX))
    state: str = wire(text(16))
    """running, paused, finishing, idle (lends nothing) or left."""
    reasons: tuple[str, ...] = wire(listed(_reason, 16))
    devices: tuple[DeviceAdvert, ...] = wire(listed(record(DeviceAdvert), DEVICES_PER_NODE_MAX))
    models: tuple[str, ...] = wire(listed(_cid, MODELS_PER_ADVERT_MAX))
    sandbox: str = wire(text(16))
    elects: bool = wire(flag, default=False)
    """Stays, and may sit in the committees of others' jobs."""
    relays: bool = wire(flag, default=False)
    """It carries connections for peers that cannot be dialled."""


@message(42)
class Receipt:
    """A worker's statement of what it computed: one per frame, committing to the outputs before any audit is known."""

    job: str = wire(_id)
    term: Term = wire(record(Term))
    frame: int = wire(uint(48))
    tasks: tuple[int, ...] = wire(packed_u32(FRAME_TASKS_MAX))
    attempts: tuple[int, ...] = wire(packed_u32(FRAME_TASKS_MAX))
    outputs_digest: bytes = wire(_digest)
    """SHA-256 over the results' body."""
    compute_s: float = wire(number)
    device: str = wire(_name)
    energy_j: float = wire(number, default=0.0)
    """What the device took meanwhile; 0 where it does not tell its power."""
    at_s: float = wire(number, default=0.0)
    """The worker's wall clock when it had the outputs; 0 where it does not say."""
    kind: str = wire(text(16), default="")
    """Of the device: cpu or gpu."""
    provider: str = wire(text(64), default="")
    work: bytes = wire(blob(32), default=b"")
    """SHA-256 over a `WorkDone`, which says what was computed from what. Empty without a certificate of the job's lease:
    then nobody knows which model the job is about."""


@part
class OutputRule:
    """How one output of a job is compared. A tolerance below 0: by dtype."""

    name: str = wire(_name)
    compare: str = wire(text(16))
    rtol: float = wire(number)
    """Where both answers come from devices of one class."""
    atol: float = wire(number)
    """A part of the largest magnitude in the reference."""
    rtol_other: float = wire(number)
    """Where they do not."""
    atol_other: float = wire(number)


@message(43)
class Manifest:
    """The immutable description of a job, signed by its submitter. The job's id is the hash of this message."""

    submitter: str = wire(_id)
    created_at_s: float = wire(number)
    nonce: bytes = wire(blob(16, exactly=16))
    model: str = wire(_cid)
    model_sha256: bytes = wire(_digest)
    inputs: tuple[Port, ...] = wire(listed(record(Port), TENSORS_MAX))
    outputs: tuple[Port, ...] = wire(listed(record(Port), TENSORS_MAX))
    given: tuple[TensorSpec, ...] = wire(listed(record(TensorSpec), TENSORS_MAX))
    """The whole arrays that feed the inputs; their first axis counts items."""
    items: int = wire(uint(48))
    tasks: int = wire(uint(32))
    items_per_task: int = wire(uint(32))
    inputs_digest: bytes = wire(_digest)
    """SHA-256 over the task keys in order: what the inputs were."""
    verify: str = wire(text(32))
    compare: str = wire(text(32))
    rtol: float = wire(number)
    atol: float = wire(number)
    committee: tuple[str, ...] = wire(listed(_id, 16))
    byzantine: int = wire(uint(8))
    """How many liars among the committee are tolerated (b of the quorum formula)."""
    lease_s: float = wire(number, default=3.0)
    """How long its leases are; only the lengths of `lease_profile` are taken."""
    rules: tuple[OutputRule, ...] = wire(listed(record(OutputRule), TENSORS_MAX), default=())
    """For outputs that are compared otherwise than by `compare`, `rtol` and `atol`."""


# --- records on disk -----------------------------------------------------------------------------------------------


@part
class RecordGroup:
    """Outputs of some tasks, joined along the first axis."""

    tasks: tuple[int, ...] = wire(packed_u32(FRAME_TASKS_MAX))
    rows: tuple[int, ...] = wire(packed_u32(FRAME_TASKS_MAX))
    """Rows of each task, in the same order."""
    tensors: tuple[TensorSpec, ...] = wire(listed(record(TensorSpec), TENSORS_MAX))


@message(50)
class ResultRecord:
    """The header of one record of a job's spool: an answered frame. The tensors follow it."""

    peer: str = wire(_id)
    frame: int = wire(uint(48))
    groups: tuple[RecordGroup, ...] = wire(listed(record(RecordGroup), FRAME_TASKS_MAX))
    receipt: bytes = wire(blob(16384), default=b"")
    """The frame's `Signed` `Receipt`. After a job was resumed with another order of tasks it names them as they were."""
