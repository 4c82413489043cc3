"""How fast a count grows that is told at odd moments.

Pictures come when something has changed, and once a second where nothing has: sometimes two of them within a few
milliseconds. What was done between those two, divided by that time, would be a spike that nothing in the world did.
"""

from __future__ import annotations

from collections import deque

WINDOW_S = 5.0
"""A rate is the mean over so long: short enough to be called now, long enough that frames of tasks do not show."""

LEAST_S = 1.0
"""Over less no rate is told."""


class Pace:
    def __init__(self) -> None:
        self._told: deque[tuple[float, float]] = deque()

    def take(self, now_s: float, count: float) -> float | None:
        """`count` as of now; the growth per second, or None while too little is known."""
        if self._told and now_s < self._told[-1][0]:
            self._told.clear()  # the wall clock was set back
        self._told.append((now_s, count))
        while len(self._told) > 2 and self._told[1][0] <= now_s - WINDOW_S:
            self._told.popleft()
        began_s, before = self._told[0]
        return (count - before) / (now_s - began_s) if now_s - began_s >= LEAST_S else None

    def forget(self) -> None:
        """What comes next is counted anew."""
        self._told.clear()
