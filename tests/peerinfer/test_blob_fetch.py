from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peerinfer.blob_fetch import HOLDING_AGAIN_S, Fetch
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
from peerinfer.blobs import BlobIndex
from peerinfer.ids import Cid, PeerId
from peerinfer.limits import (
    BLOB_CHUNKS_PER_REQUEST_MAX,
    BLOB_PARTS_STALL_S,
    BLOB_PATIENCE_S,
    BLOB_PROVIDERS_MAX,
    BLOB_STALL_S,
    CHUNK_BYTES,
)
from peerinfer.machine import NEVER, Tick

A, B, C = PeerId("A"), PeerId("B"), PeerId("C")


def index_with(chunks: int, last_bytes: int = CHUNK_BYTES) -> BlobIndex:
    size = (chunks - 1) * CHUNK_BYTES + last_bytes if chunks else 0
    return BlobIndex(size, bytes(32 * chunks))


class Told:
    """A fetch that is told things by hand, at a time that is set by hand."""

    def __init__(self, index: BlobIndex, *providers: PeerId) -> None:
        self.index = index
        self.now_s = 100.0
        self.fetch = Fetch(index.cid)
        self.first = self.tell(ProvidersFound(providers))

    def tell(self, event: FetchEvent | Tick) -> list[FetchEffect]:
        effects = self.fetch.handle(event, self.now_s)
        self.fetch.check()
        return effects

    def begin(self, peer: PeerId = A, missing: tuple[int, ...] | None = None) -> list[FetchEffect]:
        assert self.tell(IndexArrived(peer, self.index.encode())) == [Begin(self.index)]
        return self.tell(Begun(tuple(range(self.index.chunks)) if missing is None else missing))

    def deliver(self, peer: PeerId, *chunks: int) -> list[FetchEffect]:
        return [effect for chunk in chunks for effect in self.tell(ChunkArrived(peer, chunk, is_right=True))]


def asked(effects: list[FetchEffect], peer: PeerId | None = None) -> list[int]:
    return [
        number
        for effect in effects
        if isinstance(effect, AskChunks) and peer in (None, effect.peer)
        for number in range(effect.first, effect.first + effect.count)
    ]


def test_every_provider_is_asked_for_the_index_and_the_first_to_give_it_is_asked_for_chunks() -> None:
    told = Told(index_with(100), A, B)
    assert told.first == [AskIndex(A), AskIndex(B)]
    effects = told.begin(B)
    assert {effect.peer for effect in effects if isinstance(effect, AskChunks)} == {B}
    assert asked(effects) == list(range(BLOB_CHUNKS_PER_REQUEST_MAX))
    effects = told.tell(IndexArrived(A, told.index.encode()))
    assert asked(effects, A) == list(range(BLOB_CHUNKS_PER_REQUEST_MAX, 2 * BLOB_CHUNKS_PER_REQUEST_MAX))


def test_the_next_run_is_asked_before_the_last_one_is_through() -> None:
    told = Told(index_with(100), A)
    told.begin()
    assert asked(told.deliver(A, 0, 1, 2)) == []
    assert asked(told.deliver(A, 3)) == list(range(8, 16))
    assert asked(told.deliver(A, 4, 5, 6)) == []


def test_a_blob_without_chunks_is_complete_once_it_is_begun() -> None:
    told = Told(index_with(0), A)
    assert told.begin() == [Progressed(0, 0), Completed()]
    assert told.fetch.deadline_s == NEVER


def test_only_what_is_missing_is_asked_for() -> None:
    told = Told(index_with(10), A)
    effects = told.begin(missing=(2, 3, 7))
    assert asked(effects) == [2, 3, 7]
    assert [effect for effect in effects if isinstance(effect, Progressed)] == [
        Progressed(7 * CHUNK_BYTES, 10 * CHUNK_BYTES)
    ]
    assert told.deliver(A, 2, 3, 7)[-1] == Completed()


def test_progress_counts_the_short_last_chunk_as_what_it_is() -> None:
    told = Told(index_with(2, last_bytes=5), A)
    told.begin()
    assert told.deliver(A, 1)[0] == Progressed(5, CHUNK_BYTES + 5)
    assert told.deliver(A, 0) == [Progressed(CHUNK_BYTES + 5, CHUNK_BYTES + 5), Completed()]


