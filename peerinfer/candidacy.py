"""The candidate and holder of one job's lease, and the writer of its journal.

Theory of operation. A candidate campaigns with a term above all it has heard of: it asks every elector to *promise*,
copies the longest journal among a quorum of promises, asks for the *lease*, and with a quorum of grants writes the
opening batch of its term. Only when that batch has a quorum does it coordinate. The lease is counted from the moment
at which the request was *sent*, shortened by the drift margin, on a clock that counts suspend; before anything that has
an effect the holder looks at the clock, and everything it sends carries its term.

A candidate that is refused because another lease runs waits until that lease can have ended, plus a time that grows
with its rank, so that candidates do not collide; after a campaign without a quorum it waits longer each time, with
jitter. A committee member that does not campaign watches its own elector's seat and does the same when a lease lapses.

No single elector can stop a campaign: refusals end it only when no quorum is left without those who refused, and what
electors claim to have promised raises the next term no further than an honest one would, or by a bounded step. How a
quorum's journals are read is in `recovery`, what happens once the lease is asked for in `tenure`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from peerinfer.candidacy_events import (
    HAND_OVER_S,
    Ask,
    Campaign,
    CandidacyPicture,
    ChangeCommittee,
    ChangesSeen,
    Committed,
    CommitteeChanged,
    Effect,
    Event,
    HandOver,
    Heard,
    LeaseSeen,
    Lost,
    Over,
    Phase,
    Reply,
    Request,
    Unheard,
    Won,
    Write,
)
from peerinfer.committees import candidates_in, committees_of, follow_all
from peerinfer.ids import JobId, PeerId
from peerinfer.journal import NO_TERM, Chain
from peerinfer.journal_writer import JournalWriter
from peerinfer.lease_messages import (
    Appended,
    Granted,
    JournalPart,
    LeaseRefused,
    LeaseWanted,
    Prepare,
    Promise,
    SealGiven,
    SeatOffered,
    SeatTaken,
)
from peerinfer.lease_profile import LAN, WAN, LeaseProfile
from peerinfer.lease_round import Outlook, Round, Terms
from peerinfer.limits import TERM_ROUND_MAX
from peerinfer.machine import NEVER, Tick
from peerinfer.messages import (
    Manifest,
    Term,
)
from peerinfer.newcomers import Newcomers
from peerinfer.recovery import Recovery
from peerinfer.sealing import Sealing
from peerinfer.tenure import Ended, Tenure

__all__ = [
    "HAND_OVER_S",
    "LAN",
    "WAN",
    "Ask",
    "Campaign",
    "Candidacy",
    "CandidacyPicture",
    "ChangeCommittee",
    "ChangesSeen",
    "Committed",
    "CommitteeChanged",
    "Effect",
    "Event",
    "HandOver",
    "Heard",
    "LeaseProfile",
    "LeaseSeen",
    "Lost",
    "Over",
    "Phase",
    "Reply",
    "Request",
    "Unheard",
    "Won",
    "Write",
]

_WITH_LEASE = (Phase.OPENING, Phase.SEALING, Phase.HOLDING)
_AT_REST = (Phase.WATCHING, Phase.OVER)

SEALINGS_MAX = 8
"""So often electors are asked to seal before the candidate begins anew."""

CAMPAIGN_WAIT_MAX_S = 10.0
"""So long a candidate waits, at most, after many campaigns in vain: a healed network is made use of within this time."""


class Candidacy:
    """The machine: one candidate of one job."""

    def __init__(
        self,
        own: PeerId,
        sign: Callable[[bytes], bytes],
        job: JobId,
        manifest: Manifest,
        signed_manifest: bytes,
        chain: Chain,
        *,
        profile: LeaseProfile,
        rng: random.Random,
        changes: Sequence[bytes] = (),
        wall_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`changes`: what is known of later committees. Raises `DecodeError` or `ProtocolError` if they do not follow."""
        self._own = own
        self._job = job
        self._manifest = manifest
        self._signed_manifest = signed_manifest
        self._chain = chain
        self._profile = profile
        self._rng = rng
        self._sign = sign
        self._wall_s = wall_s
        self.changes = tuple(changes)
        self._committees, self._start = committees_of(job, manifest, self.changes)
        self._term = NO_TERM
        self._terms = Terms(manifest.byzantine)
        self._doubted: dict[PeerId, None] = {}
        """Electors that did not hand out the journal that they promised."""
        self._statements: dict[PeerId, tuple[bytes, bytes]] = {}
        """Of electors that have sealed this epoch: the change, and their word."""
        self._sealing: Sealing | None = None
        """While an epoch is closed that others began to close."""
        self._sealings = 0
        self._seal_again_s = NEVER
        self._newcomers: Newcomers | None = None
        """In every epoch but the first."""
        self._heard_s: dict[PeerId, float] = {}
        self._now_s = 0.0
        self._prepared = Round(0, 0.0)
        self._recovery: Recovery | None = None
        """While a quorum is being read."""
        self._tenure: Tenure | None = None
        """From the request for the lease on."""
        self._next_s = NEVER
        """When to campaign, while watching."""
        self._failures = 0
        self._holder = ""
        self._waiting = ""
        self._missing: tuple[str, ...] = ()
        self._why = ""
        """Why the last lease ended; the next term's opening batch says it."""
        self._resigned = False
        self._is_over = False
        self._take_places()
        self._final = 0
        """Batches that are known to be final, whoever's term they were committed in."""
        self._effects: list[Effect] = []

    def _take_places(self) -> None:
        """The committee of the newest epoch, and this node's place among its candidates."""
        seated = self._committees[-1]
        self._epoch, self._quorum = seated.epoch, seated.quorum
        self._electors = tuple(PeerId(elector) for elector in seated.electors)
        if self._start is not None:
            seat = SeatOffered(self._signed_manifest, self.changes)
            self._newcomers = Newcomers(
                self._job, self._manifest, seat, self._committees, self._start, self._chain, self._new_nonce
            )
        candidates = candidates_in(self._manifest, seated)
        self._is_candidate = self._own in candidates
        self._rank = candidates.index(self._own) if self._is_candidate else 0
        self._is_over = not self._is_candidate
        if self._is_over:
            self._waiting = "this node was replaced in the committee"
        self._writer = JournalWriter(
            self._own, self._sign, self._job, self._manifest, self._epoch, self._chain, self._wall_s
        )

    # --- the door ----------------------------------------------------------------------------------------------------

    def handle(self, event: Event | Tick, now_s: float) -> list[Effect]:
        """`now_s` is of the holder's clock, which counts suspend."""
        self._now_s = now_s
        self._look_at_lease(now_s)
        match event:
            case Campaign():
                self._resigned = False
                if self.phase is Phase.WATCHING:
                    self._campaign(now_s)
            case LeaseSeen():
                self._lease_seen(event, now_s)
            case Heard(elector, reply):
                if elector in self._electors:
                    self._heard(elector, reply, now_s)
            case Unheard(elector):
                if elector in self._electors and self._tenure is not None:
                    self._tenure.unheard(elector)
            case Write():
                if self._tenure is not None:
                    self._tenure.write(event, now_s)
            case HandOver(reason):
                self._hand_over(reason, now_s)
            case ChangeCommittee(committee):
                self._change_committee(committee)
            case ChangesSeen(changes):
                self._advance(changes[self._epoch :], now_s)
            case Tick():
                pass
        self._follow_tenure(now_s)
        self._on_time(now_s)
        effects, self._effects = self._effects, []
        return effects

    @property
    def phase(self) -> Phase:
        if self._tenure is not None:
            return self._tenure.phase
        if self._sealing is not None:
            return Phase.SEALING
        if self._recovery is not None:
            return Phase.RECOVERING if self._recovery.is_copying else Phase.PREPARING
        return Phase.OVER if self._is_over else Phase.WATCHING

    @property
    def deadline_s(self) -> float:
        if self._tenure is not None:
            return self._tenure.deadline_s
        if self._sealing is not None:
            return self._seal_again_s
        return self._recovery.deadline_s if self._recovery is not None else self._next_s

    def holds(self, now_s: float) -> bool:
        """True if this node may coordinate at this moment. To be asked before every effect."""
        tenure = self._tenure
        return tenure is not None and tenure.phase is Phase.HOLDING and not tenure.is_leaving and self.has_lease(now_s)

    def has_lease(self, now_s: float) -> bool:
        """True if a quorum grants this node the lease, whether or not it coordinates yet. No two nodes are ever so."""
        tenure = self._tenure
        return tenure is not None and tenure.phase in _WITH_LEASE and now_s < tenure.valid_until_s

    @property
    def is_telling(self) -> bool:
        """True while the job is over and some elector may not know it."""
        return self._tenure is not None and self._tenure.phase is Phase.OVER

    @property
    def term(self) -> Term:
        return self._term

    @property
    def chain(self) -> Chain:
        return self._chain

    @property
    def committee(self) -> tuple[PeerId, ...]:
        """Who elects now, as far as is known here."""
        return self._electors

    @property
    def committed(self) -> int:
        """Batches that a quorum is known to hold under this term."""
        return self._tenure.committed if self._tenure is not None else 0

    # --- campaign ----------------------------------------------------------------------------------------------------

    def _lease_seen(self, seen: LeaseSeen, now_s: float) -> None:
        if seen.term == self._terms.seen != NO_TERM and seen.holder != self._own:
            # A renewal: the holder is well. Whatever campaigns came to nothing before, the next is a new one.
            self._failures = 0
        self._terms.seen = max(self._terms.seen, seen.term, key=lambda term: term.order)
        if self.phase is not Phase.WATCHING or self._resigned:
            return
        if seen.holder == self._own:
            # A grant from before a restart: it is ours, but only a new campaign can make use of it.
            if self._next_s == NEVER:
                self._next_s = now_s + self._stagger_s()
            return
        self._holder = seen.holder
        self._next_s = seen.until_s + self._stagger_s()
        self._why = f"{seen.holder} did not renew its lease" if seen.holder else "the lease was given back"

    def _campaign(self, now_s: float) -> None:
        round_ = self._terms.next_round(self._term, self._chain.last_term)
        if round_ > TERM_ROUND_MAX:
            self._next_s = NEVER
            self._waiting = "all terms of this job are used up; submit it again"
            return
        self._term = Term(round_, self._own)
        self._statements.clear()
        self._recovery = Recovery(
            self._own,
            self._job,
            self._manifest,
            self._term,
            self._chain,
            self._quorum,
            committed=self._final,
            doubted=self._doubted,
            now_s=now_s,
            answer_s=self._profile.answer_s,
            new_nonce=self._new_nonce,
            committees=self._committees,
        )
        self._prepared = Round(self._new_nonce(), now_s)
        self._next_s = NEVER
        self._effects += [Ask(elector, self._request()) for elector in self._electors]

    def _read_on(self, asks: list[Ask], now_s: float) -> None:
        """After anything that may have brought the reading of a quorum further."""
        assert self._recovery is not None
        self._effects += asks
        if not self._recovery.is_complete or self._recovery.is_copying:
            self._judge(now_s)
            return
        self._recovery = None
        if self._statements and self._chain.change:
            self._begin_sealing(now_s)
            return
        self._tenure = Tenure(
            self._job,
            self._committees[-1],
            self._term,
            self._chain,
            self._writer,
            self._profile,
            self._new_nonce,
        )
        self._tenure.begin(now_s)

    @property
    def _asked(self) -> Round:
        """The last request to all electors."""
        return self._tenure.asked if self._tenure is not None else self._prepared

    def _request(self) -> Prepare | LeaseWanted:
        """What was asked of all electors."""
        if self._tenure is not None:
            return self._tenure.request()
        return Prepare(self._job, self._epoch, self._term, self._prepared.nonce)

    def _fail(self, now_s: float, reason: str, *, wait_s: float | None = None, first_wait_s: float = 0.0) -> None:
        """Back to watching: for `wait_s` where that is known, else longer each time, beginning with `first_wait_s`."""
        self._rest(reason)
        if wait_s is None:
            self._failures += 1
            first_wait_s = first_wait_s or self._profile.answer_s
            longest_s = min(first_wait_s * 2.0 ** min(self._failures, 10), CAMPAIGN_WAIT_MAX_S)
            wait_s = longest_s * (0.5 + 0.5 * self._rng.random())
        self._next_s = now_s + wait_s + self._stagger_s()

    def _rest(self, reason: str) -> None:
        """Nothing is under way any more."""
        if self._tenure is not None and self._tenure.ended is None:
            self._tenure.give_up(reason)
            self._effects += self._tenure.effects
        self._waiting = reason
        self._recovery = self._tenure = self._sealing = None
        self._next_s = NEVER

    def _stagger_s(self) -> float:
        return self._profile.slot_s * (self._rank + self._rng.random())

    def _new_nonce(self) -> int:
        return self._rng.getrandbits(62) + 1

    # --- answers -----------------------------------------------------------------------------------------------------

    def _heard(self, elector: PeerId, reply: Reply, now_s: float) -> None:
        self._heard_s[elector] = now_s
        match reply:
            case Promise() if self._recovery is not None and reply.nonce == self._asked.nonce:
                if reply.statement:
                    self._statements[elector] = reply.change, reply.statement
                self._read_on(self._recovery.promised(elector, reply, now_s), now_s)
                if self._newcomers is not None and self._recovery is not None and not self._recovery.is_copying:
                    self._effects += self._newcomers.seek(elector)
            case JournalPart() if self._newcomers is not None and self._newcomers.awaits(elector, reply):
                self._effects += self._newcomers.journal(elector, reply, self._term, self._final)
            case JournalPart() if self._recovery is not None:
                self._read_on(self._recovery.journal(elector, reply, now_s), now_s)
            case Granted() if self._tenure is not None:
                self._tenure.granted(elector, reply, self._why, now_s)
            case Appended() if self._tenure is not None:
                self._tenure.appended(elector, reply)
            case LeaseRefused():
                self._refused(elector, reply, now_s)
            case SealGiven():
                if self._tenure is not None:
                    self._tenure.sealed(reply)
                elif self._sealing is not None:
                    self._sealing.given(reply)
                    self._look_at_seals(now_s)
            case SeatTaken() if reply.epoch == self._epoch and not reply.is_ready:
                if self._newcomers is not None:
                    self._effects += self._newcomers.wants(elector, reply.sequence)
            case SeatTaken():
                # An elector that has just learned of the job is asked again what everybody was asked.
                if elector in self._asked.offered and self.phase not in _AT_REST:
                    self._effects.append(Ask(elector, self._request()))

    def _refused(self, elector: PeerId, refusal: LeaseRefused, now_s: float) -> None:
        self._terms.claim(elector, refusal.promised)
        if refusal.kind == "sealed" and refusal.changes and self._advance(refusal.changes, now_s):
            return
        if self._sealing is not None:
            self._effects += self._sealing.refused(elector, refusal)
            self._look_at_seals(now_s)
            return
        if self._tenure is not None and self._tenure.refused(elector, refusal):
            return
        if self._recovery is not None:
            asks = self._recovery.refused(elector, refusal, now_s)
            if asks is not None:
                self._read_on(asks, now_s)
                return
        asked = self._asked
        if not asked.is_answered_by(elector, refusal):
            return
        if refusal.kind == "unknown" and elector not in asked.offered and self.phase is not Phase.WATCHING:
            asked.offered[elector] = None
            self._effects.append(Ask(elector, SeatOffered(self._signed_manifest, self.changes)))
            return
        answered = elector in asked.grants or (self._recovery is not None and self._recovery.has_promised(elector))
        if not answered:
            asked.refused[elector] = refusal
            self._judge(now_s)

    def _judge(self, now_s: float) -> None:
        """Ends a campaign that cannot reach a quorum any more, and says when the next one may."""
        if self.phase not in (Phase.PREPARING, Phase.RECOVERING, Phase.LEASING):
            return
        left_out = self._recovery.left_out if self._recovery is not None else {}
        match self._asked.outlook(len(self._electors), self._quorum, left_out):
            case None:
                pass
            case Outlook(reason, 0.0) if self._failures:
                self._fail(now_s, reason, first_wait_s=self._profile.slot_s)
            case Outlook(_, 0.0):
                # Most likely nobody was faster: a candidate that has just come does not know how far the terms have.
                self._failures = 1
                self._rest("")
                self._campaign(now_s)
            case Outlook(reason, wait_s, holder):
                self._holder = holder or self._holder
                self._fail(now_s, reason, wait_s=wait_s if wait_s != NEVER else None)

    # --- the committee -----------------------------------------------------------------------------------------------

    def _change_committee(self, committee: tuple[PeerId, ...]) -> None:
        if self._tenure is not None:
            self._tenure.change(committee)

    def _begin_sealing(self, now_s: float) -> None:
        """Goes on where somebody has begun to close the epoch; a quorum has promised this term, and seals for that."""
        change = self._chain.link(self._chain.change - 1).signed
        said = [statement for known, statement in self._statements.values() if known == change]
        sealing = Sealing(self._job, self._committees[-1], self._term, change, self._chain, self._new_nonce, said)
        self._sealing, self._sealings = sealing, 0
        self._seal_again_s = now_s
        self._look_at_seals(now_s)

    def _look_at_seals(self, now_s: float) -> None:
        if self._sealing is not None and self._sealing.record:
            self._advance((self._sealing.record,), now_s)

    def _advance(self, records: Sequence[bytes], now_s: float) -> bool:
        """Follows to a later epoch; False if these records do not lead there."""
        fresh, start = follow_all(self._job, self._committees[-1], records)
        if start is None:
            return False
        self._rest("the committee was changed")
        self.changes += tuple(records[: len(fresh)])
        self._committees, self._start = [*self._committees, *fresh], start
        if self._chain.holds(start.batches, start.head):
            self._chain.cut(start.batches)
        self._final = min(self._final, len(self._chain))
        self._doubted.clear()
        self._take_places()
        self._terms.begin(start.granted)
        self._why = "the committee was changed"
        self._failures = 0
        self._effects.append(CommitteeChanged(self.changes, self._electors, self._is_candidate))
        if self._is_candidate and start.granted.candidate == self._own and not self._resigned:
            self._campaign(now_s)
        elif self._is_candidate and not self._resigned:
            self._next_s = now_s + self._stagger_s() + (start.lease_s if start.granted.candidate else 0.0)
        return True

    # --- the term ----------------------------------------------------------------------------------------------------

    def _look_at_lease(self, now_s: float) -> None:
        if self._tenure is not None and now_s >= self._tenure.valid_until_s and self.phase is not Phase.LEASING:
            silent = self._silent(now_s - 2 * self._profile.renew_s)
            answered = len(self._electors) - len(silent)
            why = f"{answered} of {len(self._electors)} electors answered, {self._quorum} are needed"
            self._tenure.look_at_lease(now_s, why)
            self._missing = silent
            self._follow_tenure(now_s)

    def _follow_tenure(self, now_s: float) -> None:
        """Takes over what the term has come to."""
        tenure = self._tenure
        if tenure is None:
            return
        self._effects += tenure.effects
        tenure.effects = []
        self._final = max(self._final, min(tenure.committed, self._chain.change or tenure.committed))
        self._is_over = tenure.phase is Phase.OVER
        if tenure.phase in (Phase.OPENING, Phase.HOLDING):
            self._waiting, self._holder = "", self._own
        if tenure.phase is Phase.HOLDING:
            self._failures = 0
            self._doubted.clear()
        if tenure.ended is None:
            return
        match tenure.ended:
            case Ended("changed", _):
                assert tenure.sealing is not None
                self._advance((tenure.sealing.record,), now_s)
            case Ended("stuck", reason):
                self._rest(reason)
                self._why = reason
                self._campaign(now_s)
            case Ended("lapsed", reason) if not self._resigned:
                self._why = reason
                self._fail(now_s, reason)
            case Ended(_, reason):
                self._rest(reason)

    def _hand_over(self, reason: str, now_s: float) -> None:
        self._resigned = True
        if self._tenure is not None and self._tenure.phase is not Phase.OVER:
            self._tenure.hand_over(reason, now_s)
        elif self._tenure is None and not self._is_over:
            self._rest(reason)

    def _silent(self, since_s: float) -> tuple[str, ...]:
        return tuple(elector for elector in self._electors if self._heard_s.get(elector, -NEVER) < since_s)

    def _on_time(self, now_s: float) -> None:
        if self.phase is Phase.WATCHING and now_s >= self._next_s:
            self._campaign(now_s)
        if self._sealing is not None and now_s >= self._seal_again_s:
            self._sealings += 1
            if self._sealings > SEALINGS_MAX:
                self._fail(now_s, "the committee is being changed, and too few of its electors answer")
            else:
                self._seal_again_s = now_s + self._profile.answer_s
                self._effects += self._sealing.asks()
        if self._recovery is not None and now_s >= self._recovery.deadline_s:
            self._read_on(self._recovery.tick(now_s), now_s)
        if self.phase in (Phase.PREPARING, Phase.LEASING) and now_s >= self.deadline_s:
            self._missing = self._silent(self._asked.sent_s)
            answered = len(self._electors) - len(self._missing)
            self._fail(now_s, f"{answered} of {len(self._electors)} electors answered, {self._quorum} are needed")
        if self._tenure is not None:
            self._tenure.tick(now_s)
        self._follow_tenure(now_s)

    # --- pictures ----------------------------------------------------------------------------------------------------

    def snapshot(self) -> CandidacyPicture:
        is_holder = self.phase in (Phase.OPENING, Phase.HOLDING)
        return CandidacyPicture(
            phase=self.phase.value,
            term=self._term.round,
            valid_until_s=self._tenure.valid_until_s if self._tenure is not None else 0.0,
            committed=self.committed,
            waiting=self._waiting,
            holder=self._holder,
            missing=self._silent(self._now_s - 2 * self._profile.renew_s) if is_holder else self._missing,
        )

    def check(self) -> None:
        assert self._recovery is None or self._tenure is None, "asks for promises and for the lease at once"
        assert self._final <= len(self._chain), f"{self._final} of {len(self._chain)} batches are final"
        if self._tenure is not None:
            self._tenure.check()
        self._chain.check()
