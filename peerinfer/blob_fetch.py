"""The decisions of fetching one blob from several peers.

Every provider is first asked for the index, which is small and proves that it talks. Then each is given runs of missing
chunks, shorter ones towards the end, and the next run before the last one is through. What a provider was asked for
goes back when it refuses, lies, stalls or leaves; what it is merely slow with is asked of an idle one as well, so the
slowest provider does not decide when the last chunk comes.

Others who fetch the same blob are providers too, of what they have so far: asked for it now and then, and for whatever
of it is missing here. Each fetch begins somewhere else (`seed`), and whoever holds the whole blob is asked first for what
nobody else has. So ten nodes that want a blob of one take little more of its line than one node does.

Bytes of chunks never pass through here: whoever receives a chunk has the store check it, and reports the verdict.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import islice

from peerinfer.blob_fetch_events import (
    AskChunks,
    AskHolding,
    AskIndex,
    Begin,
    Begun,
    ChunkArrived,
    Completed,
    Drop,
    Failed,
    FetchEffect,
    FetchEvent,
    HoldingArrived,
    IndexArrived,
    Progressed,
    ProviderLost,
    ProvidersFound,
)
from peerinfer.blobs import BlobIndex, checked_index
from peerinfer.errors import ProtocolError
from peerinfer.ids import Cid, PeerId
from peerinfer.limits import (
    BLOB_CHUNKS_PER_REQUEST_MAX,
    BLOB_PARTS_STALL_S,
    BLOB_PATIENCE_S,
    BLOB_PROVIDERS_MAX,
    BLOB_STALL_S,
)
from peerinfer.machine import NEVER, Tick

# --- the machine -----------------------------------------------------------------------------------------------------

_CHUNKS_AHEAD = BLOB_CHUNKS_PER_REQUEST_MAX // 2
"""A provider with no more than this left to send is asked for the next run."""

_SHARED_CHUNKS_AHEAD = 0
_SHARED_RUN_MAX = 1
"""Where others fetch the same: what is asked long before it comes is soon to be had nearer by."""

HOLDING_AGAIN_S = 0.5
"""So often another one who fetches is asked what it has by now. A hundred bytes."""

_RARE_LOOKED_AT = 256
"""Of the chunks still to be asked for, when looking for one that nobody else has."""

_STEP = 2_654_435_761
"""Between one choice and the next: the golden ratio of 32 bits, which scatters."""

_HISTORY_MAX = 64
_REASONS_SHOWN_MAX = 8
_PROVIDERS_KNOWN_MAX = 256


@dataclass(slots=True)
class _Provider:
    since_s: float
    """When it last did what it was asked for, or was asked after having had nothing to do."""
    owes_index: bool
    asked: list[int] = field(default_factory=list)
    holds: frozenset[int] | None = None
    """None has all of it."""
    owes_holding: bool = False
    told_at_s: float = -NEVER

    def has(self, index: int) -> bool:
        return self.holds is None or index in self.holds


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

    def __init__(self, cid: Cid, seed: int = 0) -> None:
        self.cid = cid
        self._seed = self._choices = seed
        self._index: BlobIndex | None = None
        self._begun = False
        self._wanted: set[int] = set()
        """Chunks that are not in the store yet. Each is unasked, or asked of one provider or two."""
        self._unasked: dict[int, None] = {}
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
        busy = [one.since_s for one in self._providers.values() if one.owes_index or one.asked or self._waits(one)]
        deadline_s = min(busy, default=NEVER) + BLOB_STALL_S
        if not self._whole_are_left:
            waiting = [one.since_s for one in self._providers.values() if self._waits(one)]
            deadline_s = min(deadline_s, min(waiting, default=NEVER) + BLOB_PARTS_STALL_S)
        partial = [one.told_at_s for one in self._providers.values() if self._is_partial(one)]
        deadline_s = min(deadline_s, min(partial, default=NEVER) + HOLDING_AGAIN_S)
        idle = [one for one in self._providers.values() if self._is_idle(one)]
        if idle:
            slow = [one.since_s for one in self._providers.values() if self._can_be_shared(one, idle)]
            deadline_s = min(deadline_s, min(slow, default=NEVER) + BLOB_PATIENCE_S)
        return deadline_s

    def _can_be_shared(self, one: _Provider, idle: list[_Provider]) -> bool:
        return any(other.has(index) for index in self._unshared(one) for other in idle)

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
        elif isinstance(event, HoldingArrived):
            self._take_holding(event, now_s)
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

    def expects_holding(self, peer: PeerId) -> bool:
        one = self._providers.get(peer)
        return one is not None and one.owes_holding

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
        one.since_s = one.told_at_s = now_s
        one.holds = event.holds
        if self._index is not None:
            return []
        self._index = index
        return [Begin(index)]

    def _take_holding(self, event: HoldingArrived, now_s: float) -> None:
        one = self._providers.get(event.peer)
        if one is None or not one.owes_holding:
            return
        one.owes_holding, one.told_at_s = False, now_s
        if event.holds != one.holds:
            one.holds, one.since_s = event.holds, now_s

    def _is_partial(self, one: _Provider) -> bool:
        """It may have more by now."""
        return self._begun and one.holds is not None and not one.owes_holding

    def _waits(self, one: _Provider) -> bool:
        """It has a part only, and nothing of it is wanted now."""
        return self._begun and not one.owes_index and not one.asked and one.holds is not None

    @property
    def _whole_are_left(self) -> bool:
        """Somebody has all of it, or has not said yet what it has."""
        return any(one.holds is None or one.owes_index for one in self._providers.values())

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
        turn = self._seed % max(1, len(missing))
        self._unasked = dict.fromkeys(missing[turn:] + missing[:turn])
        self._done_bytes = self._index.size - sum(self._index.chunk_size(index) for index in missing)
        return [Progressed(self._done_bytes, self._index.size)]

    def _count(self, index: int) -> list[FetchEffect]:
        if index not in self._wanted:
            return []
        assert self._index is not None, "a chunk without an index"
        self._wanted.remove(index)
        self._done_bytes += self._index.chunk_size(index)
        self._unasked.pop(index, None)
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
        if back:
            self._unasked = {**dict.fromkeys(sorted(back)), **self._unasked}

    def _drop_stalled(self, now_s: float) -> list[FetchEffect]:
        effects: list[FetchEffect] = []
        # Who only have parts would wait for each other, though the one that they all fetched from is gone.
        parts_stall_s = BLOB_STALL_S if self._whole_are_left else BLOB_PARTS_STALL_S
        for peer, one in list(self._providers.items()):
            stall_s = parts_stall_s if self._waits(one) else BLOB_STALL_S
            if one.since_s + stall_s > now_s:
                continue
            if one.owes_index or one.asked:
                what = f"{len(one.asked)} chunks" if one.asked else "the index"
                effects += self._lose(ProviderLost(peer, f"owed {what} and sent nothing for {BLOB_STALL_S:g} s"))
            elif self._waits(one):
                effects += self._lose(ProviderLost(peer, f"got no more of it itself for {stall_s:g} s"))
        return effects

    # --- what to do next

    def _engage(self, now_s: float) -> list[FetchEffect]:
        effects: list[FetchEffect] = []
        while self._standing_by and len(self._providers) < BLOB_PROVIDERS_MAX:
            peer = self._standing_by.popleft()
            one = self._providers[peer] = _Provider(now_s, owes_index=self._index is None)
            if self._index is None:
                effects.append(AskIndex(peer))
            else:
                one.holds, one.owes_holding = frozenset(), True
                effects.append(AskHolding(peer))
        return effects

    def _ask(self, now_s: float) -> list[FetchEffect]:
        effects: list[FetchEffect] = []
        is_shared = any(one.holds is not None for one in self._providers.values())
        ahead = _SHARED_CHUNKS_AHEAD if is_shared else _CHUNKS_AHEAD
        for peer, one in sorted(
            self._providers.items(), key=lambda item: item[1].holds is None
        ):  # equals keep their order
            while self._unasked and not one.owes_index and len(one.asked) <= ahead:
                run = self._next_run(one, _SHARED_RUN_MAX if is_shared else BLOB_CHUNKS_PER_REQUEST_MAX)
                if not run:
                    break
                effects.append(self._give(peer, one, run, now_s))
            if self._is_idle(one):
                overdue = self._overdue_run(one, now_s)
                if overdue:
                    effects.append(self._give(peer, one, overdue, now_s))
            if self._is_partial(one) and one.told_at_s + HOLDING_AGAIN_S <= now_s:
                one.owes_holding = True
                effects.append(AskHolding(peer))
        return effects

    def _give(self, peer: PeerId, one: _Provider, run: list[int], now_s: float) -> AskChunks:
        if not one.asked:
            one.since_s = now_s
        one.asked += run
        return AskChunks(peer, run[0], len(run))

    def _next_run(self, one: _Provider, run_max: int) -> list[int]:
        """Half of each provider's fair share of what is left: all of them come to an end at about the same time."""
        count_max = min(-(-len(self._unasked) // (2 * len(self._providers))), run_max)
        first = self._first_for(one)
        if first is None:
            return []
        run = [first]
        while len(run) < count_max and run[-1] + 1 in self._unasked and one.has(run[-1] + 1):
            run.append(run[-1] + 1)
        for index in run:
            del self._unasked[index]
        return run

    def _first_for(self, one: _Provider) -> int | None:
        """Where its next run begins. One that has all is only asked for what nobody else has: the others will give theirs.

        Which of several is chosen differs from fetch to fetch, so that not all of them ask for the same.
        """
        parts = [other.holds for other in self._providers.values() if other.holds is not None]
        if not parts:
            return next(iter(self._unasked))
        near = islice(self._unasked, _RARE_LOOKED_AT)
        if one.holds is None:
            found = [index for index in near if not any(index in part for part in parts)]
        else:
            found = [index for index in near if index in one.holds]
        self._choices += _STEP
        return found[self._choices % len(found)] if found else None

    def _is_idle(self, one: _Provider) -> bool:
        return self._begun and not one.owes_index and not one.asked

    def _unshared(self, one: _Provider) -> list[int]:
        """What is asked of this provider and of no other."""
        shared = {index for other in self._providers.values() if other is not one for index in other.asked}
        return [index for index in one.asked if index in self._wanted and index not in shared]

    def _overdue_run(self, idle: _Provider, now_s: float) -> list[int]:
        for one in self._providers.values():
            if one.since_s + BLOB_PATIENCE_S > now_s:
                continue
            run: list[int] = []
            for index in self._unshared(one):
                if not idle.has(index):
                    continue
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
