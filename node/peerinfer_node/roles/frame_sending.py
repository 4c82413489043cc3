"""Frames on their way to workers: brief first, then rows, inline or as a blob, and nothing that was cancelled meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import trio

from peerinfer.assignment import Event, FrameRefused, SendFrame
from peerinfer.errors import NetworkError, PeerinferError
from peerinfer.ids import Cid, JobId
from peerinfer.limits import INLINE_BYTES_MAX, WRITE_SLICE_BYTES
from peerinfer.messages import STRINGS_REVISION, Frame, JobBrief, JobDone, Term
from peerinfer.tensors import Buffer, is_string
from peerinfer_node.ports import BlobStore
from peerinfer_node.roles.frames import inputs_digest_of
from peerinfer_node.roles.job_body import FrameInputs, JobBody
from peerinfer_node.roles.worker_link import WorkerLink
from peerinfer_node.stages import Stages


class FrameSending:
    def __init__(
        self,
        bodies: Mapping[JobId, JobBody],
        *,
        blobs: BlobStore,
        stages: Stages,
        post: Callable[[Event], None],
        break_job: Callable[[JobId, PeerinferError], None],
    ) -> None:
        self._bodies = bodies
        self._blobs = blobs
        self._stages = stages
        self._post = post
        self._break_job = break_job

    def order(self, link: WorkerLink, order: SendFrame) -> None:
        """Sends a frame here and now where nothing has to be waited for: one task alone waits for no other task of ours."""
        self._stages.ordered(order.frame, order.job, order.peer, len(order.tasks))
        link.ordered.add(order.frame)
        try:
            if self._send_nowait(link, order):
                return
        except NetworkError as error:
            link.break_off(str(error))
        link.queue(order)

    async def run(self, link: WorkerLink, outbox: trio.MemoryReceiveChannel[SendFrame | JobDone]) -> None:
        """Sends what a link queues, as long as it lasts."""
        async for order in outbox:
            try:
                if isinstance(order, JobDone):
                    await link.stream.send(order)
                else:
                    await self._send(link, order)
            except NetworkError as error:
                link.break_off(str(error))
            except PeerinferError as error:
                if isinstance(order, SendFrame):
                    self._break_job(order.job, error)
            finally:
                link.unsent -= 1

    def _send_nowait(self, link: WorkerLink, order: SendFrame) -> bool:
        body = self._bodies.get(order.job)
        if link.unsent or body is None or order.job not in link.briefed or not body.may_act():
            return False
        inputs = body.inputs_nowait(order.tasks)
        if inputs is None or _bytes_of(inputs) > WRITE_SLICE_BYTES or _strings_too_early(link, body, inputs):
            return False
        frame = _frame_of(order, body.brief, inputs, None)
        if not link.stream.send_nowait(frame, inputs.body):
            return False
        self._note_sent(link, frame, body.brief, inputs.body)
        return True

    async def _send(self, link: WorkerLink, order: SendFrame) -> None:
        body = self._bodies.get(order.job)
        if body is None or order.frame not in link.ordered:
            return
        brief = body.brief
        inputs = await body.inputs(order.tasks)
        if _strings_too_early(link, body, inputs):
            reason = "its version carries no strings; upgrade it"
            self._post(FrameRefused(link.peer, order.frame, reason, final=True))
            return
        if order.job not in link.briefed:
            link.briefed.add(order.job)
            await link.stream.send(brief)
        if not body.may_act():
            reason = "this node does not hold the lease of the job any more"
            self._post(FrameRefused(link.peer, order.frame, reason, final=False))
            return
        cid: Cid | None = None
        parts: Sequence[Buffer] = inputs.body
        if _bytes_of(inputs) > INLINE_BYTES_MAX:
            cid = await self._blobs.put(b"".join(parts))
            await self._blobs.pin(cid, _pinned_by(order.job))
            parts = ()
        if order.frame not in link.ordered:
            return  # It was cancelled, or its job ended, while its inputs were put together.
        frame = _frame_of(order, brief, inputs, cid)
        self._note_sent(link, frame, brief, parts)
        await link.stream.send(frame, parts)

    def _note_sent(self, link: WorkerLink, frame: Frame, brief: JobBrief, parts: Sequence[Buffer]) -> None:
        is_named = brief.certificate and brief.receipts and link.peer != brief.term.candidate
        link.note_sent(frame, inputs_digest_of(frame.inputs, parts) if is_named else None)
        self._stages.sent(frame.frame)

    async def release(self, job: JobId) -> None:
        """Removes inputs of frames that nobody here gives out any more."""
        await self._blobs.unpin(_pinned_by(job), discard=True)


def _pinned_by(job: JobId) -> str:
    """Who pins the inputs of frames that are too large for a message."""
    return f"{job} frames"


def _strings_too_early(link: WorkerLink, body: JobBody, inputs: FrameInputs) -> bool:
    dtypes = [spec.dtype for spec in inputs.tensors] + [port.dtype for port in body.outputs.values()]
    return link.revision < STRINGS_REVISION and any(map(is_string, dtypes))


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
