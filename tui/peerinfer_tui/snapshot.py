"""What the daemon says, checked: JSON in, frozen pictures out.

The daemon is ours, but it repeats names and reasons that strangers chose, and it may be older or newer than this
window. So whatever the JSON holds gives a snapshot: what is missing or of a wrong kind reads as empty, and no text can
carry a control character to the terminal.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from peerinfer.limits import NAME_CHARS_MAX, REASON_CHARS_MAX
from peerinfer_tui.pictures import (
    DevicePicture,
    Failure,
    Handover,
    JobPicture,
    LogLine,
    NodePicture,
    PeerPicture,
    Reason,
)

Json = Any


PATH_CHARS_MAX = 400
WHOLE_MAX = 1 << 63
"""Larger numbers count nothing that exists."""

CLEANED_MAX = 16384
"""Texts remembered as they are shown: a thousand peers say the same every second."""

LOG_LINES_MAX = 1000
"""Of one message; the daemon keeps fewer."""

TEXTS_MAX = 64
"""Entries of one list that are kept: nobody reads more of them on one screen."""


def read_node(raw: Json) -> NodePicture:
    """The picture in the answer of `/api/v1/node`. Like all of these it never raises."""
    return _node(_mapping(raw))


def read_devices(raw: Json) -> tuple[DevicePicture, ...]:
    return tuple(_device(_mapping(each)) for each in _list(raw))


def read_peer(raw: Json) -> PeerPicture:
    return _peer(_mapping(raw))


def read_job(raw: Json) -> JobPicture:
    return _job(_mapping(raw))


def read_log(raw: Json) -> list[LogLine]:
    """Lines of the daemon's log: what happened, and the fields that belong to it."""
    return [_log_line(_mapping(each)) for each in _list(raw)[-LOG_LINES_MAX:]]


def _log_line(raw: Mapping[str, Json]) -> LogLine:
    known = ("number", "time", "level", "event")
    fields = " ".join(f"{name}={value}" for name, value in raw.items() if name not in known and value is not None)
    return LogLine(
        _count(raw, "number"),
        _number(raw, "time"),
        _text(raw, "level"),
        _text(raw, "event"),
        clean(fields, REASON_CHARS_MAX),
    )


def clean(text: str, chars_max: int = NAME_CHARS_MAX) -> str:
    """`text` on one line, without control, format and private characters (terminal escapes, text direction)."""
    return _cleaned(text[: chars_max * 2], chars_max)


@lru_cache(maxsize=CLEANED_MAX)
def _cleaned(text: str, chars_max: int) -> str:
    if not (text.isascii() and text.isprintable()):
        text = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text)
    return " ".join(text.split())[:chars_max]


def _node(raw: Mapping[str, Json]) -> NodePicture:
    peers, given = _mapping(raw.get("peers")), _mapping(raw.get("contribution"))
    return NodePicture(
        peer_id=_text(raw, "peer_id"),
        name=_text(raw, "name"),
        swarm=_text(raw, "swarm"),
        state=_text(raw, "state"),
        reasons=_reasons(raw),
        addresses=_texts(raw, "addresses"),
        reachability=_text(raw, "reachability"),
        sandbox=_text(raw, "sandbox"),
        version=_text(raw, "version"),
        api=_text(raw, "api"),
        pid=_count(raw, "pid"),
        alive=_count(peers, "alive"),
        suspect=_count(peers, "suspect"),
        relayed=_count(peers, "relayed"),
        jobs_coordinated=_count(raw, "jobs_coordinated"),
        coordinators_served=_count(raw, "coordinators_served"),
        frames_running=_count(raw, "frames_running"),
        frames_waiting=_count(raw, "frames_waiting"),
        tasks_done=_count(raw, "tasks_done"),
        items_done=_count(raw, "items_done"),
        energy_j=_positive(raw, "energy_j"),
        tasks_given=_count(given, "tasks"),
        compute_given_s=_number(given, "compute_s"),
    )


def _device(raw: Mapping[str, Json]) -> DevicePicture:
    benchmark = _mapping(raw.get("benchmark"))
    is_certified = raw.get("certified")
    return DevicePicture(
        name=_text(raw, "name"),
        kind=_text(raw, "kind"),
        provider=_text(raw, "provider"),
        memory_bytes=_positive(raw, "vram_bytes"),
        memory_used_bytes=_number(raw, "memory_used_bytes"),
        temperature_c=_number(raw, "temperature_c"),
        max_temp_c=_positive(raw, "max_temp_c"),
        power_w=_number(raw, "power_w"),
        max_power_w=_positive(raw, "max_power_w"),
        busy_ratio=_number(raw, "busy_ratio"),
        gemm_gflops=_positive(benchmark, "gemm_gflops"),
        bandwidth_gbs=_positive(benchmark, "bandwidth_gbs"),
        is_certified=is_certified if isinstance(is_certified, bool) else None,
        state=_text(raw, "state"),
        reasons=_reasons(raw),
    )


