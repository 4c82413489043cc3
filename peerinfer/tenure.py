"""One term: the lease from the first request on, the journal that is written under it, and how both end.

The lease counts from the moment at which a request was sent, and only for the grants that name this very request. It is
looked at before anything else is done. A term is opened with a batch that carries the grants; once that batch has a
quorum, this node coordinates. A term that ended is never used again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from peerinfer.candidacy_events import (
    HAND_OVER_S,
    Ask,
    Committed,
    Effect,
    Lost,
    Over,
    Phase,
    Request,
    Won,
    Write,
)
from peerinfer.committees import Seated, check_next
from peerinfer.envelope import unseal
from peerinfer.errors import DecodeError, ProtocolError
from peerinfer.fencing import Fencing
from peerinfer.ids import JobId, PeerId
from peerinfer.journal import Chain
from peerinfer.journal_rules import ENDED, PRIORITY
from peerinfer.journal_writer import JournalWriter
from peerinfer.lease_messages import (
    Appended,
    Grant,
    Granted,
    LeaseRefused,
    LeaseReleased,
    LeaseWanted,
    SealGiven,
)
from peerinfer.lease_profile import LeaseProfile
from peerinfer.lease_round import Round
from peerinfer.limits import JOURNAL_COMMIT_S, JOURNAL_GATHER_S, JOURNAL_WAITING_TASKS_MAX
from peerinfer.machine import NEVER
from peerinfer.messages import Term
from peerinfer.replication import Replication
from peerinfer.sealing import Sealing

RENEWALS_IN_FLIGHT_MAX = 8
"""Older ones cannot extend the lease any more."""

STALLED_RENEWALS_MAX = 2


@dataclass(frozen=True, slots=True)
class Ended:
    """How a term came to its end: `lapsed`, `left` on purpose, `stuck`, `changed` with the committee, or `over`."""

    how: str
    reason: str


class Tenure:
    """A term that a quorum has promised. `phase` is leasing, opening, holding or over."""

    def __init__(
        self,
        job: JobId,
        seated: Seated,
        term: Term,
        chain: Chain,
        writer: JournalWriter,
        profile: LeaseProfile,
        new_nonce: Callable[[], int],
        fencing: Fencing | None = None,
    ) -> None:
        self._job = job
        self._seated = seated
        self._epoch = epoch = seated.epoch
        self._term = term
        self._chain = chain
        self._writer = writer
        self._electors = electors = tuple(PeerId(elector) for elector in seated.electors)
        self._quorum = quorum = seated.quorum
        self._profile = profile
        self._new_nonce = new_nonce
        self._fencing = fencing
        self._replication = Replication(job, epoch, term, chain, electors, quorum, new_nonce)
        self._renewals: dict[int, Round] = {}
        self._give_up_s = self._renew_s = self._flush_s = self._leave_s = NEVER
        self._flushed_s = -NEVER
        """When entries were written last."""
        self._leaving: str | None = None
        self._overtaken: dict[PeerId, None] = {}
        """Electors that have promised a higher term since this one was won."""
        self._told_over: dict[PeerId, None] = {}
        self.phase = Phase.LEASING
        self.sealing: Sealing | None = None
        """From the moment on at which the next committee is decided."""
        self.valid_until_s = 0.0
        self.ended: Ended | None = None
        self.effects: list[Effect] = []
        """To be taken and performed after each call."""

    @property
    def asked(self) -> Round:
        """The newest request to all electors."""
        return next(reversed(self._renewals.values()))

    @property
    def deadline_s(self) -> float:
        match self.phase:
            case Phase.LEASING:
                return self._give_up_s
            case Phase.OVER:
                return min(self._renew_s, self.valid_until_s)
            case _:
                return min(self._renew_s, self.valid_until_s, self._flush_s, self._leave_s)

    @property
    def is_leaving(self) -> bool:
        return self._leaving is not None

    @property
    def committed(self) -> int:
        return self._replication.committed

    # --- the lease ---------------------------------------------------------------------------------------------------

    def begin(self, now_s: float) -> None:
        self._give_up_s = now_s + self._profile.answer_s
        self._renew(now_s)

    def request(self) -> LeaseWanted:
        return LeaseWanted(self._job, self._epoch, self._term, self.asked.nonce, self._profile.lease_s)

    def _renew(self, now_s: float) -> None:
        asked = Round(self._new_nonce(), now_s)
        self._renewals[asked.nonce] = asked
        while len(self._renewals) > RENEWALS_IN_FLIGHT_MAX:
            del self._renewals[next(iter(self._renewals))]
        self._ask_all(self.request())

    def granted(self, elector: PeerId, granted: Granted, why: str, now_s: float) -> None:
        """`why`: the reason for which this term follows another, for the journal."""
        asked = self._renewals.get(granted.nonce)
        if asked is None or elector in asked.grants or self.phase is Phase.OVER:
            return
        try:
            _, grant = unseal(Grant, granted.grant, signer=elector)
        except DecodeError:
            return
        wanted = (self._job, self._epoch, self._term, granted.nonce, self._profile.lease_s)
        if (grant.job, grant.epoch, grant.term, grant.nonce, grant.lease_s) != wanted:
            return
        asked.grants[elector] = granted.grant
        self._replication.granted(elector)
        if len(asked.grants) >= self._quorum:
            self._extend(asked, why, now_s)
        if self.phase is not Phase.LEASING:
            self._send_batches()

    def _extend(self, asked: Round, why: str, now_s: float) -> None:
        self.valid_until_s = max(self.valid_until_s, asked.sent_s + self._profile.held_s)
        if self.phase is not Phase.LEASING:
            return
        if now_s >= self.valid_until_s:
            self._end("lapsed", "the grants came too late")
            return
        self.phase = Phase.OPENING
        self._renew_s = now_s + self._profile.renew_s
        self._writer.open(self._term, why, tuple(asked.grants.values()))

    def refused(self, elector: PeerId, refusal: LeaseRefused) -> bool:
        """True if this answers a message with batches."""
        if refusal.kind == "stale" and refusal.promised.order > self._term.order:
            self._overtaken[elector] = None
        if self.sealing is not None:
            self.effects += self.sealing.refused(elector, refusal)
            self._look_at_seals()
            if self.ended is not None:
                return True
        is_ours = self._replication.refused(elector, refusal)
        self._send_batches()
        return is_ours

    def unheard(self, elector: PeerId) -> None:
        self._replication.unheard(elector)

    def _ask_all(self, request: Request) -> None:
        self.effects += [Ask(elector, request) for elector in self._electors]

    # --- the journal -------------------------------------------------------------------------------------------------

    def write(self, write: Write, now_s: float) -> None:
        assert write.event in ("", PRIORITY, *ENDED), f"{write.event!r} is none of an entry's events"
        if self.phase is not Phase.HOLDING or self._leaving is not None or self._chain.ended:
            return
        self._writer.add(write.entries)
        if self._chain.change:
            return  # Nothing follows in this epoch. What is not written is found again in the next.
        if write.event or write.is_last or self._writer.waiting >= JOURNAL_WAITING_TASKS_MAX:
            self._flush(write.event, write.detail)
            self._flushed_s = now_s
        elif self._writer.waiting:
            self._flush_s = min(self._flush_s, max(now_s + JOURNAL_GATHER_S, self._flushed_s + JOURNAL_COMMIT_S))

    def change(self, committee: tuple[str, ...]) -> None:
        """Names the next committee. Dropped if it cannot follow, or if this node does not coordinate a job that goes on."""
        try:
            check_next(self._seated, committee)
        except ProtocolError:
            return
        if self.phase is Phase.HOLDING and self._leaving is None and not (self._chain.ended or self._chain.change):
            self._writer.change(self._term, committee)
            self._flush_s = NEVER
            self._send_batches()

    def _flush(self, event: str = "", detail: str = "") -> None:
        self._flush_s = NEVER
        if self._chain.is_long and not event and self.phase is Phase.HOLDING and self.committed < len(self._chain):
            return  # A checkpoint comes first, as soon as all that was written is committed; entries wait for that.
        if not self._chain.change:
            self._writer.write(self._term, event, detail)
        self._send_batches()

    def _send_batches(self) -> None:
        self.effects += [Ask(elector, append) for elector, append in self._replication.appends()]

    def appended(self, elector: PeerId, answer: Appended) -> None:
        before = self._final
        if self._replication.appended(elector, answer):
            self._committed_more(before)
        if self.phase is Phase.OVER:
            self._tell_over(elector)
        self._send_batches()

    def _committed_more(self, before: int) -> None:
        if self._final > before:
            self.effects.append(Committed(before, self._final))
        if self.phase is Phase.OVER:
            return
        if 0 < self._chain.change <= self.committed:
            self._close()
            return
        if 0 < self._chain.end <= self.committed:
            self.effects.append(Over())
            self.phase = Phase.OVER
            for elector in self._electors:
                self._tell_over(elector)
        elif self.phase is Phase.OPENING:
            self.phase = Phase.HOLDING
            self.effects.append(Won(self._term))
        elif self._leaving is not None and self.committed == len(self._chain):
            self._end("left", self._leaving)
        else:
            self._checkpoint()

    def _checkpoint(self) -> None:
        """Lets everybody give up a long journal's batches for a snapshot, once all of them are committed."""
        self._chain.compact(self.committed)
        if self.committed == len(self._chain) and not self._chain.change:
            if self._chain.is_long:
                self._writer.checkpoint(self._term)
            if self._writer.waiting and self._flush_s == NEVER:
                self._flush()  # They waited for the checkpoint alone; others go on waiting for company.

    @property
    def _final(self) -> int:
        """Batches that are final. After the change of a committee there are none: who took over is forgotten with them."""
        return min(self.committed, self._chain.change or self.committed)

    def _close(self) -> None:
        """The next committee is decided. A holder goes on until its lease ends; whoever only took over does not begin."""
        if self.sealing is None:
            if self.phase is Phase.OPENING:
                self.phase = Phase.SEALING
            change = self._chain.link(self._chain.change - 1).signed
            self.sealing = Sealing(self._job, self._seated, self._term, change, self._chain, self._new_nonce)
            self.effects += self.sealing.asks()

    def sealed(self, given: SealGiven) -> None:
        if self.sealing is not None:
            self.sealing.given(given)
            self._look_at_seals()

    def _look_at_seals(self) -> None:
        if self.sealing is not None and self.sealing.record and self.ended is None:
            if self.phase is Phase.HOLDING:
                self.effects.append(Lost("the committee was changed"))
            self._writer.forget()
            self.valid_until_s = 0.0
            self.ended = Ended("changed", "the committee was changed")

    def _tell_over(self, elector: PeerId) -> None:
        """An elector that has the journal up to its end may forget the lease; the others get it until the lease ends."""
        if self._replication.matched(elector) == len(self._chain) and elector not in self._told_over:
            self._told_over[elector] = None
            self.effects.append(Ask(elector, LeaseReleased(self._job, self._epoch, self._term, is_over=True)))
            if len(self._told_over) == len(self._electors):
                self.ended = Ended("over", "")

    # --- time, and the end -------------------------------------------------------------------------------------------

    def look_at_lease(self, now_s: float, why: str) -> None:
        """To be called before anything else. `why`: what is known of the reason, if the lease has run out."""
        if self.phase in (Phase.OPENING, Phase.SEALING, Phase.HOLDING) and now_s >= self.valid_until_s:
            self._end("lapsed", f"no quorum renewed the lease: {why}")
        elif self.phase is Phase.OVER and now_s >= self.valid_until_s and self.ended is None:
            self.ended = Ended("over", "")

    def hand_over(self, reason: str, now_s: float) -> None:
        if self.phase is not Phase.HOLDING:
            self._end("left", reason)
        elif self._leaving is None:
            self._flush()
            self._leaving, self._leave_s = reason, now_s + HAND_OVER_S
            if self.committed == len(self._chain):
                self._end("left", reason)

    def tick(self, now_s: float) -> None:
        """What a holder does in time. After the job's end it only sees to those who do not know of it."""
        if self.phase is Phase.LEASING or self.ended is not None:
            return
        if now_s >= self._leave_s:
            self._end("left", self._leaving or "")
            return
        if now_s >= self._renew_s:
            self._renew_s = now_s + self._profile.renew_s
            self._replication.renewing()
            if self.phase is Phase.OVER:
                for elector in self._electors:
                    self._replication.granted(elector)
                self._send_batches()
            elif self._replication.stalled_renewals > STALLED_RENEWALS_MAX and self._overtaken:
                # A candidate that was cut off with some electors has their promise. They serve it no more than us, and
                # if others are down the lease would be renewed for ever without anything ever being committed.
                self._end("stuck", "electors had promised a higher term")
                return
            else:
                self._renew(now_s)
                if self._fencing is not None:
                    self.effects += self._fencing.renewing()
                if self.sealing is not None:
                    self.effects += self.sealing.asks()
        if now_s >= self._flush_s:
            self._flush()
            self._flushed_s = now_s

    def _end(self, how: str, reason: str) -> None:
        if self.phase is Phase.HOLDING:
            self.effects.append(Lost(reason))
        if how != "stuck":
            # Some electors would wait for a holder that there is not. Whoever is stuck keeps their grants until the next
            # term: they refuse everybody else.
            self._ask_all(LeaseReleased(self._job, self._epoch, self._term))
        self._writer.forget()
        self.valid_until_s = 0.0
        self.ended = Ended(how, reason)

    def give_up(self, reason: str) -> None:
        """Ends it whatever it does, because it cannot go on."""
        self._end("lapsed", reason)

    def check(self) -> None:
        self._replication.check()
