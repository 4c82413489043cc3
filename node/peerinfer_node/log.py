"""Structured log lines: an event, and fields. Written to a sink that the command line chooses; never to a global."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

LEVELS = ("debug", "info", "warning", "error")
Sink = Callable[[str], None]


class Log:
    """Formats lines as text or JSON and hands them to `sink`. Without a sink it is silent."""

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

    def debug(self, event: str, **fields: Any) -> None:
        self._write("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._write("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        if self._sink is None or LEVELS.index(level) < self._lowest:
            return
        time_s = {} if self._wall_s is None else {"time": round(self._wall_s(), 3)}
        if self._as_json:
            self._sink(json.dumps({**time_s, "level": level, "event": event, **fields}, default=str))
        else:
            details = "".join(f" {name}={_plain(value)}" for name, value in fields.items())
            self._sink(f"{level}: {event}{details}")


def _plain(value: Any) -> str:
    text = str(value)
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return repr(printable) if " " in printable else printable
