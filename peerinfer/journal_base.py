"""What a journal keeps of the batches that it gave up: where they end, what is still to be known of them, a snapshot.

A snapshot from somebody else is believed as the checkpoint that follows it is: `snapshots` has the theory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from peerinfer import snapshots
from peerinfer.committees import Seated, first_committee
from peerinfer.envelope import unseal
from peerinfer.errors import ProtocolError
from peerinfer.ids import JobId
from peerinfer.journal_rules import CHECKPOINT, GENESIS, MILESTONES, OPENING, Link, check_form
from peerinfer.lease_certificate import check_grants
from peerinfer.lease_messages import JournalBatch, JournalState
from peerinfer.messages import Manifest, Term
from peerinfer.register import Register


@dataclass(frozen=True, slots=True)
class Base:
    """Of the first `sequence` batches, which are there as a snapshot alone. None of them, to begin with."""

    sequence: int = 0
    last: Link | None = None
    """Without its bytes."""
    checkpoint: bytes = b""
    """The signed batch that follows, and vouches for them."""
    milestones: tuple[bytes, ...] = ()
    """Those with an event that is still to be known."""

    @classmethod
    def of(cls, state: JournalState, checkpoint: bytes) -> Base:
        return cls(state.sequence, Link(b"", state.head, state.term, "", state.epoch), checkpoint, state.milestones)

    @property
    def head(self) -> bytes:
        return self.last.hash if self.last is not None else GENESIS

    def followed_by(self, links: Sequence[Link], checkpoint: bytes = b"") -> Base:
        """With these batches as well, after which the checkpoint stands."""
        milestones = snapshots.newest((*self.milestones, *(link.signed for link in links if link.event in MILESTONES)))
        last = replace(links[-1], signed=b"") if links else self.last
        return Base(self.sequence + len(links), last, checkpoint, milestones)

    def packed(self, register: Register) -> bytes | None:
        """The bytes of a snapshot of these batches, which have written `register`; None if it would be too large."""
        last = self.last
        assert last is not None, "a snapshot of nothing"
        state = JournalState(self.sequence, last.hash, last.term, last.epoch, (), self.milestones)
        return snapshots.packed(state, register)


def vouched_for(
    job: JobId, manifest: Manifest, term: Term, taken: snapshots.Snapshot, committees: Sequence[Seated]
) -> tuple[JournalState, Register]:
    """What a snapshot from somebody else says.

    Raises `DecodeError` or `ProtocolError` unless its checkpoint is of a term that a quorum granted, not above `term`.
    """
    author, batch = unseal(JournalBatch, taken.checkpoint)
    state, register = snapshots.unpacked(taken.data, manifest.tasks)
    known = committees or (first_committee(manifest),)
    said = (batch.job, batch.event, batch.sequence, batch.previous, batch.epoch, batch.term)
    if said != (job, CHECKPOINT, state.sequence, state.head, state.epoch, state.term):
        raise ProtocolError("a checkpoint is of something else than its snapshot")
    if author != batch.term.candidate or batch.state != snapshots.digest(taken.data):
        raise ProtocolError("a checkpoint does not vouch for its snapshot")
    check_form(batch)
    if batch.term.order > term.order:
        raise ProtocolError("a snapshot is of a higher term than its holder's")
    if not 0 <= batch.epoch - known[0].epoch < len(known):
        raise ProtocolError(f"a snapshot is of epoch {batch.epoch}, whose committee is not known")
    opened = [one for signed in state.milestones if (one := unseal(JournalBatch, signed)[1]).event in OPENING]
    if not opened or opened[-1].term != batch.term:
        raise ProtocolError("a snapshot does not say who granted its term")
    electors = known[batch.epoch - known[0].epoch].electors
    check_grants(electors, manifest.byzantine, job, batch.epoch, batch.term, opened[-1].certificate)
    return state, register
