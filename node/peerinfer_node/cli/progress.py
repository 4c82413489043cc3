"""One line that tells how a job goes: pure functions from the job's picture to text, and the line on a terminal."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, TextIO

from peerinfer.units import format_count, format_duration
from peerinfer_node.cli.outcome import rate_text
from peerinfer_node.cli.output import printable, say

RATE_WINDOW_S = 15.0
"""The speed shown is that of the last seconds; longer is calmer, shorter notices a lost peer sooner."""

SAMPLES_MAX = 256
PLAIN_INTERVAL_S = 5.0
"""Between lines where there is no terminal."""

REDRAW_INTERVAL_S = 0.1
BAR_CHARS = 20
BAR_CHARS_MIN = 6


@dataclass(frozen=True, slots=True)
class Progress:
    """A job on its way. `eta_s` is None as long as nobody knows."""

    state: str
    items_done: int
    items: int
    items_per_s: float
    peers: int
    eta_s: float | None
    failed: int = 0
    waiting: str = ""


def items_done(job: dict[str, Any]) -> int:
    """Items whose tasks are accepted, from the job's counts of tasks (the last task may be shorter)."""
    items, tasks, accepted = (_count(job.get(name)) for name in ("items", "tasks", "accepted"))
    if tasks == 0:
        return 0
    return items if accepted >= tasks else min(items, accepted * -(-items // tasks))


class Speed:
    """Items per second over the last `RATE_WINDOW_S`."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=SAMPLES_MAX)

    def seen(self, now_s: float, done: int) -> float:
        self._samples.append((now_s, done))
        while len(self._samples) > 2 and self._samples[0][0] < now_s - RATE_WINDOW_S:
            self._samples.popleft()
        first_s, first = self._samples[0]
        return (done - first) / (now_s - first_s) if now_s > first_s and done > first else 0.0


def progress_of(job: dict[str, Any], speed: Speed, now_s: float) -> Progress:
    done, items = items_done(job), _count(job.get("items"))
    rate = speed.seen(now_s, done)
    return Progress(
        state=str(job.get("state") or "queued"),
        items_done=done,
        items=items,
        items_per_s=rate,
        peers=_length(job.get("peers")),
        eta_s=(items - done) / rate if rate > 0 else None,
        failed=_count(job.get("failed_tasks")),
        waiting=str(job.get("blocked") or ""),
    )


def render_line(progress: Progress, *, width: int, colour: bool = False, plain: bool = False) -> str:
    """The line, at most `width` - 1 characters wide, so that no terminal wraps it. What matters least goes first."""
    counts = f"{format_count(progress.items_done)}/{format_count(progress.items)} items"
    ratio = progress.items_done / progress.items if progress.items else 0.0
    percent = f"{int(ratio * 100)}%"
    extras = [rate_text(progress.items_per_s)] if progress.items_per_s else []
    if progress.failed:
        extras.append(f"{format_count(progress.failed, 'task')} failed")
    if progress.peers:
        extras.append(format_count(progress.peers, "peer"))
    if progress.eta_s is not None and progress.items_done < progress.items:
        extras.append(f"{format_duration(progress.eta_s)} left")
    if not progress.items_per_s and progress.items_done < progress.items:
        extras.append(printable(progress.waiting) or progress.state)
    room = max(width - 1, 1)
    while extras and len(_joined(percent, counts, extras)) > room:
        extras.pop()
    text = _joined(percent, counts, extras)[:room]
    bar_chars = min(BAR_CHARS, room - len(text) - 3)
    if plain or bar_chars < BAR_CHARS_MIN:
        return text
    filled = int(ratio * bar_chars)
    full, empty = "█" * filled, "·" * (bar_chars - filled)
    bar = f"\x1b[32m{full}\x1b[0m{empty}" if colour else full + empty
    return f"[{bar}] {text}"


def _joined(percent: str, counts: str, extras: list[str]) -> str:
    return "  ".join([percent, counts, *extras])


def _count(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list) else _count(value)


class LiveLine:
    """One line on stderr that is written over: on a terminal in place, elsewhere as a line every few seconds."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._is_terminal = self._stream is not None and self._stream.isatty() and os.environ.get("TERM") != "dumb"
        encoding = getattr(self._stream, "encoding", None) or "ascii"
        self._is_plain = not self._is_terminal or not encoding.lower().replace("-", "").startswith("utf8")
        self._has_colour = self._is_terminal and not os.environ.get("NO_COLOR")
        self._shown = ""
        self._shown_s = float("-inf")

    def show(self, progress: Progress) -> None:
        width = shutil.get_terminal_size().columns if self._is_terminal else 10_000
        self.show_text(render_line(progress, width=width, colour=self._has_colour, plain=self._is_plain))

    def show_text(self, line: str) -> None:
        """A line of at most the terminal's width."""
        now_s = time.monotonic()
        interval_s = REDRAW_INTERVAL_S if self._is_terminal else PLAIN_INTERVAL_S
        if line == self._shown or now_s - self._shown_s < interval_s:
            return
        self._shown, self._shown_s = line, now_s
        if not self._is_terminal:
            say(line)
            return
        # Written at once and cleared behind its end, so that nothing flickers.
        self._write(f"\r{line}\x1b[K")

    def note(self, line: str) -> None:
        """A line of its own, above the live one."""
        self.clear()
        say(line)

    def clear(self) -> None:
        if self._is_terminal and self._shown:
            self._write("\r\x1b[K")
        self._shown = ""

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._is_terminal = False
