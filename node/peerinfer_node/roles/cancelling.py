"""Ending a job that its owner does not want any more, whoever coordinates it, and however few of its electors answer.

A job has ended when its journal says so, which needs a quorum. So the owner's word is written down here first. Then
whoever coordinates the job is told, until that is read in the journals of a quorum, whatever anybody says; where nobody
does, this node stands for it like any candidate, and when it has the lease it writes nothing but the end. For whoever
cancels, the job is over at once. What its electors still have to hear they hear from this node, now or when they are back,
over restarts too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import trio

from peerinfer.assignment import JobCancelled
from peerinfer.control import JOB_ENDED, Json
from peerinfer.errors import UsageError
from peerinfer.ids import JobId, PeerId
from peerinfer.limits import JOB_UNLED_MAX_S
from peerinfer.replica_messages import JobCancelWanted
from peerinfer_node.log import Log
from peerinfer_node.ports import JobRow, LocalClock, Store
from peerinfer_node.roles.coordinator import CoordinatorRole
from peerinfer_node.roles.elections import Elections
from peerinfer_node.roles.live_job import Forget, LiveJob
from peerinfer_node.roles.returning import Returning

CANCEL_TIMEOUT_S = 15.0
"""Whoever cancels waits so long for the job's journal to say it; an election takes some seconds."""

CANCEL_AGAIN_S = 0.2
TELL_AGAIN_S = 5.0
"""The same for electors that did not answer in that time."""

CANCELLED = "cancelled by its owner"
UNWANTED = "unwanted"
"""What stands in the summary of a row until the journal of the job has its end."""

NEVER_HEARD = "cancelled by its owner; its electors never came back to hear of it"


class Cancelling:
    """The owner's side, and what whoever coordinates does at the owner's word."""

    def __init__(
        self,
        *,
        own: PeerId,
        store: Store,
        clock: LocalClock,
        live: Mapping[JobId, LiveJob],
        elections: Elections,
        coordinator: CoordinatorRole,
        returning: Returning,
        forget: Forget,
        log: Log,
    ) -> None:
        self._own = own
        self._store = store
        self._clock = clock
        self._live = live
        self._elections = elections
        self._coordinator = coordinator
        self._returning = returning
        self._forget = forget
        self._log = log

    async def cancel(self, live: LiveJob, nursery: trio.Nursery) -> bool:
        """Returns True when the job has ended; False if its electors were waited for long enough, and hear of it later.

        Raises `UsageError` if it is somebody else's.
        """
        if live.manifest.submitter != self._own:
            raise UsageError(f"job {live.job} is not this node's: only {live.manifest.submitter} can cancel it")
        if not live.is_unwanted:
            row = await self._store.job(live.job)
            # Its end may be on its way to the disk, and must stay what is written last.
            if row is not None and row.state not in JOB_ENDED and not live.is_over:
                unwanted = json.dumps({UNWANTED: True})
                await self._store.set_job_state(live.job, row.state, ended_at_s=None, summary=unwanted)
            if not live.is_unwanted:  # somebody else may have asked meanwhile
                live.is_unwanted = True
                nursery.start_soon(self.see_to, live)
        with trio.move_on_after(CANCEL_TIMEOUT_S):
            await self._wait_over(live)
        return live.job not in self._live

    def is_wanted(self, row: JobRow) -> bool:
        """False if its owner, this node, has cancelled it, and not all who should have heard of it."""
        return not json.loads(row.summary).get(UNWANTED)

    async def see_to(self, live: LiveJob) -> None:
        """Tries until the job's journal has its end, or it is so old that its electors have given it up."""
        began_s = trio.current_time()
        while live.job in self._live:
            if live.body is not None:
                self._coordinator.post(JobCancelled(live.job, CANCELLED))
            elif len(live.manifest.committee) > 1:
                await self._tell(live)
            if self._clock.wall_s() > live.manifest.created_at_s + JOB_UNLED_MAX_S:
                await self._forget(live, "cancelled", NEVER_HEARD, "")
                return
            await trio.sleep(CANCEL_AGAIN_S if trio.current_time() < began_s + CANCEL_TIMEOUT_S else TELL_AGAIN_S)

    async def _tell(self, live: LiveJob) -> None:
        """A round. Whoever says that the job has ended may be lying: this node looks into the journals of a quorum then."""

        def heard(peer: PeerId, state: Json) -> None:
            if state.get("state") in JOB_ENDED:
                self._elections.campaign(live.job)

        async def until_over() -> None:
            await self._wait_over(live)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_over)
            await self._returning.tell(live, JobCancelWanted(live.job), heard, CANCEL_AGAIN_S)
            nursery.cancel_scope.cancel()

    async def _wait_over(self, live: LiveJob) -> None:
        while live.job in self._live:
            await live.wait_change(live.changes)

    def won(self, live: LiveJob) -> None:
        """This node has the lease of a job that it does not want: it writes the end, and nothing else."""
        self._log.info("job cancelled", job=live.job)
        self._elections.write(live.job, (), event="cancelled", detail=json.dumps([CANCELLED, ""]), now=True)

    def cancel_for(self, job: JobId) -> None:
        """Its owner asks; that it is the owner was checked. Who does not coordinate will be asked again."""
        live = self._live.get(job)
        if live is not None and live.body is not None:
            self._coordinator.post(JobCancelled(job, CANCELLED))