def test_a_wrong_chunk_drops_its_sender_and_all_it_owed_is_asked_of_the_other() -> None:
    told = Told(index_with(16), A, B)
    owed = asked(told.begin(A), A)
    told.tell(IndexArrived(B, told.index.encode()))
    effects = told.tell(ChunkArrived(A, owed[0], is_right=False))
    assert Drop(A) in effects
    for _ in range(16):
        effects += [
            effect
            for one in told.fetch.snapshot().asked
            if one[0] == B
            for number in range(16)
            if told.fetch.expects(B, number)
            for effect in told.deliver(B, number)
        ]
        if Completed() in effects:
            break
    assert Completed() in effects


def test_a_false_index_drops_its_sender() -> None:
    told = Told(index_with(3), A, B)
    assert told.tell(IndexArrived(A, index_with(4).encode())) == [Drop(A)]
    assert asked(told.begin(B), B) == [0, 1, 2]


@pytest.mark.parametrize(
    "event",
    [
        IndexArrived(A, index_with(3).encode()),
        ChunkArrived(A, 7, is_right=False),
        ChunkArrived(A, 4_000_000_000, is_right=False),
    ],
    ids=["index", "chunk", "number"],
)
def test_what_nobody_asked_for_drops_its_sender(event: FetchEvent) -> None:
    told = Told(index_with(3), A, B)
    told.begin(A)
    assert Drop(A) in told.tell(event)


def test_a_provider_that_stalls_is_dropped_and_its_chunks_go_to_the_next() -> None:
    told = Told(index_with(4), A)
    told.begin()
    told.now_s += BLOB_STALL_S - 0.1
    assert told.tell(Tick()) == []
    assert told.fetch.deadline_s == pytest.approx(100 + BLOB_STALL_S)
    told.tell(ProvidersFound((A, B)))
    told.now_s = told.fetch.deadline_s
    effects = told.tell(Tick())
    assert effects[0] == Drop(A)


def test_a_provider_that_never_gives_the_index_is_dropped() -> None:
    told = Told(index_with(4), A)
    told.now_s = told.fetch.deadline_s
    effects = told.tell(Tick())
    assert effects[0] == Drop(A)
    assert isinstance(effects[1], Failed)
    assert "the index" in effects[1].reason
    assert not effects[1].lied


def test_what_a_slow_provider_holds_up_is_asked_of_an_idle_one_too() -> None:
    told = Told(index_with(8), A, B)
    slow = asked(told.begin(A), A)
    quick = asked(told.tell(IndexArrived(B, told.index.encode())), B)
    assert slow + quick == list(range(8))
    assert asked(told.deliver(B, *quick)) == []
    assert told.fetch.deadline_s == pytest.approx(100 + BLOB_PATIENCE_S)
    told.now_s = told.fetch.deadline_s
    assert asked(told.tell(Tick()), B) == slow
    effects = told.deliver(B, *slow)
    assert effects[-1] == Completed()


def test_the_late_copy_of_a_chunk_is_no_offence() -> None:
    told = Told(index_with(8), A, B)
    slow = asked(told.begin(A), A)
    told.deliver(B, *asked(told.tell(IndexArrived(B, told.index.encode())), B))
    told.now_s += BLOB_PATIENCE_S
    told.tell(Tick())
    told.deliver(B, slow[0])
    assert told.deliver(A, slow[0]) == []
    assert not told.fetch.snapshot().lost


def test_failure_names_what_became_of_every_provider() -> None:
    told = Told(index_with(4), A, B)
    told.tell(ProviderLost(A, "refused: does not hold it"))
    (drop, failed) = told.tell(ProviderLost(B, "sent nonsense", lied=True))
    assert drop == Drop(B)
    assert isinstance(failed, Failed)
    assert "A refused: does not hold it; B sent nonsense" in failed.reason
    assert not failed.lied


def test_failure_is_a_lie_only_if_all_lied() -> None:
    told = Told(index_with(4), A)
    effects = told.tell(ProviderLost(A, "sent nonsense", lied=True))
    assert isinstance(effects[-1], Failed)
    assert effects[-1].lied


def test_a_fetch_whose_providers_leave_while_the_store_makes_room_ends_when_that_is_done() -> None:
    told = Told(index_with(4), A)
    told.tell(IndexArrived(A, told.index.encode()))
    assert told.tell(ProviderLost(A, "left")) == [Drop(A)]
    assert isinstance(told.tell(Begun((3,)))[-1], Failed)
    told = Told(index_with(4), A)
    told.tell(IndexArrived(A, told.index.encode()))
    told.tell(ProviderLost(A, "left"))
    assert told.tell(Begun(()))[-1] == Completed()


