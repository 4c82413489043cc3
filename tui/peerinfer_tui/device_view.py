"""This node's devices, with gauges and the reasons why they rest."""

from __future__ import annotations

from collections.abc import Sequence

from peerinfer_tui.figures import UNKNOWN, bar, duration, per_second, quantity, size
from peerinfer_tui.line import Line, Span, Tone, fact, state_span, wrapped
from peerinfer_tui.pictures import DevicePicture, NodePicture, Reason, Snapshot
from peerinfer_tui.words import provider_name

TEMPERATURE_FULL_C = 100.0
"""End of the gauge where the owner set no limit. Graphics cards throttle themselves between 80 and 110 °C."""

POWER_FULL_W = 300.0
"""End of the gauge where the owner set no limit."""

NEAR_RATIO = 0.9
"""From this share of a limit on, a gauge warns."""

_NAME_CELLS = 12


def device_page(snapshot: Snapshot, cells: int, now_s: float) -> list[Line]:
    """All devices, one below the other, in `cells` cells. `now_s` is the wall clock."""
    lines: list[Line] = []
    for device in snapshot.devices:
        if lines:
            lines.append(())
        lines += _device(device, snapshot.node.reasons, cells, now_s)
    return lines or [(("this node lends no device", "dim"),)]


def node_page(node: NodePicture, cells: int, now_s: float) -> list[Line]:
    """What the node says of itself."""
    lines: list[Line] = [fact("state", state_span(node.state), (_pressable(node.state), "dim"))]
    for reason in node.reasons:
        lines += wrapped("because", reason_words(reason, now_s), cells, "warn")
    lines += [
        fact("name", (node.name or "unnamed", "plain"), (f"  swarm {node.swarm}" if node.swarm else "", "plain")),
        fact("peer id", (node.peer_id or UNKNOWN, "plain")),
        fact("reachable", (node.reachability or UNKNOWN, "plain")),
    ]
    for index, address in enumerate(node.addresses):
        lines += wrapped("addresses" if index == 0 else "", address, cells, "dim")
    lines.append(fact("sandbox", (node.sandbox or UNKNOWN, "warn" if node.sandbox == "none" else "plain")))
    lines.append(fact("control API", (node.api or "the Unix socket alone", "plain")))
    lines.append(fact("software", (f"peerinfer {node.version or UNKNOWN}, process {node.pid}", "plain")))
    return lines


def reason_words(reason: Reason, now_s: float) -> str:
    """A reason with its end, where anybody can know it."""
    if reason.until_s is None or reason.until_s <= now_s:
        return reason.reason
    return f"{reason.reason}, for {duration(reason.until_s - now_s)} more"


def _pressable(state: str) -> str:
    if state in ("paused", "finishing"):
        return "   r takes work again"
    return "   p pauses, f finishes what runs and takes no more"


def _device(device: DevicePicture, shared: Sequence[Reason], cells: int, now_s: float) -> list[Line]:
    figures = [provider_name(device.provider)]
    if device.gemm_gflops:
        figures.append(f"{per_second(device.gemm_gflops)} GFLOP/s")
    if device.bandwidth_gbs:
        figures.append(f"{per_second(device.bandwidth_gbs)} GB/s")
    if device.is_certified is False:
        figures.append("not certified")
    lines: list[Line] = [
        (
            (device.name or UNKNOWN, "bold"),
            ("  ", "plain"),
            state_span(device.state),
            (f"  {', '.join(figures)}", "dim"),
        )
    ]
    room = max(8, min(40, cells - _NAME_CELLS - 28))
    memory = _of(size(device.memory_used_bytes), size(device.memory_bytes))
    heat = _ratio(device.temperature_c, device.max_temp_c or TEMPERATURE_FULL_C)
    heat_limit = quantity(device.max_temp_c, "°C") if device.max_temp_c else ""
    heat_text = _of(quantity(device.temperature_c, "°C"), heat_limit, "limit ")
    is_hot = device.max_temp_c is not None or (heat or 0) >= NEAR_RATIO
    draw = _ratio(device.power_w, device.max_power_w or POWER_FULL_W)
    draw_limit = quantity(device.max_power_w, "W") if device.max_power_w else ""
    draw_text = _of(quantity(device.power_w, "W"), draw_limit, "limit ")
    silent: list[str] = []
    for name, ratio, text, limit, warns in (
        ("utilisation", device.busy_ratio, _share(device.busy_ratio), "", False),
        ("memory", _ratio(device.memory_used_bytes, device.memory_bytes), memory, "", False),
        ("temperature", heat, heat_text, heat_limit, is_hot),
        ("power", draw, draw_text, draw_limit, device.max_power_w is not None),
    ):
        if ratio is None and not limit:
            silent.append(name)
        else:
            lines.append(_gauge(name, ratio, text, room, warns=warns))
    if silent:
        lines.append(((f"  {'no sensor':<{_NAME_CELLS}} ", "dim"), (f"for {', '.join(silent)}", "dim")))
    ends = {reason.reason: reason for reason in shared if reason.until_s is not None}
    for reason in device.reasons:
        told = reason_words(ends.get(reason.reason, reason), now_s)
        lines += wrapped("  rests", told, cells, "warn", width=_NAME_CELLS + 2)
    return lines


def _gauge(name: str, ratio: float | None, text: str, room: int, *, warns: bool = False) -> Line:
    head: Span = (f"  {name:<{_NAME_CELLS}} ", "dim")
    if ratio is None:
        return (head, ("░" * room, "dim"), (f"  {text}", "dim"))
    tone: Tone = "warn" if warns and ratio >= NEAR_RATIO else "accent"
    filled, empty = bar(ratio, room)
    return (head, (filled, tone), (empty, "dim"), (f"  {text}", "plain"))


def _share(ratio: float | None) -> str:
    return UNKNOWN if ratio is None else f"{min(1.0, max(0.0, ratio)) * 100:.0f} %"


def _of(value: str, whole: str, word: str = "of ") -> str:
    if value == UNKNOWN:
        return f"not known{f', {word}{whole}' if word == 'limit ' and whole else ''}"
    return value if whole in ("", UNKNOWN) else f"{value}{', ' if word == 'limit ' else ' '}{word}{whole}"


def _ratio(value: float | None, whole: float | None) -> float | None:
    return None if value is None or not whole else value / whole
