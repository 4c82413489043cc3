"""What became of a job, in words, in JSON and as an exit code. Pure: everything comes from the job's last picture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peerinfer.control import Json
from peerinfer.errors import DecodeError, Interrupted
from peerinfer.job_ends import count_of, failed_items, failed_tasks
from peerinfer.units import format_count, format_duration

if TYPE_CHECKING:
    from peerinfer.tensors import Port


@dataclass(frozen=True, slots=True)
class Written:
    """What lies on the disk now."""

    output: str
    provenance: str
    failed_items: list[int]


def ports_of(job: Json, side: str) -> list[Port]:
    """The model's "inputs" or "outputs". Raises `DecodeError`."""
    from peerinfer.tensors import Port

    try:
        return [Port(raw["name"], raw["dtype"], tuple(raw["shape"])) for raw in job[side]]
    except (KeyError, TypeError):
        raise DecodeError(f"the node does not say what the model's {side} are; is it the same version?") from None


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


def summary_json(job: Json, *, seconds: float, written: Written | None, error: BaseException | None) -> Json:
    """The object that `run --json` prints. `failed` counts tasks; `failed_items` are all items without an output.

    `job` is empty where the command ended before there was one; then `error` says why.
    """
    items = count_of(job, "items")
    done = items - len(written.failed_items) if written else 0
    state = "cancelled" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
    return {
        "job_id": job.get("job_id"),
        "state": job.get("state") if job else state,
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
    """`12 checks of 240 tasks, at most 1 in 500 expected to be wrong`; a task that was computed again was checked.

    Both are of the tasks that the coordinator judged itself. Of those that counted before it came nothing is known.
    """
    checks, level = _checks(job), job.get("verification")
    if not isinstance(level, dict) or job.get("verify") == "none":
        return ""
    bound, unknown = level.get("error_bound"), count_of(level, "unknown")
    untold = f"how {format_count(unknown, 'task')} {'was' if unknown == 1 else 'were'} checked is not known here"
    if not checks or isinstance(bound, bool) or not isinstance(bound, int | float):
        return untold if unknown else ""
    tasks = count_of(job, "tasks")
    judged = _judged(level)
    if judged is None or judged >= tasks - count_of(job, "failed_tasks"):
        judged = tasks
    one_in = f"1 in {format_count(round(1 / bound))}" if bound >= BOUND_SHOWN_MIN else "1 in a billion"
    of_them = "" if judged == tasks else " of them"
    wrong = f", at most {one_in}{of_them} expected to be wrong" if bound > 0 else ""
    said = f"{format_count(checks, 'check')} of {format_count(judged, 'task')}{wrong}"
    return f"{said}; {untold}" if unknown else said


def _judged(level: Json) -> int | None:
    """Of how many tasks it is; None where that was not said."""
    if type(level.get("tasks")) is int:
        return count_of(level, "tasks")
    grounds = level.get("grounds")
    return sum(count_of(grounds, ground) for ground in grounds) if isinstance(grounds, dict) and grounds else None


def _checks(job: Json) -> int:
    level = job.get("verification")
    return count_of(level, "audits") + count_of(level, "copies") if isinstance(level, dict) else 0


def rate_text(items_per_s: float) -> str:
    """`9,586/s`, `0.25/s`."""
    return (format_count(round(items_per_s)) if items_per_s >= 10 else f"{items_per_s:.2g}") + "/s"


def _peers(job: Json) -> list[Any]:
    peers = job.get("peers")
    return peers if isinstance(peers, list) else []
