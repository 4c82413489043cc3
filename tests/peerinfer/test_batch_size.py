from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerinfer.batch_size import (
    CHECK_RUNS,
    CLEARLY,
    DID_NOT_FIT,
    MEASURES_MAX,
    ROWS_MAX,
    RUN_BYTES_MAX,
    SAMPLES,
    SIZES_OF_ROWS_MAX,
    BatchSize,
    Measure,
)
from peerinfer.limits import KIB


def worked_off(size: BatchSize, rows: int, run_s: Callable[[int], float], row_bytes: int = KIB) -> list[int]:
    """The sizes of the runs that so many rows take."""
    sizes = []
    while rows:
        now = size.rows(row_bytes, rows)
        size.ran(row_bytes, now, run_s(now))
        sizes.append(now)
        rows -= now
    return sizes


def launching(rows: int) -> float:
    """A card: every run has its price, rows cost little."""
    return 0.001 + 1e-5 * rows


def convolving(rows: int) -> float:
    """A processor: nothing is gained."""
    return 0.002 * rows


def test_where_every_run_has_a_price_many_rows_are_joined() -> None:
    size = BatchSize()
    worked_off(size, 5000, launching)
    assert size.is_settled(KIB)
    assert size.best(KIB) == 256
    assert worked_off(size, 600, launching) == [256, 256, 88]


def test_where_nothing_is_gained_rows_run_alone_and_little_is_tried() -> None:
    size = BatchSize()
    tried = worked_off(size, 100, convolving)
    assert size.best(KIB) == 1
    assert max(tried) == 8
    assert tried.count(4) == tried.count(8) == SAMPLES
    assert tried.count(2) == 2 * SAMPLES  # once to begin with, and once against one row


def test_one_run_in_five_that_is_disturbed_does_not_change_what_is_chosen() -> None:
    runs = iter(range(10_000))
    size = BatchSize()
    worked_off(size, 8000, lambda rows: launching(rows) * (9 if next(runs) % 5 == 0 else 1))
    assert size.best(KIB) == 256


def test_each_new_size_is_measured_in_turn_with_the_best_so_far() -> None:
    tried = worked_off(BatchSize(), 60, launching)
    assert tried[:15] == [2, 2, 2, 1, 2, 1, 2, 1, 2, 4, 2, 4, 2, 4, 2]


def test_pairs_that_disagree_are_followed_by_two_more() -> None:
    size = BatchSize([Measure(10, 2, 0.002), Measure(10, 1, 0.002)])
    times = {4: iter([0.001, 0.009, 0.001, 0.001, 0.001])}
    tried = worked_off(size, 30, lambda rows: next(times[4]) if rows == 4 else 0.002)
    assert tried == [4, 2] * 5
    assert size.best(KIB) == 4


@pytest.mark.parametrize(
    ("curve", "worst"),
    [(launching, 0.95), (convolving, 0.95), (lambda rows: 2e-4 + 1.2e-4 * rows, 0.85)],
    ids=["launching", "convolving", "dense"],
)
def test_on_a_machine_whose_load_comes_and_goes_the_choice_is_near_the_best(
    curve: Callable[[int], float], worst: float
) -> None:
    """The load changes every 50 ms on average, one run in twenty waits 10 ms for something else."""
    reached = []
    for seed in range(60):
        rng = random.Random(seed)
        load, left_s, size = 1.0, 0.0, BatchSize()
        for _ in range(300):
            rows = size.rows(KIB, 2000)
            run_s = curve(rows) * load * (1 + abs(rng.gauss(0, 0.15))) + (0.01 if rng.random() < 0.05 else 0)
            left_s -= run_s
            if left_s <= 0:
                load, left_s = rng.choice((1, 1, 2, 3)), rng.expovariate(20)
            size.ran(KIB, rows, run_s)
        best = size.best(KIB)
        reached.append(min(curve(1 << power) / (1 << power) for power in range(9)) / (curve(best) / best))
    assert sorted(reached)[3] >= worst


@pytest.mark.parametrize("factor", [CLEARLY * 1.01, 1 / CLEARLY / 1.01])
def test_what_was_kept_is_measured_anew_when_the_work_takes_clearly_another_time(factor: float) -> None:
    size = BatchSize()
    worked_off(size, 5000, launching)
    kept = {measure.rows: measure.run_s for measure in size.measures()}
    for _ in range(2 * CHECK_RUNS):  # some are still of the time before
        worked_off(size, 256, lambda rows: launching(rows) * factor)
    assert not size.is_settled(KIB)
    assert size.best(KIB) == 256  # which stays in use meanwhile
    worked_off(size, 20_000, lambda rows: launching(rows) * factor)
    assert size.is_settled(KIB)
    for measure in size.measures():
        assert measure.run_s == pytest.approx(kept[measure.rows] * factor)


def test_a_choice_that_is_wrong_by_now_is_mended() -> None:
    """What was kept of a quiet minute says that 256 rows are best; but they are the slowest by far."""
    size = BatchSize([Measure(10, 1 << power, launching(1 << power)) for power in range(9)])
    worked_off(size, 256 * 4 * CHECK_RUNS, lambda rows: 0.0001 * rows * (1 if rows < 16 else 3))
    assert size.best(KIB) == 1


