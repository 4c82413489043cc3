"""Messages between candidates and electors: tags 60–69 the lease, 70–79 the journal, on `/peerinfer/lease/1`."""

from __future__ import annotations

from peerinfer.codec import blob, flag, listed, message, number, one_of, packed_u32, record, text, uint, wire
from peerinfer.limits import (
    COMMITTEE_MAX,
    ELECTORS_BEFORE_MAX,
    EPOCHS_MAX,
    JOURNAL_BATCH_BYTES_MAX,
    JOURNAL_BATCH_PEERS_MAX,
    JOURNAL_BATCH_TASKS_MAX,
    JOURNAL_BATCHES_PER_MESSAGE_MAX,
    MILESTONES_BYTES_MAX,
    REASON_CHARS_MAX,
    SNAPSHOT_PART_BYTES,
    SNAPSHOT_PEERS_MAX,
)
from peerinfer.messages import Term

JOURNAL_REVISION = 4
"""The first whose electors and candidates know all events of journals, and batches as large as they may be."""

_id = text(64)
_reason = text(REASON_CHARS_MAX)
_digest = blob(32, exactly=32)
_statement = blob(4096)
_change = blob(16384)
_batch = blob(JOURNAL_BATCH_BYTES_MAX)
_part = blob(SNAPSHOT_PART_BYTES + (1 << 15))


@message(60)
class SeatOffered:
    """From the submitter, or from who coordinates: be an elector of this job. Answered by `SeatTaken` or `LeaseRefused`."""

    manifest: bytes = wire(blob(1 << 19))
    """A `Signed` `Manifest`."""
    changes: tuple[bytes, ...] = wire(listed(_change, EPOCHS_MAX), default=())
    """Every `CommitteeChange` since, in order: the seat is one of the last one's committee."""
    batches: tuple[bytes, ...] = wire(listed(_batch, JOURNAL_BATCHES_PER_MESSAGE_MAX), default=())
    """Of the journal up to that change, as far as the elector said that it has not got them."""
    snapshot: bytes = wire(_part, default=b"")
    """As in `Append`."""


@message(61)
class SeatTaken:
    job: str = wire(_id)
    epoch: int = wire(uint(32), default=0)
    sequence: int = wire(uint(32), default=0)
    """The first batch that is missing or differs here; it matters where the seat is not ready."""
    is_ready: bool = wire(flag, default=True)
    """False while the journal here does not reach up to the change that began the epoch: nothing is promised before."""
    snapshot_bytes: int = wire(uint(48), default=0)
    """As in `Appended`."""


@message(62)
class Prepare:
    """From a candidate: promise to refuse lower terms, and say how far your journal goes."""

    job: str = wire(_id)
    epoch: int = wire(uint(32))
    term: Term = wire(record(Term))
    nonce: int = wire(uint(63))


@message(63)
class Promise:
    job: str = wire(_id)
    epoch: int = wire(uint(32))
    term: Term = wire(record(Term))
    nonce: int = wire(uint(63))
    last: Term = wire(record(Term))
    """The term of the journal's last batch."""
    sequence: int = wire(uint(32))
    """How many batches the journal holds."""
    statement: bytes = wire(_statement, default=b"")
    """A sealed elector accepts nothing any more in this epoch, which is more than a promise: its `SealStatement`."""
    change: bytes = wire(_change, default=b"")
    """What it sealed for: the `Signed` `JournalBatch` that names the next committee."""


@message(64)
class LeaseWanted:
    """From a candidate with a quorum of promises, and from the holder to renew."""

    job: str = wire(_id)
    epoch: int = wire(uint(32))
    term: Term = wire(record(Term))
    nonce: int = wire(uint(63))
    lease_s: float = wire(number)


@message(65)
class Grant:
    """An elector's word, signed: until `lease_s` after it received the request it grants nobody else."""

    job: str = wire(_id)
    epoch: int = wire(uint(32))
    term: Term = wire(record(Term))
    nonce: int = wire(uint(63))
    lease_s: float = wire(number)


@message(66)
class Granted:
    nonce: int = wire(uint(63))
    grant: bytes = wire(blob(4096))
    """A `Signed` `Grant`."""


LEASE_REFUSALS = ("stale", "held", "sealed", "unknown", "denied", "gap", "full")


