"""Figures as pictures. matplotlib is a tool of the laboratory; nothing that is installed needs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure as Picture

from peerinfer.placement import STRATEGIES
from peerinfer_sim.attacks.figures import FULL_SHARE, Figure
from peerinfer_sim.balance.figures import Judged

DOTS_PER_INCH = 120


def efficiency(found: Sequence[Judged], seed: int, path: Path) -> None:
    """Each strategy against the fluid bound, scenario by scenario."""
    figure, axes = plt.subplots(figsize=(11, 5.5), layout="constrained")
    width = 0.8 / len(STRATEGIES)
    for place, name in enumerate(STRATEGIES):
        heights = [judged.outcomes[name].efficiency for judged in found]
        axes.bar([at + place * width for at in range(len(found))], heights, width, label=name)
    for at, judged in enumerate(found):
        axes.hlines(judged.least, at - width / 2, at + 0.8 - width / 2, colors="black", linestyles="dashed")
    axes.set_xticks([at + 0.4 - width / 2 for at in range(len(found))])
    axes.set_xticklabels([judged.scenario.name.replace(", ", ",\n") for judged in found], fontsize=8)
    axes.set_ylabel("fluid bound / time until all is final")
    axes.set_title(f"Placement strategies; dashed: what adaptive must reach (seed {seed})")
    axes.legend(ncols=len(STRATEGIES), loc="lower center", fontsize=8)
    _save(figure, path)


def attacks(found: Sequence[Figure], what: str, seed: int, path: Path, *, is_log: bool) -> None:
    """One kind of figure over all attacks, beside its bound."""
    chosen = [each for each in found if each.what == what]
    figure, axes = plt.subplots(figsize=(9, 0.4 * len(chosen) + 1.6), layout="constrained")
    least = min((each.bound for each in chosen), default=1.0) / 100
    values = [max(each.value, least) if is_log else each.value for each in chosen]
    colours = ["tab:blue" if each.holds else "tab:red" for each in chosen]
    axes.barh([each.attack for each in chosen], values, color=colours)
    axes.scatter([each.bound for each in chosen], range(len(chosen)), marker="|", s=300, color="black", label="bound")
    if is_log:
        axes.set_xscale("log")
        axes.set_xlim(left=least)
    axes.invert_yaxis()
    axes.set_title(f"{what} (seed {seed})")
    axes.legend(loc="lower right", fontsize=8)
    _save(figure, path)


def newcomer(found: Sequence[tuple[int, float]], seed: int, path: Path) -> None:
    """How an honest newcomer comes to its share of the work."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot([done for done, _ in found], [share for _, share in found])
    axes.axhline(FULL_SHARE, color="black", linestyle="dashed", label="full share")
    axes.axvline(50, color="grey", linestyle="dotted", label="50 tasks")
    axes.set_xlim(0, 200)
    axes.set_xlabel("tasks that it has done")
    axes.set_ylabel("its part of the last 200 tasks, of the fair one")
    axes.set_title(f"An honest newcomer among nine veterans (seed {seed})")
    axes.legend()
    _save(figure, path)


def choices(found: Sequence[tuple[str, int, float, float]], path: Path) -> None:
    """Choices in a second: strategy, candidates, rate, and what was asked for."""
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    names = [f"{name}, {candidates:,}" for name, candidates, _, _ in found]
    axes.barh(names, [rate for _, _, rate, _ in found])
    axes.scatter(
        [budget for *_, budget in found], range(len(found)), marker="|", s=300, color="black", label="asked for"
    )
    axes.invert_yaxis()
    axes.set_xlabel("choices in a second, on one core")
    axes.set_title("Choices among candidates")
    axes.legend(loc="lower right", fontsize=8)
    _save(figure, path)


def _save(figure: Picture, path: Path) -> None:
    figure.savefig(path, dpi=DOTS_PER_INCH)
    plt.close(figure)
