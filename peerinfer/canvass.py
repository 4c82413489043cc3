"""A candidate's canvass: every elector is asked to promise a term, and the journals of a quorum are read.

The term lies above all that the candidate has heard of, as far as that can be believed (`lease_round`). How journals are
read is in `recovery`. Who did not hand out the journal that it promised is doubted in later canvasses, until one succeeds.
"""

from __future__ import annotations

from collections.abc import Callable

from peerinfer.candidacy_events import Ask, Phase, Reply
from peerinfer.committees import highest_round
from peerinfer.ids import JobId, PeerId
from peerinfer.journal import Chain
from peerinfer.journal_rules import NO_TERM
from peerinfer.lease_messages import JournalPart, LeaseRefused, Prepare, Promise, SnapshotPart
from peerinfer.lease_round import Round, Terms
from peerinfer.machine import NEVER
from peerinfer.messages import Manifest, Term
from peerinfer.recovery import Recovery
from peerinfer.standing import Standing


class Canvass:
    """Of one candidate, term after term."""

    def __init__(
        self,
        own: PeerId,
        job: JobId,
        manifest: Manifest,
        chain: Chain,
        standing: Standing,
        answer_s: float,
        new_nonce: Callable[[], int],
    ) -> None:
        self._own = own
        self._job = job
        self._manifest = manifest
        self._chain = chain
        self._standing = standing
        self._answer_s = answer_s
        self._new_nonce = new_nonce
        self.term = NO_TERM
        """The newest."""
        self.terms = Terms(manifest.byzantine)
        self.doubted: dict[PeerId, None] = {}
        self.asked = Round(0, 0.0)
        """The last request to promise."""
        self.recovery: Recovery | None = None
        """While a quorum is being read."""

    def begin(self, committed: int, now_s: float) -> list[Ask]:
        """With the next term; nothing where all terms are used up. `committed`: batches that are known to be final."""
        round_ = self.terms.next_round(self.term, self._chain.last_term)
        if round_ > highest_round(self._standing.seated.generation):
            return []
        self.term = Term(round_, self._own)
        self.recovery = Recovery(
            self._own,
            self._job,
            self._manifest,
            self.term,
            self._chain,
            self._standing,
            committed=committed,
            doubted=self.doubted,
            now_s=now_s,
            answer_s=self._answer_s,
            new_nonce=self._new_nonce,
        )
        self.asked = Round(self._new_nonce(), now_s)
        return [Ask(elector, self.request()) for elector in self._standing.electors]

    def request(self) -> Prepare:
        return Prepare(self._job, self._standing.epoch, self.term, self.asked.nonce)

    @property
    def phase(self) -> Phase | None:
        """None while nothing is asked."""
        if self.recovery is None:
            return None
        return Phase.RECOVERING if self.recovery.is_copying else Phase.PREPARING

    @property
    def deadline_s(self) -> float:
        return self.recovery.deadline_s if self.recovery is not None else NEVER

    def tick(self, now_s: float) -> list[Ask] | None:
        """As `heard`, in time."""
        return self.recovery.tick(now_s) if self.recovery is not None and now_s >= self.deadline_s else None

    def heard(self, elector: PeerId, reply: Reply, now_s: float) -> list[Ask] | None:
        """What to ask next; None if this answers nothing that was asked here."""
        if self.recovery is None:
            return None
        match reply:
            case Promise() if reply.nonce == self.asked.nonce:
                return self.recovery.promised(elector, reply, now_s)
            case JournalPart():
                return self.recovery.journal(elector, reply, now_s)
            case SnapshotPart():
                return self.recovery.snapshot(elector, reply, now_s)
            case LeaseRefused():
                return self.recovery.refused(elector, reply, now_s)
        return None

    def has_promised(self, elector: PeerId) -> bool:
        return self.recovery is not None and self.recovery.has_promised(elector)

    @property
    def left_out(self) -> dict[PeerId, str]:
        """Electors whose promise did not hold, and why."""
        return self.recovery.left_out if self.recovery is not None else {}
