"""A new job: checked, written down, accepted by its committee, and copied where it is to outlive this node."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import trio

from peerinfer.codec import encode
from peerinfer.control import JobRequest
from peerinfer.envelope import seal
from peerinfer.errors import JobFailed, PeerinferError, TooFewElectors
from peerinfer.ids import JobId, PeerId, job_id_of
from peerinfer.lease_profile import LeaseProfile
from peerinfer.messages import Manifest
from peerinfer_node.log import Log
from peerinfer_node.ports import BlobStore, JobRow, Keys, LocalClock, Store
from peerinfer_node.roles.cancelling import Cancelling
from peerinfer_node.roles.coordinating import files_of
from peerinfer_node.roles.coordinator import CoordinatorRole
from peerinfer_node.roles.elections import Elections
from peerinfer_node.roles.live_job import Forget, LiveJob
from peerinfer_node.roles.packed_inputs import check_size
from peerinfer_node.roles.preparation import PREPARING, Preparation, Prepared, manifest_of
from peerinfer_node.roles.replication import Replication
from peerinfer_node.roles.rescuing import Propose
from peerinfer_node.roles.result_records import OpenRecord
from peerinfer_node.roles.shown_jobs import ENDS_WITH_NODE

ELECTION_TIMEOUT_S = 30.0
"""A submitter waits this long for its committee to accept the job."""

ELECTORS_KNOWN_WITHIN_S = 15.0
"""A node that has just opened hears of its swarm bit by bit; this long it waits for enough electors of a detached job."""

LOOK_AGAIN_S = 0.1

Add = Callable[[JobId, Manifest, bytes, JobRequest], LiveJob]


class Submitting:
    def __init__(
        self,
        *,
        keys: Keys,
        store: Store,
        blobs: BlobStore,
        clock: LocalClock,
        coordinator: CoordinatorRole,
        elections: Elections,
        preparation: Preparation,
        replication: Replication,
        cancelling: Cancelling,
        propose: Propose,
        rng: random.Random,
        log: Log,
        outlasts_jobs: bool,
        add: Add,
        stand: Callable[[LiveJob], None],
        forget: Forget,
    ) -> None:
        """`stand` makes this node a candidate that campaigns."""
        self._keys = keys
        self._own = keys.peer_id
        self._store = store
        self._blobs = blobs
        self._clock = clock
        self._coordinator = coordinator
        self._elections = elections
        self._preparation = preparation
        self._replication = replication
        self._cancelling = cancelling
        self._propose = propose
        self._rng = rng
        self._log = log
        self._outlasts_jobs = outlasts_jobs
        self._add = add
        self._stand = stand
        self._forget = forget

    async def submit(self, request: JobRequest, nursery: trio.Nursery) -> JobId:
        """Checks everything, has the job accepted by its committee, returns its id.

        Nothing was sent if this raises, or it was taken back: `JobFailed` says so. Copies that a quorum does not wait for
        are made in `nursery`.
        """
        prepared = await self._preparation.prepare(request)
        self._coordinator.check_room(prepared.split.tasks)
        nonce = self._rng.randbytes(16)
        committee, profile = await self._committee(nonce, request)
        if request.detach and len(committee) > 1:
            check_size(prepared.inputs)
        manifest = manifest_of(request, prepared, self._own, self._clock.wall_s(), nonce, committee, profile.lease_s)
        job = job_id_of(encode(manifest))
        signed = seal(manifest, self._own, self._keys.sign)
        await self._blobs.pin(prepared.model, job)
        await self._blobs.unpin(PREPARING)
        state = "running" if self._outlasts_jobs or request.detach else ENDS_WITH_NODE
        await self._store.add_job(JobRow(job, signed, request.to_json(), state, manifest.created_at_s, None, "{}"))
        if request.resume:
            await self._adopt(job, prepared)
        live = self._add(job, manifest, signed, request)
        live.files, live.seconds_per_item = files_of(live, prepared), prepared.seconds_per_item
        live.model_bytes, live.flops_per_item = prepared.model_bytes, prepared.flops_per_item
        live.is_replicated_by_command = request.detach
        self._stand(live)
        with trio.move_on_after(max(ELECTION_TIMEOUT_S, request.timeout_s)):
            await live.accepted.wait()
        if not live.accepted.is_set():
            machine = self._elections.machine(job)
            live.waiting = (machine.snapshot().waiting if machine is not None else "") or live.waiting
            await self._forget(live, "failed", f"no committee accepted it: {live.waiting}", "JobFailed")
            raise JobFailed(f"the job was not accepted: {live.waiting}")
        if request.detach and len(committee) > 1:
            try:
                await self._replication.replicate(live, nursery)
            except PeerinferError as error:
                # Whoever was told that it failed must not find it running, here or at an elector that took its copy.
                told = False
                with suppress(PeerinferError):
                    told = await self._cancelling.cancel(live, nursery)
                left = "" if told else "; electors that are gone hear of it when they are back"
                raise JobFailed(f"{error}; the job is cancelled{left}") from None
            live.survives = True
        return job

    async def _committee(self, nonce: bytes, request: JobRequest) -> tuple[tuple[PeerId, ...], LeaseProfile]:
        until_s = trio.current_time() + min(ELECTORS_KNOWN_WITHIN_S, request.timeout_s)
        while True:
            try:
                return self._propose(nonce, request)
            except TooFewElectors:
                if trio.current_time() >= until_s:
                    raise
            await trio.sleep(LOOK_AGAIN_S)

    async def _adopt(self, job: JobId, prepared: Prepared) -> None:
        """Copies what earlier jobs have computed of these very tasks into this job's spool."""
        keys = prepared.task_keys
        task_of = {keys[32 * task : 32 * task + 32]: task for task in range(prepared.split.tasks)}
        adopted = 0
        for row in await self._store.find_records(task_of):
            names = {task: task_of[key] for task, key in row.keyed()}
            try:
                record = OpenRecord(await self._store.read_results(row.job, row.offset)).renamed(names)
            except PeerinferError as error:
                self._log.warning("an earlier result cannot be used", reason=str(error))
                continue
            offset = await self._store.append_results(job, record)
            await self._store.add_record(replace(row, job=job, offset=offset, tasks=tuple(names.values())))
            adopted += len(names)
        self._log.info("earlier results taken", job=job, tasks=adopted)
