"""The coordinator's side of work streams: takes results, has samples computed again, keeps what counts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

from peerinfer.admission import Workload, check_room
from peerinfer.assignment import (
    WITHDRAWN,
    Audit,
    CancelFrame,
    CompareCopies,
    CopiesCompared,
    DropResults,
    DropWorker,
    Effect,
    Event,
    FrameAnswered,
    FrameRefused,
    JobAccepted,
    JobBroken,
    JobChanged,
    JobDropped,
    JobEnded,
    JobSpec,
    KeepResults,
    ResultsOffered,
    SendFrame,
    Settle,
    TaskFailedForGood,
    VoidResults,
    WindowSet,
    WorkerJoined,
    WorkerLost,
    WorkerOffer,
)
from peerinfer.coordination import Coordination
from peerinfer.errors import PeerinferError, ProtocolError
from peerinfer.ids import Cid, JobId, PeerId, digest_of_cid
from peerinfer.limits import FRAME_BLOB_BYTES_MAX, REASON_CHARS_MAX
from peerinfer.messages import Cancel, Frame, JobDone, Refused, Results, ResultsHeld, Window
from peerinfer_node.driver import Driver
from peerinfer_node.log import Log
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.ports import BlobStore, LocalClock, Stream
from peerinfer_node.roles.answers import Answer, check_results
from peerinfer_node.roles.auditing import Auditing
from peerinfer_node.roles.frame_sending import FrameSending
from peerinfer_node.roles.job_body import JobBody
from peerinfer_node.roles.work_stream import Conversation, greet, hang_up, read_blob, say_goodbye
from peerinfer_node.roles.worker_link import WorkerLink
from peerinfer_node.stages import Stages
from peerinfer_node.tracing import Tracing

FetchBlob = Callable[[Cid, Sequence[PeerId]], Awaitable[None]]
IDLE_LINK_S = 30.0
"""A work stream that no job has used for this long is closed."""


class CoordinatorRole:
    """Coordinates this node's jobs over work streams that others open for it with `work_with`."""

    def __init__(
        self,
        *,
        machine: Coordination,
        blobs: BlobStore,
        fetch_blob: FetchBlob,
        clock: LocalClock,
        log: Log,
        swarm: str,
    ) -> None:
        self.machine = machine
        self._blobs = blobs
        self._fetch_blob = fetch_blob
        self._log = log
        self._swarm = swarm
        self._links: dict[PeerId, WorkerLink] = {}
        self._bodies: dict[JobId, JobBody] = {}
        self._began: dict[JobId, tuple[int, float]] = {}
        """Tasks that each job had open when it was accepted, and when that was."""
        self._driver: Driver[Event, Effect] = Driver(machine, clock, self._perform, self._perform_nowait)
        self._nursery: trio.Nursery | None = None
        self._answers: dict[tuple[PeerId, int], Answer] = {}
        """Checked, until the machine has said which of their tasks count."""
        self._clock = clock
        self.stages = Stages(clock.now_s, Tracing(clock.wall_s).frame)
        self.auditing = Auditing(
            self._bodies,
            post=self._driver.post,
            is_barred=machine.is_barred,
            stages=self.stages,
            clock=clock,
            log=log,
        )
        self._sending = FrameSending(
            self._bodies, blobs=blobs, stages=self.stages, post=self._driver.post, break_job=self._break
        )
        self._bytes_in = 0
        self._bytes_out = 0

    # --- outside -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self.auditing.run)
            await self._driver.run()

    def accept(self, spec: JobSpec, body: JobBody) -> None:
        """Raises `Busy` when this node coordinates too much already."""
        open_tasks = spec.tasks - len(spec.final)
        self.check_room(open_tasks)
        self._bodies[spec.job] = body
        self._began[spec.job] = (open_tasks, self._clock.now_s())
        self._driver.post(JobAccepted(spec))

    def check_room(self, tasks: int) -> None:
        """Raises `Busy` if one more job of so many tasks would be too much for this node."""
        now_s, load = self._clock.now_s(), []
        for job, (open_tasks, began_s) in self._began.items():
            found = self.machine.tasks_left(job)
            left = open_tasks if found is None else found
            load.append(Workload(left, max(open_tasks - left, 0), now_s - began_s))
        check_room(load, tasks)

    def drop(self, job: JobId, reason: str) -> None:
        """Stops coordinating a job without ending it: somebody else may have its lease."""
        self._began.pop(job, None)
        if self._bodies.pop(job, None) is not None:
            for link in self._links.values():
                link.briefed.discard(job)
            self._driver.post(JobDropped(job, reason))
            assert self._nursery is not None
            self._nursery.start_soon(self._release, job)

    async def _release(self, job: JobId) -> None:
        try:
            await self._sending.release(job)
        except PeerinferError as error:
            self._log.warning("inputs of frames not removed", job=job, reason=str(error))

    def post(self, event: Event) -> None:
        self._driver.post(event)

    def reintroduce(self, job: JobId) -> None:
        """Its brief has changed: workers hear it again before the next frame."""
        for link in self._links.values():
            link.briefed.discard(job)

    @property
    def wants_workers(self) -> bool:
        return bool(self._bodies)

    @property
    def workers(self) -> list[PeerId]:
        return list(self._links)

    @property
    def stream_bytes(self) -> tuple[int, int]:
        """Received and sent on work streams, those that have ended included."""
        streams = [link.stream for link in self._links.values()]
        return (
            self._bytes_in + sum(stream.bytes_in for stream in streams),
            self._bytes_out + sum(stream.bytes_out for stream in streams),
        )

    def body_of(self, job: JobId) -> JobBody | None:
        return self._bodies.get(job)

    async def work_with(self, raw: Stream, offer: WorkerOffer) -> str:
        """Uses the volunteer behind this stream until it leaves. Returns why it ended, in one line."""
        stream = MessageStream(raw)
        try:
            hello = await greet(stream, swarm=self._swarm)
            if stream.peer not in self._links:
                return await self._converse(stream, offer, hello.revision)
            reason = "there is a work stream to this worker already"
            await say_goodbye(stream, reason)
            return reason
        except PeerinferError as error:
            return str(error)
        finally:
            self._bytes_in += stream.bytes_in
            self._bytes_out += stream.bytes_out
            await hang_up(stream)

    async def _converse(self, stream: MessageStream, offer: WorkerOffer, revision: int) -> str:
        peer = stream.peer
        outbox, unsent = trio.open_memory_channel[SendFrame | JobDone](float("inf"))  # bounded by window and jobs
        conversation = Conversation(stream, lambda message, body: self._receive(link, message, body))
        link = WorkerLink(stream, conversation, outbox, trio.CancelScope(), revision)
        self._links[peer] = link
        self._driver.post(WorkerJoined(peer, offer))
        try:
            with link.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._sending.run, link, unsent)
                    nursery.start_soon(self._close_when_idle, link)
                    link.end = await conversation.run()
                    nursery.cancel_scope.cancel()
        finally:
            del self._links[peer]
            for number in (*link.ordered, *link.sent):
                self.stages.dropped(number)
            self._driver.post(WorkerLost(peer, link.end))
        return link.end

    async def _close_when_idle(self, link: WorkerLink) -> None:
        idle_checks = 0
        while idle_checks < 2:
            await trio.sleep(IDLE_LINK_S / 2)
            idle_checks = 0 if self._bodies or link.sent else idle_checks + 1
        await self._part(link, "no work for now")

    async def _part(self, link: WorkerLink, reason: str) -> None:
        """Says goodbye and goes, whether or not the worker does."""
        await say_goodbye(link.stream, reason)
        link.break_off(reason)

    # --- what workers say --------------------------------------------------------------------------------------------

    async def _receive(self, link: WorkerLink, message: Any, body: bytes) -> None:
        peer = link.peer
        match message:
            case Window(frames, reason):
                link.count_window()
                self._driver.post(WindowSet(peer, frames, reason))
            case Results():
                self._take(link, message, body)
            case ResultsHeld(job, tasks):
                link.count_offer()
                self._driver.post(ResultsOffered(peer, JobId(job), tasks))
            case Refused(number, reason, final):
                self.stages.dropped(number)
                if link.forget(number):
                    self._driver.post(FrameRefused(peer, number, reason, final))
            case _:
                raise ProtocolError(f"{peer} sent {type(message).__name__} to a coordinator")
        await self._driver.wait_room()

    def _take(self, link: WorkerLink, results: Results, body: bytes) -> None:
        frame, inputs_digest = link.answered(results.frame)
        self.stages.answered(results.frame, results.compute_s)
        job_body = self._bodies.get(JobId(frame.job)) if frame else None
        if frame is None or job_body is None:
            return  # It was cancelled here while its answer was on the way.
        if results.outputs is None:
            self._check(link.peer, frame, results, body, job_body, inputs_digest)
            return
        claimed = sum(spec.size_bytes for group in results.groups for spec in group.tensors)
        if body or claimed != results.outputs_bytes or claimed > FRAME_BLOB_BYTES_MAX:
            raise ProtocolError(f"the results of frame {frame.frame} claim other sizes than they have")
        assert self._nursery is not None
        self._nursery.start_soon(self._take_blob, link, frame, results, job_body, inputs_digest)

    async def _take_blob(
        self, link: WorkerLink, frame: Frame, results: Results, job_body: JobBody, inputs_digest: bytes | None
    ) -> None:
        """Large outputs come beside the stream, which stays free for signs of life."""
        peer, cid = link.peer, Cid(results.outputs or "")
        try:
            digest_of_cid(cid)
            await self._fetch_blob(cid, [peer])
            outputs = await read_blob(self._blobs, cid, bytes_max=results.outputs_bytes, what="the outputs")
            self._check(peer, frame, results, outputs, job_body, inputs_digest)
            await self._blobs.discard(cid)
        except (PeerinferError, KeyError, ValueError) as error:
            self._log.warning("outputs not received", peer=peer, reason=str(error))
            await self._part(link, f"the outputs of frame {frame.frame} cannot be had")

    def _check(
        self,
        peer: PeerId,
        frame: Frame,
        results: Results,
        body: bytes,
        job_body: JobBody,
        inputs_digest: bytes | None,
    ) -> None:
        answer = check_results(
            peer,
            frame,
            results,
            body,
            job_body.outputs,
            wall_s=self._clock.wall_s(),
            inputs_digest=inputs_digest,
            has_receipt=job_body.brief.receipts,
        )
        self._answers[peer, frame.frame] = answer
        done = tuple(sorted(position for group in results.groups for position in group.positions))
        failures = tuple((failure.position, failure.kind, failure.reason) for failure in results.failures)
        compute_s = max(results.compute_s, 0.0)
        self._driver.post(FrameAnswered(peer, frame.frame, done, failures, compute_s, answer.energy_j))

    # --- what the machine wants --------------------------------------------------------------------------------------

    def _perform_nowait(self, effect: Effect) -> bool:
        """What can be done at once, and the results of jobs that keep nothing on a disk."""
        assert self._nursery is not None
        match effect:
            case SendFrame(peer):
                if peer in self._links:
                    self._sending.order(self._links[peer], effect)
            case CancelFrame(peer, number, reason, goes_on):
                self.stages.dropped(number)
                self._cancel_frame(peer, number, reason, goes_on=goes_on)
            case KeepResults(peer, number, job, tasks):
                body = self._bodies.get(job)
                if body is not None and not body.keep_nowait(self._answers[peer, number], tasks):
                    return False
                self.stages.kept += len(tasks)
                del self._answers[peer, number]
            case DropResults(peer, number):
                del self._answers[peer, number]
            case Audit():
                self.auditing.draw(effect)
            case JobChanged(job):
                if job in self._bodies:
                    self._bodies[job].changed()
            case DropWorker(peer, reason):
                if peer in self._links:
                    self._nursery.start_soon(self._part, self._links[peer], reason)
            case _:
                return False
        return True

    async def _perform(self, effect: Effect) -> None:
        match effect:
            case KeepResults(peer, number, job, tasks):
                answer = self._answers.pop((peer, number))
                self.stages.kept += len(tasks)
                await self._for_job(job, lambda body: self._keep(body, answer, tasks))
            case CompareCopies(peer, number, job, tasks):
                answer = self._answers.pop((peer, number))
                await self._for_job(job, lambda body: self._compare(body, job, answer, tasks))
            case Settle(job, peer, tasks, is_last):
                await self._for_job(job, lambda body: body.settle(peer, tasks, is_last=is_last))
            case VoidResults(job, peer, tasks, reason):
                self.stages.voided += len(tasks)
                self._log.warning("results voided", job=job, peer=peer, tasks=len(tasks), reason=reason)
                self.auditing.forget(job, tasks)
                await self._for_job(job, lambda body: body.void(tasks))
            case TaskFailedForGood(job, task, reason):
                self.stages.failed += 1
                if reason != WITHDRAWN:
                    self._log.warning("task failed", job=job, task=task, reason=reason)
                await self._for_job(job, lambda body: body.failed(task, reason))
            case JobEnded():
                await self._end(effect)
            case _:
                self._perform_nowait(effect)

    async def _for_job(self, job: JobId, action: Callable[[JobBody], Awaitable[None]]) -> None:
        """Does what may fail on this side, for which no worker is to blame: then the job cannot go on here."""
        body = self._bodies.get(job)
        if body is None:
            return
        try:
            await action(body)
        except PeerinferError as error:
            self._break(job, error)

    def _break(self, job: JobId, error: PeerinferError) -> None:
        self._log.error("the job cannot go on", job=job, reason=str(error))
        self._driver.post(JobBroken(job, str(error), type(error).__name__))

    async def _keep(self, body: JobBody, answer: Answer, tasks: Sequence[int]) -> None:
        await body.keep(answer, tasks)
        self.auditing.kept(answer)

    async def _compare(self, body: JobBody, job: JobId, answer: Answer, tasks: Sequence[int]) -> None:
        agrees = await body.compare(answer, tasks)
        self._driver.post(CopiesCompared(job, answer.peer, tuple(agrees.items())))

    def _cancel_frame(self, peer: PeerId, number: int, reason: str, *, goes_on: bool) -> None:
        link = self._links.get(peer)
        if link is None:
            return
        link.ordered.discard(number)
        if link.forget(number):
            assert self._nursery is not None
            self._nursery.start_soon(self._tell, link, Cancel(number, reason[:REASON_CHARS_MAX], goes_on))

    async def _end(self, end: JobEnded) -> None:
        job = end.job
        self._began.pop(job, None)
        body = self._bodies.pop(job, None)
        if body is None:
            return  # It was dropped in the meantime.
        for link in self._links.values():
            if job in link.briefed:
                link.briefed.discard(job)
                link.queue(JobDone(job))
        await body.ended(end)
        await self._release(job)

    async def _tell(self, link: WorkerLink, message: Any) -> None:
        try:
            await link.stream.send(message)
        except PeerinferError as error:
            self._log.debug("message not delivered", peer=link.peer, reason=str(error))
