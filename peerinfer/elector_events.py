"""What an elector is told, and what it answers with. See `elector`."""

from __future__ import annotations

from dataclasses import dataclass

from peerinfer.ids import JobId, PeerId
from peerinfer.lease_messages import (
    Append,
    Appended,
    Granted,
    JournalPart,
    JournalWanted,
    LeaseRefused,
    LeaseReleased,
    LeaseWanted,
    Prepare,
    Promise,
    SealGiven,
    SealWanted,
    SeatOffered,
    SeatTaken,
    SnapshotPart,
    SnapshotWanted,
)
from peerinfer.messages import Term
from peerinfer.snapshots import Snapshot

Request = SeatOffered | Prepare | LeaseWanted | LeaseReleased | Append | JournalWanted | SnapshotWanted | SealWanted


@dataclass(frozen=True, slots=True)
class Asked:
    """A request from an authenticated peer. `token` comes back with the answer."""

    peer: PeerId
    request: Request
    token: int


@dataclass(frozen=True, slots=True)
class SeatRow:
    """What an elector must not forget of one job, beside the journal's batches."""

    job: JobId
    manifest: bytes
    epoch: int
    promised: Term
    granted: Term
    lease_s: float
    sealed: bool
    over: bool = False
    """The job has ended, and that is final."""
    changes: tuple[bytes, ...] = ()
    """Every `CommitteeChange` up to this epoch."""
    change: bytes = b""
    """Of a sealed epoch: what it was sealed for, and this elector's `SealStatement`."""
    statement: bytes = b""


@dataclass(frozen=True, slots=True)
class Restored:
    """A seat as it was stored, after a restart, or when something could not be stored. It waits a full lease.

    Raises `DecodeError` or `ProtocolError` if manifest or journal are damaged: such a seat must not be used.
    """

    row: SeatRow
    batches: tuple[bytes, ...]
    """From the snapshot's base on, where there is one."""
    snapshot: Snapshot | None = None


@dataclass(frozen=True, slots=True)
class SeatGivenUp:
    """The job is over and its results have been fetched, or they have expired."""

    job: JobId


Event = Asked | Restored | SeatGivenUp


@dataclass(frozen=True, slots=True)
class PersistSeat:
    """Durable before the next effect: written and synced."""

    row: SeatRow


@dataclass(frozen=True, slots=True)
class PersistBatches:
    """Durable before the next effect: the journal from `first` on is replaced by these batches."""

    job: JobId
    first: int
    batches: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PersistSnapshot:
    """Durable before the next effect: this takes the place of the batches before `base`, all at once.

    With `batches` also what is from `base` on is replaced by these: the snapshot is of another journal than was here.
    """

    job: JobId
    base: int
    snapshot: Snapshot
    batches: tuple[bytes, ...] | None = None


@dataclass(frozen=True, slots=True)
class ForgetSeat:
    job: JobId


@dataclass(frozen=True, slots=True)
class Answer:
    token: int
    message: SeatTaken | Promise | Granted | LeaseRefused | Appended | JournalPart | SnapshotPart | SealGiven


Effect = PersistSeat | PersistBatches | PersistSnapshot | ForgetSeat | Answer


@dataclass(frozen=True, slots=True)
class SeatPicture:
    job: JobId
    promised: Term
    holder: str
    remaining_s: float
    batches: int
    term: Term
    """The holder's term; `NO_TERM` while there is none."""
    held_for_s: float
    """How long ago this elector first granted that term, or was restarted."""
    is_over: bool
    """The job has ended, and that is final: nobody needs to campaign for it."""
