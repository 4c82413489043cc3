"""What a candidate is told, and what it answers with. See `candidacy`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from peerinfer.ids import PeerId
from peerinfer.journal_rules import NO_TERM
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
from peerinfer.register import Entry

HAND_OVER_S = 0.3
"""A lease that is given back on purpose is kept this long, at most, for what is not committed yet."""

Request = SeatOffered | Prepare | LeaseWanted | LeaseReleased | Append | JournalWanted | SnapshotWanted | SealWanted
Reply = SeatTaken | Promise | Granted | LeaseRefused | Appended | JournalPart | SnapshotPart | SealGiven


@dataclass(frozen=True, slots=True)
class Campaign:
    """Try to become the coordinator now."""


@dataclass(frozen=True, slots=True)
class LeaseSeen:
    """This node's own elector granted `holder` the lease until `until_s` on this machine's clock.

    "" as holder: the lease was given back, or there is none, and nobody needs to be waited for after `until_s`.
    To be told at the start, from the elector's seat, at every grant and at every release.
    """

    holder: str
    until_s: float
    term: Term = NO_TERM
    """The holder's; the next campaign begins above it."""


@dataclass(frozen=True, slots=True)
class Heard:
    elector: PeerId
    reply: Reply


@dataclass(frozen=True, slots=True)
class Unheard:
    """A request to this elector failed or timed out: whether it had an effect is not known."""

    elector: PeerId


@dataclass(frozen=True, slots=True)
class Write:
    """Entries for the journal; taken while this node holds the lease, dropped otherwise."""

    entries: tuple[Entry, ...]
    event: str = ""
    detail: str = ""
    is_last: bool = False
    """Nothing more comes soon: do not wait for it."""


@dataclass(frozen=True, slots=True)
class HandOver:
    """Give the lease back, on purpose, and do not campaign again until told to.

    `holds` is false from here on. `Lost` follows when what was written is committed, at the latest after `HAND_OVER_S`;
    at once if nothing is under way, and not at all if this node does not coordinate.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class ChangeCommittee:
    """Let these elect in place of the committee: at most one of them may be new (as many as liars are tolerated).

    Taken while this node coordinates, dropped otherwise. `CommitteeChanged` follows when it is done.
    """

    committee: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class ChangesSeen:
    """This node's own elector has taken a seat of a later epoch."""

    changes: tuple[bytes, ...]


Event = Campaign | LeaseSeen | Heard | Unheard | Write | HandOver | ChangeCommittee | ChangesSeen


@dataclass(frozen=True, slots=True)
class Ask:
    elector: PeerId
    request: Request


@dataclass(frozen=True, slots=True)
class Won:
    """This node coordinates from now on, in this term; the journal's register says what is done."""

    term: Term


@dataclass(frozen=True, slots=True)
class Committed:
    """These batches have a quorum: what they say is final."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Lost:
    """This node does not coordinate any more; it must have stopped already when this is performed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Over:
    """The job has ended, and a quorum knows it. A candidate that finds an end which may not have a quorum gives it one
    under its own term first, because another candidate may not have seen it."""


@dataclass(frozen=True, slots=True)
class CommitteeChanged:
    """Another committee elects from here on; what was asked of the one before does not matter any more.

    If this node is not one of its candidates, it is done with the job.
    """

    changes: tuple[bytes, ...]
    """All of them, from the first epoch on."""
    committee: tuple[str, ...]
    is_candidate: bool


Effect = Ask | Won | Committed | Lost | Over | CommitteeChanged


class Phase(Enum):
    WATCHING = "watching"
    PREPARING = "preparing"
    RECOVERING = "recovering"
    LEASING = "leasing"
    OPENING = "opening"
    HOLDING = "holding"
    SEALING = "sealing"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class CandidacyPicture:
    phase: str
    term: int
    valid_until_s: float
    committed: int
    waiting: str
    """What is missing, in words, or ""."""
    holder: str
    """Peer id of who holds the lease, as far as is known here, or ""."""
    missing: tuple[str, ...]
    """Electors that have not answered lately: the holder's renewals, or the last campaign that failed for it."""
