"""Who elects, epoch by epoch: a change counts with the seals of a quorum, and old leases end before new ones begin."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from lease_setting import LEASE_S, PEERS, Setting, keys, term

from peerinfer import snapshots
from peerinfer.codec import decode_as, encode
from peerinfer.committees import (
    COMMITTEE,
    SEAL_ROUNDS_MAX,
    Seated,
    check_next,
    committees_of,
    first_committee,
    follow,
    open_change,
)
from peerinfer.elector import Elector
from peerinfer.elector_events import Answer, Asked, PersistBatches, PersistSeat, PersistSnapshot, Restored
from peerinfer.envelope import seal
from peerinfer.errors import ProtocolError
from peerinfer.ids import PeerId
from peerinfer.journal import Chain
from peerinfer.journal_rules import CHECKPOINT
from peerinfer.lease_messages import (
    Append,
    CommitteeChange,
    JournalBatch,
    LeaseRefused,
    LeaseWanted,
    Prepare,
    Promise,
    SealGiven,
    SealStatement,
    SealWanted,
    SeatOffered,
    SeatTaken,
    SnapshotPart,
)
from peerinfer.limits import EPOCHS_MAX, SNAPSHOT_COPIES_MAX
from peerinfer.messages import Signed, Term
from peerinfer.sealing import Sealing

JOB = Setting()
FIRST = first_committee(JOB.manifest)
HOLDER = term(4, 0)
NEXT = (PEERS[0], PEERS[1], PEERS[5])
"""Node 5 takes the place of node 2."""


def written(*, committee: tuple[str, ...] = NEXT, **changed: Any) -> Chain:
    """A journal that ends with the change."""
    chain = JOB.written((HOLDER, [[1, 2]]))
    chain.take(JOB.batch(chain, HOLDER, event=COMMITTEE, committee=committee, **changed))
    return chain


CHAIN = written()
CHANGE = CHAIN.link(2).signed
HEAD = CHAIN.head


def statement(elector: int, *, signer: int | None = None, **changed: Any) -> bytes:
    made = replace(SealStatement(JOB.job, 0, HEAD, HOLDER, HOLDER, LEASE_S), **changed)
    number = elector if signer is None else signer
    return seal(made, PEERS[elector], keys(number).sign)


def record(*seals: bytes, change: bytes = CHANGE) -> bytes:
    return encode(CommitteeChange(change, seals))


SOUND = record(statement(0), statement(1))


def test_a_change_that_a_quorum_sealed_for_is_followed() -> None:
    after, start = follow(JOB.job, FIRST, SOUND)
    assert (after.epoch, after.electors, after.quorum) == (1, NEXT, 2)
    assert (start.batches, start.head) == (3, HEAD)
    assert committees_of(JOB.job, JOB.manifest, (SOUND,)) == ([FIRST, after], start)


def test_whom_all_seals_name_may_go_on_and_all_others_wait() -> None:
    _, start = follow(JOB.job, FIRST, SOUND)
    assert start.granted == Term(5, PEERS[0])
    assert start.lease_s == LEASE_S


def test_where_the_seals_differ_nobody_may_go_on_whomever_the_change_names() -> None:
    other = statement(1, granted=term(3, 1), lease_s=12.0, promised=term(9, 1))
    _, start = follow(JOB.job, FIRST, record(statement(0), other))
    assert start.granted == Term(10, "")
    assert start.lease_s == 12.0


UNSOUND = {
    "no seals": record(),
    "too few": record(statement(0)),
    "one elector twice": record(statement(0), statement(0)),
    "strangers": record(statement(5), statement(6)),
    "the new elector's own": record(statement(0), statement(5)),
    "a forged signature": record(statement(0), statement(1, signer=6)),
    "of another epoch": record(statement(0), statement(1, epoch=1)),
    "of another job": record(statement(0), statement(1, job="1" * 32)),
    "for another change": record(statement(0), statement(1, change=bytes(32))),
    "of a term at the integer's edge": record(
        statement(0), statement(1, promised=Term(HOLDER.round + SEAL_ROUNDS_MAX + 1, PEERS[1]))
    ),
    "a batch that changes nothing": record(statement(0), statement(1), change=CHAIN.link(1).signed),
    "garbage": b"\x00",
}


@pytest.mark.parametrize("unsound", UNSOUND.values(), ids=UNSOUND)
def test_a_change_without_the_seals_of_a_quorum_is_not_followed(unsound: bytes) -> None:
    with pytest.raises(ProtocolError):
        follow(JOB.job, FIRST, unsound)


@pytest.mark.parametrize(
    "committee",
    [
        tuple(PEERS[:3]),
        (PEERS[0], PEERS[5], PEERS[6]),
        (PEERS[0], PEERS[1]),
        (*PEERS[:3], PEERS[5]),
        (PEERS[0], PEERS[1], PEERS[1]),
        (PEERS[0], PEERS[1], "nobody"),
        (),
    ],
    ids=["the same", "two at once", "smaller", "larger", "one twice", "no peer", "nobody"],
)
def test_one_elector_at_most_is_replaced_at_once(committee: tuple[str, ...]) -> None:
    with pytest.raises(ProtocolError):
        check_next(FIRST, committee)


def test_as_many_electors_as_liars_are_tolerated_may_be_replaced_at_once() -> None:
    seven = Seated(0, tuple(PEERS[:4]), 1)
    check_next(seven, (*PEERS[:3], PEERS[6]))
    with pytest.raises(ProtocolError, match="2 electors are replaced at once"):
        check_next(seven, (*PEERS[:2], PEERS[6], PEERS[7]))


def test_a_job_has_a_last_committee() -> None:
    check_next(replace(FIRST, epoch=EPOCHS_MAX - 2), NEXT)
    with pytest.raises(ProtocolError, match="submit it again"):
        check_next(replace(FIRST, epoch=EPOCHS_MAX - 1), NEXT)


def test_a_change_is_signed_by_its_own_candidate() -> None:
    chain = JOB.written((HOLDER, [[1]]))
    forged = JOB.batch(chain, HOLDER, event=COMMITTEE, committee=NEXT, signer=1)
    with pytest.raises(ProtocolError):
        open_change(JOB.job, FIRST, forged)


# --- electors ----------------------------------------------------------------------------------------------------------


class Seat:
    """One elector, asked directly; what it writes is kept, so that it can start again."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.row: Any = None
        self.batches: list[bytes] = []
        self.base = 0
        self.snapshot: snapshots.Snapshot | None = None
        self.elector = Elector(PEERS[number], keys(number).sign)

    def ask(self, request: Any, *, peer: int = 0, now_s: float = 0.0) -> Any:
        effects = self.elector.handle(Asked(PEERS[peer], request, 1), now_s)
        self.elector.check()
        for effect in effects:
            if isinstance(effect, PersistSeat):
                self.row = effect.row
            elif isinstance(effect, PersistBatches):
                self.batches[effect.first - self.base :] = effect.batches
            elif isinstance(effect, PersistSnapshot):
                assert effect.batches is not None
                self.base, self.snapshot, self.batches = effect.base, effect.snapshot, list(effect.batches)
        (answer,) = [effect.message for effect in effects if isinstance(effect, Answer)]
        return answer

    def restart(self, now_s: float = 0.0) -> None:
        self.elector = Elector(PEERS[self.number], keys(self.number).sign)
        self.elector.handle(Restored(self.row, tuple(self.batches), self.snapshot), now_s)

    def hold(self, chain: Chain) -> None:
        """It took the seat and everything that the holder has written."""
        self.ask(SeatOffered(JOB.signed))
        self.ask(Prepare(JOB.job, 0, HOLDER, 1))
        self.ask(LeaseWanted(JOB.job, 0, HOLDER, 1, LEASE_S))
        self.ask(Append(JOB.job, 0, HOLDER, 1, chain.signed(0, len(chain))))

    def seal(self, *, by: Term = HOLDER, peer: int = 0, **changed: Any) -> Any:
        return self.ask(replace(SealWanted(JOB.job, 0, by, 7, CHANGE), **changed), peer=peer)


