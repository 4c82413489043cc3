"""What the last picture of a job means: which items have no result and why, and the error that it ended with.

The command line and the Python client raise the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from peerinfer.control import Json
from peerinfer.errors import (
    DecodeError,
    JobFailed,
    PartialFailure,
    PeerinferError,
    UsageError,
    VerificationFailed,
    kinds,
)
from peerinfer.units import format_count

RANGES_SHOWN_MAX = 20
UNVERIFIED = "unverified: "
"""How the reason begins of a task that failed since nobody could vouch for its results."""


@dataclass(frozen=True, slots=True)
class FailedTask:
    """A task that failed for good, and its items."""

    task: int
    first_item: int
    items: int
    reason: str


def failed_tasks(job: Json) -> list[FailedTask]:
    """Raises `DecodeError` if the node says it in a way that this version does not know."""
    found = []
    for raw in job.get("failed") or ():
        try:
            task = FailedTask(int(raw["task"]), int(raw["first_item"]), int(raw["items"]), str(raw.get("reason") or ""))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise DecodeError("the node lists failed tasks in an unknown way; is it the same version?") from None
        found.append(task)
    return sorted(found, key=lambda task: task.first_item)


def failed_items(tasks: Iterable[FailedTask]) -> list[int]:
    return [item for task in tasks for item in range(task.first_item, task.first_item + task.items)]


def count_of(job: Json, name: str) -> int:
    value = job.get(name)
    return value if type(value) is int else 0


def check_own(job: Json) -> None:
    """Raises `UsageError` for a job that this node only elects for: its results are its submitter's alone."""
    if job.get("own") is False:
        raise UsageError(
            f"job {job.get('job_id')} is not this node's own: its results are fetched where it was submitted, "
            f"by {job.get('submitter')}"
        )


def error_of(job: Json) -> PeerinferError | None:
    """Why the job is not wholly done, as the error that `run` ends with; None if all is well."""
    state = job.get("state")
    tasks = failed_tasks(job)
    count = max(count_of(job, "failed_tasks"), len(tasks))
    if state == "done" and not count:
        return None
    said = str(job.get("reason") or "")
    if state == "done":
        because = f": {tasks[0].reason}" if tasks and tasks[0].reason else ""
        unverified = [task for task in tasks if task.reason.startswith(UNVERIFIED)]
        if unverified:
            which = f"{format_count(len(unverified), 'task')} of {format_count(count_of(job, 'tasks'))}"
            items = ranges_text(failed_items(unverified))
            return VerificationFailed(
                f"results of {which} could not be verified (items {items}): {unverified[0].reason}"
            )
        if count >= count_of(job, "tasks"):  # Daemons since say that such a job failed (`coordination`).
            return JobFailed(f"all {format_count(count, 'task')} failed{because}")
        more = f" and those of {format_count(count - len(tasks), 'task')} more" if count > len(tasks) else ""
        failed = f"{format_count(count, 'task')} of {format_count(count_of(job, 'tasks'))} failed{because}"
        return PartialFailure(f"{failed}; the failed items are {ranges_text(failed_items(tasks))}{more}")
    if state == "cancelled":
        return JobFailed("the job was cancelled")
    kind = kinds().get(str(job.get("kind")), JobFailed)
    if not said:
        said = tasks[0].reason if tasks and tasks[0].reason else "the job failed and the node does not say why"
    error = kind.__new__(kind)
    Exception.__init__(error, said)
    return error


def ranges_text(indices: Sequence[int]) -> str:
    """`0-3, 7, 9-12`; the rest is counted past `RANGES_SHOWN_MAX` ranges."""
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    shown = [f"{first}" if first == last else f"{first}-{last}" for first, last in ranges[:RANGES_SHOWN_MAX]]
    more = sum(last - first + 1 for first, last in ranges[RANGES_SHOWN_MAX:])
    return ", ".join(shown) + (f" and {format_count(more)} more" if more else "")