@message(67)
class LeaseRefused:
    """Why an elector did not do what it was asked, with what the asker needs to do better."""

    job: str = wire(_id)
    nonce: int = wire(uint(63))
    kind: str = wire(one_of(*LEASE_REFUSALS))
    reason: str = wire(_reason)
    promised: Term = wire(record(Term))
    """The highest term seen (stale), or the holder's (held)."""
    remaining_s: float = wire(number, default=0.0)
    """How long the other holder's lease still runs (held)."""
    sequence: int = wire(uint(32), default=0)
    """The first batch that is missing or differs here (gap)."""
    statement: bytes = wire(_statement, default=b"")
    change: bytes = wire(_change, default=b"")
    """As in `Promise` (sealed)."""
    changes: tuple[bytes, ...] = wire(listed(_change, EPOCHS_MAX), default=())
    """Every `CommitteeChange` from the asker's epoch on (sealed)."""
    snapshot_bytes: int = wire(uint(48), default=0)
    """As in `Appended` (gap)."""


@message(68)
class LeaseReleased:
    """From the holder: the lease may go to somebody else at once. This term is never used again."""

    job: str = wire(_id)
    epoch: int = wire(uint(32))
    term: Term = wire(record(Term))
    is_over: bool = wire(flag, default=False)
    """The job has ended, a quorum has it in writing, and so has this elector: there is nothing left to elect for."""


@message(70)
class JournalBatch:
    """Entries of a job's journal, signed by the holder of `term`. `previous` chains it to the batch before."""

    job: str = wire(_id)
    epoch: int = wire(uint(32))
    term: Term = wire(record(Term))
    sequence: int = wire(uint(32))
    previous: bytes = wire(_digest)
    tasks: tuple[int, ...] = wire(packed_u32(JOURNAL_BATCH_TASKS_MAX))
    digests: bytes = wire(blob(16 * JOURNAL_BATCH_TASKS_MAX))
    """16 bytes for each task: of its outputs, or of the reason for which it failed."""
    workers: tuple[int, ...] = wire(packed_u32(JOURNAL_BATCH_TASKS_MAX))
    """For each task the worker, as a position in `peers`; `FAILED_TASK` where the task failed for good."""
    peers: tuple[str, ...] = wire(listed(_id, JOURNAL_BATCH_PEERS_MAX))
    event: str = wire(text(32), default="")
    """accepted, takeover, committee, or the job's end: done, failed, cancelled."""
    detail: str = wire(_reason, default="")
    certificate: tuple[bytes, ...] = wire(listed(blob(4096), COMMITTEE_MAX), default=())
    """With accepted and takeover: the grants that made `term` the holder's."""
    at_s: float = wire(number, default=0.0)
    """Wall clock of the holder, for people."""
    committee: tuple[str, ...] = wire(listed(_id, COMMITTEE_MAX), default=())
    """With committee, the last entry of an epoch: who elects in the next one."""
    state: bytes = wire(blob(32), default=b"")
    """With checkpoint: SHA-256 of the journal's `JournalState` and register up to here. All before is committed."""


FAILED_TASK = 0xFFFFFFFF


@message(71)
class Append:
    """From the holder: make these batches durable. Each is a `Signed` `JournalBatch`."""

    job: str = wire(_id)
    epoch: int = wire(uint(32))
    term: Term = wire(record(Term))
    nonce: int = wire(uint(63))
    batches: tuple[bytes, ...] = wire(listed(_batch, JOURNAL_BATCHES_PER_MESSAGE_MAX))
    snapshot: bytes = wire(_part, default=b"")
    """In place of batches that the holder has not got any more: the next `SnapshotPart`."""


@message(72)
class Appended:
    """From an elector: all batches below `sequence` are durable here, and the last has this hash."""

    job: str = wire(_id)
    nonce: int = wire(uint(63))
    term: Term = wire(record(Term))
    sequence: int = wire(uint(32))
    head: bytes = wire(_digest)
    snapshot_bytes: int = wire(uint(48), default=0)
    """So much of a snapshot has come, while it is on its way."""


@message(73)
class JournalWanted:
    """From a candidate that recovers, or anybody of the committee: the batches from `first` on."""

    job: str = wire(_id)
    nonce: int = wire(uint(63))
    first: int = wire(uint(32))


