"""What is told of this node's jobs: which there are, how each stands, and how it goes on while somebody watches."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping

import trio

from peerinfer.control import JOB_ENDED, Json
from peerinfer.errors import UnknownJob, UsageError
from peerinfer.ids import JobId, PeerId, is_job_id
from peerinfer.job_ends import check_own
from peerinfer_node.ports import JobRow, Store
from peerinfer_node.roles.elsewhere import Elsewhere
from peerinfer_node.roles.endings import Endings
from peerinfer_node.roles.job_views import job_json, provenance_json
from peerinfer_node.roles.live_job import LiveJob
from peerinfer_node.roles.live_views import LiveViews

WATCH_INTERVAL_S = 0.1
ENDS_WITH_NODE = "attached"
"""State, in the store, of a job whose node lives as long as the command that submitted it."""

PREFIX_CHARS_MIN = 4


class ShownJobs:
    """Reads the jobs that are not over, `live`, and the rows of all."""

    def __init__(
        self,
        *,
        own: PeerId,
        store: Store,
        live: Mapping[JobId, LiveJob],
        views: LiveViews,
        endings: Endings,
        elsewhere: Elsewhere,
    ) -> None:
        self._own = own
        self._store = store
        self._live = live
        self._views = views
        self._endings = endings
        self._elsewhere = elsewhere

    async def row(self, job: str) -> JobRow:
        """The row of the job with this id, or the only one whose id begins so. Raises `UsageError`, `UnknownJob`."""
        if is_job_id(job):
            row = await self._store.job(JobId(job))
            if row is not None:
                return await self._newest(row)
        elif PREFIX_CHARS_MIN <= len(job) < 32:
            matches = [row for row in await self._store.jobs() if row.job.startswith(job)]
            if len(matches) == 1:
                return await self._newest(matches[0])
            if matches:
                raise UsageError(f"{len(matches)} jobs begin with {job!r}; give more of the id")
        raise UnknownJob(f"there is no job {job[:40]!r}; `peerinfer jobs` lists them")

    async def own_row(self, job: str) -> JobRow:
        """As `row`, of a job that was submitted here. Raises `UsageError` for one of others."""
        row = await self.row(job)
        check_own(self._json(row))
        return row

    async def _newest(self, row: JobRow) -> JobRow:
        """The row, read again if the job has ended since: what it said then would be taken for how it ended."""
        if row.job in self._live or row.state in JOB_ENDED:
            return row
        return self._endings.applied(await self._store.job(row.job) or row)

    async def everything(self, nursery: trio.Nursery) -> list[Json]:
        """All of them; coordinators elsewhere are asked in `nursery`, and not waited for."""
        rows = [await self._newest(row) for row in await self._store.jobs() if self._concerns(row)]
        await self._elsewhere.look(nursery, [live for row in rows if (live := self._led_by_another(row.job))])
        return [self._json(await self._newest(row)) for row in rows]

    def _led_by_another(self, job: JobId) -> LiveJob | None:
        """Or by nobody. Of what this node has cancelled it tells itself."""
        live = self._live.get(job)
        is_led_here = live is None or live.body is not None or len(live.manifest.committee) == 1
        return None if live is None or is_led_here or live.is_unwanted else live

    def _concerns(self, row: JobRow) -> bool:
        """False for jobs of others that this node only keeps copies of."""
        if "replica" not in json.loads(row.request):
            return True
        live = self._live.get(row.job)
        if live is not None:
            return live.body is not None
        coordinated = json.loads(row.summary).get("handovers", [])
        return any(each["coordinator"] == self._own for each in coordinated)

    async def show(self, job: str) -> Json:
        row = await self.row(job)
        if (live := self._led_by_another(row.job)) is not None:
            await self._elsewhere.hear(live)
        return self._json(await self._newest(row))

    async def state_for(self, job: JobId) -> Json | None:
        """What another candidate is told, if this node knows better than others: it coordinates, or the job has ended."""
        row = await self._store.job(job)
        if row is None:
            return None
        row = await self._newest(row)
        live = self._live.get(job)
        knows = live.body is not None if live is not None else row.state in JOB_ENDED
        return self._json(row) if knows else None

    async def watch(self, job: str) -> AsyncIterator[Json]:
        row = await self.row(job)
        while True:
            live = self._live.get(row.job)
            if live is None or (live.is_unwanted and live.body is None):
                yield await self.show(job)
                return
            seen = live.changes
            yield await self.show(job)
            if self._led_by_another(row.job):
                with trio.move_on_after(1.0):
                    await live.wait_change(seen)
                continue
            await live.wait_change(seen)
            with trio.move_on_after(WATCH_INTERVAL_S):
                while row.job in self._live:
                    await live.wait_change(live.changes)

    async def provenance(self, job: str) -> Json:
        row = await self.row(job)
        return provenance_json(row, self._json(row), await self._store.receipts_of(row.job))

    def _json(self, row: JobRow) -> Json:
        live = self._live.get(row.job)
        if live is None:
            state = "failed" if row.state == ENDS_WITH_NODE else row.state
            return job_json(row, state, json.loads(row.summary))
        if live.is_unwanted and live.body is None:
            return job_json(row, "cancelled", self._views.known(live) | {"reason": self._views.untold(live)})
        # Until a job is accepted, and while this node alone elects, nobody else is waited for.
        is_own = not live.accepted.is_set() or live.manifest.committee == (self._own,)
        state = "running" if live.body is not None or is_own else "paused"
        shown = job_json(row, state, self._views.known(live))
        return self._elsewhere.view(row.job, shown) if self._led_by_another(row.job) else shown
