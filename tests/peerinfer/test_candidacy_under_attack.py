"""No elector stops a candidate or misleads it, and a holder's journal reaches everybody in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from lease_bench import SUBMITTER, Bench, Lie, entries, write
from lease_setting import PEERS, Setting, term

from peerinfer.candidacy_events import Campaign, HandOver, Heard, LeaseSeen, Lost, Unheard, Won, Write
from peerinfer.elector_events import Asked
from peerinfer.lease_messages import (
    Append,
    JournalPart,
    JournalWanted,
    LeaseRefused,
    LeaseReleased,
    Prepare,
    Promise,
    SeatOffered,
)
from peerinfer.lease_profile import LAN
from peerinfer.lease_round import ROUNDS_ON_TRUST
from peerinfer.limits import TERM_ROUND_MAX
from peerinfer.machine import Tick
from peerinfer.messages import Term


@pytest.fixture
def three() -> Any:
    made = Bench(Setting())
    yield made
    made.check()


# --- electors that lie -----------------------------------------------------------------------------------------------


def _refusing(kind: str) -> Lie:
    def lie(request: Any, answer: Any) -> Any:
        job = "" if isinstance(request, SeatOffered) else request.job
        highest = Term(TERM_ROUND_MAX, PEERS[1])
        return LeaseRefused(job, getattr(request, "nonce", 0), kind, "because", highest, 1e300, 1 << 31)

    return lie


@pytest.mark.parametrize("kind", ["stale", "held", "sealed", "unknown", "denied", "gap", "full"])
def test_one_elector_that_refuses_everything_stops_nobody(kind: str) -> None:
    bench = Bench(Setting(electors=4, byzantine=1))
    bench.lies[3] = _refusing(kind)
    candidate = bench.elected(SUBMITTER)
    write(bench, SUBMITTER, 1)
    bench.run(20.0)
    assert candidate.holds(bench.now_s)
    assert candidate.committed == 2
    assert candidate.term.round < 2 * ROUNDS_ON_TRUST
    requests_per_s = len(bench.asked) / 20.0
    assert requests_per_s < 4 * 4 / LAN.renew_s


@pytest.mark.parametrize("kind", ["stale", "held", "sealed", "denied", "full", "unknown"])
def test_where_too_many_refuse_a_candidate_asks_ever_more_rarely_and_says_why(kind: str) -> None:
    bench = Bench(Setting())
    bench.lies = {1: _refusing(kind), 2: _refusing(kind)}
    candidate = bench.stand(SUBMITTER)
    bench.tell(SUBMITTER, Campaign())
    bench.run(60.0)
    assert not candidate.holds(bench.now_s)
    picture = candidate.snapshot()
    assert picture.waiting
    assert len(bench.requests(SUBMITTER, Prepare)) < 3 * 80
    assert candidate.term.round < 80 * (ROUNDS_ON_TRUST + 1)


def test_a_candidate_that_is_overtaken_before_it_gets_the_lease_begins_anew_with_a_higher_term() -> None:
    bench = Bench(Setting())
    candidate = bench.stand(0)
    bench.tell(0, Campaign())
    bench.run(0.025)  # All have promised, and their answers are on the way.
    for elector in bench.electors.values():
        elector.handle(Asked(PEERS[1], Prepare(bench.setting.job, 0, term(5, 1), 1), 0), bench.now_s)
    bench.run(0.3)
    assert candidate.holds(bench.now_s)
    assert candidate.term == term(6, 0)
    assert len(bench.requests(0)) == 8 * 3  # Two campaigns, a release, and the first offers of a seat.


def test_honest_electors_that_have_promised_more_are_caught_up_with() -> None:
    bench = Bench(Setting())
    bench.stand(1)
    bench.deaf = {(1, 1), (1, 2)}
    bench.tell(1, Campaign())
    bench.run(120.0)
    del bench.candidates[1]
    assert bench.electors[0].snapshot()[0].promised.round > 10
    bench.deaf = {(0, 2)}
    candidate = bench.stand(0)
    bench.tell(0, Campaign())
    bench.run(3.0)
    assert candidate.holds(bench.now_s)


def _boasting(batches: Callable[[Any], Any]) -> Lie:
    """Promises a journal that nobody has, and hands out something else."""

    def lie(request: Any, answer: Any) -> Any:
        if isinstance(request, Prepare) and isinstance(answer, Promise):
            return Promise(request.job, 0, request.term, request.nonce, request.term, 50)
        if isinstance(request, JournalWanted):
            found = batches(request)
            return None if found is None else JournalPart(request.job, request.nonce, request.first, found)
        return answer

    return lie


FORGED = Setting(electors=4, byzantine=1)


@pytest.mark.parametrize(
    "batches",
    [
        lambda request: None,
        lambda request: (),
        lambda request: (b"nonsense",),
        lambda request: (FORGED.batch(None, term(9, 3), event="accepted", certificate=FORGED.grants(term(9, 3), [3])),),
        lambda request: (FORGED.batch(None, term(1, 3), [5], sequence=9, previous=bytes([7]) * 32),),
        lambda request: (FORGED.batch(None, term(1, 3), [5], sequence=request.first, previous=bytes([7]) * 32),),
        lambda request: Setting(electors=4, byzantine=1, nonce=5).written((term(1, 3), [[5]])).signed(0, 9),
        lambda request: FORGED.written((term(1, SUBMITTER), [])).signed(0, 9),
    ],
    ids=["silence", "nothing", "nonsense", "no quorum", "far ahead", "no joint", "another job", "a bit of the truth"],
)
def test_a_journal_that_was_promised_and_does_not_exist_stops_nobody(batches: Callable[[Any], Any]) -> None:
    bench = Bench(FORGED)
    bench.elected(SUBMITTER)
    write(bench, SUBMITTER, 1)
    del bench.candidates[SUBMITTER]
    bench.run(LAN.lease_s)
    bench.lies[3] = _boasting(batches)
    candidate = bench.stand(0)
    bench.tell(0, Campaign())
    bench.run(3 * LAN.answer_s)
    assert candidate.holds(bench.now_s), candidate.snapshot()
    assert candidate.chain.register.written == 1
    assert len(bench.requests(0, JournalWanted)) < 20
    bench.check()


def test_a_quorum_is_read_without_those_whose_promise_did_not_hold() -> None:
    """The liar's promise must not stand in for the one elector that has what was committed."""
    bench = Bench(FORGED)
    bench.deaf = {(SUBMITTER, 1)}
    bench.elected(SUBMITTER)
    write(bench, SUBMITTER, 1)
    del bench.candidates[SUBMITTER]
    bench.run(LAN.lease_s)
    bench.lies[3] = _boasting(lambda request: ())
    bench.deaf = {(1, 2)}
    candidate = bench.stand(1)
    bench.tell(1, Campaign())
    bench.run(2.0)
    assert not candidate.holds(bench.now_s)
    bench.deaf.clear()
    bench.run(12.0)
    assert candidate.holds(bench.now_s)
    assert candidate.chain.register.written == 1


