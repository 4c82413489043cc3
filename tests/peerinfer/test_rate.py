from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerinfer.rate import BURST_S, Rate


def test_after_a_pause_a_burst_goes_at_once_and_then_everything_takes_its_time() -> None:
    rate = Rate(1000.0)
    assert rate.take(int(1000 * BURST_S), 100.0) == 0
    assert rate.take(500, 100.0) == pytest.approx(0.5)
    assert rate.take(500, 100.0) == pytest.approx(1.0)  # behind the one before it
    assert rate.take(0, 101.0) == 0
    assert rate.take(100, 110.0) == 0


def test_a_long_pause_earns_no_more_than_a_burst() -> None:
    rate = Rate(1000.0)
    rate.take(1, 0.0)
    assert rate.take(1000, 1e6) == pytest.approx(1.0 - BURST_S)


@given(st.floats(10, 1e9), st.lists(st.tuples(st.integers(0, 1 << 23), st.floats(0, 5)), min_size=1))
def test_never_more_goes_than_the_rate_and_one_burst_allow(bytes_s: float, takes: list[tuple[int, float]]) -> None:
    rate, now_s, gone = Rate(bytes_s), 50.0, 0
    for count, pause_s in takes:
        now_s += pause_s
        now_s += rate.take(count, now_s)  # one writer, which waits as it is told
        gone += count
        assert gone <= bytes_s * (now_s - 50.0 + BURST_S) * (1 + 1e-9) + 1
