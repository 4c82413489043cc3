"""What happened, as rows of a table: the last on top."""

from __future__ import annotations

from collections.abc import Iterable

from peerinfer_tui.events import Happening
from peerinfer_tui.figures import clock_time
from peerinfer_tui.line import Tone
from peerinfer_tui.table import Column, Sheet

_KIND_TONES: dict[str, Tone] = {
    "election": "accent",
    "job": "plain",
    "peer": "dim",
    "device": "warn",
    "node": "good",
    "log": "dim",
}

_COLUMNS: list[Column[Happening]] = [
    Column("time", 8, 0, lambda each, _: ((clock_time(each.at_s), "dim"),), lambda each: each.at_s),
    Column("about", 8, 2, lambda each, _: ((each.kind, _KIND_TONES[each.kind]),), lambda each: each.kind),
    Column("what happened", 30, 1, lambda each, _: each.line, lambda each: each.text, grows=1),
]


def event_sheet(happenings: Iterable[tuple[int, Happening]]) -> Sheet[Happening]:
    """`happenings` with their numbers, the oldest first."""
    return Sheet(
        "elections and events",
        _COLUMNS,
        [(str(number), each) for number, each in reversed(list(happenings))],
        lambda each: f"{each.kind} {each.text}",
        hint=" since this window was opened",
    )
