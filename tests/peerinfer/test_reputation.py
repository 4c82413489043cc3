"""Evidence and what follows from it: formulas, forgetting, bounds and dues."""

from __future__ import annotations

import math
import random

import pytest

from peerinfer.ids import PeerId
from peerinfer.reputation import (
    BAD_HALF_LIFE_S,
    DAY_S,
    NETWORKS_MAX,
    NEWCOMER_AUDITS,
    P_OK_MIN,
    PEERS_MAX,
    Evidence,
    Reputation,
    epsilon,
    lower_bound,
)

PEER = PeerId("peer")


def test_a_stranger_stands_where_the_formulas_put_it() -> None:
    stranger = Reputation().standing(PEER, 0.0)
    assert stranger.integrity == pytest.approx(0.2113, abs=1e-4)
    assert stranger.reliability == stranger.integrity
    assert stranger.timeliness == 0.5
    assert stranger.epsilon == 0.10
    assert stranger.is_newcomer
    assert stranger.p_ok == pytest.approx(0.9 * (0.5 + 0.5 * 0.2113) * 0.5, rel=1e-3)


@pytest.mark.parametrize(("audits", "expected"), [(0, 0.1), (1, 0.0409), (20, 2.044e-3), (409, 1e-4), (1e9, 1e-9)])
def test_credibility_grows_with_passed_audits(audits: float, expected: float) -> None:
    assert epsilon(audits) == pytest.approx(expected, rel=2e-3)


def test_the_lower_bound_rises_with_evidence_and_falls_with_faults() -> None:
    assert lower_bound(2, 1) < lower_bound(20, 1) < lower_bound(200, 1) < 1.0
    assert lower_bound(20, 21) < lower_bound(1, 1) + 0.25
    assert lower_bound(1, 21) < 0.05


def test_checked_work_makes_a_veteran() -> None:
    reputation = Reputation()
    for _ in range(NEWCOMER_AUDITS):
        assert reputation.standing(PEER, 0.0).is_newcomer
        reputation.passed(PEER, 0.0)
        reputation.answered(PEER, 0.0, in_time=True)
    reputation.check()
    veteran = reputation.standing(PEER, 0.0)
    assert not veteran.is_newcomer
    assert veteran.p_ok > 0.85


def test_silence_never_counts_as_a_lie() -> None:
    reputation = Reputation()
    for _ in range(30):
        reputation.passed(PEER, 0.0)
    before = reputation.standing(PEER, 0.0)
    for _ in range(500):
        reputation.vanished(PEER, 0.0)
        reputation.answered(PEER, 0.0, in_time=False)
    after = reputation.standing(PEER, 0.0)
    assert (after.integrity, after.epsilon, after.audits) == (before.integrity, before.epsilon, before.audits)
    assert after.reliability < 0.01
    assert after.p_ok == P_OK_MIN, "it is rated low, and still gets its chance"


def test_one_proven_fault_costs_all_that_was_earned() -> None:
    reputation = Reputation()
    for _ in range(100):
        reputation.passed(PEER, 0.0)
        reputation.answered(PEER, 0.0, in_time=True)
    before = reputation.standing(PEER, 0.0)
    reputation.caught(PEER, 0.0)
    after = reputation.standing(PEER, 0.0)
    assert (after.audits, after.epsilon, after.faults, after.is_newcomer) == (0.0, 0.1, 1, True)
    assert after.integrity < before.integrity - 0.15


def test_a_new_name_is_worth_less_than_any_honest_one() -> None:
    """Else shedding a name would pay: only honest work raises, and every bit of it does."""
    reputation = Reputation()
    stranger = reputation.standing(PEER, 0.0).p_ok
    reputation.passed(PEER, 0.0)
    assert reputation.standing(PEER, 0.0).p_ok > stranger


