"""What the daemon says, checked: JSON in, frozen pictures out.

The daemon is ours, but it repeats names and reasons that strangers chose, and it may be older or newer than this
window. So whatever the JSON holds gives a snapshot: what is missing or of a wrong kind reads as empty, and no text can
carry a control character to the terminal.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peerinfer.limits import NAME_CHARS_MAX, REASON_CHARS_MAX

Json = Any


@dataclass(frozen=True, slots=True)
class Reason:
    """Why the node or a device does not lend; `until_s` is wall clock, None if it ends with its cause."""

    reason: str
    until_s: float | None = None


@dataclass(frozen=True, slots=True)
class NodePicture:
    peer_id: str = ""
    name: str = ""
    swarm: str = ""
    state: str = ""
    reasons: tuple[Reason, ...] = ()
    reachability: str = ""
    sandbox: str = ""
    version: str = ""
    pid: int = 0
    alive: int = 0
    suspect: int = 0


@dataclass(frozen=True, slots=True)
class DevicePicture:
    """One device. Figures that the daemon does not know are None."""

    name: str = ""
    kind: str = ""
    provider: str = ""
    memory_bytes: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    busy_ratio: float | None = None
    gemm_gflops: float | None = None
    state: str = ""
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class PeerPicture:
    peer_id: str = ""
    name: str = ""
    state: str = ""
    path: str = ""
    rtt_ms: float | None = None
    devices: tuple[str, ...] = ()
    queue: int = 0
    last_seen_s: float | None = None


@dataclass(frozen=True, slots=True)
class JobPicture:
    job_id: str = ""
    state: str = ""
    coordinator: str = ""
    items: int = 0
    tasks: int = 0
    accepted: int = 0
    failed: int = 0
    elapsed_s: float | None = None
    items_per_second: float | None = None
    reason: str = ""
    blocked: str = ""
    """Why it does not move, or nothing."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything one screen shows, as of one moment."""

    node: NodePicture
    devices: tuple[DevicePicture, ...] = ()
    peers: tuple[PeerPicture, ...] = ()
    jobs: tuple[JobPicture, ...] = ()


def read_snapshot(node: Json, devices: Json, peers: Json, jobs: Json) -> Snapshot:
    """The picture in the answers of `/api/v1/node`, `/devices`, `/peers` and `/jobs`. Never raises."""
    return Snapshot(
        node=_node(_mapping(node)),
        devices=tuple(_device(_mapping(raw)) for raw in _list(devices)),
        peers=tuple(_peer(_mapping(raw)) for raw in _list(peers)),
        jobs=tuple(_job(_mapping(raw)) for raw in _list(jobs)),
    )


def clean(text: str, chars_max: int = NAME_CHARS_MAX) -> str:
    """`text` on one line, without control, format and private characters (terminal escapes, text direction)."""
    kept = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text[: chars_max * 2])
    return " ".join(kept.split())[:chars_max]


def _node(raw: Mapping[str, Json]) -> NodePicture:
    peers = _mapping(raw.get("peers"))
    return NodePicture(
        peer_id=_text(raw, "peer_id"),
        name=_text(raw, "name"),
        swarm=_text(raw, "swarm"),
        state=_text(raw, "state"),
        reasons=_reasons(raw),
        reachability=_text(raw, "reachability"),
        sandbox=_text(raw, "sandbox"),
        version=_text(raw, "version"),
        pid=_count(raw, "pid"),
        alive=_count(peers, "alive"),
        suspect=_count(peers, "suspect"),
    )


def _device(raw: Mapping[str, Json]) -> DevicePicture:
    return DevicePicture(
        name=_text(raw, "name"),
        kind=_text(raw, "kind"),
        provider=_text(raw, "provider"),
        memory_bytes=_positive(raw, "vram_bytes"),
        temperature_c=_number(raw, "temperature_c"),
        power_w=_number(raw, "power_w"),
        busy_ratio=_number(raw, "busy_ratio"),
        gemm_gflops=_positive(_mapping(raw.get("benchmark")), "gemm_gflops"),
        state=_text(raw, "state"),
        reasons=_reasons(raw),
    )


def _peer(raw: Mapping[str, Json]) -> PeerPicture:
    return PeerPicture(
        peer_id=_text(raw, "peer_id"),
        name=_text(raw, "name"),
        state=_text(raw, "state"),
        path=_text(raw, "path"),
        rtt_ms=_number(raw, "rtt_ms"),
        devices=tuple(_device_name(device) for device in _list(raw.get("devices"))),
        queue=_count(raw, "queue"),
        last_seen_s=_number(raw, "last_seen_s"),
    )


def _job(raw: Mapping[str, Json]) -> JobPicture:
    return JobPicture(
        job_id=_text(raw, "job_id"),
        state=_text(raw, "state"),
        coordinator=_text(raw, "coordinator"),
        items=_count(raw, "items"),
        tasks=_count(raw, "tasks"),
        accepted=_count(raw, "accepted"),
        failed=max(_count(raw, "failed_tasks"), len(_list(raw.get("failed")))),
        elapsed_s=_number(raw, "elapsed_s"),
        items_per_second=_number(raw, "items_per_second"),
        reason=_text(raw, "reason", REASON_CHARS_MAX),
        blocked=_text(raw, "blocked", REASON_CHARS_MAX),
    )


def _device_name(raw: Json) -> str:
    """Peers list their devices by name or as objects with a name."""
    return clean(raw) if isinstance(raw, str) else _text(_mapping(raw), "name")


def _reasons(raw: Mapping[str, Json]) -> tuple[Reason, ...]:
    found = []
    for reason in _list(raw.get("reasons")):
        if isinstance(reason, str):
            found.append(Reason(clean(reason, REASON_CHARS_MAX)))
        else:
            fields = _mapping(reason)
            found.append(Reason(_text(fields, "reason", REASON_CHARS_MAX), _number(fields, "until")))
    return tuple(reason for reason in found if reason.reason)


def _mapping(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _text(raw: Mapping[str, Json], key: str, chars_max: int = NAME_CHARS_MAX) -> str:
    value = raw.get(key)
    return clean(value, chars_max) if isinstance(value, str) else ""


def _number(raw: Mapping[str, Json], key: str) -> float | None:
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _positive(raw: Mapping[str, Json], key: str) -> float | None:
    """Zero stands for unknown where a device reports its figures."""
    value = _number(raw, key)
    return value if value is not None and value > 0 else None


def _count(raw: Mapping[str, Json], key: str) -> int:
    value = _number(raw, key)
    return max(0, int(value)) if value is not None else 0
