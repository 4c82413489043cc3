"""How long an item takes is learned from what frames took, and forgotten slowly."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_strategies import SAME_EVERY_TIME

from peerinfer.estimates import _PAIRS_MAX, Estimates
from peerinfer.ids import Cid, PeerId

ADA, BEN, CAL = PeerId("ada"), PeerId("ben"), PeerId("cal")
MODEL, OTHER = Cid("model"), Cid("other")


def test_without_samples_the_prior_holds():
    estimates = Estimates()
    assert not estimates.known(ADA, MODEL)
    assert estimates.seconds_per_item(ADA, MODEL, 0.5) == 0.5


def test_the_first_sample_nearly_replaces_the_guess():
    estimates = Estimates()
    estimates.observe(ADA, MODEL, 10, 2.0)
    assert estimates.known(ADA, MODEL)
    assert estimates.seconds_per_item(ADA, MODEL, 9.0) == pytest.approx(0.2, rel=0.25)


def test_a_peer_without_samples_is_estimated_by_the_median_of_the_others():
    estimates = Estimates()
    for number, seconds in enumerate([0.1, 0.2, 50.0]):
        estimates.observe(PeerId(f"peer {number}"), MODEL, 1, seconds)
    estimates.observe(BEN, OTHER, 1, 7.0)
    assert estimates.seconds_per_item(ADA, MODEL, 9.0) == pytest.approx(0.2)


def test_one_outlier_moves_the_estimate_little():
    estimates = Estimates()
    for _ in range(50):
        estimates.observe(ADA, MODEL, 1, 0.1)
    estimates.observe(ADA, MODEL, 1, 10.0)
    assert 0.1 < estimates.seconds_per_item(ADA, MODEL, 9.0) < 0.13


def test_a_peer_that_became_slower_is_known_as_slower_after_a_hundred_frames():
    estimates = Estimates()
    for _ in range(500):
        estimates.observe(ADA, MODEL, 1, 0.1)
    for _ in range(100):
        estimates.observe(ADA, MODEL, 1, 1.0)
    assert estimates.seconds_per_item(ADA, MODEL, 9.0) > 0.7


def test_a_peer_is_forgotten_with_all_its_models():
    estimates = Estimates()
    estimates.observe(ADA, MODEL, 1, 0.1)
    estimates.observe(ADA, OTHER, 1, 0.1)
    estimates.observe(BEN, MODEL, 1, 0.4)
    estimates.forget(ADA)
    assert not estimates.known(ADA, MODEL)
    assert not estimates.known(ADA, OTHER)
    assert estimates.known(BEN, MODEL)


def test_only_the_pairs_observed_last_are_held():
    estimates = Estimates()
    estimates.observe(ADA, MODEL, 1, 0.1)
    estimates.observe(BEN, MODEL, 1, 0.1)
    for number in range(_PAIRS_MAX - 2):
        estimates.observe(PeerId(str(number)), MODEL, 1, 0.1)
    estimates.observe(ADA, MODEL, 1, 0.1)
    estimates.observe(CAL, MODEL, 1, 0.1)
    assert estimates.known(ADA, MODEL)
    assert not estimates.known(BEN, MODEL)


@SAME_EVERY_TIME
@given(st.lists(st.tuples(st.integers(0, 1 << 40), st.floats(0, 1.7e308)), min_size=1, max_size=20))
def test_any_samples_give_a_positive_finite_estimate(samples):
    estimates = Estimates()
    for items, seconds in samples:
        estimates.observe(ADA, MODEL, items, seconds)
    found = estimates.seconds_per_item(ADA, MODEL, 1.0)
    assert found > 0
    assert math.isfinite(found)


@SAME_EVERY_TIME
@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=60))
def test_an_estimate_lies_between_the_extremes_and_the_guess(samples):
    estimates = Estimates()
    for seconds in samples:
        estimates.observe(ADA, MODEL, 1, seconds)
    found = estimates.seconds_per_item(ADA, MODEL, 1.0)
    assert min([*samples, 1.0]) * 0.999 <= found <= max([*samples, 1.0]) * 1.001
