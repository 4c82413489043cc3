"""What changed between two snapshots, as lines for the person who was not looking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from peerinfer_tui.figures import counted
from peerinfer_tui.line import Line, Span, Tone, state_span, words
from peerinfer_tui.pictures import DevicePicture, JobPicture, LogLine, PeerPicture, Snapshot
from peerinfer_tui.words import JOB_ENDED, names_in, peer_name, short_id, short_job, spoken

SINGLY_MAX = 3
"""Peers named one by one; more that change together are counted."""

Kind = Literal["node", "device", "job", "election", "peer", "log"]


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happened: `at_s` is wall clock."""

    at_s: float
    kind: Kind
    line: Line

    @property
    def text(self) -> str:
        return words(self.line)


def changes(before: Snapshot, after: Snapshot, now_s: float) -> list[Happening]:
    """What happened from one to the other, in a fixed order: the node, its devices, its jobs, its peers."""
    found: list[Happening] = []

    def note(kind: Kind, *spans: Span, at_s: float | None = None) -> None:
        found.append(Happening(now_s if at_s is None else at_s, kind, spans))

    if after.node.pid != before.node.pid:
        note("node", ("● ", "accent"), ("the daemon was started again", "plain"))
    if after.node.state != before.node.state:
        why = "; ".join(reason.reason for reason in after.node.reasons)
        note("node", ("this node: ", "plain"), state_span(after.node.state), (f", {why}" if why else "", "dim"))
    if after.node.reachability != before.node.reachability and before.node.reachability:
        note("node", ("reachable: ", "plain"), (after.node.reachability or "unknown", "plain"))
    found += _device_changes(before.devices, after.devices, now_s)
    names = names_in(after)
    known = {job.job_id: job for job in before.jobs}
    for job in after.jobs:
        found += _job_changes(known.get(job.job_id), job, names, now_s)
    return found + _peer_changes(before.peers, after.peers, now_s)


def elections(snapshot: Snapshot, now_s: float) -> list[Happening]:
    """The terms of all jobs that a first snapshot tells of, the oldest first."""
    names = names_in(snapshot)
    found = [
        _handover(job, index, names, each.at_s, now_s)
        for job in snapshot.jobs
        for index, each in enumerate(job.handovers)
        if each.at_s is not None
    ]
    return sorted(found, key=lambda happening: happening.at_s)


def log_lines(lines: Sequence[LogLine], names: Mapping[str, str], now_s: float) -> list[Happening]:
    """What the daemon itself noted."""
    tones: dict[str, Tone] = {"warning": "warn", "error": "bad"}
    return [
        Happening(
            now_s if line.at_s is None else line.at_s,
            "log",
            (
                (line.event, tones.get(line.level, "plain")),
                (f"  {spoken(line.fields, names)}" if line.fields else "", "dim"),
            ),
        )
        for line in lines
    ]


def _device_changes(before: Sequence[DevicePicture], after: Sequence[DevicePicture], now_s: float) -> list[Happening]:
    found = []
    known = {(index, device.name): device for index, device in enumerate(before)}
    for index, device in enumerate(after):
        earlier = known.get((index, device.name))
        if earlier is None or bool(earlier.reasons) == bool(device.reasons):
            continue
        what: Span = ("rests", "warn") if device.reasons else ("works again", "good")
        why = "; ".join(reason.reason for reason in device.reasons)
        line: Line = ((f"{device.name} ", "plain"), what, (f": {why}" if why else "", "dim"))
        found.append(Happening(now_s, "device", line))
    return found


def _job_changes(
    before: JobPicture | None, after: JobPicture, names: Mapping[str, str], now_s: float
) -> list[Happening]:
    name: Span = (f"job {short_job(after.job_id)}: ", "plain")
    found: list[Happening] = []
    # A job that was rescued begins with term 1 again.
    terms_before = {(each.term, each.at_s) for each in before.handovers} if before is not None else set()
    for index, each in enumerate(after.handovers):
        if (each.term, each.at_s) not in terms_before:
            found.append(_handover(after, index, names, each.at_s, now_s))
    if before is None:
        told: Line = (name, state_span(after.state), (f", {counted(after.items, 'item')}", "plain"))
        return [*found, Happening(now_s, "job", told)]
    if after.coordinator != before.coordinator and after.coordinator and not found:
        who = f"coordinated by {peer_name(names, after.coordinator)} now"
        found.append(Happening(now_s, "election", (name, (who, "accent"))))
    if after.state != before.state:
        why = f": {spoken(after.reason, names)}" if after.reason and after.state in JOB_ENDED else ""
        found.append(Happening(now_s, "job", (name, state_span(after.state), (why, "dim"))))
    if after.blocked and not before.blocked and after.state not in JOB_ENDED:
        found.append(Happening(now_s, "job", (name, ("waits", "warn"), (f": {spoken(after.blocked, names)}", "dim"))))
    if after.failed > before.failed:
        lost = counted(after.failed - before.failed, "task")
        found.append(Happening(now_s, "job", (name, (f"{lost} failed for good", "bad"))))
    if after.audits_failed > before.audits_failed:
        found.append(Happening(now_s, "job", (name, ("a check found a wrong result", "bad"))))
    return found


def _handover(job: JobPicture, index: int, names: Mapping[str, str], at_s: float | None, now_s: float) -> Happening:
    """`at_s` is by the clock of whoever coordinated, which may be ahead of ours."""
    each = job.handovers[index]
    who = peer_name(names, each.coordinator)
    said: Span = (f"{who} coordinates in term {each.term}", "plain" if index == 0 else "accent")
    why = f", {spoken(each.why, names)}" if each.why else ""
    line: Line = ((f"job {short_job(job.job_id)}: ", "plain"), said, (why, "dim"))
    return Happening(now_s if at_s is None else min(at_s, now_s), "election", line)


def _peer_changes(before: Sequence[PeerPicture], after: Sequence[PeerPicture], now_s: float) -> list[Happening]:
    if before is after:
        return []
    known = {peer.peer_id: peer for peer in before}
    changed: dict[tuple[str, Tone], list[PeerPicture]] = {}
    for peer in after:
        earlier = known.pop(peer.peer_id, None)
        if earlier is None:
            if peer.state not in ("dead", "left"):
                changed.setdefault(("joined", "good"), []).append(peer)
        elif earlier.state != peer.state:
            tone = state_span(peer.state)[1]
            changed.setdefault((f"is {peer.state}", tone), []).append(peer)
    if known:
        changed[("gone", "dim")] = list(known.values())
    lines: list[Line] = []
    for (what, tone), peers in changed.items():
        if len(peers) > SINGLY_MAX:
            verb = what.replace("is ", "are ", 1)
            lines.append(((f"{counted(len(peers), 'peer')} ", "plain"), (verb, tone)))
        else:
            lines.extend(((f"{peer.name or short_id(peer.peer_id)} ", "plain"), (what, tone)) for peer in peers)
    return [Happening(now_s, "peer", line) for line in lines]
