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
quorum's journals are read is in `canvass` and `recovery`, what happens once the lease is asked for in `tenure`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from peerinfer.candidacy_events import (
    Ask,
    Campaign,
    CandidacyPicture,
    ChangeCommittee,
    ChangesSeen,
    CommitteeChanged,
    Effect,
    Event,
    HandOver,
    Heard,
    LeaseSeen,
    Phase,
    Reply,
    Unheard,
    Write,
)
from peerinfer.canvass import Canvass
from peerinfer.committees import Seated
from peerinfer.epoch_at_work import EpochAtWork
from peerinfer.hearing import Hearing
from peerinfer.ids import JobId, PeerId
from peerinfer.journal import Chain
from peerinfer.lease_messages import (
    Appended,
    Granted,
    JournalPart,
    LeaseRefused,
    Promise,
    SealGiven,
    SeatTaken,
    SnapshotPart,
)
from peerinfer.lease_profile import LeaseProfile
from peerinfer.lease_round import Outlook
from peerinfer.machine import NEVER, Tick
from peerinfer.messages import Manifest, Term
from peerinfer.patience import Patience
from peerinfer.recovery import Recovery
from peerinfer.sealing import Closing, Sealing
from peerinfer.standing import Standing
from peerinfer.tenure import Ended, Tenure

