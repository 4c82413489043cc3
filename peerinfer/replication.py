"""Handing a holder's journal to the electors: what each of them has, what is on its way, and what is committed.

Batches go out as soon as there are any, several messages deep; an elector that missed some says from where on it needs
them. One that refuses or does not answer is left alone until it grants a renewal, and then gets everything again that
it has not acknowledged: an elector that is dead costs nothing beside the renewals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from peerinfer.codec import encode
from peerinfer.ids import JobId, PeerId
from peerinfer.journal import Chain
from peerinfer.lease_messages import (
    Append,
    Appended,
    LeaseRefused,
)
from peerinfer.messages import Term
from peerinfer.snapshots import SnapshotInHand

APPENDS_IN_FLIGHT_MAX = 4
GAPS_PER_RENEWAL_MAX = 16
"""So often an elector is given more from further back at its word. Journals part within a few batches of their ends."""


@dataclass(slots=True)
class _Copy:
    """One elector's journal, as far as the holder knows it."""

    matched: int = 0
    """Batches that it holds exactly as the holder does."""
    next: int = 0
    """The first batch to send it."""
    in_flight: dict[int, int] = field(default_factory=dict)
    """The messages that were not answered yet: nonce, and first batch."""
    overdue: tuple[int, ...] = ()
    """Those that were in flight at the last renewal already."""
    snapshot_bytes: int = 0
    """So much of a snapshot it has, while that is on its way."""
    snapshot_base: int = 0
    """The batches that the snapshot on its way is of."""
    gaps: int = 0
    """How often it has said, since the last renewal, that it lacks more than it was sent."""
    is_open: bool = False
    """It has granted the term, and neither refused nor lost a message since."""

    def close(self) -> None:
        """Everything that was not acknowledged is to be sent again, later."""
        self.next = min((self.matched or self.next, *self.in_flight.values()))
        self.in_flight.clear()
        self.snapshot_bytes = 0
        self.is_open = False


class Replication:
    """The journal of one term, on its way to a quorum."""

    def __init__(
        self,
        job: JobId,
        epoch: int,
        term: Term,
        chain: Chain,
        electors: Iterable[PeerId],
        quorum: int,
        new_nonce: Callable[[], int],
    ) -> None:
        """Begins with what `chain` holds now, and takes it that the electors hold that much, until they say otherwise."""
        self._job = job
        self._epoch = epoch
        self._term = term
        self._chain = chain
        self._quorum = quorum
        self._new_nonce = new_nonce
        self._copies = {elector: _Copy(next=len(chain)) for elector in electors}
        self.committed = 0
        """Batches that a quorum holds under this term."""
        self.stalled_renewals = 0
        """For how many renewals not everything has been committed, and nothing more."""
        self._committed_before = 0
        self._snapshot = SnapshotInHand()
        """Of the batches before this one, while some elector lacks them."""

    def granted(self, elector: PeerId) -> None:
        """The elector serves this term: it may be sent batches."""
        copy = self._copies[elector]
        copy.is_open, copy.gaps = True, 0
        self._snapshot.renew(elector)

    def appends(self) -> list[tuple[PeerId, Append]]:
        """What is to be sent now."""
        found = []
        for elector, copy in self._copies.items():
            while copy.is_open and copy.next < len(self._chain) and len(copy.in_flight) < APPENDS_IN_FLIGHT_MAX:
                if copy.next < self._chain.base and copy.in_flight:
                    break  # Parts of a snapshot go one after the other.
                message = self._append(elector, copy)
                if message is None:
                    break
                found.append((elector, message))
        if all(copy.next >= self._chain.base for copy in self._copies.values()):
            self._snapshot.drop()
        return found

    def renewing(self) -> None:
        """The lease is being renewed: messages that were in flight at the renewal before are lost."""
        is_behind = self.committed < len(self._chain) and self.committed == self._committed_before
        self.stalled_renewals = self.stalled_renewals + 1 if is_behind else 0
        self._committed_before = self.committed
        for copy in self._copies.values():
            if any(nonce in copy.in_flight for nonce in copy.overdue):
                copy.close()
            copy.overdue = tuple(copy.in_flight)

    def appended(self, elector: PeerId, answer: Appended) -> bool:
        """True if more is committed now than before."""
        copy = self._copies[elector]
        is_awaited = copy.in_flight.pop(answer.nonce, None) is not None
        if answer.term != self._term or answer.sequence > len(self._chain):
            return False
        if is_awaited:  # A late one tells how much it had of a snapshot that may not be sent any more.
            copy.snapshot_bytes = answer.snapshot_bytes
        if self._chain.hash_before(answer.sequence) != answer.head:
            return False
        copy.matched = max(copy.matched, answer.sequence)
        copy.next = max(copy.next, copy.matched)
        return self._commit()

    def refused(self, elector: PeerId, refusal: LeaseRefused) -> bool:
        """True if this answers a message with batches."""
        copy = self._copies[elector]
        first = copy.in_flight.get(refusal.nonce)
        if first is None:
            return False
        if refusal.kind == "gap" and copy.matched <= refusal.sequence < first:
            copy.in_flight.clear()
            copy.next = refusal.sequence
            copy.gaps += 1
            copy.is_open = copy.gaps < GAPS_PER_RENEWAL_MAX
        else:
            if refusal.kind == "gap":
                # It has lost what it acknowledged, or lies. It gets everything again, but not at once.
                copy.matched = min(copy.matched, refusal.sequence)
            copy.close()
        return True

    def unheard(self, elector: PeerId) -> None:
        """Something sent to this elector may be lost."""
        if self._copies[elector].in_flight:
            self._copies[elector].close()

    def matched(self, elector: PeerId) -> int:
        return self._copies[elector].matched

    @property
    def is_complete(self) -> bool:
        """True if every elector holds the whole journal."""
        return all(copy.matched == len(self._chain) for copy in self._copies.values())

    def _append(self, elector: PeerId, copy: _Copy) -> Append | None:
        """None for an elector that was sent a snapshot often enough."""
        nonce = self._new_nonce()
        if copy.next < self._chain.base:
            if copy.snapshot_base != self._chain.base:
                # There was a checkpoint meanwhile: what the elector has is of another snapshot, which no part of this
                # one follows. It would pass them over for ever.
                copy.snapshot_base, copy.snapshot_bytes = self._chain.base, 0
            part = self._snapshot.part(self._chain, self._job, nonce, elector, copy.snapshot_bytes)
            if part is None:
                return None
            copy.in_flight[nonce] = copy.next
            return Append(self._job, self._epoch, self._term, nonce, (), encode(part))
        copy.in_flight[nonce] = copy.next
        batches = self._chain.part(copy.next)
        copy.next += len(batches)
        return Append(self._job, self._epoch, self._term, nonce, batches)

    def _commit(self) -> bool:
        matched = sorted((copy.matched for copy in self._copies.values()), reverse=True)
        reached = matched[self._quorum - 1]
        # A batch of an older term counts only together with one of this term (Raft §5.4.2, figure 8).
        if reached <= self.committed or self._chain.term_of(reached - 1) != self._term:
            return False
        self.committed = reached
        return True

    def check(self) -> None:
        assert self.committed <= len(self._chain), f"{self.committed} of {len(self._chain)} batches are committed"
        for elector, copy in self._copies.items():
            assert copy.matched <= len(self._chain), f"{elector} matches {copy.matched} of {len(self._chain)} batches"
            assert len(copy.in_flight) <= APPENDS_IN_FLIGHT_MAX, f"{len(copy.in_flight)} messages to {elector}"
