"""Lines of text as they are shown. Nothing here knows Textual, the terminal or the time of day.

A *line* is spans of text, each with a *tone*: what it means, not how it looks (`paint.py` chooses the colours).
"""

from __future__ import annotations

import textwrap
from typing import Literal

from rich.cells import cell_len, set_cell_size

from peerinfer_tui.figures import UNKNOWN, bar, percent

Tone = Literal["plain", "dim", "bold", "good", "warn", "bad", "accent"]
Span = tuple[str, Tone]
Line = tuple[Span, ...]

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
    "resting": "warn",
    "finishing": "warn",
    "suspect": "warn",
    "failed": "bad",
    "dead": "bad",
}


def state_span(state: str) -> Span:
    """A state in words with a mark, so that colour is never the only sign."""
    tone = _STATE_TONES.get(state, "plain")
    mark = {"good": "●", "warn": "▲", "bad": "✕", "accent": "✓"}.get(tone, "○")
    return (f"{mark} {state or UNKNOWN}", tone)


def words(line: Line) -> str:
    return "".join(text for text, _ in line)


def fact(name: str, *value: Span, width: int = 13) -> Line:
    """A line of a page about one thing: what it is, and what it is like."""
    return ((f"{name:<{width}} ", "dim"), *value)


def wrapped(name: str, text: str, cells: int, tone: Tone = "plain", *, width: int = 13) -> list[Line]:
    """A fact whose value may take several lines of `cells` cells."""
    parts = textwrap.wrap(text, max(8, cells - width - 1)) or [UNKNOWN]
    return [fact(name if index == 0 else "", (part, tone), width=width) for index, part in enumerate(parts)]


def folded(line: Line, cells: int) -> list[Line]:
    """A mark and what it is about, the words over as many lines of `cells` cells as they take."""
    (mark, tone), *rest = line
    width = len(mark)
    parts = textwrap.wrap(words(tuple(rest)), max(8, cells - width)) or [""]
    return [((mark if index == 0 else " " * width, tone), (part, rest[0][1])) for index, part in enumerate(parts)]


def gauge(ratio: float | None, width: int, tone: Tone = "accent") -> Line:
    """A bar and what it stands for, `width` cells together."""
    if ratio is None:
        return ((UNKNOWN, "dim"),)
    filled, empty = bar(ratio, max(1, width - 6))
    return ((filled, tone), (empty, "dim"), (f" {percent(ratio):>5}", "plain"))


def fitted(line: Line, width: int, *, right: bool = False) -> Line:
    """`line` in exactly `width` cells: cut with an ellipsis, or filled with spaces."""
    taken = sum(cell_len(text) for text, _ in line)
    if taken <= width:
        space: Span = (" " * (width - taken), "plain")
        return (space, *line) if right else (*line, space)
    kept: list[Span] = []
    free = width - 1
    for text, tone in line:
        cells = cell_len(text)
        kept.append((text if cells <= free else set_cell_size(text, free), tone))
        free -= min(cells, free)
        if free <= 0:
            break
    return (*kept, ("…", kept[-1][1])) if width > 0 else ()
