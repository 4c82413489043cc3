"""Keeps other nodes' jobs alive here, and this node's jobs alive elsewhere.

An elector that holds a copy of a job's model and inputs can coordinate it. It fetches them from the submitter when they
are offered, keeps the inputs encrypted, and becomes a candidate. From then on whoever coordinates copies every record of
results to the electors before the journal calls it final.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, Protocol

import trio

from peerinfer.committees import number_of
from peerinfer.elector import Elector
from peerinfer.errors import DecodeError, PeerinferError, ProtocolError, StateUnusable, StreamClosed
from peerinfer.ids import Cid, JobId, PeerId, digest_of_cid
from peerinfer.job_priority import told
from peerinfer.limits import BODY_BYTES_MAX, MODEL_BYTES_MAX
from peerinfer.manifests import open_manifest
from peerinfer.messages import Manifest, Term
from peerinfer.replica_messages import (
    PRIORITY_REVISION,
    STATE_CHARS_MAX,
    JobAtHome,
    JobCancelWanted,
    JobPriorityWanted,
    JobState,
    JobStateWanted,
    RecordCopy,
    RecordHeld,
    RecordsEnd,
    RecordsWanted,
    ReplicaHeld,
    ReplicaOffered,
    ReplicaRefused,
)
from peerinfer.tensors import Buffer
from peerinfer_node.log import Log
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.ports import BlobStore, JobRow, Network, Store
from peerinfer_node.record_rows import RecordRow
from peerinfer_node.roles.packed_inputs import REPLICATED_BYTES_MAX
from peerinfer_node.roles.reception import Reception
from peerinfer_node.roles.recorder import IsTrue
from peerinfer_node.roles.result_digests import digests_in
from peerinfer_node.roles.result_records import OpenRecord, check_record, is_receipt_of
from peerinfer_node.roles.work_stream import conversation

JOURNAL_PROTOCOL = "/peerinfer/journal/1"
STREAMS_PER_PEER_MAX = 8
ANSWER_TIMEOUT_S = 30.0
STATE_TIMEOUT_S = 3.0
"""A person waits for how a job stands: whoever does not say so in this time does not know."""

NO_COPY_YET = "this elector has no copy of the job yet"

REPLICA_TIMEOUT_S = 600.0
JOBS_REMEMBERED_MAX = 64
STANDBY = "standby"
"""State of a job that this node keeps a copy of and does not coordinate."""

_REQUESTS = (
    ReplicaOffered,
    RecordCopy,
    RecordsWanted,
    JobStateWanted,
    JobCancelWanted,
    JobAtHome,
    JobPriorityWanted,
)

AboutJob = JobStateWanted | JobCancelWanted | JobPriorityWanted

FetchBlob = Callable[[Cid, Sequence[PeerId]], Awaitable[None]]


def copies_of(job: JobId) -> str:
    """Who pins the inputs of a job, sealed for its committee. Its model is pinned by the job itself."""
    return f"{job} copies"


async def _note_nothing(job: JobId) -> None:
    pass


async def _has_room(*_: object) -> None:
    pass


def _opened(manifest: Manifest, record: bytes) -> OpenRecord:
    """Raises `ProtocolError` if it does not hold what the job's tasks give."""
    try:
        opened = OpenRecord(record)
    except StateUnusable as error:
        raise ProtocolError(str(error)) from None
    check_record(manifest, opened)
    return opened


class KnowsJobs(Protocol):
    """What questions about jobs are answered from."""

    async def state_for(self, job: JobId) -> dict[str, Any] | None: ...

    async def cancel_for(self, job: JobId) -> None: ...

    async def prioritise_for(self, job: JobId, statement: bytes) -> None: ...

    def stand_by(self, job: JobId, signed_manifest: bytes) -> None: ...


