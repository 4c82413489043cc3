"""How jobs ended, written down at once or, where the disk is full, as soon as it has room."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

import trio

from peerinfer.errors import StateUnusable
from peerinfer.ids import JobId
from peerinfer_node.log import Log
from peerinfer_node.ports import JobRow, Store

SAVE_AGAIN_S = 10.0
"""An end that could not be written down is tried again after this time."""


@dataclass(frozen=True, slots=True)
class _Ending:
    state: str
    ended_at_s: float
    summary: str


class Endings:
    """The ends of jobs. Those that are not written down yet are known to this process alone."""

    def __init__(self, *, store: Store, log: Log) -> None:
        self._store = store
        self._log = log
        self._unsaved: dict[JobId, _Ending] = {}
        """No more than jobs were live: a full disk takes no new ones."""

    async def save(self, nursery: trio.Nursery, job: JobId, state: str, *, ended_at_s: float, summary: str) -> None:
        ending = _Ending(state, ended_at_s, summary)
        try:
            await self._write(job, ending)
        except StateUnusable as error:
            self._log.warning("the end of a job could not be written down", job=job, reason=str(error))
            self._unsaved[job] = ending
            nursery.start_soon(self._write_later, job, ending)

    async def _write(self, job: JobId, ending: _Ending) -> None:
        await self._store.set_job_state(job, ending.state, ended_at_s=ending.ended_at_s, summary=ending.summary)

    async def _write_later(self, job: JobId, ending: _Ending) -> None:
        while job in self._unsaved:
            await trio.sleep(SAVE_AGAIN_S)
            with suppress(StateUnusable):
                await self._write(job, ending)
                del self._unsaved[job]

    def applied(self, row: JobRow) -> JobRow:
        """The row as it would stand, had its end been written."""
        ending = self._unsaved.get(row.job)
        if ending is None:
            return row
        return replace(row, state=ending.state, ended_at_s=ending.ended_at_s, summary=ending.summary)
