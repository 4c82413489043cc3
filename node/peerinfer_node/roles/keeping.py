"""What is kept of jobs that are over, here and for how long.

While a job runs, its model and inputs are pinned by whoever may coordinate it, and results of other nodes' jobs lie on
the disks of their electors. When it has ended, its inputs leave the disk at once, and its model may be thrown out like
any other. The results of another node's job go when their submitter has them at home, when there is no room for them
any more (`kept_results`), or after `RESULTS_KEPT_S`; then its journal goes too, and the seat is given up. This node's own
results stay, of the last `JOBS_KEPT_MAX` jobs.

A seat that was given up is never taken again: what was promised for it is not known any more. So whoever comes back to
such a job hears from a quorum of its electors that they gave it up, and gives it up as well.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import trio

from peerinfer.control import JOB_ENDED, Json
from peerinfer.envelope import unseal
from peerinfer.errors import PeerinferError, ProtocolError, StateUnusable
from peerinfer.ids import JobId, PeerId
from peerinfer.journal import Chain
from peerinfer.limits import JOB_UNLED_MAX_S, MANIFEST_SKEW_MAX_S, RESULTS_KEPT_S
from peerinfer.manifests import open_manifest
from peerinfer.messages import Manifest
from peerinfer.replica_messages import JobStateWanted
from peerinfer_node.log import Log
from peerinfer_node.ports import BlobStore, JobRow, LocalClock, Store
from peerinfer_node.roles.elections import Elections
from peerinfer_node.roles.kept_results import KeptResults
from peerinfer_node.roles.live_job import in_journal, tasks_of
from peerinfer_node.roles.replicas import Replicas, copies_of

LOOK_EVERY_S = 60.0
TELL_S = 15.0
"""The electors read the end of a job in its journal, which takes a round trip or two."""

TELL_AGAIN_S = 0.5
FETCHED = "its submitter has them"
EXPIRED = "given up"
"""What a job's JSON says under `results_gone`: why this node has no results of it any more."""

GIVEN_UP = "its electors gave it up long ago, and its results"