@pytest.mark.parametrize("damage", ["claims to hold what it has not", "takes back what it acknowledged"])
def test_an_elector_that_lies_about_its_journal_costs_little(damage: str) -> None:
    bench = Bench(FORGED)
    bench.elected(SUBMITTER)
    write(bench, SUBMITTER, 1)

    def lie(request: Any, answer: Any) -> Any:
        if not isinstance(request, Append):
            return answer
        if damage == "takes back what it acknowledged":
            return LeaseRefused(request.job, request.nonce, "gap", "send all", request.term, sequence=0)
        return replace(answer, sequence=1 << 31, head=bytes(32))

    bench.lies[3] = lie
    bench.asked.clear()
    for task in range(2, 12):
        write(bench, SUBMITTER, task)
    bench.run(10.0)
    assert bench.candidates[SUBMITTER].committed == 12
    assert len([elector for _, _, elector, request in bench.asked if elector == 3 and isinstance(request, Append)]) < 60


# --- what the journal of a holder goes through -----------------------------------------------------------------------


def test_an_elector_that_lagged_gets_everything_in_few_messages(three: Bench) -> None:
    three.elected(SUBMITTER)
    three.deaf = {(SUBMITTER, 0)}
    for task in range(60):
        write(three, SUBMITTER, task)
    three.deaf.clear()
    three.asked.clear()
    three.run(2 * LAN.renew_s)
    appends = [request for _, _, elector, request in three.asked if elector == 0 and isinstance(request, Append)]
    assert len(appends) < 10
    (seat,) = three.electors[0].snapshot_at(three.now_s)
    assert seat.batches == 61


