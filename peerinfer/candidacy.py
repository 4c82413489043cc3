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
quorum's journals are read is in `recovery`, how the holder's own gets to the electors in `replication`.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from peerinfer.candidacy_events import (
    HAND_OVER_S,
    Ask,
    Campaign,
    CandidacyPicture,
    Committed,
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
from peerinfer.elector import candidates_of, quorum_of
from peerinfer.envelope import unseal
from peerinfer.errors import DecodeError
from peerinfer.ids import JobId, PeerId
from peerinfer.journal import ENDED, NO_TERM, Chain
from peerinfer.journal_writer import JournalWriter
from peerinfer.lease_profile import LAN, WAN, LeaseProfile
from peerinfer.lease_round import Outlook, Round, Terms
from peerinfer.limits import JOURNAL_BATCH_TASKS_MAX, JOURNAL_COMMIT_S, TERM_ROUND_MAX
from peerinfer.machine import NEVER, Tick
from peerinfer.messages import (
    Appended,
    Grant,
    Granted,
    JournalPart,
    LeaseRefused,
    LeaseReleased,
    LeaseWanted,
    Manifest,
    Prepare,
    Promise,
    SeatOffered,
    SeatTaken,
    Term,
)
from peerinfer.recovery import Recovery
from peerinfer.replication import Replication

__all__ = [
    "HAND_OVER_S",
    "LAN",
    "WAN",
    "Ask",
    "Campaign",
    "Candidacy",
    "CandidacyPicture",
    "Committed",
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

CAMPAIGN_WAIT_MAX_S = 10.0
"""So long a candidate waits, at most, after many campaigns in vain: a healed network is made use of within this time."""

RENEWALS_IN_FLIGHT_MAX = 8
"""Older ones cannot extend the lease any more."""


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
        epoch: int = 0,
        wall_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._own = own
        self._job = job
        self._manifest = manifest
        self._signed_manifest = signed_manifest
        self._chain = chain
        self._profile = profile
        self._rng = rng
        self._epoch = epoch
        self._quorum = quorum_of(manifest)
        self._rank = candidates_of(manifest).index(own)
        self._electors = tuple(PeerId(elector) for elector in manifest.committee)
        self._phase = Phase.WATCHING
        self._term = NO_TERM
        self._terms = Terms(manifest.byzantine)
        self._doubted: dict[PeerId, None] = {}
        """Electors that did not hand out the journal that they promised."""
        self._sealed: dict[PeerId, None] = {}
        self._heard_s: dict[PeerId, float] = {}
        self._now_s = 0.0
        self._asked = Round(0, 0.0)
        """The last request to all electors: of the campaign, or the newest renewal."""
        self._renewals: dict[int, Round] = {}
        self._recovery: Recovery | None = None
        self._replication: Replication | None = None
        self._valid_until_s = 0.0
        self._renew_s = NEVER
        self._next_s = NEVER
        """When to campaign, while watching."""
        self._give_up_s = NEVER
        self._failures = 0
        self._holder = ""
        self._waiting = ""
        self._missing: tuple[str, ...] = ()
        self._why = ""
        """Why the last lease ended; the next term's opening batch says it."""
        self._resigned = False
        self._overtaken: dict[PeerId, None] = {}
        """Electors that have promised a higher term since this one was won."""
        self._stalled = (0, 0)
        """How much was committed at the last renewal, and for how many renewals not everything has been."""
        self._told_over: dict[PeerId, None] = {}
        self._leaving: str | None = None
        self._leave_s = NEVER
        self._writer = JournalWriter(own, sign, job, manifest, epoch, chain, wall_s)
        self._flush_s = NEVER
        self._final = 0
        """Batches that are known to be final, whoever's term they were committed in."""
        self._effects: list[Effect] = []

    # --- the door ----------------------------------------------------------------------------------------------------

    def handle(self, event: Event | Tick, now_s: float) -> list[Effect]:
        """`now_s` is of the holder's clock, which counts suspend."""
        self._now_s = now_s
        self._check_lease(now_s)
        match event:
            case Campaign():
                self._resigned = False
                if self._phase is Phase.WATCHING:
                    self._campaign(now_s)
            case LeaseSeen():
                self._lease_seen(event, now_s)
            case Heard(elector, reply):
                if elector in self._electors:
                    self._heard(elector, reply, now_s)
            case Unheard(elector):
                if elector in self._electors and self._replication is not None:
                    self._replication.unheard(elector)
            case Write():
                self._write(event, now_s)
            case HandOver(reason):
                self._hand_over(reason, now_s)
            case Tick():
                pass
        self._on_time(now_s)
        effects, self._effects = self._effects, []
        return effects

    @property
    def deadline_s(self) -> float:
        match self._phase:
            case Phase.WATCHING:
                return self._next_s
            case Phase.PREPARING | Phase.RECOVERING:
                assert self._recovery is not None
                return self._recovery.deadline_s
            case Phase.LEASING:
                return self._give_up_s
            case Phase.OPENING | Phase.HOLDING:
                return min(self._renew_s, self._valid_until_s, self._flush_s, self._leave_s)
            case Phase.OVER:
                return min(self._renew_s, self._valid_until_s) if self._replication is not None else NEVER

    def holds(self, now_s: float) -> bool:
        """True if this node may coordinate at this moment. To be asked before every effect."""
        return self._phase is Phase.HOLDING and self._leaving is None and now_s < self._valid_until_s

    def has_lease(self, now_s: float) -> bool:
        """True if a quorum grants this node the lease, whether or not it coordinates yet. No two nodes are ever so."""
        return self._phase in (Phase.OPENING, Phase.HOLDING) and now_s < self._valid_until_s

    @property
    def term(self) -> Term:
        return self._term

    @property
    def chain(self) -> Chain:
        return self._chain

    @property
    def committed(self) -> int:
        """Batches that a quorum is known to hold under this term."""
        return self._replication.committed if self._replication is not None else 0

    # --- campaign ----------------------------------------------------------------------------------------------------

    def _lease_seen(self, seen: LeaseSeen, now_s: float) -> None:
        if seen.term == self._terms.seen != NO_TERM:
            # A renewal: the holder is well. Whatever campaigns came to nothing before, the next is a new one.
            self._failures = 0
        self._terms.seen = max(self._terms.seen, seen.term, key=lambda term: term.order)
        if self._phase is not Phase.WATCHING or self._resigned:
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
        self._phase = Phase.PREPARING
        self._term = Term(round_, self._own)
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
        )
        self._asked = self._new_round(now_s)
        self._overtaken.clear()
        self._next_s = NEVER
        self._ask_all(self._request())

    def _read_on(self, asks: list[Ask], now_s: float) -> None:
        """After anything that may have brought the reading of a quorum further."""
        assert self._recovery is not None
        self._effects += asks
        self._phase = Phase.RECOVERING if self._recovery.is_copying else Phase.PREPARING
        if self._recovery.is_complete and not self._recovery.is_copying:
            self._want_lease(now_s)
        else:
            self._judge(now_s)

    def _want_lease(self, now_s: float) -> None:
        self._phase = Phase.LEASING
        self._recovery = None
        self._give_up_s = now_s + self._profile.answer_s
        self._renewals.clear()
        self._renew(now_s)

    def _renew(self, now_s: float) -> None:
        self._asked = self._new_round(now_s)
        self._renewals[self._asked.nonce] = self._asked
        while len(self._renewals) > RENEWALS_IN_FLIGHT_MAX:
            del self._renewals[next(iter(self._renewals))]
        self._ask_all(self._request())

    def _request(self) -> Prepare | LeaseWanted:
        """What is being asked of all electors."""
        if self._phase in (Phase.PREPARING, Phase.RECOVERING):
            return Prepare(self._job, self._epoch, self._term, self._asked.nonce)
        return LeaseWanted(self._job, self._epoch, self._term, self._asked.nonce, self._profile.lease_s)

    def _granted(self, elector: PeerId, granted: Granted, now_s: float) -> None:
        asked = self._renewals.get(granted.nonce)
        if asked is None or elector in asked.grants:
            return
        try:
            _, grant = unseal(Grant, granted.grant, signer=elector)
        except DecodeError:
            return
        wanted = (self._job, self._epoch, self._term, granted.nonce, self._profile.lease_s)
        if (grant.job, grant.epoch, grant.term, grant.nonce, grant.lease_s) != wanted:
            return
        asked.grants[elector] = granted.grant
        if self._replication is not None:
            self._replication.granted(elector)
            self._send_batches()
        if len(asked.grants) < self._quorum:
            return
        self._valid_until_s = max(self._valid_until_s, asked.sent_s + self._profile.held_s)
        if self._phase is Phase.LEASING:
            self._open(asked, now_s)

    def _open(self, asked: Round, now_s: float) -> None:
        """Holds the lease; coordinates once its opening batch has a quorum."""
        if now_s >= self._valid_until_s:
            self._fail(now_s, "the grants came too late")
            return
        self._phase = Phase.OPENING
        self._renew_s = now_s + self._profile.renew_s
        self._waiting = ""
        self._missing = ()
        self._holder = self._own
        self._replication = Replication(
            self._job, self._epoch, self._term, self._chain, self._electors, self._quorum, self._new_nonce
        )
        self._stalled = (0, 0)
        for elector in asked.grants:
            self._replication.granted(elector)
        self._writer.open(self._term, self._why, tuple(asked.grants.values()))
        self._send_batches()

    def _fail(self, now_s: float, reason: str, *, wait_s: float | None = None, first_wait_s: float = 0.0) -> None:
        """Back to watching: for `wait_s` where that is known, else longer each time, beginning with `first_wait_s`."""
        if self._phase in (Phase.LEASING, Phase.OPENING, Phase.HOLDING):
            # Some electors may wait for a holder that there is not; the term is never used again.
            self._release()
        self._rest(reason)
        if wait_s is None:
            self._failures += 1
            longest = min(
                (first_wait_s or self._profile.answer_s) * 2.0 ** min(self._failures, 10), CAMPAIGN_WAIT_MAX_S
            )
            wait_s = longest * (0.5 + 0.5 * self._rng.random())
        self._next_s = now_s + wait_s + self._stagger_s()

    def _rest(self, reason: str) -> None:
        self._phase = Phase.WATCHING
        self._waiting = reason
        self._recovery = None
        self._replication = None
        self._renewals.clear()
        self._writer.forget()
        self._flush_s = self._renew_s = self._next_s = self._leave_s = NEVER
        self._valid_until_s = 0.0
        self._leaving = None

    def _release(self) -> None:
        self._ask_all(LeaseReleased(self._job, self._epoch, self._term))

    def _ask_all(self, request: Request) -> None:
        self._effects += [Ask(elector, request) for elector in self._electors]

    def _stagger_s(self) -> float:
        return self._profile.slot_s * (self._rank + self._rng.random())

    def _new_round(self, now_s: float) -> Round:
        return Round(self._new_nonce(), now_s)

    def _new_nonce(self) -> int:
        return self._rng.getrandbits(62) + 1

    # --- answers -----------------------------------------------------------------------------------------------------

    def _heard(self, elector: PeerId, reply: Reply, now_s: float) -> None:
        self._heard_s[elector] = now_s
        match reply:
            case Promise() if self._recovery is not None and reply.nonce == self._asked.nonce:
                self._read_on(self._recovery.promised(elector, reply, now_s), now_s)
            case JournalPart() if self._recovery is not None:
                self._read_on(self._recovery.journal(elector, reply, now_s), now_s)
            case Granted():
                self._granted(elector, reply, now_s)
            case Appended():
                self._appended(elector, reply, now_s)
            case LeaseRefused():
                self._refused(elector, reply, now_s)
            case SeatTaken():
                # An elector that has just learned of the job is asked again what everybody was asked.
                if elector in self._asked.offered and self._phase not in (Phase.WATCHING, Phase.OVER):
                    self._effects.append(Ask(elector, self._request()))

    def _refused(self, elector: PeerId, refusal: LeaseRefused, now_s: float) -> None:
        self._terms.claim(elector, refusal.promised)
        if refusal.kind == "stale" and refusal.promised.order > self._term.order:
            self._overtaken[elector] = None
        if self._replication is not None and self._replication.refused(elector, refusal):
            self._send_batches()
            return
        if self._recovery is not None:
            asks = self._recovery.refused(elector, refusal, now_s)
            if asks is not None:
                self._read_on(asks, now_s)
                return
        asked = self._asked
        if not asked.is_answered_by(elector, refusal):
            return
        if refusal.kind == "unknown" and elector not in asked.offered and self._phase is not Phase.WATCHING:
            asked.offered[elector] = None
            self._effects.append(Ask(elector, SeatOffered(self._signed_manifest)))
            return
        if refusal.kind == "sealed":
            self._sealed[elector] = None
            if len(self._sealed) > self._manifest.byzantine:
                self._retire("the committee has been replaced")
                return
        answered = elector in asked.grants or (self._recovery is not None and self._recovery.has_promised(elector))
        if not answered:
            asked.refused[elector] = refusal
            self._judge(now_s)

    def _judge(self, now_s: float) -> None:
        """Ends a campaign that cannot reach a quorum any more, and says when the next one may."""
        if self._phase not in (Phase.PREPARING, Phase.RECOVERING, Phase.LEASING):
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
                self._campaign(now_s)
            case Outlook(reason, wait_s, holder):
                self._holder = holder or self._holder
                self._fail(now_s, reason, wait_s=wait_s if wait_s != NEVER else None)

    # --- journal -----------------------------------------------------------------------------------------------------

    def _write(self, write: Write, now_s: float) -> None:
        assert write.event == "" or write.event in ENDED, f"{write.event!r} does not end a job"
        if self._phase is not Phase.HOLDING or self._leaving is not None or self._chain.ended:
            return
        self._writer.add(write.entries)
        if write.event or write.is_last or self._writer.waiting >= JOURNAL_BATCH_TASKS_MAX:
            self._flush(write.event, write.detail)
        elif self._writer.waiting:
            self._flush_s = min(self._flush_s, now_s + JOURNAL_COMMIT_S)

    def _flush(self, event: str = "", detail: str = "") -> None:
        self._flush_s = NEVER
        self._writer.write(self._term, event, detail)
        self._send_batches()

    def _send_batches(self) -> None:
        if self._replication is not None:
            self._effects += [Ask(elector, append) for elector, append in self._replication.appends()]

    def _appended(self, elector: PeerId, answer: Appended, now_s: float) -> None:
        replication = self._replication
        if replication is None:
            return
        before = replication.committed
        if replication.appended(elector, answer):
            self._committed_more(before, now_s)
        if self._phase is Phase.OVER:
            self._tell_over(elector)
        self._send_batches()

    def _committed_more(self, before: int, now_s: float) -> None:
        assert self._replication is not None
        self._final = self._replication.committed
        self._effects.append(Committed(before, self._final))
        if self._phase is Phase.OVER:
            return
        if 0 < self._chain.end <= self._final:
            self._effects.append(Over())
            self._phase = Phase.OVER
            for elector in self._electors:
                self._tell_over(elector)
        elif self._phase is Phase.OPENING:
            self._phase = Phase.HOLDING
            self._failures = 0
            self._doubted.clear()
            self._effects.append(Won(self._term))
        elif self._leaving is not None and self._final == len(self._chain):
            self._leave()

    def _tell_over(self, elector: PeerId) -> None:
        """An elector that has the journal up to its end may forget the lease; the others get it until the lease ends."""
        assert self._replication is not None
        if self._replication.matched(elector) == len(self._chain) and elector not in self._told_over:
            self._told_over[elector] = None
            self._effects.append(Ask(elector, LeaseReleased(self._job, self._epoch, self._term, is_over=True)))

    # --- time --------------------------------------------------------------------------------------------------------

    def _check_lease(self, now_s: float) -> None:
        if self._phase in (Phase.OPENING, Phase.HOLDING) and now_s >= self._valid_until_s:
            silent = self._silent(now_s - 2 * self._profile.renew_s)
            self._missing = silent
            self._why = f"only {len(self._electors) - len(silent)} of {len(self._electors)} electors answered"
            self._step_down(f"no quorum renewed the lease: {self._why}, {self._quorum} are needed", now_s)
        elif self._phase is Phase.OVER and now_s >= self._valid_until_s:
            self._replication = None

    def _silent(self, since_s: float) -> tuple[str, ...]:
        return tuple(elector for elector in self._electors if self._heard_s.get(elector, -NEVER) < since_s)

    def _step_down(self, reason: str, now_s: float) -> None:
        if self._phase is Phase.HOLDING:
            self._effects.append(Lost(reason))
        if self._resigned:
            self._release()
            self._rest(reason)
        else:
            self._fail(now_s, reason)

    def _retire(self, reason: str) -> None:
        if self._phase is Phase.HOLDING:
            self._effects.append(Lost(reason))
        self._rest(reason)
        self._phase = Phase.OVER

    def _hand_over(self, reason: str, now_s: float) -> None:
        self._resigned = True
        if self._phase is Phase.OVER or self._leaving is not None:
            return
        if self._phase is not Phase.HOLDING:
            if self._phase in (Phase.OPENING, Phase.LEASING):
                self._release()
            self._rest(reason)
            return
        self._flush()
        self._leaving, self._leave_s = reason, now_s + HAND_OVER_S
        if self.committed == len(self._chain):
            self._leave()

    def _leave(self) -> None:
        assert self._leaving is not None
        reason = self._leaving
        self._effects.append(Lost(reason))
        self._release()
        self._rest(reason)

    def _on_time(self, now_s: float) -> None:
        if self._phase is Phase.WATCHING and now_s >= self._next_s:
            self._campaign(now_s)
        if self._recovery is not None and now_s >= self._recovery.deadline_s:
            self._read_on(self._recovery.tick(now_s), now_s)
        gives_up_s = self._recovery.deadline_s if self._recovery is not None else self._give_up_s
        if self._phase in (Phase.PREPARING, Phase.LEASING) and now_s >= gives_up_s:
            self._missing = self._silent(self._asked.sent_s)
            answered = len(self._electors) - len(self._missing)
            self._fail(now_s, f"{answered} of {len(self._electors)} electors answered, {self._quorum} are needed")
        if self._phase in (Phase.OPENING, Phase.HOLDING, Phase.OVER):
            self._keep(now_s)

    def _keep(self, now_s: float) -> None:
        """What a holder does in time. After the job's end it only sees to those who do not know of it."""
        if self._replication is None:
            return
        if now_s >= self._leave_s:
            self._leave()
            return
        if now_s >= self._renew_s:
            self._renew_s = now_s + self._profile.renew_s
            self._replication.renewing()
            if self._phase is Phase.OVER:
                for elector in self._electors:
                    self._replication.granted(elector)
                self._send_batches()
            elif self._is_stuck():
                self._raise_term(now_s)
                return
            else:
                self._renew(now_s)
        if now_s >= self._flush_s:
            self._flush()

    def _is_stuck(self) -> bool:
        """True if nothing has been committed for two renewals, and an elector has promised a higher term meanwhile.

        A candidate that was cut off with some electors may have got their promise. They serve it no more than us, and if
        others are down the lease would be renewed for ever without anything ever being committed.
        """
        committed, times = self._stalled
        is_behind = self.committed < len(self._chain) and self.committed == committed
        self._stalled = (self.committed, times + 1 if is_behind else 0)
        return self._stalled[1] > 2 and bool(self._overtaken)

    def _raise_term(self, now_s: float) -> None:
        """Campaigns with a higher term. Those who granted this one refuse everybody else meanwhile."""
        reason = "electors had promised a higher term"
        if self._phase is Phase.HOLDING:
            self._effects.append(Lost(reason))
        self._rest(reason)
        self._why = reason
        self._campaign(now_s)

    # --- pictures ----------------------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        return self._phase

    def snapshot(self) -> CandidacyPicture:
        is_holder = self._phase in (Phase.OPENING, Phase.HOLDING)
        missing = self._silent(self._now_s - 2 * self._profile.renew_s) if is_holder else self._missing
        return CandidacyPicture(
            self._phase.value,
            self._term.round,
            self._valid_until_s,
            self.committed,
            self._waiting,
            self._holder,
            missing,
        )

    def check(self) -> None:
        assert self._final <= len(self._chain), f"{self._final} of {len(self._chain)} batches are final"
        if self._replication is not None:
            self._replication.check()
        self._chain.check()
