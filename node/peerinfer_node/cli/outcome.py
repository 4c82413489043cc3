"""What became of a job, in words, in JSON and as an exit code. Pure: everything comes from the job's last picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peerinfer.control import Json
from peerinfer.errors import DecodeError, JobFailed, PartialFailure, PeerinferError, VerificationFailed, kinds
from peerinfer.units import format_count, format_duration

if TYPE_CHECKING:
    from peerinfer.tensors import Port

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


@dataclass(frozen=True, slots=True)
class Written:
    """What lies on the disk now."""

    output: str
    provenance: str
    failed_items: list[int]


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


def ports_of(job: Json, side: str) -> list[Port]:
    """The model's "inputs" or "outputs". Raises `DecodeError`."""
    from peerinfer.tensors import Port

    try:
        return [Port(raw["name"], raw["dtype"], tuple(raw["shape"])) for raw in job[side]]
    except (KeyError, TypeError):
        raise DecodeError(f"the node does not say what the model's {side} are; is it the same version?") from None


def count_of(job: Json, name: str) -> int:
    value = job.get(name)
    return value if type(value) is int else 0


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
        if count >= count_of(job, "tasks"):
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


def is_worth_writing(job: Json) -> bool:
    """True if the job has outputs to write: all of them, or all that there will ever be."""
    return job.get("state") == "done" and count_of(job, "failed_tasks") < count_of(job, "tasks")


def missing_items(came: Iterable[tuple[int, int]], items: int) -> list[int]:
    """The items of a job that are in none of the stretches `(first_item, items)`."""
    missing: list[int] = []
    expected = 0
    for first, count in sorted(came):
        missing += range(expected, first)
        expected = max(expected, first + count)
    return missing + list(range(expected, items))


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


def summary_json(job: Json, *, seconds: float, written: Written | None) -> Json:
    """The object that `run --json` prints. `failed` counts tasks; `failed_items` are all items without an output."""
    items = count_of(job, "items")
    done = items - len(written.failed_items) if written else 0
    error = error_of(job)
    return {
        "job_id": job.get("job_id"),
        "state": job.get("state"),
        "items": items,
        "tasks": count_of(job, "tasks"),
        "accepted": count_of(job, "accepted"),
        "failed": max(count_of(job, "failed_tasks"), len(job.get("failed") or ())),
        "failed_items": written.failed_items if written else failed_items(failed_tasks(job)),
        "retried": count_of(job, "retried"),
        "hedged": count_of(job, "hedged"),
        "verified": _checks(job),
        "verification": job.get("verification") or {},
        "seconds": round(seconds, 3),
        "items_per_second": round(done / seconds, 3) if seconds > 0 else 0.0,
        "peers": _peers(job),
        "coordinator": job.get("coordinator"),
        "term": job.get("term"),
        "output": written.output if written else None,
        "provenance": written.provenance if written else None,
        "error": None if error is None else str(error),
        "kind": None if error is None else type(error).__name__,
    }


def summary_line(job: Json, *, seconds: float, written: Written) -> str:
    items = count_of(job, "items") - len(written.failed_items)
    rate = f" ({rate_text(items / seconds)})" if seconds > 0 else ""
    peers = _peers(job)
    by = f" by {format_count(len(peers), 'peer')}" if peers else ""
    level = level_text(job)
    checked = f", {level}" if level else ""
    return f"{format_count(items, 'item')} in {format_duration(seconds)}{rate}{by}{checked}: {written.output}"


BOUND_SHOWN_MIN = 1e-9
"""Smaller bounds are not put in figures: the model behind them does not reach so far."""


def level_text(job: Json) -> str:
    """`12 checks of 240 tasks, at most 1 in 500 expected to be wrong`; a task that was computed again was checked."""
    checks, level = _checks(job), job.get("verification")
    bound = level.get("error_bound") if isinstance(level, dict) else None
    if not checks or not isinstance(bound, int | float):
        return ""
    one_in = f"1 in {format_count(round(1 / bound))}" if bound >= BOUND_SHOWN_MIN else "1 in a billion"
    wrong = f", at most {one_in} expected to be wrong" if bound > 0 else ""
    return f"{format_count(checks, 'check')} of {format_count(count_of(job, 'tasks'), 'task')}{wrong}"


def _checks(job: Json) -> int:
    level = job.get("verification")
    return count_of(level, "audits") + count_of(level, "copies") if isinstance(level, dict) else 0


def rate_text(items_per_s: float) -> str:
    """`9,586/s`, `0.25/s`."""
    return (format_count(round(items_per_s)) if items_per_s >= 10 else f"{items_per_s:.2g}") + "/s"


def _peers(job: Json) -> list[Any]:
    peers = job.get("peers")
    return peers if isinstance(peers, list) else []