def test_a_little_slower_or_faster_is_no_news_and_neither_are_a_few_slow_runs() -> None:
    size = BatchSize()
    worked_off(size, 5000, launching)
    runs = iter(range(10_000))
    for factor in (CLEARLY * 0.99, 1 / CLEARLY * 1.01):
        worked_off(size, 256 * CHECK_RUNS, lambda rows: launching(rows) * factor)  # noqa: B023
    worked_off(size, 256 * CHECK_RUNS * 4, lambda rows: launching(rows) * (1 if next(runs) % 3 else 20))
    assert size.is_settled(KIB)


def test_a_device_that_changes_all_the_time_is_measured_ever_less_often() -> None:
    size, speed, anew = BatchSize(), 1.0, 0
    for _ in range(40_000):
        was_settled = size.is_settled(KIB)
        size.ran(KIB, rows := size.rows(KIB, 256), launching(rows) * speed)
        anew += was_settled and not size.is_settled(KIB)
        if not was_settled and size.is_settled(KIB):
            speed = 4.0 / speed
    assert 5 < anew < 20


def test_a_run_that_takes_too_long_is_not_used_however_fast_its_rows() -> None:
    size = BatchSize()
    worked_off(size, 5000, lambda rows: 0.1 + 0.01 * rows)
    assert size.best(KIB) == 8  # 16 rows would take 0.26 s


def test_a_model_that_is_slower_than_that_with_two_rows_runs_them_alone() -> None:
    size = BatchSize()
    assert set(worked_off(size, 40, lambda rows: 0.5 * rows)[3 * SAMPLES :]) == {1}


def test_the_first_rows_of_a_model_run_in_twos_so_that_it_is_seen_whether_it_gives_rows() -> None:
    size = BatchSize([Measure(10, 1, 0.001), Measure(10, 2, 0.002), Measure(10, 4, 0.004), Measure(10, 8, 0.008)])
    assert size.rows(KIB, 10) == 2
    size.ran(KIB, 2, 0.002)
    assert size.rows(KIB, 10) == 1


def test_what_does_not_fit_is_halved_and_remembered() -> None:
    size = BatchSize()
    worked_off(size, 200, launching)
    size.did_not_fit(KIB, 32)
    assert size.rows(KIB, 500) == 16
    assert Measure(10, 32, DID_NOT_FIT) in size.measures()
    again = BatchSize(size.measures())
    assert max(worked_off(again, 3000, launching)) == 16
    again.did_not_fit(KIB, 1)
    assert again.rows(KIB, 1) == 1  # a row cannot be cut


def test_rows_that_do_not_even_fit_in_twos_run_alone() -> None:
    size = BatchSize()
    size.did_not_fit(KIB, 2)
    assert size.rows(KIB, 10) == 1


@pytest.mark.parametrize("row_bytes", [RUN_BYTES_MAX, RUN_BYTES_MAX // 4, RUN_BYTES_MAX // 4 + 1])
def test_no_run_takes_in_more_than_its_bytes(row_bytes: int) -> None:
    size = BatchSize()
    sizes = worked_off(size, 60, launching, row_bytes)
    assert max(sizes) * row_bytes <= RUN_BYTES_MAX


def test_large_rows_are_another_question_than_small_ones() -> None:
    size = BatchSize()
    worked_off(size, 5000, launching, 100)
    worked_off(size, 100, convolving, 100 * KIB)
    assert (size.best(100), size.best(100 * KIB)) == (256, 1)


def test_what_was_measured_is_kept_and_only_news_are_told() -> None:
    size = BatchSize()
    worked_off(size, 5000, launching)
    revision, measures = size.revision, size.measures()
    worked_off(size, 1000, launching)
    assert size.revision == revision
    again = BatchSize(measures)
    assert again.is_settled(KIB)
    assert again.measures() == measures


def test_lengths_without_end_do_not_fill_the_memory() -> None:
    size = BatchSize()
    for power in range(40):
        worked_off(size, 3000, launching, 1 << power)
    assert len({measure.row_bytes_power for measure in size.measures()}) == SIZES_OF_ROWS_MAX
    assert len(size.measures()) <= MEASURES_MAX


@given(
    st.lists(st.builds(Measure, st.integers(0, 63), st.integers(0, 1023), st.floats(0, 100)), max_size=80),
    st.lists(st.tuples(st.integers(0, 1 << 33), st.integers(1, 2000), st.floats(0, 10), st.booleans()), max_size=60),
)
def test_whatever_was_measured_every_run_makes_progress_within_its_bounds(
    known: list[Measure], runs: list[tuple[int, int, float, bool]]
) -> None:
    size = BatchSize(known)
    for row_bytes, remaining, run_s, fits in runs:
        rows = size.rows(row_bytes, remaining)
        assert 1 <= rows <= min(remaining, ROWS_MAX)
        if fits:
            size.ran(row_bytes, rows, run_s)
        else:
            size.did_not_fit(row_bytes, rows)
        assert len(size.measures()) <= MEASURES_MAX
        assert all(0 <= measure.row_bytes_power <= 63 for measure in size.measures())
