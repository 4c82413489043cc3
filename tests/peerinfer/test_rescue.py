"""A generation of a job that its owner begins, because the committee before has lost its quorum for good."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from lease_setting import LEASE_S, PEERS, Setting, keys, term

from peerinfer.candidacy_events import Ask
from peerinfer.codec import encode
from peerinfer.committees import (
    Seated,
    committees_of,
    first_committee,
    follow_all,
    highest_round,
    lowest_term,
    open_generation,
    records_after,
)
from peerinfer.elector import Elector
from peerinfer.elector_events import Answer, Asked, PersistBatches, PersistSeat, Restored
from peerinfer.envelope import seal
from peerinfer.errors import LimitExceeded, ProtocolError
from peerinfer.fencing import TELL_EVERY_RENEWALS, Fencing
from peerinfer.ids import PeerId
from peerinfer.journal import Chain
from peerinfer.lease_messages import (
    Append,
    CommitteeChange,
    Generation,
    Granted,
    LeaseRefused,
    LeaseWanted,
    Prepare,
    Promise,
    SeatOffered,
    SeatTaken,
)
from peerinfer.limits import ELECTORS_BEFORE_MAX, EPOCHS_MAX, GENERATIONS_MAX
from peerinfer.messages import Term
from peerinfer.rescue import Standings, carried, longest, next_generation

JOB = Setting()
OWNER = 7
FIRST = first_committee(JOB.manifest)
NEW = (PEERS[1], PEERS[5], PEERS[6])
"""Node 1 is left of the three."""
OLD_HOLDER = term(4, 0)


def word(*, signer: int = OWNER, **changed: Any) -> bytes:
    made = replace(Generation(JOB.job, 1, NEW, tuple(PEERS[:3]), 0.0), **changed)
    return seal(made, PEERS[signer], keys(signer).sign)


WORD = word()


def later(round_: int, candidate: int, generation: int = 1) -> Term:
    return Term(lowest_term(generation).round + round_, PEERS[candidate])


def test_the_owners_word_makes_a_committee_of_its_own_with_epochs_and_terms_above_all_before() -> None:
    (seated,), start = committees_of(JOB.job, JOB.manifest, (WORD,))
    assert (seated.generation, seated.epoch, seated.electors) == (1, EPOCHS_MAX, NEW)
    assert start is not None
    assert start.granted.order > Term(highest_round(0), PEERS[0]).order
    assert (start.batches, start.lease_s) == (0, 0.0)


UNSOUND = {
    "signed by an elector": word(signer=1),
    "of another job": word(job="1" * 32),
    "the first of all": word(generation=0),
    "one too many": word(generation=GENERATIONS_MAX + 1),
    "without a committee": word(committee=()),
    "with an elector twice": word(committee=(PEERS[1], PEERS[1], PEERS[5])),
    "with nobody's name": word(committee=(PEERS[1], PEERS[5], "nobody")),
    "garbage": b"\x00",
}


@pytest.mark.parametrize("unsound", UNSOUND.values(), ids=UNSOUND)
def test_what_is_not_the_owners_word_leads_nowhere(unsound: bytes) -> None:
    with pytest.raises(ProtocolError):
        committees_of(JOB.job, JOB.manifest, (unsound,))
    assert follow_all(JOB.job, JOB.manifest, (FIRST,), (unsound,)) == ([FIRST], None, 0)


def test_a_job_has_a_last_generation() -> None:
    seated, _ = open_generation(JOB.job, JOB.manifest, word(generation=GENERATIONS_MAX))
    assert seated.generation == GENERATIONS_MAX
    with pytest.raises(LimitExceeded, match="63 generations"):
        next_generation(JOB.job, (seated,), NEW, 0.0)


def test_an_older_generation_is_not_followed_and_a_later_one_is_from_anywhere() -> None:
    second = word(generation=2, committee=(PEERS[2], PEERS[3], PEERS[4]))
    found, start, used = follow_all(JOB.job, JOB.manifest, (FIRST,), (WORD, second))
    assert ([one.generation for one in found], used) == ([2], 2)
    assert start is not None
    assert follow_all(JOB.job, JOB.manifest, found, (WORD,))[1:] == (None, 0)
    assert follow_all(JOB.job, JOB.manifest, found, (second,))[1:] == (None, 0)


def test_whoever_is_behind_is_given_what_leads_on() -> None:
    rescued, _ = committees_of(JOB.job, JOB.manifest, (WORD,))
    assert records_after((FIRST,), (), 0) == ()
    assert records_after(rescued, (WORD,), 0) == (WORD,)
    assert records_after(rescued, (WORD,), 31) == (WORD,)
    assert records_after(rescued, (WORD,), EPOCHS_MAX) == ()
    change = encode(CommitteeChange(b"", ()))
    after = (*rescued, Seated(EPOCHS_MAX + 1, NEW, 0))
    assert records_after(after, (WORD, change), EPOCHS_MAX) == (change,)
    assert records_after(after, (WORD, change), EPOCHS_MAX + 1) == ()


def test_the_next_generation_names_all_who_elected_before() -> None:
    committees = (Seated(EPOCHS_MAX, NEW, 0, before=tuple(PEERS[:3])), Seated(EPOCHS_MAX + 1, (*NEW[:2], PEERS[4]), 0))
    named = next_generation(JOB.job, committees, (PEERS[3],), 5.0)
    assert (named.generation, named.committee, named.created_at_s) == (2, (PEERS[3],), 5.0)
    assert set(named.before) == set(PEERS[:7]) - {PEERS[3]}
    many = Seated(0, tuple(f"elector {number}" for number in range(ELECTORS_BEFORE_MAX + 1)), 0)
    assert len(next_generation(JOB.job, (many,), NEW, 0.0).before) == ELECTORS_BEFORE_MAX


# --- electors ----------------------------------------------------------------------------------------------------------


class Disk:
    """One elector and what it wrote, so that it can crash between any two writes."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.row: Any = None
        self.batches: list[bytes] = []
        self.start(0.0)

    def start(self, now_s: float) -> None:
        self.elector = Elector(PEERS[self.number], keys(self.number).sign)
        if self.row is not None:
            self.elector.handle(Restored(self.row, tuple(self.batches)), now_s)
            self.elector.check()

    def ask(self, peer: int, request: Any, now_s: float = 0.0, *, writes: int | None = None) -> Any:
        """`writes`: it crashes after so many."""
        answer = None
        for effect in self.elector.handle(Asked(PEERS[peer], request, 1), now_s):
            if isinstance(effect, Answer):
                answer = effect.message
            elif writes == 0:
                return None
            else:
                writes = None if writes is None else writes - 1
                if isinstance(effect, PersistSeat):
                    self.row = effect.row
                elif isinstance(effect, PersistBatches):
                    self.batches[effect.first :] = effect.batches
        self.elector.check()
        return answer

    def hold(self, chain: Chain) -> None:
        self.ask(OWNER, SeatOffered(JOB.signed))
        self.ask(0, Prepare(JOB.job, 0, OLD_HOLDER, 1))
        self.ask(0, LeaseWanted(JOB.job, 0, OLD_HOLDER, 1, LEASE_S))
        self.ask(0, Append(JOB.job, 0, OLD_HOLDER, 1, chain.signed(0, len(chain))))


