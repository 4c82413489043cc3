"""Who could work for a job, and how long it would take."""

from __future__ import annotations

import pytest

from peerinfer.assignment import JobSpec, WorkerOffer
from peerinfer.estimates import Estimates
from peerinfer.forecast import AROUND_FACTOR, BEGIN_S, END_S, forecast
from peerinfer.ids import Cid, JobId, PeerId

OWN, ADA, BEN = PeerId("own"), PeerId("ada"), PeerId("ben")
MODEL = Cid("model")


def spec(tasks: int = 1000, **more: object) -> JobSpec:
    values = {"model_bytes": 0, "items_per_task": 10, "bytes_per_task": 100, "seconds_per_item": 0.01} | more
    return JobSpec(job=JobId("1" * 32), model=MODEL, tasks=tasks, **values)  # type: ignore[arg-type]


def offer(
    *, local: bool = False, kinds: tuple[str, ...] = ("cpu",), memory: int = 1 << 33, speed: float = 0.0
) -> WorkerOffer:
    return WorkerOffer(local, kinds, memory, speed=speed, rtt_s=0.01)


def test_a_job_takes_as_long_as_its_items_on_this_machine_alone() -> None:
    found = forecast(spec(), {OWN: offer(local=True)}, Estimates())
    assert found.expected_s == pytest.approx(100 + BEGIN_S + END_S, rel=0.01)
    assert found.low_s is not None
    assert found.high_s is not None
    assert found.low_s < 100 < found.high_s < 135


def test_a_benchmark_scales_the_guess_and_a_measurement_replaces_it() -> None:
    offers = {OWN: offer(local=True, speed=100.0), ADA: offer(speed=900.0)}
    guessed = forecast(spec(), offers, Estimates())
    assert guessed.expected_s == pytest.approx(10 + BEGIN_S + END_S, rel=0.05)
    assert guessed.measured == 0
    estimates = Estimates()
    for peer, seconds in ((OWN, 0.1), (ADA, 0.1)):
        for _ in range(20):
            estimates.observe(peer, MODEL, 10, seconds)
    measured = forecast(spec(), offers, estimates)
    assert measured.expected_s == pytest.approx(50 + BEGIN_S + END_S, rel=0.05)
    assert measured.measured == 2
    assert guessed.high_s is not None
    assert guessed.low_s is not None
    assert measured.high_s is not None
    assert measured.low_s is not None
    assert measured.high_s / measured.low_s < guessed.high_s / guessed.low_s


def test_who_cannot_run_it_is_counted_by_the_reason() -> None:
    offers = {OWN: offer(local=True), ADA: offer(kinds=("gpu",), memory=1 << 30), BEN: offer(kinds=("cpu", "gpu"))}
    found = forecast(spec(device_kind="gpu", memory_bytes_min=1 << 32), offers, Estimates())
    assert found.eligible == (BEN,)
    assert found.excluded == {"has no GPU to lend": (OWN,), "has too little device memory": (ADA,)}


def test_what_several_peers_are_to_compute_takes_as_many_times_as_long() -> None:
    offers = {OWN: offer(local=True), ADA: offer(), BEN: offer()}
    once, thrice = (forecast(spec(verify=verify), offers, Estimates()).expected_s for verify in ("none", "quorum:3"))
    assert once is not None
    assert thrice == pytest.approx(3 * once, rel=0.05)
    spot = forecast(spec(verify="spot"), offers, Estimates()).expected_s
    assert spot == pytest.approx(1.05 * once, rel=0.02)


def test_a_small_job_takes_what_comes_before_and_after_it_and_that_is_uncertain() -> None:
    found = forecast(spec(1, seconds_per_item=1e-6), {OWN: offer(local=True)}, Estimates(), prepare_s=0.5)
    around_s = 0.5 + BEGIN_S + END_S
    assert found.expected_s == pytest.approx(around_s, rel=0.01)
    assert found.low_s == pytest.approx(around_s / AROUND_FACTOR, rel=0.01)
    assert found.high_s == pytest.approx(around_s * AROUND_FACTOR, rel=0.01)


def test_inputs_that_travel_longer_than_they_are_computed_take_that_long() -> None:
    tasks, line = 100, 1e6
    quick = spec(tasks, seconds_per_item=1e-6, bytes_per_task=10_000_000)
    found = forecast(quick, {ADA: offer(), BEN: offer()}, Estimates(), bytes_per_s=lambda peer: line)
    assert found.expected_s == pytest.approx(tasks * 10_000_000 / line / 2, rel=0.1)


def test_with_nobody_there_is_no_time() -> None:
    found = forecast(spec(memory_bytes_min=1 << 50), {OWN: offer(local=True)}, Estimates())
    assert (found.eligible, found.expected_s, found.low_s, found.high_s) == ((), None, None, None)
    assert forecast(spec(), {}, Estimates()).excluded == {}
