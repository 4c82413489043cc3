"""Sizes, durations, rates and hours of the day, as people write and read them.

Sizes: `GB` is a thousand million bytes, `GiB` and plain `G` are 2^30, as in systemd and Docker. Rates are per second,
in bytes (`10MB/s`) or, as providers advertise lines, in bits (`50Mbit/s`). What `format_…` writes, `parse_…` reads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from peerinfer.errors import UsageError

AMOUNT_MAX = 2**63 - 1
"""Sizes, rates and milliseconds fit a signed 64-bit number, which is what SQLite and msgpack carry."""

MINUTES_PER_DAY = 24 * 60
MINUTES_PER_WEEK = 7 * MINUTES_PER_DAY
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_TEXT_CHARS_MAX = 64
_NUMBER = r"([0-9]{1,20}(?:\.[0-9]{1,9})?)"
_SIZE = re.compile(_NUMBER + r"\s*([kmgtp]?)(i?)(b?)", re.IGNORECASE)
_RATE = re.compile(_NUMBER + r"\s*([kmgt]?)(i?)(b?|bits?|bps)(?:/s)?", re.IGNORECASE)
_DURATION = re.compile(rf"(?:{_NUMBER}\s*(ms|s|min|m|h|d)\s*)+", re.IGNORECASE)
_DURATION_PART = re.compile(_NUMBER + r"\s*(ms|s|min|m|h|d)", re.IGNORECASE)
_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{2})")
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(text: str) -> int:
    """Bytes. `8GiB`, `500MB`, `1.5G`, `4096`. Raises `UsageError`."""
    found = _match(_SIZE, text)
    if found is None or (found[3] and not found[2]):
        raise UsageError(f"not a size: {_shown(text)}; write a number with its unit, like 8GiB or 500MB")
    base = 1000 if found[4] and not found[3] else 1024
    return _bounded(float(found[1]) * base ** _POWERS[found[2].lower()], text)


def parse_rate(text: str) -> int:
    """Bytes per second. `10MB/s`, `512KiB/s`, `50Mbit/s`; `/s` may be left out. Raises `UsageError`."""
    found = _match(_RATE, text)
    if found is None or (found[3] and not found[2]):
        raise UsageError(f"not a rate: {_shown(text)}; write a number with its unit, like 10MB/s or 50Mbit/s")
    is_bits = found[4].lower().startswith("bit") or found[4].lower() == "bps"
    base = 1000 if found[4] and not found[3] else 1024
    return _bounded(float(found[1]) * base ** _POWERS[found[2].lower()] / (8 if is_bits else 1), text)


def parse_duration(text: str) -> float:
    """Seconds. `90s`, `2h30m`, `1d`, `250ms`; a number alone is seconds. Raises `UsageError`."""
    stripped = text.strip()
    if _match(re.compile(_NUMBER), stripped) is not None:
        return _bounded_s(float(stripped), text)
    if _match(_DURATION, stripped) is None:
        raise UsageError(f"not a duration: {_shown(text)}; write it like 90s, 2h30m or 1d")
    parts = [(float(number), unit.lower()) for number, unit in _DURATION_PART.findall(stripped)]
    sizes = [_SECONDS[unit] for _, unit in parts]
    if sizes != sorted(set(sizes), reverse=True):
        raise UsageError(f"not a duration: {_shown(text)}; write each unit once, the largest first, like 2h30m")
    return _bounded_s(sum(number * _SECONDS[unit] for number, unit in parts), text)


def parse_clock(text: str) -> int:
    """A time of day as minutes since midnight. `18:00`. Raises `UsageError`."""
    found = _match(_CLOCK, text)
    if found is None or int(found[1]) > 23 or int(found[2]) > 59:
        raise UsageError(f"not a time of day: {_shown(text)}; write it like 18:00")
    return int(found[1]) * 60 + int(found[2])


@dataclass(frozen=True, slots=True)
class DailyWindow:
    """Some hours of every day, in minutes since midnight, local time; over midnight where the end is before the start."""

    start_min: int
    end_min: int
    """Exclusive."""

    def __str__(self) -> str:
        return f"{format_clock(self.start_min)}-{format_clock(self.end_min)}"

    def holds(self, minute: int) -> bool:
        """True if this minute of the day lies in the window."""
        if self.start_min < self.end_min:
            return self.start_min <= minute < self.end_min
        return minute >= self.start_min or minute < self.end_min

    def overlaps(self, other: DailyWindow) -> bool:
        return self.holds(other.start_min) or other.holds(self.start_min)


@dataclass(frozen=True, slots=True)
class WeeklyWindow:
    """Some hours on some days of the week, local time. Hours over midnight belong to the day on which they start."""

    window: DailyWindow
    first_day: int = 0
    """0 is Monday."""
    last_day: int = 6
    """May be before the first: `sat-mon`."""

    def __str__(self) -> str:
        if (self.last_day - self.first_day) % 7 == 6:
            return str(self.window)
        days = (
            DAYS[self.first_day] if self.first_day == self.last_day else f"{DAYS[self.first_day]}-{DAYS[self.last_day]}"
        )
        return f"{days} {self.window}"

    def holds(self, minute: int) -> bool:
        """`minute` of the week, from Monday 0:00."""
        day, of_day = divmod(minute, MINUTES_PER_DAY)
        if not self.window.holds(of_day):
            return False
        started_yesterday = self.window.end_min < self.window.start_min and of_day < self.window.end_min
        return self._has_day((day - started_yesterday) % 7)

    def overlaps(self, other: WeeklyWindow) -> bool:
        return any(other.holds(start) for start in self._starts()) or any(
            self.holds(start) for start in other._starts()
        )

    def _has_day(self, day: int) -> bool:
        return (day - self.first_day) % 7 <= (self.last_day - self.first_day) % 7

    def _starts(self) -> list[int]:
        return [day * MINUTES_PER_DAY + self.window.start_min for day in range(7) if self._has_day(day)]


def parse_weekly(text: str) -> WeeklyWindow:
    """`22:00-08:00`, `mon-fri 22:00-08:00`, `sat 10:00-20:00`. Raises `UsageError`."""
    days, space, hours = text.strip().rpartition(" ")
    if not space:
        return WeeklyWindow(parse_window(text))
    first, dash, last = days.strip().lower().partition("-")
    if first not in DAYS or (dash and last not in DAYS):
        raise UsageError(f"not a schedule: {_shown(text)}; write days and hours like mon-fri 22:00-08:00")
    return WeeklyWindow(parse_window(hours), DAYS.index(first), DAYS.index(last if dash else first))


def parse_window(text: str) -> DailyWindow:
    """`22:00-08:00`. Raises `UsageError`; also for a window that starts when it ends."""
    start, dash, end = text.strip().partition("-")
    if not dash:
        raise UsageError(f"not a schedule: {_shown(text)}; write the hours to lend in, like 22:00-08:00")
    window = DailyWindow(parse_clock(start), parse_clock(end))
    if window.start_min == window.end_min:
        raise UsageError(f"not a schedule: {_shown(text)} starts when it ends; leave it out to lend all day")
    return window


def format_clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def format_size(size_bytes: float) -> str:
    """`8 GiB`, `1.5 GiB`, `512 B`: three digits, powers of 1024."""
    return _scaled(size_bytes, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))


def format_rate(bytes_s: float) -> str:
    """`10 MB/s`, `1.25 MB/s`: three digits, powers of 1000, as network speeds are told."""
    return _scaled(bytes_s, 1000, ("B", "kB", "MB", "GB", "TB")) + "/s"


def format_duration(duration_s: float) -> str:
    """`250ms`, `1.5s`, `45s`, `2m30s`, `2h30m`, `1d4h`: the two units that matter."""
    if duration_s < 0.9995:
        return f"{max(0.0, duration_s) * 1000:.3g}ms" if duration_s > 0 else "0s"
    if duration_s < 9.95:
        return f"{duration_s:.1f}".removesuffix(".0") + "s"
    for limit_s, large, large_s, small, small_s in (
        (59.5, "s", 1, "", 1),
        (3599.5, "m", 60, "s", 1),
        (86370.0, "h", 3600, "m", 60),
    ):
        if duration_s < limit_s:
            return _two_units(duration_s, large, large_s, small, small_s)
    return _two_units(duration_s, "d", 86400, "h", 3600)


def _two_units(duration_s: float, large: str, large_s: int, small: str, small_s: int) -> str:
    whole, rest = divmod(round(duration_s / small_s) * small_s, large_s)
    return f"{whole}{large}" + (f"{rest // small_s}{small}" if rest else "")


def format_count(count: int, noun: str = "") -> str:
    """`12,345`; with a noun, `1 task` or `12,345 tasks`."""
    if not noun:
        return f"{count:,}"
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def format_group(count: int, what: str) -> str:
    """So many peers of which something is said in the singular: `1 peer: has no GPU`, `2 peers: have no GPU`."""
    verb, space, rest = what.partition(" ")
    if count != 1:
        what = f"{_OF_MANY.get(verb, verb)}{space}{rest}"
    return f"{format_count(count, 'peer')}: {what}"


_OF_MANY = {"has": "have", "is": "are", "lends": "lend", "takes": "take", "gets": "get", "computes": "compute"}


def _scaled(amount: float, base: int, units: tuple[str, ...]) -> str:
    power = 0
    # 999.5 would round to four digits, so it already belongs to the next unit; powers of 1024 may show 1023.
    while amount >= base - 0.5 and power < len(units) - 1:
        amount /= base
        power += 1
    if power == 0 or amount >= 100:
        return f"{amount:.0f} {units[power]}"
    text = f"{amount:.2f}" if amount < 9.995 else f"{amount:.1f}"
    return f"{text.rstrip('0').rstrip('.')} {units[power]}"


def _match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    stripped = text.strip()
    return pattern.fullmatch(stripped) if len(stripped) <= _TEXT_CHARS_MAX else None


def _bounded(amount: float, text: str) -> int:
    if amount > AMOUNT_MAX:
        raise UsageError(f"too large: {_shown(text)}")
    return round(amount)


def _bounded_s(amount_s: float, text: str) -> float:
    if amount_s * 1000 > AMOUNT_MAX:
        raise UsageError(f"too long: {_shown(text)}")
    return amount_s


def _shown(text: str) -> str:
    return repr(text if len(text) <= _TEXT_CHARS_MAX else text[:_TEXT_CHARS_MAX] + "…")
