"""The life of this node's jobs: checked, accepted, watched, fetched, cancelled, resumed after a restart."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import trio

from peerinfer.assignment import JobCancelled, JobEnded, JobPicture, JobSpec, TasksCommitted
from peerinfer.binding import bind, check_outputs
from peerinfer.codec import encode
from peerinfer.control import JOB_ENDED, JobRequest, Json, ResultBlock
from peerinfer.envelope import seal, unseal
from peerinfer.errors import (
    AttemptTimeout,
    ExecutionError,
    InputError,
    PeerinferError,
    StateUnusable,
    UsageError,
)
from peerinfer.ids import Cid, JobId, PeerId, is_job_id, job_id_of
from peerinfer.limits import GIB, JOB_TASKS_MAX
from peerinfer.messages import JobBrief, Manifest, Term
from peerinfer.splitting import Split, split_items
from peerinfer_node.formats import Inputs, open_inputs
from peerinfer_node.log import Log
from peerinfer_node.ports import (
    Batch,
    BlobStore,
    Executor,
    InThread,
    JobRow,
    Keys,
    LocalClock,
    ModelInterface,
    ResultRow,
    Store,
)
from peerinfer_node.roles.answers import raw_bytes
from peerinfer_node.roles.coordinator import CoordinatorRole
from peerinfer_node.roles.result_records import OpenRecord
from peerinfer_node.roles.stored_job import JobFiles, StoredJob, read_results, task_key

MODEL_BYTES_MAX = 4 * GIB
TASK_TIMEOUT_S = 300.0
"""One task may take this long on a worker unless the user says otherwise."""

TRIAL_TIMEOUT_S = 20.0
"""The first item is run here to learn what an item costs; a slower model is guessed at this."""

WATCH_INTERVAL_S = 0.1
FAILED_SHOWN_MAX = 1000
"""Failed tasks that a job's JSON lists."""


