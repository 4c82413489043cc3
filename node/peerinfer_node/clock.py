"""The real clock of a node. In simulation trio's own clock is virtual and the wall clock is derived from it."""

from __future__ import annotations

import time

import trio

_COUNTS_SUSPEND: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux's monotonic clock stands still while a laptop sleeps; CLOCK_BOOTTIME does not. macOS's counts sleep by itself."""


class SystemClock:
    def now_s(self) -> float:
        return trio.current_time()

    def wall_s(self) -> float:
        return time.time()

    def holder_s(self) -> float:
        return time.clock_gettime(_COUNTS_SUSPEND)

    def elector_s(self) -> float:
        return time.monotonic()
