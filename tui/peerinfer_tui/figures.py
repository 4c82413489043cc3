"""Numbers as people read them. Each takes None for what is unknown."""

from __future__ import annotations

import time

UNKNOWN = "–"

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def duration(seconds: float | None) -> str:
    """At most two units: 0.4 s, 12 s, 3 m 05 s, 2 h 14 m, 3 d 4 h."""
    if seconds is None or seconds < 0:
        return UNKNOWN
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} m"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(bytes_: float | None) -> str:
    """Three figures at most, in binary units: 512 B, 1.5 GiB, 128 GiB."""
    if bytes_ is None or bytes_ < 0:
        return UNKNOWN
    value = float(bytes_)
    for unit in _SIZES[:-1]:
        if value < 1000:
            return _short(value, unit)
        value /= 1024
    return _short(value, _SIZES[-1])


def per_second(rate: float | None) -> str:
    """Three figures and a decimal prefix: 0.52, 12.3, 480, 13.1 k, 1.20 M."""
    if rate is None or rate < 0:
        return UNKNOWN
    for prefix in ("", " k", " M", " G"):
        if rate < 999.5 or prefix == " G":
            digits = 2 if rate < 9.995 else 1 if rate < 99.95 else 0
            return f"{rate:.{digits}f}{prefix}"
        rate /= 1000
    raise AssertionError("the last prefix takes every rate")


def milliseconds(value: float | None) -> str:
    if value is None or value < 0:
        return UNKNOWN
    if value >= 9999.5:
        return duration(value / 1000)
    return f"{value:.1f} ms" if value < 9.95 else f"{value:.0f} ms"


def quantity(value: float | None, unit: str = "") -> str:
    return UNKNOWN if value is None else f"{value:,.0f} {unit}".rstrip()


def percent(ratio: float | None) -> str:
    """Rounded down, so that 100 % means all."""
    return UNKNOWN if ratio is None else f"{int(_within(ratio) * 100)} %"


def bar(ratio: float, width: int) -> tuple[str, str]:
    """The filled and the empty part of a bar, `width` cells together. Full only when the ratio is."""
    eighths = int(_within(ratio) * width * 8)
    full, rest = divmod(eighths, 8)
    filled = "█" * full + (_EIGHTHS[rest] if rest else "")
    return filled, "░" * (width - len(filled))


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def clock_time(wall_s: float) -> str:
    """Local time of day, as a person reads it on a clock."""
    try:
        return time.strftime("%H:%M:%S", time.localtime(wall_s))
    except (OverflowError, ValueError, OSError):
        return "--:--:--"


def _short(value: float, unit: str) -> str:
    return f"{value:.1f} {unit}" if value < 9.95 and unit != "B" else f"{value:.0f} {unit}"


def _within(ratio: float) -> float:
    return min(1.0, max(0.0, ratio))