@dataclass(slots=True)
class _Active:
    """A job that this node coordinates now."""

    body: StoredJob
    request: JobRequest
    started_s: float
    picture: JobPicture | None = None
    """The last one, once the machine has let the job go."""
    changes: int = 0
    changed: trio.Event = field(default_factory=trio.Event)

    def note_change(self) -> None:
        self.changes += 1
        self.changed.set()
        self.changed = trio.Event()

    async def wait_change(self, since: int) -> None:
        """Returns when there were more than `since` changes."""
        while self.changes == since:
            await self.changed.wait()


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A request after everything about it was checked."""

    interface: ModelInterface
    model: Cid
    model_bytes: int
    model_sha256: bytes
    inputs: Inputs
    split: Split
    seconds_per_item: float
    task_keys: bytes


class Jobs:
    """What `Control` offers of jobs. The executor given is this node's own, for checks."""

    def __init__(
        self,
        *,
        store: Store,
        blobs: BlobStore,
        keys: Keys,
        clock: LocalClock,
        log: Log,
        executor: Executor,
        coordinator: CoordinatorRole,
        rng: random.Random,
        on_accept: Callable[[], None],
        in_thread: InThread,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._keys = keys
        self._clock = clock
        self._log = log
        self._executor = executor
        self._coordinator = coordinator
        self._rng = rng
        self._on_accept = on_accept
        self._in_thread = in_thread
        self._active: dict[JobId, _Active] = {}
        self._ended, self._to_close = trio.open_memory_channel[JobEnded](float("inf"))  # bounded by JOBS_MAX

    # --- accepting ---------------------------------------------------------------------------------------------------

    async def submit(self, request: JobRequest) -> JobId:
        """Checks everything, accepts the job durably, returns its id. Raises before anything is sent."""
        prepared = await self.prepare(request)
        manifest = Manifest(
            submitter=self._keys.peer_id,
            created_at_s=self._clock.wall_s(),
            nonce=self._rng.randbytes(16),
            model=prepared.model,
            model_sha256=prepared.model_sha256,
            inputs=prepared.interface.inputs,
            outputs=prepared.interface.outputs,
            given=prepared.inputs.binding.specs,
            items=prepared.split.items,
            tasks=prepared.split.tasks,
            items_per_task=prepared.split.items_per_task,
            inputs_digest=hashlib.sha256(prepared.task_keys).digest(),
            verify=request.verify,
            compare=request.compare,
            rtol=request.rtol if request.rtol is not None else -1.0,
            atol=request.atol if request.atol is not None else -1.0,
            committee=(self._keys.peer_id,),
            byzantine=0,
        )
        job = job_id_of(encode(manifest))
        signed = seal(manifest, self._keys.peer_id, self._keys.sign)
        row = JobRow(job, signed, request.to_json(), "running", manifest.created_at_s, None, "{}")
        await self._store.add_job(row)
        done: list[tuple[ResultRow, PeerId]] = []
        if request.resume:
            done = await self._adopt(job, prepared)
        await self._start(job, manifest, signed, request, prepared, done)
        return job

    async def prepare(self, request: JobRequest) -> _Prepared:
        """Opens model and inputs, fits them to each other, and cuts the items into tasks."""
        data = await self._in_thread(lambda: _read_model(request.model))
        model = await self._blobs.put(data)
        interface = await self._executor.load(model, data)
        check_outputs(interface.outputs)
        inputs = await self._in_thread(
            lambda: open_inputs(
                request.inputs,
                interface.inputs,
                image_size=request.image_size,
                image_layout=request.image_layout,
                image_mean=request.image_mean,
                image_std=request.image_std,
            )
        )
        binding = inputs.binding
        seconds_per_item = await self._trial(model, inputs)
        split = split_items(
            inputs.items,
            bytes_per_item=binding.item_bytes,
            seconds_per_item=seconds_per_item,
            block=binding.block,
            batch=request.batch,
        )
        if split.tasks > JOB_TASKS_MAX:
            raise InputError(f"{split.tasks} tasks pass the limit of {JOB_TASKS_MAX}; give a larger --batch")
        model_sha256, keys = await self._in_thread(lambda: _fingerprints(data, model, inputs, split))
        return _Prepared(interface, model, len(data), model_sha256, inputs, split, seconds_per_item, keys)

    async def _trial(self, model: Cid, inputs: Inputs) -> float:
        """Seconds that one item takes on this node's own device."""
        binding = inputs.binding
        rows = await self._in_thread(lambda: inputs.rows(0, binding.block))
        batch = Batch((1,), binding.frame_specs(binding.block), [raw_bytes(row) for row in rows], binding.merge)
        try:
            await self._executor.run(model, batch, TRIAL_TIMEOUT_S)  # The first run of a session is slower than others.
            result = await self._executor.run(model, batch, TRIAL_TIMEOUT_S)
        except AttemptTimeout:
            return TRIAL_TIMEOUT_S
        except ExecutionError as error:
            self._log.warning("the first item did not run here", reason=str(error))
            return 1.0
        return max(result.compute_s, 1e-6) / binding.block

    async def _start(
        self,
        job: JobId,
        manifest: Manifest,
        signed: bytes,
        request: JobRequest,
        prepared: _Prepared,
        done: list[tuple[ResultRow, PeerId]],
    ) -> None:
        own = self._keys.peer_id
        await self._blobs.pin(prepared.model, job)
        files = JobFiles(
            manifest,
            signed,
            prepared.inputs,
            prepared.inputs.binding,
            prepared.split,
            prepared.task_keys,
            request.compare,
            request.rtol,
            request.atol,
        )
        brief = JobBrief(
            job=job,
            term=Term(1, own),
            model=prepared.model,
            model_bytes=prepared.model_bytes,
            outputs=(),
            merge=files.binding.merge,
            timeout_s=request.task_timeout_s or TASK_TIMEOUT_S,
        )
        body = StoredJob(
            job,
            files,
            brief,
            store=self._store,
            blobs=self._blobs,
            executor=self._executor,
            on_change=lambda: self._wake(job),
            on_settled=lambda tasks: self._coordinator.post(TasksCommitted(job, tasks)),
            on_end=self._note_end,
            in_thread=self._in_thread,
        )
        kept: dict[PeerId, list[int]] = {}
        for row, peer in done:
            kept.setdefault(peer, []).append(row.task)
        spec = JobSpec(
            job=job,
            model=prepared.model,
            model_bytes=prepared.model_bytes,
            tasks=prepared.split.tasks,
            items_per_task=prepared.split.items_per_task,
            bytes_per_task=files.binding.item_bytes * prepared.split.items_per_task,
            seconds_per_item=prepared.seconds_per_item,
            verify="spot" if request.verify == "spot" else "none",
            retries=request.retries,
            patience_s=request.timeout_s,
            task_timeout_s=request.task_timeout_s,
            deadline_s=request.deadline_s,
            kept=tuple((peer, peer == own, tuple(tasks)) for peer, tasks in kept.items()),
            local_only=request.local_only,
            device_kind=request.device_kind,
            memory_bytes_min=request.min_vram_bytes,
        )
        self._active[job] = _Active(body, request, self._clock.now_s())
        self._log.info("job accepted", job=job, items=manifest.items, tasks=manifest.tasks, done=len(done))
        self._coordinator.accept(spec, body)
        self._on_accept()

    async def _adopt(self, job: JobId, prepared: _Prepared) -> list[tuple[ResultRow, PeerId]]:
        """Copies what earlier jobs have computed of these very tasks into this job's spool."""
        keys = prepared.task_keys
        task_of = {keys[32 * task : 32 * task + 32]: task for task in range(prepared.split.tasks)}
        found = await self._store.find_results(list(task_of))
        adopted: list[tuple[ResultRow, PeerId]] = []
        offsets: dict[tuple[JobId, int], tuple[int, PeerId]] = {}
        for key, row in found.items():
            place = (row.job, row.offset)
            if row.job == job:
                continue
            if place not in offsets:
                try:
                    data = await self._store.read_results(*place)
                    peer = OpenRecord(data).peer
                except StateUnusable as error:
                    self._log.warning("an earlier result cannot be used", reason=str(error))
                    continue
                offsets[place] = (await self._store.append_results(job, [data]), peer)
            offset, peer = offsets[place]
            adopted.append((replace(row, job=job, task=task_of[key], offset=offset), peer))
        await self._store.add_results([row for row, _ in adopted], [])
        return adopted

    async def take_up(self) -> None:
        """Takes up the jobs that were running when this node stopped."""
        for row in await self._store.jobs():
            if row.state in JOB_ENDED or row.job in self._active:
                continue
            try:
                request = JobRequest.from_json(row.request)
                _, manifest = unseal(Manifest, row.manifest)
                prepared = await self.prepare(replace(request, batch=manifest.items_per_task))
                if hashlib.sha256(prepared.task_keys).digest() != manifest.inputs_digest:
                    raise InputError("the inputs have changed since the job was accepted")
                rows = await self._store.results_of(row.job)
                done = [(found, await self._peer_of(found)) for found in rows]
                await self._start(row.job, manifest, row.manifest, request, prepared, done)
            except PeerinferError as error:
                self._log.warning("job cannot go on", job=row.job, reason=str(error))
                await self._close(row.job, "failed", f"could not go on after a restart: {error}", type(error).__name__)

    async def _peer_of(self, row: ResultRow) -> PeerId:
        return OpenRecord(await self._store.read_results(row.job, row.offset)).peer

    # --- ending ------------------------------------------------------------------------------------------------------

    def _wake(self, job: JobId) -> None:
        active = self._active.get(job)
        if active is not None:
            active.note_change()

    def _note_end(self, end: JobEnded) -> None:
        self._ended.send_nowait(end)

    async def run(self) -> None:
        """Writes down how jobs ended."""
        async for end in self._to_close:
            self._active[end.job].picture = end.picture
            await self._close(end.job, end.state, end.reason, end.kind)

    async def _close(self, job: JobId, state: str, reason: str, kind: str) -> None:
        summary: Json = {"reason": reason, "kind": kind}
        active = self._active.get(job)
        if active is not None:
            summary |= self._totals(active)
            summary["elapsed_s"] = round(self._clock.now_s() - active.started_s, 3)
        await self._store.set_job_state(job, state, ended_at_s=self._clock.wall_s(), summary=json.dumps(summary))
        await self._blobs.unpin(job)
        self._active.pop(job, None)
        if active is not None:
            active.note_change()
        self._log.info("job ended", job=job, state=state, reason=reason)

    async def cancel(self, job: str) -> None:
        """Raises `UsageError` if there is no such job, or it has ended already."""
        row = await self._row(job)
        if row.job not in self._active:
            raise UsageError(f"job {job} has ended already: {row.state}")
        active = self._active[row.job]
        self._coordinator.post(JobCancelled(row.job, "cancelled by its owner"))
        while row.job in self._active:
            await active.wait_change(active.changes)

    # --- looking -----------------------------------------------------------------------------------------------------

    @property
    def coordinated(self) -> int:
        return len(self._active)

    async def everything(self) -> list[Json]:
        return [self._json(row) for row in await self._store.jobs()]

    async def show(self, job: str) -> Json:
        return self._json(await self._row(job))

    async def watch(self, job: str) -> AsyncIterator[Json]:
        row = await self._row(job)
        while True:
            active = self._active.get(row.job)
            if active is None:
                yield await self.show(job)
                return
            seen = active.changes
            yield self._json(row)
            await active.wait_change(seen)
            with trio.move_on_after(WATCH_INTERVAL_S):
                while row.job in self._active:
                    await active.wait_change(active.changes)

    async def results(self, job: str) -> AsyncIterator[ResultBlock]:
        row = await self._row(job)
        _, manifest = unseal(Manifest, row.manifest)
        async for block in read_results(self._store, row.job, manifest, bind(manifest.inputs, manifest.given)):
            yield block

    async def provenance(self, job: str) -> Json:
        """What a researcher cites: hashes, peers, how far results were checked, signed receipts."""
        row = await self._row(job)
        submitter, manifest = unseal(Manifest, row.manifest)
        shown = self._json(row)
        receipts = await self._store.receipts_of(row.job)
        return {
            "job_id": row.job,
            "state": shown["state"],
            "submitter": submitter,
            "created": shown["created"],
            "model": {"cid": manifest.model, "sha256": manifest.model_sha256.hex()},
            "inputs": {
                "digest": manifest.inputs_digest.hex(),
                "items": manifest.items,
                "ports": [str(port) for port in manifest.inputs],
            },
            "outputs": [str(port) for port in manifest.outputs],
            "verification": {
                "policy": manifest.verify,
                "compare": manifest.compare,
                "rtol": manifest.rtol if manifest.rtol >= 0 else None,
                "atol": manifest.atol if manifest.atol >= 0 else None,
                "tasks_checked": shown["audited"],
                "checks_failed": shown["audits_failed"],
            },
            "peers": shown["peers"],
            "manifest": row.manifest.hex(),
            "receipts": [
                {"peer": receipt.peer, "frame": receipt.frame, "signed": receipt.signed.hex()} for receipt in receipts
            ],
        }

    # --- inside ------------------------------------------------------------------------------------------------------

    async def _row(self, job: str) -> JobRow:
        if is_job_id(job):
            row = await self._store.job(JobId(job))
            if row is not None:
                return row
        elif 4 <= len(job) < 32:
            matches = [row for row in await self._store.jobs() if row.job.startswith(job)]
            if len(matches) == 1:
                return matches[0]
            if matches:
                raise UsageError(f"{len(matches)} jobs begin with {job!r}; give more of the id")
        raise UsageError(f"there is no job {job[:40]!r}; `peerinfer jobs` lists them")

    def _totals(self, active: _Active) -> Json:
        picture = active.picture or self._coordinator.machine.picture(active.body.job)
        failures = active.body.failures
        if picture is None:
            return {}
        accepted = picture.provisional + picture.final
        return {
            "open": picture.open,
            "assigned": picture.assigned,
            "accepted": accepted,
            "final": picture.final,
            "failed": self._failed_items(active, failures),
            "failed_tasks": len(failures),
            "retried": picture.retried,
            "hedged": 0,
            "audited": picture.audited,
            "audits_failed": picture.audits_failed,
            "peers": [{"peer_id": peer, "tasks": tasks} for peer, tasks in picture.peers.items()],
            "blocked": picture.blocked,
        }

    def _failed_items(self, active: _Active, failures: dict[int, str]) -> list[Json]:
        split = active.body.files.split
        return [
            {
                "task": task,
                "first_item": split.first_item(task),
                "items": split.items_of(task),
                "reason": failures[task],
            }
            for task in sorted(failures)[:FAILED_SHOWN_MAX]
        ]

    def _json(self, row: JobRow) -> Json:
        _, manifest = unseal(Manifest, row.manifest)
        request = json.loads(row.request)
        active = self._active.get(row.job)
        summary: Json = json.loads(row.summary) if active is None else self._totals(active)
        elapsed_s = summary.get("elapsed_s", 0.0) if active is None else self._clock.now_s() - active.started_s
        blank: Json = {"accepted": 0, "final": 0, "failed": [], "failed_tasks": 0, "retried": 0, "hedged": 0}
        blank |= {"audited": 0, "audits_failed": 0, "peers": [], "blocked": "", "open": 0, "assigned": 0}
        return {
            "job_id": row.job,
            "state": row.state if active is None else "running",
            "submitter": manifest.submitter,
            "coordinator": self._keys.peer_id,
            "term": 1,
            "committee": list(manifest.committee),
            "items": manifest.items,
            "tasks": manifest.tasks,
            "items_per_task": manifest.items_per_task,
            "outputs": [
                {"name": port.name, "dtype": port.dtype, "shape": list(port.shape)} for port in manifest.outputs
            ],
            "verify": manifest.verify,
            "strategy": request["strategy"],
            "created": manifest.created_at_s,
            "elapsed_s": round(elapsed_s, 3),
            "handovers": [
                {"term": 1, "coordinator": self._keys.peer_id, "at": manifest.created_at_s, "why": "submitted"}
            ],
            "reason": "",
            "kind": "",
            **blank,
            **summary,
        }


def _read_model(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MODEL_BYTES_MAX:
                raise InputError(f"{path} has {size} bytes; models may have {MODEL_BYTES_MAX}")
            data = file.read(MODEL_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"the model {path} cannot be read: {reason}; check the path") from None
    if not data:
        raise InputError(f"the model {path} is empty; give an ONNX file")
    return data


def _fingerprints(data: bytes, model: Cid, inputs: Inputs, split: Split) -> tuple[bytes, bytes]:
    keys = bytearray()
    for task in range(split.tasks):
        first = split.first_item(task)
        keys += task_key(model, inputs.fingerprint(first, first + split.items_of(task)))
    return hashlib.sha256(data).digest(), bytes(keys)
