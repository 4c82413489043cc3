"""Structured log lines: an event, and fields. Written to a sink that the command line chooses; never to a global."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any

LEVELS = ("debug", "info", "warning", "error")
Sink = Callable[[str], None]

RECENT_MAX = 200
"""Lines that are kept for whoever looks at the node from outside."""

_SHOWN_FROM = LEVELS.index("info")


class Log:
    """Formats lines as text or JSON and hands them to `sink`. Without a sink it is silent.

    `recent` holds the last lines of at least level info, as objects with a `number` that counts up.
    """

    def __init__(
        self,
        sink: Sink | None = None,
        *,
        level: str = "info",
        as_json: bool = False,
        wall_s: Callable[[], float] | None = None,
    ) -> None:
        self._sink = sink
        self._lowest = LEVELS.index(level)
        self._as_json = as_json
        self._wall_s = wall_s
        self.recent: deque[dict[str, Any]] = deque(maxlen=RECENT_MAX)
        self._lines = 0

    def debug(self, event: str, **fields: Any) -> None:
        self._write("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._write("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        severity = LEVELS.index(level)
        time_s = {} if self._wall_s is None else {"time": round(self._wall_s(), 3)}
        if severity >= _SHOWN_FROM:
            self._lines += 1
            plain = {name: _for_json(value) for name, value in fields.items()}
            self.recent.append({"number": self._lines, **time_s, "level": level, "event": event, **plain})
        if self._sink is None or severity < self._lowest:
            return
        if self._as_json:
            self._sink(json.dumps({**time_s, "level": level, "event": event, **fields}, default=str))
        else:
            details = "".join(f" {name}={_plain(value)}" for name, value in fields.items())
            self._sink(f"{level}: {event}{details}")


def _for_json(value: Any) -> Any:
    return value if value is None or type(value) in (bool, int, str) else str(value)


def _plain(value: Any) -> str:
    text = str(value)
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return repr(printable) if " " in printable else printable
