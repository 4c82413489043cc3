"""Coordinates one job for as long as its lease is held: opens its inputs, feeds the machine, writes its journal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import trio

from peerinfer.assignment import JobEnded, JobSpec
from peerinfer.candidacy import Candidacy
from peerinfer.committees import number_of
from peerinfer.comparators import comparator_of
from peerinfer.control import JobRequest
from peerinfer.cost import growth
from peerinfer.errors import InputError, LimitExceeded, PeerinferError, ProtocolError
from peerinfer.fairness import Priority
from peerinfer.ids import Cid, JobId, PeerId
from peerinfer.journal import Chain
from peerinfer.journal_rules import PRIORITY
from peerinfer.messages import JobBrief, Manifest, Term
from peerinfer.splitting import Split
from peerinfer_node.log import Log
from peerinfer_node.ports import BlobStore, Executor, InThread, Store
from peerinfer_node.record_rows import RecordRow
from peerinfer_node.roles.coordinator import CoordinatorRole
from peerinfer_node.roles.elections import Elections
from peerinfer_node.roles.live_job import Forget, LiveJob, in_journal, spent_s, tasks_of
from peerinfer_node.roles.packed_inputs import PackedInputs, open_segments
from peerinfer_node.roles.preparation import PREPARING, Preparation, Prepared
from peerinfer_node.roles.priorities import take_up
from peerinfer_node.roles.record_copier import RecordCopier
from peerinfer_node.roles.recorder import IsTrue, Recorder, named_in
from peerinfer_node.roles.replicas import Replicas
from peerinfer_node.roles.replication import Replication
from peerinfer_node.roles.result_digests import digests_in
from peerinfer_node.roles.result_records import OpenRecord
from peerinfer_node.roles.stored_job import JobFiles, StoredJob

REPLICATE_AGAIN_S = 5.0
CARRY_LOOK_S = 0.02
"""A journal's round trip takes longer than this."""
SETTLES_S = 0.25
"""After a takeover, workers get so long to say what they computed for the coordinator before: a few round trips."""

TASK_TIMEOUT_S = 300.0
"""One task may take this long on a worker unless the user says otherwise."""


