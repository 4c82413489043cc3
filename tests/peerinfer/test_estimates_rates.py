"""Speeds learned from frames, drawn toward the class and proof against a peer that claims to be instant."""

from __future__ import annotations

import math
import random

import pytest

from peerinfer.estimates import Estimates
from peerinfer.ids import Cid, PeerId

MODEL = Cid("model")


def peer(number: int) -> PeerId:
    return PeerId(f"peer-{number}")


def observed(*seconds: float, device_class: str = "") -> Estimates:
    """Estimates in which peer i needed seconds[i] for an item, ten times."""
    estimates = Estimates()
    for number, one in enumerate(seconds):
        if device_class:
            estimates.describe(peer(number), device_class)
        for _ in range(10):
            estimates.observe(peer(number), MODEL, 4, 4 * one)
    estimates.check()
    return estimates


def test_without_anything_measured_the_jobs_guess_holds() -> None:
    estimate = Estimates().estimate(peer(0), MODEL, 0.25)
    assert estimate.seconds == pytest.approx(0.25)
    assert not estimate.is_known
    assert estimate.optimistic_s < 0.25


def test_one_frame_replaces_a_wild_guess() -> None:
    estimates = Estimates()
    estimates.observe(peer(0), MODEL, 10, 1.0)
    assert estimates.seconds_per_item(peer(0), MODEL, 1000.0) == pytest.approx(0.1, rel=0.6)
    assert estimates.known(peer(0), MODEL)


def test_a_stranger_is_judged_by_its_class_before_all_others() -> None:
    estimates = observed(0.1, 0.1, 0.1, device_class="fast")
    for number in range(10, 17):
        estimates.describe(peer(number), "slow")
        estimates.observe(peer(number), MODEL, 1, 2.0)
    estimates.describe(peer(50), "fast")
    assert estimates.seconds_per_item(peer(50), MODEL, 9.0) == pytest.approx(0.1, rel=0.01)
    assert estimates.seconds_per_item(peer(51), MODEL, 9.0) == pytest.approx(2.0, rel=0.01)


def test_benchmarks_scale_what_is_known_of_other_classes() -> None:
    estimates = Estimates()
    for number, speed in enumerate((1.0, 2.0, 4.0, 8.0)):
        estimates.describe(peer(number), f"class-{number}", speed)
        for _ in range(5):
            estimates.observe(peer(number), MODEL, 1, 1.0 / speed)
    estimates.describe(peer(9), "another", 16.0)
    assert estimates.seconds_per_item(peer(9), MODEL, 5.0) == pytest.approx(1 / 16, rel=0.05)


@pytest.mark.parametrize("speed", [0.0, -1.0, math.nan, math.inf])
def test_a_benchmark_that_makes_no_sense_is_ignored(speed: float) -> None:
    estimates = Estimates()
    estimates.describe(peer(0), "class", speed)
    estimates.observe(peer(0), MODEL, 1, 1.0)
    assert estimates.seconds_per_item(peer(0), MODEL, 5.0) == pytest.approx(1.0, rel=0.3)
    estimates.check()


def test_what_was_long_ago_is_forgotten() -> None:
    estimates = observed(1.0)
    for _ in range(200):
        estimates.observe(peer(0), MODEL, 1, 0.1)
    assert estimates.seconds_per_item(peer(0), MODEL, 1.0) == pytest.approx(0.1, rel=0.1)


def test_one_instant_peer_does_not_move_what_is_believed_of_its_class() -> None:
    estimates = observed(1.0, 1.1, 0.9, 1.0, device_class="gpu")
    for _ in range(100):
        estimates.describe(peer(9), "gpu")
        estimates.observe(peer(9), MODEL, 1000, 0.0)
    estimates.describe(peer(20), "gpu")
    assert estimates.seconds_per_item(peer(20), MODEL, 5.0) == pytest.approx(1.0, rel=0.15)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf])
def test_a_time_that_is_no_number_is_not_learned(seconds: float) -> None:
    estimates = observed(1.0)
    estimates.observe(peer(0), MODEL, 1, seconds)
    assert estimates.seconds_per_item(peer(0), MODEL, 1.0) == pytest.approx(1.0, rel=0.01)


def test_times_beyond_all_reason_are_bounded() -> None:
    estimates = Estimates()
    estimates.observe(peer(0), MODEL, 1, 1e300)
    estimates.observe(peer(1), MODEL, 1, -5.0)
    assert math.isfinite(estimates.seconds_per_item(peer(0), MODEL, 1.0))
    assert estimates.seconds_per_item(peer(1), MODEL, 1.0) > 0


def test_learning_converges_for_a_noisy_peer_of_an_odd_class() -> None:
    """It differs from its class by a factor of five: the class must not hold the estimate back for long."""
    rng = random.Random(5)
    estimates = observed(*[1.0] * 6, device_class="gpu")
    estimates.describe(peer(9), "gpu")
    for _ in range(10):
        estimates.observe(peer(9), MODEL, 1, 0.2 * math.exp(rng.gauss(0, 0.3)))
    assert estimates.seconds_per_item(peer(9), MODEL, 1.0) == pytest.approx(0.2, rel=0.6)


def test_a_peer_that_is_forgotten_leaves_nothing_behind() -> None:
    estimates = observed(1.0, 2.0, device_class="gpu")
    estimates.forget(peer(0))
    estimates.forget(peer(0))
    estimates.check()
    assert not estimates.known(peer(0), MODEL)
    estimates.forget(peer(1))
    assert estimates.seconds_per_item(peer(1), MODEL, 7.0) == pytest.approx(7.0)


def test_a_peer_may_change_its_description_at_any_time() -> None:
    rng = random.Random(1)
    estimates = Estimates()
    for _ in range(2000):
        number = rng.randrange(8)
        if rng.random() < 0.3:
            estimates.describe(peer(number), rng.choice(("a", "b", "")), rng.choice((None, 1.0, 3.0)))
        elif rng.random() < 0.05:
            estimates.forget(peer(number))
        else:
            estimates.observe(peer(number), Cid(rng.choice("xy")), 1, rng.random())
        estimates.check()


def test_a_flood_of_peers_is_forgotten_again() -> None:
    estimates = Estimates()
    for number in range(5000):
        estimates.describe(peer(number), "gpu", 1.0)
        estimates.observe(peer(number), MODEL, 1, 1.0)
    estimates.check()
    assert not estimates.known(peer(0), MODEL)
    assert estimates.known(peer(4999), MODEL)
