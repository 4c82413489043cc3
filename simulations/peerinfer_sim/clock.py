"""The clocks of a simulated node: the world's virtual time, a wall clock that is wrong by a little, and for leases a
quartz of its own that runs fast or slow."""

from __future__ import annotations

import trio

EPOCH_S = 1_750_000_000.0
"""The wall clock's time when a world begins."""


class SimClock:
    """Implements `LocalClock`."""

    def __init__(self, wall_offset_s: float, drift: float = 0.0) -> None:
        """`drift` is by how much its seconds are too short (0.01: it gains a second in a hundred)."""
        self._wall_offset_s = wall_offset_s
        self._rate = 1.0 + drift

    def now_s(self) -> float:
        return trio.current_time()

    def wall_s(self) -> float:
        return EPOCH_S + self._wall_offset_s + trio.current_time()

    def holder_s(self) -> float:
        return trio.current_time() * self._rate

    def elector_s(self) -> float:
        return trio.current_time() * self._rate
