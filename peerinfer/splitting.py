"""How items become tasks. Pure arithmetic, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from peerinfer.limits import MIB

TASK_SECONDS_TARGET = 0.05
"""A task this long can be lost, repeated or audited cheaply, and is still long against its bookkeeping."""

TASK_ITEMS_MAX = 256
TASK_BYTES_TARGET = 1 * MIB
TASKS_WANTED = 64
"""So many tasks, where there are enough items, keep a handful of volunteers busy until the end."""


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

    def items_of_all(self, tasks: Sequence[int]) -> list[int]:
        """Only the last task may have fewer items than the others."""
        last = self.tasks - 1
        return [self.items_per_task if task < last else self.items_of(task) for task in tasks]


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
