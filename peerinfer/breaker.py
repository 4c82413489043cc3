"""A circuit breaker for each peer: a peer that fails again and again is left alone for a while, longer each time.

*Closed*: frames go to it. *Open*: none do, until its wait is over. *Half-open*: one frame may go; what becomes of it
closes the breaker or opens it again (Nygard, Release It!).
"""

from __future__ import annotations

import random

FAILURES_MAX = 3
"""Frames in a row without a single result, after which the breaker opens."""

OPEN_FIRST_S = 5.0
OPEN_MAX_S = 300.0


class Breaker:
    """Of one peer."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._failures = 0
        self._openings = 0
        self.opens_until_s = 0.0

    def state(self, now_s: float) -> str:
        """closed, open or half-open."""
        if self._failures < FAILURES_MAX:
            return "closed"
        return "open" if now_s < self.opens_until_s else "half-open"

    def allows(self, now_s: float, in_flight: int) -> bool:
        """True if one more frame may go to the peer, which has so many."""
        state = self.state(now_s)
        return state == "closed" or (state == "half-open" and not in_flight)

    def succeeded(self) -> None:
        self._failures = self._openings = 0

    def failed(self, now_s: float) -> None:
        self._failures += 1
        if self._failures >= FAILURES_MAX:
            wait_s = min(OPEN_FIRST_S * 2.0**self._openings, OPEN_MAX_S)
            self._openings = min(self._openings + 1, 16)
            self.opens_until_s = now_s + wait_s * (0.5 + 0.5 * self._rng.random())
