"""Sharing out, frame sizes, and what a worker with room gets."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from peerinfer.estimates import Estimate
from peerinfer.ids import Cid, JobId, PeerId
from peerinfer.limits import FRAME_TASKS_MAX, RELAYED_FRAME_BYTES_MAX
from peerinfer.placement import STRATEGIES, strategy_named
from peerinfer.placement_fill import fill, fill_few, frame_size
from peerinfer.placement_pull import (
    BACKUPS_MIN,
    FIRST_FRAME_TASKS,
    HOLD_FACTOR,
    HOLD_MAX_S,
    HOLD_MIN_S,
    Backup,
    Hold,
    InFlight,
    OpenJob,
    Portion,
    Pull,
)
from peerinfer.placement_table import Candidate, CandidateTable, Demand

MODEL = Cid("model")
GIB = 1 << 30
FAST, SLOW, NEAR, FAR = PeerId("fast"), PeerId("slow"), PeerId("near"), PeerId("far")


def swarm(strategy: str, speeds: dict[PeerId, float], **properties: dict[PeerId, float]) -> Pull:
    table = CandidateTable()
    for peer, seconds in speeds.items():
        own = {name: values[peer] for name, values in properties.items()}
        table.add(Candidate(peer, rtt_s=own.get("rtt_s", 0.01), memory_bytes=int(own.get("memory", 8 * GIB))))
        if not math.isnan(seconds):
            table.set_speed(peer, MODEL, Estimate(math.log(seconds), 0.1, 20.0))
        table.set_load(peer, MODEL, 0.0)
        table.update(peer, room=2)
    return Pull(strategy_named(strategy), table)


def open_job(tasks: int, name: str = "job", **options: object) -> OpenJob:
    return OpenJob(JobId(name), Demand(MODEL, **options), tasks)  # type: ignore[arg-type]


def in_flight(frame: int, peer: PeerId, demand: Demand, *, due_s: float, tasks: int = 1, **more: object) -> InFlight:
    return InFlight(frame, peer, JobId("job"), demand, tasks, due_s, 1.0, **more)  # type: ignore[arg-type]


# --- sharing out ---------------------------------------------------------------------------------------------------


def stupid_fill(seconds: list[float], ready: list[float], tasks: int) -> float:
    """One task after the other to whom it costs least: when are all done?"""
    finish = list(ready)
    level = 0.0
    for _ in range(tasks):
        best = min(range(len(seconds)), key=lambda row: finish[row] + seconds[row])
        finish[best] += seconds[best]
        level = max(level, finish[best])
    return level


@pytest.mark.parametrize("seed", range(30))
def test_filling_is_as_good_as_one_task_at_a_time(seed: int) -> None:
    rng = random.Random(seed)
    workers, tasks = rng.randrange(1, 30), rng.randrange(0, 200)
    seconds = [math.exp(rng.gauss(0, 1)) for _ in range(workers)]
    ready = [rng.random() * rng.choice((0, 1, 50)) for _ in range(workers)]
    for way in (fill, fill_few):
        counts, level = way(np.array(seconds), np.array(ready), tasks)
        assert counts.sum() == tasks
        assert (counts >= 0).all()
        assert level == pytest.approx(stupid_fill(seconds, ready, tasks), rel=1e-6)


def test_filling_equal_workers_is_even() -> None:
    counts, level = fill(np.ones(7), np.zeros(7), 16)
    assert sorted(counts.tolist()) == [2, 2, 2, 2, 2, 3, 3]
    assert level == pytest.approx(3.0)


def test_filling_nobody_is_an_error() -> None:
    for way in (fill, fill_few):
        with pytest.raises(ValueError, match="nobody"):
            way(np.empty(0), np.empty(0), 3)


@pytest.mark.parametrize(
    ("changes", "tasks"),
    [
        ({}, 20),
        ({"rtt_s": 1.0}, 150),
        ({"share": 0.001}, 5),
        ({"share": 0.001, "seconds_per_task": 1e-3}, 5),
        ({"share": 0.001, "seconds_per_task": 5e-4}, 10),
        ({"share": 0.001, "seconds_per_task": 1e-6}, FRAME_TASKS_MAX),
        ({"open_tasks": 700, "seconds_per_task": 1e-6}, 700),
        ({"open_tasks": 1}, 1),
        ({"bytes_per_task": 1e9}, 1),
        ({"seconds_per_task": 0.0}, FRAME_TASKS_MAX),
        ({"seconds_per_task": 100.0}, 1),
        ({"share": math.inf}, 20),
        ({"bytes_per_task": RELAYED_FRAME_BYTES_MAX / 7, "is_relayed": True}, 7),
        ({"bytes_per_task": RELAYED_FRAME_BYTES_MAX / 7 + 1, "is_relayed": True}, 6),
        ({"bytes_per_task": RELAYED_FRAME_BYTES_MAX / 7 + 1}, 20),
        ({"bytes_per_task": RELAYED_FRAME_BYTES_MAX + 1, "is_relayed": True}, 1),
    ],
)
def test_a_frame_lasts_and_shrinks_toward_the_end(changes: dict[str, float], tasks: int) -> None:
    usual = {"open_tasks": 10_000, "share": 0.5, "seconds_per_task": 0.01, "bytes_per_task": 100.0, "rtt_s": 0.01}
    assert frame_size(**{**usual, **changes}) == tasks  # type: ignore[arg-type]


def test_all_frames_of_a_job_use_up_its_tasks_in_shrinking_portions() -> None:
    left, sizes = 1000, []
    while left:
        size = frame_size(open_tasks=left, share=0.25, seconds_per_task=0.001, bytes_per_task=1, rtt_s=0)
        sizes.append(size)
        left -= size
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1


# --- pulling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_while_there_is_plenty_nobody_is_held_back(strategy: str) -> None:
    pull = swarm(strategy, {FAST: 0.05, SLOW: 0.5})
    for peer in (FAST, SLOW):
        given = pull.next_frame(peer, [open_job(10_000)], 0.0)
        assert isinstance(given, Portion)
        assert given.tasks >= 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_worker_that_nothing_fits_gets_nothing(strategy: str) -> None:
    pull = swarm(strategy, {FAST: 0.05})
    assert pull.next_frame(FAST, [], 0.0) is None
    assert pull.next_frame(FAST, [open_job(0)], 0.0) is None
    assert pull.next_frame(FAST, [open_job(9, kind="cuda")], 0.0) is None
    assert pull.next_frame(PeerId("stranger"), [open_job(9)], 0.0) is None
    excluded = OpenJob(JobId("job"), Demand(MODEL), 9, excluded=(FAST,))
    assert pull.next_frame(FAST, [excluded], 0.0) is None


def test_adaptive_frames_follow_the_speed_and_others_do_not() -> None:
    sizes = {}
    for strategy in STRATEGIES:
        pull = swarm(strategy, {FAST: 0.01, SLOW: 0.1})
        given = [pull.next_frame(peer, [open_job(10_000)], 0.0) for peer in (FAST, SLOW)]
        sizes[strategy] = [portion.tasks for portion in given if isinstance(portion, Portion)]
    fast, slow = sizes.pop("adaptive")
    assert fast == pytest.approx(10 * slow)
    assert all(fast == slow for fast, slow in sizes.values())


def test_a_worker_of_unknown_speed_starts_small() -> None:
    pull = swarm("adaptive", {FAST: 0.001, SLOW: math.nan})
    given = pull.next_frame(SLOW, [open_job(100_000, prior_s=0.001)], 0.0)
    assert given == Portion(JobId("job"), FIRST_FRAME_TASKS)


def test_round_robin_gives_the_last_task_to_whose_turn_it_is() -> None:
    pull = swarm("round-robin", {FAST: 0.1, SLOW: 0.1})
    pull._table.add_load(FAST, 1, 0.1)
    assert isinstance(pull.next_frame(FAST, [open_job(1)], 0.0), Hold)
    assert pull.next_frame(SLOW, [open_job(1)], 0.0) == Portion(JobId("job"), 1)


def test_least_loaded_holds_back_from_the_loaded() -> None:
    pull = swarm("least-loaded", {FAST: 0.1, SLOW: 0.1})
    pull._table.add_load(FAST, 1, 0.1)
    assert isinstance(pull.next_frame(FAST, [open_job(1)], 0.0), Hold)
    assert isinstance(pull.next_frame(SLOW, [open_job(1)], 0.0), Portion)


def test_latency_gives_the_last_task_to_the_near() -> None:
    pull = swarm("latency", {NEAR: 0.1, FAR: 0.1}, rtt_s={NEAR: 0.01, FAR: 0.3})
    assert isinstance(pull.next_frame(FAR, [open_job(1)], 0.0), Hold)
    assert isinstance(pull.next_frame(NEAR, [open_job(1)], 0.0), Portion)


def test_gpu_match_keeps_the_large_device_for_the_job_that_needs_it() -> None:
    pull = swarm("gpu-match", {FAST: 0.1, SLOW: 0.1}, memory={FAST: 24 * GIB, SLOW: 8 * GIB})
    small, large = open_job(500, "small"), open_job(500, "large", memory_bytes_min=16 * GIB)
    given = pull.next_frame(FAST, [small, large], 0.0)
    assert isinstance(given, Portion)
    assert given.job == large.job
    assert isinstance(pull.next_frame(FAST, [open_job(1, "tiny")], 0.0), Hold), "the small device is free for it"


def test_adaptive_withholds_the_last_tasks_from_the_slow() -> None:
    pull = swarm("adaptive", {FAST: 0.1, SLOW: 5.0})
    job = open_job(6)
    held = pull.next_frame(SLOW, [job], 0.0)
    assert held == Hold(pytest.approx(HOLD_FACTOR * 0.61), "others are expected to be done sooner", (FAST,))
    assert isinstance(pull.next_frame(FAST, [job], 0.0), Portion)


@pytest.mark.parametrize(("seconds", "holds_s"), [(1e-6, HOLD_MIN_S), (0.005, 3 * 0.04), (3.0, HOLD_MAX_S)])
def test_nobody_waits_much_longer_for_others_than_these_should_need(seconds: float, holds_s: float) -> None:
    pull = swarm("adaptive", {FAST: seconds, SLOW: 50.0})
    held = pull.next_frame(SLOW, [open_job(6)], 5.0)
    assert isinstance(held, Hold)
    assert held.until_s == pytest.approx(5.0 + holds_s)
    asked_s = 5.0 + holds_s
    assert isinstance(pull.next_frame(SLOW, [open_job(6)], asked_s - 0.01), Hold)
    assert isinstance(pull.next_frame(SLOW, [open_job(6)], asked_s), Portion)


def test_whoever_is_held_back_says_for_whom_and_these_are_not_held_back_with_it() -> None:
    for strategy in STRATEGIES:
        properties = {"rtt_s": {FAST: 0.001, SLOW: 0.2}, "memory": {FAST: GIB, SLOW: 9 * GIB}}
        pull = swarm(strategy, {FAST: 0.1, SLOW: 5.0}, **properties)
        pull._table.add_load(SLOW, 1, 5.0)
        held = pull.next_frame(SLOW, [open_job(1)], 0.0)
        assert isinstance(held, Hold), strategy
        assert held.instead == (FAST,), strategy
        assert isinstance(pull.next_frame(FAST, [open_job(1)], 0.0), Portion), strategy


def test_whoever_has_no_room_is_waited_for_and_asks_when_it_has() -> None:
    pull = swarm("adaptive", {FAST: 0.1, SLOW: 5.0})
    pull._table.update(FAST, room=0)
    held = pull.next_frame(SLOW, [open_job(1)], 0.0)
    assert isinstance(held, Hold)
    assert held.instead == ()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nobody_is_held_back_longer_than_the_bound(strategy: str) -> None:
    """The better one never asks: it may be gone without our knowing."""
    pull = swarm(strategy, {FAST: 0.1, SLOW: 5.0}, rtt_s={FAST: 0.001, SLOW: 0.2}, memory={FAST: GIB, SLOW: 9 * GIB})
    pull._table.add_load(SLOW, 1, 5.0)
    job = open_job(1)
    assert isinstance(pull.next_frame(SLOW, [job], 0.0), Hold)
    bound_s = HOLD_FACTOR * 0.101 if strategy == "adaptive" else HOLD_MAX_S
    assert isinstance(pull.next_frame(SLOW, [job], bound_s * 0.9), Hold)
    assert isinstance(pull.next_frame(SLOW, [job], bound_s * 1.001), Portion)


def test_a_departure_ends_every_hold() -> None:
    pull = swarm("adaptive", {FAST: 0.1, SLOW: 5.0})
    job = open_job(3)
    assert isinstance(pull.next_frame(SLOW, [job], 0.0), Hold)
    pull._table.remove(FAST)
    pull.changed()
    assert isinstance(pull.next_frame(SLOW, [job], 0.1), Portion)


def test_whoever_is_ruled_out_for_a_job_holds_nobody_back() -> None:
    for strategy in STRATEGIES:
        pull = swarm(strategy, {FAST: 0.1, SLOW: 5.0}, rtt_s={FAST: 0.01, SLOW: 0.2})
        job = OpenJob(JobId("job"), Demand(MODEL), 1, excluded=(FAST,))
        assert isinstance(pull.next_frame(SLOW, [job], 0.0), Portion), strategy


def test_a_worker_stays_with_its_warm_model_until_the_other_job_is_owed_enough() -> None:
    pull = swarm("adaptive", {FAST: 0.1})
    cold = OpenJob(JobId("cold"), Demand(Cid("other"), model_bytes=1e7), 1000)  # one second to load
    for lag_s, expected in ((1.0, "warm"), (4.9, "warm"), (5.1, "cold")):
        warm = OpenJob(JobId("warm"), Demand(MODEL), 1000, lag_s=lag_s)
        given = pull.next_frame(FAST, [cold, warm], 0.0)
        assert isinstance(given, Portion)
        assert given.job == expected


def test_a_job_that_ended_leaves_nothing_behind() -> None:
    pull = swarm("adaptive", {FAST: 0.1, SLOW: 5.0})
    job = open_job(3)
    pull.next_frame(SLOW, [job], 0.0)
    pull.next_frame(FAST, [job], 0.0)
    pull.job_ended(job.job)
    assert not pull._held
    assert not pull._speeds
    assert not pull._levels
    assert job.demand not in pull.strategy._rankings


# --- the tail ------------------------------------------------------------------------------------------------------


def test_a_late_frame_gets_a_second_copy_where_it_is_done_sooner() -> None:
    pull, demand = swarm("adaptive", {FAST: 0.1, SLOW: 5.0}), Demand(MODEL)
    late = in_flight(7, SLOW, demand, due_s=5.0, tasks=3)
    assert pull.backup(FAST, [late], 0.0) == Backup(7, FAST, 3, revoke=False)
    assert pull.backup(FAST, [in_flight(7, SLOW, demand, due_s=0.11)], 0.0) is None, "it would gain nothing"
    assert pull.backup(SLOW, [in_flight(7, FAST, demand, due_s=4.0)], 0.0) is None, "it would be slower"


def test_a_frame_that_has_not_begun_is_taken_back_instead_of_copied() -> None:
    pull, demand = swarm("adaptive", {FAST: 0.1, SLOW: 5.0}), Demand(MODEL)
    waiting = in_flight(7, SLOW, demand, due_s=9.0, tasks=3, is_started=False)
    assert pull.backup(FAST, [waiting], 0.0) == Backup(7, FAST, 3, revoke=True)


def test_the_latest_frame_goes_to_the_fastest_worker() -> None:
    middle = PeerId("middle")
    pull, demand = swarm("adaptive", {FAST: 0.1, SLOW: 5.0, middle: 0.5}), Demand(MODEL)
    frames = [in_flight(1, SLOW, demand, due_s=3.0), in_flight(2, PeerId("other"), demand, due_s=30.0)]
    assert pull.backups([middle, FAST], frames, 0.0) == [Backup(2, FAST, 1, False), Backup(1, middle, 1, False)]


def test_no_task_has_more_than_two_live_copies_nor_twice_the_same_worker() -> None:
    pull, demand = swarm("adaptive", {FAST: 0.1}), Demand(MODEL)
    assert pull.backup(FAST, [in_flight(1, SLOW, demand, due_s=60.0, copies=2)], 0.0) is None
    assert pull.backup(FAST, [in_flight(1, FAST, demand, due_s=60.0)], 0.0) is None
    assert pull.backup(FAST, [in_flight(1, SLOW, demand, due_s=60.0, holders=(FAST,))], 0.0) is None


def test_what_is_overdue_looks_later_and_later() -> None:
    pull, demand = swarm("adaptive", {FAST: 1.0}), Demand(MODEL)
    overdue = in_flight(1, SLOW, demand, due_s=0.0)
    assert pull.backup(FAST, [overdue], 0.5) is None
    assert pull.backup(FAST, [overdue], 3.0) is not None


def test_copies_are_bounded_by_a_share_of_the_job() -> None:
    for job_tasks, allowed in ((10, BACKUPS_MIN), (2000, 100)):
        pull, demand = swarm("adaptive", {FAST: 0.001}), Demand(MODEL)
        copied = [
            pull.backup(FAST, [in_flight(number, SLOW, demand, due_s=60.0)], 0.0, job_tasks=job_tasks)
            for number in range(200)
        ]
        assert sum(backup is not None for backup in copied) == allowed


def test_only_the_adaptive_strategy_hedges() -> None:
    for strategy in STRATEGIES:
        pull = swarm(strategy, {FAST: 0.1})
        late = in_flight(1, SLOW, Demand(MODEL), due_s=60.0)
        assert (pull.backup(FAST, [late], 0.0) is not None) == (strategy == "adaptive")
