"""The decisions of fetching one blob from several peers.

Every provider is first asked for the index, which is small and proves that it talks. Then each is given runs of missing
chunks, shorter ones towards the end, and the next run before the last one is through. What a provider was asked for
goes back when it refuses, lies, stalls or leaves; what it is merely slow with is asked of an idle one as well, so the
slowest provider does not decide when the last chunk comes.

Bytes of chunks never pass through here: whoever receives a chunk has the store check it, and reports the verdict.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from peerinfer.blobs import BlobIndex, checked_index
from peerinfer.errors import ProtocolError
from peerinfer.ids import Cid, PeerId
from peerinfer.limits import (
    BLOB_CHUNKS_PER_REQUEST_MAX,
    BLOB_PATIENCE_S,
    BLOB_PROVIDERS_MAX,
    BLOB_STALL_S,
)
from peerinfer.machine import NEVER, Tick

# --- events -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProvidersFound:
    """These peers are said to hold the blob. The first of these events starts the fetch."""

    peers: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class IndexArrived:
    peer: PeerId
    data: bytes


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


FetchEvent = ProvidersFound | IndexArrived | Begun | ChunkArrived | ProviderLost

# --- effects ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AskIndex:
    """Open a stream to the peer and ask for the index."""

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


FetchEffect = AskIndex | AskChunks | Begin | Drop | Progressed | Completed | Failed

# --- the machine -----------------------------------------------------------------------------------------------------

_CHUNKS_AHEAD = BLOB_CHUNKS_PER_REQUEST_MAX // 2
"""A provider with no more than this left to send is asked for the next run."""

_HISTORY_MAX = 64
_REASONS_SHOWN_MAX = 8
_PROVIDERS_KNOWN_MAX = 256


@dataclass(slots=True)
class _Provider:
    since_s: float
    """When it last did what it was asked for, or was asked after having had nothing to do."""
    owes_index: bool
    asked: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class FetchSnapshot:
    cid: Cid
    total_bytes: int | None
    """None until the index is known."""
    done_bytes: int
    asked: tuple[tuple[PeerId, int], ...]
    """Chunks asked of each provider in use."""
    standing_by: int
    lost: tuple[tuple[PeerId, str], ...]


class Fetch:
    """Decides which chunks of one blob are asked of whom. See the top of the module."""

    def __init__(self, cid: Cid) -> None:
        self.cid = cid
        self._index: BlobIndex | None = None
        self._begun = False
        self._wanted: set[int] = set()
        """Chunks that are not in the store yet. Each is unasked, or asked of one provider or two."""
        self._unasked: deque[int] = deque()
        self._providers: dict[PeerId, _Provider] = {}
        self._standing_by: deque[PeerId] = deque()
        self._lost: dict[PeerId, ProviderLost] = {}
        self._done_bytes = 0
        self._ended = False
        self._history: deque[str] = deque(maxlen=_HISTORY_MAX)

    @property
    def deadline_s(self) -> float:
        if self._ended:
            return NEVER
        busy = [one.since_s for one in self._providers.values() if one.owes_index or one.asked]
        deadline_s = min(busy, default=NEVER) + BLOB_STALL_S
        if any(self._is_idle(one) for one in self._providers.values()):
            slow = [one.since_s for one in self._providers.values() if self._unshared(one)]
            deadline_s = min(deadline_s, min(slow, default=NEVER) + BLOB_PATIENCE_S)
        return deadline_s

    def handle(self, event: FetchEvent | Tick, now_s: float) -> list[FetchEffect]:
        if self._ended:
            return []
        self._history.append(f"{now_s:g} {str(event)[:100]}")
        effects: list[FetchEffect] = []
        if isinstance(event, Tick):
            effects += self._drop_stalled(now_s)
        elif isinstance(event, ProvidersFound):
            self._remember(event.peers)
        elif isinstance(event, IndexArrived):
            effects += self._take_index(event, now_s)
        elif isinstance(event, Begun):
            effects += self._start(event.missing)
        elif isinstance(event, ChunkArrived):
            effects += self._take_chunk(event, now_s)
        else:
            effects += self._lose(event)
        effects += self._engage(now_s)
        effects += self._ask(now_s)
        effects += self._end()
        return effects

    def expects(self, peer: PeerId, index: int) -> bool:
        """True if this chunk is asked of this peer: then it is worth being checked and stored."""
        one = self._providers.get(peer)
        return one is not None and index in one.asked

    def snapshot(self) -> FetchSnapshot:
        return FetchSnapshot(
            self.cid,
            None if self._index is None else self._index.size,
            self._done_bytes,
            tuple((peer, len(one.asked)) for peer, one in self._providers.items()),
            len(self._standing_by),
            tuple((peer, lost.reason) for peer, lost in self._lost.items()),
        )

    def check(self) -> None:
        history = "; ".join(self._history)
        asked: dict[int, int] = {}
        for one in self._providers.values():
            assert len(one.asked) <= _CHUNKS_AHEAD + BLOB_CHUNKS_PER_REQUEST_MAX, f"too much asked at once: {history}"
            assert len(set(one.asked)) == len(one.asked), f"a chunk asked twice of one provider: {history}"
            for index in one.asked:
                asked[index] = asked.get(index, 0) + 1
        assert len(self._providers) <= BLOB_PROVIDERS_MAX, f"too many providers: {history}"
        unasked = set(self._unasked)
        assert len(unasked) == len(self._unasked), f"a chunk stands twice among the unasked: {history}"
        assert not unasked & asked.keys(), f"a chunk is asked and unasked: {history}"
        assert unasked <= self._wanted <= unasked | asked.keys(), f"a missing chunk was forgotten: {history}"
        assert max(asked.values(), default=0) <= 2, f"a chunk asked of three: {history}"
        assert not self._providers.keys() & self._lost.keys(), f"a lost provider is in use: {history}"

    # --- what happened

    def _remember(self, peers: tuple[PeerId, ...]) -> None:
        for peer in peers:
            known = len(self._providers) + len(self._standing_by) + len(self._lost)
            is_new = peer not in self._providers and peer not in self._lost and peer not in self._standing_by
            if is_new and known < _PROVIDERS_KNOWN_MAX:
                self._standing_by.append(peer)

    def _take_index(self, event: IndexArrived, now_s: float) -> list[FetchEffect]:
        one = self._providers.get(event.peer)
        if one is None:
            return []
        if not one.owes_index:
            return self._lose(ProviderLost(event.peer, "sent an index that nobody asked for", lied=True))
        try:
            index = checked_index(self.cid, event.data)
        except ProtocolError as error:
            return self._lose(ProviderLost(event.peer, str(error), lied=True))
        one.owes_index = False
        one.since_s = now_s
        if self._index is not None:
            return []
        self._index = index
        return [Begin(index)]

    def _take_chunk(self, event: ChunkArrived, now_s: float) -> list[FetchEffect]:
        one = self._providers.get(event.peer)
        # Right is right, whoever sent it and however late: it is in the store.
        effects = self._count(event.index) if event.is_right else []
        if one is None:
            return effects
        if event.index not in one.asked:
            return effects + self._lose(ProviderLost(event.peer, f"sent chunk {event.index} unasked", lied=True))
        one.asked.remove(event.index)
        if event.is_right:
            one.since_s = now_s
            return effects
        self._give_back([event.index])
        return self._lose(ProviderLost(event.peer, f"sent chunk {event.index} with a wrong hash", lied=True))

    def _start(self, missing: tuple[int, ...]) -> list[FetchEffect]:
        assert self._index is not None, "begun without an index"
        self._begun = True
        self._wanted = set(missing)
        self._unasked = deque(missing)
        self._done_bytes = self._index.size - sum(self._index.chunk_size(index) for index in missing)
        return [Progressed(self._done_bytes, self._index.size)]

    def _count(self, index: int) -> list[FetchEffect]:
        if index not in self._wanted:
            return []
        assert self._index is not None, "a chunk without an index"
        self._wanted.remove(index)
        self._done_bytes += self._index.chunk_size(index)
        if index in self._unasked:
            self._unasked.remove(index)
        return [Progressed(self._done_bytes, self._index.size)]

    def _lose(self, event: ProviderLost) -> list[FetchEffect]:
        one = self._providers.pop(event.peer, None)
        if one is None:
            return []
        self._lost[event.peer] = event
        self._give_back(one.asked)
        return [Drop(event.peer)]

    def _give_back(self, indexes: list[int]) -> None:
        asked_elsewhere = {index for one in self._providers.values() for index in one.asked}
        back = [index for index in indexes if index in self._wanted and index not in asked_elsewhere]
        self._unasked.extendleft(sorted(back, reverse=True))

    def _drop_stalled(self, now_s: float) -> list[FetchEffect]:
        effects: list[FetchEffect] = []
        for peer, one in list(self._providers.items()):
            if (one.owes_index or one.asked) and one.since_s + BLOB_STALL_S <= now_s:
                what = f"{len(one.asked)} chunks" if one.asked else "the index"
                effects += self._lose(ProviderLost(peer, f"owed {what} and sent nothing for {BLOB_STALL_S:g} s"))
        return effects

    # --- what to do next

    def _engage(self, now_s: float) -> list[FetchEffect]:
        effects: list[FetchEffect] = []
        while self._standing_by and len(self._providers) < BLOB_PROVIDERS_MAX:
            peer = self._standing_by.popleft()
            self._providers[peer] = _Provider(now_s, owes_index=self._index is None)
            if self._index is None:
                effects.append(AskIndex(peer))
        return effects

    def _ask(self, now_s: float) -> list[FetchEffect]:
        effects: list[FetchEffect] = []
        for peer, one in self._providers.items():
            while self._unasked and not one.owes_index and len(one.asked) <= _CHUNKS_AHEAD:
                effects.append(self._give(peer, one, self._next_run(), now_s))
            if self._is_idle(one):
                overdue = self._overdue_run(now_s)
                if overdue:
                    effects.append(self._give(peer, one, overdue, now_s))
        return effects

    def _give(self, peer: PeerId, one: _Provider, run: list[int], now_s: float) -> AskChunks:
        if not one.asked:
            one.since_s = now_s
        one.asked += run
        return AskChunks(peer, run[0], len(run))

    def _next_run(self) -> list[int]:
        """Half of each provider's fair share of what is left: all of them come to an end at about the same time."""
        count_max = min(-(-len(self._unasked) // (2 * len(self._providers))), BLOB_CHUNKS_PER_REQUEST_MAX)
        run = [self._unasked.popleft()]
        while self._unasked and len(run) < count_max and self._unasked[0] == run[-1] + 1:
            run.append(self._unasked.popleft())
        return run

    def _is_idle(self, one: _Provider) -> bool:
        return self._begun and not one.owes_index and not one.asked

    def _unshared(self, one: _Provider) -> list[int]:
        """What is asked of this provider and of no other."""
        shared = {index for other in self._providers.values() if other is not one for index in other.asked}
        return [index for index in one.asked if index in self._wanted and index not in shared]

    def _overdue_run(self, now_s: float) -> list[int]:
        for one in self._providers.values():
            if one.since_s + BLOB_PATIENCE_S > now_s:
                continue
            run: list[int] = []
            for index in self._unshared(one):
                if len(run) == BLOB_CHUNKS_PER_REQUEST_MAX or (run and index != run[-1] + 1):
                    break
                run.append(index)
            if run:
                return run
        return []

    def _end(self) -> list[FetchEffect]:
        if self._begun and not self._wanted:
            self._ended = True
            return [Completed()]
        if self._providers or (self._index is not None and not self._begun):
            return []
        self._ended = True
        if not self._lost:
            return [Failed(f"nobody is known to hold the blob {self.cid}", lied=False)]
        lines = [f"{peer} {lost.reason}" for peer, lost in list(self._lost.items())[:_REASONS_SHOWN_MAX]]
        if len(self._lost) > _REASONS_SHOWN_MAX:
            lines.append(f"and {len(self._lost) - _REASONS_SHOWN_MAX} more")
        lied = all(lost.lied for lost in self._lost.values())
        return [Failed(f"the blob {self.cid} could not be fetched: {'; '.join(lines)}", lied)]
