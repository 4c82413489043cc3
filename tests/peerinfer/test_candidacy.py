"""A candidate becomes the holder with a quorum, knows when it is not any more, and cannot be stopped by one elector."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from lease_setting import PEERS, Setting, keys, term

from peerinfer.candidacy import (
    HAND_OVER_S,
    LAN,
    WAN,
    Ask,
    Campaign,
    Candidacy,
    Committed,
    HandOver,
    Heard,
    LeaseProfile,
    LeaseSeen,
    Lost,
    Over,
    Phase,
    Unheard,
    Won,
    Write,
)
from peerinfer.elector import Answer, Asked, Elector
from peerinfer.envelope import seal
from peerinfer.journal import Chain, Entry
from peerinfer.lease_round import ROUNDS_ON_TRUST
from peerinfer.limits import JOURNAL_BATCH_TASKS_MAX, JOURNAL_COMMIT_S, TERM_ROUND_MAX
from peerinfer.machine import NEVER, Tick
from peerinfer.messages import (
    Append,
    Grant,
    Granted,
    JournalPart,
    JournalWanted,
    LeaseRefused,
    LeaseReleased,
    LeaseWanted,
    Prepare,
    Promise,
    SeatOffered,
    Term,
)

SUBMITTER = 7
ROUND_TRIP_S = 0.01
FOREVER = (NEVER, -1, -1, None)

Lie = Callable[[Any, Any], Any]
"""What an elector answers: of the request and the honest answer. None is silence."""


class Bench:
    """Candidates and honest electors with a perfect network of 10 ms there and back, which can be cut or lied on."""

    def __init__(self, setting: Setting, profile: LeaseProfile = LAN) -> None:
        self.setting = setting
        self.profile = profile
        self.now_s = 100.0
        self.electors = {number: Elector(PEERS[number], keys(number).sign) for number in range(setting.electors)}
        self.candidates: dict[int, Candidacy] = {}
        self.said: dict[int, list[Any]] = {}
        self.asked: list[tuple[float, int, int, Any]] = []
        """Every request: when, whose, of which elector."""
        self.deaf: set[tuple[int, int]] = set()
        """Pairs of candidate and elector between which nothing arrives."""
        self.lies: dict[int, Lie] = {}
        self._waiting: list[tuple[float, int, int, Any]] = []
        self._numbers = 0

    def stand(self, number: int, chain: Chain | None = None) -> Candidacy:
        self.candidates[number] = Candidacy(
            PEERS[number],
            keys(number).sign,
            self.setting.job,
            self.setting.manifest,
            self.setting.signed,
            chain or Chain(),
            profile=self.profile,
            rng=random.Random(number),
        )
        self.said[number] = []
        return self.candidates[number]

    def tell(self, number: int, event: Any) -> list[Any]:
        """Gives a candidate an event; what it asks is on its way, what it says is returned."""
        said = []
        for effect in self.candidates[number].handle(event, self.now_s):
            if isinstance(effect, Ask):
                self._ask(number, PEERS.index(effect.elector), effect.request)
            else:
                said.append(effect)
        self.said[number] += said
        return said

    def _ask(self, number: int, elector: int, request: Any) -> None:
        self.asked.append((self.now_s, number, elector, request))
        if (number, elector) in self.deaf:
            return
        (answer,) = [
            effect.message
            for effect in self.electors[elector].handle(Asked(PEERS[number], request, 0), self.now_s)
            if isinstance(effect, Answer)
        ]
        if elector in self.lies:
            answer = self.lies[elector](request, answer)
        if answer is not None:
            self._waiting.append((self.now_s + ROUND_TRIP_S, number, elector, answer))
        if isinstance(answer, Granted) and elector in self.candidates and elector != number:
            self.tell(elector, LeaseSeen(PEERS[number], self.now_s + request.lease_s, request.term))

    def run(self, for_s: float) -> None:
        """Lets time pass: answers arrive, and machines are woken when they want to be."""
        ends_s = self.now_s + for_s
        for _ in range(100_000):
            due = [(candidate.deadline_s, number, -1, Tick()) for number, candidate in self.candidates.items()]
            self._waiting = [one for one in self._waiting if one[1] in self.candidates]
            at_s, number, elector, what = min([*self._waiting, *due, FOREVER], key=lambda one: one[0])
            if at_s > ends_s:
                break
            self.now_s = max(self.now_s, at_s)
            if elector >= 0:
                self._waiting.remove((at_s, number, elector, what))
                if (number, elector) not in self.deaf:
                    self.tell(number, Heard(PEERS[elector], what))
            else:
                self.tell(number, what)
        else:
            raise AssertionError("the machines never come to rest")
        self.now_s = ends_s

    def requests(self, number: int, kind: type = object) -> list[Any]:
        return [request for _, asker, _, request in self.asked if asker == number and isinstance(request, kind)]

    def elected(self, number: int) -> Candidacy:
        candidate = self.candidates.get(number) or self.stand(number)
        self.tell(number, Campaign())
        self.run(0.3)
        assert candidate.holds(self.now_s), candidate.snapshot()
        return candidate

    def check(self) -> None:
        for machine in (*self.candidates.values(), *self.electors.values()):
            machine.check()


def entries(*tasks: int) -> tuple[Entry, ...]:
    return tuple(Entry(task, bytes([task % 256]) * 16, "worker") for task in tasks)


def write(bench: Bench, number: int, *tasks: int, event: str = "") -> None:
    bench.tell(number, Write(entries(*tasks), event, is_last=True))
    bench.run(0.1)


@pytest.fixture(
    params=[(1, 0), (3, 0), (5, 0), (4, 1), (7, 2)], ids=lambda shape: f"{shape[0]} electors, {shape[1]} liars"
)
def bench(request: pytest.FixtureRequest) -> Any:
    made = Bench(Setting(electors=request.param[0], byzantine=request.param[1]))
    yield made
    made.check()


@pytest.fixture
def three() -> Any:
    made = Bench(Setting())
    yield made
    made.check()


# --- the good day ----------------------------------------------------------------------------------------------------


def test_a_candidate_wins_writes_and_ends_the_job(bench: Bench) -> None:
    candidate = bench.elected(SUBMITTER)
    write(bench, SUBMITTER, 1, 2)
    write(bench, SUBMITTER, 3, event="done")
    assert bench.said[SUBMITTER] == [
        Committed(0, 1),
        Won(Term(1, PEERS[SUBMITTER])),
        Committed(1, 2),
        Committed(2, 3),
        Over(),
    ]
    assert candidate.phase is Phase.OVER
    assert not candidate.holds(bench.now_s)
    for elector in bench.electors.values():
        (seat,) = elector.snapshot_at(bench.now_s)
        assert (seat.batches, seat.holder, seat.is_over) == (3, "", True)
    bench.run(20.0)
    assert candidate.deadline_s == NEVER


def test_electors_that_do_not_know_the_job_are_offered_the_seat_once(bench: Bench) -> None:
    bench.elected(SUBMITTER)
    assert len(bench.requests(SUBMITTER, SeatOffered)) == bench.setting.electors


def test_an_idle_lease_costs_one_request_per_elector_and_renewal(bench: Bench) -> None:
    bench.elected(SUBMITTER)
    bench.run(1.0)
    bench.asked.clear()
    bench.run(10 * LAN.renew_s)
    assert len(bench.asked) == 10 * bench.setting.electors
    assert {type(request) for request in bench.requests(SUBMITTER)} == {LeaseWanted}


def test_a_dead_elector_costs_no_more_than_a_living_one(bench: Bench) -> None:
    bench.elected(SUBMITTER)
    if bench.setting.electors == 1:
        return
    bench.deaf.add((SUBMITTER, 0))
    write(bench, SUBMITTER, 1)
    bench.tell(SUBMITTER, Unheard(PEERS[0]))
    bench.run(1.0)
    bench.asked.clear()
    bench.run(10 * LAN.renew_s)
    assert len(bench.asked) == 10 * bench.setting.electors
    bench.deaf.clear()
    bench.run(1.0)
    (seat,) = bench.electors[0].snapshot_at(bench.now_s)
    assert seat.batches == 2


def test_a_commit_costs_one_request_per_elector(bench: Bench) -> None:
    bench.elected(SUBMITTER)
    bench.asked.clear()
    write(bench, SUBMITTER, *range(50))
    assert len(bench.requests(SUBMITTER, Append)) == bench.setting.electors


def test_entries_wait_a_moment_for_company(three: Bench) -> None:
    three.elected(SUBMITTER)
    for task in range(5):
        three.tell(SUBMITTER, Write(entries(task)))
    three.run(JOURNAL_COMMIT_S / 2)
    assert three.candidates[SUBMITTER].committed == 1
    three.run(JOURNAL_COMMIT_S)
    assert three.candidates[SUBMITTER].committed == 2


def test_many_entries_are_several_batches_and_none_is_written_twice() -> None:
    bench = Bench(Setting(tasks=5000))
    bench.elected(SUBMITTER)
    bench.tell(SUBMITTER, Write(entries(*range(2500), *range(100))))
    bench.run(0.5)
    bench.tell(SUBMITTER, Write((Entry(0, bytes([9]) * 16, "other"), *entries(2500)), is_last=True))
    bench.run(0.5)
    chain = bench.candidates[SUBMITTER].chain
    assert chain.register.written == 2501
    assert chain.register.get(0) == entries(0)[0]
    assert max(len(chain.batch(sequence).tasks) for sequence in range(len(chain))) == JOURNAL_BATCH_TASKS_MAX
    bench.check()


def test_the_first_of_two_contradicting_entries_counts(three: Bench) -> None:
    three.elected(SUBMITTER)
    first, second = Entry(4, bytes([1]) * 16, "alice"), Entry(4, bytes([2]) * 16, "bob")
    three.tell(SUBMITTER, Write((first, second), is_last=True))
    three.run(0.1)
    assert three.candidates[SUBMITTER].chain.register.get(4) == first


def test_entries_with_nothing_new_write_nothing(three: Bench) -> None:
    three.elected(SUBMITTER)
    write(three, SUBMITTER, 1)
    write(three, SUBMITTER, 1)
    assert three.candidates[SUBMITTER].committed == 2


@pytest.mark.parametrize(
    "wrong", [Write((Entry(100, bytes(16), "w"),)), Write((Entry(1, bytes(15), "w"),)), Write((), "takeover")]
)
def test_what_no_elector_would_take_is_a_mistake_of_ours(three: Bench, wrong: Write) -> None:
    three.elected(SUBMITTER)
    with pytest.raises(AssertionError):
        three.tell(SUBMITTER, wrong)
    three.candidates.clear()


def test_nothing_is_written_without_the_lease(three: Bench) -> None:
    three.stand(0)
    assert three.tell(0, Write(entries(1), "done")) == []
    assert len(three.candidates[0].chain) == 0


# --- time ------------------------------------------------------------------------------------------------------------


def test_the_lease_counts_from_the_moment_of_asking_less_the_margin(three: Bench) -> None:
    candidate = three.stand(SUBMITTER)
    three.tell(SUBMITTER, Campaign())
    three.run(0.3)
    asked_s = min(at_s for at_s, _, _, request in three.asked if isinstance(request, LeaseWanted))
    assert candidate.snapshot().valid_until_s == asked_s + LAN.held_s
    assert LAN.held_s == pytest.approx(3.0 * 0.99 / 1.01 - 0.1)
    assert candidate.holds(asked_s + LAN.held_s - 0.001)
    assert not candidate.holds(asked_s + LAN.held_s)


def test_a_holder_without_renewals_stops_before_it_does_anything_else(three: Bench) -> None:
    """A laptop that slept: the first thing it hears is an old answer, and its lease is over all the same."""
    candidate = three.elected(SUBMITTER)
    late = [(at, elector, answer) for at, _, elector, answer in three._waiting]
    three.now_s += 3600.0
    said = three.tell(SUBMITTER, Write(entries(1), is_last=True))
    assert [type(effect) for effect in said] == [Lost]
    assert not candidate.holds(three.now_s)
    assert late == []


def test_a_grant_that_comes_too_late_is_no_lease(three: Bench) -> None:
    candidate = three.stand(SUBMITTER)
    three.lies = dict.fromkeys(range(3), lambda request, answer: None if isinstance(request, LeaseWanted) else answer)
    three.tell(SUBMITTER, Campaign())
    three.run(0.2)
    assert candidate.phase is Phase.LEASING
    nonce = three.requests(SUBMITTER, LeaseWanted)[-1].nonce
    three.now_s += LAN.held_s
    for number in range(3):
        grant = Grant(three.setting.job, 0, candidate.term, nonce, LAN.lease_s)
        granted = Granted(nonce, seal(grant, PEERS[number], keys(number).sign))
        candidate.handle(Heard(PEERS[number], granted), three.now_s)
    assert not candidate.has_lease(three.now_s)
    assert candidate.phase is Phase.WATCHING


def _grant(bench: Bench, number: int, **changed: Any) -> Granted:
    candidate = bench.candidates[SUBMITTER]
    nonce = bench.requests(SUBMITTER, LeaseWanted)[-1].nonce
    fields = {"job": bench.setting.job, "epoch": 0, "term": candidate.term, "nonce": nonce, "lease_s": LAN.lease_s}
    signer = changed.pop("signer", number)
    outer = changed.pop("outer", nonce)
    return Granted(outer, seal(Grant(**(fields | changed)), PEERS[signer], keys(signer).sign))


@pytest.mark.parametrize(
    "changed",
    [
        {"signer": 4},
        {"job": "0" * 32},
        {"epoch": 1},
        {"term": term(1, 0)},
        {"term": term(9, SUBMITTER)},
        {"nonce": 1},
        {"nonce": 1, "outer": 1},
        {"lease_s": 0.1},
    ],
    ids=str,
)
def test_a_grant_that_was_forged_or_is_of_something_else_does_not_count(three: Bench, changed: dict[str, Any]) -> None:
    three.lies = dict.fromkeys(range(3), lambda request, answer: None if isinstance(request, LeaseWanted) else answer)
    candidate = three.stand(SUBMITTER)
    three.tell(SUBMITTER, Campaign())
    three.run(0.2)
    for number in range(3):
        three.tell(SUBMITTER, Heard(PEERS[number], _grant(three, number, **changed)))
    assert candidate.phase is Phase.LEASING
    for number in range(2):
        three.tell(SUBMITTER, Heard(PEERS[number], _grant(three, number)))
    assert candidate.has_lease(three.now_s)


def test_one_elector_counts_once_and_a_stranger_never(three: Bench) -> None:
    three.lies = dict.fromkeys(range(3), lambda request, answer: None if isinstance(request, LeaseWanted) else answer)
    candidate = three.stand(SUBMITTER)
    three.tell(SUBMITTER, Campaign())
    three.run(0.2)
    for _ in range(5):
        three.tell(SUBMITTER, Heard(PEERS[0], _grant(three, 0)))
        three.tell(SUBMITTER, Heard(PEERS[5], _grant(three, 5)))
    assert candidate.phase is Phase.LEASING


def test_answers_to_an_older_renewal_extend_the_lease_from_when_that_was_sent(three: Bench) -> None:
    three.elected(SUBMITTER)
    three.run(1.0)
    three.lies = dict.fromkeys(range(3), lambda request, answer: None)
    three.run(2 * LAN.renew_s)
    older = three.asked[-4]
    grants = [
        Granted(
            older[3].nonce,
            seal(
                Grant(three.setting.job, 0, older[3].term, older[3].nonce, LAN.lease_s),
                PEERS[number],
                keys(number).sign,
            ),
        )
        for number in range(2)
    ]
    for number in range(2):
        three.tell(SUBMITTER, Heard(PEERS[number], grants[number]))
    assert three.candidates[SUBMITTER].snapshot().valid_until_s == older[0] + LAN.held_s


def test_a_lease_too_short_for_three_renewals_is_no_profile() -> None:
    with pytest.raises(ValueError, match="leaves no three renewals"):
        LeaseProfile(lease_s=2.0, renew_s=0.75, answer_s=0.7, margin_s=0.1, slot_s=0.15)
    assert WAN.held_s > 3 * WAN.renew_s


# --- takeover --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("electors", [3, 5, 7])
def test_when_the_holder_dies_another_takes_over_within_the_lease_and_a_second(electors: int) -> None:
    bench = Bench(Setting(electors=electors))
    for number in range(electors):
        bench.stand(number)
    bench.elected(SUBMITTER)
    write(bench, SUBMITTER, 1, 2)
    bench.run(LAN.renew_s * 3)
    del bench.candidates[SUBMITTER]
    died_s = bench.now_s
    while not (holders := [n for n, candidate in bench.candidates.items() if candidate.holds(bench.now_s)]):
        bench.run(0.01)
        assert bench.now_s < died_s + LAN.lease_s + 1.0
    (holder,) = holders
    assert bench.candidates[holder].chain.register.written == 2
    opening = bench.candidates[holder].chain.handovers()[-1][1]
    assert (opening.event, opening.detail) == ("takeover", f"{PEERS[SUBMITTER]} did not renew its lease")
    bench.run(10.0)
    assert [n for n, candidate in bench.candidates.items() if candidate.holds(bench.now_s)] == [holder]
    bench.check()


def test_a_lease_that_is_handed_over_is_taken_at_once(three: Bench) -> None:
    for number in range(3):
        three.stand(number)
    three.elected(SUBMITTER)
    three.tell(SUBMITTER, Write(entries(1, 2)))
    assert three.tell(SUBMITTER, HandOver("the computer is shut down")) == []
    assert not three.candidates[SUBMITTER].holds(three.now_s)
    left_s = three.now_s
    three.run(0.02)
    assert three.said[SUBMITTER][-1] == Lost("the computer is shut down")
    for number in range(3):
        three.tell(number, LeaseSeen("", three.now_s))
    three.run(0.45)
    (holder,) = [n for n in range(3) if three.candidates[n].holds(three.now_s)]
    assert three.now_s - left_s < 0.5
    assert three.candidates[holder].chain.register.written == 2
    assert three.candidates[holder].chain.handovers()[-1][1].detail == "the lease was given back"
    three.run(10.0)
    assert three.candidates[SUBMITTER].phase is Phase.WATCHING


def test_handing_over_does_not_wait_for_a_quorum_that_is_gone(three: Bench) -> None:
    three.elected(SUBMITTER)
    three.deaf = {(SUBMITTER, 0), (SUBMITTER, 1)}
    three.tell(SUBMITTER, Write(entries(1)))
    three.tell(SUBMITTER, HandOver("enough"))
    three.run(HAND_OVER_S)
    assert three.said[SUBMITTER][-1] == Lost("enough")
    assert three.candidates[SUBMITTER].deadline_s == NEVER


def test_who_handed_over_campaigns_again_only_when_told(three: Bench) -> None:
    candidate = three.elected(SUBMITTER)
    assert three.tell(SUBMITTER, HandOver("enough")) == [Lost("enough")]
    three.tell(SUBMITTER, LeaseSeen("", three.now_s))
    three.run(30.0)
    assert candidate.phase is Phase.WATCHING
    three.elected(SUBMITTER)
    assert candidate.term == Term(2, PEERS[SUBMITTER])


@pytest.mark.parametrize("after_s", [0.0, 0.005, 0.015, 0.025, 0.035])
def test_handing_over_in_the_middle_of_a_campaign_leaves_nobody_waiting(three: Bench, after_s: float) -> None:
    three.stand(SUBMITTER)
    three.tell(SUBMITTER, Campaign())
    three.run(after_s)
    three.tell(SUBMITTER, HandOver("changed my mind"))
    three.run(0.1)
    assert three.elected(0).chain.ended == ""
    assert not any(isinstance(said, Lost) for said in three.said[SUBMITTER]) or after_s > 0.03


def test_a_holder_that_is_cut_off_stops_and_says_who_is_missing(three: Bench) -> None:
    candidate = three.elected(SUBMITTER)
    three.deaf = {(SUBMITTER, 0), (SUBMITTER, 1)}
    three.run(LAN.lease_s * 2)
    lost = three.said[SUBMITTER][-1]
    assert isinstance(lost, Lost)
    assert lost.reason == "no quorum renewed the lease: 1 of 3 electors answered, 2 are needed"
    assert set(candidate.snapshot().missing) == {PEERS[0], PEERS[1]}
    assert candidate.snapshot().waiting == "1 of 3 electors answered, 2 are needed"
    three.run(60.0)
    assert not candidate.holds(three.now_s)
    assert len(three.requests(SUBMITTER, Prepare)) < 60  # It asks ever more rarely.
    three.deaf.clear()
    three.run(12.0)
    assert candidate.holds(three.now_s)
    assert candidate.snapshot().missing == ()


def test_a_quorum_that_is_lost_is_never_guessed_at(bench: Bench) -> None:
    needed = {1: 1, 3: 2, 5: 3, 4: 3, 7: 5}[bench.setting.electors]
    bench.deaf = {(SUBMITTER, number) for number in range(bench.setting.electors - needed + 1)}
    candidate = bench.stand(SUBMITTER)
    bench.tell(SUBMITTER, Campaign())
    bench.run(100.0)
    assert bench.said[SUBMITTER] == []
    assert set(candidate.snapshot().missing) == {PEERS[number] for _, number in bench.deaf}


def test_candidates_that_campaign_at_once_do_not_duel_for_long() -> None:
    for seed in range(20):
        bench = Bench(Setting(electors=5))
        for number in (0, 1, 2, 3, 4, SUBMITTER):
            bench.stand(number)
            bench.candidates[number]._rng.seed(f"{seed}:{number}")
        for number in bench.candidates:
            bench.tell(number, Campaign())
        bench.run(3.0)
        assert sum(candidate.holds(bench.now_s) for candidate in bench.candidates.values()) == 1


def test_a_candidate_that_is_told_that_its_own_old_lease_still_runs_takes_it_up_again(three: Bench) -> None:
    """After a restart: nobody else will come for it soon, least of all with a committee of one."""
    three.elected(0)
    candidate = three.stand(0)
    three.tell(0, LeaseSeen(PEERS[0], three.now_s + 2.0))
    three.run(0.5)
    assert candidate.holds(three.now_s)


def test_a_candidate_waits_for_a_lease_that_its_own_elector_sees_renewed(three: Bench) -> None:
    three.stand(0)
    three.elected(SUBMITTER)
    three.run(20.0)
    assert three.requests(0) == []
    assert three.candidates[0].snapshot().holder == PEERS[SUBMITTER]


def test_a_candidate_that_sees_no_elector_of_its_own_comes_back_when_the_lease_may_have_ended(three: Bench) -> None:
    three.elected(0)
    candidate = three.stand(SUBMITTER)
    three.tell(SUBMITTER, Campaign())
    three.run(0.5)
    assert candidate.snapshot().waiting == f"{PEERS[0]} holds the lease"
    three.run(30.0)
    assert len(three.requests(SUBMITTER, Prepare)) <= 3 * 12
    del three.candidates[0]
    three.run(LAN.lease_s * 2)
    assert candidate.holds(three.now_s)


# --- the end of the job ----------------------------------------------------------------------------------------------


def test_an_end_that_only_one_elector_knows_becomes_final_with_the_next_holder(three: Bench) -> None:
    three.elected(SUBMITTER)
    write(three, SUBMITTER, 1)
    three.deaf = {(SUBMITTER, 0), (SUBMITTER, 1)}
    write(three, SUBMITTER, 2, event="cancelled")
    assert not any(isinstance(said, Over) for said in three.said[SUBMITTER])
    del three.candidates[SUBMITTER]
    three.run(LAN.lease_s)
    three.deaf = {(0, 0)}  # A quorum that has elector 2 in it sees the end.
    candidate = three.stand(0)
    three.tell(0, Campaign())
    three.run(0.3)
    assert three.said[0] == [Committed(0, 4), Over()]
    assert (candidate.phase, candidate.chain.ended, candidate.chain.end) == (Phase.OVER, "cancelled", 3)


def test_an_end_that_nobody_but_the_dead_saw_did_not_happen(three: Bench) -> None:
    three.elected(SUBMITTER)
    write(three, SUBMITTER, 1)
    three.deaf = {(SUBMITTER, number) for number in range(3)}
    write(three, SUBMITTER, 2, event="cancelled")
    del three.candidates[SUBMITTER]
    three.run(LAN.lease_s)
    candidate = three.elected(0)
    assert candidate.chain.ended == ""
    assert candidate.chain.register.written == 1


def test_an_end_waits_for_its_own_quorum_and_not_for_that_of_the_batch_before(three: Bench) -> None:
    three.elected(SUBMITTER)
    three.tell(SUBMITTER, Write(entries(1), is_last=True))
    three.tell(SUBMITTER, Write((), "done"))
    three._waiting = [one for one in three._waiting if one[3].sequence == 2]
    three.run(0.05)
    assert three.candidates[SUBMITTER].committed == 2
    assert not any(isinstance(said, Over) for said in three.said[SUBMITTER])


def test_electors_that_lag_hear_of_the_end_while_the_lease_lasts(three: Bench) -> None:
    three.elected(SUBMITTER)
    three.deaf = {(SUBMITTER, 2)}
    write(three, SUBMITTER, 1, event="done")
    assert three.candidates[SUBMITTER].phase is Phase.OVER
    assert [seat.is_over for number in range(3) for seat in three.electors[number].snapshot_at(three.now_s)] == [
        True,
        True,
        False,
    ]
    three.deaf.clear()
    three.run(LAN.renew_s * 3)
    assert all(seat.is_over for number in range(3) for seat in three.electors[number].snapshot_at(three.now_s))
    three.asked.clear()
    three.run(20.0)
    assert three.asked == []


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
    assert picture.waiting or picture.phase == "over"
    assert len(bench.requests(SUBMITTER, Prepare)) < 3 * 80
    assert (picture.phase == "over") == (kind == "sealed")
    assert candidate.term.round < 80 * (ROUNDS_ON_TRUST + 1)


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
    write(three, SUBMITTER, 1, event="done")
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
