"""What a person may want to do something about."""

from __future__ import annotations

from peerinfer_tui.device_view import reason_words
from peerinfer_tui.figures import counted, quantity
from peerinfer_tui.line import Line
from peerinfer_tui.pictures import Snapshot
from peerinfer_tui.words import JOB_ENDED, names_in, short_job, spoken

FAILED_JOBS_MAX = 3
"""Failed jobs named one by one; they stay in the list of jobs for ever."""


def attention(snapshot: Snapshot, now_s: float) -> list[Line]:
    """The gravest first. `now_s` is the wall clock."""
    bad: list[Line] = []
    warn: list[Line] = []
    node, names = snapshot.node, names_in(snapshot)
    for reason in node.reasons:
        warn.append(_warning(f"this node: {reason_words(reason, now_s)}"))
    known = {reason.reason for reason in node.reasons}
    for device in snapshot.devices:
        for reason in device.reasons:
            if reason.reason not in known:
                warn.append(_warning(f"{device.name}: {reason_words(reason, now_s)}"))
        if device.max_temp_c is not None and device.temperature_c is not None and not device.reasons:
            spare_c = device.max_temp_c - device.temperature_c
            if 0 <= spare_c < 3:
                warn.append(_warning(f"{device.name}: {quantity(device.temperature_c, '°C')}, close to its limit"))
    if node.sandbox == "none":
        warn.append(_warning("models run here without a sandbox; `peerinfer doctor` says why"))
    if node.suspect:
        warn.append(_warning(f"{counted(node.suspect, 'peer')} {'does' if node.suspect == 1 else 'do'} not answer now"))
    failed = [job for job in snapshot.jobs if job.state == "failed"]
    for job in failed[:FAILED_JOBS_MAX]:
        tasks = f"{counted(job.failed, 'task')} failed for good"
        bad.append(
            (("✕ ", "bad"), (f"job {short_job(job.job_id)} failed: {spoken(job.reason, names) or tasks}", "plain"))
        )
    if len(failed) > FAILED_JOBS_MAX:
        bad.append((("✕ ", "bad"), (f"{counted(len(failed) - FAILED_JOBS_MAX, 'more job')} failed", "plain")))
    for job in snapshot.jobs:
        if job.state in JOB_ENDED:
            continue
        name = f"job {short_job(job.job_id)}"
        if job.blocked:
            warn.append(_warning(f"{name} waits: {spoken(job.blocked, names)}"))
        if job.failed:
            warn.append(_warning(f"{name}: {counted(job.failed, 'task')} failed for good"))
        if job.audits_failed:
            warn.append(_warning(f"{name}: {counted(job.audits_failed, 'check')} found a wrong result"))
    return bad + warn


def _warning(text: str) -> Line:
    return (("▲ ", "warn"), (text, "plain"))
