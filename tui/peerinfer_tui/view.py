"""A snapshot as it is shown: lines, tables, tones. Nothing here knows Textual, the terminal or the time of day.

A *line* is spans of text, each with a *tone*: what it means, not how it looks (`paint.py` chooses the colours). A table
is given the cells it may take and answers with the columns that fit, the least important going first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from peerinfer_tui.figures import (
    UNKNOWN,
    bar,
    counted,
    duration,
    milliseconds,
    per_second,
    percent,
    quantity,
    size,
)
from peerinfer_tui.snapshot import DevicePicture, JobPicture, NodePicture, PeerPicture, Reason, Snapshot

Tone = Literal["plain", "dim", "good", "warn", "bad", "accent"]
Span = tuple[str, Tone]
Line = tuple[Span, ...]
T = TypeVar("T")

ROWS_MAX = 200
"""Rows of one table. Painting more each second would cost the terminal more than anybody reads."""

COLUMN_GAP = 2
"""Cells that a table leaves around each column."""

_STATE_TONES: dict[str, Tone] = {
    "running": "good",
    "alive": "good",
    "busy": "good",
    "done": "accent",
    "queued": "plain",
    "idle": "dim",
    "left": "dim",
    "cancelled": "dim",
    "paused": "warn",
    "finishing": "warn",
    "suspect": "warn",
    "failed": "bad",
    "dead": "bad",
}
_HINTS = {"jobs": ": peerinfer run MODEL INPUT -o OUT", "peers": ": on another machine, peerinfer join"}
_PEER_ORDER = {"alive": 0, "suspect": 1, "left": 3, "dead": 4}
_JOB_ORDER = {"running": 0, "paused": 1, "queued": 2}
_JOB_ENDED = 3


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """One column: `show` gives the cell of a record in `width` cells. The lowest `rank`s are kept longest."""

    title: str
    width: int
    rank: int
    show: Callable[[T, int], Line]
    grows: int = 0
    """Share of the cells left over."""
    right: bool = False


@dataclass(frozen=True, slots=True)
class Heading:
    title: str
    width: int
    right: bool


@dataclass(frozen=True, slots=True)
class Row:
    key: str
    cells: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table ready to be painted. `caption` says what it holds and how much of it is shown."""

    caption: str
    headings: tuple[Heading, ...]
    rows: tuple[Row, ...]


# --- words ---------------------------------------------------------------------------------------------------------


def short_id(peer_id: str) -> str:
    """The end of a peer id, where ids differ: all Ed25519 ids begin alike."""
    return f"…{peer_id[-8:]}" if len(peer_id) > 10 else peer_id or UNKNOWN


def short_job(job_id: str) -> str:
    return job_id[:8] or UNKNOWN


def state_span(state: str) -> Span:
    """A state in words with a mark, so that colour is never the only sign."""
    tone = _STATE_TONES.get(state, "plain")
    mark = {"good": "●", "warn": "▲", "bad": "✕", "accent": "✓"}.get(tone, "○")
    return (f"{mark} {state or UNKNOWN}", tone)


def provider_name(provider: str) -> str:
    """ONNX Runtime's providers without the words that all of them share."""
    return provider.removesuffix("ExecutionProvider") or UNKNOWN


def peer_name(snapshot: Snapshot, peer_id: str) -> str:
    """What to call a peer: this node, its name, or the end of its id."""
    if peer_id and peer_id == snapshot.node.peer_id:
        return "this node"
    for peer in snapshot.peers:
        if peer.peer_id == peer_id and peer.name:
            return peer.name
    return short_id(peer_id)


def progress(job: JobPicture) -> float:
    if job.state == "done":
        return 1.0
    return min(1.0, job.accepted / job.tasks) if job.tasks else 0.0


def rate(job: JobPicture) -> float | None:
    """Items per second: the daemon's figure, else the mean since the job began."""
    if job.items_per_second is not None:
        return job.items_per_second
    if not job.elapsed_s or job.elapsed_s <= 0:
        return None
    return job.items * progress(job) / job.elapsed_s


