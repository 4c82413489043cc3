"""Electors and candidates under faults, and the controls: every guard broken on purpose, which the checks must notice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from peerinfer.lease_profile import LAN, WAN
from peerinfer_node.keys import MemoryKeys
from peerinfer_sim.lease import mutants, runs, signatures
from peerinfer_sim.lease.__main__ import main
from peerinfer_sim.lease.scenario import COMMITTEES, LIARS, draw
from peerinfer_sim.lease.world import World

RUNS = 150
"""So many here; `python -m peerinfer_sim.lease --runs 10000` makes more."""

CAUGHT_WITHIN = 1000


@pytest.fixture
def cheap() -> Iterator[None]:
    with signatures.cheap():
        yield


def test_whatever_happens_nothing_wrong_does_and_the_job_ends() -> None:
    failure = runs.play_many(range(RUNS))
    assert failure is None, f"{failure.scenario}\n{failure.what}"


@pytest.mark.parametrize("seed", [5_263, 9_115, 40_962, 41_817, 43_569])
def test_runs_that_once_went_wrong_are_as_they_must_be(seed: int) -> None:
    """A rescue that was never tried; a seat that caught up by snapshot beyond what it had promised; an elector whose seal
    was needed, and that lacked batches which all others had given up; a checkpoint while a snapshot was on its way, parts
    of which were sent for ever and passed over; an elector of a new epoch that followed another holder for longer."""
    failure = runs.play_many([seed])
    assert failure is None, f"{failure.scenario}\n{failure.what}"


@pytest.mark.slow
@pytest.mark.parametrize("name", mutants.MUTANTS)
def test_it_is_noticed_if_a_guard_is_missing(name: str) -> None:
    with mutants.broken(name):
        failure = runs.play_many(range(CAUGHT_WITHIN))
    assert failure is not None
    # The same run with the guard in place is as it must be.
    with signatures.cheap():
        assert runs.play(failure.scenario) is None


def test_scenarios_differ_in_everything_that_matters() -> None:
    drawn = [draw(seed) for seed in range(400)]
    assert {(one.electors, one.byzantine) for one in drawn} == set(COMMITTEES)
    assert {kind for one in drawn for kind in one.liars.values()} == set(LIARS)
    assert {fault.kind for one in drawn for fault in one.faults} == {
        *("crash", "cut", "cut one way", "isolate", "slow", "loss", "doubling", "delay"),
        *("paused", "suspended", "disk full", "hand over", "campaign", "replace", "rescue"),
    }
    assert any(one.dead for one in drawn)
    assert any(one.spares for one in drawn)
    assert {fault.kind for one in drawn for fault in one.at_seals} == {"isolate", "cut"}
    assert {one.profile for one in drawn} == {LAN, WAN}
    assert any(not one.clocks_are_sound for one in drawn)
    assert all(fault.at_s + fault.for_s <= one.chaos_s + 1e-9 for one in drawn for fault in one.faults)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_same_seed_has_the_same_history(seed: int, cheap: None) -> None:
    histories: list[list[str]] = [[], []]
    for history in histories:
        assert runs.play(draw(seed), history) is None
    assert histories[0] == histories[1]
    assert len(histories[0]) > 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_real_signatures_and_real_bytes_make_no_difference(seed: int) -> None:
    def identity(number: int):  # type: ignore[no-untyped-def]
        keys = MemoryKeys(b"node %d" % number)
        return keys.peer_id, keys.sign

    World(draw(seed), identity, wire=True).run()


def test_faults_that_do_not_matter_are_left_out() -> None:
    with mutants.broken("restart-forgets-its-wait"):
        failure = runs.play_many(range(CAUGHT_WITHIN))
        assert failure is not None
        with signatures.cheap():
            kept = runs.shrink(failure.scenario)
            smaller = failure.scenario.only(kept)
            assert len(smaller.faults) < max(len(failure.scenario.faults), 2)
            assert runs.play(smaller) is not None
            for left_out in range(len(kept)):
                assert runs.play(failure.scenario.only(kept[:left_out] + kept[left_out + 1 :])) is None


def test_the_command_prints_its_seed_first_and_how_to_do_it_again_last(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "7", "--runs", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "seed 7"
    assert lines[-1] == "again: python -m peerinfer_sim.lease --seed 7 --runs 3"


def test_the_command_shows_a_failure_and_its_replay_fails_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "0", "--runs", "50", "--mutant", "pre-emption"]) == 1
    out = capsys.readouterr().out
    assert "I1: nodes" in out
    words = out.splitlines()[-1].removeprefix("again: python -m peerinfer_sim.lease ").replace("'", "").split(" ")
    assert main(words) == 1
    assert "I1: nodes" in capsys.readouterr().out
    assert main([word for word in words if word not in ("--mutant", "pre-emption")]) == 0


@pytest.mark.parametrize(
    "wrong", [["--mutant", "none"], ["--faults", "1"], ["--runs", "1", "--faults", "x"], ["--trace"]]
)
def test_a_command_that_makes_no_sense_is_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(wrong)
