"""What changed between two snapshots, as lines for the person who was not looking."""

from __future__ import annotations

from collections.abc import Sequence

from peerinfer_tui.figures import counted
from peerinfer_tui.snapshot import JobPicture, PeerPicture, Snapshot
from peerinfer_tui.view import Line, Span, Tone, peer_name, short_id, short_job, state_span

SINGLY_MAX = 3
"""Peers named one by one; more that change together are counted."""


def changes(before: Snapshot, after: Snapshot) -> list[Line]:
    """What happened from one to the other, in a fixed order: the node, its jobs, its peers."""
    lines: list[Line] = []
    if after.node.pid != before.node.pid:
        lines.append((("● ", "accent"), ("the daemon was started again", "plain")))
    if after.node.state != before.node.state:
        lines.append((("this node: ", "plain"), state_span(after.node.state)))
    known = {job.job_id: job for job in before.jobs}
    for job in after.jobs:
        lines.extend(_job_changes(known.get(job.job_id), job, after))
    return lines + _peer_changes(before.peers, after.peers)


def _job_changes(before: JobPicture | None, after: JobPicture, snapshot: Snapshot) -> list[Line]:
    name: Span = (f"job {short_job(after.job_id)}: ", "plain")
    if before is None:
        return [(name, state_span(after.state), (f", {counted(after.items, 'item')}", "plain"))]
    lines: list[Line] = []
    if after.coordinator != before.coordinator and after.coordinator:
        lines.append((name, (f"coordinated by {peer_name(snapshot, after.coordinator)} now", "plain")))
    if after.state != before.state:
        lines.append((name, state_span(after.state)))
    return lines


def _peer_changes(before: Sequence[PeerPicture], after: Sequence[PeerPicture]) -> list[Line]:
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
    return lines
