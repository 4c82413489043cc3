"""A simulated peer: its clocks, its disk, and what of it is running."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from peerinfer.candidacy import Candidacy
from peerinfer.elector import Elector
from peerinfer.elector_events import Asked, SeatRow
from peerinfer.ids import PeerId
from peerinfer.snapshots import Snapshot


class Node:
    """A peer with its clocks, its disk, its elector and its candidate."""

    def __init__(self, number: int, peer: PeerId, sign: Callable[[bytes], bytes], rate: float, is_slow: bool) -> None:
        self.number = number
        self.peer = peer
        self.sign = sign
        self._rate = rate
        self._is_slow = is_slow
        self.is_up = True
        self.life = 0
        """Counts restarts: what was meant for an earlier life does not arrive."""
        self.stopped_until_s = 0.0
        self._suspended_s = 0.0
        self.stopped: list[Callable[[], None]] = []
        """What happened meanwhile."""
        self.row: SeatRow | None = None
        self.batches: list[bytes] = []
        """From the base of the snapshot on."""
        self.base = 0
        self.snapshot: Snapshot | None = None
        self.disk_is_full = False
        self.elector: Elector | None = None
        self.candidate: Candidacy | None = None
        self.asked: deque[Asked] = deque()
        self.performing: list[Any] = []
        """The elector's effects that are not performed yet; the first is on its way to the disk."""
        self.tick_s = math.inf
        self.open_requests: dict[int, tuple[float, PeerId]] = {}
        self.sweep_is_due = False
        self.writes_until = 0

    def forget_disk(self) -> None:
        self.row, self.batches, self.base, self.snapshot = None, [], 0, None

    def write_batches(self, first: int, batches: Sequence[bytes]) -> None:
        if first < self.base:
            self.batches, self.base, self.snapshot = [], 0, None
        self.batches[first - self.base :] = batches

    def write_snapshot(self, base: int, snapshot: Snapshot, batches: Sequence[bytes] | None) -> None:
        del self.batches[: base - self.base]
        self.base, self.snapshot = base, snapshot
        if batches is not None:
            self.batches = list(batches)

    def suspend(self, for_s: float) -> None:
        self._suspended_s += for_s

    def elector_s(self, now_s: float) -> float:
        return 100.0 * self.life + self._rate * (now_s - self._suspended_s)

    def holder_s(self, now_s: float) -> float:
        if self._is_slow:
            return 1000.0 + 0.6 * self._rate * (now_s - self._suspended_s)
        return 1000.0 + self._rate * now_s

    def true_s(self, holder_s: float) -> float:
        """When the holder's clock will show this, if the node is not suspended before."""
        if self._is_slow:
            return (holder_s - 1000.0) / (0.6 * self._rate) + self._suspended_s
        return (holder_s - 1000.0) / self._rate
