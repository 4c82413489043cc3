from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerinfer.batch_size import (
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
    assert len([rows for rows in tried if rows > 1]) == 3 * SAMPLES


def test_one_disturbed_run_does_not_change_what_is_chosen() -> None:
    disturbed = iter(range(10_000))
    size = BatchSize()
    worked_off(size, 5000, lambda rows: launching(rows) * (9 if next(disturbed) % SAMPLES == 0 else 1))
    assert size.best(KIB) == 256


def test_a_run_that_takes_too_long_is_not_used_however_fast_its_rows() -> None:
    size = BatchSize()
    worked_off(size, 5000, lambda rows: 0.1 + 0.01 * rows)
    assert size.best(KIB) == 8  # 16 rows would take 0.26 s


def test_a_model_that_is_slower_than_that_with_two_rows_runs_them_alone() -> None:
    size = BatchSize()
    assert set(worked_off(size, 40, lambda rows: 0.5 * rows)[2 * SAMPLES :]) == {1}


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
