"""A rate that is kept on average: so many bytes a second, with a short burst after a pause.

A virtual schedule stands for the bucket of tokens: every amount takes its time, one after the other, and may start as
much earlier as the burst allows. Whoever asks is told how long to wait, and those who ask first go first.
"""

from __future__ import annotations

BURST_S = 0.25
"""So much time's bytes may go at once after a pause. Longer bursts fill other people's calls and games for a moment."""


class Rate:
    """Shared by all streams of one direction."""

    def __init__(self, bytes_s: float) -> None:
        self.bytes_s = bytes_s
        self._free_at_s = -BURST_S

    def take(self, count: int, now_s: float) -> float:
        """Notes `count` bytes; returns how many seconds to wait before they go, or after they came."""
        self._free_at_s = max(self._free_at_s, now_s - BURST_S) + count / self.bytes_s
        return max(0.0, self._free_at_s - now_s)
