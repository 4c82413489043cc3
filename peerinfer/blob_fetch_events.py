"""What happens to the fetch of a blob, and what it wants done: the words of `blob_fetch`."""

from __future__ import annotations

from dataclasses import dataclass

from peerinfer.blobs import BlobIndex
from peerinfer.ids import PeerId

# --- events -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProvidersFound:
    """These peers are said to hold the blob. The first of these events starts the fetch."""

    peers: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class IndexArrived:
    peer: PeerId
    data: bytes
    holds: frozenset[int] | None = None
    """The chunks that it has so far; None has all."""


@dataclass(frozen=True, slots=True)
class HoldingArrived:
    """What a provider has by now."""

    peer: PeerId
    holds: frozenset[int] | None


@dataclass(frozen=True, slots=True)
class Begun:
    """The store made room; these chunks it does not have yet."""

    missing: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ChunkArrived:
    """A chunk came and was checked: it is in the store if `is_right`, and nowhere otherwise."""

    peer: PeerId
    index: int
    is_right: bool


@dataclass(frozen=True, slots=True)
class ProviderLost:
    """It refused, left or broke the protocol (`lied`)."""

    peer: PeerId
    reason: str
    lied: bool = False


FetchEvent = ProvidersFound | IndexArrived | HoldingArrived | Begun | ChunkArrived | ProviderLost

# --- effects ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AskIndex:
    """Open a stream to the peer and ask for the index."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class AskHolding:
    """Ask a provider that does not have the whole blob what it has by now."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class AskChunks:
    """Ask for a run of chunks, over a new stream if there is none yet."""

    peer: PeerId
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Begin:
    """Make room for the blob and answer with `Begun`."""

    index: BlobIndex


@dataclass(frozen=True, slots=True)
class Drop:
    """Say nothing more to this peer, and listen to it no more."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Progressed:
    """So much is in the store, what was there before a break included."""

    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Completed:
    pass


@dataclass(frozen=True, slots=True)
class Failed:
    reason: str
    lied: bool
    """True if every provider broke the protocol, so that trying the same ones again is no use."""


FetchEffect = AskIndex | AskHolding | AskChunks | Begin | Drop | Progressed | Completed | Failed
