"""Prints the figures of the attacks. `python -m peerinfer_sim.attacks [--seed N] [--quick]`"""

from __future__ import annotations

import argparse
from itertools import chain

from peerinfer_sim.attacks import figures

_TASKS, _TASKS_QUICK = 800_000, 80_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m peerinfer_sim.attacks", description="Figures of the attacks.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help=f"{_TASKS_QUICK:,} tasks instead of {_TASKS:,}")
    arguments = parser.parse_args()
    seed, tasks = arguments.seed, _TASKS_QUICK if arguments.quick else _TASKS
    policy = figures.POLICY_QUICK if arguments.quick else figures.POLICY
    print(f"seed {seed}, {tasks:,} tasks, {figures.WORKERS} workers, p {policy.audit_share:g}, W {policy.window:,}")
    missed = 0
    for figure in chain(
        figures.newcomer(seed),
        figures.sybils(seed),
        figures.slander(seed),
        figures.lying_auditors(seed, tasks // 10, policy),
        figures.whitewashing(seed, tasks, policy),
        figures.sabotage(seed, tasks, policy),
    ):
        sign = "≥" if figure.at_least else "≤"
        verdict = "holds" if figure.holds else "MISSED"
        missed += not figure.holds
        print(
            f"{figure.attack:38} {figure.what:42} {figure.value:>12.3g}  {sign} {figure.bound:<8.3g} {verdict}",
            flush=True,
        )
    print(f"again: python -m peerinfer_sim.attacks --seed {seed}{' --quick' if arguments.quick else ''}")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
