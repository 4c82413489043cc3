"""How much of this disk results of other nodes' jobs may take, and what makes room for more.

Results of a job that is over go first, those of the job that ended first before all others: their submitter has had the
longest time to fetch them, and other electors may still hold them. Results of jobs that are not over stay; where they
leave no room for another record it is refused, and whoever coordinates that job shows it, until a quorum has room.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence

from peerinfer.errors import LimitExceeded
from peerinfer.ids import JobId
from peerinfer.limits import RESULTS_FOR_OTHERS_BYTES_MAX
from peerinfer_node.ports import JobRow, Store

NO_ROOM = "removed to make room for newer ones"
"""What a job's JSON says under `results_gone` of results that were not fetched in time."""

LetGo = Callable[[JobRow, str], Awaitable[None]]
"""Removes the results of a job that is over, by `KeptResults.drop`, and notes why."""


class KeptResults:
    """Counts what comes; what this node itself writes as a coordinator is found when it looks at its disk again."""

    def __init__(self, *, store: Store, let_go: LetGo) -> None:
        self._store = store
        self._let_go = let_go
        self._bytes: dict[JobId, int] = {}

    async def look(self) -> None:
        """Measures what is there, and makes room if that is too much."""
        before = dict(self._bytes)
        rows = [row for row in await self._store.jobs() if "replica" in json.loads(row.request)]
        there = {row.job for row in rows}
        for job in before:
            if job not in there:
                self._bytes.pop(job, None)
        for row in rows:
            measured = await self._store.results_bytes(row.job)
            # Records came and results went while the disk answered. One that was counted and measured counts twice until
            # the next look: rather that than one that does not count.
            meanwhile = self._bytes.get(row.job, 0) - before.get(row.job, 0)
            self._bytes[row.job] = max(0, measured + meanwhile)
        await self._evict(await self._over(), RESULTS_FOR_OTHERS_BYTES_MAX)

    async def check_room(self, size: int) -> list[JobRow]:
        """The jobs whose results would go first for a record of `size` bytes. Raises `LimitExceeded` if that is not enough.

        Nothing goes for what is only announced.
        """
        if self._kept <= RESULTS_FOR_OTHERS_BYTES_MAX - size:
            return []
        over = await self._over()
        if self._kept - sum(self._bytes.get(row.job, 0) for row in over) > RESULTS_FOR_OTHERS_BYTES_MAX - size:
            raise LimitExceeded(
                "results kept for others",
                current=self._kept,
                attempted=size,
                limit=RESULTS_FOR_OTHERS_BYTES_MAX,
                unit="bytes",
            )
        return over

    async def make_room(self, job: JobId, size: int) -> None:
        """Before a record of `size` bytes is kept for this job. Raises `LimitExceeded` if no room can be made."""
        allowed = RESULTS_FOR_OTHERS_BYTES_MAX - size
        while self._kept > allowed:
            await self._evict(await self.check_room(size), allowed)
        self._bytes[job] = self._bytes.get(job, 0) + size

    async def drop(self, job: JobId) -> None:
        """Its results leave the disk, and count no more."""
        await self._store.drop_results(job)
        self._bytes.pop(job, None)

    @property
    def _kept(self) -> int:
        return sum(self._bytes.values())

    async def _over(self) -> list[JobRow]:
        """Jobs that have ended and whose results are here, as they ended."""
        rows = [await self._store.job(job) for job, size in list(self._bytes.items()) if size]
        over = [row for row in rows if row is not None and row.ended_at_s is not None]
        return sorted(over, key=lambda row: (row.ended_at_s or 0.0, row.job))

    async def _evict(self, over: Sequence[JobRow], allowed: int) -> None:
        for row in over:
            if self._kept <= allowed:
                return
            await self._let_go(row, NO_ROOM)
