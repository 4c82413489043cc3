"""Moments at which a machine wants to be woken, each under a key that may be set again or cleared.

A heap answers what is next; the dictionary says what still holds, and entries that it contradicts are skipped. Most
alarms are cleared before they ring, so what is stale is swept out once it outnumbers what holds.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

from peerinfer.machine import NEVER

K = TypeVar("K", bound=Hashable)

SWEEP_ABOVE = 256
"""Stale entries beside as many again as there are alarms, before they are swept out."""


class Alarms(Generic[K]):
    """Setting, clearing and ringing cost the logarithm of how many there are."""

    def __init__(self) -> None:
        self._times: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._times)

    def __contains__(self, key: object) -> bool:
        return key in self._times

    def at(self, key: K) -> float:
        """When it rings; `NEVER` if it is not set."""
        return self._times.get(key, NEVER)

    def set(self, key: K, at_s: float) -> None:
        """An alarm has one time: the last that was set."""
        if self._times.get(key) == at_s:
            return
        self._times[key] = at_s
        self._number += 1
        heapq.heappush(self._heap, (at_s, self._number, key))
        if len(self._heap) > SWEEP_ABOVE + 2 * len(self._times):
            self._heap = [entry for entry in self._heap if self._times.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)

    def clear(self, key: K) -> None:
        self._times.pop(key, None)

    @property
    def next_s(self) -> float:
        heap, times = self._heap, self._times
        while heap:
            at_s, _, key = heap[0]
            if times.get(key) == at_s:
                return at_s
            heapq.heappop(heap)
        return NEVER

    def ring(self, now_s: float) -> list[K]:
        """Those whose time has come, the earliest first; they are cleared."""
        heap, times = self._heap, self._times
        rung: list[K] = []
        while heap and heap[0][0] <= now_s:
            at_s, _, key = heapq.heappop(heap)
            if times.get(key) == at_s:
                del times[key]
                rung.append(key)
        return rung

    def check(self) -> None:
        held = {key for at_s, _, key in self._heap if self._times.get(key) == at_s}
        assert held == self._times.keys(), f"{len(self._times.keys() - held)} alarms would never ring"
