"""What a candidate has in hand in one epoch: its pen, the electors that lack the journal, and those who no longer elect."""

from __future__ import annotations

from collections.abc import Callable

from peerinfer.candidacy_events import Ask
from peerinfer.fencing import Fencing
from peerinfer.ids import JobId, PeerId
from peerinfer.journal import Chain
from peerinfer.journal_writer import JournalWriter
from peerinfer.lease_messages import SeatOffered
from peerinfer.messages import Manifest
from peerinfer.newcomers import Newcomers
from peerinfer.standing import Standing


class EpochAtWork:
    """Of the newest committee that `standing` knows."""

    def __init__(
        self,
        own: PeerId,
        sign: Callable[[bytes], bytes],
        job: JobId,
        manifest: Manifest,
        signed_manifest: bytes,
        standing: Standing,
        chain: Chain,
        *,
        new_nonce: Callable[[], int],
        wall_s: Callable[[], float],
    ) -> None:
        self.generation = standing.seated.generation
        self.seat = SeatOffered(signed_manifest, standing.changes)
        """What an elector that does not know the job is offered."""
        self.writer = JournalWriter(own, sign, job, manifest, standing.epoch, chain, wall_s)
        self.fencing: Fencing | None = None
        self.newcomers: Newcomers | None = None
        """In every epoch but the first."""
        if standing.start is not None:
            self.fencing = Fencing(self.seat, standing.epoch, standing.former)
            self.newcomers = Newcomers(job, manifest, self.seat, standing.committees, standing.start, chain, new_nonce)

    def offer(self, elector: PeerId) -> Ask:
        """The seat, to an elector that does not know the job or this epoch."""
        return self.newcomers.offer(elector) if self.newcomers is not None else Ask(elector, self.seat)

    def campaign(self) -> None:
        """Its candidate begins a campaign."""
        if self.newcomers is not None:
            self.newcomers.campaign()
