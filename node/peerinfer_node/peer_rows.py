"""What state.db remembers of peers: where they were, what was seen of them, and what others said."""

from __future__ import annotations

from dataclasses import dataclass

from peerinfer.ids import PeerId


@dataclass(frozen=True, slots=True)
class ReputationRow:
    """What was seen of a peer: JSON, and a code that only this node can make for it."""

    peer: PeerId
    evidence: str
    mac: bytes
    at_s: float


@dataclass(frozen=True, slots=True)
class StatementRow:
    """What somebody said of a peer, as it was signed; what came of it here; and a code that only this node can make."""

    kind: str
    signed: bytes
    note: str
    mac: bytes


@dataclass(frozen=True, slots=True)
class PeerRow:
    peer: PeerId
    addresses: tuple[str, ...]
    advert: bytes
    """The newest `Signed` `Advert`, or b""."""
    last_seen_s: float
    """Wall clock."""
