"""The volunteer's side of work streams: takes frames, runs them on the devices, answers with results and a receipt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import trio

from peerinfer.errors import (
    PeerinferError,
    ProtocolError,
)
from peerinfer.fairness import Priority
from peerinfer.ids import Cid, JobId, PeerId
from peerinfer.limits import (
    COORDINATORS_MAX,
    KEPT_FRAMES_MAX,
    REASON_CHARS_MAX,
    WINDOW_FRAMES_MAX,
)
from peerinfer.messages import RESULTS_HELD_REVISION, Cancel, Frame, JobBrief, JobDone, Refused, ResultsHeld, Window
from peerinfer.volunteering import (
    CoordinatorJoined,
    CoordinatorLeft,
    DevicesAllowed,
    DropFrame,
    Effect,
    Event,
    FinishAsked,
    Finished,
    FrameCancelled,
    FrameComputed,
    FrameFinished,
    FrameOffered,
    PauseAsked,
    PauseLifted,
    RefuseFrame,
    ResumeAsked,
    SetWindow,
    StartFrame,
    StateChanged,
    StopFrame,
    Volunteering,
    VolunteerPicture,
)
from peerinfer.waiting_frames import FrameKey
from peerinfer_node.driver import Driver
from peerinfer_node.log import Log
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.ports import BlobStore, Executor, Keys, LocalClock, Stream
from peerinfer_node.roles.computing import Answer, Computing
from peerinfer_node.roles.frames import check_frame
from peerinfer_node.roles.held_frames import Held, Link
from peerinfer_node.roles.kept_frames import KeptFrames
from peerinfer_node.roles.models_at_work import FetchBlob
from peerinfer_node.roles.work_stream import Conversation, greet, hang_up, say_goodbye

OFFERS_MAX = KEPT_FRAMES_MAX + 2 * WINDOW_FRAMES_MAX
OUTBOX_MAX = 256 + OFFERS_MAX
"""Windows, offers and refusals that wait for a coordinator to read them; a coordinator that lets more pile up is left."""


class WorkerRole:
    """Runs other nodes' frames on this node's devices. `run` must be running for anything to happen."""

    def __init__(
        self,
        *,
        executors: Sequence[Executor],
        blobs: BlobStore,
        fetch_blob: FetchBlob,
        fetch_model: FetchBlob,
        keys: Keys,
        clock: LocalClock,
        log: Log,
        swarm: str,
        lends: bool,
        allows_unsandboxed: bool = False,
        own_jobs_first: bool = False,
    ) -> None:
        """`allows_unsandboxed` lets strangers' models run in processes that nothing locks in."""
        self._allows_unsandboxed = allows_unsandboxed
        self._executors = list(executors)
        self._idle: list[Executor] = list(executors)
        self._blobs = blobs
        self._keys = keys
        self._log = log
        self._swarm = swarm
        self._links: dict[PeerId, Link] = {}
        self._held: dict[FrameKey, Held] = {}
        self._kept = KeptFrames()
        self.computing = Computing(
            executors=self._executors,
            kept=self._kept,
            blobs=blobs,
            fetch_blob=fetch_blob,
            fetch_model=fetch_model,
            keys=keys,
            clock=clock,
            log=log,
        )
        self._nursery: trio.Nursery | None = None
        self._clock = clock
        first = str(keys.peer_id) if own_jobs_first else ""
        self._machine = Volunteering(len(executors) if lends else 0, first=first)
        self._driver: Driver[Event, Effect] = Driver(self._machine, clock, self._perform, self._perform_nowait)
        self.on_state: Callable[[str, str], None] = lambda state, reason: None
        self.finished = trio.Event()

    # --- outside ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await self._driver.run()

    @property
    def executors(self) -> Sequence[Executor]:
        """The devices that are lent."""
        return self._executors

    def is_running(self, executor: Executor) -> bool:
        """Whether this device computes a frame now."""
        return any(held.executor is executor for held in self._held.values())

    @property
    def picture(self) -> VolunteerPicture:
        return self._machine.snapshot()

    def pause(self, reason: str, until_s: float = math.inf) -> None:
        """`until_s` is on the node's monotonic clock."""
        self._driver.post(PauseAsked(reason, until_s))

    def lift_pause(self) -> None:
        self._driver.post(PauseLifted())

    def resume(self) -> None:
        self._driver.post(ResumeAsked())

    def rest(self, reasons: Mapping[Executor, str]) -> None:
        """Devices that must not be used now, and why; all others may be.

        What runs on them is stopped and handed back (where all must rest, `pause` has done that), and graphics cards
        give their memory back; the processor is this node's own as well.
        """
        for executor in self.computing.rest(reasons):
            if len(reasons) < len(self._executors):
                for held in [held for held in self._held.values() if held.executor is executor]:
                    self._hand_back(held, reasons[executor])
            if self._nursery is not None and executor.device.kind == "gpu":
                self._nursery.start_soon(executor.release)
        self._driver.post(DevicesAllowed(sum(executor not in reasons for executor in self._executors)))

    def _hand_back(self, held: Held, reason: str) -> None:
        if not held.scope.cancel_called:
            refused = Refused(held.frame.frame, f"the device rests: {reason}"[:REASON_CHARS_MAX], False)
            self._tell(held.link, refused)
            held.scope.cancel()

    def finish(self) -> None:
        """`finished` is set when nothing runs any more."""
        self.finished = trio.Event()
        self._driver.post(FinishAsked())

    async def serve(self, raw: Stream) -> None:
        """Talks to one coordinator until it leaves."""
        stream = MessageStream(raw)
        try:
            hello = await greet(stream, swarm=self._swarm)
            objection = self._objection(stream.peer)
            if objection:
                await say_goodbye(stream, objection)
            else:
                await self._converse(stream, hello.revision)
        except PeerinferError as error:
            self._log.info("work stream refused", peer=stream.peer, reason=str(error))
        finally:
            await hang_up(stream)

    @property
    def unsandboxed_words(self) -> str:
        """Why nothing is run for others; "" where a sandbox is in force or its owner has said that none is needed."""
        if self._allows_unsandboxed or not self._executors:
            return ""
        if any(executor.sandbox != "none" for executor in self._executors):
            return ""
        return "there is no sandbox here for others' models (Linux 5.13 has one); --allow-unsandboxed runs them without"

    def _objection(self, peer: PeerId) -> str:
        if peer in self._links:
            return "one work stream for each coordinator"
        own = self._keys.peer_id
        if peer != own and (words := self.unsandboxed_words):
            return words
        others = len(self._links) - (own in self._links)
        if peer != own and others >= COORDINATORS_MAX - 1:  # one place is for this node's own jobs
            return f"serves {others} coordinators already; try later"
        return ""

    async def _converse(self, stream: MessageStream, revision: int) -> None:
        peer = stream.peer
        outbox, unsent = trio.open_memory_channel[Window | Refused | ResultsHeld](OUTBOX_MAX)
        conversation = Conversation(stream, lambda message, body: self._receive(link, message, body))
        link = Link(stream, conversation, outbox, trio.CancelScope(), revision=revision)
        self._links[peer] = link
        self._offer_kept(link)  # before the first window, so that nobody else is given what is here
        self._driver.post(CoordinatorJoined(peer))
        try:
            with link.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send_outbox, link, unsent)
                    link.end = await conversation.run()
                    nursery.cancel_scope.cancel()
        finally:
            del self._links[peer]
            link.is_gone = True
            self._driver.post(CoordinatorLeft(peer))
            with trio.CancelScope(shield=True):
                await self._discard(link.outputs)
            self._log.info("coordinator left", peer=peer, reason=link.end)

    def _offer_kept(self, link: Link, job: str | None = None) -> None:
        """Tells a coordinator what is finished here, or nearly, of jobs that are now its own."""
        if link.revision < RESULTS_HELD_REVISION:
            return
        peer = link.stream.peer
        offers = dict.fromkeys(self._kept.of(peer, job))
        for held in self._held.values():
            is_begun = held.executor is not None and held.link is not link
            if is_begun and peer in held.candidates and job in (None, held.frame.job):
                offers[JobId(held.frame.job), held.frame.tasks] = None
        for of, tasks in list(offers)[-OFFERS_MAX:]:
            self._tell(link, ResultsHeld(of, tasks))

    async def _discard(self, outputs: Sequence[Cid]) -> None:
        try:
            for cid in outputs:
                await self._blobs.discard(cid)
        except PeerinferError as error:
            self._log.warning("outputs not removed", reason=str(error))

    async def _send_outbox(self, link: Link, unsent: trio.MemoryReceiveChannel[Window | Refused | ResultsHeld]) -> None:
        try:
            async for message in unsent:
                await link.stream.send(message)
        except PeerinferError as error:
            link.break_off(str(error))

    def _tell(self, link: Link, message: Window | Refused | ResultsHeld) -> None:
        try:
            link.outbox.send_nowait(message)
        except trio.WouldBlock:
            link.break_off(f"did not read {OUTBOX_MAX} messages")

    # --- what coordinators say ---------------------------------------------------------------------------------------

    async def _receive(self, link: Link, message: Any, body: bytes) -> None:
        match message:
            case JobBrief():
                self._brief(link, message)
            case Frame():
                self._take(link, message, body)
            case Cancel(number, _, goes_on):
                key = (link.stream.peer, number)
                if goes_on and key in self._held:
                    self._held[key].is_wanted = False
                self._driver.post(FrameCancelled(key, goes_on))
            case JobDone(job):
                if link.briefs.pop(job, None) is not None:
                    self._forget(job)
                outputs, link.outputs = link.outputs, []
                await self._discard(outputs)
            case _:
                raise ProtocolError(f"{link.stream.peer} sent {type(message).__name__} to a worker")
        await self._driver.wait_room()

    def _forget(self, job: str) -> None:
        """Nobody wants anything of this job any more."""
        self._kept.forget(job)
        for held in self._held.values():
            if held.frame.job == job and (held.link.is_gone or not held.is_wanted):
                held.scope.cancel()

    def _brief(self, link: Link, brief: JobBrief) -> None:
        is_new = brief.job not in link.briefs
        introduced = link.introduce(brief, self._clock.now_s())
        if introduced.candidates and is_new:
            self._offer_kept(link, brief.job)

    def _take(self, link: Link, frame: Frame, body: bytes) -> None:
        job = link.briefs.get(frame.job)
        key = (link.stream.peer, frame.frame)
        if job is None:
            raise ProtocolError(f"{link.stream.peer} sent a frame of a job that it did not introduce")
        brief = job.brief
        check_frame(frame, brief, len(body))
        held = self._held.get(key)
        if held is not None:
            if held.link is link:
                raise ProtocolError(f"{link.stream.peer} used frame number {frame.frame} twice")
            self._tell(link, Refused(frame.frame, "a frame of this number from before is still being stopped", False))
            return
        is_certified = bool(brief.certificate) and frame.term == brief.term
        candidates = job.candidates if is_certified else frozenset[str]()
        self._held[key] = Held(link, brief, frame, body, trio.CancelScope(), candidates)
        link.frames += 1
        link.conversation.set_busy(True)
        priority = Priority(min(brief.priority, Priority.LOW))
        offered = FrameOffered(
            key,
            JobId(frame.job),
            frame.term,
            is_certified,
            job.submitter,
            priority,
            job.due_s,
            outlives=bool(candidates),
        )
        self._driver.post(offered)

    # --- what the machine wants --------------------------------------------------------------------------------------

    async def _perform(self, effect: Effect) -> None:
        self._perform_nowait(effect)

    def _perform_nowait(self, effect: Effect) -> bool:
        assert self._nursery is not None
        match effect:
            case SetWindow(peer, frames, reason):
                if peer in self._links:
                    self._tell(self._links[peer], Window(frames, reason[:REASON_CHARS_MAX]))
            case StartFrame(key):
                self._nursery.start_soon(self._run_frame, key)
            case StopFrame(key):
                if key in self._held:
                    self._held[key].scope.cancel()
            case RefuseFrame(key, reason, final):
                held = self._held.get(key)
                if held is not None:
                    self._tell(held.link, Refused(key[1], reason[:REASON_CHARS_MAX], final))
                    if not held.scope.cancel_called:
                        self._drop(key)
            case DropFrame(key):
                self._drop(key)
            case StateChanged(state, reason):
                self.on_state(state, reason)
            case Finished():
                self.finished.set()
        return True

    def _drop(self, key: FrameKey) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            held.link.frames -= 1
            held.link.conversation.set_busy(held.link.frames > 0)

    # --- running -----------------------------------------------------------------------------------------------------

    async def _run_frame(self, key: FrameKey) -> None:
        held = self._held.get(key)
        if held is None:
            self._driver.post(FrameFinished(key))
            return
        executor = held.executor = next(iter(self.computing.fastest_first(self._idle)), None)
        if executor is None:  # it went to rest while the frame was on its way
            self._hand_back(held, next(iter(self.computing.resting.values()), ""))
            self._drop(key)
            self._driver.post(FrameFinished(key))
            return
        self._idle.remove(executor)
        answer: Answer | None = None
        try:
            with held.scope:
                answer = await self.computing.answer(held, executor)
        finally:
            held.executor = None
            self._idle.append(executor)
            self._driver.post(FrameComputed(key))
        try:
            if answer is not None and held.is_wanted and not held.link.is_gone:
                await self._send_answer(held, executor, *answer)
        finally:
            self._drop(key)
            self._driver.post(FrameFinished(key))

    async def _send_answer(
        self, held: Held, executor: Executor, message: Any, body: Sequence[bytes | memoryview]
    ) -> None:
        """Not under the frame's own scope: a cancelled frame must not leave half a message behind."""
        stream = held.link.stream
        try:
            try:
                await stream.send(message, body)
            except ValueError as error:  # so many shapes or reasons have no room in one header
                self._log.info("answer too large", peer=stream.peer, reason=str(error))
                await stream.send(*await self.computing.without_room(held, executor))
        except PeerinferError as error:
            self._log.debug("answer not delivered", peer=stream.peer, reason=str(error))