def remaining_s(job: JobPicture) -> float | None:
    speed = rate(job)
    if job.state != "running" or not speed:
        return None
    return job.items * (1 - progress(job)) / speed


# --- lines ---------------------------------------------------------------------------------------------------------


def node_line(node: NodePicture, width: int) -> Line:
    """Who this node is and how it is. The end goes first where the line is short."""
    facts = [counted(node.alive, "peer")]
    if node.suspect:
        facts.append(f"{node.suspect} suspect")
    if node.reachability not in ("", "unknown"):
        facts.append(node.reachability)
    if node.sandbox:
        facts.append(f"sandbox {node.sandbox}")
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
        ("  ", "plain"),
    ]
    used = sum(len(text) for text, _ in line)
    for fact in facts:
        used += len(fact) + 3
        if used > width:
            break
        line.append((" · ", "dim"))
        line.append((fact, "plain"))
    return tuple(line)


def attention(snapshot: Snapshot, now_s: float) -> list[Line]:
    """What a person may want to do something about, the gravest first. `now_s` is the wall clock."""
    bad: list[Line] = []
    warn: list[Line] = []
    node = snapshot.node
    for reason in node.reasons:
        warn.append((("▲ ", "warn"), (f"this node: {_why(reason, now_s)}", "plain")))
    for device in snapshot.devices:
        for reason in device.reasons:
            if any(reason.reason == known.reason for known in node.reasons):
                continue
            warn.append((("▲ ", "warn"), (f"{device.name}: {_why(reason, now_s)}", "plain")))
    if node.sandbox == "none":
        warn.append((("▲ ", "warn"), ("models run here without a sandbox", "plain")))
    for job in snapshot.jobs:
        tasks = f"{counted(job.failed, 'task')} failed for good"
        if job.state == "failed":
            bad.append((("✕ ", "bad"), (f"job {short_job(job.job_id)} failed: {job.reason or tasks}", "plain")))
        elif job.state not in ("done", "cancelled"):
            for matter in (f"waits: {job.blocked}" if job.blocked else "", tasks if job.failed else ""):
                if matter:
                    warn.append((("▲ ", "warn"), (f"job {short_job(job.job_id)}: {matter}", "plain")))
    return bad + warn


def _why(reason: Reason, now_s: float) -> str:
    if reason.until_s is None or reason.until_s <= now_s:
        return reason.reason
    return f"{reason.reason}, for {duration(reason.until_s - now_s)} more"


# --- tables --------------------------------------------------------------------------------------------------------


def device_table(snapshot: Snapshot, width: int) -> Table:
    columns: list[Column[DevicePicture]] = [
        Column("device", 16, 0, lambda device, _: ((device.name or UNKNOWN, "plain"),), grows=1),
        Column("state", 11, 1, lambda device, _: (state_span(device.state),)),
        Column("busy", 16, 2, lambda device, cells: _gauge(device.busy_ratio, cells), grows=1),
        Column("temp.", 6, 3, lambda device, _: (_temperature(device),), right=True),
        Column("memory", 8, 4, lambda device, _: ((size(device.memory_bytes), "plain"),), right=True),
        Column("provider", 10, 6, lambda device, _: ((provider_name(device.provider), "dim"),)),
        Column("power", 6, 5, lambda device, _: ((quantity(device.power_w, "W"), "plain"),), right=True),
        Column("GFLOP/s", 8, 7, lambda device, _: ((quantity(device.gemm_gflops), "plain"),), right=True),
    ]
    records = list(enumerate(snapshot.devices))
    return _table("devices", columns, [(f"{index}", device) for index, device in records], width)


