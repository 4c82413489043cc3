"""The candidate and holder of one job's lease, and the writer of its journal.

Theory of operation. A candidate campaigns with a term above all it has heard of: it asks every elector to *promise*,
copies the longest journal among a quorum of promises, asks for the *lease*, and with a quorum of grants writes the
opening batch of its term. Only when that batch has a quorum does it coordinate. The lease is counted from the moment
at which the request was *sent*, shortened by the drift margin, on a clock that counts suspend; before anything that has
an effect the holder looks at the clock, and everything it sends carries its term.

A candidate that is refused because another lease runs waits until that lease can have ended, plus a time that grows
with its rank, so that candidates do not collide; after a campaign without a quorum it waits longer each time, with
jitter. A committee member that does not campaign watches its own elector's seat and does the same when a lease lapses.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from peerinfer.elector import candidates_of, quorum_of
from peerinfer.envelope import seal, unseal
from peerinfer.errors import DecodeError, ProtocolError
from peerinfer.ids import JobId, PeerId
from peerinfer.journal import NO_TERM, Chain, Divergence, Entry
from peerinfer.limits import JOURNAL_BATCH_TASKS_MAX, JOURNAL_BATCHES_PER_MESSAGE_MAX, JOURNAL_COMMIT_S
from peerinfer.machine import NEVER, Tick
from peerinfer.messages import (
    FAILED_TASK,
    Append,
    Appended,
    Grant,
    Granted,
    JournalBatch,
    JournalPart,
    JournalWanted,
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

DRIFT = 0.01
"""Clocks may run this much faster or slower than time; quartz is a hundred times better."""


@dataclass(frozen=True, slots=True)
class LeaseProfile:
    """Times of a lease, in seconds. The holder's share must leave room for several renewals."""

    lease_s: float
    renew_s: float
    answer_s: float
    """An elector that has not answered after this time is not waited for."""
    margin_s: float
    slot_s: float
    """Candidates follow each other at this distance, by rank."""

    def __post_init__(self) -> None:
        if self.renew_s * 3 > self.held_s:
            raise ValueError(
                f"a lease held for {self.held_s:g} s leaves no three renewals, one each {self.renew_s:g} s"
            )

    @property
    def held_s(self) -> float:
        """How long the holder counts on it, from sending: `L·(1−ρ)/(1+ρ) − margin`."""
        return self.lease_s * (1 - DRIFT) / (1 + DRIFT) - self.margin_s


LAN = LeaseProfile(lease_s=3.0, renew_s=0.75, answer_s=0.7, margin_s=0.1, slot_s=0.15)
WAN = LeaseProfile(lease_s=12.0, renew_s=3.0, answer_s=2.0, margin_s=0.5, slot_s=0.7)

CAMPAIGN_WAIT_MAX_S = 10.0
APPENDS_IN_FLIGHT_MAX = 4


class Phase(Enum):
    WATCHING = "watching"
    PREPARING = "preparing"
    RECOVERING = "recovering"
    LEASING = "leasing"
    OPENING = "opening"
    HOLDING = "holding"
    OVER = "over"


Request = SeatOffered | Prepare | LeaseWanted | LeaseReleased | Append | JournalWanted
Reply = SeatTaken | Promise | Granted | LeaseRefused | Appended | JournalPart


@dataclass(frozen=True, slots=True)
class Campaign:
    """Try to become the coordinator now."""


@dataclass(frozen=True, slots=True)
class LeaseSeen:
    """This node's own elector granted somebody the lease; it runs until `until_s` on this machine's clock."""

    holder: str
    until_s: float


@dataclass(frozen=True, slots=True)
class Heard:
    elector: PeerId
    reply: Reply


@dataclass(frozen=True, slots=True)
class Unheard:
    """A request to this elector failed or timed out: whether it had an effect is not known."""

    elector: PeerId


@dataclass(frozen=True, slots=True)
class Write:
    """Entries for the journal; taken while this node holds the lease, dropped otherwise."""

    entries: tuple[Entry, ...]
    event: str = ""
    detail: str = ""
    is_last: bool = False
    """Nothing more comes soon: do not wait for it."""


@dataclass(frozen=True, slots=True)
class HandOver:
    """Give the lease back, on purpose and at once."""

    reason: str


Event = Campaign | LeaseSeen | Heard | Unheard | Write | HandOver


@dataclass(frozen=True, slots=True)
class Ask:
    elector: PeerId
    request: Request


@dataclass(frozen=True, slots=True)
class Won:
    """This node coordinates from now on, in this term; the journal's register says what is done."""

    term: Term


