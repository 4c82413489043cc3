"""Admission control: a node that coordinates as much as it can says so at once, and when to come back.

A queue without bound would answer everybody and serve nobody. What a coordinator holds is bounded by jobs and by open
tasks, and a submission beyond that is refused before anything is sent, with the time after which there should be room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from peerinfer.errors import Busy
from peerinfer.limits import JOBS_MAX, OPEN_TASKS_MAX
from peerinfer.units import format_count, format_duration

RETRY_AFTER_MIN_S = 1.0
RETRY_AFTER_MAX_S = 600.0
"""Nobody is sent away for longer, and where no speed is known for this long: then machines are waited for."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One job that is coordinated here."""

    open_tasks: int
    done_tasks: int
    running_s: float

    @property
    def tasks_per_s(self) -> float:
        return self.done_tasks / self.running_s if self.running_s > 0 else 0.0


def check_room(load: Sequence[Workload], tasks: int) -> None:
    """Raises `Busy` if one more job of so many tasks would pass a limit."""
    open_tasks = sum(job.open_tasks for job in load)
    waits = []
    if len(load) >= JOBS_MAX:
        waits.append(_first_end_s(load))
    if open_tasks + tasks > OPEN_TASKS_MAX:
        waits.append(_room_s(load, open_tasks + tasks - OPEN_TASKS_MAX))
    if not waits:
        return
    after_s = min(max(*waits, RETRY_AFTER_MIN_S), RETRY_AFTER_MAX_S)
    raise Busy(
        f"this node coordinates {format_count(len(load), 'job')} with {format_count(open_tasks, 'open task')}, of at most "
        f"{JOBS_MAX:,} and {OPEN_TASKS_MAX:,}; try again in about {format_duration(after_s)}",
        retry_after_s=after_s,
    )


def _first_end_s(load: Sequence[Workload]) -> float:
    """Until the first of the jobs is done, at the speed it had so far."""
    ends = [job.open_tasks / job.tasks_per_s for job in load if job.tasks_per_s > 0]
    return min(ends, default=RETRY_AFTER_MAX_S)


def _room_s(load: Sequence[Workload], excess: int) -> float:
    """Until so many tasks are done, all jobs together."""
    rate = sum(job.tasks_per_s for job in load)
    return excess / rate if rate > 0 else RETRY_AFTER_MAX_S
