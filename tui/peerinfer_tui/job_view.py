"""Jobs as rows of a table, and one job as a page."""

from __future__ import annotations

from collections.abc import Mapping

from peerinfer_tui.figures import UNKNOWN, bar, clock_time, counted, duration, per_second, percent
from peerinfer_tui.line import Line, Span, Tone, fact, gauge, state_span, wrapped
from peerinfer_tui.pictures import Handover, JobPicture, Snapshot
from peerinfer_tui.table import Column, Sheet, distinct
from peerinfer_tui.words import (
    JOB_ENDED,
    model_name,
    names_in,
    peer_name,
    progress,
    rate,
    remaining_s,
    short_job,
    spoken,
)

FAILURES_SHOWN = 20
_ORDER = {"running": 0, "paused": 1, "queued": 2}
_ENDED = 3


def job_sheet(snapshot: Snapshot) -> Sheet[JobPicture]:
    """Those under way come first."""
    return _sheet(snapshot, snapshot.jobs, "jobs", ": peerinfer run MODEL INPUT -o OUT")


def active_job_sheet(snapshot: Snapshot) -> Sheet[JobPicture]:
    """Those that have not ended."""
    active = tuple(job for job in snapshot.jobs if job.state not in JOB_ENDED)
    hint = (
        ": peerinfer run MODEL INPUT -o OUT" if not snapshot.jobs else f", {counted(len(snapshot.jobs), 'job')} ended"
    )
    return _sheet(snapshot, active, "jobs under way", hint)


def job_page(job: JobPicture, names: Mapping[str, str], cells: int) -> list[Line]:
    """Everything about one job, in `cells` cells: first what moves, then what it is, then what went wrong."""
    lines: list[Line] = [
        fact("state", state_span(job.state), *_pace(job)),
        fact(
            "progress",
            *gauge(progress(job), max(20, min(60, cells - 34)), _bar_tone(job)),
            (f"  of {counted(job.tasks, 'task')}", "dim"),
        ),
        fact("tasks", *_task_states(job)),
        *tail(job, names, cells),
    ]
    if job.reason:
        lines += wrapped("because", spoken(job.reason, names), cells, "bad" if job.state == "failed" else "plain")
    if job.blocked and job.state not in JOB_ENDED:
        lines += wrapped("waits", spoken(job.blocked, names), cells, "warn")
    for warning in job.warnings:
        lines += wrapped("warning", spoken(warning, names), cells, "warn")
    lines += _who(job, names, cells)
    lines.append(fact("checks", *_checks(job)))
    lines += wrapped("model", job.model or UNKNOWN, cells)
    lines.append(
        fact(
            "asked for",
            (f"verify {job.verify or UNKNOWN}, priority {job.priority or UNKNOWN}", "plain"),
            (f", strategy {job.strategy}" if job.strategy else "", "plain"),
        )
    )
    lines.append(fact("job", (job.job_id, "dim")))
    for index, (peer, tasks) in enumerate(job.peers):
        lines.append(_share(index, peer_name(names, peer), tasks, job))
    lines += _failures(job, names, cells)
    return lines


def tail(job: JobPicture, names: Mapping[str, str], cells: int) -> list[Line]:
    """What the end of the job waits for, once everything is given out."""
    left = job.tasks - job.accepted - job.failed
    if job.state != "running" or left <= 0 or job.open > 0 or job.assigned <= 0:
        return []
    said = f"the last {counted(left, 'task')} {'is' if left == 1 else 'are'} with peers"
    if job.hedged:
        said += f"; {job.hedged:,} given to a second peer"
    return wrapped("tail", said, cells, "accent")


def _sheet(snapshot: Snapshot, jobs: tuple[JobPicture, ...], noun: str, hint: str) -> Sheet[JobPicture]:
    names = names_in(snapshot)
    ordered = sorted(jobs, key=lambda job: _ORDER.get(job.state, _ENDED))
    return Sheet(
        noun,
        _columns(names),
        distinct([(job.job_id, job) for job in ordered]),
        lambda job: " ".join((job.job_id, job.state, job.model, job.priority, peer_name(names, job.coordinator))),
        hint=hint,
    )