@dataclass(frozen=True, slots=True)
class Committed:
    """These batches have a quorum: what they say is final."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Lost:
    """This node does not coordinate any more; it must have stopped already when this is performed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Over:
    """The job has ended, and a quorum knows it. A candidate that finds an end which may not have a quorum gives it one
    under its own term first, because another candidate may not have seen it."""


Effect = Ask | Won | Committed | Lost | Over


@dataclass(slots=True)
class _Elector:
    """What the candidate knows of one elector."""

    matched: int = 0
    """Batches that it holds exactly as this node does."""
    next: int = 0
    """The first batch to send it."""
    in_flight: int = 0
    heard: bool = False


@dataclass(frozen=True, slots=True)
class CandidacyPicture:
    phase: str
    term: int
    valid_until_s: float
    committed: int
    waiting: str
    """What is missing, in words, or ""."""


@dataclass(slots=True)
class _Round:
    """One set of requests under one nonce."""

    nonce: int
    sent_s: float
    answers: dict[PeerId, Promise | bytes] = field(default_factory=dict)
    refused: dict[PeerId, None] = field(default_factory=dict)


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
    ) -> None:
        self._own = own
        self._sign = sign
        self._job = job
        self._manifest = manifest
        self._signed_manifest = signed_manifest
        self._chain = chain
        self._profile = profile
        self._rng = rng
        self._epoch = epoch
        self._quorum = quorum_of(manifest)
        self._rank = candidates_of(manifest).index(own)
        self._electors = {PeerId(elector): _Elector() for elector in manifest.committee}
        self._phase = Phase.WATCHING
        self._term = NO_TERM
        self._round_seen = chain.last_term.round
        self._asked = _Round(0, 0.0)
        self._renewals: dict[int, _Round] = {}
        self._source: PeerId | None = None
        self._source_length = 0
        self._certificate: tuple[bytes, ...] = ()
        self._valid_until_s = 0.0
        self._renew_s = NEVER
        self._next_s = NEVER
        """When to campaign, while watching."""
        self._give_up_s = NEVER
        self._failures = 0
        self._waiting = ""
        self._entries: list[Entry] = []
        self._flush_s = NEVER
        self._committed = 0
        self._effects: list[Effect] = []

    # --- the door ----------------------------------------------------------------------------------------------------

    def handle(self, event: Event | Tick, now_s: float) -> list[Effect]:
        """`now_s` is of the holder's clock, which counts suspend."""
        self._check_lease(now_s)
        match event:
            case Campaign():
                if self._phase is Phase.WATCHING:
                    self._campaign(now_s)
            case LeaseSeen(holder, until_s):
                if self._phase is Phase.WATCHING and holder != self._own:
                    self._next_s = until_s + self._stagger_s()
            case Heard(elector, reply):
                if elector in self._electors:
                    self._heard(elector, reply, now_s)
            case Unheard(elector):
                if elector in self._electors:
                    self._unheard(self._electors[elector])
            case Write():
                self._write(event, now_s)
            case HandOver(reason):
                self._hand_over(reason)
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
            case Phase.PREPARING | Phase.RECOVERING | Phase.LEASING:
                return self._give_up_s
            case Phase.OPENING | Phase.HOLDING:
                return min(self._renew_s, self._valid_until_s, self._flush_s)
            case _:
                return NEVER

    def holds(self, now_s: float) -> bool:
        """True if this node may coordinate at this moment. To be asked before every effect."""
        return self._phase is Phase.HOLDING and now_s < self._valid_until_s

    @property
    def term(self) -> Term:
        return self._term

    @property
    def chain(self) -> Chain:
        return self._chain

    @property
    def committed(self) -> int:
        """Batches that a quorum is known to hold."""
        return self._committed

    # --- campaign ----------------------------------------------------------------------------------------------------

    def _campaign(self, now_s: float) -> None:
        self._phase = Phase.PREPARING
        self._term = Term(max(self._round_seen, self._chain.last_term.round) + 1, self._own)
        self._round_seen = self._term.round
        self._asked = self._new_round(now_s)
        self._give_up_s = now_s + self._profile.answer_s
        self._next_s = NEVER
        prepare = Prepare(self._job, self._epoch, self._term, self._asked.nonce)
        for elector, known in self._electors.items():
            known.heard = False
            self._effects.append(Ask(elector, prepare))

    def _promised(self, elector: PeerId, promise: Promise, now_s: float) -> None:
        if self._phase is not Phase.PREPARING or promise.nonce != self._asked.nonce:
            return
        self._asked.answers[elector] = promise
        promises = {peer: found for peer, found in self._asked.answers.items() if isinstance(found, Promise)}
        if len(promises) < self._quorum:
            return
        best = max(promises, key=lambda peer: (promises[peer].last.order, promises[peer].sequence, peer))
        mine = (self._chain.last_term.order, len(self._chain))
        if (promises[best].last.order, promises[best].sequence) > mine:
            self._phase = Phase.RECOVERING
            self._source, self._source_length = best, promises[best].sequence
            self._want_journal(min(len(self._chain), self._source_length), now_s)
        else:
            self._want_lease(now_s)

    def _want_journal(self, first: int, now_s: float) -> None:
        assert self._source is not None
        self._asked = self._new_round(now_s)
        self._give_up_s = now_s + self._profile.answer_s
        self._effects.append(Ask(self._source, JournalWanted(self._job, self._asked.nonce, first)))

    def _recovered(self, elector: PeerId, part: JournalPart, now_s: float) -> None:
        if self._phase is not Phase.RECOVERING or part.nonce != self._asked.nonce or elector != self._source:
            return
        try:
            _, matched = self._chain.extend(self._manifest, self._term, part.batches)
        except Divergence as gap:
            self._want_journal(gap.sequence, now_s)
            return
        except (DecodeError, ProtocolError) as error:
            self._fail(now_s, f"the journal of {elector} is not sound: {error}")
            return
        if len(self._chain) >= self._source_length:
            self._want_lease(now_s)
        elif not part.batches or matched == 0:
            self._fail(now_s, f"{elector} does not give the journal that it promised")
        else:
            self._want_journal(matched, now_s)

    def _want_lease(self, now_s: float) -> None:
        self._phase = Phase.LEASING
        self._asked = self._new_round(now_s)
        self._give_up_s = now_s + self._profile.answer_s
        self._renewals = {self._asked.nonce: self._asked}
        self._ask_lease(self._asked)

    def _ask_lease(self, asked: _Round) -> None:
        wanted = LeaseWanted(self._job, self._epoch, self._term, asked.nonce, self._profile.lease_s)
        self._effects += [Ask(elector, wanted) for elector in self._electors]

    def _granted(self, elector: PeerId, granted: Granted, now_s: float) -> None:
        asked = self._renewals.get(granted.nonce)
        if asked is None or elector in asked.answers:
            return
        try:
            _, grant = unseal(Grant, granted.grant, signer=elector)
        except DecodeError:
            return
        if (grant.job, grant.epoch, grant.term, grant.nonce) != (self._job, self._epoch, self._term, granted.nonce):
            return
        asked.answers[elector] = granted.grant
        if len(asked.answers) < self._quorum:
            return
        self._valid_until_s = max(self._valid_until_s, asked.sent_s + self._profile.held_s)
        if self._phase is Phase.LEASING:
            self._certificate = tuple(answer for answer in asked.answers.values() if isinstance(answer, bytes))
            self._open(now_s)

    def _open(self, now_s: float) -> None:
        """Holds the lease; coordinates once its opening batch has a quorum."""
        if now_s >= self._valid_until_s:
            self._fail(now_s, "the grants came too late")
            return
        self._phase = Phase.OPENING
        self._renew_s = now_s + self._profile.renew_s
        self._waiting = ""
        self._committed = 0
        for known in self._electors.values():
            known.matched, known.in_flight = 0, 0
            known.next = len(self._chain)
        self._add_batch((), "takeover" if len(self._chain) else "accepted", "", self._certificate)
        self._send_batches()

    def _fail(self, now_s: float, reason: str, *, wait_s: float | None = None) -> None:
        """Back to watching; the next campaign comes later each time."""
        self._phase = Phase.WATCHING
        self._waiting = reason
        self._renewals.clear()
        if wait_s is None:
            self._failures += 1
            longest = min(self._profile.answer_s * 2.0 ** min(self._failures, 10), CAMPAIGN_WAIT_MAX_S)
            wait_s = longest * (0.5 + 0.5 * self._rng.random())
        self._next_s = now_s + wait_s + self._stagger_s()

    def _stagger_s(self) -> float:
        return self._profile.slot_s * (self._rank + self._rng.random())

    def _new_round(self, now_s: float) -> _Round:
        return _Round(self._rng.getrandbits(62), now_s)

    # --- answers -----------------------------------------------------------------------------------------------------

    def _heard(self, elector: PeerId, reply: Reply, now_s: float) -> None:
        known = self._electors[elector]
        known.heard = True
        match reply:
            case Promise():
                self._promised(elector, reply, now_s)
            case JournalPart():
                self._recovered(elector, reply, now_s)
            case Granted():
                self._granted(elector, reply, now_s)
            case Appended():
                self._appended(known, reply)
            case LeaseRefused():
                self._refused(elector, known, reply, now_s)
            case SeatTaken():
                self._seated(elector, now_s)

    def _refused(self, elector: PeerId, known: _Elector, refusal: LeaseRefused, now_s: float) -> None:
        if refusal.kind == "unknown":
            self._effects.append(Ask(elector, SeatOffered(self._signed_manifest)))
            return
        if refusal.kind == "gap" and refusal.nonce == self._term.round:
            known.in_flight = 0
            known.next = min(refusal.sequence, len(self._chain))
            self._send_batches()
            return
        self._round_seen = max(self._round_seen, refusal.promised.round)
        campaigning = self._phase in (Phase.PREPARING, Phase.LEASING)
        if refusal.kind == "held" and campaigning and refusal.nonce == self._asked.nonce:
            wait_s = min(max(refusal.remaining_s, 0.0), self._profile.lease_s)
            self._fail(now_s, f"{refusal.promised.candidate} holds the lease", wait_s=wait_s)
        elif refusal.kind == "stale" and campaigning and refusal.nonce == self._asked.nonce:
            self._asked.refused[elector] = None
            if len(self._asked.refused) > len(self._electors) - self._quorum:
                self._fail(
                    now_s, "another candidate has a higher term", wait_s=self._profile.slot_s * self._rng.random()
                )
        elif refusal.kind == "sealed":
            self._step_down("the committee has been replaced", now_s)
            self._phase = Phase.OVER

    def _seated(self, elector: PeerId, now_s: float) -> None:
        """An elector that has just learned of the job is asked again what it was asked."""
        if self._phase is Phase.PREPARING:
            self._effects.append(Ask(elector, Prepare(self._job, self._epoch, self._term, self._asked.nonce)))
        elif self._phase in (Phase.LEASING, Phase.OPENING, Phase.HOLDING) and self._renewals:
            newest = list(self._renewals.values())[-1]
            wanted = LeaseWanted(self._job, self._epoch, self._term, newest.nonce, self._profile.lease_s)
            self._effects.append(Ask(elector, wanted))
            self._electors[elector].next = 0
            self._send_batches()

    def _unheard(self, known: _Elector) -> None:
        known.heard = False
        known.in_flight = 0
        known.next = min(known.next, known.matched) if known.matched else known.next

    # --- journal -----------------------------------------------------------------------------------------------------

    def _write(self, write: Write, now_s: float) -> None:
        if self._phase is not Phase.HOLDING or self._chain.ended:
            return
        self._entries += [entry for entry in write.entries if self._chain.register.get(entry.task) is None]
        if write.event or write.is_last or len(self._entries) >= JOURNAL_BATCH_TASKS_MAX:
            self._flush(write.event, write.detail)
        elif self._entries:
            self._flush_s = min(self._flush_s, now_s + JOURNAL_COMMIT_S)

    def _flush(self, event: str = "", detail: str = "") -> None:
        self._flush_s = NEVER
        while self._entries or event:
            unique = {entry.task: entry for entry in self._entries[:JOURNAL_BATCH_TASKS_MAX]}
            self._entries = self._entries[JOURNAL_BATCH_TASKS_MAX:]
            last = not self._entries
            fresh = tuple(entry for entry in unique.values() if self._chain.register.get(entry.task) is None)
            self._add_batch(fresh, event if last else "", detail if last else "", ())
            if last:
                break
        self._send_batches()

    def _add_batch(self, entries: Sequence[Entry], event: str, detail: str, certificate: tuple[bytes, ...]) -> None:
        peers = list(dict.fromkeys(entry.worker for entry in entries if entry.worker))
        places = {peer: place for place, peer in enumerate(peers)}
        batch = JournalBatch(
            job=self._job,
            epoch=self._epoch,
            term=self._term,
            sequence=len(self._chain),
            previous=self._chain.head,
            tasks=tuple(entry.task for entry in entries),
            digests=b"".join(entry.digest for entry in entries),
            workers=tuple(places[entry.worker] if entry.worker else FAILED_TASK for entry in entries),
            peers=tuple(peers),
            event=event,
            detail=detail,
            certificate=certificate,
        )
        self._chain.take(seal(batch, self._own, self._sign))

    def _send_batches(self) -> None:
        for elector, known in self._electors.items():
            while known.next < len(self._chain) and known.in_flight < APPENDS_IN_FLIGHT_MAX:
                batches = self._chain.signed(known.next, JOURNAL_BATCHES_PER_MESSAGE_MAX)
                known.next += len(batches)
                known.in_flight += 1
                append = Append(self._job, self._epoch, self._term, self._term.round, batches)
                self._effects.append(Ask(elector, append))

    def _appended(self, known: _Elector, appended: Appended) -> None:
        if self._phase not in (Phase.OPENING, Phase.HOLDING) or appended.term != self._term:
            return
        known.in_flight = max(known.in_flight - 1, 0)
        if appended.sequence > len(self._chain) or self._chain.hash_before(appended.sequence) != appended.head:
            return
        known.matched = max(known.matched, appended.sequence)
        self._commit()
        self._send_batches()

    def _commit(self) -> None:
        matched = sorted((known.matched for known in self._electors.values()), reverse=True)
        reached = matched[self._quorum - 1]
        if reached <= self._committed or self._chain.link(reached - 1).term != self._term:
            return
        first, self._committed = self._committed, reached
        self._effects.append(Committed(first, reached))
        if self._chain.ended:
            self._effects += [
                Ask(elector, LeaseReleased(self._job, self._epoch, self._term)) for elector in self._electors
            ]
            self._effects.append(Over())
            self._phase = Phase.OVER
        elif self._phase is Phase.OPENING:
            self._phase = Phase.HOLDING
            self._failures = 0
            self._effects.append(Won(self._term))

    # --- time --------------------------------------------------------------------------------------------------------

    def _check_lease(self, now_s: float) -> None:
        if self._phase in (Phase.OPENING, Phase.HOLDING) and now_s >= self._valid_until_s:
            silent = [elector for elector, known in self._electors.items() if not known.heard]
            self._step_down(
                f"no quorum renewed the lease; no answer from {', '.join(silent) or 'enough electors'}", now_s
            )

    def _step_down(self, reason: str, now_s: float) -> None:
        was_holding = self._phase is Phase.HOLDING
        self._entries.clear()
        self._flush_s = NEVER
        self._valid_until_s = 0.0
        self._fail(now_s, reason)
        if was_holding:
            self._effects.append(Lost(reason))

    def _hand_over(self, reason: str) -> None:
        was_holding = self._phase is Phase.HOLDING
        if self._phase in (Phase.OPENING, Phase.HOLDING, Phase.LEASING):
            release = LeaseReleased(self._job, self._epoch, self._term)
            self._effects += [Ask(elector, release) for elector in self._electors]
        self._phase = Phase.WATCHING
        self._next_s = NEVER
        self._valid_until_s = 0.0
        self._entries.clear()
        self._flush_s = NEVER
        self._renewals.clear()
        if was_holding:
            self._effects.insert(0, Lost(reason))

    def _on_time(self, now_s: float) -> None:
        if self._phase is Phase.WATCHING and now_s >= self._next_s:
            self._campaign(now_s)
        elif self._phase in (Phase.PREPARING, Phase.RECOVERING, Phase.LEASING) and now_s >= self._give_up_s:
            silent = [elector for elector, known in self._electors.items() if not known.heard]
            answered = len(self._electors) - len(silent)
            self._fail(
                now_s,
                f"{answered} of {len(self._electors)} electors answered, {self._quorum} are needed"
                + (f"; no answer from {', '.join(silent)}" if silent else ""),
            )
        elif self._phase in (Phase.OPENING, Phase.HOLDING):
            if now_s >= self._renew_s:
                self._renew_s = now_s + self._profile.renew_s
                asked = self._new_round(now_s)
                self._renewals[asked.nonce] = asked
                while len(self._renewals) > 8:
                    del self._renewals[next(iter(self._renewals))]
                self._ask_lease(asked)
                for known in self._electors.values():
                    if not known.heard:
                        known.next = min(known.next, known.matched)
                        known.in_flight = 0
                self._send_batches()
            if now_s >= self._flush_s:
                self._flush()

    # --- pictures ----------------------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        return self._phase

    def snapshot(self) -> CandidacyPicture:
        return CandidacyPicture(
            self._phase.value, self._term.round, self._valid_until_s, self._committed, self._waiting
        )

    def check(self) -> None:
        assert self._committed <= len(self._chain), f"{self._committed} of {len(self._chain)} batches are committed"
        for elector, known in self._electors.items():
            assert known.matched <= len(self._chain), f"{elector} matches {known.matched} of {len(self._chain)} batches"
            assert known.in_flight <= APPENDS_IN_FLIGHT_MAX
        self._chain.check()
