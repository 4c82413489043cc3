"""Peers as rows of a table, and one peer as a page."""

from __future__ import annotations

from peerinfer_tui.figures import UNKNOWN, counted, duration, milliseconds, per_second, percent, quantity, size
from peerinfer_tui.line import Line, Span, Tone, fact, state_span, wrapped
from peerinfer_tui.pictures import PeerPicture, Snapshot
from peerinfer_tui.table import Column, Sheet, distinct
from peerinfer_tui.words import provider_name, short_id

_ORDER = {"alive": 0, "suspect": 1, "left": 3, "dead": 4}


def peer_sheet(snapshot: Snapshot) -> Sheet[PeerPicture]:
    """Those that live come first, by name."""
    ordered = sorted(snapshot.peers, key=lambda peer: (_ORDER.get(peer.state, 2), peer.name, peer.peer_id))
    return Sheet(
        "peers",
        _COLUMNS,
        distinct([(peer.peer_id, peer) for peer in ordered]),
        _text,
        hint=": on another machine, peerinfer join",
    )


def peer_page(peer: PeerPicture, cells: int) -> list[Line]:
    """Everything about one peer, in `cells` cells."""
    lines = [
        fact("peer id", (peer.peer_id or UNKNOWN, "plain")),
        fact("state", state_span(peer.state), (_seen(peer), "dim")),
        fact("path", (peer.path or UNKNOWN, "plain"), (f"  round trip {milliseconds(peer.rtt_ms)}", "plain")),
        fact("reputation", *_reputation_words(peer)),
        fact("queue", (f"{counted(peer.queue, 'task')} of this node's jobs", "plain")),
    ]
    if peer.why_not:
        lines += wrapped("takes work", f"no: {peer.why_not}", cells, "warn")
    else:
        lines.append(fact("takes work", ("yes", "good")))
    for index, device in enumerate(peer.devices):
        figures = [provider_name(device.provider), size(device.memory_bytes)]
        if device.gemm_gflops:
            figures.append(f"{per_second(device.gemm_gflops)} GFLOP/s")
        lines.append(
            fact("devices" if index == 0 else "", (device.name or UNKNOWN, "plain"), (f"  {', '.join(figures)}", "dim"))
        )
    for index, address in enumerate(peer.addresses):
        lines += wrapped("addresses" if index == 0 else "", address, cells, "dim")
    if peer.agent or peer.sandbox:
        lines.append(fact("software", (peer.agent or UNKNOWN, "plain"), (f"  sandbox {peer.sandbox or '?'}", "dim")))
    return lines


def speed_gflops(peer: PeerPicture) -> float | None:
    """Of all its devices together, as it measured them itself."""
    known = [device.gemm_gflops for device in peer.devices if device.gemm_gflops]
    return sum(known) if known else None


def _seen(peer: PeerPicture) -> str:
    """Of one that lives it is not told again and again that it was heard."""
    return "" if peer.last_seen_s is None or peer.state == "alive" else f"  heard {duration(peer.last_seen_s)} ago"


def _reputation(peer: PeerPicture) -> Span:
    if peer.integrity is None:
        return (UNKNOWN, "dim")
    if not peer.evidence:  # what a stranger is held for says nothing about this one
        return ("new", "dim")
    tone: Tone = "good" if peer.integrity >= 0.9 else "warn" if peer.integrity > 0.5 else "bad"
    return (percent(peer.integrity), tone)


def _reputation_words(peer: PeerPicture) -> list[Span]:
    if not peer.evidence or (peer.integrity is None and peer.reliability is None):
        return [("nothing seen of it yet", "dim")]
    evidence = counted(peer.evidence, "observation")
    text, tone = _reputation(peer)
    return [
        ("integrity ", "dim"),
        (text, tone),
        ("  reliability ", "dim"),
        (percent(peer.reliability), "plain"),
        (f"  {evidence}", "dim"),
    ]


def _why_not(peer: PeerPicture) -> Line:
    return ((peer.why_not, "warn"),) if peer.why_not else (("", "plain"),)


def _devices(peer: PeerPicture) -> str:
    return ", ".join(device.name or device.kind or UNKNOWN for device in peer.devices)


def _text(peer: PeerPicture) -> str:
    """All that a person may look for in the list."""
    return " ".join((peer.name, peer.peer_id, peer.state, peer.path, peer.lends, _devices(peer), peer.why_not))


_COLUMNS: list[Column[PeerPicture]] = [
    Column(
        "peer",
        12,
        0,
        lambda peer, _: ((peer.name or short_id(peer.peer_id), "plain" if peer.name else "dim"),),
        lambda peer: peer.name or None,
        grows=2,
    ),
    Column("state", 9, 1, lambda peer, _: (state_span(peer.state),), lambda peer: _ORDER.get(peer.state, 2)),
    Column("path", 6, 3, lambda peer, _: ((peer.path or UNKNOWN, "plain"),), lambda peer: peer.path or None),
    Column("rtt", 7, 2, lambda peer, _: ((milliseconds(peer.rtt_ms), "plain"),), lambda peer: peer.rtt_ms, right=True),
    Column("device", 14, 4, lambda peer, _: ((_devices(peer) or UNKNOWN, "plain"),), _devices, grows=2),
    Column(
        "GFLOP/s",
        8,
        5,
        lambda peer, _: ((per_second(speed_gflops(peer)), "plain"),),
        speed_gflops,
        right=True,
        falls=True,
    ),
    Column(
        "rep.",
        5,
        6,
        lambda peer, _: (_reputation(peer),),
        lambda peer: peer.integrity if peer.evidence else None,
        right=True,
    ),
    Column(
        "queue",
        6,
        8,
        lambda peer, _: ((quantity(peer.queue) if peer.queue else UNKNOWN, "plain" if peer.queue else "dim"),),
        lambda peer: peer.queue,
        right=True,
        falls=True,
    ),
    Column(
        "seen",
        8,
        9,
        lambda peer, _: (("now" if peer.state == "alive" else duration(peer.last_seen_s), "dim"),),
        lambda peer: 0.0 if peer.state == "alive" else peer.last_seen_s,
        right=True,
    ),
    Column("id", 9, 10, lambda peer, _: ((short_id(peer.peer_id), "dim"),), lambda peer: peer.peer_id),
    Column("why not", 24, 7, lambda peer, _: _why_not(peer), lambda peer: peer.why_not or None, grows=4),
]