_WITH_LEASE = (Phase.OPENING, Phase.SEALING, Phase.HOLDING)
_AT_REST = (Phase.WATCHING, Phase.OVER)


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
        self._whose = own, sign, job, manifest, signed_manifest
        self._chain = chain
        self._profile = profile
        self._rng = rng
        self._wall_s = wall_s
        self._standing = Standing(own, job, manifest, changes)
        self._patience = Patience(profile, rng)
        self._canvass = Canvass(own, job, manifest, chain, self._standing, profile.answer_s, self._new_nonce)
        self._closing: Closing | None = None
        self._hearing = Hearing(self._standing)
        self._now_s = 0.0
        self._tenure: Tenure | None = None
        """From the request for the lease on."""
        self._holder = ""
        self._waiting = ""
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
        self._epoch = EpochAtWork(
            *self._whose, self._standing, self._chain, new_nonce=self._new_nonce, wall_s=self._wall_s
        )
        self._patience.rank = self._standing.rank
        self._is_over = not self._standing.is_candidate
        if self._is_over:
            self._waiting = "this node was replaced in the committee"

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
                if elector in self._standing.electors:
                    self._heard(elector, reply, now_s)
                elif self._epoch.fencing is not None:
                    self._epoch.fencing.heard(elector, reply)
            case Unheard(elector):
                if elector in self._standing.electors and self._tenure is not None:
                    self._tenure.unheard(elector)
            case Write():
                if self._tenure is not None:
                    self._tenure.write(event, now_s)
            case HandOver(reason):
                self._hand_over(reason, now_s)
            case ChangeCommittee(committee):
                if self._tenure is not None:
                    self._tenure.change(committee)
            case ChangesSeen(changes):
                self._advance(self._standing.follow_whole(changes), now_s)
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
        if self._closing is not None:
            return Phase.SEALING
        return self._canvass.phase or (Phase.OVER if self._is_over else Phase.WATCHING)

    @property
    def deadline_s(self) -> float:
        if self._tenure is not None:
            return self._tenure.deadline_s
        if self._closing is not None:
            return self._closing.again_s
        return min(self._canvass.deadline_s, self._patience.next_s)

    def holds(self, now_s: float) -> bool:
        """True if this node may coordinate at this moment. To be asked before every effect."""
        return self.has_lease(now_s) and self.phase is Phase.HOLDING and not (self._tenure and self._tenure.is_leaving)

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
        return self._canvass.term

    @property
    def chain(self) -> Chain:
        return self._chain

    @property
    def changes(self) -> tuple[bytes, ...]:
        """Every `CommitteeChange` that is known here."""
        return self._standing.changes

    @property
    def epoch(self) -> int:
        return self._standing.epoch

    @property
    def seated(self) -> Seated:
        return self._standing.seated

    @property
    def committee(self) -> tuple[PeerId, ...]:
        """Who elects now, as far as is known here."""
        return self._standing.electors

    @property
    def committed(self) -> int:
        """Batches that a quorum is known to hold under this term."""
        return self._tenure.committed if self._tenure is not None else 0

    # --- campaign ----------------------------------------------------------------------------------------------------

    def _lease_seen(self, seen: LeaseSeen, now_s: float) -> None:
        is_newest = self._canvass.terms.saw(seen.term)
        if is_newest and seen.holder != self._own:
            # A renewal: the holder is well. Whatever campaigns came to nothing before, the next is a new one.
            self._patience.failures = 0
        if self._hearing.missing and seen.holder not in ("", self._own) and now_s < seen.until_s:
            # A quorum answers it, if not this node.
            self._hearing.missing, self._waiting = (), f"{seen.holder} holds the lease"
        if self.phase is not Phase.WATCHING or self._resigned:
            return
        if seen.holder == self._own:
            # A grant from before a restart: it is ours, but only a new campaign can make use of it.
            if self._patience.next_s == NEVER:
                self._patience.until(now_s)
            return
        self._holder = seen.holder
        self._patience.until(seen.until_s)
        self._why = f"{seen.holder} did not renew its lease" if seen.holder else "the lease was given back"

    def _campaign(self, now_s: float) -> None:
        asks = self._canvass.begin(self._final, now_s)
        self._epoch.campaign()
        self._patience.next_s = NEVER
        self._effects += asks
        if not asks:
            self._waiting = "all terms of this job are used up; submit it again"

    def _read_on(self, asks: list[Ask], now_s: float) -> None:
        """After anything that may have brought the reading of a quorum further."""
        recovery = self._canvass.recovery
        assert recovery is not None
        self._effects += asks
        if not recovery.is_complete or recovery.is_copying:
            self._judge(now_s)
            return
        self._canvass.recovery = None
        if recovery.statements and self._chain.change:
            self._begin_sealing(recovery, now_s)
            return
        self._tenure = Tenure(
            self._job,
            self._standing.seated,
            self._canvass.term,
            self._chain,
            self._epoch.writer,
            self._profile,
            self._new_nonce,
            self._epoch.fencing,
        )
        self._tenure.begin(now_s)

    @property
    def _asking(self) -> Tenure | Canvass:
        """Whose the last request to all electors was."""
        return self._tenure or self._canvass

    def _fail(self, now_s: float, reason: str, *, wait_s: float | None = None, first_wait_s: float = 0.0) -> None:
        """Back to watching: for `wait_s` where that is known, else longer each time, beginning with `first_wait_s`."""
        self._rest(reason)
        if wait_s is None:
            self._patience.after_failure(now_s, first_wait_s or self._profile.answer_s)
        else:
            self._patience.until(now_s + wait_s)

    def _rest(self, reason: str) -> None:
        """Nothing is under way any more."""
        if self._tenure is not None and self._tenure.ended is None:
            self._tenure.give_up(reason)
            self._effects += self._tenure.effects
        self._waiting = reason
        self._canvass.recovery = self._tenure = self._closing = None
        self._patience.next_s = NEVER

    def _new_nonce(self) -> int:
        return self._rng.getrandbits(62) + 1

    # --- answers -----------------------------------------------------------------------------------------------------

    def _heard(self, elector: PeerId, reply: Reply, now_s: float) -> None:
        self._hearing.heard(elector, now_s)
        if self._epoch.newcomers is not None:
            asks = self._epoch.newcomers.heard(elector, reply, self.term, self._final)
            if asks is not None:
                self._effects += asks
                return
        match reply:
            case Promise() | JournalPart() | SnapshotPart():
                self._heard_of_journals(elector, reply, now_s)
            case Granted() if self._tenure is not None:
                self._tenure.granted(elector, reply, self._why, now_s)
            case Appended() if self._tenure is not None:
                self._tenure.appended(elector, reply)
            case LeaseRefused():
                self._refused(elector, reply, now_s)
            case SealGiven():
                if self._tenure is not None:
                    self._tenure.sealed(reply)
                elif self._closing is not None:
                    self._closing.sealing.given(reply)
                    self._look_at_seals(now_s)
            case SeatTaken():
                # An elector that has just learned of the job is asked again what everybody was asked.
                if elector in self._asking.asked.offered and self.phase not in _AT_REST:
                    self._effects.append(Ask(elector, self._asking.request()))

    def _heard_of_journals(self, elector: PeerId, reply: Promise | JournalPart | SnapshotPart, now_s: float) -> None:
        asks = self._canvass.heard(elector, reply, now_s)
        if asks is None:
            return
        self._read_on(asks, now_s)
        if isinstance(reply, Promise) and self._epoch.newcomers is not None and self._canvass.phase is Phase.PREPARING:
            self._effects += self._epoch.newcomers.seek(elector)

    def _refused(self, elector: PeerId, refusal: LeaseRefused, now_s: float) -> None:
        self._canvass.terms.claim(elector, refusal.promised)
        if refusal.kind == "sealed" and self._advance(self._standing.follow(refusal.changes), now_s):
            return
        if self._closing is not None:
            self._effects += self._closing.sealing.refused(elector, refusal)
            self._look_at_seals(now_s)
            return
        if self._tenure is not None and self._tenure.refused(elector, refusal):
            return
        asks = self._canvass.heard(elector, refusal, now_s)
        if asks is not None:
            self._read_on(asks, now_s)
            return
        asked = self._asking.asked
        if not asked.is_answered_by(elector, refusal):
            return
        if refusal.kind == "unknown" and elector not in asked.offered and self.phase is not Phase.WATCHING:
            asked.offered[elector] = None
            self._effects.append(self._epoch.offer(elector))
            return
        if elector not in asked.grants and not self._canvass.has_promised(elector):
            asked.refused[elector] = refusal
            self._judge(now_s)

    def _judge(self, now_s: float) -> None:
        """Ends a campaign that cannot reach a quorum any more, and says when the next one may."""
        if self.phase not in (Phase.PREPARING, Phase.RECOVERING, Phase.LEASING):
            return
        match self._asking.asked.outlook(len(self._standing.electors), self._standing.quorum, self._canvass.left_out):
            case None:
                pass
            case Outlook(reason, 0.0) if self._patience.failures:
                self._fail(now_s, reason, first_wait_s=self._profile.slot_s)
            case Outlook(_, 0.0):
                # Most likely nobody was faster: a candidate that has just come does not know how far the terms have.
                self._patience.failures = 1
                self._rest("")
                self._campaign(now_s)
            case Outlook(reason, wait_s, holder):
                self._holder = holder or self._holder
                self._fail(now_s, reason, wait_s=wait_s if wait_s != NEVER else None)

    # --- the committee -----------------------------------------------------------------------------------------------

    def _begin_sealing(self, recovery: Recovery, now_s: float) -> None:
        """Goes on where somebody has begun to close the epoch; a quorum has promised this term, and seals for that."""
        change = self._chain.link(self._chain.change - 1).signed
        said = [statement for known, statement in recovery.statements.values() if known == change]
        sealing = Sealing(self._job, self._standing.seated, self.term, change, self._chain, self._new_nonce, said)
        self._closing = Closing(sealing, now_s, self._profile.answer_s)
        self._look_at_seals(now_s)

    def _look_at_seals(self, now_s: float) -> None:
        if self._closing is not None and self._closing.sealing.record:
            self._advance(self._standing.follow((self._closing.sealing.record,)), now_s)

    def _advance(self, has_followed: bool, now_s: float) -> bool:
        """Begins anew in a later epoch, if records have led to one."""
        start = self._standing.start
        if not has_followed or start is None:
            return False
        is_rescued = self._standing.seated.generation > self._epoch.generation
        why = "the owner named a new committee" if is_rescued else "the committee was changed"
        self._rest(why)
        if is_rescued:
            self._chain.cut(0)
        elif self._chain.holds(start.batches, start.head):
            self._chain.cut(start.batches)
        self._final = min(self._final, len(self._chain))
        self._canvass.doubted.clear()
        self._hearing.missing = ()
        self._take_places()
        self._canvass.terms.begin(start.granted)
        self._why = why
        self._patience.failures = 0
        self._effects.append(CommitteeChanged(self.changes, self._standing.electors, self._standing.is_candidate))
        if self._standing.is_candidate and start.granted.candidate == self._own and not self._resigned:
            self._campaign(now_s)
        elif self._standing.is_candidate and not self._resigned:
            self._patience.until(now_s + (start.lease_s if start.granted.candidate else 0.0))
        return True

    # --- the term ----------------------------------------------------------------------------------------------------

    def _look_at_lease(self, now_s: float) -> None:
        if self._tenure is not None and now_s >= self._tenure.valid_until_s and self.phase is not Phase.LEASING:
            self._tenure.look_at_lease(now_s, self._hearing.miss(now_s - 2 * self._profile.renew_s))
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
            self._patience.failures = 0
            self._canvass.doubted.clear()
        if tenure.ended is None:
            return
        match tenure.ended:
            case Ended("changed", _):
                assert tenure.sealing is not None
                self._advance(self._standing.follow((tenure.sealing.record,)), now_s)
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

    def _on_time(self, now_s: float) -> None:
        if self.phase is Phase.WATCHING and now_s >= self._patience.next_s:
            self._campaign(now_s)
        if self._closing is not None and now_s >= self._closing.again_s:
            asks = self._closing.ask_again(now_s)
            if asks is None:
                self._fail(now_s, "the committee is being changed, and too few of its electors answer")
            else:
                self._effects += asks
        if (asks := self._canvass.tick(now_s)) is not None:
            self._read_on(asks, now_s)
        if self.phase in (Phase.PREPARING, Phase.LEASING) and now_s >= self.deadline_s:
            self._fail(now_s, self._hearing.miss(self._asking.asked.sent_s))
        if self._tenure is not None:
            self._tenure.tick(now_s)
        self._follow_tenure(now_s)

    # --- pictures ----------------------------------------------------------------------------------------------------

    def snapshot(self) -> CandidacyPicture:
        is_holder = self.phase in (Phase.OPENING, Phase.HOLDING)
        return CandidacyPicture(
            phase=self.phase.value,
            term=self.term.round,
            valid_until_s=self._tenure.valid_until_s if self._tenure is not None else 0.0,
            committed=self.committed,
            waiting=self._waiting,
            holder=self._holder,
            missing=self._hearing.silent(self._now_s - 2 * self._profile.renew_s)
            if is_holder
            else self._hearing.missing,
        )

    def check(self) -> None:
        assert self._canvass.phase is None or self._tenure is None, "asks for promises and for the lease at once"
        assert self._final <= len(self._chain), f"{self._final} of {len(self._chain)} batches are final"
        if self._tenure is not None:
            self._tenure.check()
        self._chain.check()
