"""Requests to electors, each over one stream that stays open, and the answers in the order in which they were asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import trio

from peerinfer.candidacy_events import Reply, Request
from peerinfer.errors import PeerinferError, ProtocolError
from peerinfer.ids import JobId, PeerId
from peerinfer.lease_messages import (
    JOURNAL_REVISION,
    Appended,
    Granted,
    JournalPart,
    LeaseRefused,
    Promise,
    SealGiven,
    SeatTaken,
    SnapshotPart,
)
from peerinfer_node.log import Log
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.ports import Network
from peerinfer_node.roles.work_stream import greet

LEASE_PROTOCOL = "/peerinfer/lease/1"
REQUESTS_WAITING_MAX = 256
"""To one elector, over all jobs. Beyond this a request counts as unheard."""

OPEN_TIMEOUT_S = 5.0
IDLE_S = 60.0
REOPEN_AFTER_S = 0.25

USELESS_REMEMBERED_MAX = 1000

OnReply = Callable[[JobId, PeerId, "Reply | None"], None]
"""Called with each answer, and with None where there will be none."""


@dataclass(slots=True)
class _Line:
    elector: PeerId
    waiting: deque[tuple[JobId, Request, float]] = field(default_factory=deque)
    """The job, what is asked, and how long an answer is waited for."""
    asked: deque[tuple[JobId, float, float]] = field(default_factory=deque)
    """Sent and not answered: the job, until when it is waited for, and how long that is."""
    is_running: bool = False
    work: trio.Event = field(default_factory=trio.Event)


class ElectorLines:
    """Talks to other nodes' electors."""

    def __init__(self, *, network: Network, log: Log, swarm: str, on_reply: OnReply) -> None:
        self._network = network
        self._log = log
        self._swarm = swarm
        self._on_reply = on_reply
        self._lines: dict[PeerId, _Line] = {}
        self._useless: dict[PeerId, None] = {}
        """Electors that speak another version, or break the protocol."""

    def ask(self, nursery: trio.Nursery, elector: PeerId, job: JobId, request: Request, answer_s: float) -> None:
        line = self._lines.setdefault(elector, _Line(elector))
        if len(line.waiting) + len(line.asked) >= REQUESTS_WAITING_MAX:
            self._on_reply(job, elector, None)
            return
        line.waiting.append((job, request, answer_s))
        line.work.set()
        if not line.is_running:
            line.is_running = True
            nursery.start_soon(self._run, line)

    @property
    def is_quiet(self) -> bool:
        """True if nothing waits to be sent or answered."""
        return not any(line.waiting or line.asked for line in self._lines.values())

    async def _run(self, line: _Line) -> None:
        """Serves the line until nobody has asked anything for a while."""
        try:
            while line.waiting:
                try:
                    await self._converse(line)
                except PeerinferError as error:
                    self._note(line.elector, error)
                    self._drop(line)
                    await trio.sleep(REOPEN_AFTER_S)
        finally:
            line.is_running = False
            self._drop(line)
            if self._lines.get(line.elector) is line:
                del self._lines[line.elector]

    def _note(self, elector: PeerId, error: PeerinferError) -> None:
        """One that cannot be spoken with is told of once, until it greets well: it stays so until somebody acts."""
        if not isinstance(error, ProtocolError) or elector in self._useless:
            self._log.debug("elector not reached", peer=elector, reason=str(error))
            return
        while len(self._useless) >= USELESS_REMEMBERED_MAX:
            del self._useless[next(iter(self._useless))]
        self._useless[elector] = None
        self._log.warning("elector cannot be used", peer=elector, reason=str(error))

    def _drop(self, line: _Line) -> None:
        lost = [job for job, _, _ in line.asked] + [job for job, _, _ in line.waiting]
        line.asked.clear()
        line.waiting.clear()
        for job in lost:
            self._on_reply(job, line.elector, None)

    async def _converse(self, line: _Line) -> None:
        stream: MessageStream | None = None
        is_open = False
        try:
            with trio.move_on_after(OPEN_TIMEOUT_S):
                stream = MessageStream(await self._network.open_stream(line.elector, LEASE_PROTOCOL))
                await greet(stream, swarm=self._swarm, revision=JOURNAL_REVISION)
                self._useless.pop(line.elector, None)
                is_open = True
            if stream is None or not is_open:
                raise PeerinferError(f"{line.elector} opened no stream within {OPEN_TIMEOUT_S:g} s")
            await self._converse_over(line, stream)
        finally:
            if stream is not None:
                with trio.CancelScope(shield=True):
                    await stream.close()

    async def _converse_over(self, line: _Line, stream: MessageStream) -> None:
        failure: PeerinferError | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, line, stream, nursery.cancel_scope)
                nursery.start_soon(self._watch, line, stream)
                try:
                    await self._receive(line, stream)
                except EOFError:
                    failure = PeerinferError("the elector closed the stream")
                nursery.cancel_scope.cancel()
        except* PeerinferError as errors:
            failure = PeerinferError(str(errors.exceptions[0]))
        if failure is not None:
            raise failure

    async def _send(self, line: _Line, stream: MessageStream, scope: trio.CancelScope) -> None:
        while True:
            while line.waiting:
                job, request, answer_s = line.waiting.popleft()
                line.asked.append((job, trio.current_time() + answer_s, answer_s))
                await stream.send(request)
            line.work = trio.Event()
            with trio.move_on_after(IDLE_S) as idle:
                await line.work.wait()
            if idle.cancelled_caught and not line.asked:
                scope.cancel()

    async def _receive(self, line: _Line, stream: MessageStream) -> None:
        while True:
            reply: Any
            reply, _ = await stream.receive_as(
                SeatTaken, Promise, Granted, LeaseRefused, Appended, JournalPart, SnapshotPart, SealGiven
            )
            if not line.asked:
                raise PeerinferError("the elector answered what was not asked")
            job, _, _ = line.asked.popleft()
            self._on_reply(job, line.elector, reply)

    async def _watch(self, line: _Line, stream: MessageStream) -> None:
        """An elector that does not answer in time is not waited for: its stream ends, and all that was asked on it."""
        while True:
            now_s = trio.current_time()
            # Answers come in order: one that is waited for longer holds up those behind it, which wait no less.
            until_s = line.asked[0][1] if line.asked else now_s
            await trio.sleep(max(until_s - now_s, 0.05))
            if line.asked and trio.current_time() >= line.asked[0][1]:
                await stream.reset()
                raise PeerinferError(f"no answer within {line.asked[0][2]:g} s")