@pytest.fixture
def seat() -> Seat:
    made = Seat(1)
    made.hold(CHAIN)
    return made


def test_a_sealed_elector_takes_nothing_any_more_in_its_epoch(seat: Seat) -> None:
    given = seat.seal()
    assert isinstance(given, SealGiven)
    seat.restart()
    for request in (LeaseWanted(JOB.job, 0, HOLDER, 2, LEASE_S), Append(JOB.job, 0, HOLDER, 2, ())):
        refusal = seat.ask(request, now_s=99.0)
        assert isinstance(refusal, LeaseRefused)
        assert refusal.kind == "sealed"
        assert (refusal.statement, refusal.change) == (given.statement, CHANGE)
    # Whoever reads a quorum learns of it, and nothing is promised by that.
    promise = seat.ask(Prepare(JOB.job, 0, term(9, 2), 3), peer=2, now_s=99.0)
    assert isinstance(promise, Promise)
    assert (promise.sequence, promise.statement, promise.change) == (3, given.statement, CHANGE)
    assert seat.row.promised == HOLDER
    assert seat.seal(nonce=8).statement == given.statement


def test_an_elector_seals_for_one_change_only(seat: Seat) -> None:
    assert isinstance(seat.seal(), SealGiven)
    other = written(committee=(PEERS[0], PEERS[1], PEERS[6])).link(2).signed
    refusal = seat.seal(change=other)
    assert refusal.kind == "denied"
    assert "another change" in refusal.reason


