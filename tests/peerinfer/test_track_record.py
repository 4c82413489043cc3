"""How often a peer left with work in hand, and how fast bytes reach it."""

import math

import pytest

from peerinfer.ids import PeerId
from peerinfer.limits import PEERS_REMEMBERED_MAX
from peerinfer.track_record import BYTES_PER_S_PRIOR, LEAVES_PRIOR, PRESENCE_PRIOR_S, TRANSFER_BYTES_MIN, TrackRecords

ADA = PeerId("ada")


def test_a_stranger_is_believed_to_leave_now_and_then() -> None:
    assert TrackRecords().leave_rate(ADA) == LEAVES_PRIOR / PRESENCE_PRIOR_S


def test_who_leaves_with_work_in_hand_is_expected_to_do_it_again() -> None:
    records = TrackRecords()
    for hour in range(10):
        records.joined(ADA, hour * 1000.0)
        records.left(ADA, hour * 1000.0 + 600.0, with_work=True)
    assert records.leave_rate(ADA) == pytest.approx(10 / 6000, rel=0.4)


def test_who_stays_long_or_leaves_without_work_is_trusted_to_stay() -> None:
    records = TrackRecords()
    records.joined(ADA, 0.0)
    records.left(ADA, 1e6, with_work=False)
    assert records.leave_rate(ADA) < 1e-6


def test_leaving_twice_counts_once() -> None:
    records = TrackRecords()
    records.left(ADA, 5.0, with_work=True)
    records.joined(ADA, 10.0)
    records.left(ADA, 20.0, with_work=True)
    rate = records.leave_rate(ADA)
    records.left(ADA, 30.0, with_work=True)
    assert records.leave_rate(ADA) == rate


def test_bandwidth_follows_what_was_measured() -> None:
    records = TrackRecords()
    records.joined(ADA, 0.0)
    assert records.bytes_per_s(ADA) == BYTES_PER_S_PRIOR
    assert records.carried(ADA, 1e6, 1.0) == 1e6
    for _ in range(30):
        records.carried(ADA, 1e6, 0.1)
    assert records.bytes_per_s(ADA) == pytest.approx(1e7, rel=0.01)


@pytest.mark.parametrize(("size", "seconds"), [(TRANSFER_BYTES_MIN - 1, 1.0), (1e6, 0.0), (1e6, -1.0), (1e6, math.nan)])
def test_a_transfer_that_says_nothing_of_the_bandwidth_is_ignored(size: float, seconds: float) -> None:
    records = TrackRecords()
    records.joined(ADA, 0.0)
    assert records.carried(ADA, size, seconds) is None
    assert records.bytes_per_s(ADA) == BYTES_PER_S_PRIOR


def test_so_many_peers_are_remembered_and_no_more() -> None:
    records = TrackRecords()
    for number in range(PEERS_REMEMBERED_MAX + 5):
        records.joined(PeerId(f"peer-{number}"), 0.0)
    assert len(records._records) == PEERS_REMEMBERED_MAX
