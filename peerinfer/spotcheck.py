"""One worker's results of one job under the `spot` policy: from its answer to the moment at which they count.

A random sample of what a worker answers is computed again by somebody trusted. A worker cannot know which tasks are
drawn, and has committed to its outputs before. What it answered counts once an audit that was drawn at the same time or
later has passed, and none that was drawn earlier is still out; so nothing counts that no audit could have spoiled. At
the end of a job one more task is drawn for whatever is left.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

SPOT_PROBABILITY = 0.05
"""Share of a worker's tasks that is computed again."""


class SpotCheck:
    """Tasks in order of arrival; positions count from the first task the worker ever answered in this job."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._unsettled: list[int] = []
        self._settled = 0
        self._covered = 0
        self._audits: dict[int, tuple[int, int]] = {}
        """Audited task → its own position, and the position up to which its audit covers."""

    @property
    def unsettled(self) -> Sequence[int]:
        """Answered, and not counting yet."""
        return self._unsettled

    @property
    def audits(self) -> Sequence[int]:
        """Tasks whose audit is out."""
        return tuple(self._audits)

    def add(self, tasks: Sequence[int], *, draw: bool) -> list[int]:
        """Takes an answer; returns the tasks drawn for an audit. A worker's first answer always has one."""
        is_first = not self._settled and not self._unsettled
        start = self._settled + len(self._unsettled)
        self._unsettled += tasks
        end = start + len(tasks)
        drawn = [place for place in range(len(tasks)) if draw and self._rng.random() < SPOT_PROBABILITY]
        if is_first and not drawn:
            drawn = [self._rng.randrange(len(tasks))]
        for place in drawn:
            self._audits[tasks[place]] = (start + place, end)
        return [tasks[place] for place in drawn]

    def draw_last(self) -> int | None:
        """A task to audit so that the rest can count; None if an audit is out already, or nothing is left."""
        if self._audits or not self._unsettled:
            return None
        place = self._rng.randrange(len(self._unsettled))
        task = self._unsettled[place]
        self._audits[task] = (self._settled + place, self._settled + len(self._unsettled))
        return task

    def passed(self, task: int) -> list[int]:
        """An audit found nothing wrong: the tasks that count from now on."""
        _, covers = self._audits.pop(task)
        self._covered = max(self._covered, covers)
        reach = min((position for position, _ in self._audits.values()), default=self._covered)
        count = max(min(reach, self._covered) - self._settled, 0)
        counts, self._unsettled = self._unsettled[:count], self._unsettled[count:]
        self._settled += count
        return counts

    def check(self) -> None:
        end = self._settled + len(self._unsettled)
        assert all(covers <= end for _, covers in self._audits.values()), "an audit covers what was not answered"
        assert self._covered <= end, f"{self._covered} of {end} tasks are covered"
        assert len(set(self._unsettled)) == len(self._unsettled), "a task waits twice"
