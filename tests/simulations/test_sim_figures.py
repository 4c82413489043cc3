"""The figures' simulations: small runs of each, and pictures of what they found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peerinfer_sim.attacks import figures
from peerinfer_sim.attacks.arena import Arena, Attack
from peerinfer_sim.attacks.live import HostileSwarm
from peerinfer_sim.balance.figures import SCENARIOS, Judged
from peerinfer_sim.balance.swarm import Outcome, Scenario
from peerinfer_sim.figures import plots
from peerinfer_sim.figures.__main__ import main

SMALL = Scenario("small", 12, ideal_s=2.0, task_s=0.02, verify="adaptive", rtt_s=(0.005, 0.05))


@pytest.mark.parametrize("verify", ["spot", "adaptive", "quorum:2"])
def test_liars_before_the_whole_coordinator_are_caught_and_nothing_wrong_is_final(verify: str) -> None:
    scenario = Scenario("small", 12, ideal_s=2.0, task_s=0.02, verify=verify, rtt_s=(0.005, 0.05))
    swarm = HostileSwarm(scenario, Attack("always wrong", 1.0, saboteurs=0.2), 1)
    found = swarm.fight()
    assert found.error == 0.0
    assert found.caught >= 2
    assert found.honest_caught == 0
    assert found.names >= found.caught


def test_the_same_seed_gives_the_same_fight_and_another_one_does_not() -> None:
    attack = Attack("10% wrong", 0.1, saboteurs=0.2)
    first, again, other = (HostileSwarm(SMALL, attack, seed).fight() for seed in (1, 1, 2))
    assert first == again != other


def test_free_riders_that_echo_what_they_should_check_are_caught_by_audits() -> None:
    tally = Arena(figures.POLICY_QUICK, Attack("echo", 0.3, copies=True), 1, workers=30).run(20_000)
    assert tally.caught >= 3
    assert tally.honest_caught == 0
    assert tally.error <= figures.POLICY_QUICK.error_max


@pytest.mark.parametrize(
    "found", [figures.newcomer, figures.hearsay, figures.slander], ids=lambda found: found.__name__
)
def test_what_is_promised_of_trust_holds(found) -> None:
    missed = [figure.line for figure in found(1) if not figure.holds]
    assert missed == []


def test_figures_are_drawn_as_they_were_found(tmp_path: Path) -> None:
    outcome = Outcome(0.97, 600.0, 1.01, 5, 5, 100)
    strategies = dict.fromkeys(plots.STRATEGIES, outcome)
    plots.efficiency([Judged(*SCENARIOS[0], strategies)], 1, tmp_path / "efficiency.png")
    what = "share of final results that are wrong"
    rows = [figures.Figure("always wrong", what, 0.0, 1e-4), figures.Figure("1% wrong", what, 2e-4, 1e-4)]
    plots.attacks(rows, what, 1, tmp_path / "errors.png", is_log=True)
    plots.newcomer([(1, 0.1), (42, 1.0)], 1, tmp_path / "newcomer.png")
    for picture in ("efficiency", "errors", "newcomer"):
        assert (tmp_path / f"{picture}.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_says_its_seed_and_leaves_plots_and_figures(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(figures, "all_figures", lambda seed, quick: iter([*figures.newcomer(seed)]))
    assert main(["--only", "attacks", "--quick", "--seed", "3", "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("seed 3, ")
    assert lines[-1] == "again: python -m peerinfer_sim.figures --seed 3 --quick --only attacks"
    assert json.loads((tmp_path / "attacks.json").read_text())[0]["holds"] is True
    assert (tmp_path / "newcomer.png").exists()
