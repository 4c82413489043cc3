"""The overview: the swarm, this node's part in it, and the curves of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from peerinfer_tui.figures import counted, duration, per_second, quantity
from peerinfer_tui.line import Line, Span, fact, state_span
from peerinfer_tui.pictures import NodePicture, PeerPicture, Snapshot
from peerinfer_tui.sparkline import curve, resampled
from peerinfer_tui.words import JOB_ENDED, short_id

_NAME = 7
"""Cells of the words in front: in 80 columns, two panels stand side by side."""


def node_line(node: NodePicture, width: int) -> Line:
    """Who this node is and how it is. The end goes first where the line is short."""
    facts = [counted(node.alive, "peer")]
    if node.suspect:
        facts.append(f"{node.suspect} suspect")
    if node.swarm:
        facts.append(f"swarm {node.swarm}")
    if node.version:
        facts.append(f"version {node.version}")
    line: list[Span] = [
        ("peerinfer", "accent"),
        (f"   {node.name or 'unnamed'}", "plain"),
        (f"  {short_id(node.peer_id)}", "dim"),
        ("   ", "plain"),
        state_span(node.state),
        (" ", "plain"),
    ]
    used = sum(len(text) for text, _ in line)
    for each in facts:
        used += len(each) + 3
        if used > width:
            break
        line.append((" · ", "dim"))
        line.append((each, "plain"))
    return tuple(line)


def swarm_lines(snapshot: Snapshot, cells: int) -> list[Line]:
    """How the swarm is, as this node sees it, in `cells` cells: of the dead only where there is room."""
    node, alive = snapshot.node, [peer for peer in snapshot.peers if peer.state == "alive"]
    states: list[Span] = [(f"● {node.alive:,} alive", "good" if node.alive else "dim")]
    if node.suspect:
        states.append((f"  ▲ {node.suspect:,} suspect", "warn"))
    dead = sum(peer.state == "dead" for peer in snapshot.peers)
    gone: Span = (f"  ✕ {dead:,} dead", "dim")
    if dead and _NAME + 1 + sum(len(text) for text, _ in (*states, gone)) <= cells:
        states.append(gone)
    able = sum(not peer.why_not for peer in alive)
    kinds = Counter(device.kind for peer in alive for device in peer.devices)
    lent = [f"{kinds[kind]:,} {kind.upper()}" for kind in ("gpu", "cpu") if kinds[kind]] or ["nothing"]
    gflops = _gflops(alive)
    jobs = Counter(job.state for job in snapshot.jobs)
    ended = sum(jobs[state] for state in JOB_ENDED)
    return [
        fact("peers", *states, width=_NAME),
        fact(
            "workers",
            (f"{able:,} of {len(alive):,}", "plain" if able or not alive else "warn"),
            (f", {node.relayed:,} by relay" if node.relayed else "", "dim"),
            width=_NAME,
        ),
        fact("lend", (", ".join(lent), "plain"), (_speed(gflops), "dim"), width=_NAME),
        fact(
            "jobs",
            (f"{jobs['running']:,} running, {jobs['queued']:,} queued", "plain"),
            (f", {ended:,} ended", "dim"),
            width=_NAME,
        ),
        fact("reached", (node.reachability or "not known", "plain"), width=_NAME),
    ]


def contribution_lines(snapshot: Snapshot) -> list[Line]:
    """What this node has done since its daemon began, and what it gave to others in all its life."""
    node = snapshot.node
    energy: Span = ("not measured", "dim") if node.energy_j is None else (energy_words(node.energy_j), "plain")
    done = f"{counted(node.tasks_done, 'task')}, {counted(node.items_done, 'item')}"
    busy = f"{node.frames_running:,} running, {node.frames_waiting:,} waiting"
    time_given = f" in {duration(node.compute_given_s)}" if node.compute_given_s else ""
    return [
        fact("done", (done, "plain"), width=_NAME),
        fact("given", (counted(node.tasks_given, "task"), "plain"), (time_given, "dim"), width=_NAME),
        fact("energy", energy, width=_NAME),
        fact("now", (busy, "plain" if node.frames_running or node.frames_waiting else "dim"), width=_NAME),
        fact("serves", (counted(node.coordinators_served, "coordinator"), "plain"), width=_NAME),
        fact("leads", (f"{counted(node.jobs_coordinated, 'job')} under its lease", "plain"), width=_NAME),
    ]


def energy_words(joules: float) -> str:
    """In the unit that electricity is bought in, once there is enough of it."""
    return f"{quantity(joules, 'J')}" if joules < 36_000 else f"{joules / 3.6e6:.2f} kWh"


def curve_lines(
    samples: Sequence[tuple[float, float]], now_s: float, span_s: float, cells: int, rows: int
) -> list[Line]:
    """The rate over the last `span_s`, in `rows` lines of `cells` cells, with what the upper edge stands for."""
    label = 9
    values = resampled(samples, now_s, span_s, max(1, cells - label))
    top = max((value for value in values if value is not None), default=0.0)
    lines: list[Line] = []
    for index, text in enumerate(curve(values, rows, top)):
        legend = f"{per_second(top)}" if index == 0 and top > 0 else "0" if index == rows - 1 and rows > 1 else ""
        lines.append(((f"{legend:>{label - 1}} ", "dim"), (text, "accent")))
    return lines


def curve_caption(name: str, samples: Sequence[tuple[float, float]]) -> str:
    """Where it stands now: the mean of the last samples."""
    recent = [value for _, value in list(samples)[-5:]]
    now = sum(recent) / len(recent) if recent else None
    return f"{name}  {per_second(now)} items/s"


def _speed(gflops: float) -> str:
    if not gflops:
        return ""
    return f", {gflops / 1000:,.0f} TFLOP/s" if gflops >= 10_000 else f", {gflops:,.0f} GFLOP/s"


def _gflops(peers: Sequence[PeerPicture]) -> float:
    return sum(device.gemm_gflops or 0.0 for peer in peers for device in peer.devices)
