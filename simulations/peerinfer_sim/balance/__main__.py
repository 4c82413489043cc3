"""Prints the figures of the balancer. `python -m peerinfer_sim.balance [--seed N] [--quick]`"""

from __future__ import annotations

import argparse

from peerinfer_sim.balance.figures import judged, lines_of


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m peerinfer_sim.balance", description="Figures of the balancer.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="without the large swarms")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    missed = 0
    for found in judged(arguments.seed, quick=arguments.quick):
        print("\n".join(lines_of(found)), flush=True)
        missed += not found.holds
    print(f"again: python -m peerinfer_sim.balance --seed {arguments.seed}{' --quick' if arguments.quick else ''}")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