def test_without_a_provider_it_fails_at_once() -> None:
    (failed,) = Told(index_with(4)).first
    assert isinstance(failed, Failed)
    assert "nobody" in failed.reason


def test_further_providers_stand_by_until_one_is_lost() -> None:
    peers = tuple(PeerId(f"P{number}") for number in range(BLOB_PROVIDERS_MAX + 2))
    told = Told(index_with(4), *peers)
    assert len(told.first) == BLOB_PROVIDERS_MAX
    assert told.fetch.snapshot().standing_by == 2
    assert told.tell(ProviderLost(peers[0], "left")) == [Drop(peers[0]), AskIndex(peers[BLOB_PROVIDERS_MAX])]


def test_a_provider_that_comes_later_is_asked_for_chunks_straight_away() -> None:
    told = Told(index_with(100), A)
    told.begin(A)
    assert told.tell(ProvidersFound((B, A))) == [AskHolding(B)]
    assert asked(told.tell(HoldingArrived(B, None)), B)


def test_one_that_has_a_part_is_asked_for_that_and_later_for_what_it_got_since() -> None:
    told = Told(index_with(6), A, B)
    told.tell(IndexArrived(A, told.index.encode()))
    told.tell(IndexArrived(B, told.index.encode(), frozenset((2,))))
    effects = told.tell(Begun((0, 1, 2, 3, 4, 5)))
    assert asked(effects, B) == [2]
    assert 2 not in asked(effects, A)
    told.deliver(B, 2)
    told.now_s += HOLDING_AGAIN_S
    assert AskHolding(B) in told.tell(Tick())
    assert asked(told.tell(HoldingArrived(B, frozenset((2, 5)))), B) in ([5], [])  # or it is asked of A already


def test_one_that_never_gets_more_is_given_up_and_the_fetch_says_so() -> None:
    told = Told(index_with(2), A)
    told.tell(IndexArrived(A, told.index.encode(), frozenset()))
    told.tell(Begun((0, 1)))
    effects: list[FetchEffect] = []
    while not effects or not isinstance(effects[-1], Failed):
        assert told.now_s < 100.0 + 2 * BLOB_STALL_S
        assert told.fetch.deadline_s > told.now_s  # it never asks to be woken in the past
        told.now_s = told.fetch.deadline_s
        effects = told.tell(Tick())
        if AskHolding(A) in effects:
            effects = told.tell(HoldingArrived(A, frozenset()))
    assert "got no more of it itself" in effects[-1].reason


def test_those_who_only_have_parts_do_not_wait_for_each_other_when_the_one_who_had_all_is_gone() -> None:
    told = Told(index_with(4), A, B, C)
    told.tell(IndexArrived(A, told.index.encode()))
    for peer in (B, C):
        told.tell(IndexArrived(peer, told.index.encode(), frozenset((0,))))
    told.tell(Begun((1, 2, 3)))
    lost_s = told.now_s = told.now_s + 1.0
    effects = told.tell(ProviderLost(A, "left"))
    while not effects or not isinstance(effects[-1], Failed):
        assert told.fetch.deadline_s > told.now_s
        told.now_s = told.fetch.deadline_s
        effects = told.tell(Tick())
        for peer in (B, C):
            if AskHolding(peer) in effects:
                more = frozenset((0, 1)) if peer == B and told.now_s - lost_s < 2 else frozenset((0,))
                effects = told.tell(HoldingArrived(peer, more))
    assert told.now_s - lost_s < 2 * BLOB_PARTS_STALL_S + 2
    assert f"for {BLOB_PARTS_STALL_S:g} s" in effects[-1].reason


def test_a_lost_provider_is_not_taken_back() -> None:
    told = Told(index_with(100), A, B)
    told.tell(ProviderLost(A, "left"))
    assert told.tell(ProvidersFound((A,))) == []


def test_the_providers_known_are_bounded() -> None:
    told = Told(index_with(4), *(PeerId(f"P{number}") for number in range(10_000)))
    assert told.fetch.snapshot().standing_by <= 256


# --- whole fetches in simulated time ---------------------------------------------------------------------------------

HONEST, SLOW, LIAR, SILENT, LEAVER, REFUSER, INDEX_LIAR = range(7)


