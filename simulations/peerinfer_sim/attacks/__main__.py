"""Prints the figures of the attacks. `python -m peerinfer_sim.attacks [--seed N] [--quick]`"""

from __future__ import annotations

import argparse

from peerinfer_sim.attacks import figures


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m peerinfer_sim.attacks", description="Figures of the attacks.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--quick", action="store_true", help=f"{figures.TASKS_QUICK:,} tasks instead of {figures.TASKS:,}"
    )
    arguments = parser.parse_args()
    seed = arguments.seed
    print(figures.setting(seed, quick=arguments.quick))
    missed = 0
    for figure in figures.all_figures(seed, quick=arguments.quick):
        missed += not figure.holds
        print(figure.line, flush=True)
    print(f"again: python -m peerinfer_sim.attacks --seed {seed}{' --quick' if arguments.quick else ''}")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
