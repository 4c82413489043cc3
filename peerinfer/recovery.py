"""Reading a quorum: which journal a candidate must have copied before it may write one.

Everything committed is in the journal of an honest elector of any quorum, and the longest of these journals, by (term
of the last batch, length), holds all of it. So a candidate that holds a journal at least as long as what each of a
quorum of electors promised has everything. An elector that does not hand out the journal that it promised, or hands
out an unsound one, is left out of the count for the rest of the campaign, and somebody else's promise is needed. In
later campaigns it is doubted: its promise counts only where no quorum comes together without it, so that a journal that
is promised and withheld does not hold up every election.

A copy is judged by what has arrived, never by what was announced.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from peerinfer.errors import ProtocolError
from peerinfer.ids import JobId, PeerId
from peerinfer.journal import Chain, Divergence
from peerinfer.messages import JournalPart, Manifest, Promise, Term

Length = tuple[tuple[int, str], int]


@dataclass(slots=True)
class _Copying:
    source: PeerId
    first: int
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
        quorum: int,
        *,
        committed: int,
        doubted: Container[PeerId],
    ) -> None:
        """`committed`: batches that are known to be final; who offers others in their place is not believed.

        `doubted`: electors whose promise did not hold in an earlier campaign.
        """
        self._own = own
        self._job = job
        self._manifest = manifest
        self._term = term
        self._chain = chain
        self._quorum = quorum
        self._committed = committed
        self._doubted = doubted
        self.counts_doubted = False
        """Whether there is no hope of a quorum without those who are doubted."""
        self._promised: dict[PeerId, Promise] = {}
        self._copying: _Copying | None = None
        self.left_out: dict[PeerId, str] = {}
        """Electors whose promise did not hold, and why."""

    def promised(self, elector: PeerId, promise: Promise) -> None:
        self._promised.setdefault(elector, promise)

    def has_promised(self, elector: PeerId) -> bool:
        return elector in self._promised

    @property
    def has_quorum(self) -> bool:
        return len(self._counted()) >= self._quorum

    @property
    def source(self) -> PeerId | None:
        """Whose journal is being copied."""
        return self._copying.source if self._copying else None

    @property
    def is_complete(self) -> bool:
        """True if the journal here holds whatever a quorum can have acknowledged."""
        mine = (self._chain.last_term.order, len(self._chain))
        return self.has_quorum and all(_length(promise) <= mine for promise in self._counted().values())

    def begin(self) -> int:
        """Chooses the longest journal of those promised; the first batch to ask its elector for. It is longer than ours."""
        counted = self._counted()
        # One's own elector is the nearest.
        source = max(counted, key=lambda elector: (_length(counted[elector]), elector == self._own, elector))
        self._copying = _Copying(source, min(len(self._chain), max(counted[source].sequence - 1, 0)))
        return self._copying.first

    def take(self, part: JournalPart) -> int | None:
        """Takes an answer of the source; the first batch to ask for next, or None if it has no more to give.

        Raises `DecodeError` or `ProtocolError` if this elector does not hand out what it promised. Every answer brings
        the copy closer to its end, or it is the last one.
        """
        copying = self._copying
        assert copying is not None
        try:
            _, reached = self._chain.extend(self._job, self._manifest, self._term, part.batches, floor=self._committed)
        except Divergence as gap:
            if copying.is_forward or gap.sequence >= copying.first:
                raise ProtocolError("its batches do not follow each other") from None
            copying.first = gap.sequence
            return copying.first
        if not part.batches:
            self._copying = None
            if (self._chain.last_term.order, len(self._chain)) < _length(self._promised[copying.source]):
                raise ProtocolError("it is shorter than was promised")
            return None
        if reached <= copying.first:
            raise ProtocolError("it was asked for other batches")
        copying.is_forward, copying.first = True, reached
        if (self._chain.last_term.order, len(self._chain)) >= _length(self._promised[copying.source]):
            self._copying = None
            return None
        return copying.first

    def leave_out(self, elector: PeerId, reason: str) -> None:
        self.left_out[elector] = reason
        self._copying = None

    def _counted(self) -> dict[PeerId, Promise]:
        there = {elector: promise for elector, promise in self._promised.items() if elector not in self.left_out}
        believed = {elector: promise for elector, promise in there.items() if elector not in self._doubted}
        return there if self.counts_doubted and len(believed) < self._quorum else believed


def _length(promise: Promise) -> Length:
    return promise.last.order, promise.sequence