def peer_table(snapshot: Snapshot, width: int) -> Table:
    columns: list[Column[PeerPicture]] = [
        Column("peer", 14, 0, lambda peer, _: ((peer.name or UNKNOWN, "plain"),), grows=2),
        Column("state", 11, 1, lambda peer, _: (state_span(peer.state),)),
        Column("path", 7, 3, lambda peer, _: ((peer.path or UNKNOWN, "plain"),)),
        Column("rtt", 8, 2, lambda peer, _: ((milliseconds(peer.rtt_ms), "plain"),), right=True),
        Column("devices", 14, 4, lambda peer, _: ((", ".join(peer.devices) or UNKNOWN, "plain"),), grows=3),
        Column("id", 9, 5, lambda peer, _: ((short_id(peer.peer_id), "dim"),)),
        Column("queue", 5, 6, lambda peer, _: ((f"{peer.queue:,}", "plain"),), right=True),
        Column("seen", 9, 7, lambda peer, _: ((duration(peer.last_seen_s), "dim"),), right=True),
    ]
    ordered = sorted(snapshot.peers, key=lambda peer: (_PEER_ORDER.get(peer.state, 2), peer.name, peer.peer_id))
    return _table("peers", columns, [(peer.peer_id, peer) for peer in ordered], width)


def job_table(snapshot: Snapshot, width: int) -> Table:
    columns: list[Column[JobPicture]] = [
        Column("job", 8, 0, lambda job, _: ((short_job(job.job_id), "plain"),)),
        Column("state", 11, 1, lambda job, _: (state_span(job.state),)),
        Column("progress", 16, 2, lambda job, cells: _gauge(progress(job), cells, _bar_tone(job)), grows=3),
        Column("items/s", 7, 3, lambda job, _: ((per_second(rate(job) or None), "plain"),), right=True),
        Column("items", 11, 5, lambda job, _: ((f"{job.items:,}", "plain"),), right=True),
        Column("coordinator", 13, 4, lambda job, _: ((peer_name(snapshot, job.coordinator), "plain"),), grows=1),
        Column("left", 9, 6, lambda job, _: ((duration(remaining_s(job)), "plain"),), right=True),
        Column("elapsed", 9, 7, lambda job, _: ((duration(job.elapsed_s), "dim"),), right=True),
    ]
    ordered = sorted(snapshot.jobs, key=lambda job: _JOB_ORDER.get(job.state, _JOB_ENDED))
    return _table("jobs", columns, [(job.job_id, job) for job in ordered], width)


def _table(noun: str, columns: Sequence[Column[T]], records: Sequence[tuple[str, T]], width: int) -> Table:
    shown = records[:ROWS_MAX]
    fitted = _fit(columns, width)
    count = f"{len(records):,}" if len(shown) == len(records) else f"{len(shown)} of {len(records):,}"
    return Table(
        caption=f"{noun}  {count}" if records else f"{noun}  none yet{_HINTS.get(noun, '')}",
        headings=tuple(Heading(column.title, cells, column.right) for column, cells in fitted),
        rows=tuple(
            Row(key, tuple(column.show(record, cells) for column, cells in fitted)) for key, record in _distinct(shown)
        ),
    )


def _fit(columns: Sequence[Column[T]], width: int) -> list[tuple[Column[T], int]]:
    """The columns that fit into `width` cells, with the cells each gets."""
    kept: list[Column[T]] = []
    free = width
    for column in sorted(columns, key=lambda column: column.rank):
        if kept and column.width + COLUMN_GAP > free:
            break
        free -= column.width + COLUMN_GAP
        kept.append(column)
    shares = sum(column.grows for column in kept)
    extra = {id(column): max(0, free) * column.grows // shares if shares else 0 for column in kept}
    return [(column, column.width + extra[id(column)]) for column in columns if id(column) in extra]


def _distinct(records: Iterable[tuple[str, T]]) -> list[tuple[str, T]]:
    """The records with keys of their own: the first of two that share one."""
    found: dict[str, T] = {}
    for key, record in records:
        found.setdefault(key, record)
    return list(found.items())


def _gauge(ratio: float | None, width: int, tone: Tone = "accent") -> Line:
    if ratio is None:
        return ((UNKNOWN, "dim"),)
    filled, empty = bar(ratio, max(1, width - 6))
    return ((filled, tone), (empty, "dim"), (f" {percent(ratio):>5}", "plain"))


def _bar_tone(job: JobPicture) -> Tone:
    if job.state == "failed":
        return "bad"
    return "dim" if job.state == "cancelled" else "warn" if job.failed else "good"


def _temperature(device: DevicePicture) -> Span:
    return (quantity(device.temperature_c, "°C"), "plain")
