"""The coordinator's side of work streams: sends frames, takes results, has samples computed again, keeps what counts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
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
from peerinfer.dispatch import OFFERS_MAX
from peerinfer.errors import NetworkError, PeerinferError, ProtocolError
from peerinfer.ids import Cid, JobId, PeerId, digest_of_cid
from peerinfer.limits import (
    FRAME_BLOB_BYTES_MAX,
    INLINE_BYTES_MAX,
    REASON_CHARS_MAX,
    WRITE_SLICE_BYTES,
)
from peerinfer.messages import (
    STRINGS_REVISION,
    Cancel,
    Frame,
    JobBrief,
    JobDone,
    Refused,
    Results,
    ResultsHeld,
    Term,
    Window,
)
from peerinfer.tensors import Buffer, is_string
from peerinfer_node.driver import Driver
from peerinfer_node.log import Log
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.ports import BlobStore, LocalClock, Stream
from peerinfer_node.roles.answers import Answer, check_results
from peerinfer_node.roles.auditing import Auditing
from peerinfer_node.roles.frames import inputs_digest_of
from peerinfer_node.roles.job_body import FrameInputs, JobBody
from peerinfer_node.roles.work_stream import Conversation, greet, hang_up, read_blob, say_goodbye
from peerinfer_node.stages import Stages
from peerinfer_node.tracing import Tracing

FetchBlob = Callable[[Cid, Sequence[PeerId]], Awaitable[None]]
IDLE_LINK_S = 30.0
"""A work stream that no job has used for this long is closed."""

OFFERS_PER_STREAM_MAX = 64 * OFFERS_MAX
"""An honest worker offers what it keeps once for each job that comes to this node, and when it comes back."""

WINDOWS_AT_ONCE_MAX = 100
WINDOWS_PER_S_MAX = 5.0
"""A window changes when an owner pauses or resumes. Six bytes that make the machine look at all jobs and workers again
are worth sending a million times to somebody who wants to hold us up."""


def frames_of(job: JobId) -> str:
    """Who pins the inputs of frames that are too large for a message."""
    return f"{job} frames"


@dataclass(slots=True)
class _Link:
    stream: MessageStream
    conversation: Conversation
    outbox: trio.MemorySendChannel[SendFrame | JobDone]
    """One after the other: no frame of a job may follow its end."""
    scope: trio.CancelScope
    revision: int
    """Of the protocol, as the worker speaks it."""
    briefed: set[JobId] = field(default_factory=set)
    ordered: set[int] = field(default_factory=set)
    """Frames in the outbox that have not been cancelled since."""
    unsent: int = 0
    """Messages in the outbox, the one that is being sent included."""
    sent: dict[int, Frame] = field(default_factory=dict)
    digests: dict[int, bytes] = field(default_factory=dict)
    """Of the inputs of those whose receipts must name them."""
    joined_s: float = field(default_factory=trio.current_time)
    windows: int = 0
    offers: int = 0
    end: str = "this node stops"

    def queue(self, order: SendFrame | JobDone) -> None:
        self.unsent += 1
        self.outbox.send_nowait(order)


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
        self._links: dict[PeerId, _Link] = {}
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
        """Inputs of frames that nobody here gives out any more."""
        try:
            await self._blobs.unpin(frames_of(job), discard=True)
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
        link = _Link(stream, conversation, outbox, trio.CancelScope(), revision)
        self._links[peer] = link
        self._driver.post(WorkerJoined(peer, offer))
        try:
            with link.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send_outbox, link, unsent)
                    nursery.start_soon(self._close_when_idle, link)
                    link.end = await conversation.run()
                    nursery.cancel_scope.cancel()
        finally:
            del self._links[peer]
            for number in (*link.ordered, *link.sent):
                self.stages.dropped(number)
            self._driver.post(WorkerLost(peer, link.end))
        return link.end

    async def _close_when_idle(self, link: _Link) -> None:
        idle_checks = 0
        while idle_checks < 2:
            await trio.sleep(IDLE_LINK_S / 2)
            idle_checks = 0 if self._bodies or link.sent else idle_checks + 1
        await self._part(link, "no work for now")

    async def _part(self, link: _Link, reason: str) -> None:
        """Says goodbye and goes, whether or not the worker does."""
        await say_goodbye(link.stream, reason)
        link.end = reason
        link.scope.cancel()

    # --- what workers say --------------------------------------------------------------------------------------------

    async def _receive(self, link: _Link, message: Any, body: bytes) -> None:
        peer = link.stream.peer
        match message:
            case Window(frames, reason):
                link.windows += 1
                if link.windows > WINDOWS_AT_ONCE_MAX + WINDOWS_PER_S_MAX * (trio.current_time() - link.joined_s):
                    raise ProtocolError(f"{peer} changes its window all the time")
                self._driver.post(WindowSet(peer, frames, reason))
            case Results():
                self._take(link, message, body)
            case ResultsHeld(job, tasks):
                link.offers += 1
                if link.offers > OFFERS_PER_STREAM_MAX:
                    raise ProtocolError(f"{peer} offers results all the time")
                self._driver.post(ResultsOffered(peer, JobId(job), tasks))
            case Refused(number, reason, final):
                self.stages.dropped(number)
                if link.sent.pop(number, None) is not None:
                    link.digests.pop(number, None)
                    self._settle(link)
                    self._driver.post(FrameRefused(peer, number, reason, final))
            case _:
                raise ProtocolError(f"{peer} sent {type(message).__name__} to a coordinator")
        await self._driver.wait_room()

    def _take(self, link: _Link, results: Results, body: bytes) -> None:
        frame = link.sent.pop(results.frame, None)
        self._settle(link)
        self.stages.answered(results.frame, results.compute_s)
        job_body = self._bodies.get(JobId(frame.job)) if frame else None
        if frame is None or job_body is None:
            link.digests.pop(results.frame, None)
            return  # It was cancelled here while its answer was on the way.
        if results.outputs is None:
            self._check(link, frame, results, body, job_body)
            return
        claimed = sum(spec.size_bytes for group in results.groups for spec in group.tensors)
        if body or claimed != results.outputs_bytes or claimed > FRAME_BLOB_BYTES_MAX:
            raise ProtocolError(f"the results of frame {frame.frame} claim other sizes than they have")
        assert self._nursery is not None
        self._nursery.start_soon(self._take_blob, link, frame, results, job_body)

    async def _take_blob(self, link: _Link, frame: Frame, results: Results, job_body: JobBody) -> None:
        """Large outputs come beside the stream, which stays free for signs of life."""
        peer, cid = link.stream.peer, Cid(results.outputs or "")
        try:
            digest_of_cid(cid)
            await self._fetch_blob(cid, [peer])
            outputs = await read_blob(self._blobs, cid, bytes_max=results.outputs_bytes, what="the outputs")
            self._check(link, frame, results, outputs, job_body)
            await self._blobs.discard(cid)
        except (PeerinferError, KeyError, ValueError) as error:
            self._log.warning("outputs not received", peer=peer, reason=str(error))
            await self._part(link, f"the outputs of frame {frame.frame} cannot be had")

    def _check(self, link: _Link, frame: Frame, results: Results, body: bytes, job_body: JobBody) -> None:
        peer = link.stream.peer
        answer = check_results(
            peer,
            frame,
            results,
            body,
            job_body.outputs,
            wall_s=self._clock.wall_s(),
            inputs_digest=link.digests.pop(frame.frame, None),
            has_receipt=job_body.brief.receipts,
        )
        self._answers[peer, frame.frame] = answer
        done = tuple(sorted(position for group in results.groups for position in group.positions))
        failures = tuple((failure.position, failure.kind, failure.reason) for failure in results.failures)
        compute_s = max(results.compute_s, 0.0)
        self._driver.post(FrameAnswered(peer, frame.frame, done, failures, compute_s, answer.energy_j))

    def _settle(self, link: _Link) -> None:
        link.conversation.set_busy(bool(link.sent))

    # --- what the machine wants --------------------------------------------------------------------------------------

    def _perform_nowait(self, effect: Effect) -> bool:
        """What can be done at once, and the results of jobs that keep nothing on a disk."""
        assert self._nursery is not None
        match effect:
            case SendFrame(peer, number, job, tasks, _):
                if peer in self._links:
                    self.stages.ordered(number, job, peer, len(tasks))
                    self._order(self._links[peer], effect)
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
        if link.sent.pop(number, None) is not None:
            link.digests.pop(number, None)
            assert self._nursery is not None
            self._settle(link)
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

    async def _tell(self, link: _Link, message: Any) -> None:
        try:
            await link.stream.send(message)
        except PeerinferError as error:
            self._log.debug("message not delivered", peer=link.stream.peer, reason=str(error))

    # --- frames ------------------------------------------------------------------------------------------------------

    async def _send_outbox(self, link: _Link, unsent: trio.MemoryReceiveChannel[SendFrame | JobDone]) -> None:
        async for order in unsent:
            try:
                if isinstance(order, JobDone):
                    await link.stream.send(order)
                else:
                    await self._send_frame(link, order)
            except NetworkError as error:
                link.end = str(error)
                link.scope.cancel()
            except PeerinferError as error:
                if isinstance(order, SendFrame):
                    self._break(order.job, error)
            finally:
                link.unsent -= 1

    def _order(self, link: _Link, order: SendFrame) -> None:
        """Sends a frame here and now where nothing has to be waited for: one task alone waits for no other task of ours."""
        link.ordered.add(order.frame)
        try:
            if self._send_frame_nowait(link, order):
                return
        except NetworkError as error:
            link.end = str(error)
            link.scope.cancel()
        link.queue(order)

    def _send_frame_nowait(self, link: _Link, order: SendFrame) -> bool:
        body = self._bodies.get(order.job)
        if link.unsent or body is None or order.job not in link.briefed or not body.may_act():
            return False
        inputs = body.inputs_nowait(order.tasks)
        if inputs is None or _bytes_of(inputs) > WRITE_SLICE_BYTES or self._strings_too_early(link, body, inputs):
            return False
        frame = _frame_of(order, body.brief, inputs, None)
        if not link.stream.send_nowait(frame, inputs.body):
            return False
        self._note_sent(link, frame, body.brief, inputs.body)
        return True

    async def _send_frame(self, link: _Link, order: SendFrame) -> None:
        body = self._bodies.get(order.job)
        if body is None or order.frame not in link.ordered:
            return
        brief = body.brief
        inputs = await body.inputs(order.tasks)
        if self._strings_too_early(link, body, inputs):
            reason = "its version carries no strings; upgrade it"
            self._driver.post(FrameRefused(link.stream.peer, order.frame, reason, final=True))
            return
        if order.job not in link.briefed:
            link.briefed.add(order.job)
            await link.stream.send(brief)
        if not body.may_act():
            reason = "this node does not hold the lease of the job any more"
            self._driver.post(FrameRefused(link.stream.peer, order.frame, reason, final=False))
            return
        cid: Cid | None = None
        parts: Sequence[Buffer] = inputs.body
        if _bytes_of(inputs) > INLINE_BYTES_MAX:
            cid = await self._blobs.put(b"".join(parts))
            await self._blobs.pin(cid, frames_of(order.job))
            parts = ()
        if order.frame not in link.ordered:
            return  # It was cancelled, or its job ended, while its inputs were put together.
        frame = _frame_of(order, brief, inputs, cid)
        self._note_sent(link, frame, brief, parts)
        await link.stream.send(frame, parts)

    @staticmethod
    def _strings_too_early(link: _Link, body: JobBody, inputs: FrameInputs) -> bool:
        dtypes = [spec.dtype for spec in inputs.tensors] + [port.dtype for port in body.outputs.values()]
        return link.revision < STRINGS_REVISION and any(map(is_string, dtypes))

    def _note_sent(self, link: _Link, frame: Frame, brief: JobBrief, parts: Sequence[Buffer]) -> None:
        link.ordered.discard(frame.frame)
        link.sent[frame.frame] = frame
        if brief.certificate and brief.receipts and link.stream.peer != brief.term.candidate:
            link.digests[frame.frame] = inputs_digest_of(frame.inputs, parts)
        self._settle(link)
        self.stages.sent(frame.frame)


def _bytes_of(inputs: FrameInputs) -> int:
    return sum(spec.size_bytes for spec in inputs.tensors)


def _frame_of(order: SendFrame, brief: JobBrief, inputs: FrameInputs, cid: Cid | None) -> Frame:
    return Frame(
        frame=order.frame,
        job=order.job,
        term=Term(brief.term.round, brief.term.candidate),
        tasks=order.tasks,
        attempts=order.attempts,
        items=inputs.items,
        tensors=inputs.tensors,
        inputs=cid,
        inputs_bytes=_bytes_of(inputs) if cid else 0,
    )
