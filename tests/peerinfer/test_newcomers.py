"""Electors of a new epoch that lack its journal get it whatever they had before, and whatever was lost on the way."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest
from lease_setting import LEASE_S, PEERS, Setting, keys, term

from peerinfer import journal, snapshots
from peerinfer.candidacy_events import Ask
from peerinfer.codec import decode_as, encode
from peerinfer.committees import COMMITTEE, committees_of
from peerinfer.elector import Elector
from peerinfer.elector_events import Answer, Asked
from peerinfer.envelope import seal
from peerinfer.journal import Chain
from peerinfer.journal_rules import CHECKPOINT
from peerinfer.lease_messages import (
    Append,
    CommitteeChange,
    JournalPart,
    JournalWanted,
    LeaseWanted,
    Prepare,
    SealStatement,
    SeatOffered,
    SeatTaken,
    SnapshotPart,
    SnapshotWanted,
)
from peerinfer.limits import SNAPSHOT_COPIES_MAX
from peerinfer.messages import Term
from peerinfer.newcomers import Newcomers

JOB = Setting()
HOLDER = term(4, 0)
NEXT = (PEERS[0], PEERS[1], PEERS[5])
"""Node 5 takes the place of node 2."""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "SNAPSHOT_PART_BYTES", 200)


def with_change(chain: Chain, holder: Term = HOLDER) -> bytes:
    """Ends the epoch: the record that says so."""
    change = JOB.batch(chain, holder, event=COMMITTEE, committee=NEXT)
    chain.take(change)
    said = SealStatement(JOB.job, 0, chain.head, holder, holder, LEASE_S)
    return encode(CommitteeChange(change, tuple(seal(said, PEERS[number], keys(number).sign) for number in (0, 1))))


def checkpoint(chain: Chain) -> None:
    chain.take(JOB.batch(chain, HOLDER, event=CHECKPOINT, state=snapshots.digest(chain.state() or b"")))


class Table:
    """One candidate of the new epoch, and one of its electors."""

    def __init__(self, chain: Chain, record: bytes, elector: int, *, own: Chain | None = None) -> None:
        """`own`: what the candidate has of the journal."""
        seat = SeatOffered(JOB.signed, (record,))
        committees, start = committees_of(JOB.job, JOB.manifest, (record,))
        assert start is not None
        self.chain = chain
        self.newcomers = Newcomers(
            JOB.job, JOB.manifest, seat, committees, start, chain if own is None else own, count(1).__next__
        )
        self.number = elector
        self.peer = PEERS[elector]
        self.elector = Elector(self.peer, keys(elector).sign)

    def asked(self, request: object, peer: int = 0) -> object:
        effects = self.elector.handle(Asked(PEERS[peer], request, 1), 10.0)  # type: ignore[arg-type]
        self.elector.check()
        (answer,) = [effect.message for effect in effects if isinstance(effect, Answer)]
        return answer

    def follow(self, holder: Term, chain: Chain, snapshot: bytes = b"") -> None:
        """It followed this holder in the epoch before."""
        peer = PEERS.index(holder.candidate)
        for request in (
            SeatOffered(JOB.signed),
            Prepare(JOB.job, 0, holder, 1),
            LeaseWanted(JOB.job, 0, holder, 1, LEASE_S),
            Append(JOB.job, 0, holder, 1, chain.signed(0, len(chain)), snapshot),
        ):
            self.asked(request, peer)

    def offer(self, *, lost: int = 0) -> SeatTaken:
        """The seat, and what follows from it; after so many more requests the next is lost."""
        asks = [self.newcomers.offer(self.peer)]
        for number in range(99):
            if not asks or (lost and number == lost):
                break
            answer = self.asked(asks[0].request)
            assert isinstance(answer, SeatTaken), answer
            asks = self.newcomers.heard(self.peer, answer, HOLDER, 0) or []
        else:
            raise AssertionError("it is asked for ever")
        return answer


def test_an_elector_with_a_part_of_another_snapshot_is_given_this_one_from_its_beginning() -> None:
    chain = JOB.written((HOLDER, [[1, 2], [3]]))
    checkpoint(chain)
    chain.take(JOB.batch(chain, HOLDER, [4]))
    assert chain.compact(len(chain))
    before = chain.snapshot()
    checkpoint(chain)
    record = with_change(chain)
    assert chain.compact(len(chain))
    assert before is not None
    table = Table(chain, record, 1)
    table.follow(HOLDER, JOB.written((HOLDER, [])))
    table.asked(Append(JOB.job, 0, HOLDER, 1, (), encode(before.part(JOB.job, 0, 0))))
    assert table.offer() == SeatTaken(JOB.job, 1, len(chain), True)


def test_an_elector_with_more_of_another_snapshot_than_there_is_of_this_one_is_given_this_one() -> None:
    chain = JOB.written((HOLDER, [[1, 2], [3]]))
    checkpoint(chain)
    record = with_change(chain)
    longer = chain.copy()
    assert chain.compact(len(chain))
    table = Table(chain, record, 1)
    table.follow(HOLDER, JOB.written((HOLDER, [])))
    there = chain.snapshot()
    assert there is not None
    other = replace(there, data=there.data + bytes(400))
    for offset in range(0, len(there.data) + 200, 200):
        table.asked(Append(JOB.job, 0, HOLDER, 1, (), encode(other.part(JOB.job, 0, offset))))
    assert table.offer() == SeatTaken(JOB.job, 1, len(longer), True)


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_what_was_lost_on_the_way_to_an_elector_is_given_when_it_is_offered_the_seat_again(lost: int) -> None:
    chain = JOB.written((HOLDER, [[1, 2], [3]]))
    checkpoint(chain)
    record = with_change(chain)
    assert chain.compact(len(chain))
    table = Table(chain, record, 5)
    assert not table.offer(lost=lost).is_ready
    assert table.offer() == SeatTaken(JOB.job, 1, len(chain), True)


def test_batches_that_were_lost_are_given_again_too() -> None:
    chain = JOB.written((HOLDER, [[1, 2], [3]]))
    table = Table(chain, with_change(chain), 5)
    assert not table.offer(lost=1).is_ready
    assert table.offer() == SeatTaken(JOB.job, 1, len(chain), True)


def test_an_elector_that_does_not_take_what_it_is_given_is_given_it_once_for_each_offer() -> None:
    chain = JOB.written((HOLDER, [[1, 2], [3]]))
    table = Table(chain, with_change(chain), 5)
    for _ in range(2):
        table.newcomers.offer(table.peer)
        deaf = SeatTaken(JOB.job, 1, 0, False)
        assert len(table.newcomers.heard(table.peer, deaf, HOLDER, 0) or []) == 1
        assert table.newcomers.heard(table.peer, deaf, HOLDER, 0) == []


def test_an_elector_that_followed_somebody_else_for_longer_than_there_are_batches_takes_this_journal() -> None:
    """What it has beyond was never committed: a quorum without it has gone on."""
    chain = JOB.written((HOLDER, [[1]]))
    table = Table(chain, with_change(chain), 1)
    earlier = term(3, 2)
    other = JOB.written((earlier, [[7], [8], [9], [10]]))
    table.follow(earlier, other)
    assert len(other) > len(chain)
    assert table.offer() == SeatTaken(JOB.job, 1, len(chain), True)
    held = table.elector.chain(JOB.job)
    assert held is not None
    assert held.head == chain.head


@pytest.mark.parametrize("most", [1, 2, 3, 99])
def test_where_the_two_journals_part_is_found_however_few_batches_a_message_carries(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """It says how far what it was brought is what it has, not how much it has."""
    monkeypatch.setattr(journal, "JOURNAL_BATCHES_PER_MESSAGE_MAX", most)
    earlier = term(3, 2)
    chain = JOB.written((earlier, [[1], [2]]), (HOLDER, [[3], [4]]))
    table = Table(chain, with_change(chain), 1)
    table.follow(earlier, JOB.written((earlier, [[1], [2], [7], [8], [9], [10], [11]])))
    assert table.offer() == SeatTaken(JOB.job, 1, len(chain), True)


def test_an_elector_that_says_one_thing_and_another_is_left_alone_until_the_next_offer() -> None:
    chain = JOB.written((HOLDER, [[1], [2], [3]]))
    table = Table(chain, with_change(chain), 1)
    for _ in range(2):
        table.newcomers.offer(table.peer)
        said = [4, 3, 2, 0, 4, 0, 4, 0, 4, 0]
        given = [
            len(table.newcomers.heard(table.peer, SeatTaken(JOB.job, 1, each, False), HOLDER, 0) or []) for each in said
        ]
        assert given == [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_an_elector_that_claims_a_byte_more_of_a_snapshot_each_time_is_sent_it_a_few_times() -> None:
    chain = JOB.written((HOLDER, [[1, 2], [3]]))
    checkpoint(chain)
    record = with_change(chain)
    assert chain.compact(len(chain))
    table = Table(chain, record, 1)
    whole = chain.snapshot()
    assert whole is not None

    def sent() -> int:
        found, held = 0, 0
        table.newcomers.offer(table.peer)
        while asks := table.newcomers.heard(table.peer, SeatTaken(JOB.job, 1, 0, False, held), HOLDER, 0):
            assert isinstance(asks[0].request, SeatOffered)
            found += len(decode_as(SnapshotPart, asks[0].request.snapshot).data)
            held += 1
        return found

    most = SNAPSHOT_COPIES_MAX * len(whole.data)
    assert most <= sent() < most + 200
    assert [sent() for _ in range(3)] == [200] * 3, "one part for each offer"


def test_a_candidate_without_the_journal_asks_for_it_again_in_its_next_campaign() -> None:
    """Whoever was asked first may have gone."""
    chain = JOB.written((HOLDER, [[1, 2], [3]]))
    checkpoint(chain)
    record = with_change(chain)
    assert chain.compact(len(chain))
    own = Chain()
    table = Table(chain, record, 5, own=own)
    assert table.offer() == SeatTaken(JOB.job, 1, 0, False)
    (asked,) = table.newcomers.seek(PEERS[0])
    assert table.newcomers.seek(PEERS[1]) == []
    table.newcomers.campaign()
    (again,) = table.newcomers.seek(PEERS[1])
    assert (asked.elector, again.elector) == (PEERS[0], PEERS[1])
    found = chain.snapshot()
    assert found is not None
    while again.elector == PEERS[1]:
        match again.request:
            case JournalWanted(nonce=nonce, first=first):
                answer: object = JournalPart(JOB.job, nonce, first, chain.part(first), chain.base)
            case SnapshotWanted(nonce=nonce, offset=offset):
                answer = found.part(JOB.job, nonce, offset)
            case _:
                raise AssertionError(again)
        assert isinstance(answer, JournalPart | SnapshotPart)
        (again,) = table.newcomers.heard(PEERS[1], answer, HOLDER, 0) or [Ask(PEERS[5], SeatOffered(JOB.signed))]
    assert own.head == chain.head
    assert again.elector == table.peer
