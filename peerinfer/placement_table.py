"""The candidates for work, as columns of numbers.

One row for each peer, one NumPy array for each property; rows of peers that left are used again. Whatever ranks the
candidates keeps a vector of scores beside the table and catches up with `changes`, the rows touched since it looked
last, so that a choice among a thousand candidates costs one look for the smallest number.

A requirement that rules a candidate out has a name: `why_not` says it for one peer, `exclusions` for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from peerinfer.estimates import SPREAD_UNKNOWN, Estimate
from peerinfer.ids import Cid, PeerId

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

CANDIDATES_MAX = 131_072
MODELS_MAX = 256
"""Models whose speeds are kept at once; the one that was used longest ago goes first."""

CHANGES_MAX = 4096
"""Past so many touched rows every ranking starts afresh instead of catching up."""

KINDS_MAX = 32
_ROWS_FIRST = 64
RELAY_COST = 2.0
"""A peer behind a relay is taken only where it is this much better than one that is reached directly."""

P_OK_MIN = 0.05
"""Nobody's prospects are rated lower, so that nobody starves before something is proven."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A peer that could be given work."""

    peer: PeerId
    kinds: tuple[str, ...] = ("cpu",)
    memory_bytes: int = 0
    """Of its largest device; 0 where that is not known."""
    slots: int = 1
    """Frames it computes at once."""
    local: bool = False
    rtt_s: float = 0.05
    bytes_per_s: float = 10e6
    leave_rate: float = 0.0
    """Departures per second of its presence."""
    p_ok: float = 1.0
    """Chance that a result of it comes and is right."""
    copies: float = 1.0
    """Executions that one result of it costs: 2 for a newcomer whose work is doubled."""
    is_relayed: bool = False
    """Its link leads through somebody else, whose bandwidth is lent."""


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """What one task of a job asks of a peer. Made once for each job; two demands are never the same."""

    model: Cid
    units: float = 1.0
    """Items in one task."""
    transfer_bytes: float = 0.0
    """Inputs and outputs of one task."""
    prior_s: float = 1.0
    """Guess of the seconds per item of a peer of which nothing is known."""
    model_bytes: float = 0.0
    kind: str | None = None
    memory_bytes_min: int = 0
    local_only: bool = False


class _ModelColumns:
    """What is known of every candidate with one model."""

    def __init__(self, rows: int) -> None:
        self.seconds = np.full(rows, math.nan)
        """Per item, as expected; NaN where nothing is known."""
        self.optimistic_s = np.full(rows, math.nan)
        self.is_known = np.zeros(rows, dtype=np.bool_)
        self.samples = np.zeros(rows)
        """Frames that its speed was learned from."""
        self.load_s = np.full(rows, math.nan)
        """Until the model is ready; 0 where it is warm, NaN where it must be fetched first."""

    def clear(self, row: int) -> None:
        self.seconds[row] = self.optimistic_s[row] = self.load_s[row] = math.nan
        self.is_known[row] = False
        self.samples[row] = 0.0

    def grow(self, rows: int) -> None:
        self.seconds = _grown(self.seconds, rows, math.nan)
        self.optimistic_s = _grown(self.optimistic_s, rows, math.nan)
        self.load_s = _grown(self.load_s, rows, math.nan)
        self.samples = _grown(self.samples, rows, 0.0)
        known = np.zeros(rows, dtype=np.bool_)
        known[: len(self.is_known)] = self.is_known
        self.is_known = known