def simulate(
    index: BlobIndex, kinds: list[int], seconds_per_chunk: list[float], missing: tuple[int, ...]
) -> list[FetchEffect]:
    """Runs a fetch against providers of these kinds to its end; returns every effect."""
    peers = [PeerId(f"P{number}") for number in range(len(kinds))]
    fetch = Fetch(Cid(index.cid))
    heap: list[tuple[float, int, Callable[[], FetchEvent]]] = []
    order = itertools.count()
    free_at_s = dict.fromkeys(peers, 0.0)
    sent = dict.fromkeys(peers, 0)
    dropped: set[PeerId] = set()
    done: list[FetchEffect] = []

    def later(peer: PeerId, now_s: float, took_s: float, event: FetchEvent) -> None:
        free_at_s[peer] = max(free_at_s[peer], now_s) + took_s
        heapq.heappush(heap, (free_at_s[peer], next(order), lambda: event))

    def answer(effect: FetchEffect, now_s: float) -> None:
        if isinstance(effect, Begin):
            heapq.heappush(heap, (now_s, next(order), lambda: Begun(missing)))
        elif isinstance(effect, Drop):
            dropped.add(effect.peer)
        elif isinstance(effect, AskIndex | AskHolding | AskChunks):
            peer = effect.peer
            kind = kinds[peers.index(peer)]
            took_s = seconds_per_chunk[peers.index(peer)] * (20 if kind == SLOW else 1)
            if kind == SILENT:
                return
            if kind == REFUSER:
                later(peer, now_s, took_s, ProviderLost(peer, "refused"))
            elif isinstance(effect, AskIndex):
                wrong = index_with(index.chunks + 1)
                later(peer, now_s, took_s, IndexArrived(peer, (wrong if kind == INDEX_LIAR else index).encode()))
            elif isinstance(effect, AskHolding):
                later(peer, now_s, took_s, HoldingArrived(peer, None))
            else:
                for number in range(effect.first, effect.first + effect.count):
                    sent[peer] += 1
                    if kind == LEAVER and sent[peer] == 3:
                        later(peer, now_s, took_s, ProviderLost(peer, "left"))
                        return
                    is_right = kind != LIAR or sent[peer] != 2
                    later(peer, now_s, took_s, ChunkArrived(peer, number, is_right))

    now_s = 0.0
    events: list[FetchEvent | Tick] = [ProvidersFound(tuple(peers))]
    for _ in range(20_000):
        for event in events:
            effects = fetch.handle(event, now_s)
            fetch.check()
            done += effects
            for effect in effects:
                answer(effect, now_s)
        if done and isinstance(done[-1], Completed | Failed):
            return done
        while heap and getattr(heap[0][2](), "peer", None) in dropped:
            heapq.heappop(heap)
        if heap and heap[0][0] <= fetch.deadline_s:
            now_s, _, make = heapq.heappop(heap)
            events = [make()]
        else:
            assert fetch.deadline_s < NEVER, "it waits for nothing"
            now_s = fetch.deadline_s
            events = [Tick()]
    raise AssertionError("it never ended")


@settings(max_examples=150, deadline=None)
@given(
    chunks=st.integers(0, 80),
    providers=st.lists(st.tuples(st.integers(HONEST, INDEX_LIAR), st.floats(0.001, 1.0)), min_size=1, max_size=12),
    held=st.sets(st.integers(0, 79)),
)
def test_a_fetch_completes_exactly_if_somebody_honest_stays(
    chunks: int, providers: list[tuple[int, float]], held: set[int]
) -> None:
    missing = tuple(number for number in range(chunks) if number not in held)
    effects = simulate(index_with(chunks), [kind for kind, _ in providers], [pace for _, pace in providers], missing)
    asked_for = asked(effects)
    if isinstance(effects[-1], Completed):
        assert set(asked_for) == set(missing)
    else:
        assert not any(kind in (HONEST, SLOW) for kind, _ in providers)
    assert all(effect.count <= BLOB_CHUNKS_PER_REQUEST_MAX for effect in effects if isinstance(effect, AskChunks))


def test_two_equal_providers_share_the_work_and_waste_none() -> None:
    effects = simulate(index_with(200), [HONEST, HONEST], [0.1, 0.1], tuple(range(200)))
    assert len(asked(effects)) == 200
    assert 90 <= len(asked(effects, PeerId("P0"))) <= 110


def test_a_quick_provider_does_most_of_it() -> None:
    effects = simulate(index_with(200), [HONEST, HONEST], [0.01, 1.0], tuple(range(200)))
    assert len(asked(effects, PeerId("P1"))) < 20
    assert len(asked(effects)) < 220
