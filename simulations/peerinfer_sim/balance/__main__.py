"""Prints how close each strategy comes to the fluid bound. `python -m peerinfer_sim.balance [--seed N] [--quick]`

The bound is when all work would be done if it could be divided like water over the workers that are there, which not even a
clairvoyant scheduler beats. A job is over when every result is verified and in the journal.
"""

from __future__ import annotations

import argparse

from peerinfer.placement import STRATEGIES
from peerinfer_sim.balance.swarm import Scenario, Swarm

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


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m peerinfer_sim.balance", description="Figures of the balancer.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="without the large swarms")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    missed = 0
    for scenario, least in SCENARIOS:
        if arguments.quick and scenario.workers >= LARGE:
            continue
        found = {}
        for name in STRATEGIES:
            outcome = Swarm(scenario, name, arguments.seed).run()
            found[name] = outcome.efficiency
            print(
                f"{scenario.name:46} {name:13} efficiency {outcome.efficiency:.3f}  done in {outcome.makespan_s:7.1f} s  "
                f"executions for each {outcome.executions:.4f}",
                flush=True,
            )
        adaptive = found.pop("adaptive")
        holds = adaptive >= least and adaptive >= max(found.values()) - TIE
        missed += not holds
        print(f"{scenario.name:46} adaptive ≥ {least:g} and no worse than the others: {'holds' if holds else 'MISSED'}")
    print(f"again: python -m peerinfer_sim.balance --seed {arguments.seed}{' --quick' if arguments.quick else ''}")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