CHAIN = JOB.written((OLD_HOLDER, [[1, 2], [3]]))


@pytest.fixture
def left() -> Disk:
    made = Disk(1)
    made.hold(CHAIN)
    return made


def test_an_elector_that_has_heard_serves_the_old_generation_no_more_whatever_it_is_asked(left: Disk) -> None:
    assert left.ask(OWNER, SeatOffered(JOB.signed, (WORD,)), 1.0) == SeatTaken(JOB.job, EPOCHS_MAX)
    assert left.batches == []
    for _ in range(2):
        for request in (
            Prepare(JOB.job, 0, term(9, 0), 3),
            LeaseWanted(JOB.job, 0, OLD_HOLDER, 3, LEASE_S),
            Append(JOB.job, 0, OLD_HOLDER, 3, CHAIN.signed(0, 3)),
        ):
            refusal = left.ask(0, request, 99.0)
            assert isinstance(refusal, LeaseRefused)
            assert (refusal.kind, refusal.changes) == ("sealed", (WORD,))
        assert not left.elector.serves(JOB.job, OLD_HOLDER)
        left.start(99.0)


def test_an_elector_of_a_committee_that_the_owner_did_not_know_hears_of_it_as_well(left: Disk) -> None:
    left.ask(OWNER, SeatOffered(JOB.signed, (WORD,)), 1.0)
    refusal = left.ask(4, Prepare(JOB.job, 2, term(9, 4), 3), 99.0)
    assert (refusal.kind, refusal.changes) == ("sealed", (WORD,))
    assert left.ask(4, Prepare(JOB.job, EPOCHS_MAX, later(9, 4), 3), 99.0).kind == "denied"


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_crash_while_the_word_is_written_leaves_one_generation_or_the_other(left: Disk, writes: int) -> None:
    left.ask(OWNER, SeatOffered(JOB.signed, (WORD,)), 1.0, writes=writes)
    left.start(1.0)
    chain = left.elector.chain(JOB.job)
    assert chain is not None
    assert len(chain) == (3 if writes == 0 else 0)
    assert left.elector.serves(JOB.job, OLD_HOLDER) == (writes == 0)


def test_an_elector_of_both_waits_for_the_lease_that_it_granted_before(left: Disk) -> None:
    left.ask(OWNER, SeatOffered(JOB.signed, (WORD,)), 1.0)
    wanted = Prepare(JOB.job, EPOCHS_MAX, later(1, OWNER), 5)
    assert left.ask(OWNER, wanted, LEASE_S - 0.01).kind == "held"
    assert isinstance(left.ask(OWNER, wanted, LEASE_S), Promise)


