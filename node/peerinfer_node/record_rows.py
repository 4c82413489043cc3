"""What the store notes of each record of results: which of its tasks count, and who signed for them.

A row for each record and not for each task: an index over the keys of all tasks took more time than everything else
that a coordinator does for a small task. Who looks for results of an earlier job goes through all rows instead, which
takes a tenth of a second for a million tasks and happens with `--resume` only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from peerinfer.ids import JobId, PeerId

TASK_KEY_BYTES = 32
_NOBODY = PeerId("")


@dataclass(frozen=True, slots=True)
class RecordRow:
    """One record of a job's spool."""

    job: JobId
    offset: int
    """Where it begins."""
    tasks: tuple[int, ...]
    """Those of its tasks that count."""
    keys: bytes = b""
    """`TASK_KEY_BYTES` for each of these tasks: SHA-256 over model and inputs, so that the same work has the same key in
    every job. Empty where they are not known."""
    frame: int = 0
    peer: PeerId = _NOBODY
    receipt: bytes = b""
    """`Signed` `Receipt` of the frame that the record answers, or b""."""

    def keyed(self) -> list[tuple[int, bytes]]:
        """Each task with its key, or b""."""
        size = TASK_KEY_BYTES if self.keys else 0
        return [(task, self.keys[size * place : size * (place + 1)]) for place, task in enumerate(self.tasks)]

    def with_tasks(self, is_wanted: Callable[[int, bytes], bool]) -> RecordRow:
        """The same row with those tasks only that are wanted, by number and key."""
        kept = [(task, key) for task, key in self.keyed() if is_wanted(task, key)]
        return replace(self, tasks=tuple(task for task, _ in kept), keys=b"".join(key for _, key in kept))


def counting(rows: Sequence[RecordRow]) -> list[RecordRow]:
    """The rows of one job, in the order in which they were added, with each task in the last that names it only."""
    seen: set[int] = set()
    found: list[RecordRow] = []
    for row in reversed(rows):
        kept = row if seen.isdisjoint(row.tasks) else row.with_tasks(lambda task, _: task not in seen)
        seen.update(row.tasks)
        if kept.tasks:
            found.append(kept)
    return found[::-1]


def with_keys(rows: Sequence[RecordRow], missing: set[bytes]) -> list[RecordRow]:
    """Rows with the tasks whose keys are `missing`, which they are not any more afterwards."""

    def is_wanted(_: int, key: bytes) -> bool:
        if key not in missing:
            return False
        missing.discard(key)
        return True

    return [found for row in rows if row.keys and (found := row.with_tasks(is_wanted)).tasks]


def in_order(receipts: Sequence[RecordRow]) -> list[RecordRow]:
    return sorted((row for row in receipts if row.receipt), key=lambda row: (row.frame, row.peer))
