"""Curves in block characters."""

from __future__ import annotations

from peerinfer_tui.sparkline import curve, resampled


def test_samples_fall_into_the_cells_of_their_times() -> None:
    samples = [(90.0, 1.0), (95.0, 3.0), (99.0, 5.0), (100.0, 9.0), (101.0, 100.0), (1.0, 100.0)]
    assert resampled(samples, now_s=100.0, span_s=10.0, cells=2) == [1.0, (3.0 + 5.0 + 9.0) / 3]


def test_cells_without_a_sample_are_unknown() -> None:
    assert resampled([(99.9, 4.0)], now_s=100.0, span_s=10.0, cells=3) == [None, None, 4.0]
    assert resampled([], now_s=100.0, span_s=10.0, cells=2) == [None, None]


def test_the_top_is_reached_and_zero_is_empty() -> None:
    assert curve([0.0, 4.0, 8.0, None], height=2, top=8.0) == ["  █ ", " ██ "]
    assert curve([1.0, 2.0], height=1, top=0.0) == ["  "]


def test_a_little_work_is_seen() -> None:
    assert curve([0.001, 1000.0], height=2, top=1000.0) == [" █", "▁█"]