class CandidateTable:
    """Rows of candidates. Every method that changes a row notes it in `changes`."""

    def __init__(self) -> None:
        rows = _ROWS_FIRST
        self.wait_s = np.zeros(rows)
        """Seconds of work that was sent and not answered."""
        self.outstanding = np.zeros(rows)
        """Frames sent and not answered."""
        self.room = np.zeros(rows)
        """Frames it would take now. Who has none is not chosen, and may still be waited for."""
        self.turn = np.zeros(rows)
        """When it was last given something, as a running number."""
        self.slots = np.ones(rows)
        self.memory_bytes = np.zeros(rows)
        self.rtt_s = np.zeros(rows)
        self.bytes_per_s = np.ones(rows)
        self.leave_rate = np.zeros(rows)
        self.p_ok = np.ones(rows)
        self.copies = np.ones(rows)
        self.detour = np.ones(rows)
        """`RELAY_COST` for peers behind a relay."""
        self.kinds = np.zeros(rows, dtype=np.int64)
        self.local = np.zeros(rows, dtype=np.bool_)
        self.usable = np.zeros(rows, dtype=np.bool_)
        """The row holds a peer, and nothing speaks against that peer."""
        self.changes: list[int] = []
        self.generation = 0
        """Grows whenever `changes` was cleared or the columns were replaced."""
        self.turns = 0
        self._rows: dict[PeerId, int] = {}
        self._peers: list[PeerId | None] = [None] * rows
        self._barred: dict[int, str] = {}
        self._paused: dict[int, str] = {}
        self._resting: set[int] = set()
        self._free = list(range(rows - 1, -1, -1))
        self._kind_bits: dict[str, int] = {}
        self._models: dict[Cid, _ModelColumns] = {}

    # --- rows ------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, peer: object) -> bool:
        return peer in self._rows

    @property
    def peers(self) -> tuple[PeerId, ...]:
        return tuple(self._rows)

    @property
    def capacity(self) -> int:
        return len(self.wait_s)

    def row_of(self, peer: PeerId) -> int:
        """Raises KeyError for a peer that is no candidate."""
        return self._rows[peer]

    def peer_at(self, row: int) -> PeerId:
        peer = self._peers[row]
        assert peer is not None, f"row {row} holds no candidate"
        return peer

    def rows_of(self, peers: Iterable[PeerId]) -> list[int]:
        return [self._rows[peer] for peer in peers if peer in self._rows]

    def add(self, candidate: Candidate) -> bool:
        """Adds a candidate, or takes over what changed of a known one. False if the table is full."""
        row = self._rows.get(candidate.peer)
        if row is None:
            if not self._free and not self._grow():
                return False
            row = self._free.pop()
            self._rows[candidate.peer] = row
            self._peers[row] = candidate.peer
            self.wait_s[row] = self.outstanding[row] = 0.0
            self.room[row] = max(candidate.slots, 1)
            self.turn[row] = self.turns
            self.usable[row] = True
            for columns in self._models.values():
                columns.clear(row)
        self.slots[row] = max(candidate.slots, 1)
        self.memory_bytes[row] = max(candidate.memory_bytes, 0)
        self.local[row] = candidate.local
        self.kinds[row] = self._bits(candidate.kinds)
        self.update(
            candidate.peer,
            rtt_s=candidate.rtt_s,
            bytes_per_s=candidate.bytes_per_s,
            leave_rate=candidate.leave_rate,
            p_ok=candidate.p_ok,
            copies=candidate.copies,
            is_relayed=candidate.is_relayed,
        )
        return True

    def remove(self, peer: PeerId) -> None:
        row = self._rows.pop(peer, None)
        if row is None:
            return
        self._peers[row] = None
        self._barred.pop(row, None)
        self._paused.pop(row, None)
        self._resting.discard(row)
        self.usable[row] = False
        self._free.append(row)
        self.touch(row)

    def update(
        self,
        peer: PeerId,
        *,
        rtt_s: float | None = None,
        bytes_per_s: float | None = None,
        leave_rate: float | None = None,
        p_ok: float | None = None,
        copies: float | None = None,
        is_relayed: bool | None = None,
        slots: int | None = None,
        room: int | None = None,
    ) -> None:
        """Sets what is given; a number that makes no sense is bounded rather than believed."""
        row = self._rows[peer]
        if rtt_s is not None:
            self.rtt_s[row] = _within(rtt_s, 0.0, 60.0)
        if bytes_per_s is not None:
            self.bytes_per_s[row] = _within(bytes_per_s, 1e3, 1e12)
        if leave_rate is not None:
            self.leave_rate[row] = _within(leave_rate, 0.0, 1.0)
        if p_ok is not None:
            self.p_ok[row] = _within(p_ok, P_OK_MIN, 1.0)
        if copies is not None:
            self.copies[row] = _within(copies, 1.0, 16.0)
        if is_relayed is not None:
            self.detour[row] = RELAY_COST if is_relayed else 1.0
        if slots is not None:
            self.slots[row] = max(slots, 1)
        if room is not None:
            self.room[row] = max(room, 0)
        self.touch(row)

    def add_load(self, peer: PeerId, frames: int, seconds: float, *, room: int | None = None) -> None:
        """Work was sent (positive) or answered (negative); `seconds` of one device, as estimated when it was sent."""
        row = self._rows.get(peer)
        if row is None:
            return
        outstanding = self.outstanding.item(row) + frames
        if outstanding > 0.0:
            waits_s = self.wait_s.item(row) + seconds / self.slots.item(row)
            self.outstanding[row] = outstanding
            self.wait_s[row] = waits_s if waits_s > 0.0 else 0.0
        else:
            self.outstanding[row] = self.wait_s[row] = 0.0
        if room is not None:
            self.room[row] = max(room, 0)
        if frames > 0:
            self.turns += 1
            self.turn[row] = self.turns
        self.touch(row)

    def bar(self, peer: PeerId, reason: str) -> None:
        """Nothing is given to this peer: it lied."""
        row = self._rows[peer]
        self._barred[row] = reason
        self._judge(row)

    def unbar(self, peer: PeerId) -> None:
        row = self._rows[peer]
        if self._barred.pop(row, None) is not None:
            self._judge(row)

    def pause(self, peer: PeerId, reason: str) -> None:
        """It takes no work now, and says why; "" when it does again."""
        row = self._rows[peer]
        if reason:
            self._paused[row] = reason
        else:
            self._paused.pop(row, None)
        self._judge(row)

    def rest(self, peer: PeerId, is_resting: bool) -> None:
        """Left alone for a moment, after failures; nothing speaks against it."""
        row = self._rows[peer]
        if is_resting != (row in self._resting):
            (self._resting.add if is_resting else self._resting.discard)(row)
            self._judge(row)

    def _judge(self, row: int) -> None:
        self.usable[row] = not (row in self._barred or row in self._paused or row in self._resting)
        self.touch(row)

    def touch(self, row: int) -> None:
        if len(self.changes) >= CHANGES_MAX:
            self._renew()
        self.changes.append(row)

    # --- models ----------------------------------------------------------------------------------------------------

    def set_speed(self, peer: PeerId, model: Cid, estimate: Estimate) -> None:
        row, columns = self._rows[peer], self.model(model)
        columns.seconds[row] = estimate.seconds
        columns.optimistic_s[row] = estimate.optimistic_s
        columns.is_known[row] = estimate.is_known
        columns.samples[row] = estimate.samples
        self.touch(row)

    def set_load(self, peer: PeerId, model: Cid, load_s: float | None) -> None:
        """Seconds until the model is ready there: 0 if warm, None if it must be fetched."""
        row = self._rows[peer]
        self.model(model).load_s[row] = math.nan if load_s is None else max(load_s, 0.0)
        self.touch(row)

    def model(self, model: Cid) -> _ModelColumns:
        columns = self._models.get(model)
        if columns is None:
            columns = self._models[model] = _ModelColumns(self.capacity)
            if len(self._models) > MODELS_MAX:
                del self._models[next(iter(self._models))]
                self._renew()
        return columns

    def is_relayed(self, row: int) -> bool:
        return self.detour.item(row) > 1.0

    def seconds_per_task(self, demand: Demand, row: int) -> float:
        seconds = self.model(demand.model).seconds.item(row)
        return demand.units * (demand.prior_s if math.isnan(seconds) else seconds)

    def load_seconds(self, demand: Demand, row: int) -> float:
        """Until the demand's model is ready there."""
        load = self.model(demand.model).load_s.item(row)
        return demand.model_bytes / self.bytes_per_s.item(row) if math.isnan(load) else load

    def optimism(self, demand: Demand) -> tuple[float, float]:
        """Seconds per item of a peer of which nothing is known: as guessed, and at best."""
        return demand.prior_s, Estimate(math.log(demand.prior_s), SPREAD_UNKNOWN, 0.0).optimistic_s

    # --- requirements ----------------------------------------------------------------------------------------------

    def suits(self, demand: Demand, row: int) -> bool:
        memory = self.memory_bytes.item(row)
        if not self.usable.item(row) or memory < demand.memory_bytes_min or 0 < memory < demand.model_bytes:
            return False
        if demand.local_only and not self.local[row]:
            return False
        return demand.kind is None or bool(self.kinds.item(row) & self._kind_bits.get(demand.kind, 0))

    def suited(self, demand: Demand) -> Mask:
        """Rows that fulfil every requirement."""
        mask = self.usable.copy()
        if demand.memory_bytes_min > 0:
            mask &= self.memory_bytes >= demand.memory_bytes_min
        if demand.model_bytes > 0:
            mask &= (self.memory_bytes >= demand.model_bytes) | (self.memory_bytes == 0)
        if demand.local_only:
            mask &= self.local
        if demand.kind is not None:
            mask &= (self.kinds & self._kind_bits.get(demand.kind, 0)) != 0
        return mask

    def why_not(self, demand: Demand, peer: PeerId) -> str | None:
        """The requirement that rules this peer out, or None."""
        row = self._rows.get(peer)
        if row is None:
            return "is not here"
        if row in self._barred:
            return self._barred[row]
        if demand.local_only and not self.local[row]:
            return "only this node's own devices were asked for"
        if demand.kind is not None and not self.kinds.item(row) & self._kind_bits.get(demand.kind, 0):
            return f"has no {demand.kind.upper()} to lend"
        if self.memory_bytes.item(row) < demand.memory_bytes_min:
            return "has too little device memory"
        if 0 < self.memory_bytes.item(row) < demand.model_bytes:
            return "has less device memory than the model alone takes"
        return self._paused.get(row)

    def exclusions(self, demand: Demand) -> dict[str, list[PeerId]]:
        """Who is ruled out, by reason, the most frequent reason first."""
        found: dict[str, list[PeerId]] = {}
        for peer in self._rows:
            reason = self.why_not(demand, peer)
            if reason is not None:
                found.setdefault(reason, []).append(peer)
        return dict(sorted(found.items(), key=lambda entry: -len(entry[1])))

    def check(self) -> None:
        for peer, row in self._rows.items():
            assert self._peers[row] == peer, f"row {row} of {peer} holds {self._peers[row]}"
            free = row not in self._barred and row not in self._paused and row not in self._resting
            assert bool(self.usable[row]) == free, f"{peer} is barred and usable at once"
        rows = {*self._rows.values(), *self._free}
        assert len(rows) == len(self._rows) + len(self._free) == self.capacity, "a row is lost, or in two places"
        assert not self.usable[self._free].any(), "a free row could be chosen"
        assert not np.isnan(self.wait_s).any()
        assert (self.wait_s >= 0).all(), "somebody owes less than no work"

    # --- inside ----------------------------------------------------------------------------------------------------

    def _bits(self, kinds: Iterable[str]) -> int:
        bits = 0
        for kind in kinds:
            if kind not in self._kind_bits and len(self._kind_bits) < KINDS_MAX:
                self._kind_bits[kind] = 1 << len(self._kind_bits)
            bits |= self._kind_bits.get(kind, 0)
        return bits

    def _renew(self) -> None:
        self.changes = []
        self.generation += 1

    def _grow(self) -> bool:
        old, new = self.capacity, min(2 * self.capacity, CANDIDATES_MAX)
        if new <= old:
            return False
        for name in ("wait_s", "outstanding", "room", "turn", "memory_bytes", "rtt_s", "leave_rate"):
            setattr(self, name, _grown(getattr(self, name), new, 0.0))
        for name in ("slots", "bytes_per_s", "p_ok", "copies", "detour"):
            setattr(self, name, _grown(getattr(self, name), new, 1.0))
        self.kinds = np.concatenate([self.kinds, np.zeros(new - old, dtype=np.int64)])
        self.local = np.concatenate([self.local, np.zeros(new - old, dtype=np.bool_)])
        self.usable = np.concatenate([self.usable, np.zeros(new - old, dtype=np.bool_)])
        for columns in self._models.values():
            columns.grow(new)
        self._peers += [None] * (new - old)
        self._free += range(new - 1, old - 1, -1)
        self._renew()
        return True


def _grown(column: Floats, rows: int, filler: float) -> Floats:
    grown = np.full(rows, filler)
    grown[: len(column)] = column
    return grown


def _within(value: float, low: float, high: float) -> float:
    return low if math.isnan(value) else min(max(value, low), high)