def _peer(raw: Mapping[str, Json]) -> PeerPicture:
    reputation = _mapping(raw.get("reputation"))
    return PeerPicture(
        peer_id=_text(raw, "peer_id"),
        name=_text(raw, "name"),
        state=_text(raw, "state"),
        lends=_text(raw, "lends"),
        path=_text(raw, "path"),
        rtt_ms=_number(raw, "rtt_ms"),
        addresses=_texts(raw, "addresses"),
        devices=tuple(_peer_device(device) for device in _list(raw.get("devices"))[:TEXTS_MAX]),
        integrity=_number(reputation, "integrity"),
        reliability=_number(reputation, "reliability"),
        evidence=_count(reputation, "evidence"),
        why_not=_text(raw, "why_not", REASON_CHARS_MAX),
        queue=_count(raw, "queue"),
        last_seen_s=_number(raw, "last_seen_s"),
        agent=_text(raw, "agent"),
        sandbox=_text(raw, "sandbox"),
    )


def _peer_device(raw: Json) -> DevicePicture:
    """Peers list their devices by name, or as objects with a name and some figures."""
    if isinstance(raw, str):
        return _peer_device_of(clean(raw), "", "", None, None)
    fields = _mapping(raw)
    return _peer_device_of(
        _text(fields, "name"),
        _text(fields, "kind"),
        _text(fields, "provider"),
        _positive(fields, "vram_bytes"),
        _positive(fields, "gemm_gflops"),
    )


@lru_cache(maxsize=CLEANED_MAX)
def _peer_device_of(
    name: str, kind: str, provider: str, memory_bytes: float | None, gflops: float | None
) -> DevicePicture:
    """One picture for all devices that are alike: a swarm has many of few kinds."""
    return DevicePicture(name=name, kind=kind, provider=provider, memory_bytes=memory_bytes, gemm_gflops=gflops)


def _job(raw: Mapping[str, Json]) -> JobPicture:
    return JobPicture(
        job_id=_text(raw, "job_id"),
        state=_text(raw, "state"),
        submitter=_text(raw, "submitter"),
        coordinator=_text(raw, "coordinator"),
        term=_count(raw, "term"),
        committee=_texts(raw, "committee"),
        handovers=tuple(
            Handover(
                _count(each, "term"),
                _text(each, "coordinator"),
                _number(each, "at"),
                _text(each, "why", REASON_CHARS_MAX),
            )
            for each in map(_mapping, _list(raw.get("handovers"))[-TEXTS_MAX:])
        ),
        model=_text(raw, "model", PATH_CHARS_MAX),
        items=_count(raw, "items"),
        tasks=_count(raw, "tasks"),
        open=_count(raw, "open"),
        assigned=_count(raw, "assigned"),
        accepted=_count(raw, "accepted"),
        final=_count(raw, "final"),
        failed=max(_count(raw, "failed_tasks"), len(_list(raw.get("failed")))),
        failures=tuple(
            Failure(
                _count(each, "task"),
                _count(each, "first_item"),
                _count(each, "items"),
                _text(each, "reason", REASON_CHARS_MAX),
            )
            for each in map(_mapping, _list(raw.get("failed"))[:TEXTS_MAX])
        ),
        retried=_count(raw, "retried"),
        hedged=_count(raw, "hedged"),
        audited=_count(raw, "audited"),
        audits_failed=_count(raw, "audits_failed"),
        peers=tuple(
            (_text(each, "peer_id"), _count(each, "tasks"))
            for each in map(_mapping, _list(raw.get("peers"))[:TEXTS_MAX])
        ),
        elapsed_s=_number(raw, "elapsed_s"),
        items_per_second=_number(raw, "items_per_second"),
        verify=_text(raw, "verify"),
        priority=_text(raw, "priority"),
        strategy=_text(raw, "strategy"),
        reason=_text(raw, "reason", REASON_CHARS_MAX),
        blocked=_text(raw, "blocked", REASON_CHARS_MAX),
        warnings=_texts(raw, "warnings", REASON_CHARS_MAX),
    )


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


def _texts(raw: Mapping[str, Json], key: str, chars_max: int = NAME_CHARS_MAX) -> tuple[str, ...]:
    found = (clean(value, chars_max) for value in _list(raw.get(key))[:TEXTS_MAX] if isinstance(value, str))
    return tuple(text for text in found if text)


def _number(raw: Mapping[str, Json], key: str) -> float | None:
    value = raw.get(key)
    if type(value) is int and -WHOLE_MAX <= value <= WHOLE_MAX:
        return float(value)
    return value if type(value) is float and math.isfinite(value) else None


def _positive(raw: Mapping[str, Json], key: str) -> float | None:
    """Zero stands for unknown where a device reports its figures."""
    value = _number(raw, key)
    return value if value is not None and value > 0 else None


def _count(raw: Mapping[str, Json], key: str) -> int:
    value = _number(raw, key)
    return max(0, int(value)) if value is not None else 0
