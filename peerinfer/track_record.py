"""What a coordinator remembers of peers beyond their streams: how often they left with work in hand, how fast bytes
reach them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from peerinfer.ids import PeerId
from peerinfer.limits import PEERS_REMEMBERED_MAX

LEAVES_PRIOR = 0.2
PRESENCE_PRIOR_S = 3600.0
"""Of a peer that was never seen it is believed that it leaves once in five hours."""

BYTES_PER_S_PRIOR = 10e6
TRANSFER_BYTES_MIN = 64 * 1024
"""Smaller transfers say more of the round trip than of the bandwidth."""

TRANSFER_WEIGHT = 0.3
"""Of the latest measurement, against all earlier ones."""


@dataclass(slots=True)
class _Record:
    joined_s: float = math.nan
    present_s: float = 0.0
    leaves: int = 0
    bytes_per_s: float = math.nan


class TrackRecords:
    """Of the peers that were seen last."""

    def __init__(self) -> None:
        self._records: dict[PeerId, _Record] = {}

    def joined(self, peer: PeerId, now_s: float) -> None:
        record = self._records.pop(peer, None) or _Record()
        record.joined_s = now_s
        self._records[peer] = record
        if len(self._records) > PEERS_REMEMBERED_MAX:
            del self._records[next(iter(self._records))]

    def left(self, peer: PeerId, now_s: float, *, with_work: bool) -> None:
        """Only who leaves with work in hand costs anything."""
        record = self._records.get(peer)
        if record is not None and not math.isnan(record.joined_s):
            record.present_s += max(now_s - record.joined_s, 0.0)
            record.joined_s = math.nan
            record.leaves += with_work

    def leave_rate(self, peer: PeerId) -> float:
        """Departures per second, as of when it came last."""
        record = self._records.get(peer) or _Record()
        return (LEAVES_PRIOR + record.leaves) / (PRESENCE_PRIOR_S + record.present_s)

    def carried(self, peer: PeerId, size_bytes: float, seconds: float) -> float | None:
        """A transfer to it took so long; the bandwidth that is believed now, or None if that says nothing."""
        record = self._records.get(peer)
        if record is None or size_bytes < TRANSFER_BYTES_MIN or not 0 < seconds < math.inf:
            return None
        measured = size_bytes / seconds
        known = record.bytes_per_s
        record.bytes_per_s = (
            measured if math.isnan(known) else known ** (1 - TRANSFER_WEIGHT) * measured**TRANSFER_WEIGHT
        )
        return record.bytes_per_s

    def bytes_per_s(self, peer: PeerId) -> float:
        record = self._records.get(peer)
        return BYTES_PER_S_PRIOR if record is None or math.isnan(record.bytes_per_s) else record.bytes_per_s