class Keeping:
    """Run it from the start of a node; `begin` first, before anything is pinned."""

    def __init__(
        self,
        *,
        own: PeerId,
        store: Store,
        blobs: BlobStore,
        clock: LocalClock,
        elections: Elections,
        replicas: Replicas,
        log: Log,
    ) -> None:
        self._own = own
        self._store = store
        self._blobs = blobs
        self._clock = clock
        self._elections = elections
        self._replicas = replicas
        self._log = log
        self._led_s: dict[JobId, float] = {}
        """When each job was seen to be coordinated last, by this node's own clock. Others' dates may be lies."""
        self._results = KeptResults(store=store, let_go=self._let_go)
        self.check_room, self.make_room = self._results.check_room, self._results.make_room
        """To be called before a record of another node's job is fetched, and before it is kept."""
        self.forget: Callable[[JobId, str], Awaitable[None]] = _forget_nothing
        """Called with a job that is given up, and why: it ends on this node."""

    async def begin(self) -> None:
        """Takes back the pins of jobs that are over, and of what an earlier run of this node was in the middle of."""
        holders = [
            holder
            for row in await self._store.jobs()
            if row.state not in JOB_ENDED
            for holder in (row.job, copies_of(row.job))
        ]
        await self._blobs.unpin_all_but(holders)
        await self._results.look()

    async def run(self) -> None:
        while True:
            try:
                await self.look()
            except StateUnusable as error:  # A full disk: there may be room the next time.
                self._log.warning("what is over could not be removed", reason=str(error))
            await trio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Lets go of what has been kept long enough."""
        now_s = self._clock.wall_s()
        rows = {row.job: row for row in await self._store.jobs()}
        # Signatures are looked at last: there may be a thousand rows and thousands of seats, and a node has other work.
        for row in rows.values():
            is_old = row.ended_at_s is not None and row.ended_at_s + RESULTS_KEPT_S < now_s
            if is_old and json.loads(row.summary).get("results_gone") != EXPIRED and _is_others(row, self._own):
                await self._let_go(row, EXPIRED)
        await self._results.look()
        seats = self._elections.elector.snapshot_at(self._clock.elector_s())
        self._led_s = {seat.job: now_s if seat.remaining_s > 0 else self._led_s.get(seat.job, 0.0) for seat in seats}
        for seat in seats:
            known = rows.get(seat.job)
            if seat.is_over:
                row_s = known.ended_at_s if known is not None else None
                if (self._active_s(seat.job) if row_s is None else row_s) + RESULTS_KEPT_S < now_s:
                    self._elections.own_elector.give_up(seat.job)
            elif seat.remaining_s <= 0:
                active_s = self._active_s(seat.job)
                if active_s + JOB_UNLED_MAX_S < now_s:
                    await self._give_up(seat.job, "nobody coordinated it for too long")
                elif active_s + RESULTS_KEPT_S < now_s and await self.is_given_up(seat.job):
                    await self._give_up(seat.job, GIVEN_UP)

    def _active_s(self, job: JobId) -> float:
        """When it was last seen to be coordinated, something was written into its journal, or it was submitted.

        The journal's date is of the clock of who wrote it: one in the future would keep the seat for ever.
        """
        elector, now_s = self._elections.elector, self._clock.wall_s()
        chain, signed = elector.chain(job), elector.manifest(job)
        last_s = chain.last_at_s if chain is not None else 0.0
        active_s = max(self._led_s.get(job, 0.0), last_s if last_s < now_s + MANIFEST_SKEW_MAX_S else 0.0)
        if active_s + RESULTS_KEPT_S > now_s or signed is None:
            return active_s
        return max(active_s, open_manifest(signed)[1].created_at_s)

    # --- letting go --------------------------------------------------------------------------------------------------

    async def ended(self, job: JobId) -> None:
        """Nobody will compute anything of this job any more: what was pinned for it is not needed."""
        try:
            await self._blobs.unpin(job)
            await self._replicas.let_go_of_copies(job, discard=True)
        except PeerinferError as error:
            self._log.warning("blobs of a job not removed", job=job, reason=str(error))

    async def is_given_up(self, job: JobId) -> bool:
        """Whether a quorum of its electors says that they gave it up: so it can have no coordinator any more."""
        row = await self._store.job(job)
        signed = self._elections.elector.manifest(job) or (row.manifest if row is not None else None)
        if signed is None:
            return False
        _, manifest = open_manifest(signed)
        said: list[PeerId] = []

        async def ask(elector: PeerId) -> None:
            try:
                state = await self._replicas.state(elector, JobStateWanted(job))
            except PeerinferError:
                return
            if state is not None and state.get("results_gone") == EXPIRED:
                said.append(elector)

        async with trio.open_nursery() as nursery:
            for elector in self._elections.committee(job, manifest):
                if elector != self._own:
                    nursery.start_soon(ask, elector)
        return len(said) >= self._elections.seated(job, manifest).quorum

    async def _give_up(self, job: JobId, reason: str) -> None:
        """Nothing of another node's job is kept here any more."""
        self._log.warning("job given up", job=job, reason=reason)
        await self.forget(job, reason)
        self._elections.own_elector.give_up(job)
        row = await self._store.job(job)
        if row is not None and _is_others(row, self._own):
            await self._let_go(row, EXPIRED)

    async def note_fetched(self, job: JobId) -> None:
        """Its submitter has the results at home. Raises `ProtocolError` if it is not known here that the job has ended."""
        row = await self._store.job(job)
        if row is None or not _is_others(row, self._own):
            return
        if row.state not in JOB_ENDED:
            raise ProtocolError("the job has not ended here")
        await self._let_go(row, FETCHED)

    async def _let_go(self, row: JobRow, why: str) -> None:
        await self._results.drop(row.job)
        summary: Json = json.loads(row.summary)
        if summary.get("results_gone") in (why, EXPIRED):
            return
        summary["results_gone"] = why
        await self._store.set_job_state(row.job, row.state, ended_at_s=row.ended_at_s, summary=json.dumps(summary))
        self._log.info("results of a job removed", job=row.job, why=why)

    # --- at home -----------------------------------------------------------------------------------------------------

    async def tell_at_home(self, job: JobId, manifest: Manifest, chain: Chain) -> None:
        """Tells the electors that the results of this node's own job are here to stay, if they are."""
        if manifest.submitter != self._own or len(manifest.committee) == 1:
            return
        final, _ = in_journal(chain)
        try:
            if not final.keys() <= tasks_of(await self._store.records_of(job)):
                return
            await self._store.settle(job)
        except StateUnusable as error:
            self._log.info("results not settled", job=job, reason=str(error))
            return
        async with trio.open_nursery() as nursery:
            for elector in self._elections.committee(job, manifest):
                if elector != self._own:
                    nursery.start_soon(self._tell, elector, job)

    async def _tell(self, elector: PeerId, job: JobId) -> None:
        """One that has not heard yet that the job is over, or cannot be reached, lets it expire if it never does."""
        with trio.move_on_after(TELL_S):
            while True:
                try:
                    await self._replicas.tell_at_home(elector, job)
                    return
                except PeerinferError as error:
                    self._log.debug("elector keeps its copies for now", job=job, peer=elector, reason=str(error))
                    await trio.sleep(TELL_AGAIN_S)


async def _forget_nothing(job: JobId, reason: str) -> None:
    pass


def _is_others(row: JobRow, own: PeerId) -> bool:
    _, manifest = unseal(Manifest, row.manifest)
    return manifest.submitter != own