class Coordinating:
    """What `Jobs` does once a lease is won."""

    def __init__(
        self,
        *,
        own: PeerId,
        store: Store,
        blobs: BlobStore,
        executor: Executor,
        coordinator: CoordinatorRole,
        elections: Elections,
        replicas: Replicas,
        replication: Replication,
        preparation: Preparation,
        in_thread: InThread,
        log: Log,
        on_accept: Callable[[], None],
        on_end: Callable[[LiveJob, JobEnded], None],
        forget: Forget,
    ) -> None:
        self._own = own
        self._store = store
        self._blobs = blobs
        self._executor = executor
        self._coordinator = coordinator
        self._elections = elections
        self._replicas = replicas
        self._replication = replication
        self._preparation = preparation
        self._in_thread = in_thread
        self._log = log
        self._on_accept = on_accept
        self._on_end = on_end
        self._forget = forget

    async def coordinate(self, live: LiveJob, term: Term) -> None:
        """Coordinates the job until the lease is lost or the job is over."""
        try:
            if live.files is None:
                await self._open_files(live)
            with trio.CancelScope() as scope:
                live.scope = scope
                await self._coordinate_in(live, term)
        except (PeerinferError, KeyError) as error:
            reason = f"cannot be coordinated here: {error}"
            self._log.warning("job cannot be coordinated", job=live.job, reason=str(error))
            live.waiting = reason
            live.note_change()
            if live.manifest.committee == (self._own,):
                await self._forget(live, "failed", f"could not go on after a restart: {error}", type(error).__name__)
            else:
                self._elections.hand_over(live.job, reason)

    async def _coordinate_in(self, live: LiveJob, term: Term) -> None:
        job, files = live.job, live.files
        assert files is not None
        machine = self._elections.machine(job)
        if machine is None:
            return
        take_up(live, machine.chain)
        await self._carry_over(live, term, machine)
        final, failed = in_journal(machine.chain)
        workers = tuple((PeerId(peer), tasks) for peer, tasks in machine.chain.register.tally(0)[0].items())
        deadline_s = live.request.deadline_s
        if deadline_s is not None:  # It runs on where it was, whoever coordinates.
            deadline_s = max(deadline_s - spent_s(machine.chain), 1e-3)
        records = await self._store.records_of(job)
        seated = machine.seated
        committee = machine.committee
        outlives = live.request.detach or live.survives or live.manifest.submitter != self._own
        copier = RecordCopier(self._replicas, job, seated, term, self._own, self._log) if outlives else None
        live.copies_refused = copier.refused if copier is not None else {}
        recorder = Recorder(
            lambda entries, is_last: self._elections.write(job, entries, now=is_last),
            copier.copy if copier else None,
        )
        kept = await self._kept([row.with_tasks(lambda task, _: task not in final) for row in records], recorder)
        body = StoredJob(
            job,
            files,
            self._brief(live, term, machine.chain.certificate(term), deadline_s),
            store=self._store,
            blobs=self._blobs,
            executor=self._executor,
            recorder=recorder,
            may_act=lambda: self._elections.holds(job, term),
            on_change=live.note_change,
            on_end=lambda end: self._on_end(live, end),
            in_thread=self._in_thread,
        )
        if not self._elections.holds(job, term):
            return
        live.body, live.waiting, live.end = body, "", None
        self._log.info("job accepted", job=job, term=number_of(term), items=files.split.items, tasks=files.split.tasks)
        is_takeover = len(machine.chain.handovers()) > 1
        spec = self._spec(live, final, workers, failed, kept, deadline_s, is_takeover=is_takeover)
        self._coordinator.accept(spec, body)
        live.accepted.set()
        live.note_change()
        self._on_accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(recorder.run)
            if copier is not None:
                nursery.start_soon(copier.run)
                nursery.start_soon(self.bring_home, job, live.manifest, machine.chain.copy())
            # A submitter that was killed while it handed the job over, or before, does it now.
            is_own = live.manifest.submitter == self._own and len(committee) > 1
            if is_own and live.request.replicate and not (live.survives or live.is_replicated_by_command):
                nursery.start_soon(self._replicate_later, live, nursery)
            elif outlives:
                # Whoever took the job over does not know who has a copy; a submitter has offered one to the first electors.
                told = live.manifest.committee if live.manifest.submitter == self._own else ()
                nursery.start_soon(
                    self._hand_on, live, [one for one in committee if one not in told and one != self._own]
                )

    async def _carry_over(self, live: LiveJob, term: Term, machine: Candidacy) -> None:
        """Writes what counts of the generation before, where this node has just rescued the job."""
        if not (live.carried or live.carried_priorities):
            return
        for detail in live.carried_priorities:
            if detail not in machine.chain.details(PRIORITY):
                self._elections.write(live.job, (), event=PRIORITY, detail=detail, now=True)
        self._elections.write(live.job, live.carried, now=True)
        wanted = [entry.task for entry in live.carried]
        while self._elections.holds(live.job, term):
            if all(task in machine.chain.register for task in wanted) and machine.committed == len(machine.chain):
                live.carried = live.carried_priorities = ()
                return
            await trio.sleep(CARRY_LOOK_S)

    async def _replicate_later(self, live: LiveJob, nursery: trio.Nursery) -> None:
        while True:
            try:
                await self._replication.replicate(live, nursery)
                break
            except LimitExceeded as error:
                self._log.info("job does not survive its submitter", job=live.job, reason=str(error))
                return
            except PeerinferError as error:
                # Electors may still be fetching from before this node was killed, and give up on what they cannot get.
                self._log.info("copies are tried again", job=live.job, reason=str(error))
                await trio.sleep(REPLICATE_AGAIN_S)
        live.survives = True
        live.note_change()

    async def _hand_on(self, live: LiveJob, electors: Sequence[PeerId]) -> None:
        """Copies for electors that have none: they came later, or the submitter was gone before it was their turn.

        Without them they take no records, and then too few may be left that do.
        """
        row = await self._store.job(live.job)
        replica = json.loads(row.request).get("replica") if row is not None else None
        missing = list(electors)
        while missing:
            for elector in list(missing):
                try:
                    await self._replication.hand_on(live, elector, replica)
                    missing.remove(elector)
                except PeerinferError as error:
                    self._log.info("elector took no copy", job=live.job, peer=elector, reason=str(error))
            await trio.sleep(REPLICATE_AGAIN_S)

    async def _kept(self, rows: Sequence[RecordRow], recorder: Recorder) -> dict[PeerId, list[int]]:
        """Results that are here and not in the journal, by who computed them."""
        kept: dict[PeerId, list[int]] = {}
        for row in rows:
            if row.tasks:
                data = await self._store.read_results(row.job, row.offset)
                record = OpenRecord(data)
                recorder.kept(row.offset, [data], digests_in(record, row.tasks))
                kept.setdefault(record.peer, []).extend(row.tasks)
        return kept

    def _brief(self, live: LiveJob, term: Term, certificate: tuple[bytes, ...], deadline_s: float | None) -> JobBrief:
        assert live.files is not None
        return JobBrief(
            job=live.job,
            term=term,
            model=live.manifest.model,
            model_bytes=live.model_bytes,
            outputs=(),
            merge=live.files.binding.merge,
            timeout_s=live.request.task_timeout_s or TASK_TIMEOUT_S,
            manifest=live.signed,
            certificate=certificate,
            priority=Priority[live.request.priority.upper()],
            deadline_s=deadline_s or 0.0,
            changes=self._elections.changes(live.job),
        )

    def _spec(
        self,
        live: LiveJob,
        final: Iterable[int],
        workers: tuple[tuple[PeerId, int], ...],
        failed: dict[int, str],
        kept: dict[PeerId, list[int]],
        deadline_s: float | None,
        *,
        is_takeover: bool,
    ) -> JobSpec:
        files, request = live.files, live.request
        assert files is not None
        return JobSpec(
            job=live.job,
            model=Cid(live.manifest.model),
            model_bytes=live.model_bytes,
            tasks=files.split.tasks,
            items_per_task=files.split.items_per_task,
            bytes_per_task=files.binding.item_bytes * files.split.items_per_task,
            seconds_per_item=live.seconds_per_item,
            flops_per_item=live.flops_per_item,
            verify=live.manifest.verify,
            retries=request.retries,
            patience_s=request.timeout_s,
            task_timeout_s=request.task_timeout_s,
            deadline_s=deadline_s,
            final=tuple(final),
            workers=workers,
            failed=tuple(failed.items()),
            settles_s=SETTLES_S if is_takeover else 0.0,
            kept=tuple((peer, peer == self._own, tuple(tasks)) for peer, tasks in kept.items()),
            priority=Priority[request.priority.upper()],
            submitter=live.manifest.submitter,
            strategy=request.strategy,
            local_only=request.local_only,
            device_kind=request.device_kind,
            memory_bytes_min=request.min_vram_bytes,
        )

    async def _open_files(self, live: LiveJob) -> None:
        """Opens the inputs anew: the submitter from its files, an elector from its copy."""
        row = await self._store.job(live.job)
        assert row is not None
        replica: dict[str, Any] | None = json.loads(row.request).get("replica")
        if replica is None:
            request = replace(live.request, batch=live.manifest.items_per_task)
            prepared = await self._preparation.prepare(request)
            await self._blobs.pin(prepared.model, live.job)
            await self._blobs.unpin(PREPARING)
            if hashlib.sha256(prepared.task_keys).digest() != live.manifest.inputs_digest:
                raise InputError("the inputs have changed since the job was accepted")
            live.files, live.seconds_per_item = files_of(live, prepared), prepared.seconds_per_item
            live.model_bytes, live.flops_per_item = prepared.model_bytes, prepared.flops_per_item
            return
        sealed = await self._blobs.read(Cid(replica["inputs"]))
        key = bytes.fromhex(replica["key"])
        inputs = await self._in_thread(lambda: PackedInputs(live.manifest, open_segments(sealed, key)))
        if inputs.items != live.manifest.items:
            raise ProtocolError(f"the job's copy has {inputs.items} items, its manifest {live.manifest.items}")
        model = await self._blobs.read(Cid(live.manifest.model))
        interface = await self._executor.load(Cid(live.manifest.model), model)
        live.flops_per_item = interface.flops * growth(interface.inputs, inputs.binding.specs)
        live.request = JobRequest.from_mapping(replica["request"])
        live.seconds_per_item, live.model_bytes = replica["seconds_per_item"], replica["model_bytes"]
        split = Split(live.manifest.items, live.manifest.items_per_task)
        keys = b"".join(
            hashlib.sha256(live.job.encode() + task.to_bytes(8, "big")).digest() for task in range(split.tasks)
        )
        live.files = JobFiles(
            live.manifest,
            live.signed,
            inputs,
            inputs.binding,
            split,
            keys,
            comparator_of(live.manifest),
        )

    async def bring_home(self, job: JobId, manifest: Manifest, chain: Chain) -> None:
        """Has exactly those results here that the journal names, as far as others who have them can be reached.

        What is here and differs was computed for an earlier coordinator and never accepted.
        """
        is_true = named_in(chain)
        final, _ = in_journal(chain)
        others = []
        for row in await self._store.records_of(job):
            held = [task for task in row.tasks if task in final]
            if held:
                record = OpenRecord(await self._store.read_results(job, row.offset))
                others += [task for task, digest in digests_in(record, held).items() if not is_true(task, digest)]
        if others:
            self._log.info("results dropped that the journal does not name", job=job, tasks=len(others))
            await self._store.void_results(job, others)
        await self.fetch(job, manifest, list(final), is_true)

    async def fetch(
        self,
        job: JobId,
        manifest: Manifest,
        tasks: Sequence[int],
        is_true: IsTrue,
        *,
        peers: Sequence[PeerId] | None = None,
    ) -> None:
        """Takes results that are not here from the others who may have them, as far as they can be reached."""
        for peer in self._elections.candidates(job, manifest) if peers is None else peers:
            here = tasks_of(await self._store.records_of(job))
            missing = [task for task in tasks if task not in here]
            if not missing:
                return
            if peer == self._own:
                continue
            try:
                await self._replicas.fetch(peer, job, manifest, missing, is_true)
            except PeerinferError as error:
                self._log.debug("results not fetched", job=job, peer=peer, reason=str(error))


def files_of(live: LiveJob, prepared: Prepared) -> JobFiles:
    return JobFiles(
        live.manifest,
        live.signed,
        prepared.inputs,
        prepared.inputs.binding,
        prepared.split,
        prepared.task_keys,
        comparator_of(live.manifest),
    )
