"""Shares, priorities, ageing and deadlines: nobody starves, nobody gains by what it claims."""

from __future__ import annotations

import math
import random

import pytest

from peerinfer.fairness import AGEING_S, COST_MAX_S, QUANTUM_S, SUBMITTERS_MAX, FairQueue, Priority

FRAME_S = 0.2


def serve(queue: FairQueue, ready: list[str], now_s: float, cost_s: float = FRAME_S) -> str:
    key = queue.next(ready, now_s)
    assert key is not None
    queue.charge(key, cost_s, now_s)
    queue.check()
    return key


def served(queue: FairQueue, ready: list[str], turns: int, **costs: float) -> dict[str, float]:
    """Seconds that each job got, when a worker asks every 10 ms."""
    got = dict.fromkeys(ready, 0.0)
    for turn in range(turns):
        key = queue.next(ready, turn * 0.01)
        assert key is not None
        cost = costs.get(key, FRAME_S)
        queue.charge(key, cost, turn * 0.01)
        got[key] += cost
    queue.check()
    return got


def test_nobody_waits_in_an_empty_queue() -> None:
    queue = FairQueue()
    assert queue.next([], 0.0) is None
    assert queue.next(["unheard of"], 0.0) is None
    queue.remove("unheard of")
    queue.charge("unheard of", 1.0, 0.0)
    queue.settle("nobody", 1.0, 2.0)


def test_submitters_share_evenly_however_many_jobs_they_bring() -> None:
    queue = FairQueue()
    queue.add("alone", "ann", 0.0)
    for number in range(20):
        queue.add(f"many-{number}", "bob", 0.0)
    got = served(queue, ["alone", *[f"many-{number}" for number in range(20)]], 4000)
    assert got["alone"] == pytest.approx(400.0, abs=QUANTUM_S + FRAME_S)


def test_shares_follow_the_weights_within_a_quantum_at_every_moment() -> None:
    queue = FairQueue()
    weights = {"ann": 1.0, "bob": 2.0, "cleo": 5.0}
    for name, weight in weights.items():
        queue.add(f"{name}'s", name, 0.0, weight=weight)
    got = dict.fromkeys(weights, 0.0)
    for turn in range(4000):
        name = serve(queue, [f"{name}'s" for name in weights], turn * 0.01).removesuffix("'s")
        got[name] += FRAME_S
        fair = sum(got.values()) / sum(weights.values())
        for other, weight in weights.items():
            assert abs(got[other] - fair * weight) <= 2 * QUANTUM_S * weight + FRAME_S


def test_dear_work_counts_by_its_cost_not_by_its_pieces() -> None:
    queue = FairQueue()
    queue.add("dear", "ann", 0.0)
    queue.add("cheap", "bob", 0.0)
    got = served(queue, ["dear", "cheap"], 5000, dear=5.0, cheap=0.1)
    assert got["dear"] == pytest.approx(got["cheap"], rel=0.05)


def test_claiming_urgency_buys_no_larger_share() -> None:
    queue = FairQueue()
    queue.add("urgent", "loud", 0.0, priority=Priority.URGENT)
    queue.add("low", "quiet", 0.0, priority=Priority.LOW)
    got = served(queue, ["urgent", "low"], 2000)
    assert got["urgent"] == pytest.approx(got["low"], abs=2 * QUANTUM_S + FRAME_S)


def test_urgency_goes_first_within_a_round() -> None:
    queue = FairQueue()
    queue.add("low", "ann", 0.0, priority=Priority.LOW)
    queue.add("urgent", "bob", 0.0, priority=Priority.URGENT)
    queue.add("normal", "bob", 0.0)
    assert queue.ordered(["low", "normal", "urgent"], 0.0) == ["urgent", "normal", "low"]


def test_a_submitters_own_jobs_go_by_priority_then_deadline_then_arrival() -> None:
    queue = FairQueue()
    queue.add("first", "ann", 0.0)
    queue.add("second", "ann", 0.0)
    queue.add("late", "ann", 0.0, deadline_s=900.0)
    queue.add("soon", "ann", 0.0, deadline_s=60.0)
    queue.add("high", "ann", 0.0, priority=Priority.HIGH)
    everything = ["first", "second", "late", "soon", "high"]
    assert queue.ordered(everything, 1.0) == ["high", "soon", "late", "first", "second"]
    assert queue.ordered(reversed(everything), 1.0) == ["high", "soon", "late", "first", "second"]  # type: ignore[arg-type]


def test_equal_jobs_of_one_submitter_take_turns() -> None:
    queue = FairQueue()
    for name in "abc":
        queue.add(name, "ann", 0.0)
    assert [serve(queue, ["a", "b", "c"], float(turn)) for turn in range(1, 7)] == ["a", "b", "c", "a", "b", "c"]


def test_the_lowest_job_does_not_starve_behind_a_stream_of_urgent_ones() -> None:
    """Each urgent job has a deadline, which would win every tie."""
    queue = FairQueue()
    queue.add("low", "ann", 0.0, priority=Priority.LOW)
    waits, since_s, now_s = [], 0.0, 0.0
    for turn in range(6000):
        now_s += 0.1
        queue.add(f"urgent-{turn}", "ann", now_s, priority=Priority.URGENT, deadline_s=now_s + 1)
        key = serve(queue, ["low", f"urgent-{turn}"], now_s)
        if key == "low":
            waits.append(now_s - since_s)
            since_s = now_s
        queue.remove(f"urgent-{turn}")
    assert len(waits) >= 4
    assert max(waits) <= 4 * AGEING_S + 0.2


