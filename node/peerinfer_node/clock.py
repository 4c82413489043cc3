"""The real clock of a node. In simulation trio's own clock is virtual and the wall clock is derived from it."""

from __future__ import annotations

import time

import trio


class SystemClock:
    def now_s(self) -> float:
        return trio.current_time()

    def wall_s(self) -> float:
        return time.time()
