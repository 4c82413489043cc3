"""Electors of a new epoch that lack its journal: whoever campaigns gives it to them, and fetches it first where it has to.

The change that began the epoch names its own place and hash in the journal, so it does not matter who brings what leads
up to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from peerinfer.candidacy_events import Ask, Reply
from peerinfer.codec import encode
from peerinfer.committees import Seated, Start
from peerinfer.errors import ProtocolError
from peerinfer.ids import JobId, PeerId
from peerinfer.journal import Chain, Divergence
from peerinfer.lacking import Lacking
from peerinfer.lease_messages import JournalPart, JournalWanted, SeatOffered, SeatTaken, SnapshotPart, SnapshotWanted
from peerinfer.messages import Manifest, Term
from peerinfer.snapshots import Assembly, SnapshotInHand


class Newcomers:
    """Of one epoch, as one candidate sees them."""

    def __init__(
        self,
        job: JobId,
        manifest: Manifest,
        seat: SeatOffered,
        committees: Sequence[Seated],
        start: Start,
        chain: Chain,
        new_nonce: Callable[[], int],
    ) -> None:
        """`seat`: what they are offered. `chain`: the candidate's own."""
        self._job = job
        self._manifest = manifest
        self._seat = seat
        self._committees = committees
        self._start = start
        self._chain = chain
        self._new_nonce = new_nonce
        self._waiting: dict[PeerId, int] = {}
        """Those that lack it while it is not here either, and from where on."""
        self._given: dict[PeerId, Lacking] = {}
        """Those that were given something since they were offered the seat last."""
        self._snapshot = SnapshotInHand()
        self._assembly: Assembly | None = None
        """A snapshot that is fetched here, to be handed on."""
        self._sought: tuple[PeerId, int] | None = None
        """Whom it was asked of, and the nonce."""

    @property
    def _has_journal(self) -> bool:
        return self._chain.holds(self._start.batches, self._start.head)

    def campaign(self) -> None:
        """Whoever was asked for the journal in an earlier campaign may be gone, or its answer lost."""
        self._sought = self._assembly = None

    def offer(self, elector: PeerId) -> Ask:
        """The seat alone. It says what it lacks, and is given that even if it was given it before: that may be lost."""
        self._given.pop(elector, None)
        self._snapshot.renew(elector)
        return Ask(elector, self._seat)

    def heard(self, elector: PeerId, reply: Reply, term: Term, floor: int) -> list[Ask] | None:
        """None if it is not for them. `term` and `floor`: the candidate's, and how many batches are final."""
        match reply:
            case JournalPart() if self._sought == (elector, reply.nonce):
                return self._journal(elector, reply, term, floor)
            case SnapshotPart() if self._sought == (elector, reply.nonce):
                return self._take_part(elector, reply, term, floor)
            case SeatTaken() if reply.epoch == self._committees[-1].epoch and not reply.is_ready:
                return self._wants(elector, reply.sequence, reply.snapshot_bytes)
        return None

    def _wants(self, elector: PeerId, first: int, offset: int) -> list[Ask]:
        """The elector is not ready: it lacks everything from `first` on, and has so many bytes of a snapshot."""
        if not self._has_journal:
            self._waiting[elector] = first
            return []
        # One that followed another holder may have more batches than there are; it says where the journals part.
        first = min(first, max(self._start.batches - 1, 0))
        lacking = self._given.setdefault(elector, Lacking())
        if not lacking.is_getting_on((first, offset)):
            return []
        if first < self._chain.base:
            part = self._snapshot.part(self._chain, self._job, 0, elector, offset)
            return [Ask(elector, replace(self._seat, snapshot=encode(part)))] if part is not None else []
        batches = self._chain.part(first)[: self._start.batches - first]
        lacking.give(first + len(batches))
        return [Ask(elector, replace(self._seat, batches=batches))] if batches else []

    def seek(self, elector: PeerId) -> list[Ask]:
        """This elector is ready."""
        if self._has_journal or not self._waiting or self._sought is not None:
            return []
        self._sought = elector, self._new_nonce()
        return [Ask(elector, JournalWanted(self._job, self._sought[1], len(self._chain)))]

    def _journal(self, elector: PeerId, part: JournalPart, term: Term, floor: int) -> list[Ask]:
        self._sought = None
        before = len(self._chain)
        try:
            offered = (self._job, self._manifest, term, part.batches)
            self._chain.extend(*offered, floor=floor, committees=self._committees)
        except (Divergence, ProtocolError):
            return []
        if part.base > len(self._chain) and not part.batches:
            self._assembly = Assembly(self._manifest.tasks)
            return self._seek_part(elector)
        return self._hand_on(elector, len(self._chain) > before)

    def _take_part(self, elector: PeerId, part: SnapshotPart, term: Term, floor: int) -> list[Ask]:
        self._sought = None
        assembly, whole = self._assembly, None
        if assembly is None:
            return []
        before = assembly.held
        try:
            whole = assembly.take(part)
            if whole is not None:
                offered = (self._job, self._manifest, term, whole)
                self._chain.install(*offered, floor=floor, committees=self._committees)
        except ProtocolError:
            self._assembly = None
            return []
        if whole is None:
            return self._seek_part(elector) if assembly.held > before else []
        self._assembly = None
        return self._hand_on(elector, True)

    def _seek_part(self, elector: PeerId) -> list[Ask]:
        assert self._assembly is not None
        self._sought = elector, self._new_nonce()
        return [Ask(elector, SnapshotWanted(self._job, self._sought[1], self._assembly.held))]

    def _hand_on(self, elector: PeerId, has_more: bool) -> list[Ask]:
        if self._has_journal:
            waiting, self._waiting = self._waiting, {}
            return [ask for unready, first in waiting.items() for ask in self._wants(unready, first, 0)]
        return self.seek(elector) if has_more else []
