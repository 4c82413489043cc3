"""Numbers as people read them."""

from __future__ import annotations

import pytest

from peerinfer_tui.figures import bar, counted, duration, milliseconds, per_second, percent, quantity, size


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "–"),
        (-1, "–"),
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 m 00 s"),
        (185, "3 m 05 s"),
        (8040, "2 h 14 m"),
        (3 * 86400 + 4 * 3600, "3 d 4 h"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("bytes_", "words"),
    [(None, "–"), (0, "0 B"), (999, "999 B"), (1536, "1.5 KiB"), (8 << 30, "8.0 GiB"), (16 << 30, "16 GiB")],
)
def test_a_size_has_three_figures_at_most(bytes_: float | None, words: str) -> None:
    assert size(bytes_) == words


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (None, "–"),
        (0.523, "0.52"),
        (12.34, "12.3"),
        (480.0, "480"),
        (999.4, "999"),
        (999.6, "1.00 k"),
        (13_100.0, "13.1 k"),
        (115e3, "115 k"),
        (5e12, "5000 G"),
    ],
)
def test_a_rate_has_three_figures_and_a_prefix(rate: float | None, words: str) -> None:
    assert per_second(rate) == words


def test_round_trips_of_ten_seconds_are_shown_as_durations() -> None:
    assert [milliseconds(value) for value in (None, 0.31, 42.2, 65_000)] == ["–", "0.3 ms", "42 ms", "1 m 05 s"]


def test_a_hundred_percent_means_all() -> None:
    assert percent(0.999) == "99 %"
    assert percent(1) == "100 %"
    assert percent(7) == "100 %"


@pytest.mark.parametrize("ratio", [-1, 0, 0.001, 0.5, 0.999, 1, 2])
@pytest.mark.parametrize("width", [1, 2, 10, 33])
def test_a_bar_is_as_wide_as_asked_and_full_only_when_all_is_done(ratio: float, width: int) -> None:
    filled, empty = bar(ratio, width)
    assert len(filled) + len(empty) == width
    assert (filled == "█" * width) == (ratio >= 1)
    assert (not filled.strip()) == (ratio <= 1 / (8 * width) and ratio * width * 8 < 1)


def test_quantities_and_counts_read_as_english() -> None:
    assert quantity(4100.4) == "4,100"
    assert quantity(54.0, "°C") == "54 °C"
    assert quantity(None, "W") == "–"
    assert [counted(n, "peer") for n in (0, 1, 1200)] == ["0 peers", "1 peer", "1,200 peers"]
