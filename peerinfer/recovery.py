"""Reading a quorum: which journal a candidate must have copied before it may ask for the lease.

Everything committed is in the journal of an honest elector of any quorum, and the longest of these journals, by (term
of the last batch, length), holds all of it. So a candidate that holds a journal at least as long as what each of a
quorum of electors promised has everything. An elector that does not hand out the journal that it promised, or hands
out an unsound one, is left out of the count for the rest of the campaign, and somebody else's promise is needed. In
later campaigns it is doubted: its promise counts only where no quorum comes together without it, so that a journal that
is promised and withheld does not hold up every election.

A copy is judged by what has arrived, never by what was announced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from peerinfer.candidacy_events import Ask
from peerinfer.errors import DecodeError, ProtocolError
from peerinfer.ids import JobId, PeerId
from peerinfer.journal import Chain, Divergence
from peerinfer.lease_messages import (
    JournalPart,
    JournalWanted,
    LeaseRefused,
    Promise,
    SnapshotPart,
    SnapshotWanted,
)
from peerinfer.messages import Manifest, Term
from peerinfer.snapshots import Assembly
from peerinfer.standing import Standing

Length = tuple[tuple[int, str], int]


@dataclass(slots=True)
class _Copying:
    source: PeerId
    first: int
    nonce: int
    snapshot: Assembly | None = None
    """While the elector hands out a snapshot in place of batches."""
    is_forward: bool = False
    """The place where the two journals part has been found."""


class Recovery:
    """What a quorum promised under one term, and the copying of what is missing here."""

    def __init__(
        self,
        own: PeerId,
        job: JobId,
        manifest: Manifest,
        term: Term,
        chain: Chain,
        standing: Standing,
        *,
        committed: int,
        doubted: dict[PeerId, None],
        now_s: float,
        answer_s: float,
        new_nonce: Callable[[], int],
    ) -> None:
        """`committed`: batches that are known to be final; who offers others in their place is not believed.

        `doubted`: electors whose promise did not hold in an earlier campaign; those of this one are added.
        """
        self._own = own
        self._job = job
        self._manifest = manifest
        self._term = term
        self._chain = chain
        self._quorum = standing.quorum
        self._committed = committed
        self._doubted = doubted
        self._answer_s = answer_s
        self._new_nonce = new_nonce
        self._committees = standing.committees
        self._promises_until_s = now_s + answer_s
        self._answer_until_s = 0.0
        self._counts_doubted = False
        self._promised: dict[PeerId, Promise] = {}
        self._copying: _Copying | None = None
        self.left_out: dict[PeerId, str] = {}
        """Electors whose promise did not hold, and why."""
        self.statements: dict[PeerId, tuple[bytes, bytes]] = {}
        """Of electors that have sealed this epoch: the change, and their word."""

    @property
    def is_copying(self) -> bool:
        return self._copying is not None

    @property
    def deadline_s(self) -> float:
        """Until when an answer is waited for; without a quorum or a copy by then, `tick` changes nothing any more."""
        return self._answer_until_s if self._copying is not None else self._promises_until_s

    @property
    def has_quorum(self) -> bool:
        return len(self._counted()) >= self._quorum

    @property
    def is_complete(self) -> bool:
        """True if the journal here holds whatever a quorum can have acknowledged."""
        return self.has_quorum and all(_length(promise) <= self._mine for promise in self._counted().values())

    def has_promised(self, elector: PeerId) -> bool:
        return elector in self._promised

    def promised(self, elector: PeerId, promise: Promise, now_s: float) -> list[Ask]:
        if promise.term == self._term:
            self._promised.setdefault(elector, promise)
        if promise.statement:
            self.statements[elector] = promise.change, promise.statement
        return self._go_on(now_s)

    def journal(self, elector: PeerId, part: JournalPart, now_s: float) -> list[Ask]:
        copying = self._copying
        if copying is None or (elector, part.nonce) != (copying.source, copying.nonce):
            return []
        if not part.batches and part.base > max(copying.first, self._chain.base):
            copying.snapshot = Assembly(self._manifest.tasks)
            return [self._ask_part(copying, now_s)]
        try:
            first = self._take(copying, part)
        except (DecodeError, ProtocolError) as error:
            return self._leave_out(elector, f"its journal is not sound: {error}", now_s)
        if first is None:
            self._copying = None
            return self._go_on(now_s)
        return [self._ask(copying, first, now_s)]

    def snapshot(self, elector: PeerId, part: SnapshotPart, now_s: float) -> list[Ask]:
        copying = self._copying
        if copying is None or copying.snapshot is None or (elector, part.nonce) != (copying.source, copying.nonce):
            return []
        before = copying.snapshot.held
        try:
            whole = copying.snapshot.take(part)
            if whole is not None:
                offered = (self._job, self._manifest, self._term, whole)
                self._chain.install(*offered, floor=self._committed, committees=self._committees)
        except (DecodeError, ProtocolError) as error:
            return self._leave_out(elector, f"its journal is not sound: {error}", now_s)
        if whole is None and copying.snapshot.held <= before:
            return self._leave_out(elector, "it was asked for another part of its snapshot", now_s)
        if whole is None:
            return [self._ask_part(copying, now_s)]
        copying.snapshot = None
        if self._mine >= _length(self._promised[copying.source]):
            self._copying = None
            return self._go_on(now_s)
        return [self._ask(copying, self._chain.base, now_s)]

    def _ask_part(self, copying: _Copying, now_s: float) -> Ask:
        assert copying.snapshot is not None
        copying.nonce = self._new_nonce()
        self._answer_until_s = now_s + self._answer_s
        return Ask(copying.source, SnapshotWanted(self._job, copying.nonce, copying.snapshot.held))

    def refused(self, elector: PeerId, refusal: LeaseRefused, now_s: float) -> list[Ask] | None:
        """None if the refusal does not answer a wish for the journal."""
        if self._copying is None or (elector, refusal.nonce) != (self._copying.source, self._copying.nonce):
            return None
        return self._leave_out(elector, f"it does not give its journal: {refusal.reason}", now_s)

    def tick(self, now_s: float) -> list[Ask]:
        asks: list[Ask] = []
        if self._copying is not None and now_s >= self._answer_until_s:
            asks = self._leave_out(self._copying.source, "it does not give its journal", now_s)
        if self._copying is None and now_s >= self._promises_until_s:
            self._counts_doubted = True
            asks += self._go_on(now_s)
        return asks

    def _go_on(self, now_s: float) -> list[Ask]:
        """Copies the longest journal of those promised, as long as it is longer than ours."""
        if self._copying is not None or not self.has_quorum or self.is_complete:
            return []
        counted = self._counted()
        # One's own elector is the nearest.
        source = max(counted, key=lambda elector: (_length(counted[elector]), elector == self._own, elector))
        self._copying = _Copying(source, 0, 0)
        return [self._ask(self._copying, min(len(self._chain), max(counted[source].sequence - 1, 0)), now_s)]

    def _ask(self, copying: _Copying, first: int, now_s: float) -> Ask:
        copying.first, copying.nonce = first, self._new_nonce()
        self._answer_until_s = now_s + self._answer_s
        return Ask(copying.source, JournalWanted(self._job, copying.nonce, first))

    def _take(self, copying: _Copying, part: JournalPart) -> int | None:
        """The first batch to ask for next, or None if the copy is as long as was promised.

        Raises `DecodeError` or `ProtocolError` if this elector does not hand out what it promised. Every answer brings
        the copy closer to its end, or it is the last one.
        """
        offered = (self._job, self._manifest, self._term, part.batches)
        try:
            _, reached = self._chain.extend(*offered, floor=self._committed, committees=self._committees)
        except Divergence as gap:
            if copying.is_forward or gap.sequence >= copying.first:
                raise ProtocolError("its batches do not follow each other") from None
            return gap.sequence
        if self._mine >= _length(self._promised[copying.source]):
            return None
        if not part.batches:
            raise ProtocolError("it is shorter than was promised")
        if reached <= copying.first:
            raise ProtocolError("it was asked for other batches")
        copying.is_forward = True
        return reached

    def _leave_out(self, elector: PeerId, reason: str, now_s: float) -> list[Ask]:
        self.left_out[elector] = reason
        self._doubted[elector] = None
        self._copying = None
        return self._go_on(now_s)

    @property
    def _mine(self) -> Length:
        return self._chain.last_term.order, len(self._chain)

    def _counted(self) -> dict[PeerId, Promise]:
        there = {elector: promise for elector, promise in self._promised.items() if elector not in self.left_out}
        believed = {elector: promise for elector, promise in there.items() if elector not in self._doubted}
        return there if self._counts_doubted and len(believed) < self._quorum else believed


def _length(promise: Promise) -> Length:
    return promise.last.order, promise.sequence