class Replicas:
    """Both ends of `/peerinfer/journal/1`."""

    def __init__(
        self,
        *,
        own: PeerId,
        network: Network,
        store: Store,
        blobs: BlobStore,
        fetch_blob: FetchBlob,
        elector: Elector,
        log: Log,
        swarm: str,
    ) -> None:
        self._own = own
        self._network = network
        self._store = store
        self._blobs = blobs
        self._fetch_blob = fetch_blob
        self._elector = elector
        self._log = log
        self._swarm = swarm
        self.serve = Reception(
            _REQUESTS, self._answer, streams_max=STREAMS_PER_PEER_MAX, swarm=swarm, log=log, name="journal"
        ).serve
        self._kept: dict[tuple[JobId, tuple[int, str]], dict[int, None]] = {}
        """Records that are here, by job and term: one that is sent again is not written again."""
        self._sent: dict[JobId, dict[Cid, None]] = {}
        """Blobs that were made of records too large for a message."""
        self.jobs: KnowsJobs | None = None
        self.note_fetched: Callable[[JobId], Awaitable[None]] = _note_nothing
        """Called when a submitter has all results of a job at home."""
        self.check_room: Callable[[int], Awaitable[object]] = _has_room
        """Called before a record of so many bytes is fetched. Raises as `make_room`, which is called when it is here."""
        self.make_room: Callable[[JobId, int], Awaitable[None]] = _has_room
        """Called before a record of so many bytes is kept. Raises `LimitExceeded` if there is no room for it."""

    # --- answering ---------------------------------------------------------------------------------------------------

    async def _answer(self, stream: MessageStream, request: Any, body: bytes) -> None:
        job = JobId(request.job)
        try:
            manifest, signed = await self._known(job, stream.peer)
            match request:
                case ReplicaOffered():
                    await self._take_replica(job, manifest, signed, stream.peer, request)
                    await stream.send(ReplicaHeld(job))
                case RecordCopy():
                    await self._take_record(job, manifest, stream.peer, request, body)
                    await stream.send(RecordHeld(job, request.number))
                case RecordsWanted():
                    await self._give_records(stream, job, request.tasks)
                case JobStateWanted():
                    await stream.send(JobState(job, await self._state(job)))
                case JobCancelWanted():
                    if stream.peer != manifest.submitter:
                        raise ProtocolError("only the submitter may cancel a job")
                    assert self.jobs is not None
                    await self.jobs.cancel_for(job)
                    await stream.send(JobState(job, await self._state(job)))
                case JobAtHome():
                    if stream.peer != manifest.submitter:
                        raise ProtocolError("only the submitter knows what is at its home")
                    await self.note_fetched(job)
                    await stream.send(JobState(job, await self._state(job)))
                case JobPriorityWanted():
                    assert self.jobs is not None
                    await self.jobs.prioritise_for(job, request.statement)
                    said = told(self._elector.chain(job), job, PeerId(manifest.submitter))
                    await stream.send(JobState(job, json.dumps(said)))
        except (PeerinferError, KeyError, ValueError) as error:
            if isinstance(error, StreamClosed):
                raise
            await stream.send(ReplicaRefused(job, str(error)[:500]))

    async def _known(self, job: JobId, peer: PeerId) -> tuple[Manifest, bytes]:
        """The job's manifest; only who may coordinate it may ask about it."""
        signed = self._elector.manifest(job)
        if signed is None:
            row = await self._store.job(job)
            signed = row.manifest if row else None
        if signed is None:
            raise ProtocolError("this node knows nothing of the job")
        _, manifest = open_manifest(signed)
        candidates = (manifest.submitter, *(self._elector.committee(job) or manifest.committee))
        if peer not in candidates:
            raise ProtocolError("only the committee and the submitter may ask about a job")
        return manifest, signed

    async def _state(self, job: JobId) -> str:
        assert self.jobs is not None
        state = await self.jobs.state_for(job)
        text = "" if state is None else json.dumps(state)
        return text if len(text) <= STATE_CHARS_MAX else ""

    async def _take_replica(
        self, job: JobId, manifest: Manifest, signed: bytes, peer: PeerId, offer: ReplicaOffered
    ) -> None:
        if self._own not in self._elector.committee(job):
            raise ProtocolError("copies are for electors")
        if peer != manifest.submitter:
            if await self._store.job(job) is not None:
                return
            if not self._elector.is_granted(job, peer):
                raise ProtocolError("only the submitter and who coordinates offer copies")
        if offer.inputs_bytes > 2 * REPLICATED_BYTES_MAX or offer.model_bytes > MODEL_BYTES_MAX:
            raise ProtocolError("the copies are too large")
        inputs = Cid(offer.inputs)
        digest_of_cid(inputs)
        await self._blobs.pin(Cid(manifest.model), job)
        await self._blobs.pin(inputs, copies_of(job))
        try:
            for cid in (Cid(manifest.model), inputs):
                await self._fetch_blob(cid, [peer])
        except BaseException:
            # What came already is kept while there is room: the submitter may offer it again.
            with trio.CancelScope(shield=True):
                await self.let_go_of_copies(job, discard=False)
            raise
        if await self._store.job(job) is None:
            replica = {
                "inputs": offer.inputs,
                "key": offer.key.hex(),
                "model_bytes": offer.model_bytes,
                "seconds_per_item": offer.seconds_per_item / 1e9,
                "request": json.loads(offer.request),
            }
            row = JobRow(job, signed, json.dumps({"replica": replica}), STANDBY, manifest.created_at_s, None, "{}")
            await self._store.add_job(row)
        assert self.jobs is not None
        self.jobs.stand_by(job, signed)

    async def _take_record(self, job: JobId, manifest: Manifest, peer: PeerId, copy: RecordCopy, body: bytes) -> None:
        self._check_word(job, peer, copy.term, {})
        kept = self._kept.setdefault((job, copy.term.order), {})
        if copy.number not in kept:
            await self._check_row(job)
            # What the holder says last of a task counts: it may have voided what it said before. What the journal names
            # already is never void, whoever says so.
            await self.check_room(copy.record_bytes)
            record = await self._record_in(peer, copy, body)
            opened, named = _opened(manifest, record), set(copy.tasks)
            tasks = tuple(task for task in opened.tasks if task in named)
            digests = digests_in(opened, tasks)
            self._check_word(job, peer, copy.term, digests)
            await self.make_room(job, len(record))
            await self._check_row(job)
            # All that took its time: others may have been elected and heard since. Nothing waits from here to the write.
            self._check_word(job, peer, copy.term, digests)
            await self._write(job, opened, tasks)
            kept[copy.number] = None
        while len(self._kept) > JOBS_REMEMBERED_MAX:
            del self._kept[next(iter(self._kept))]

    def _check_word(self, job: JobId, peer: PeerId, term: Term, digests: Mapping[int, bytes]) -> None:
        """Raises `ProtocolError` unless the peer may say now that these are the results of these tasks."""
        chain = self._elector.chain(job)
        if chain is None or term.candidate != peer or not self._elector.serves(job, term):
            raise ProtocolError(f"term {number_of(term)} does not hold the lease here")
        for task, digest in digests.items():
            entry = chain.register.get(task)
            if entry is not None and entry.digest != digest:
                raise ProtocolError(f"the journal names another result of task {task}")

    async def _check_row(self, job: JobId) -> None:
        """Raises `ProtocolError` where no records of the job are kept: results that were removed stay so."""
        row = await self._store.job(job)
        if row is None:
            raise ProtocolError(NO_COPY_YET)
        if row.ended_at_s is not None:
            raise ProtocolError("the job has ended here")

    async def _record_in(self, peer: PeerId, copy: RecordCopy, body: bytes) -> bytes:
        if copy.record is None:
            return body
        digest_of_cid(copy.record)
        await self._fetch_blob(Cid(copy.record), [peer])
        record = await self._blobs.read(Cid(copy.record))
        await self._blobs.discard(Cid(copy.record))
        return record

    async def send_record(self, stream: MessageStream, head: RecordCopy, record: Sequence[Buffer]) -> None:
        """In the body of the message where it fits, otherwise as a blob that the other side fetches."""
        size = sum(memoryview(part).nbytes for part in record)
        if size <= BODY_BYTES_MAX:
            await stream.send(head, record)
        else:
            cid = await self._blobs.put(b"".join(record))
            self._sent.setdefault(JobId(head.job), {})[cid] = None
            await stream.send(replace(head, record=cid, record_bytes=size))

    async def let_go_of_copies(self, job: JobId, *, discard: bool) -> None:
        """Nobody needs the inputs here any more. With `discard` they leave the disk at once."""
        await self._blobs.unpin(copies_of(job), discard=discard)
        for cid in self._sent.pop(job, ()):
            await self._blobs.discard(cid)

    async def keep_record(
        self, job: JobId, manifest: Manifest, record: bytes, tasks: Sequence[int], is_true: IsTrue
    ) -> int:
        """Stores what a record that somebody else made says of `tasks`, if it is true; returns of how many.

        Raises `ProtocolError` if it does not hold what the job's tasks give.
        """
        opened = _opened(manifest, record)
        wanted = set(tasks)
        asked = tuple(task for task in opened.tasks if task in wanted)
        digests = digests_in(opened, asked)
        kept = tuple(task for task in asked if is_true(task, digests[task]))
        await self._write(job, opened, kept)
        return len(kept)

    async def _write(self, job: JobId, opened: OpenRecord, kept: tuple[int, ...]) -> None:
        """Stores the record if any of its tasks are to be kept."""
        if kept:
            offset = await self._store.append_results(job, [opened.data])
            header = opened.header
            receipt = header.receipt if is_receipt_of(header) else b""
            await self._store.add_record(
                RecordRow(job, offset, kept, frame=header.frame, peer=opened.peer, receipt=receipt)
            )

    async def _give_records(self, stream: MessageStream, job: JobId, tasks: Sequence[int]) -> None:
        wanted = set(tasks)
        for row in await self._store.records_of(job):
            held = tuple(task for task in row.tasks if task in wanted)
            if held:
                head = RecordCopy(job, Term(0, ""), row.offset, held)
                await self.send_record(stream, head, [await self._store.read_results(job, row.offset)])
        await stream.send(RecordsEnd(job))

    # --- asking ------------------------------------------------------------------------------------------------------

    def conversation(self, peer: PeerId, *, revision: int = 0) -> AbstractAsyncContextManager[MessageStream]:
        """A stream to another candidate, as `work_stream.conversation` has it."""
        return conversation(self._network, peer, JOURNAL_PROTOCOL, swarm=self._swarm, revision=revision)

    async def offer(self, peer: PeerId, offer: ReplicaOffered) -> None:
        """Returns when the elector holds the copies. Raises `NetworkError`, `ProtocolError` with its reason."""
        with trio.move_on_after(REPLICA_TIMEOUT_S):
            async with self.conversation(peer) as stream:
                await stream.send(offer)
                answer, _ = await stream.receive_as(ReplicaHeld, ReplicaRefused)
                if isinstance(answer, ReplicaRefused):
                    raise ProtocolError(f"{peer} keeps no copy: {answer.reason}")
                return
        raise StreamClosed(f"{peer} did not fetch the copies within {REPLICA_TIMEOUT_S:g} s")

    async def tell_at_home(self, peer: PeerId, job: JobId) -> None:
        """Returns when the elector has let its copies go. Raises `NetworkError`, `ProtocolError` with its reason."""
        with trio.move_on_after(ANSWER_TIMEOUT_S):
            async with self.conversation(peer, revision=2) as stream:
                await stream.send(JobAtHome(job))
                answer, _ = await stream.receive_as(JobState, ReplicaRefused)
                if isinstance(answer, ReplicaRefused):
                    raise ProtocolError(answer.reason)
                return
        raise StreamClosed(f"{peer} did not answer within {ANSWER_TIMEOUT_S:g} s")

    async def state(self, peer: PeerId, request: AboutJob) -> dict[str, Any] | None:
        """What another candidate says of the job when it has done what it was asked, or None.

        Raises `NetworkError`, `ProtocolError`.
        """
        with trio.move_on_after(STATE_TIMEOUT_S):
            revision = PRIORITY_REVISION if isinstance(request, JobPriorityWanted) else 0
            async with self.conversation(peer, revision=revision) as stream:
                await stream.send(request)
                answer, _ = await stream.receive_as(JobState, ReplicaRefused)
                if isinstance(answer, ReplicaRefused):
                    raise ProtocolError(f"{peer} says: {answer.reason}")
                try:
                    state = json.loads(answer.state) if answer.state else None
                except ValueError:
                    raise DecodeError(f"{peer} sent a state that is not JSON") from None
                return state if isinstance(state, dict) else None
        raise StreamClosed(f"{peer} did not answer within {STATE_TIMEOUT_S:g} s")

    async def fetch(self, peer: PeerId, job: JobId, manifest: Manifest, tasks: Sequence[int], is_true: IsTrue) -> int:
        """Takes the results of these tasks from another candidate, those that are true; returns how many came."""
        count, wanted = 0, set(tasks)
        async with self.conversation(peer) as stream:
            for start in range(0, len(tasks), 1024):
                await stream.send(RecordsWanted(job, tuple(tasks[start : start + 1024])))
                while True:
                    answer, body = await stream.receive_as(RecordCopy, RecordsEnd, ReplicaRefused)
                    if not isinstance(answer, RecordCopy):
                        break
                    record = await self._record_in(peer, answer, body)
                    asked = [task for task in answer.tasks if task in wanted]
                    count += await self.keep_record(job, manifest, record, asked, is_true)
        return count
