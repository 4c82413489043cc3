"""Electors of a new epoch that lack its journal: whoever campaigns gives it to them, and fetches it first where it has to.

The change that began the epoch names its own place and hash in the journal, so it does not matter who brings what leads
up to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from peerinfer.candidacy_events import Ask
from peerinfer.committees import Seated, Start
from peerinfer.errors import ProtocolError
from peerinfer.ids import JobId, PeerId
from peerinfer.journal import Chain, Divergence
from peerinfer.lease_messages import JournalPart, JournalWanted, SeatOffered
from peerinfer.messages import Manifest, Term


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
        self._unready: dict[PeerId, int] = {}
        """From where on they lack it."""
        self._sought: tuple[PeerId, int] | None = None
        """Whom it was asked of, and the nonce."""

    @property
    def _has_journal(self) -> bool:
        return self._chain.holds(self._start.batches, self._start.head)

    def wants(self, elector: PeerId, first: int) -> list[Ask]:
        """The elector is not ready: it lacks everything from `first` on."""
        if not self._has_journal:
            self._unready[elector] = first
            return []
        batches = self._chain.part(first)[: max(self._start.batches - first, 0)]
        if self._unready.get(elector) == first or not batches:
            return []  # It was given these, and did not take them.
        self._unready[elector] = first
        return [Ask(elector, replace(self._seat, batches=batches))]

    def seek(self, elector: PeerId) -> list[Ask]:
        """This elector is ready."""
        if self._has_journal or not self._unready or self._sought is not None:
            return []
        self._sought = elector, self._new_nonce()
        return [Ask(elector, JournalWanted(self._job, self._sought[1], len(self._chain)))]

    def awaits(self, elector: PeerId, part: JournalPart) -> bool:
        return self._sought == (elector, part.nonce)

    def journal(self, elector: PeerId, part: JournalPart, term: Term, floor: int) -> list[Ask]:
        self._sought = None
        before = len(self._chain)
        try:
            offered = (self._job, self._manifest, term, part.batches)
            self._chain.extend(*offered, floor=floor, committees=self._committees)
        except (Divergence, ProtocolError):
            return []
        if self._has_journal:
            waiting, self._unready = self._unready, {}
            return [ask for unready, first in waiting.items() for ask in self.wants(unready, first)]
        return self.seek(elector) if len(self._chain) > before else []