def test_messages_in_flight_to_an_elector_have_a_limit(three: Bench) -> None:
    three.elected(SUBMITTER)
    three.lies[0] = lambda request, answer: None if isinstance(request, Append) else answer
    three.asked.clear()
    for task in range(40):
        write(three, SUBMITTER, task)
    appends = [request for _, _, elector, request in three.asked if elector == 0 and isinstance(request, Append)]
    assert 4 <= len(appends) < 40
    three.candidates[SUBMITTER].check()


def test_a_new_holder_rewrites_what_was_never_committed(three: Bench) -> None:
    three.elected(SUBMITTER)
    write(three, SUBMITTER, 1)
    three.deaf = {(SUBMITTER, 1), (SUBMITTER, 2)}
    write(three, SUBMITTER, 2, 3)
    assert three.candidates[SUBMITTER].committed == 2
    three.deaf = {(SUBMITTER, number) for number in range(3)} | {(1, 0)}
    three.run(LAN.lease_s + 0.5)
    assert three.elected(1).chain.register.written == 1
    write(three, 1, 7)
    three.deaf.clear()
    three.run(2 * LAN.renew_s)
    chain = three.electors[0].chain(three.setting.job)
    assert chain is not None
    assert [task for task in range(10) if task in chain.register] == [1, 7]
    three.run(10.0)
    assert [n for n, candidate in three.candidates.items() if candidate.holds(three.now_s)] == [1]


def test_a_holder_that_can_only_renew_raises_its_term(three: Bench) -> None:
    """One elector has promised another candidate a higher term, one grants and does not store, one is well."""
    bench = Bench(Setting(electors=4, byzantine=1))
    bench.elected(SUBMITTER)
    bench.stand(1)
    bench.deaf = {(SUBMITTER, 1), (1, 0), (1, 2), (1, 3)}
    bench.run(LAN.lease_s + 0.5)
    bench.tell(1, Campaign())
    bench.run(3.0)
    del bench.candidates[1]
    bench.deaf.clear()
    bench.lies[3] = lambda request, answer: None if isinstance(request, Append) else answer
    bench.tell(SUBMITTER, Write(entries(1), is_last=True))
    bench.run(5 * LAN.renew_s)
    candidate = bench.candidates[SUBMITTER]
    candidate = bench.candidates[SUBMITTER]
    said = bench.said[SUBMITTER]
    assert Lost("electors had promised a higher term") in said
    assert Won(candidate.term) in said
    assert candidate.holds(bench.now_s)
    assert candidate.term.round > 2
    assert candidate.committed == len(candidate.chain)
    assert candidate.chain.register.written == 1


def test_a_chain_from_ones_own_elector_saves_the_copying(three: Bench) -> None:
    three.elected(SUBMITTER)
    for task in range(5):
        write(three, SUBMITTER, task)
    own = three.electors[0].chain(three.setting.job)
    assert own is not None
    three.tell(SUBMITTER, HandOver("enough"))
    three.run(0.1)
    three.stand(0, own.copy())
    three.elected(0)
    assert three.requests(0, JournalWanted) == []
    assert three.requests(0, LeaseReleased) == []


def test_events_from_strangers_and_after_the_end_change_nothing(three: Bench) -> None:
    candidate = three.elected(SUBMITTER)
    write(three, SUBMITTER, 1, event="cancelled")
    three.run(10.0)
    before = candidate.snapshot()
    for event in (
        Campaign(),
        LeaseSeen(PEERS[0], three.now_s),
        Heard(PEERS[5], LeaseRefused("", 0, "stale", "", term(9, 0))),
        Heard(PEERS[0], LeaseRefused(three.setting.job, 0, "stale", "", term(9, 0))),
        Unheard(PEERS[0]),
        Unheard(PEERS[5]),
        Write(entries(2)),
        HandOver("again"),
        Tick(),
    ):
        assert three.tell(SUBMITTER, event) == []
    assert candidate.snapshot() == before
