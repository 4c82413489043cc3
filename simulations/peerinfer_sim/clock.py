"""The clock of a simulated node: the world's virtual time, and a wall clock that is wrong by a little."""

from __future__ import annotations

import trio

EPOCH_S = 1_750_000_000.0
"""The wall clock's time when a world begins."""


class SimClock:
    """Implements `LocalClock`."""

    def __init__(self, wall_offset_s: float) -> None:
        self._wall_offset_s = wall_offset_s

    def now_s(self) -> float:
        return trio.current_time()

    def wall_s(self) -> float:
        return EPOCH_S + self._wall_offset_s + trio.current_time()

    def holder_s(self) -> float:
        return trio.current_time()

    def elector_s(self) -> float:
        return trio.current_time()
