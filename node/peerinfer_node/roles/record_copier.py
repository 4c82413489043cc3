"""Copies the records of one job to its electors, over one open stream to each; a record is safe when a quorum has it.

Records leave in the order in which they come, several of them before the first is acknowledged. An elector that cannot
be reached, refuses, or is slow, is tried again for what is not safe yet; what is safe without it, it fetches when it
has to coordinate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from peerinfer.committees import Seated
from peerinfer.errors import PeerinferError, ProtocolError, StreamClosed
from peerinfer.ids import JobId, PeerId
from peerinfer.messages import Term
from peerinfer.replica_messages import RecordCopy, RecordHeld, ReplicaRefused
from peerinfer.tensors import Buffer
from peerinfer_node.log import Log
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.roles.replicas import ANSWER_TIMEOUT_S, NO_COPY_YET, Replicas

COPY_AGAIN_S = 0.5
COPY_AGAIN_MAX_S = 60.0
"""A disk without room stays so for long: the wait doubles up to this."""

ON_ITS_WAY_S = 4.0
"""Of an elector without a copy of the job it is told once it is left alone for so long: the copy comes beside the first
results."""

UNACKNOWLEDGED_MAX = 64
"""Records sent to one elector and not acknowledged; more would fill its stream's buffers for nothing. To one that has
refused a single one, until it takes that."""


@dataclass(slots=True)
class _Record:
    number: int
    data: Sequence[Buffer]
    tasks: tuple[int, ...]
    held: dict[PeerId, None] = field(default_factory=dict)
    safe: trio.Event = field(default_factory=trio.Event)


class _Line:
    """What is on its way to one elector."""

    def __init__(self) -> None:
        self.sent: dict[int, _Record] = {}
        self.changed = trio.Event()
        self.again_s = COPY_AGAIN_S
        """How long it is left alone after the next failure."""

    def note_change(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class RecordCopier:
    """To be run while the job is coordinated here in this term."""

    def __init__(
        self,
        replicas: Replicas,
        job: JobId,
        seated: Seated,
        term: Term,
        own: PeerId,
        log: Log,
    ) -> None:
        self._replicas = replicas
        self._job = job
        self._term = term
        self._log = log
        self._lines = {PeerId(elector): _Line() for elector in seated.electors if elector != own}
        self._needed = seated.quorum - (own in seated.electors)
        self.refused: dict[PeerId, str] = {}
        """Electors that take no records now, and why, for people."""
        self._refusing: dict[PeerId, None] = {}
        """All of them, also those that will in a moment."""
        self._records: dict[int, _Record] = {}
        """Those that are not safe yet, in order."""

    async def run(self) -> None:
        """Copies until cancelled."""
        async with trio.open_nursery() as nursery:
            for elector in self._lines:
                nursery.start_soon(self._serve_line, elector)

    async def copy(self, number: int, data: Sequence[Buffer], tasks: tuple[int, ...]) -> None:
        """Returns when enough other electors hold the record for these tasks, however long that takes."""
        if self._needed <= 0:
            return
        record = self._records[number] = _Record(number, data, tasks)
        for line in self._lines.values():
            line.note_change()
        await record.safe.wait()

    async def _serve_line(self, elector: PeerId) -> None:
        line = self._lines[elector]
        while True:
            while not self._records:
                await line.changed.wait()
            try:
                async with self._replicas.conversation(elector) as stream, trio.open_nursery() as nursery:
                    nursery.start_soon(self._send, elector, line, stream)
                    await self._receive(elector, line, stream)
                    nursery.cancel_scope.cancel()
            except* PeerinferError as errors:
                self._log.debug("record not copied", job=self._job, peer=elector, reason=str(errors.exceptions[0]))
                await trio.sleep(line.again_s)
            finally:
                line.sent.clear()

    async def _send(self, elector: PeerId, line: _Line, stream: MessageStream) -> None:
        while True:
            changed = line.changed
            for record in list(self._records.values()):
                if len(line.sent) >= (1 if elector in self._refusing else UNACKNOWLEDGED_MAX):
                    break
                if record.number not in line.sent and elector not in record.held and not record.safe.is_set():
                    line.sent[record.number] = record
                    head = RecordCopy(self._job, self._term, record.number, record.tasks)
                    await self._replicas.send_record(stream, head, record.data)
            await changed.wait()

    async def _receive(self, elector: PeerId, line: _Line, stream: MessageStream) -> None:
        """Returns when nothing has been copied for a while, with nothing on its way."""
        while True:
            answer: object = None
            with trio.move_on_after(ANSWER_TIMEOUT_S):
                try:
                    answer, _ = await stream.receive_as(RecordHeld, ReplicaRefused)
                except EOFError:
                    raise StreamClosed(f"{elector} closed the stream") from None
            match answer:
                case RecordHeld(_, number):
                    record = line.sent.pop(number, None)
                    if record is None:
                        raise ProtocolError(f"{elector} acknowledges a record that it was not sent")
                    self.refused.pop(elector, None)
                    self._refusing.pop(elector, None)
                    line.again_s = COPY_AGAIN_S
                    self._note_held(elector, record)
                    line.note_change()
                case ReplicaRefused(_, reason):
                    if elector in self._refusing:
                        line.again_s = min(2 * line.again_s, COPY_AGAIN_MAX_S)
                    self._refusing[elector] = None
                    if reason != NO_COPY_YET or line.again_s >= ON_ITS_WAY_S:
                        self.refused[elector] = reason
                    raise ProtocolError(reason)
                case _ if line.sent:
                    raise StreamClosed(f"{elector} did not take a record within {ANSWER_TIMEOUT_S:g} s")
                case _:
                    return

    def _note_held(self, elector: PeerId, record: _Record) -> None:
        record.held[elector] = None
        if len(record.held) >= self._needed:
            record.safe.set()
            self._records.pop(record.number, None)