@message(74)
class JournalPart:
    job: str = wire(_id)
    nonce: int = wire(uint(63))
    first: int = wire(uint(32))
    batches: tuple[bytes, ...] = wire(listed(_batch, JOURNAL_BATCHES_PER_MESSAGE_MAX))
    """None when there are no more."""
    base: int = wire(uint(32), default=0)
    """Batches before this one are to be had as a snapshot alone."""


@message(75)
class SealWanted:
    """Close this epoch for ever, for the committee that `change` names. Answered by `SealGiven` or `LeaseRefused`.

    From the holder whose journal ends with the change; or from anybody who may ask, with another elector's word that it
    has sealed for it: only a change that a quorum holds is ever sealed for.
    """

    job: str = wire(_id)
    epoch: int = wire(uint(32))
    term: Term = wire(record(Term))
    nonce: int = wire(uint(63))
    change: bytes = wire(_change)
    """A `Signed` `JournalBatch`."""
    proofs: tuple[bytes, ...] = wire(listed(_statement, COMMITTEE_MAX), default=())
    """`SealStatement`s of others."""
    batches: tuple[bytes, ...] = wire(listed(_batch, JOURNAL_BATCHES_PER_MESSAGE_MAX), default=())
    """Of the journal up to the change, as far as the elector said that it has not got them."""
    snapshot: bytes = wire(_part, default=b"")
    """As in `Append`."""


@message(76)
class SealStatement:
    """An elector's word, signed: it grants and accepts nothing any more in this epoch. It is given for one change only."""

    job: str = wire(_id)
    epoch: int = wire(uint(32))
    change: bytes = wire(_digest)
    """Hash of the journal's batch that names the next committee."""
    promised: Term = wire(record(Term))
    granted: Term = wire(record(Term))
    """The last term that it granted."""
    lease_s: float = wire(number)


@message(77)
class SealGiven:
    job: str = wire(_id)
    nonce: int = wire(uint(63))
    statement: bytes = wire(_statement)


@message(51)
class JournalState:
    """What a snapshot says of the batches before it, beside their register. Stands before it in a snapshot's bytes."""

    sequence: int = wire(uint(32))
    """How many batches there were."""
    head: bytes = wire(_digest)
    """Hash of the last of them, whose term and epoch these are."""
    term: Term = wire(record(Term))
    epoch: int = wire(uint(32))
    peers: tuple[str, ...] = wire(listed(_id, SNAPSHOT_PEERS_MAX))
    """Who computed, in the order of their names."""
    milestones: tuple[bytes, ...] = wire(listed(_batch, MILESTONES_BYTES_MAX // 64))
    """Batches with an event that is still to be known: who took over, and when the owner changed the priority."""


@message(52)
class SnapshotWanted:
    """In place of batches before a journal's base: its snapshot from this byte on. Answered by `SnapshotPart`."""

    job: str = wire(_id)
    nonce: int = wire(uint(63))
    offset: int = wire(uint(48))


@message(53)
class SnapshotPart:
    """Some bytes of a snapshot. It counts when all have come and their hash is what the checkpoint says."""

    job: str = wire(_id)
    nonce: int = wire(uint(63))
    total: int = wire(uint(48))
    offset: int = wire(uint(48))
    checkpoint: bytes = wire(_change)
    """The `Signed` `JournalBatch` that vouches for it."""
    data: bytes = wire(blob(SNAPSHOT_PART_BYTES))


@message(78)
class CommitteeChange:
    """Who elects from here on, for anybody who knows the committee before: the change, and the seals of a quorum of it."""

    change: bytes = wire(_change)
    seals: tuple[bytes, ...] = wire(listed(_statement, COMMITTEE_MAX))


@message(69)
class Generation:
    """The owner's word, signed: a quorum is lost for good, and these elect from here on, with a journal of their own.

    Stands as `Signed` in the place of the first `CommitteeChange`; whatever a lower generation says is over.
    """

    job: str = wire(_id)
    generation: int = wire(uint(8))
    """1 for the first that follows the manifest's own."""
    committee: tuple[str, ...] = wire(listed(_id, COMMITTEE_MAX))
    before: tuple[str, ...] = wire(listed(_id, ELECTORS_BEFORE_MAX))
    """Who elected before, as far as the owner knows: they may ask, so that they learn that they do not any more."""
    created_at_s: float = wire(number)
