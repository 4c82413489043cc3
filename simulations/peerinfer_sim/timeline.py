"""What is to happen when, in a simulation without an event loop: a heap of timed actions, those of one moment in order."""

from __future__ import annotations

import heapq
from collections.abc import Callable

Action = Callable[[], object]


class Timeline:
    """`now_s` is the time of the action that was performed last."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._due: list[tuple[float, int, Action]] = []
        self._number = 0

    def at(self, time_s: float, action: Action) -> None:
        self._number += 1
        heapq.heappush(self._due, (time_s, self._number, action))

    @property
    def next_s(self) -> float | None:
        """When the next action is due; None if there is none."""
        return self._due[0][0] if self._due else None

    def step(self) -> None:
        """Performs the next action."""
        self.now_s, _, action = heapq.heappop(self._due)
        action()
