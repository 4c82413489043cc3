"""What one run came to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """Figures of one run. Times in seconds."""

    scenario: str
    seed: int
    digest: str
    """Of the event log."""
    logged: int
    """Lines of the event log."""
    steps: int
    """Of machines."""
    messages: int
    """Between nodes."""
    message_bytes: int
    nodes: int
    tasks: int
    final: int
    failed: int
    retried: int
    voided: int
    audited: int
    liars: int
    """Nodes that told at least one lie."""
    caught: int
    lies_passed: int
    """Wrong results among the final ones."""
    job_s: float
    """Virtual time from the job's acceptance to its end."""
    virtual_s: float
    wall_s: float
    """Real time that the run took. Not part of its history."""
    terms: int = 1
    """Coordinators that the job had, one after the other."""


_COLUMNS = (
    ("scenario", 12), ("seed", 6), ("nodes", 6), ("terms", 6), ("tasks", 7), ("final", 7), ("retried", 8), ("voided", 7),
    ("audited", 8), ("liars", 6), ("caught", 7), ("passed", 7), ("job_s", 8), ("steps", 9), ("steps/s", 8),
    ("digest", 12),
)  # fmt: skip


def header() -> str:
    return " ".join(name.rjust(width) for name, width in _COLUMNS)


def row(outcome: Outcome) -> str:
    """One line of the table under `header`."""
    steps_per_s = outcome.steps / max(outcome.wall_s, 1e-9)
    values = (
        outcome.scenario, outcome.seed, outcome.nodes, outcome.terms, outcome.tasks, outcome.final, outcome.retried,
        outcome.voided, outcome.audited, outcome.liars, outcome.caught, outcome.lies_passed, f"{outcome.job_s:.2f}",
        outcome.steps, f"{steps_per_s:.0f}", outcome.digest[:12],
    )  # fmt: skip
    return " ".join(str(value).rjust(width) for value, (_, width) in zip(values, _COLUMNS, strict=True))