def test_good_work_is_forgotten_sooner_than_faults() -> None:
    reputation = Reputation()
    for _ in range(40):
        reputation.passed(PEER, 0.0)
    reputation.caught(PEER, 0.0)
    fresh = reputation.standing(PEER, 0.0).integrity
    assert reputation.standing(PEER, 60 * DAY_S).integrity < fresh
    assert Evidence(0.0, bad=21.0).aged(BAD_HALF_LIFE_S).bad == pytest.approx(11.0)
    assert reputation.standing(PEER, 3000 * DAY_S).integrity == pytest.approx(0.2113, abs=0.01)


def test_a_clock_that_jumps_back_changes_nothing() -> None:
    reputation = Reputation()
    reputation.passed(PEER, 100 * DAY_S)
    row = dict(reputation.rows())[PEER]
    reputation.answered(PEER, 0.0, in_time=True)
    assert dict(reputation.rows())[PEER].at_s == row.at_s
    reputation.check()


def test_what_was_learned_survives_a_restart() -> None:
    rng = random.Random(1)
    reputation = Reputation()
    for step in range(500):
        peer, now_s = PeerId(f"peer-{rng.randrange(20)}"), step * 1000.0
        match rng.randrange(5):
            case 0:
                reputation.caught(peer, now_s)
            case 1:
                reputation.vanished(peer, now_s)
            case 2:
                reputation.answered(peer, now_s, in_time=rng.random() < 0.8, weight=rng.random())
            case _:
                reputation.passed(peer, now_s)
        reputation.check()
    again = Reputation()
    assert again.restore(reputation.rows(), 500_000.0) == 0
    assert again.snapshot(600_000.0) == reputation.snapshot(600_000.0)


@pytest.mark.parametrize(
    "row",
    [
        Evidence(0.0, good=math.nan),
        Evidence(0.0, good=0.5),
        Evidence(0.0, bad=-3.0),
        Evidence(0.0, audits=1e30),
        Evidence(0.0, audits=-1.0),
        Evidence(math.inf),
        Evidence(0.0, late=math.inf),
        Evidence(0.0, faults=-1),
        Evidence(0.0, networks=("net",) * (NETWORKS_MAX + 1)),
        Evidence(0.0, networks=(5,)),  # type: ignore[arg-type]
    ],
)
def test_a_row_edited_by_hand_is_refused(row: Evidence) -> None:
    reputation = Reputation()
    assert reputation.restore([(PEER, row), (PeerId("fine"), Evidence(0.0))], 10.0) == 1
    assert not reputation.knows(PEER)
    assert reputation.knows(PeerId("fine"))


def test_a_row_from_the_future_does_not_last_for_ever() -> None:
    reputation = Reputation()
    reputation.restore([(PEER, Evidence(1e18, good=1000.0, audits=999.0))], 0.0)
    assert reputation.standing(PEER, 10_000 * DAY_S).is_newcomer


def test_the_last_networks_in_which_a_peer_was_caught_are_remembered() -> None:
    reputation = Reputation()
    for number in range(NETWORKS_MAX + 1):
        reputation.caught(PEER, float(number), "wrong", ("at home", f"network {number}"))
    reputation.caught(PeerId("other"), 0.5, "wrong", ("elsewhere",))
    last = ("network 2", "network 3", "at home", "network 4")
    assert reputation.networks() == [(0.5, ("elsewhere",)), (float(NETWORKS_MAX), last)]
    again = Reputation()
    assert again.restore(reputation.rows(), 2.0) == 0
    assert again.networks() == [(0.5, ("elsewhere",)), (2.0, last)], "a clock that was set back"


def test_a_change_that_could_not_be_kept_is_given_once_more() -> None:
    reputation = Reputation()
    reputation.passed(PEER, 0.0)
    rows, _ = reputation.changes()
    assert reputation.changes() == ([], [])
    reputation.change_again(peer for peer, _ in rows)
    assert reputation.changes() == (rows, [])


def test_a_flood_of_names_washes_away_no_proven_fault() -> None:
    reputation = Reputation()
    reputation.caught(PEER, 0.0)
    for number in range(PEERS_MAX + 2000):
        reputation.passed(PeerId(f"peer-{number}"), 1.0)
    reputation.check()
    assert reputation.standing(PEER, 1.0).faults == 1
