"""A candidate becomes the holder with a quorum, knows when it is not any more, and cannot be stopped by one elector."""

from __future__ import annotations

from typing import Any

import pytest
from lease_bench import SUBMITTER, Bench, entries, write
from lease_setting import PEERS, Setting, keys, term

from peerinfer import journal
from peerinfer.candidacy_events import (
    HAND_OVER_S,
    Campaign,
    Committed,
    HandOver,
    Heard,
    LeaseSeen,
    Lost,
    Over,
    Phase,
    Unheard,
    Won,
    Write,
)
from peerinfer.envelope import seal
from peerinfer.journal_rules import PRIORITY
from peerinfer.journal_writer import PEERS_WRITTEN_MAX
from peerinfer.lease_messages import (
    Append,
    Grant,
    Granted,
    LeaseWanted,
    Prepare,
    SeatOffered,
)
from peerinfer.lease_profile import LAN, WAN, LeaseProfile
from peerinfer.limits import (
    JOURNAL_BATCH_TASKS_MAX,
    JOURNAL_COMMIT_S,
    JOURNAL_GATHER_S,
    JOURNAL_WAITING_TASKS_MAX,
)
from peerinfer.machine import NEVER
from peerinfer.messages import Term
from peerinfer.register import Entry


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
    write(bench, SUBMITTER, 3, event="cancelled")
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


def test_entries_wait_a_moment_for_company_and_longer_where_others_were_written_just_now(three: Bench) -> None:
    three.elected(SUBMITTER)
    for task in range(5):
        three.tell(SUBMITTER, Write(entries(task)))
    three.run(JOURNAL_GATHER_S / 2)
    assert three.candidates[SUBMITTER].committed == 1
    three.run(JOURNAL_GATHER_S)
    assert three.candidates[SUBMITTER].committed == 2
    three.tell(SUBMITTER, Write(entries(5)))
    three.run(JOURNAL_COMMIT_S - JOURNAL_GATHER_S)
    assert three.candidates[SUBMITTER].committed == 2
    three.run(JOURNAL_GATHER_S)
    assert three.candidates[SUBMITTER].committed == 3


def test_entries_that_come_while_others_are_committed_wait_no_less(three: Bench) -> None:
    """Else there would be a message, and a sync of every elector's disk, for each round trip."""
    three.elected(SUBMITTER)
    three.tell(SUBMITTER, Write(entries(0), is_last=True))
    three.tell(SUBMITTER, Write(entries(1)))
    three.run(JOURNAL_COMMIT_S / 2)
    candidate = three.candidates[SUBMITTER]
    assert (candidate.committed, len(candidate.chain)) == (2, 2)
    three.run(JOURNAL_COMMIT_S)
    assert (candidate.committed, len(candidate.chain)) == (3, 3)


def test_entries_that_wait_for_a_checkpoint_alone_follow_it_at_once(
    three: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "JOURNAL_TAIL_BYTES", 3000)
    candidate = three.elected(SUBMITTER)
    three.tell(SUBMITTER, Write(entries(*range(90)), is_last=True))
    three.tell(SUBMITTER, Write(entries(90), is_last=True))
    three.run(JOURNAL_COMMIT_S / 2)
    chain = candidate.chain
    assert [chain.link(sequence).event for sequence in range(chain.base, len(chain))] == ["checkpoint", ""]
    assert candidate.committed == len(chain)
    assert 90 in chain.register


@pytest.mark.parametrize(("missing", "appends"), [(1, 0), (0, 3)])
def test_entries_that_fill_a_message_wait_no_longer(missing: int, appends: int) -> None:
    bench = Bench(Setting(tasks=JOURNAL_WAITING_TASKS_MAX))
    bench.elected(SUBMITTER)
    bench.asked.clear()
    for first in range(0, JOURNAL_WAITING_TASKS_MAX, 1024):
        last = min(first + 1024, JOURNAL_WAITING_TASKS_MAX - missing)
        bench.tell(SUBMITTER, Write(entries(*range(first, last))))
    assert len(bench.requests(SUBMITTER, Append)) == appends
    bench.run(JOURNAL_COMMIT_S + 0.1)
    assert len(bench.requests(SUBMITTER, Append)) == 3, "an elector gets all of them in one message"
    assert bench.candidates[SUBMITTER].chain.register.written == JOURNAL_WAITING_TASKS_MAX - missing


