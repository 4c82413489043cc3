"""Prints how close each strategy comes to the fluid bound. `python -m peerinfer_sim.balance [--seed N] [--quick]`

The bound is when all work would be done if it could be divided like water over the workers that are there, which not even a
clairvoyant scheduler beats. A job is over when every result is verified and in the journal.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path

from peerinfer.errors import UsageError
from peerinfer.placement import STRATEGIES
from peerinfer_sim.balance.swarm import Outcome, Scenario, Swarm

RESULTS = Path(__file__).parents[2] / "results"
"""`simulations/results/`, which git ignores."""

SCENARIOS = (
    (Scenario("10 workers", 10), 0.97),
    (Scenario("100 workers", 100), 0.95),
    (Scenario("1,000 workers", 1000, task_s=2.0), 0.90),
    (Scenario("100 workers, sessions of 10 min", 100, session_s=600.0), 0.95),
    (Scenario("100 workers, a job of one minute", 100, ideal_s=60.0, spread=1.0), 0.75),
    (Scenario("100 workers, far away, small tasks", 100, task_s=0.1, rtt_s=(0.05, 1.0), ideal_s=120.0), 0.85),
    (Scenario("100 workers, two jobs, one for large devices", 100, large_share=0.15, model_load_s=5.0), 0.90),
)
"""With the least efficiency of the adaptive strategy. A short job of many newcomers ends with a check of each of
them, which the coordinator's own device makes one after the other: 100 of 0.125 s after a minute of work."""

LARGE = 500
"""Swarms from this size on take minutes: `--quick` leaves them out."""

TIE = 0.005
"""Efficiencies closer than this are the same."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m peerinfer_sim.balance", description="Figures of the balancer.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="without the large swarms")
    parser.add_argument("--plots", action="store_true", help=f"draw them into {RESULTS}; needs matplotlib")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    missed = 0
    for scenario, least in SCENARIOS:
        if arguments.quick and scenario.workers >= LARGE:
            continue
        found, outcomes = {}, {}
        for name in STRATEGIES:
            outcome = outcomes[name] = Swarm(scenario, name, arguments.seed).run()
            found[name] = outcome.efficiency
            print(
                f"{scenario.name:46} {name:13} efficiency {outcome.efficiency:.3f}  done in {outcome.makespan_s:7.1f} s  "
                f"executions for each {outcome.executions:.4f}",
                flush=True,
            )
        if arguments.plots:
            print(f"drawn: {draw(scenario, outcomes, arguments.seed)}")
        adaptive = found.pop("adaptive")
        holds = adaptive >= least and adaptive >= max(found.values()) - TIE
        missed += not holds
        print(f"{scenario.name:46} adaptive ≥ {least:g} and no worse than the others: {'holds' if holds else 'MISSED'}")
    print(f"again: python -m peerinfer_sim.balance --seed {arguments.seed}{' --quick' if arguments.quick else ''}")
    return 1 if missed else 0


def draw(scenario: Scenario, outcomes: dict[str, Outcome], seed: int) -> Path:
    """Results over time, one line for each strategy. Raises `UsageError` without matplotlib."""
    try:
        pyplot = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        raise UsageError("plots need matplotlib: pip install matplotlib") from None
    figure, axes = pyplot.subplots(figsize=(9, 5))
    for name, outcome in outcomes.items():
        times, results = _summed(outcome.finished)
        axes.plot(times, results, label=f"{name}: {outcome.efficiency:.3f} of the fluid bound")
    axes.set(title=f"{scenario.name} (seed {seed})", xlabel="seconds", ylabel="tasks answered")
    axes.legend(loc="lower right")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"balance-{scenario.name.replace(',', '').replace(' ', '-')}-{seed}.png"
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def _summed(finished: Sequence[tuple[float, int]]) -> tuple[list[float], list[int]]:
    total, sums = 0, []
    for _, tasks in finished:
        total += tasks
        sums.append(total)
    return [at_s for at_s, _ in finished], sums


if __name__ == "__main__":
    raise SystemExit(main())
