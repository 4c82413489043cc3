from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerinfer.errors import UsageError
from peerinfer.units import (
    AMOUNT_MAX,
    DailyWindow,
    format_clock,
    format_count,
    format_duration,
    format_group,
    format_rate,
    format_size,
    parse_clock,
    parse_duration,
    parse_rate,
    parse_size,
    parse_window,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("512B", 512),
        ("500MB", 500_000_000),
        ("8GiB", 8 * 2**30),
        ("8 gib", 8 * 2**30),
        ("1.5G", 3 * 2**29),
        ("64k", 65536),
        ("1kB", 1000),
        (" 2TiB ", 2**41),
    ],
)
def test_a_size_is_read_as_people_write_it(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "bytes_s"),
    [
        ("10MB/s", 10_000_000),
        ("10MB", 10_000_000),
        ("512KiB/s", 524_288),
        ("50Mbit/s", 6_250_000),
        ("8bit/s", 1),
        ("100Mbps", 12_500_000),
        ("1M/s", 2**20),
    ],
)
def test_a_rate_is_read_in_bytes_or_bits(text: str, bytes_s: int) -> None:
    assert parse_rate(text) == bytes_s


@pytest.mark.parametrize(
    ("text", "duration_s"),
    [("90s", 90), ("2h30m", 9000), ("2h 30min", 9000), ("1d", 86400), ("250ms", 0.25), ("60", 60), ("1.5h", 5400)],
)
def test_a_duration_is_read_as_people_write_it(text: str, duration_s: float) -> None:
    assert parse_duration(text) == pytest.approx(duration_s)


@pytest.mark.parametrize(
    "text", ["", "GiB", "8 apples", "-1GB", "1e9", "nan", "inf", "1_000", "8iB", "1.G", "٣GB", "9" * 100, "8GiB/s"]
)
def test_what_is_not_a_size_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert "8GiB" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 160


@pytest.mark.parametrize("text", ["", "s", "5 weeks", "-1s", "30m2h", "1h1h", "1h30", "nan", "1h\n2q"])
def test_what_is_not_a_duration_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="not a duration") as caught:
        parse_duration(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "fast", "10MB/m", "10MB/s/s", "8i/s"])
def test_what_is_not_a_rate_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a rate"):
        parse_rate(text)


def test_amounts_beyond_64_bits_are_refused() -> None:
    for parse, text in ((parse_size, "99999P"), (parse_rate, "99999999999T/s"), (parse_duration, "9" * 18 + "d")):
        with pytest.raises(UsageError, match="too l"):
            parse(text)


@given(st.integers(0, AMOUNT_MAX // 2))
def test_a_formatted_size_reads_back_nearly_the_same(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == pytest.approx(size_bytes, rel=0.006)


@given(st.integers(0, 10**17))
def test_a_formatted_rate_reads_back_nearly_the_same(bytes_s: int) -> None:
    assert parse_rate(format_rate(bytes_s)) == pytest.approx(bytes_s, rel=0.006)


@given(st.floats(0, 1e9))
def test_a_formatted_duration_reads_back_nearly_the_same(duration_s: float) -> None:
    if duration_s < 1e-6:
        return
    assert parse_duration(format_duration(duration_s)) == pytest.approx(duration_s, rel=0.05)


@given(st.text(max_size=80))
def test_any_text_is_a_value_or_a_usage_error(text: str) -> None:
    for parse in (parse_size, parse_rate, parse_duration, parse_clock, parse_window):
        with suppress(UsageError):
            assert parse(text) is not None


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1, "1 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (8 * 2**30, "8 GiB")],
)
def test_sizes_are_short_for_people(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (0, "0s"),
        (0.25, "250ms"),
        (1, "1s"),
        (1.54, "1.5s"),
        (59.4, "59s"),
        (59.6, "1m"),
        (150, "2m30s"),
        (3599.6, "1h"),
        (9000, "2h30m"),
        (86399, "1d"),
        (100800, "1d4h"),
    ],
)
def test_durations_are_short_for_people(duration_s: float, text: str) -> None:
    assert format_duration(duration_s) == text


def test_rates_and_counts_are_short_for_people() -> None:
    assert format_rate(1_250_000) == "1.25 MB/s"
    assert format_rate(999_700) == "1 MB/s"
    assert format_count(12345) == "12,345"
    assert format_count(1, "task") == "1 task"
    assert format_count(12345, "task") == "12,345 tasks"


def test_a_window_may_run_over_midnight() -> None:
    window = parse_window("22:00-08:00")
    assert window == DailyWindow(22 * 60, 8 * 60)
    assert str(window) == "22:00-08:00"
    assert [window.holds(hour * 60) for hour in (21, 22, 0, 7, 8)] == [False, True, True, True, False]
    assert [parse_window("09:00-17:00").holds(hour * 60) for hour in (8, 9, 16, 17)] == [False, True, True, False]


@pytest.mark.parametrize("text", ["22:00", "22-8", "25:00-08:00", "22:60-08:00", "08:00-08:00", "a-b", "-"])
def test_what_is_not_a_window_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"not a (schedule|time of day)"):
        parse_window(text)


@given(st.integers(0, 1439))
def test_a_time_of_day_reads_back_the_same(minute: int) -> None:
    assert parse_clock(format_clock(minute)) == minute


def test_what_is_said_of_one_peer_is_said_of_several() -> None:
    assert format_group(1, "has no GPU to lend") == "1 peer: has no GPU to lend"
    assert format_group(3, "has no GPU to lend") == "3 peers: have no GPU to lend"
    assert format_group(1200, "is dead: there is no connection to it").startswith("1,200 peers: are dead")
    assert format_group(2, "paused by its owner") == "2 peers: paused by its owner"
    assert format_group(0, "") == "0 peers: "