@pytest.mark.parametrize("seed", range(8))
def test_nobody_with_work_starves_whatever_the_others_do(seed: int) -> None:
    """Hostile submitters come and go, claim urgency, and settle strangely."""
    rng = random.Random(seed)
    queue = FairQueue()
    queue.add("honest", "honest", 0.0)
    got = others = 0.0
    alive: list[str] = []
    for turn in range(4000):
        now_s = turn * 0.05
        if rng.random() < 0.1 and len(alive) < 10:
            key = f"job-{turn}"
            queue.add(
                key, f"rogue-{rng.randrange(3)}", now_s, priority=Priority(rng.randrange(4)), deadline_s=rng.random()
            )
            alive.append(key)
        if rng.random() < 0.1 and alive:
            queue.remove(alive.pop(rng.randrange(len(alive))))
        key = serve(queue, ["honest", *alive], now_s)
        if key == "honest":
            got += FRAME_S
        else:
            others += FRAME_S
            if rng.random() < 0.5:
                queue.settle(f"rogue-{rng.randrange(3)}", FRAME_S, FRAME_S * rng.choice((0.5, 2.0)))
    assert got >= (got + others) / 4 * 0.9


def test_who_suits_no_worker_for_a_while_does_not_come_back_with_an_hours_credit() -> None:
    queue = FairQueue()
    queue.add("picky", "ann", 0.0)
    queue.add("usual", "bob", 0.0)
    for turn in range(2000):
        serve(queue, ["usual"], turn * 0.01)
    got = served(queue, ["picky", "usual"], 200)
    assert got["picky"] == pytest.approx(got["usual"], abs=2 * QUANTUM_S + FRAME_S)


def test_who_served_alone_for_a_while_owes_nothing_for_it() -> None:
    queue = FairQueue()
    queue.add("early", "ann", 0.0)
    for turn in range(2000):
        serve(queue, ["early"], turn * 0.01)
    queue.add("late", "bob", 20.0)
    got = served(queue, ["early", "late"], 200)
    assert got["early"] == pytest.approx(got["late"], abs=2 * QUANTUM_S + FRAME_S)


def test_leaving_and_coming_back_clears_no_debt() -> None:
    queue = FairQueue()
    queue.add("steady", "ann", 0.0)
    got = {"ann": 0.0, "bob": 0.0}
    for turn in range(2000):
        key = f"fresh-{turn}"
        queue.add(key, "bob", turn * 0.01)
        chosen = serve(queue, ["steady", key], turn * 0.01, cost_s=1.0)
        got["ann" if chosen == "steady" else "bob"] += 1.0
        queue.remove(key)
    assert got["bob"] <= 1.1 * got["ann"]


def test_what_work_really_took_is_what_counts() -> None:
    """One submitter's work is charged at a tenth of what it takes."""
    queue = FairQueue()
    queue.add("honest", "ann", 0.0)
    queue.add("cheating", "bob", 0.0)
    took = {"honest": 0.0, "cheating": 0.0}
    for turn in range(4000):
        key = queue.next(["honest", "cheating"], turn * 0.01)
        assert key is not None
        charged, cost = (0.1, 1.0) if key == "cheating" else (1.0, 1.0)
        queue.charge(key, charged, turn * 0.01)
        queue.settle("bob" if key == "cheating" else "ann", charged, cost)
        took[key] += cost
    assert took["cheating"] == pytest.approx(took["honest"], rel=0.05)


@pytest.mark.parametrize("cost_s", [math.nan, math.inf, -5.0, 1e12])
def test_a_cost_without_sense_neither_pays_nor_locks_out(cost_s: float) -> None:
    queue = FairQueue()
    queue.add("a", "ann", 0.0)
    queue.add("b", "bob", 0.0)
    serve(queue, ["a", "b"], 0.0, cost_s=cost_s)
    assert queue.snapshot()["ann"][0] >= -COST_MAX_S
    assert queue.snapshot()["ann"][0] <= QUANTUM_S


def test_the_same_job_cannot_be_queued_twice() -> None:
    queue = FairQueue()
    queue.add("a", "ann", 0.0)
    with pytest.raises(ValueError, match="queued already"):
        queue.add("a", "bob", 0.0)


def test_a_million_submitters_leave_a_bounded_table() -> None:
    queue = FairQueue()
    for number in range(SUBMITTERS_MAX + 500):
        queue.add(f"job-{number}", f"submitter-{number}", 0.0)
        queue.remove(f"job-{number}")
    assert len(queue.snapshot()) <= SUBMITTERS_MAX
    queue.check()


def test_the_lag_says_who_is_owed_less() -> None:
    queue = FairQueue()
    queue.add("a", "ann", 0.0)
    queue.add("b", "bob", 0.0)
    serve(queue, ["a"], 0.0, cost_s=1.5)
    assert queue.lag_s("b") == 0.0
    assert queue.lag_s("a") == pytest.approx(1.5)


def test_a_priority_that_changes_counts_from_then_on_and_keeps_what_was_waited() -> None:
    queue = FairQueue()
    queue.add("first", "ann", 0.0, priority=Priority.HIGH)
    queue.add("second", "ann", 0.0, priority=Priority.LOW)
    assert serve(queue, ["first", "second"], 1.0) == "first"
    queue.prioritise("second", Priority.URGENT)
    assert serve(queue, ["first", "second"], 2.0) == "second"
    queue.prioritise("second", Priority.LOW)
    assert serve(queue, ["first", "second"], 3.0) == "first"
    queue.prioritise("unheard of", Priority.LOW)
    queue.check()