def test_many_entries_are_several_batches_and_none_is_written_twice() -> None:
    many = 2 * JOURNAL_BATCH_TASKS_MAX + 1
    bench = Bench(Setting(tasks=many + 1))
    bench.elected(SUBMITTER)
    bench.tell(SUBMITTER, Write(entries(*range(many), *range(100))))
    bench.run(0.5)
    bench.tell(SUBMITTER, Write((Entry(0, bytes([9]) * 16, "other"), *entries(many)), is_last=True))
    bench.run(0.5)
    chain = bench.candidates[SUBMITTER].chain
    assert chain.register.written == many + 1
    assert chain.register.get(0) == entries(0)[0]
    sizes = [len(chain.batch(sequence).tasks) for sequence in range(len(chain))]
    assert sizes == [0, JOURNAL_BATCH_TASKS_MAX, JOURNAL_BATCH_TASKS_MAX, 1, 1]
    bench.check()


def test_a_batch_names_no_more_workers_than_are_written_into_one() -> None:
    many = Bench(Setting(tasks=3 * PEERS_WRITTEN_MAX))
    many.elected(SUBMITTER)
    workers = [f"worker {number}" for number in range(PEERS_WRITTEN_MAX + 1)]
    written = [Entry(task, bytes(16), workers[task % len(workers)]) for task in range(3 * PEERS_WRITTEN_MAX)]
    many.tell(SUBMITTER, Write(tuple(written), is_last=True))
    many.run(0.5)
    chain = many.candidates[SUBMITTER].chain
    assert list(chain.register.entries()) == written
    batches = [chain.batch(sequence) for sequence in range(len(chain))]
    assert max(len(batch.peers) for batch in batches) <= PEERS_WRITTEN_MAX
    assert [len(batch.tasks) for batch in batches] == [0, 192, 144, 216, 216]
    many.check()


def test_a_batch_of_an_event_that_is_kept_for_ever_names_no_tasks(three: Bench) -> None:
    """Snapshots carry those batches: with tasks, a few would leave no room for the grants of the term."""
    three.elected(SUBMITTER)
    three.tell(SUBMITTER, Write(entries(1, 2)))
    three.tell(SUBMITTER, Write(entries(3), PRIORITY, "what the owner signed"))
    three.run(0.5)
    chain = three.candidates[SUBMITTER].chain
    assert [(chain.batch(number).event, chain.batch(number).tasks) for number in (1, 2)] == [
        ("", (1, 2, 3)),
        (PRIORITY, ()),
    ]
    assert three.candidates[SUBMITTER].committed == 3


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


@pytest.mark.parametrize("owner", [0, SUBMITTER], ids=["with a seat", "without a seat"])
def test_electors_that_missed_a_holder_once_are_not_missing_while_they_serve_another(bench: Bench, owner: int) -> None:
    """Its own elector sees the other's lease renewed, so that it never asks again; without one it is refused each time."""
    if bench.setting.electors == 1:
        return  # There is nobody else to serve.
    candidate = bench.elected(owner)
    bench.deaf = {(owner, number) for number in range(bench.setting.electors) if number != owner}
    bench.stand(1)
    bench.tell(1, LeaseSeen(PEERS[owner], bench.now_s + LAN.lease_s))
    bench.run(12.0)
    assert bench.candidates[1].holds(bench.now_s)
    bench.deaf.clear()
    bench.run(120.0)
    assert bench.candidates[1].holds(bench.now_s)
    assert candidate.snapshot().missing == ()
    assert "electors answered" not in candidate.snapshot().waiting


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
    three.tell(SUBMITTER, Write((), "cancelled"))
    three._waiting = [one for one in three._waiting if one[3].sequence == 2]
    three.run(0.05)
    assert three.candidates[SUBMITTER].committed == 2
    assert not any(isinstance(said, Over) for said in three.said[SUBMITTER])


def test_electors_that_lag_hear_of_the_end_while_the_lease_lasts(three: Bench) -> None:
    three.elected(SUBMITTER)
    three.deaf = {(SUBMITTER, 2)}
    write(three, SUBMITTER, 1, event="cancelled")
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
