"""Measurements, the table that shows them and the file that keeps them.

A benchmark is an `async def run(quick: bool) -> list[Measurement]`, listed in `run.py`. What matters are ratios between
measurements of one run: a busy machine slows both sides. A missed budget is said and never fails a run, since a clock
on a shared machine is no judge.

This module needs the standard library alone, because the other systems' environment imports it too.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
BENCH_JSON = BUILD / "bench.json"
BENCH_MACHINE_JSON = BUILD / "bench-machine.json"
BENCH_PEERS_JSON = BUILD / "bench-peers.json"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One figure of a run.

    `baseline` names another measurement of the same run and unit; the ratio is value / baseline's value. `budget`
    bounds that ratio, or the value itself where there is no baseline: from above if lower is better, else from below.
    """

    name: str
    value: float
    unit: str
    better: Literal["lower", "higher"] = "lower"
    baseline: str | None = None
    budget: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A measurement beside its baseline. `budget_met` is None without a budget, or with nothing to judge it by."""

    measurement: Measurement
    ratio: float | None
    budget_met: bool | None


def compare(measurements: Sequence[Measurement]) -> list[Row]:
    """One row for each measurement, in order. A baseline that was not measured in this run gives no ratio.

    Raises ValueError for a name used twice and for a baseline in another unit: such a ratio would mean nothing.
    """
    by_name: dict[str, Measurement] = {}
    for measurement in measurements:
        if measurement.name in by_name:
            raise ValueError(f"two measurements are called {measurement.name}")
        by_name[measurement.name] = measurement
    return [_row(measurement, by_name) for measurement in measurements]


def _row(measurement: Measurement, by_name: dict[str, Measurement]) -> Row:
    baseline = by_name.get(measurement.baseline) if measurement.baseline is not None else None
    if baseline is not None and baseline.unit != measurement.unit:
        raise ValueError(
            f"{measurement.name} is in {measurement.unit}, its baseline {baseline.name} in {baseline.unit}"
        )
    ratio = measurement.value / baseline.value if baseline is not None and baseline.value else None
    judged = measurement.value if measurement.baseline is None else ratio
    if measurement.budget is None or judged is None:
        return Row(measurement, ratio, None)
    met = judged <= measurement.budget if measurement.better == "lower" else judged >= measurement.budget
    return Row(measurement, ratio, met)


# --- showing -------------------------------------------------------------------------------------------------------

_HEADINGS = ("measurement", "value", "unit", "baseline", "ratio", "budget", "")
_NUMBERS = {1, 4, 5}
"""Columns that stand flush right."""


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned columns, one line for each measurement under a line of headings."""
    lines = [_HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in _NUMBERS else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cells(row: Row) -> tuple[str, ...]:
    measurement = row.measurement
    sign = "≤" if measurement.better == "lower" else "≥"
    if measurement.budget is None:
        verdict = ""
    elif row.budget_met is None:
        verdict = "not measured"
    else:
        verdict = "met" if row.budget_met else "MISSED"
    return (
        measurement.name,
        _figure(measurement.value),
        measurement.unit,
        measurement.baseline or "",
        "" if row.ratio is None else f"{_figure(row.ratio)}×",
        "" if measurement.budget is None else f"{sign} {measurement.budget:,g}",
        verdict,
    )


def _figure(value: float) -> str:
    """About three figures: more would be noise."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.3g}"


# --- keeping -------------------------------------------------------------------------------------------------------


def write_results(path: Path, rows: Sequence[Row]) -> None:
    """Writes `{name: {value, unit, baseline, ratio}}`, in place of an earlier run: figures of two runs do not compare."""
    found = {
        row.measurement.name: {
            "value": row.measurement.value,
            "unit": row.measurement.unit,
            "baseline": row.measurement.baseline,
            "ratio": row.ratio,
        }
        for row in rows
    }
    write_json(path, found)


def read_values(path: Path) -> dict[str, tuple[float, str]]:
    """Value and unit of each measurement in a file of `write_results`; empty if there is no such file."""
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return {name: (entry["value"], entry["unit"]) for name, entry in found.items()}


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def machine(now: datetime) -> dict[str, object]:
    """Where and when a run took place; `load_1m` tells a busy machine (processes that wanted a core) from a quiet one."""
    return {
        "date": now.isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "load_1m": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "system": platform.platform(),
    }


# --- statistics ----------------------------------------------------------------------------------------------------


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of the values do not pass (nearest rank). Raises ValueError for no values."""
    if not values:
        raise ValueError("no values to take a percentile of")
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, min(len(ordered), int(rank)) - 1)]
