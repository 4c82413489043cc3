"""The life of this node's jobs: accepted, coordinated while their lease is held, taken over, watched, fetched.

A job is coordinated by whoever holds its lease. The submitter campaigns first; its inputs are then in its own files.
An elector that keeps a copy of them stands by and campaigns when the lease lapses. Winning, losing and ending all come
from the elections; this role makes the tensors follow.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import trio

from peerinfer.assignment import JobEnded, TasksCommitted
from peerinfer.binding import bind
from peerinfer.codec import decode_as
from peerinfer.control import JOB_ENDED, JobRequest, Json, ResultBlock
from peerinfer.envelope import unseal
from peerinfer.errors import JobFailed, PeerinferError, StateUnusable, UsageError
from peerinfer.ids import JobId
from peerinfer.journal import Chain
from peerinfer.journal_rules import PRIORITY
from peerinfer.lease_messages import JournalBatch
from peerinfer.membership_events import Member
from peerinfer.messages import Manifest, Signed, Term
from peerinfer.splitting import Split
from peerinfer_node.log import Log
from peerinfer_node.ports import BlobStore, Executor, InThread, JobRow, Keys, LocalClock, Network, Store
from peerinfer_node.roles.blobs import BlobServer
from peerinfer_node.roles.cancelling import Cancelling
from peerinfer_node.roles.coordinating import Coordinating
from peerinfer_node.roles.coordinator import CoordinatorRole
from peerinfer_node.roles.elections import Elections
from peerinfer_node.roles.elsewhere import Elsewhere
from peerinfer_node.roles.endings import Endings
from peerinfer_node.roles.job_views import totals_in
from peerinfer_node.roles.keeping import Keeping
from peerinfer_node.roles.live_job import LiveJob, how_it_ended, led, plain, tasks_of
from peerinfer_node.roles.live_views import LiveViews
from peerinfer_node.roles.past_journals import PastJournals
from peerinfer_node.roles.preparation import Preparation, Prepared
from peerinfer_node.roles.priorities import Priorities
from peerinfer_node.roles.recorder import named_in
from peerinfer_node.roles.replicas import STANDBY, Replicas
from peerinfer_node.roles.replication import Replication
from peerinfer_node.roles.rescuing import Propose, Rescuing, history_of, named_generation
from peerinfer_node.roles.returning import REJOIN_AGAIN_S, Returning
from peerinfer_node.roles.shown_jobs import ENDS_WITH_NODE, ShownJobs
from peerinfer_node.roles.stored_job import read_results
from peerinfer_node.roles.submitting import Submitting
from peerinfer_node.roles.vigils import Vigils

REVISIT_S = 20.0
"""A command without a daemon waits so long until it is known how a job of its home stands."""

TELL_TIMEOUT_S = 2.0
"""So long a command that fetches results tells the electors that they need not keep theirs."""


class Jobs:
    """What `Control` offers of jobs. The executor given is this node's own, for checks."""

    def __init__(
        self,
        *,
        store: Store,
        blobs: BlobStore,
        keys: Keys,
        network: Network,
        swarm: str,
        clock: LocalClock,
        log: Log,
        executor: Executor,
        coordinator: CoordinatorRole,
        elections: Elections,
        replicas: Replicas,
        propose: Propose,
        rng: random.Random,
        on_accept: Callable[[], None],
        blob_server: BlobServer,
        in_thread: InThread,
        members: Callable[[], Iterable[Member]],
        outlasts_jobs: bool,
    ) -> None:
        self._store = store
        self._own = keys.peer_id
        self._clock = clock
        self._log = log
        self._coordinator = coordinator
        self._elections = elections
        self._outlasts_jobs = outlasts_jobs
        self._preparation = Preparation(blobs=blobs, executor=executor, in_thread=in_thread, log=log)
        self._replication = Replication(
            blobs=blobs,
            blob_server=blob_server,
            replicas=replicas,
            elections=elections,
            in_thread=in_thread,
            log=log,
            sign=keys.sign,
        )
        self._coordinating = Coordinating(
            own=self._own,
            store=store,
            blobs=blobs,
            executor=executor,
            coordinator=coordinator,
            elections=elections,
            replicas=replicas,
            replication=self._replication,
            preparation=self._preparation,
            in_thread=in_thread,
            log=log,
            on_accept=on_accept,
            on_end=self._note_end,
            forget=self._forget,
        )
        self._keeping = Keeping(
            own=self._own, store=store, blobs=blobs, clock=clock, elections=elections, replicas=replicas, log=log
        )
        self._keeping.forget = self._give_up_live
        replicas.note_fetched = self._keeping.note_fetched
        replicas.check_room, replicas.make_room = self._keeping.check_room, self._keeping.make_room
        self._returning = Returning(
            own=self._own,
            replicas=replicas,
            elections=elections,
            log=log,
            stand=lambda live, campaign: self._stand(live, campaign=campaign),
            is_given_up=self._keeping.is_given_up,
            give_up=self._give_up_live,
        )
        self._priorities = Priorities(
            own=self._own,
            sign=keys.sign,
            wall_s=clock.wall_s,
            elections=elections,
            coordinator=coordinator,
            returning=self._returning,
        )
        self._endings = Endings(store=store, log=log)
        self._views = LiveViews(elections=elections, coordinator=coordinator, clock=clock)
        self._live: dict[JobId, LiveJob] = {}
        self._journals = PastJournals(store=store, elections=elections)
        self._nursery: trio.Nursery | None = None
        self.shown = ShownJobs(
            own=self._own,
            store=store,
            live=self._live,
            views=self._views,
            endings=self._endings,
            elsewhere=Elsewhere(ask=self._returning.ask_others, clock=clock),
        )
        self._cancelling = Cancelling(
            own=self._own,
            store=store,
            clock=clock,
            live=self._live,
            elections=elections,
            coordinator=coordinator,
            returning=self._returning,
            forget=self._forget,
            log=log,
        )
        self._submitting = Submitting(
            keys=keys,
            store=store,
            blobs=blobs,
            clock=clock,
            coordinator=coordinator,
            elections=elections,
            preparation=self._preparation,
            replication=self._replication,
            cancelling=self._cancelling,
            propose=propose,
            rng=rng,
            log=log,
            outlasts_jobs=outlasts_jobs,
            add=self._add,
            stand=lambda live: self._stand(live, campaign=True),
            forget=self._forget,
        )
        replicas.jobs = self
        elections.own_elector.on_unsaved = self._seat_unsaved
        elections.on_replaced = self._replaced
        self.rescuing = Rescuing(
            keys=keys,
            network=network,
            store=store,
            clock=clock,
            elections=elections,
            coordinating=self._coordinating,
            propose=propose,
            stand=lambda live: self._stand(live, campaign=True),
            log=log,
            swarm=swarm,
        )
        self._vigils = Vigils(
            own=self._own,
            live=self._live,
            members=members,
            elections=elections,
            returning=self._returning,
            rescuing=self.rescuing,
            clock=clock,
            log=log,
        )

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Reports started once jobs can be taken up."""
        await self._keeping.begin()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if self._outlasts_jobs:
                nursery.start_soon(self._keeping.run)
                nursery.start_soon(self._vigils.run)
            task_status.started()
            await trio.sleep_forever()

    # --- accepting ---------------------------------------------------------------------------------------------------

    async def prepare(self, request: JobRequest) -> Prepared:
        """Checks a request without sending anything. Raises `InputError` and its kinds."""
        return await self._preparation.prepare(request)

    async def submit(self, request: JobRequest) -> JobId:
        """As `Submitting.submit`."""
        assert self._nursery is not None
        return await self._submitting.submit(request, self._nursery)

    def _add(self, job: JobId, manifest: Manifest, signed: bytes, request: JobRequest) -> LiveJob:
        live = self._live[job] = LiveJob(job, manifest, signed, request, self._clock.now_s())
        return live

    def _stand(self, live: LiveJob, *, campaign: bool) -> None:
        self._elections.stand(
            live.job,
            live.signed,
            campaign=campaign,
            on_won=lambda term: self._won(live, term),
            on_lost=lambda reason: self._lost(live, reason),
            on_committed=lambda batches: self._committed(live, batches),
            on_over=lambda chain: self._over(live, chain),
        )

    async def take_up(self) -> None:
        """Goes on with what this node did before it stopped: its own jobs, and those it keeps copies of."""
        for row in await self._store.jobs():
            if row.state not in JOB_ENDED and row.job not in self._live:
                await self._take_up(row)

    async def _take_up(self, row: JobRow) -> None:
        if row.state == STANDBY:
            self.stand_by(row.job, row.manifest)
            return
        if row.state == ENDS_WITH_NODE:
            await self._give_up(row.job, "the command that ran it ended; run it again with --resume", "JobFailed")
            return
        try:
            request = JobRequest.from_json(row.request)
            _, manifest = unseal(Manifest, row.manifest)
            live = self._add(row.job, manifest, row.manifest, request)
            live.started_s -= max(0.0, self._clock.wall_s() - manifest.created_at_s)
            named = await named_generation(self._store, row.job)
            if named:
                self._elections.begin_generation(row.job, named)
                live.history = await history_of(self._store, row.job)
            if manifest.committee == (self._own,):
                self._stand(live, campaign=True)
            else:
                live.accepted.set()
                assert self._nursery is not None
                self._nursery.start_soon(self._returning.rejoin, live)
            if not self._cancelling.is_wanted(row):
                live.is_unwanted = True
                assert self._nursery is not None
                self._nursery.start_soon(self._cancelling.see_to, live)
        except PeerinferError as error:
            self._log.warning("job cannot go on", job=row.job, reason=str(error))
            await self._give_up(row.job, str(error), type(error).__name__)

    async def revisit(self, job: str) -> None:
        """Takes up one job, in a node that lives as long as a command; returns when it is known how it stands."""
        row = await self.shown.row(job)
        if row.state in JOB_ENDED or row.job in self._live:
            return
        await self._take_up(row)
        with trio.move_on_after(REVISIT_S):
            while (live := self._live.get(row.job)) is not None and live.body is None:
                state = await self._returning.ask_others(live)
                # Of one that says that it has ended, the journals are read and the results fetched first.
                if state is not None and state.get("state") not in JOB_ENDED:
                    return
                await trio.sleep(REJOIN_AGAIN_S)

    async def _give_up(self, job: JobId, reason: str, kind: str) -> None:
        summary = json.dumps({"reason": reason, "kind": kind})
        await self._store.set_job_state(job, "failed", ended_at_s=self._clock.wall_s(), summary=summary)

    async def _give_up_live(self, job: JobId, reason: str) -> None:
        live = self._live.get(job)
        if live is not None:
            live.is_over = True
            await self._forget(live, "failed", reason, "JobFailed")

    def stand_by(self, job: JobId, signed_manifest: bytes) -> None:
        """Is ready to coordinate a job that this node keeps a copy of."""
        if job not in self._live:
            _, manifest = unseal(Manifest, signed_manifest)
            request = JobRequest("-", ("-",))  # Read from the copy when it is needed.
            live = self._add(job, manifest, signed_manifest, request)
            live.accepted.set()
            self._stand(live, campaign=False)

    # --- coordinating ------------------------------------------------------------------------------------------------

    def _won(self, live: LiveJob, term: Term) -> None:
        if live.is_unwanted:
            self._cancelling.won(live)
            return
        assert self._nursery is not None
        self._nursery.start_soon(self._coordinating.coordinate, live, term)

    def _lost(self, live: LiveJob, reason: str) -> None:
        live.waiting = reason
        live.picture = self._coordinator.machine.picture(live.job) or live.picture
        live.body = None
        self._coordinator.drop(live.job, reason)
        if live.scope is not None:
            live.scope.cancel()
        live.note_change()
        assert self._nursery is not None
        self._nursery.start_soon(self._returning.follow, live)

    def _committed(self, live: LiveJob, batches: Sequence[bytes]) -> None:
        opened = [decode_as(JournalBatch, decode_as(Signed, signed).payload) for signed in batches]
        for batch in opened:
            if batch.event == PRIORITY:
                self._priorities.committed(live, batch.detail)
        tasks = [task for batch in opened for task in batch.tasks]
        if tasks:
            self._coordinator.post(TasksCommitted(live.job, tuple(tasks)))

    # --- ending ------------------------------------------------------------------------------------------------------

    def _note_end(self, live: LiveJob, end: JobEnded) -> None:
        """The machine is done with the job; it has ended when the journal says so."""
        others_can = live.survives or live.manifest.submitter != self._own
        if end.kind == StateUnusable.__name__ and others_can:
            self._elections.hand_over(live.job, end.reason)  # A full disk here is no reason for the job to fail.
            return
        live.picture, live.end = end.picture, end
        detail = json.dumps([end.reason[:300], end.kind])
        self._elections.write(live.job, (), event=end.state, detail=detail, now=True)

    def _seat_unsaved(self, job: JobId, reason: str) -> None:
        """A job with other electors goes on with those; one that has only this one would wait for a disk for ever."""
        live = self._live.get(job)
        if live is not None and not live.is_over and live.manifest.committee == (self._own,):
            live.is_over = True
            assert self._nursery is not None
            self._nursery.start_soon(self._forget, live, "failed", reason, StateUnusable.__name__)

    def _replaced(self, job: JobId) -> None:
        """Its owner has named another committee: what was kept for it here is let go."""
        live = self._live.get(job)
        if live is not None and not live.is_over:
            live.is_over = True
            assert self._nursery is not None
            self._nursery.start_soon(self._forget, live, "cancelled", "its owner named another committee", "")

    async def rescue(self, job: str, *, confirmed: bool) -> Json:
        """Raises `UsageError` if there is no such job, it has ended, or there is nothing to rescue."""
        row = await self.shown.row(job)
        live = self._live.get(row.job)
        if live is None:
            raise UsageError(f"job {row.job} has ended already: {row.state}; there is nothing to rescue")
        if live.manifest.committee == (self._own,):
            raise UsageError(f"job {row.job} has no other electors than this node, so none can be missing")
        return await self.rescuing.rescue(live, confirmed=confirmed)

    def _over(self, live: LiveJob, chain: Chain) -> None:
        assert self._nursery is not None
        if not live.is_over:
            live.is_over = True
            self._nursery.start_soon(self._finish, live, chain)

    async def _finish(self, live: LiveJob, chain: Chain) -> None:
        state, reason, kind = how_it_ended(chain)
        split = Split(live.manifest.items, live.manifest.items_per_task)
        known = totals_in(chain, split, live.picture) | led(chain, live.manifest, live.history)
        known["elapsed_s"] = self._views.elapsed_s(live, chain.link(chain.end - 1).at_s if chain.end else 0.0)
        is_others = live.manifest.submitter != self._own or len(live.manifest.committee) == 1
        if not is_others:
            self._journals.remember(live.job, chain)
            if live.body is None and not live.is_unwanted:
                known |= await self._returning.how_checked(live, known)
        await self._forget(live, state, reason, kind, known)
        if not is_others:
            await self._coordinating.bring_home(live.job, live.manifest, chain)
            await self._keeping.tell_at_home(live.job, live.manifest, chain)

    async def _forget(self, live: LiveJob, state: str, reason: str, kind: str, known: Json | None = None) -> None:
        live.is_over = True
        # What it waited for does not matter any more.
        summary: Json = {**self._views.known(live), **plain(known or {}), "reason": reason, "kind": kind}
        summary |= {"blocked": "", "missing": []}
        assert self._nursery is not None
        ended_at_s = self._clock.wall_s()
        await self._endings.save(self._nursery, live.job, state, ended_at_s=ended_at_s, summary=json.dumps(summary))
        self._elections.withdraw(live.job)
        self._live.pop(live.job, None)
        self._coordinator.drop(live.job, reason)
        if live.scope is not None:
            live.scope.cancel()
        await self._keeping.ended(live.job)
        live.accepted.set()
        live.note_change()
        self._log.info("job ended", job=live.job, state=state, reason=reason)

    async def cancel(self, job: str) -> None:
        """Raises `UsageError` if there is no such job, it has ended already, or it is not this node's."""
        row = await self.shown.row(job)
        live = self._live.get(row.job)
        if live is None:
            raise UsageError(f"job {job} has ended already: {row.state}")
        assert self._nursery is not None
        await self._cancelling.cancel(live, self._nursery)

    async def cancel_for(self, job: JobId) -> None:
        self._cancelling.cancel_for(job)

    async def prioritise(self, job: str, priority: str) -> None:
        """Raises `UsageError` if there is no such job, it has ended, or nobody can be told."""
        row = await self.shown.row(job)
        live = self._live.get(row.job)
        if live is None:
            raise UsageError(f"job {job} has ended already: {row.state}")
        await self._priorities.change(live, priority)

    async def prioritise_for(self, job: JobId, statement: bytes) -> None:
        live = self._live.get(job)
        if live is not None:
            await self._priorities.change_for(live, statement)

    async def hand_over_all(self, reason: str) -> None:
        """Gives every lease back that others may take, so that they go on at once; returns when they may."""
        leaving = [job for job, live in self._live.items() if live.survives or live.manifest.submitter != self._own]
        await self._elections.hand_over_all(leaving, reason)

    # --- looking -----------------------------------------------------------------------------------------------------

    @property
    def coordinated(self) -> int:
        return sum(live.body is not None for live in self._live.values())

    async def everything(self) -> list[Json]:
        assert self._nursery is not None
        return await self.shown.everything(self._nursery)

    async def state_for(self, job: JobId) -> Json | None:
        return await self.shown.state_for(job)

    async def results(self, job: str) -> AsyncIterator[ResultBlock]:
        row = await self.shown.own_row(job)
        _, manifest = unseal(Manifest, row.manifest)
        if len(manifest.committee) > 1:
            await self._fetch_missing(row, manifest)
        async for block in read_results(self._store, row.job, manifest, bind(manifest.inputs, manifest.given)):
            yield block

    async def _fetch_missing(self, row: JobRow, manifest: Manifest) -> None:
        """What the journal names and others have. Raises `JobFailed` where results are gone, or cannot be checked."""
        is_over = row.state in JOB_ENDED
        chain = self._journals.known(row.job)
        if chain is None and is_over:
            missing = manifest.tasks - len(tasks_of(await self._store.records_of(row.job)))
            if missing > int(json.loads(row.summary).get("failed_tasks", 0)):
                chain = await self._journals.read(row)
                if chain is None and row.state == "done":
                    raise JobFailed(
                        f"{missing} of {manifest.tasks} tasks have their results elsewhere, and too few of the job's "
                        "electors answer to check them; try again later, or run the job again with --resume"
                    )
        if chain is None:
            return
        await self._coordinating.fetch(row.job, manifest, range(manifest.tasks), named_in(chain))
        if is_over:
            await self._returning.check_all_here(row.job, manifest, chain, await self._store.records_of(row.job))
            await self._tell_at_home(row.job, manifest, chain)

    async def _tell_at_home(self, job: JobId, manifest: Manifest, chain: Chain) -> None:
        assert self._nursery is not None
        if self._outlasts_jobs:
            self._nursery.start_soon(self._keeping.tell_at_home, job, manifest, chain)
        else:  # A command waits for it, but not for electors that are gone.
            with trio.move_on_after(TELL_TIMEOUT_S):
                await self._keeping.tell_at_home(job, manifest, chain)