def _columns(names: Mapping[str, str]) -> list[Column[JobPicture]]:
    return [
        Column("job", 8, 0, lambda job, _: ((short_job(job.job_id), "plain"),), lambda job: job.job_id),
        Column("state", 11, 1, lambda job, _: (state_span(job.state),), lambda job: _ORDER.get(job.state, _ENDED)),
        Column("progress", 14, 2, lambda job, cells: gauge(progress(job), cells, _bar_tone(job)), progress, grows=3),
        Column(
            "items/s", 7, 3, lambda job, _: ((per_second(rate(job) or None), "plain"),), rate, right=True, falls=True
        ),
        Column("left", 9, 5, lambda job, _: ((duration(remaining_s(job)), "plain"),), remaining_s, right=True),
        Column(
            "coordinator",
            12,
            4,
            lambda job, _: ((peer_name(names, job.coordinator), "plain"),),
            lambda job: peer_name(names, job.coordinator),
            grows=1,
        ),
        Column("term", 4, 8, lambda job, _: ((f"{job.term}", "dim"),), lambda job: job.term, right=True, falls=True),
        Column(
            "failed",
            6,
            7,
            lambda job, _: ((f"{job.failed:,}" if job.failed else UNKNOWN, "bad" if job.failed else "dim"),),
            lambda job: job.failed,
            right=True,
            falls=True,
        ),
        Column(
            "items", 9, 6, lambda job, _: ((f"{job.items:,}", "plain"),), lambda job: job.items, right=True, falls=True
        ),
        Column(
            "model",
            12,
            9,
            lambda job, _: ((model_name(job.model), "plain"),),
            lambda job: model_name(job.model),
            grows=2,
        ),
        Column(
            "elapsed", 9, 10, lambda job, _: ((duration(job.elapsed_s), "dim"),), lambda job: job.elapsed_s, right=True
        ),
    ]


def _pace(job: JobPicture) -> list[Span]:
    speed = rate(job)
    found = f"  {per_second(speed)} items/s" if speed else ""
    left = remaining_s(job)
    if left is not None:
        found += f", {duration(left)} left"
    return [(found, "plain"), (f"  {duration(job.elapsed_s)} so far", "dim")]


def _task_states(job: JobPicture) -> list[Span]:
    provisional = max(0, job.accepted - job.final)
    states: list[tuple[str, int, Tone]] = [
        ("open", job.open, "plain"),
        ("assigned", job.assigned, "accent"),
        ("provisional", provisional, "warn"),
        ("final", job.final, "good"),
        ("failed", job.failed, "bad"),
    ]
    return [(f"{count:,} {name}  ", tone if count else "dim") for name, count, tone in states]


def _who(job: JobPicture, names: Mapping[str, str], cells: int) -> list[Line]:
    lines = [fact("coordinator", (peer_name(names, job.coordinator), "plain"), (f", term {job.term}", "plain"))]
    if job.committee:
        lines += wrapped("electors", ", ".join(peer_name(names, peer) for peer in job.committee), cells)
    if job.submitter:
        lines.append(fact("submitted by", (peer_name(names, job.submitter), "plain")))
    for index, each in enumerate(job.handovers[-6:]):
        lines += wrapped("terms" if index == 0 else "", handover_words(each, names), cells, "dim")
    return lines


def handover_words(each: Handover, names: Mapping[str, str]) -> str:
    when = "" if each.at_s is None else f"{clock_time(each.at_s)}  "
    return f"{when}{each.term}: {peer_name(names, each.coordinator)}, {spoken(each.why, names) or 'no reason given'}"


def _checks(job: JobPicture) -> list[Span]:
    return [
        (f"{job.audited:,} of {job.accepted:,} repeated", "plain"),
        (f", {job.audits_failed:,} differed", "bad" if job.audits_failed else "dim"),
        (f"; {job.retried:,} retried, {job.hedged:,} hedged", "dim"),
    ]


def _share(index: int, name: str, tasks: int, job: JobPicture) -> Line:
    whole = sum(count for _, count in job.peers)
    ratio = tasks / whole if whole else 0.0
    filled, empty = bar(ratio, 12)
    return fact(
        "computed by" if index == 0 else "",
        (filled, "accent"),
        (empty, "dim"),
        (f" {percent(ratio):>5}  {name}, {counted(tasks, 'task')}", "plain"),
    )


def _failures(job: JobPicture, names: Mapping[str, str], cells: int) -> list[Line]:
    lines: list[Line] = []
    for index, failure in enumerate(job.failures[:FAILURES_SHOWN]):
        last = failure.first_item + max(1, failure.items) - 1
        items = f"item {last}" if last == failure.first_item else f"items {failure.first_item}–{last}"
        text = f"task {failure.task} ({items}): {spoken(failure.reason, names) or 'no reason given'}"
        lines += wrapped("failed" if index == 0 else "", text, cells, "bad")
    hidden = job.failed - min(len(job.failures), FAILURES_SHOWN)
    if hidden > 0 and job.failures:
        lines.append(fact("", (f"and {hidden:,} more", "dim")))
    return lines


def _bar_tone(job: JobPicture) -> Tone:
    if job.state == "failed":
        return "bad"
    return "dim" if job.state == "cancelled" else "warn" if job.failed else "good"