def test_the_journal_of_the_new_generation_begins_anew_and_takes_no_batch_of_the_old_one(left: Disk) -> None:
    left.ask(OWNER, SeatOffered(JOB.signed, (WORD,)), 1.0)
    held = later(1, OWNER)
    left.ask(OWNER, Prepare(JOB.job, EPOCHS_MAX, held, 5), 9.0)
    assert isinstance(left.ask(OWNER, LeaseWanted(JOB.job, EPOCHS_MAX, held, 6, LEASE_S), 9.0), Granted)
    assert left.ask(OWNER, Append(JOB.job, EPOCHS_MAX, held, 7, CHAIN.signed(0, 3)), 9.0).kind == "denied"
    grants = JOB.grants(held, [1, 5], epoch=EPOCHS_MAX)
    opening = JOB.batch(None, held, event="accepted", epoch=EPOCHS_MAX, certificate=grants)
    assert left.ask(OWNER, Append(JOB.job, EPOCHS_MAX, held, 8, (opening,)), 9.0).sequence == 1
    left.start(9.0)
    assert left.batches == [opening]


def test_who_is_new_takes_the_seat_and_who_was_left_out_keeps_it_as_a_fence(left: Disk) -> None:
    fresh, out = Disk(5), Disk(2)
    out.hold(CHAIN)
    assert fresh.ask(OWNER, SeatOffered(JOB.signed, (WORD,))).is_ready
    assert out.ask(OWNER, SeatOffered(JOB.signed, (WORD,))).epoch == EPOCHS_MAX
    assert out.ask(OWNER, Prepare(JOB.job, EPOCHS_MAX, later(1, OWNER), 5), 99.0).kind == "denied"
    # The seat of the old generation cannot be had back.
    out.ask(OWNER, SeatOffered(JOB.signed))
    assert out.ask(0, Prepare(JOB.job, 0, term(9, 0), 3), 99.0).kind == "sealed"


def test_whoever_was_left_out_may_bring_the_word_to_its_own_elector_and_a_stranger_may_not(left: Disk) -> None:
    out = Disk(2)
    out.hold(CHAIN)
    assert out.ask(4, SeatOffered(JOB.signed, (WORD,))).kind == "denied"
    assert out.ask(2, SeatOffered(JOB.signed, (WORD,))).epoch == EPOCHS_MAX
    assert not out.elector.serves(JOB.job, OLD_HOLDER)


def test_a_term_of_the_next_generation_is_out_of_reach_in_this_one(left: Disk) -> None:
    assert left.ask(0, Prepare(JOB.job, 0, later(0, 0), 3)).kind == "denied"
    left.ask(OWNER, SeatOffered(JOB.signed, (WORD,)), 1.0)
    beyond = Term(highest_round(1) + 1, PEERS[OWNER])
    assert left.ask(OWNER, Prepare(JOB.job, EPOCHS_MAX, beyond, 3), 99.0).kind == "denied"


# --- the owner -----------------------------------------------------------------------------------------------------------


def test_a_quorum_is_lost_when_fewer_answer_than_it_takes() -> None:
    assert Standings(FIRST, (PEERS[0],)).is_lost
    assert Standings(FIRST, (PEERS[0],)).missing == (PEERS[1], PEERS[2])
    assert Standings(FIRST, (PEERS[0],)).words == "1 of 3 electors answer, 2 are needed"
    assert not Standings(FIRST, (PEERS[0], PEERS[2])).is_lost


def test_what_is_named_and_at_hand_with_that_digest_is_carried_over_and_nothing_else() -> None:
    chain = JOB.written((OLD_HOLDER, [[1, 2, 5], [3]]))
    at_hand = {(1, bytes(16)), (2, b"another digest.."), (4, bytes(16)), (5, bytes(16))}
    found = carried(chain, lambda task, digest: (task, digest) in at_hand)
    # 2 differs, 3 is not at hand, 4 is not named, 5 failed and may be tried again.
    assert [(entry.task, entry.worker) for entry in found] == [(1, "worker")]


def test_of_the_journals_that_are_left_the_one_of_the_highest_term_is_read() -> None:
    short, long = JOB.written((term(6, 1), [])), JOB.written((OLD_HOLDER, [[1], [2], [3]]))
    assert longest((long, short, Chain())) is short
    assert len(longest(())) == 0


def test_former_electors_are_told_until_they_have_heard() -> None:
    seat = SeatOffered(JOB.signed, (WORD,))
    fencing = Fencing(seat, EPOCHS_MAX, [PeerId(peer) for peer in PEERS[:3]])
    assert fencing.renewing() == [Ask(PeerId(peer), seat) for peer in PEERS[:3]]
    fencing.heard(PeerId(PEERS[0]), SeatTaken(JOB.job, EPOCHS_MAX))
    fencing.heard(PeerId(PEERS[1]), SeatTaken(JOB.job, 0))
    fencing.heard(PeerId(PEERS[2]), LeaseRefused("", 0, "denied", "this node is not of the committee", Term(0, "")))
    assert fencing.untold == (PEERS[1],)
    rounds = [fencing.renewing() for _ in range(TELL_EVERY_RENEWALS)]
    assert rounds == [*([] for _ in range(TELL_EVERY_RENEWALS - 1)), [Ask(PeerId(PEERS[1]), seat)]]
