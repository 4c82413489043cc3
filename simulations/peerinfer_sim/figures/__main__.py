"""Prints every promised figure and draws them. `python -m peerinfer_sim.figures [--seed N] [--quick] [--out FOLDER]`"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from peerinfer.placement import STRATEGIES
from peerinfer_sim.attacks import figures as attacks
from peerinfer_sim.balance.choices import BUDGETS, choices_per_second
from peerinfer_sim.balance.figures import Judged, judged, lines_of
from peerinfer_sim.figures import plots

RESULTS = Path(__file__).parents[2] / "results"
_ROUNDS, _ROUNDS_QUICK = 20_000, 2_000


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m peerinfer_sim.figures", description="Every promised figure.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="short jobs, no large swarms: minutes instead of an hour")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where plots and figures.json go")
    parser.add_argument("--only", choices=("choices", "balance", "attacks"), help="a part of it")
    arguments = parser.parse_args(words)
    seed, quick, only = arguments.seed, arguments.quick, arguments.only
    folder: Path = arguments.out or RESULTS / f"seed-{seed}{'-quick' if quick else ''}"
    folder.mkdir(parents=True, exist_ok=True)
    print(attacks.setting(seed, quick=quick))
    missed = 0
    if only in (None, "choices"):
        missed += _choices(folder, _ROUNDS_QUICK if quick else _ROUNDS)
    if only in (None, "balance"):
        missed += _balance(folder, seed, quick=quick)
    if only in (None, "attacks"):
        missed += _attacks(folder, seed, quick=quick)
    print(f"{missed} missed; plots and figures: {folder}")
    flags = f"{' --quick' if quick else ''}{f' --only {only}' if only else ''}"
    print(f"again: python -m peerinfer_sim.figures --seed {seed}{flags}")
    return 1 if missed else 0


def _choices(folder: Path, rounds: int) -> int:
    """The only figures that depend on the machine and what else it does."""
    found = []
    for candidates, budget in BUDGETS.items():
        for name in STRATEGIES:
            rate = choices_per_second(name, candidates, rounds)
            found.append((name, candidates, rate, float(budget)))
            verdict = "holds" if rate >= budget else "MISSED"
            print(
                f"{name:13} {candidates:>6,} candidates {rate:>12,.0f} choices/s  ≥ {budget:<9,} {verdict}", flush=True
            )
    plots.choices(found, folder / "choices.png")
    _note(
        folder, "choices", [dict(zip(("strategy", "candidates", "per_s", "budget"), row, strict=True)) for row in found]
    )
    return sum(rate < budget for _, _, rate, budget in found)


def _balance(folder: Path, seed: int, *, quick: bool) -> int:
    found: list[Judged] = []
    for each in judged(seed, quick=quick):
        found.append(each)
        print("\n".join(lines_of(each)), flush=True)
    plots.efficiency(found, seed, folder / "efficiency.png")
    rows = [
        {"scenario": each.scenario.name, "least": each.least, "strategy": name, **asdict(outcome)}
        for each in found
        for name, outcome in each.outcomes.items()
    ]
    _note(folder, "balance", rows)
    return sum(not each.holds for each in found)


def _attacks(folder: Path, seed: int, *, quick: bool) -> int:
    found = []
    for figure in attacks.all_figures(seed, quick=quick):
        found.append(figure)
        print(figure.line, flush=True)
    plots.attacks(found, "share of final results that are wrong", seed, folder / "errors.png", is_log=True)
    plots.attacks(found, "executions for each task", seed, folder / "executions.png", is_log=False)
    plots.attacks(found, "their trust against their share of work", seed, folder / "sybils.png", is_log=False)
    plots.newcomer(attacks.newcomer_path(seed), seed, folder / "newcomer.png")
    _note(folder, "attacks", [{**asdict(figure), "holds": figure.holds} for figure in found])
    return sum(not figure.holds for figure in found)


def _note(folder: Path, name: str, rows: list[dict[str, object]]) -> None:
    """Beside the plots, as they were drawn."""
    (folder / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
