"""The register of a journal: for each task that is written, once, the digest of its outputs and who computed it.

Two columns, twenty bytes for each task up to the last one that is written and a quarter more, but never for more tasks than
the job has, whatever the journal's length. Batches are written and looked up as a whole, since a busy coordinator writes
tens of thousands of entries each second.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from peerinfer.errors import ProtocolError
from peerinfer.lease_messages import FAILED_TASK, JournalBatch
from peerinfer.limits import JOB_TASKS_MAX

DIGEST_BYTES = 16
_DIGEST = np.dtype("V16")
_NUMBER = np.dtype("<u4")
_FAILED = 1
"""The number of nobody, who has computed what failed; workers follow."""


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
    """Digest and worker of every written task."""

    def __init__(self, tasks: int = JOB_TASKS_MAX) -> None:
        """`tasks`: the job's, where they are known."""
        self._tasks = tasks
        self._digests = np.zeros(0, _DIGEST)
        self._numbers = np.zeros(0, _NUMBER)
        """Of the workers, by task; 0 where nothing is written."""
        self._peers: list[str] = [""]
        self._known: dict[str, int] = {"": _FAILED}
        """Their numbers: one more than their places in the list."""
        self.written = 0
        self.failed = 0

    def get(self, task: int) -> Entry | None:
        number = int(self._numbers[task]) if task < len(self._numbers) else 0
        return Entry(task, self._digests[task].tobytes(), self._peers[number - 1]) if number else None

    def __contains__(self, task: int) -> bool:
        return task < len(self._numbers) and bool(self._numbers[task])

    def put(self, entry: Entry) -> None:
        assert entry.task not in self, f"task {entry.task} is written already"
        self._make_room(entry.task)
        self._numbers[entry.task] = self._number(entry.worker)
        self._digests[entry.task] = entry.digest
        self.written += 1
        self.failed += not entry.worker

    def put_all(self, batch: JournalBatch) -> None:
        """Every entry of a batch of good form. Raises `ProtocolError`, and writes none, if one is written already."""
        tasks = _column(batch.tasks)
        self._make_room(int(tasks.max()))
        if self._numbers[tasks].any():
            raise ProtocolError("a batch writes a task that is written already")
        numbers = np.array([*map(self._number, batch.peers), _FAILED], _NUMBER)
        chosen = numbers[np.minimum(_column(batch.workers), len(batch.peers))]
        self._numbers[tasks] = chosen
        self._digests[tasks] = np.frombuffer(batch.digests, _DIGEST)
        self.written += len(tasks)
        self.failed += int((chosen == _FAILED).sum())

    def _make_room(self, task: int) -> None:
        """Raises `ProtocolError` for a task that the job has not: a batch from this node's own disk may be damaged."""
        if task >= self._tasks:
            raise ProtocolError(f"a batch writes task {task}; the job has no more than {self._tasks}")
        room = len(self._numbers)
        if task >= room:
            room = min(max(task + 1, room + room // 4), self._tasks)
            # In place: old and new columns at once would take twice as much as is counted for a seat. Nobody has a view.
            self._digests.resize(room, refcheck=False)
            self._numbers.resize(room, refcheck=False)

    def holds_any(self, tasks: Sequence[int]) -> bool:
        """Whether one of the tasks is written."""
        wanted = _column(tasks)
        return bool(self._numbers[wanted[wanted < len(self._numbers)]].any())

    def _number(self, peer: str) -> int:
        number = self._known.setdefault(peer, len(self._peers) + 1)
        if number > len(self._peers):
            self._peers.append(peer)
        return number

    @property
    def names(self) -> int:
        """How many workers are known, those included of whom nothing is written any more."""
        return len(self._peers)

    def forget_names(self, names: int) -> None:
        """All but the first so many, of whom nothing may be written."""
        for peer in self._peers[names:]:
            del self._known[peer]
        del self._peers[names:]

    def erase(self, tasks: Sequence[int]) -> None:
        gone = _column(tasks)
        assert self._numbers[gone].all(), "a task is not written"
        self.written -= len(gone)
        self.failed -= int((self._numbers[gone] == _FAILED).sum())
        self._numbers[gone] = 0

    def entries(self) -> Iterator[Entry]:
        for task in map(int, np.flatnonzero(self._numbers)):
            entry = self.get(task)
            assert entry is not None, f"task {task} was erased meanwhile"
            yield entry

    def tally(self, failed_max: int) -> tuple[dict[str, int], list[int]]:
        """How many tasks each worker has done, and the first `failed_max` of the tasks that failed."""
        counts = np.bincount(self._numbers, minlength=len(self._peers) + 1)[_FAILED + 1 :]
        done = {peer: int(count) for peer, count in zip(self._peers[1:], counts, strict=True) if count}
        return done, np.flatnonzero(self._numbers == _FAILED)[:failed_max].tolist()

    def tasks(self) -> tuple[list[int], list[int]]:
        """The tasks that are done, and those that failed, each in order."""
        return np.flatnonzero(self._numbers > _FAILED).tolist(), np.flatnonzero(self._numbers == _FAILED).tolist()

    def copy(self) -> Register:
        other = Register(self._tasks)
        other._digests, other._numbers = self._digests.copy(), self._numbers.copy()
        other._peers, other._known = list(self._peers), dict(self._known)
        other.written, other.failed = self.written, self.failed
        return other

    # --- as bytes ----------------------------------------------------------------------------------------------------

    def packed(self) -> tuple[tuple[str, ...], bytes]:
        """Who worked, and all entries: the same for every register that holds the same, whatever way it came about."""
        tasks = np.flatnonzero(self._numbers)
        numbers = self._numbers[tasks]
        used = [int(number) for number in np.unique(numbers) if number != _FAILED]
        names = sorted(self._peers[number - 1] for number in used)
        order = {name: place for place, name in enumerate(names)}
        chosen = np.full(len(self._peers) + 1, FAILED_TASK, _NUMBER)
        for number in used:
            chosen[number] = order[self._peers[number - 1]]
        span = int(tasks[-1]) + 1 if len(tasks) else 0
        marks = np.packbits(self._numbers[:span] != 0)
        return tuple(names), b"".join(
            (span.to_bytes(4, "little"), marks.tobytes(), self._digests[tasks].tobytes(), chosen[numbers].tobytes())
        )

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
        workers = np.frombuffer(data[digests_end:], _NUMBER)
        failed = workers == FAILED_TASK
        if (workers[~failed] >= len(peers)).any():
            raise ProtocolError("a snapshot names a worker that it does not list")
        made = cls(tasks)
        numbers = np.array([*map(made._number, peers), _FAILED], _NUMBER)
        made._digests, made._numbers = np.zeros(span, _DIGEST), np.zeros(span, _NUMBER)
        made._digests[places] = np.frombuffer(data[marks_end:digests_end], _DIGEST)
        made._numbers[places] = numbers[np.minimum(workers, len(peers))]
        made.written, made.failed = len(places), int(failed.sum())
        return made
