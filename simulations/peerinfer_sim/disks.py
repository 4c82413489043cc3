"""Disks of simulated nodes: what they keep through a crash, what a power cut takes, and what a full one refuses.

Both stores are those of production's twins. Around them stands what happens to real files: a process that dies writes
nothing more; a power cut takes the last writes of `state.db` (`synchronous=NORMAL`), in the order in which they came, and
nothing of `seats.db` (`synchronous=FULL`), whose every write was synced before it was answered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

from peerinfer.elector_events import SeatRow
from peerinfer.errors import StateUnusable
from peerinfer.ids import JobId, PeerId
from peerinfer.snapshots import Snapshot
from peerinfer.tensors import Buffer
from peerinfer_node.memory_store import MemoryStore
from peerinfer_node.peer_rows import PeerRow, ReputationRow, StatementRow
from peerinfer_node.ports import JobRow
from peerinfer_node.record_rows import RecordRow
from peerinfer_node.seat_store import MemorySeatStore

_Write = Callable[..., Awaitable[Any]]


class Disk:
    """What befalls both stores of one node."""

    def __init__(self) -> None:
        self.is_full = False

    def check_room(self) -> None:
        if self.is_full:
            raise StateUnusable("no space left on the simulated disk; free some")


class SimStore(MemoryStore):
    """state.db. `after_crash` gives the store with which the node starts again; this one then takes nothing more."""

    def __init__(self, disk: Disk) -> None:
        super().__init__()
        self._disk = disk
        self._writes: list[tuple[float, _Write, tuple[Any, ...], dict[str, Any]]] = []
        self._is_replaying = False
        self.is_dead = False

    async def after_crash(self, lost_s: float) -> SimStore:
        """Without the writes of the last `lost_s` seconds."""
        self.is_dead = True
        fresh = SimStore(self._disk)
        fresh._is_replaying = True
        synced_s = trio.current_time() - lost_s
        fresh._writes = [write for write in self._writes if write[0] <= synced_s]
        for _, method, arguments, named in fresh._writes:
            await method(fresh, *arguments, **named)
        fresh._is_replaying = False
        return fresh

    async def _write(self, method: _Write, *arguments: Any, **named: Any) -> Any:
        if self.is_dead:
            return 0  # Whoever still writes is a task of the dead process that has not been cancelled yet.
        if not self._is_replaying:
            self._disk.check_room()
        done = await method(self, *arguments, **named)
        if not self._is_replaying:  # What failed has not been written.
            self._writes.append((trio.current_time(), method, arguments, named))
        return done

    async def add_job(self, row: JobRow) -> None:
        await self._write(MemoryStore.add_job, row)

    async def set_job_state(self, job: JobId, state: str, *, ended_at_s: float | None, summary: str) -> None:
        await self._write(MemoryStore.set_job_state, job, state, ended_at_s=ended_at_s, summary=summary)

    async def append_results(self, job: JobId, record: Sequence[Buffer]) -> int:
        offset: int = await self._write(MemoryStore.append_results, job, tuple(bytes(part) for part in record))
        return offset

    async def add_record(self, row: RecordRow) -> None:
        await self._write(MemoryStore.add_record, row)

    async def void_results(self, job: JobId, tasks: Sequence[int]) -> None:
        await self._write(MemoryStore.void_results, job, tuple(tasks))

    async def drop_results(self, job: JobId) -> None:
        await self._write(MemoryStore.drop_results, job)

    async def remember_peers(self, rows: Sequence[PeerRow]) -> None:
        await self._write(MemoryStore.remember_peers, tuple(rows))

    async def save_reputation(self, rows: Sequence[ReputationRow], gone: Sequence[PeerId]) -> None:
        await self._write(MemoryStore.save_reputation, tuple(rows), tuple(gone))

    async def save_statements(self, rows: Sequence[StatementRow], gone: Sequence[bytes]) -> None:
        await self._write(MemoryStore.save_statements, tuple(rows), tuple(gone))

    async def set_setting(self, key: str, value: str | None) -> None:
        await self._write(MemoryStore.set_setting, key, value)


class SimSeats(MemorySeatStore):
    """seats.db. A crash between a write and its answer leaves the write."""

    def __init__(self, disk: Disk) -> None:
        super().__init__()
        self._disk = disk
        self.is_dead = False

    def after_crash(self) -> SimSeats:
        self.is_dead = True
        fresh = SimSeats(self._disk)
        fresh._given_up, fresh.forgot_s = dict(self._given_up), self.forgot_s
        fresh._snapshots = dict(self._snapshots)
        fresh._seats, fresh._batches = dict(self._seats), {job: list(held) for job, held in self._batches.items()}
        return fresh

    async def save_seat(self, row: SeatRow) -> None:
        if not self.is_dead:
            self._disk.check_room()
            await super().save_seat(row)

    async def save_batches(self, job: JobId, first: int, batches: Sequence[bytes]) -> None:
        if not self.is_dead:
            self._disk.check_room()
            await super().save_batches(job, first, batches)

    async def save_snapshot(
        self, job: JobId, base: int, snapshot: Snapshot, batches: Sequence[bytes] | None = None
    ) -> None:
        if not self.is_dead:
            self._disk.check_room()
            await super().save_snapshot(job, base, snapshot, batches)

    async def forget(self, job: JobId, at_s: float) -> None:
        if not self.is_dead:
            await super().forget(job, at_s)
