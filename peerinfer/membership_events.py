"""What the membership machine is told, what it asks for, and the picture of a peer that it gives."""

from __future__ import annotations

from dataclasses import dataclass

from peerinfer.ids import PeerId
from peerinfer.member_messages import Adverts, AdvertsWanted, Digest, News, Probe, ProbeAnswer
from peerinfer.messages import Advert
from peerinfer.spread_messages import (
    Found,
    Page,
    PageWanted,
    Released,
    Search,
    Statements,
    StatementsHeld,
    StatementsWanted,
)

MemberMessage = (
    Adverts
    | AdvertsWanted
    | Digest
    | News
    | Probe
    | ProbeAnswer
    | StatementsHeld
    | StatementsWanted
    | Statements
    | Search
    | Found
    | Released
    | PageWanted
    | Page
)
"""What members tell each other."""


@dataclass(frozen=True, slots=True)
class OwnAdvert:
    advert: Advert
    signed: bytes


@dataclass(frozen=True, slots=True)
class AdvertSeen:
    """Its signature has been checked."""

    peer: PeerId
    advert: Advert
    signed: bytes
    wall_s: float
    """This node's wall clock."""


@dataclass(frozen=True, slots=True)
class Heard:
    """`peer` said this on an authenticated stream. Adverts come as `AdvertSeen`, each by itself."""

    peer: PeerId
    message: AdvertsWanted | Digest | News | Probe | ProbeAnswer | Released | PageWanted | Page


@dataclass(frozen=True, slots=True)
class Connected:
    peer: PeerId
    path: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    peer: PeerId


@dataclass(frozen=True, slots=True)
class AddressSeen:
    """By discovery or from the store: worth a dial."""

    peer: PeerId
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DialFailed:
    peer: PeerId


@dataclass(frozen=True, slots=True)
class RttMeasured:
    peer: PeerId
    rtt_s: float


Event = OwnAdvert | AdvertSeen | Heard | Connected | Disconnected | AddressSeen | DialFailed | RttMeasured


@dataclass(frozen=True, slots=True)
class Dial:
    peer: PeerId
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Send:
    """To a peer that is connected. May be lost."""

    peer: PeerId
    message: MemberMessage


@dataclass(frozen=True, slots=True)
class Drop:
    """Close what is left of the connection: nobody answers on it."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Refute:
    """Others doubt that this node lives: issue a new advert."""


@dataclass(frozen=True, slots=True)
class PeerChanged:
    """What is known of a peer has changed: it may be worth working with, or not any more."""

    peer: PeerId


Effect = Dial | Send | Drop | Refute | PeerChanged


@dataclass(frozen=True, slots=True)
class Member:
    """What is known of one peer."""

    peer: PeerId
    state: str = "suspect"
    """alive, suspect, dead or left."""
    addresses: tuple[str, ...] = ()
    advert: Advert | None = None
    signed: bytes = b""
    path: str = ""
    """"direct" or "relay" while it is connected, otherwise ""."""
    rtt_s: float | None = None
    heard_s: float = 0.0
    """When it was last heard of: by itself if it is connected, by its newest advert otherwise."""

    @property
    def version(self) -> tuple[int, int]:
        """Of its newest advert; (0, 0) before the first."""
        return (self.advert.incarnation, self.advert.sequence) if self.advert else (0, 0)
