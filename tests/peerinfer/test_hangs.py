from __future__ import annotations

import pytest

from peerinfer.hangs import (
    HANG_FACTOR,
    HANG_MIN_S,
    KINDS_MAX,
    OVERDUE_FACTOR,
    OVERDUE_MIN_S,
    RUNS_KEPT,
    UNKNOWN_HANG_S,
    RunTimes,
    allowed_s,
    hang_words,
    is_hung,
)
from peerinfer.ids import cid_of

MODEL, OTHER = cid_of(b"a"), cid_of(b"b")


@pytest.mark.parametrize(
    ("longest_s", "limit_s"),
    [(None, UNKNOWN_HANG_S), (0.0, HANG_MIN_S), (0.01, HANG_MIN_S), (2.0, 2.0 * HANG_FACTOR)],
)
def test_what_takes_far_longer_than_before_hangs(longest_s: float | None, limit_s: float) -> None:
    assert is_hung(limit_s, longest_s)
    assert not is_hung(limit_s - 0.001, longest_s)


@pytest.mark.parametrize(
    ("tasks", "longest_s", "limit_s"),
    [
        (300, None, 300.0),
        (300, 0.1, OVERDUE_MIN_S),
        (5, 0.1, 5.0),
        (3000, 10.0, 10.0 * OVERDUE_FACTOR),
    ],
)
def test_a_batch_may_take_what_its_job_allows_or_far_more_than_it_ever_did(
    tasks: int, longest_s: float | None, limit_s: float
) -> None:
    assert allowed_s(1.0, tasks, longest_s) == limit_s


def test_a_single_task_may_take_what_its_job_allows_whatever_others_took() -> None:
    assert allowed_s(7200.0, 1, 0.1) == allowed_s(7200.0, 50, 0.1) == 7200.0


def test_the_longest_of_the_last_runs_of_about_this_size_counts() -> None:
    times = RunTimes()
    assert times.longest_s(MODEL, 8, 1000) is None
    times.learn(MODEL, 8, 1000, 3.0)  # with the compiling of its shaders
    times.learn(MODEL, 15, 1023, 0.1)
    assert times.longest_s(MODEL, 8, 1000) == 3.0
    for _ in range(RUNS_KEPT - 1):
        times.learn(MODEL, 8, 1000, 0.2)
    assert times.longest_s(MODEL, 9, 800) == 0.2
    for other in ((OTHER, 8, 1000), (MODEL, 16, 1000), (MODEL, 8, 1024)):
        assert times.longest_s(*other) is None


def test_no_more_kinds_are_remembered_than_there_is_room_for() -> None:
    times = RunTimes()
    for number in range(KINDS_MAX + 1):
        times.learn(cid_of(number.to_bytes(2)), 1, 1, 1.0)
    assert times.longest_s(cid_of((0).to_bytes(2)), 1, 1) is None
    assert times.longest_s(cid_of((1).to_bytes(2)), 1, 1) == 1.0


def test_a_hang_is_told_with_what_was_usual() -> None:
    assert hang_words(6.3, 0.05) == "it hung: no answer and no stop within 6.3 s, where 0.05 s were enough before"
    assert hang_words(60.25, None) == "it hung: no answer and no stop within 60.2 s"
