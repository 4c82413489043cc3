"""The register of a journal: for each task that is written, once, the digest of its outputs and who computed it.

Twenty bytes for each task, by pages of 1,024, whatever the journal's length. Batches are written and looked up page by
page, since a busy coordinator writes tens of thousands of entries each second.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from peerinfer.errors import ProtocolError
from peerinfer.lease_messages import FAILED_TASK, JournalBatch

DIGEST_BYTES = 16
_PAGE_TASKS = 1024
_SLOT_BYTES = DIGEST_BYTES + 4
_EMPTY = bytes(_SLOT_BYTES)
_NOBODY = bytes(4)


def _column(numbers: Sequence[int]) -> Any:
    """Tasks and positions are of 32 bits. NumPy would ask every number what it is, which takes three times as long."""
    return np.frombuffer(struct.pack(f"={len(numbers)}I", *numbers), np.uint32)


class Entry(NamedTuple):
    """What a register says of one task. A tuple, since a busy coordinator makes tens of thousands each second."""

    task: int
    digest: bytes
    worker: str
    """Peer id of who computed it; "" if the task failed for good."""


class Register:
    """Digest and worker of every written task: 20 bytes each, allocated by pages of 1,024 tasks."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        self._peers: list[str] = [""]
        self._numbers: dict[str, int] = {"": 0}
        self.written = 0
        self.failed = 0

    def get(self, task: int) -> Entry | None:
        slot = self._slot(task)
        number = int.from_bytes(slot[DIGEST_BYTES:], "little")
        return Entry(task, slot[:DIGEST_BYTES], self._peers[number - 1]) if number else None

    def __contains__(self, task: int) -> bool:
        return self._slot(task)[DIGEST_BYTES:] != _NOBODY

    def put(self, entry: Entry) -> None:
        page, place = divmod(entry.task, _PAGE_TASKS)
        slots = self._pages.get(page)
        if slots is None:
            slots = self._pages[page] = bytearray(_PAGE_TASKS * _SLOT_BYTES)
        number = self._number(entry.worker)
        at = place * _SLOT_BYTES
        assert slots[at + DIGEST_BYTES : at + _SLOT_BYTES] == _NOBODY, f"task {entry.task} is written already"
        slots[at : at + _SLOT_BYTES] = entry.digest + (number + 1).to_bytes(4, "little")
        self.written += 1
        self.failed += not entry.worker

    def put_all(self, batch: JournalBatch) -> None:
        """Every entry of a batch of good form, page by page."""
        tasks = _column(batch.tasks)
        numbers = [self._number(peer) for peer in batch.peers]
        chosen = np.array([*numbers, 0], np.uint32)[np.minimum(_column(batch.workers), len(numbers))]
        rows = np.empty((len(tasks), _SLOT_BYTES), np.uint8)
        rows[:, :DIGEST_BYTES] = np.frombuffer(batch.digests, np.uint8).reshape(-1, DIGEST_BYTES)
        rows[:, DIGEST_BYTES:] = (chosen + 1).astype("<u4").view(np.uint8).reshape(-1, 4)
        self._put_rows(tasks, rows)
        self.written += len(tasks)
        self.failed += int((chosen == 0).sum())

    def _put_rows(self, tasks: Any, rows: Any) -> None:
        pages = tasks // _PAGE_TASKS
        order = np.argsort(pages, kind="stable")
        for here in np.split(order, np.flatnonzero(np.diff(pages[order])) + 1):
            page = int(pages[here[0]])
            slots = self._pages.setdefault(page, bytearray(_PAGE_TASKS * _SLOT_BYTES))
            table = np.frombuffer(slots, np.uint8).reshape(_PAGE_TASKS, _SLOT_BYTES)
            places = tasks[here] % _PAGE_TASKS
            assert not table[places, DIGEST_BYTES:].any(), f"a task of page {page} is written already"
            table[places] = rows[here]

    def holds_any(self, tasks: Sequence[int]) -> bool:
        """Whether one of the tasks is written."""
        wanted = _column(tasks)
        pages = wanted // _PAGE_TASKS
        for page in set(pages.tolist()) & self._pages.keys():
            table = np.frombuffer(self._pages[page], np.uint8).reshape(_PAGE_TASKS, _SLOT_BYTES)
            if table.take(wanted[pages == page] % _PAGE_TASKS, axis=0)[:, DIGEST_BYTES:].any():
                return True
        return False

    def _number(self, peer: str) -> int:
        number = self._numbers.setdefault(peer, len(self._peers))
        if number == len(self._peers):
            self._peers.append(peer)
        return number

    def erase(self, task: int) -> None:
        entry = self.get(task)
        assert entry is not None, f"task {task} is not written"
        page, place = divmod(task, _PAGE_TASKS)
        self._pages[page][place * _SLOT_BYTES : (place + 1) * _SLOT_BYTES] = _EMPTY
        self.written -= 1
        self.failed -= not entry.worker

    def entries(self) -> Iterator[Entry]:
        for page in sorted(self._pages):
            for task in range(page * _PAGE_TASKS, (page + 1) * _PAGE_TASKS):
                entry = self.get(task)
                if entry is not None:
                    yield entry

    def tally(self, failed_max: int) -> tuple[dict[str, int], list[int]]:
        """How many tasks each worker has done, and the first `failed_max` of the tasks that failed."""
        places, numbers = self._columns()
        counts = np.bincount(numbers, minlength=len(self._peers))
        done = {peer: int(count) for peer, count in zip(self._peers[1:], counts[1:], strict=True) if count}
        return done, [int(task) for task in places[numbers == 0][:failed_max]]

    def tasks(self) -> tuple[list[int], list[int]]:
        """The tasks that are done, and those that failed, each in order."""
        places, numbers = self._columns()
        return places[numbers > 0].tolist(), places[numbers == 0].tolist()

    def _columns(self) -> tuple[Any, Any]:
        """The written tasks in order, and the number of each one's worker."""
        places, rows = self._rows()
        return places, np.ascontiguousarray(rows[:, DIGEST_BYTES:]).view("<u4").reshape(-1) - 1

    def copy(self) -> Register:
        other = Register()
        other._pages = {page: bytearray(slots) for page, slots in self._pages.items()}
        other._peers, other._numbers = list(self._peers), dict(self._numbers)
        other.written, other.failed = self.written, self.failed
        return other

    # --- as bytes ----------------------------------------------------------------------------------------------------

    def packed(self) -> tuple[tuple[str, ...], bytes]:
        """Who worked, and all entries: the same for every register that holds the same, whatever way it came about."""
        places, rows = self._rows()
        numbers = np.ascontiguousarray(rows[:, DIGEST_BYTES:]).view("<u4").reshape(-1) - 1
        used = [int(number) for number in np.unique(numbers) if number]
        names = sorted(self._peers[number] for number in used)
        order = {name: place for place, name in enumerate(names)}
        chosen = np.full(len(self._peers), FAILED_TASK, np.uint32)
        for number in used:
            chosen[number] = order[self._peers[number]]
        span = int(places[-1]) + 1 if len(places) else 0
        marks = np.zeros(span, np.uint8)
        marks[places] = 1
        workers = chosen[numbers].astype("<u4")
        digests = np.ascontiguousarray(rows[:, :DIGEST_BYTES])
        return tuple(names), b"".join(
            (span.to_bytes(4, "little"), np.packbits(marks).tobytes(), digests.tobytes(), workers.tobytes())
        )

    def _rows(self) -> tuple[Any, Any]:
        """The written tasks in order, and their slots."""
        found = []
        for page in sorted(self._pages):
            table = np.frombuffer(self._pages[page], np.uint8).reshape(_PAGE_TASKS, _SLOT_BYTES)
            here = np.flatnonzero(table[:, DIGEST_BYTES:].any(axis=1))
            found.append((here + page * _PAGE_TASKS, table[here]))
        if not found:
            return np.zeros(0, np.int64), np.zeros((0, _SLOT_BYTES), np.uint8)
        return np.concatenate([places for places, _ in found]), np.concatenate([rows for _, rows in found])

    @classmethod
    def unpacked(cls, peers: Sequence[str], data: bytes, tasks: int) -> Register:
        """Raises `ProtocolError` for anything but a register of a job of so many tasks."""
        span = int.from_bytes(data[:4], "little")
        marks_end = 4 + -(-span // 8)
        if span > tasks or len(data) < marks_end or len(set(peers)) != len(peers) or "" in peers:
            raise ProtocolError("a snapshot holds no register of this job")
        places = np.flatnonzero(np.unpackbits(np.frombuffer(data[4:marks_end], np.uint8), count=span))
        digests_end = marks_end + DIGEST_BYTES * len(places)
        if len(data) != digests_end + 4 * len(places):
            raise ProtocolError("a snapshot's register is not as long as it says")
        workers = np.frombuffer(data[digests_end:], "<u4")
        if (workers[workers != FAILED_TASK] >= len(peers)).any():
            raise ProtocolError("a snapshot names a worker that it does not list")
        made = cls()
        numbers = np.array([made._number(peer) for peer in peers] or [0], np.uint32)
        failed = workers == FAILED_TASK
        chosen = np.where(failed, 0, numbers[np.where(failed, 0, workers)])
        rows = np.empty((len(places), _SLOT_BYTES), np.uint8)
        rows[:, :DIGEST_BYTES] = np.frombuffer(data[marks_end:digests_end], np.uint8).reshape(-1, DIGEST_BYTES)
        rows[:, DIGEST_BYTES:] = (chosen + 1).astype("<u4").view(np.uint8).reshape(-1, 4)
        if len(places):
            made._put_rows(places, rows)
        made.written, made.failed = len(places), int(failed.sum())
        return made

    def _slot(self, task: int) -> bytes:
        page, place = divmod(task, _PAGE_TASKS)
        slots = self._pages.get(page)
        return _EMPTY if slots is None else bytes(slots[place * _SLOT_BYTES : (place + 1) * _SLOT_BYTES])
