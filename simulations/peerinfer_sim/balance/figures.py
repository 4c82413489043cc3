"""The scenarios, what must come of them, and what came of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from peerinfer.placement import STRATEGIES
from peerinfer_sim.balance.swarm import Outcome, Scenario, Swarm

SCENARIOS = (
    (Scenario("10 workers", 10), 0.97),
    (Scenario("100 workers", 100), 0.95),
    (Scenario("1,000 workers", 1000, task_s=2.0), 0.90),
    (Scenario("100 workers, sessions of 10 min", 100, session_s=600.0), 0.95),
    (Scenario("100 workers, a job of one minute", 100, ideal_s=60.0, spread=1.0), 0.85),
    (Scenario("100 workers, far away, small tasks", 100, task_s=0.1, rtt_s=(0.05, 1.0), ideal_s=120.0), 0.85),
    (Scenario("100 workers, two jobs, one for large devices", 100, large_share=0.15, model_load_s=5.0), 0.90),
)
"""With the least efficiency of the adaptive strategy."""

LARGE = 500
"""Swarms from this size on take minutes: `--quick` leaves them out."""

TIE = 0.005
"""Efficiencies closer than this are the same."""


@dataclass(frozen=True, slots=True)
class Judged:
    scenario: Scenario
    least: float
    """Efficiency that the adaptive strategy must reach."""
    outcomes: dict[str, Outcome]
    """By strategy."""

    @property
    def adaptive(self) -> float:
        return self.outcomes["adaptive"].efficiency

    @property
    def best_other(self) -> float:
        return max(outcome.efficiency for name, outcome in self.outcomes.items() if name != "adaptive")

    @property
    def holds(self) -> bool:
        return self.adaptive >= self.least and self.adaptive >= self.best_other - TIE


def judged(seed: int, *, quick: bool) -> Iterator[Judged]:
    for scenario, least in SCENARIOS:
        if not (quick and scenario.workers >= LARGE):
            yield Judged(scenario, least, {name: Swarm(scenario, name, seed).run() for name in STRATEGIES})


def lines_of(found: Judged) -> list[str]:
    lines = [
        f"{found.scenario.name:46} {name:13} efficiency {outcome.efficiency:.3f}  done in {outcome.makespan_s:7.1f} s  "
        f"executions for each {outcome.executions:.4f}"
        for name, outcome in found.outcomes.items()
    ]
    verdict = "holds" if found.holds else "MISSED"
    return [*lines, f"{found.scenario.name:46} adaptive ≥ {found.least:g} and no worse than the others: {verdict}"]
