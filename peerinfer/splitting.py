"""How items become tasks, and tasks become frames. Pure arithmetic, in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass

from peerinfer.limits import FRAME_SECONDS_TARGET, FRAME_TASKS_MAX, INLINE_BYTES_MAX, MIB

TASK_SECONDS_TARGET = 0.05
"""A task this long can be lost, repeated or audited cheaply, and is still long against its bookkeeping."""

TASK_ITEMS_MAX = 256
TASK_BYTES_TARGET = 1 * MIB
TASKS_WANTED = 64
"""So many tasks, where there are enough items, keep a handful of volunteers busy until the end."""

FIRST_FRAME_TASKS = 4
"""A peer of unknown speed gets this many tasks at first."""


@dataclass(frozen=True, slots=True)
class Split:
    """A job's items cut into tasks of `items_per_task`, the last one possibly shorter."""

    items: int
    items_per_task: int

    @property
    def tasks(self) -> int:
        return -(-self.items // self.items_per_task)

    def first_item(self, task: int) -> int:
        return task * self.items_per_task

    def items_of(self, task: int) -> int:
        return min(self.items_per_task, self.items - task * self.items_per_task)


def split_items(items: int, *, bytes_per_item: int, seconds_per_item: float, block: int, batch: int | None) -> Split:
    """Cuts `items` into tasks. `batch` fixes the items per task; every task holds whole blocks of `block` items."""
    if batch is not None:
        wanted = batch
    else:
        wanted = min(
            TASK_ITEMS_MAX,
            int(TASK_SECONDS_TARGET / max(seconds_per_item, 1e-9)),
            TASK_BYTES_TARGET // max(bytes_per_item, 1),
            -(-items // TASKS_WANTED),
        )
    whole_blocks = max(1, wanted // block) * block
    return Split(items, min(whole_blocks, max(items, 1)))


def frame_tasks(
    *,
    open_tasks: int,
    workers: int,
    seconds_per_task: float,
    bytes_per_task: int,
    rate_known: bool,
) -> int:
    """How many tasks the next frame for one worker should hold; at least 1.

    Enough for `FRAME_SECONDS_TARGET` of its time, but never more than half of a fair share of what is left, so that
    frames shrink toward the end of a job (weighted factoring; Hummel, Schonberg and Flynn, CACM 1992).
    """
    by_time = math.ceil(FRAME_SECONDS_TARGET / max(seconds_per_task, 1e-9))
    by_bytes = INLINE_BYTES_MAX // max(bytes_per_task, 1)
    by_share = math.ceil(open_tasks / (2 * max(workers, 1)))
    most = min(by_time, by_bytes, by_share, FRAME_TASKS_MAX)
    if not rate_known:
        most = min(most, FIRST_FRAME_TASKS)
    return max(1, most)
