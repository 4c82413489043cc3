"""The frames that wait at a volunteer, and which of them comes next.

Submitters share the devices by weighted deficit round robin, whoever coordinates their jobs; among those in credit the
highest priority goes first (`fairness`). What a frame takes is known when it has run: until then it is charged with what
a frame should take. An owner who wants it is served first.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from peerinfer.fairness import FairQueue, Priority
from peerinfer.ids import JobId, PeerId
from peerinfer.limits import FRAME_SECONDS_TARGET

FrameKey = tuple[PeerId, int]
"""A frame's number is its coordinator's own, so it counts with the coordinator only."""


@dataclass(slots=True)
class _Line:
    """Frames of one job from one coordinator, in the order in which they came."""

    submitter: str
    frames: deque[FrameKey] = field(default_factory=deque)
    running: int = 0
    """Frames of it that were started and have not ended: while there are any, its submitter has work and keeps credit."""


@dataclass(frozen=True, slots=True)
class _Started:
    name: str
    at_s: float


class WaitingFrames:
    """`first`: the submitter that is served before all others, or ""."""

    def __init__(self, first: str = "") -> None:
        self._first = first
        self._fair = FairQueue()
        self._lines: dict[str, _Line] = {}
        self._ready: dict[str, None] = {}
        """Lines in which frames wait."""
        self._names: dict[FrameKey, str] = {}
        self._counts: dict[PeerId, int] = {}
        self._started: dict[FrameKey, _Started] = {}

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, key: object) -> bool:
        return key in self._names

    def of(self, peer: PeerId) -> int:
        """How many of this coordinator's wait."""
        return self._counts.get(peer, 0)

    def held(self, peer: PeerId | None = None) -> list[FrameKey]:
        """All, or those of one coordinator, the oldest first."""
        return [key for key in self._names if peer is None or key[0] == peer]

    def add(
        self, key: FrameKey, job: JobId, submitter: str, now_s: float, *, priority: Priority, deadline_s: float | None
    ) -> None:
        name = f"{key[0]} {job}"
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = _Line(submitter)
            self._fair.add(name, submitter, now_s, priority=priority, deadline_s=deadline_s)
        else:
            self._fair.prioritise(name, priority)  # a coordinator introduces a job anew when it has changed
        line.frames.append(key)
        self._ready[name] = None
        self._names[key] = name
        self._counts[key[0]] = self._counts.get(key[0], 0) + 1

    def remove(self, key: FrameKey) -> bool:
        """It was cancelled or is refused; False if it does not wait."""
        name = self._names.pop(key, None)
        if name is None:
            return False
        self._counts[key[0]] -= 1
        if not self._counts[key[0]]:
            del self._counts[key[0]]
        line = self._lines[name]
        line.frames.remove(key)
        if not line.frames:
            del self._ready[name]
            self._close(name)
        return True

    def _close(self, name: str) -> None:
        line = self._lines[name]
        if not line.frames and not line.running:
            del self._lines[name]
            self._fair.remove(name)

    def start_next(self, now_s: float) -> FrameKey | None:
        """Takes the frame that comes next; None if none waits."""
        own = [name for name in self._ready if self._lines[name].submitter == self._first] if self._first else []
        name = self._fair.next(own or self._ready, now_s)
        if name is None:
            return None
        line = self._lines[name]
        key = line.frames[0]
        self._fair.charge(name, FRAME_SECONDS_TARGET, now_s)
        self._started[key] = _Started(name, now_s)
        line.running += 1
        self.remove(key)
        return key

    def ended(self, key: FrameKey, now_s: float) -> None:
        """It needs no device any more: what it took is its submitter's."""
        started = self._started.pop(key, None)
        if started is not None:
            line = self._lines[started.name]
            line.running -= 1
            self._fair.settle(line.submitter, FRAME_SECONDS_TARGET, now_s - started.at_s)
            self._close(started.name)

    def check(self) -> None:
        self._fair.check()
        waiting = [key for line in self._lines.values() for key in line.frames]
        assert sorted(waiting) == sorted(self._names), "a frame waits in no line, or in two"
        assert all(line.frames or line.running for line in self._lines.values()), "an empty line is kept"
        assert self._ready.keys() == {name for name, line in self._lines.items() if line.frames}
        assert sum(line.running for line in self._lines.values()) == len(self._started)
        for peer, count in self._counts.items():
            assert count == sum(key[0] == peer for key in self._names), f"{peer} has not {count} frames waiting"