def test_nobody_seals_but_for_who_holds_the_lease_or_brings_anothers_seal(seat: Seat) -> None:
    assert seat.seal(by=term(3, 2), peer=2).kind == "denied"
    for proofs in ((), (statement(5),), (statement(0, signer=6),), (statement(0, change=bytes(32)),)):
        assert seat.seal(by=term(3, 2), peer=2, proofs=proofs).kind == "denied"
    assert isinstance(seat.seal(by=term(3, 2), peer=2, proofs=(statement(0),)), SealGiven)


def test_an_elector_that_lacks_the_change_takes_the_journal_first() -> None:
    seat = Seat(1)
    seat.hold(JOB.written((HOLDER, [])))
    refusal = seat.seal(proofs=(statement(0),))
    assert (refusal.kind, refusal.sequence) == ("gap", 1)
    given = seat.seal(proofs=(statement(0),), batches=CHAIN.signed(1, 2))
    assert isinstance(given, SealGiven)
    assert seat.batches == list(CHAIN.signed(0, 3))


def test_an_elector_that_lacks_what_others_gave_up_takes_a_snapshot_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last seal that is missing may be that of an elector that was away for long."""
    monkeypatch.setattr(snapshots, "SNAPSHOT_PART_BYTES", 200)
    chain = JOB.written((HOLDER, [[1, 2], [3]]))
    state = chain.state()
    assert state is not None
    chain.take(JOB.batch(chain, HOLDER, event=CHECKPOINT, state=snapshots.digest(state)))
    chain.take(JOB.batch(chain, HOLDER, event=COMMITTEE, committee=NEXT))
    assert chain.compact(len(chain))
    change, head = chain.link(4).signed, chain.head
    said = seal(SealStatement(JOB.job, 0, head, HOLDER, HOLDER, LEASE_S), PEERS[0], keys(0).sign)
    sealing = Sealing(JOB.job, FIRST, term(5, 2), change, chain, iter(range(1, 99)).__next__, (said,))
    seat = Seat(1)
    seat.hold(JOB.written((HOLDER, [])))
    asked = next(ask for ask in sealing.asks() if ask.elector == PEERS[1])
    answers = [seat.ask(asked.request, peer=2)]
    while isinstance(answers[-1], LeaseRefused):
        (asked,) = sealing.refused(PeerId(PEERS[1]), answers[-1])
        answers.append(seat.ask(asked.request, peer=2))
    assert [(one.kind, one.sequence, one.snapshot_bytes > 0) for one in answers[:-1]] == [
        *((("gap", 1, False),) + (("gap", 1, True),) * (len(answers) - 3)),
        ("gap", 4, False),
    ]
    assert len(answers) > 4, "it came in parts"
    sealing.given(answers[-1])
    assert sealing.record
    seat.restart()
    kept = seat.elector.chain(JOB.job)
    assert kept is not None
    assert (kept.head, kept.base, seat.row.sealed) == (head, 3, True)


def test_an_elector_that_has_a_part_of_another_snapshot_takes_the_one_before_a_seal_from_its_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshots, "SNAPSHOT_PART_BYTES", 200)
    chain = JOB.written((HOLDER, [[1, 2], [3]]))
    chain.take(JOB.batch(chain, HOLDER, event=CHECKPOINT, state=snapshots.digest(chain.state() or b"")))
    chain.take(JOB.batch(chain, HOLDER, [4]))
    assert chain.compact(len(chain))
    before = chain.snapshot()
    assert before is not None
    part = encode(before.part(JOB.job, 0, 0))
    chain.take(JOB.batch(chain, HOLDER, event=CHECKPOINT, state=snapshots.digest(chain.state() or b"")))
    chain.take(JOB.batch(chain, HOLDER, event=COMMITTEE, committee=NEXT))
    assert chain.compact(len(chain))
    seat = Seat(1)
    seat.hold(JOB.written((HOLDER, [])))
    assert seat.ask(Append(JOB.job, 0, HOLDER, 1, (), part)).snapshot_bytes == 200
    said = seal(SealStatement(JOB.job, 0, chain.head, HOLDER, HOLDER, LEASE_S), PEERS[0], keys(0).sign)
    change = chain.link(len(chain) - 1).signed
    sealing = Sealing(JOB.job, FIRST, term(5, 2), change, chain, iter(range(1, 99)).__next__, (said,))
    asks = [ask for ask in sealing.asks() if ask.elector == PEERS[1]]
    while asks:
        answer = seat.ask(asks[0].request, peer=2)
        asks = sealing.refused(PeerId(PEERS[1]), answer) if isinstance(answer, LeaseRefused) else []
    assert isinstance(answer, SealGiven)
    sealing.given(answer)
    assert sealing.record


def test_an_elector_that_takes_no_part_of_a_snapshot_is_given_one_once_for_each_time_that_all_are_asked() -> None:
    chain = JOB.written((HOLDER, [[1, 2], [3]]))
    chain.take(JOB.batch(chain, HOLDER, event=CHECKPOINT, state=snapshots.digest(chain.state() or b"")))
    chain.take(JOB.batch(chain, HOLDER, event=COMMITTEE, committee=NEXT))
    assert chain.compact(len(chain))
    sealing = Sealing(JOB.job, FIRST, term(5, 2), chain.link(4).signed, chain, iter(range(1, 99)).__next__)
    for _ in range(2):
        asks = [ask for ask in sealing.asks() if ask.elector == PEERS[1]]
        given = 0
        while asks:
            refusal = LeaseRefused(JOB.job, asks[0].request.nonce, "gap", "", HOLDER, sequence=1, snapshot_bytes=7)
            asks = sealing.refused(PeerId(PEERS[1]), refusal)
            given += len(asks)
        assert given == 1


def test_an_elector_that_claims_a_byte_more_of_a_snapshot_each_time_is_given_it_a_few_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshots, "SNAPSHOT_PART_BYTES", 200)
    chain = JOB.written((HOLDER, [[1, 2], [3]]))
    chain.take(JOB.batch(chain, HOLDER, event=CHECKPOINT, state=snapshots.digest(chain.state() or b"")))
    chain.take(JOB.batch(chain, HOLDER, event=COMMITTEE, committee=NEXT))
    assert chain.compact(len(chain))
    whole = chain.snapshot()
    assert whole is not None
    sealing = Sealing(JOB.job, FIRST, term(5, 2), chain.link(4).signed, chain, count(1).__next__)

    def sent() -> int:
        found, held = 0, 0
        asks = [ask for ask in sealing.asks() if ask.elector == PEERS[1]]
        while asks:
            assert isinstance(asks[0].request, SealWanted)
            part = asks[0].request.snapshot
            found += len(decode_as(SnapshotPart, part).data) if part else 0
            held += 1
            gap = LeaseRefused(JOB.job, asks[0].request.nonce, "gap", "", HOLDER, sequence=1, snapshot_bytes=held)
            asks = sealing.refused(PeerId(PEERS[1]), gap)
        return found

    most = SNAPSHOT_COPIES_MAX * len(whole.data)
    assert most <= sent() < most + 200
    assert [sent() for _ in range(3)] == [200] * 3, "one part each time that all are asked"


def test_an_elector_that_says_one_thing_and_another_before_it_seals_is_left_alone_until_all_are_asked_again() -> None:
    chain = JOB.written((HOLDER, [[1], [2], [3]]))
    chain.take(JOB.batch(chain, HOLDER, event=COMMITTEE, committee=NEXT))
    change = chain.link(len(chain) - 1).signed
    sealing = Sealing(JOB.job, FIRST, term(5, 2), change, chain, count(1).__next__)
    for _ in range(2):
        (asked,) = [ask for ask in sealing.asks() if ask.elector == PEERS[1]]
        given = []
        for sequence in (4, 3, 2, 0, 4, 0, 4, 0, 4):
            assert isinstance(asked.request, SealWanted)
            gap = LeaseRefused(JOB.job, asked.request.nonce, "gap", "", HOLDER, sequence=sequence)
            asks = sealing.refused(PeerId(PEERS[1]), gap)
            asked = asks[0] if asks else asked
            given.append(len(asks))
        assert given == [1, 1, 1, 1, 0, 0, 0, 0, 0]


def test_a_seal_is_not_had_by_a_snapshot_of_anything_else() -> None:
    seat = Seat(1)
    seat.hold(JOB.written((HOLDER, [])))
    for junk in (b"junk", encode(SnapshotPart(JOB.job, 0, 0, 0, b"", b""))):
        refusal = seat.seal(proofs=(statement(0),), snapshot=junk)
        assert refusal.kind == "denied"
    chain = JOB.written((HOLDER, [[1]]))
    state = chain.state()
    assert state is not None
    forged = JOB.batch(chain, term(4, 2), event=CHECKPOINT, state=snapshots.digest(state))
    part = snapshots.Snapshot(state, forged).part(JOB.job, 0, 0)
    assert seat.seal(proofs=(statement(0),), snapshot=encode(part)).kind == "denied"
    assert len(seat.batches) == 1


def test_a_new_elector_promises_nothing_before_it_has_the_journal() -> None:
    seat = Seat(5)
    assert seat.ask(SeatOffered(JOB.signed)).kind == "denied"
    taken = seat.ask(SeatOffered(JOB.signed, (SOUND,)), now_s=10.0)
    assert taken == SeatTaken(JOB.job, 1, 0, False)
    seat.restart(10.0)
    assert seat.ask(Prepare(JOB.job, 1, term(9, 0), 1), now_s=99.0).kind == "unknown"
    wrong = JOB.written((HOLDER, [[7]])).signed(0, 2)
    assert not seat.ask(SeatOffered(JOB.signed, (SOUND,), wrong), now_s=10.0).is_ready
    ready = seat.ask(SeatOffered(JOB.signed, (SOUND,), CHAIN.signed(1, 2)), now_s=10.0)
    assert ready == SeatTaken(JOB.job, 1, 3, True)
    seat.restart(10.0)
    assert isinstance(seat.ask(Prepare(JOB.job, 1, term(9, 0), 1), now_s=10.1), Promise)


def test_a_new_elector_waits_for_the_leases_before_it() -> None:
    seat = Seat(5)
    seat.ask(SeatOffered(JOB.signed, (SOUND,), CHAIN.signed(0, 3)), now_s=10.0)
    assert seat.ask(Prepare(JOB.job, 1, term(9, 1), 1), peer=1, now_s=10.0 + LEASE_S - 0.01).kind == "held"
    seat.restart(11.0)
    assert seat.ask(Prepare(JOB.job, 1, term(9, 1), 1), peer=1, now_s=11.0 + LEASE_S - 0.01).kind == "held"
    assert isinstance(seat.ask(Prepare(JOB.job, 1, term(9, 1), 1), peer=1, now_s=11.0 + LEASE_S), Promise)


def test_whoever_was_replaced_is_told_who_elects_now(seat: Seat) -> None:
    assert isinstance(seat.ask(SeatOffered(JOB.signed, (SOUND,))), SeatTaken)
    refusal = seat.ask(Prepare(JOB.job, 0, term(9, 2), 1), peer=2)
    assert (refusal.kind, refusal.changes) == ("sealed", (SOUND,))
    assert seat.ask(Prepare(JOB.job, 1, term(9, 2), 1), peer=2).kind == "denied"


def test_who_took_over_after_the_change_is_forgotten_with_the_epoch() -> None:
    chain = written()
    chain.take(JOB.batch(chain, term(6, 1), event="takeover"))
    seat = Seat(1)
    seat.ask(SeatOffered(JOB.signed))
    seat.ask(Prepare(JOB.job, 0, term(6, 1), 1), peer=1)
    seat.ask(LeaseWanted(JOB.job, 0, term(6, 1), 1, LEASE_S), peer=1)
    seat.ask(Append(JOB.job, 0, term(6, 1), 1, chain.signed(0, 4)), peer=1)
    assert len(seat.batches) == 4
    assert seat.ask(SeatOffered(JOB.signed, (SOUND,))).is_ready
    assert seat.batches == list(CHAIN.signed(0, 3))


def test_nothing_follows_a_change_but_who_took_over_and_the_next_epoch() -> None:
    chain = written()
    for wrong in (
        JOB.batch(chain, HOLDER, [5]),
        JOB.batch(chain, HOLDER, event="done"),
        JOB.batch(chain, term(6, 1), [5], event="takeover"),
        JOB.batch(chain, term(6, 1), event="takeover", epoch=2, certificate=JOB.grants(term(6, 1), epoch=2)),
    ):
        with pytest.raises(ProtocolError):
            chain.extend(JOB.job, JOB.manifest, term(9, 1), (wrong,), committees=[FIRST, Seated(1, NEXT, 0)])
    second = term(6, 1)
    opening = JOB.batch(chain, second, event="takeover", epoch=1, certificate=JOB.grants(second, [0, 5], epoch=1))
    with pytest.raises(ProtocolError, match="whose committee is not known"):
        chain.extend(JOB.job, JOB.manifest, second, (opening,))
    chain.extend(JOB.job, JOB.manifest, second, (opening,), committees=[FIRST, Seated(1, NEXT, 0)])
    assert chain.change == 0


def test_a_batch_that_names_a_committee_says_so() -> None:
    chain = JOB.written((HOLDER, []))
    for wrong in (
        JOB.batch(chain, HOLDER, event=COMMITTEE),
        JOB.batch(chain, HOLDER, [1], event=COMMITTEE, committee=NEXT),
        JOB.batch(chain, HOLDER, [1], committee=NEXT),
    ):
        assert isinstance(decode_as(JournalBatch, decode_as(Signed, wrong).payload), JournalBatch)
        with pytest.raises(ProtocolError):
            chain.extend(JOB.job, JOB.manifest, HOLDER, (wrong,))
