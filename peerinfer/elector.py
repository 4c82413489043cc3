"""The elector: grants one candidate at a time the lease of a job, and keeps the job's journal.

Theory of operation. Two things are promised here, and they are kept apart. *Correctness* needs no clock: an elector that
has promised a term refuses everything of lower terms for ever, its promise and its journal are durable before it
answers, and any two quorums share an honest elector; so what a quorum has acknowledged is found by every later holder.
*Efficiency* is the lease: while a grant runs, no other candidate gets a promise, so two coordinators do not hand out the
same work (no pre-emption; this takes the place of a pre-vote). An elector counts a grant from the receipt of the request
on a clock that never runs fast, a holder from its sending on a clock that counts suspend, less the drift margin.

An unchanged renewal is not written down. That is safe because an elector that restarts takes its stored grant for one
that was renewed just now, and waits a full lease. A term that was given back is retired: the elector promises a term
between it and every other, so that no late request of its holder is granted.

The journal is a chain of signed batches (the recovery rule is Raft's, the lease takes the place of the vote): a batch
is accepted only from the holder of the highest promised term, and only where it extends the chain or replaces a suffix
of lower terms. A holder first copies the longest journal, by (term, length), of a quorum of promises, and opens its own
term with a batch of its own; what went before counts once that batch has a quorum.

All this rests on a memory that lasts. The effects of one event are to be performed before those of the next. Where
something cannot be made durable, nothing that follows it may be answered: the driver either stops using the job's seat,
or tells the machine `Restored` with what is durable, which takes the place of what it had in mind. An elector that has
lost what it promised is a liar in the sense of the quorum's formula, and must refuse the seats of older jobs.

Rejected: Raft groups (a log for each swarm, joint consensus), diskless leases (a reboot must sit out the longest lease
anyway), and "whoever is closest" (two views, two coordinators).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from peerinfer.codec import decode_as
from peerinfer.committee import check_committee, quorum
from peerinfer.committees import (
    Seated,
    Start,
    candidates_in,
    committees_of,
    first_committee,
    open_change,
    open_statements,
)
from peerinfer.envelope import seal, unseal
from peerinfer.errors import DecodeError, ProtocolError
from peerinfer.ids import JobId, PeerId, job_id_of
from peerinfer.journal import NO_TERM, Chain, Divergence
from peerinfer.lease_messages import (
    Append,
    Appended,
    Grant,
    Granted,
    JournalPart,
    JournalWanted,
    LeaseRefused,
    LeaseReleased,
    LeaseWanted,
    Prepare,
    Promise,
    SealGiven,
    SealStatement,
    SealWanted,
    SeatOffered,
    SeatTaken,
)
from peerinfer.lease_profile import SOLO, STATED, LeaseProfile
from peerinfer.limits import REASON_CHARS_MAX, SEATS_BYTES_MAX, SEATS_MAX, TERM_ROUND_MAX, TERM_ROUND_STEP_MAX
from peerinfer.machine import NEVER, Tick
from peerinfer.messages import (
    Manifest,
    Signed,
    Term,
)

LEASE_S_MIN = 0.1
LEASE_S_MAX = 60.0
"""A longer lease would keep a job from being taken over for as long."""

Request = SeatOffered | Prepare | LeaseWanted | LeaseReleased | Append | JournalWanted | SealWanted


@dataclass(frozen=True, slots=True)
class Asked:
    """A request from an authenticated peer. `token` comes back with the answer."""

    peer: PeerId
    request: Request
    token: int


@dataclass(frozen=True, slots=True)
class SeatRow:
    """What an elector must not forget of one job, beside the journal's batches."""

    job: JobId
    manifest: bytes
    epoch: int
    promised: Term
    granted: Term
    lease_s: float
    sealed: bool
    over: bool = False
    """The job has ended, and that is final."""
    changes: tuple[bytes, ...] = ()
    """Every `CommitteeChange` up to this epoch."""
    change: bytes = b""
    """Of a sealed epoch: what it was sealed for, and this elector's `SealStatement`."""
    statement: bytes = b""


@dataclass(frozen=True, slots=True)
class Restored:
    """A seat as it was stored, after a restart, or when something could not be stored. It waits a full lease.

    Raises `DecodeError` or `ProtocolError` if manifest or journal are damaged: such a seat must not be used.
    """

    row: SeatRow
    batches: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SeatGivenUp:
    """The job is over and its results have been fetched, or they have expired."""

    job: JobId


Event = Asked | Restored | SeatGivenUp


@dataclass(frozen=True, slots=True)
class PersistSeat:
    """Durable before the next effect: written and synced."""

    row: SeatRow


@dataclass(frozen=True, slots=True)
class PersistBatches:
    """Durable before the next effect: the journal from `first` on is replaced by these batches."""

    job: JobId
    first: int
    batches: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ForgetSeat:
    job: JobId


@dataclass(frozen=True, slots=True)
class Answer:
    token: int
    message: SeatTaken | Promise | Granted | LeaseRefused | Appended | JournalPart | SealGiven


Effect = PersistSeat | PersistBatches | ForgetSeat | Answer


@dataclass(slots=True)
class _Seat:
    job: JobId
    manifest: Manifest
    signed_manifest: bytes
    epoch: int = 0
    promised: Term = NO_TERM
    granted: Term = NO_TERM
    lease_s: float = 0.0
    sealed: bool = False
    over: bool = False
    deadline_s: float = 0.0
    """On the elector's clock; until then the candidate of `granted` alone is served."""
    granted_at_s: float = 0.0
    chain: Chain = field(default_factory=Chain)
    changes: tuple[bytes, ...] = ()
    committees: list[Seated] = field(default_factory=list)
    start: Start | None = None
    """Of this epoch, where it is not the first."""
    change: bytes = b""
    statement: bytes = b""

    @property
    def seated(self) -> Seated:
        return self.committees[-1]

    @property
    def is_ready(self) -> bool:
        """False while the journal does not reach up to the change that began the epoch."""
        return self.start is None or self.chain.holds(self.start.batches, self.start.head)

    def may_ask(self, peer: str) -> bool:
        """Who may coordinate, or might in an earlier epoch and does not know yet that it is over."""
        return peer == self.manifest.submitter or any(peer in one.electors for one in self.committees)

    def row(self) -> SeatRow:
        return SeatRow(
            self.job,
            self.signed_manifest,
            self.epoch,
            self.promised,
            self.granted,
            self.lease_s,
            self.sealed,
            self.over,
            self.changes,
            self.change,
            self.statement,
        )


@dataclass(frozen=True, slots=True)
class SeatPicture:
    job: JobId
    promised: Term
    holder: str
    remaining_s: float
    batches: int
    term: Term
    """The holder's term; `NO_TERM` while there is none."""
    held_for_s: float
    """How long ago this elector first granted that term, or was restarted."""
    is_over: bool
    """The job has ended, and that is final: nobody needs to campaign for it."""


class Elector:
    """The machine: every seat of this node."""

    deadline_s = NEVER

    def __init__(self, own: PeerId, sign: Callable[[bytes], bytes]) -> None:
        self._own = own
        self._sign = sign
        self._seats: dict[JobId, _Seat] = {}
        self._manifest_bytes = 0
        self._effects: list[Effect] = []

    def handle(self, event: Event | Tick, now_s: float) -> list[Effect]:
        """`now_s` is of the elector's clock, which must not count faster than time passes."""
        match event:
            case Asked(peer, SeatOffered() as offer, token):
                self._offered(peer, offer, token, now_s)
            case Asked(peer, request, token):
                self._asked(peer, request, token, now_s)
            case Restored(row, batches):
                self._restore(row, batches, now_s)
            case SeatGivenUp(job):
                if self._drop(job):
                    self._effects.append(ForgetSeat(job))
            case Tick():
                pass
        effects, self._effects = self._effects, []
        return effects

    # --- seats -------------------------------------------------------------------------------------------------------

    def _offered(self, peer: PeerId, offer: SeatOffered, token: int, now_s: float) -> None:
        try:
            job, manifest = open_manifest(offer.manifest)
            committees, start = committees_of(job, manifest, offer.changes)
            seat = self._seats.get(job)
            if self._own not in committees[-1].electors and seat is None:
                raise ProtocolError("this node is not of the committee")
            if peer not in candidates_in(manifest, committees[-1]):
                raise ProtocolError("only the committee and the submitter may offer a seat")
            if seat is None:
                if len(self._seats) >= SEATS_MAX or self._manifest_bytes + len(offer.manifest) > SEATS_BYTES_MAX:
                    self._refuse(token, job, 0, "full", f"is an elector of {len(self._seats)} jobs already", NO_TERM)
                    return
                seat = _Seat(job, manifest, offer.manifest, committees=[first_committee(manifest)])
                self._put(seat)
                if start is None:
                    self._effects.append(PersistSeat(seat.row()))
            if start is not None and committees[-1].epoch > seat.epoch:
                self._begin_epoch(seat, offer.changes, committees, start, now_s)
            missing = self._take_journal(seat, offer.batches, seat.promised)
        except (DecodeError, ProtocolError) as error:
            self._refuse(token, "", 0, "denied", str(error), NO_TERM)
            return
        self._effects.append(Answer(token, SeatTaken(job, seat.epoch, missing, seat.is_ready)))

    def _begin_epoch(
        self, seat: _Seat, changes: tuple[bytes, ...], committees: list[Seated], start: Start, now_s: float
    ) -> None:
        """Takes the seat of the newest epoch; whoever was replaced learns that it was."""
        seat.epoch, seat.changes, seat.committees, seat.start = committees[-1].epoch, changes, committees, start
        seat.sealed, seat.change, seat.statement = False, b"", b""
        # A term is never taken back, and neither is the wait for a lease.
        seat.promised = max(seat.promised, start.granted, key=lambda term: term.order)
        seat.granted, seat.lease_s = start.granted, start.lease_s
        seat.deadline_s = max(seat.deadline_s, now_s + start.lease_s)
        self._effects.append(PersistSeat(seat.row()))
        if seat.is_ready and len(seat.chain) > start.batches:
            # Whoever took over after the change wrote nothing but that; the epoch begins with the change for everybody.
            seat.chain.cut(start.batches)
            self._effects.append(PersistBatches(seat.job, start.batches, ()))

    def _take_journal(self, seat: _Seat, batches: Sequence[bytes], term: Term) -> int:
        """Batches of a journal whose end is known by its hash, whoever brings them; returns the first that is missing.

        Raises `DecodeError`, `ProtocolError`.
        """
        if seat.start is None or seat.is_ready or not batches:
            return len(seat.chain)
        try:
            changed, _ = seat.chain.extend(seat.job, seat.manifest, term, batches, committees=seat.committees)
        except Divergence as gap:
            return gap.sequence
        if seat.is_ready and len(seat.chain) > seat.start.batches:
            seat.chain.cut(seat.start.batches)
        if changed < len(seat.chain):
            self._effects.append(PersistBatches(seat.job, changed, seat.chain.signed(changed, len(seat.chain))))
        return len(seat.chain)

    def _restore(self, row: SeatRow, batches: Iterable[bytes], now_s: float) -> None:
        job, manifest = open_manifest(row.manifest)
        committees, start = committees_of(job, manifest, row.changes)
        if job != row.job or row.granted.order > row.promised.order or committees[-1].epoch != row.epoch:
            raise ProtocolError(f"the seat of job {row.job} is damaged")
        seat = _Seat(
            job, manifest, row.manifest, row.epoch, row.promised, row.granted, row.lease_s, row.sealed, row.over
        )
        seat.changes, seat.committees, seat.start = row.changes, committees, start
        seat.change, seat.statement = row.change, row.statement
        if row.granted != NO_TERM:
            seat.deadline_s = now_s + row.lease_s
            seat.granted_at_s = now_s
        for batch in batches:
            seat.chain.take(batch)
        if start is not None and seat.is_ready and seat.chain.epoch_at(start.batches) < seat.epoch:
            # It crashed between the two writes with which an epoch begins.
            seat.chain.cut(start.batches)
        if seat.chain.last_term.order > seat.promised.order:
            raise ProtocolError(f"the journal of job {job} is of a term that was not promised")
        self._put(seat)

    def _put(self, seat: _Seat) -> None:
        self._drop(seat.job)
        self._seats[seat.job] = seat
        self._manifest_bytes += len(seat.signed_manifest)

    def _drop(self, job: JobId) -> bool:
        seat = self._seats.pop(job, None)
        if seat is not None:
            self._manifest_bytes -= len(seat.signed_manifest)
        return seat is not None

    # --- requests ----------------------------------------------------------------------------------------------------

    def _asked(self, peer: PeerId, request: Request, token: int, now_s: float) -> None:
        assert not isinstance(request, SeatOffered)
        job = JobId(request.job)
        nonce = getattr(request, "nonce", 0)
        seat = self._seats.get(job)
        if seat is None:
            self._refuse(token, job, nonce, "unknown", "is no elector of this job", NO_TERM)
        elif not seat.may_ask(peer):
            self._refuse(token, job, nonce, "denied", "only the committee and the submitter may ask", NO_TERM)
        elif isinstance(request, JournalWanted):
            part = JournalPart(job, nonce, request.first, seat.chain.part(request.first))
            self._effects.append(Answer(token, part))
        elif request.term.candidate != peer:
            self._refuse(token, job, nonce, "denied", "a term names its own candidate", seat.promised)
        elif request.epoch < seat.epoch:
            self._refuse_sealed(seat, token, nonce, request.epoch)
        elif request.epoch > seat.epoch or not seat.is_ready:
            self._refuse(token, job, nonce, "unknown", f"is not in epoch {request.epoch} yet", seat.promised)
        elif self._own not in seat.seated.electors or peer not in candidates_in(seat.manifest, seat.seated):
            self._refuse(token, job, nonce, "denied", "was replaced in the committee", seat.promised)
        elif isinstance(request, SealWanted):
            self._seal(seat, request, token)
        elif seat.sealed and not isinstance(request, Prepare):
            self._refuse_sealed(seat, token, nonce, seat.epoch)
        elif request.term.round > min(seat.promised.round + TERM_ROUND_STEP_MAX, TERM_ROUND_MAX):
            self._refuse(token, job, nonce, "denied", "the term leaps too far ahead", seat.promised)
        elif isinstance(request, Prepare):
            self._prepare(seat, peer, request, token, now_s)
        elif isinstance(request, LeaseWanted):
            self._grant(seat, peer, request, token, now_s)
        elif isinstance(request, LeaseReleased):
            self._release(seat, peer, request, token, now_s)
        else:
            self._append(seat, request, token)

    def _prepare(self, seat: _Seat, peer: PeerId, asked: Prepare, token: int, now_s: float) -> None:
        if seat.sealed and asked.term.order > seat.promised.order:
            # It takes nothing any more in this epoch, whatever the term: whoever reads a quorum may count on that.
            promise = Promise(seat.job, seat.epoch, asked.term, asked.nonce, seat.chain.last_term, len(seat.chain))
            promise = replace(promise, statement=seat.statement, change=seat.change)
            self._effects.append(Answer(token, promise))
        elif self._is_held_by_other(seat, peer, now_s):
            self._refuse_held(seat, token, asked.nonce, now_s)
        elif asked.term.order <= seat.promised.order:
            self._refuse(token, seat.job, asked.nonce, "stale", "a term as high was promised already", seat.promised)
        else:
            seat.promised = asked.term
            promise = Promise(seat.job, seat.epoch, asked.term, asked.nonce, seat.chain.last_term, len(seat.chain))
            self._effects += [PersistSeat(seat.row()), Answer(token, promise)]

    def _grant(self, seat: _Seat, peer: PeerId, asked: LeaseWanted, token: int, now_s: float) -> None:
        if not LEASE_S_MIN <= asked.lease_s <= LEASE_S_MAX:
            self._refuse(token, seat.job, asked.nonce, "denied", f"a lease of {asked.lease_s:g} s", seat.promised)
        elif asked.term.order < seat.promised.order:
            self._refuse(token, seat.job, asked.nonce, "stale", "a higher term was promised", seat.promised)
        elif self._is_held_by_other(seat, peer, now_s):
            self._refuse_held(seat, token, asked.nonce, now_s)
        else:
            # A lease that still runs is never shortened, not even by the one who holds it.
            lease_s = max(asked.lease_s, seat.deadline_s - now_s)
            is_new = (seat.promised, seat.granted, seat.lease_s) != (asked.term, asked.term, lease_s)
            if seat.granted != asked.term:
                seat.granted_at_s = now_s
            seat.promised = seat.granted = asked.term
            seat.lease_s = lease_s
            seat.deadline_s = now_s + lease_s
            grant = Grant(seat.job, seat.epoch, asked.term, asked.nonce, asked.lease_s)
            if is_new:
                self._effects.append(PersistSeat(seat.row()))
            self._effects.append(Answer(token, Granted(asked.nonce, seal(grant, self._own, self._sign))))

    def _release(self, seat: _Seat, peer: PeerId, asked: LeaseReleased, token: int, now_s: float) -> None:
        held_by_other = self._is_held_by_other(seat, peer, now_s)
        if not held_by_other and asked.term.order >= max(seat.promised.order, seat.granted.order):
            if asked.term == seat.granted and asked.is_over and seat.chain.ended:
                seat.over = True
            seat.promised = _just_above(asked.term)
            seat.granted = NO_TERM
            seat.deadline_s = 0.0
            self._effects.append(PersistSeat(seat.row()))
        self._effects.append(Answer(token, SeatTaken(seat.job)))

    def _append(self, seat: _Seat, asked: Append, token: int) -> None:
        if asked.term != seat.promised or asked.term != seat.granted:
            self._refuse(token, seat.job, asked.nonce, "stale", "the term does not hold the lease here", seat.promised)
            return
        try:
            changed, matched = seat.chain.extend(
                seat.job, seat.manifest, asked.term, asked.batches, committees=seat.committees
            )
        except Divergence as gap:
            self._refuse(token, seat.job, asked.nonce, "gap", str(gap), seat.promised, sequence=gap.sequence)
            return
        except (DecodeError, ProtocolError) as error:
            self._refuse(token, seat.job, asked.nonce, "denied", str(error), seat.promised)
            return
        if changed < len(seat.chain):
            self._effects.append(PersistBatches(seat.job, changed, seat.chain.signed(changed, len(seat.chain))))
        head = seat.chain.hash_before(matched)
        self._effects.append(Answer(token, Appended(seat.job, asked.nonce, asked.term, matched, head)))

    def _seal(self, seat: _Seat, asked: SealWanted, token: int) -> None:
        try:
            digest, change = open_change(seat.job, seat.seated, asked.change)
            proofs = open_statements(seat.job, seat.seated, digest, change.term.round, asked.proofs)
            is_promised = asked.term == seat.promised
            if seat.sealed and seat.change != asked.change:
                raise ProtocolError("the epoch was sealed for another change")
            if not (seat.sealed or is_promised or len(proofs) > seat.seated.byzantine):
                raise ProtocolError(
                    "only who was promised the term, or brings another elector's seal, may seal an epoch"
                )
            if not seat.chain.holds(change.sequence + 1, digest):
                self._catch_up(seat, change.term, asked.batches)
            if not seat.chain.holds(change.sequence + 1, digest):
                raise Divergence(len(seat.chain))
        except Divergence as gap:
            self._refuse(token, seat.job, asked.nonce, "gap", str(gap), seat.promised, sequence=gap.sequence)
            return
        except (DecodeError, ProtocolError) as error:
            self._refuse(token, seat.job, asked.nonce, "denied", str(error), seat.promised)
            return
        if not seat.sealed:
            statement = SealStatement(seat.job, seat.epoch, digest, seat.promised, seat.granted, seat.lease_s)
            seat.sealed, seat.change = True, asked.change
            seat.statement = seal(statement, self._own, self._sign)
            self._effects.append(PersistSeat(seat.row()))
        self._effects.append(Answer(token, SealGiven(seat.job, asked.nonce, seat.statement)))

    def _catch_up(self, seat: _Seat, term: Term, batches: Sequence[bytes]) -> None:
        """What leads to a change that others have sealed for was committed. Raises as `Chain.extend`."""
        if not batches:
            return
        changed, _ = seat.chain.extend(seat.job, seat.manifest, term, batches, committees=seat.committees)
        if changed < len(seat.chain):
            if seat.chain.last_term.order > seat.promised.order:
                seat.promised = seat.chain.last_term
                self._effects.append(PersistSeat(seat.row()))
            self._effects.append(PersistBatches(seat.job, changed, seat.chain.signed(changed, len(seat.chain))))

    def _refuse_sealed(self, seat: _Seat, token: int, nonce: int, epoch: int) -> None:
        reason = f"epoch {epoch} is over" if seat.changes[epoch:] else f"epoch {epoch} is being closed"
        message = LeaseRefused(seat.job, nonce, "sealed", reason, seat.promised)
        message = replace(message, statement=seat.statement, change=seat.change, changes=seat.changes[epoch:])
        self._effects.append(Answer(token, message))

    def _is_held_by_other(self, seat: _Seat, peer: PeerId, now_s: float) -> bool:
        return now_s < seat.deadline_s and seat.granted.candidate != peer

    def _refuse_held(self, seat: _Seat, token: int, nonce: int, now_s: float) -> None:
        remaining_s = seat.deadline_s - now_s
        message = LeaseRefused(
            seat.job, nonce, "held", "another candidate holds the lease", seat.granted, remaining_s=remaining_s
        )
        self._effects.append(Answer(token, message))

    def _refuse(
        self, token: int, job: str, nonce: int, kind: str, reason: str, promised: Term, *, sequence: int = 0
    ) -> None:
        message = LeaseRefused(job, nonce, kind, reason[:REASON_CHARS_MAX], promised, sequence=sequence)
        self._effects.append(Answer(token, message))

    # --- pictures ----------------------------------------------------------------------------------------------------

    @property
    def jobs(self) -> tuple[JobId, ...]:
        return tuple(self._seats)

    def manifest(self, job: JobId) -> bytes | None:
        seat = self._seats.get(job)
        return seat.signed_manifest if seat else None

    def changes(self, job: JobId) -> tuple[bytes, ...]:
        """Every `CommitteeChange` of the job that this elector knows."""
        seat = self._seats.get(job)
        return seat.changes if seat else ()

    def committee(self, job: JobId) -> tuple[str, ...]:
        """Who elects for the job now, as far as this elector knows; nobody if it has no seat."""
        seat = self._seats.get(job)
        return seat.seated.electors if seat else ()

    def chain(self, job: JobId) -> Chain | None:
        seat = self._seats.get(job)
        return seat.chain if seat else None

    def is_over(self, job: str) -> bool:
        """True if the job has ended, and that is final."""
        seat = self._seats.get(JobId(job))
        return seat is not None and seat.over

    def snapshot_at(self, now_s: float) -> tuple[SeatPicture, ...]:
        return tuple(
            SeatPicture(
                seat.job,
                seat.promised,
                seat.granted.candidate if now_s < seat.deadline_s else "",
                max(seat.deadline_s - now_s, 0.0),
                len(seat.chain),
                seat.granted if now_s < seat.deadline_s else NO_TERM,
                now_s - seat.granted_at_s if now_s < seat.deadline_s else 0.0,
                seat.over,
            )
            for seat in self._seats.values()
        )

    def snapshot(self) -> tuple[SeatRow, ...]:
        return tuple(seat.row() for seat in self._seats.values())

    def check(self) -> None:
        assert len(self._seats) <= SEATS_MAX, f"{len(self._seats)} seats"
        for seat in self._seats.values():
            assert seat.granted.order <= seat.promised.order, f"{seat.job}: granted above what was promised"
            assert seat.chain.last_term.order <= seat.promised.order, f"{seat.job}: a batch above what was promised"
            seat.chain.check()


def open_manifest(signed: bytes) -> tuple[JobId, Manifest]:
    """The job's id and manifest. Raises `DecodeError` or `ProtocolError` unless the submitter signed a sound one."""
    author, manifest = unseal(Manifest, signed)
    if author != manifest.submitter:
        raise ProtocolError("the manifest is not signed by its submitter")
    check_committee(manifest.committee, manifest.byzantine)
    if manifest.lease_s not in STATED:
        raise ProtocolError(f"the manifest wants leases of {manifest.lease_s:g} s; {_lengths()} s are possible")
    return job_id_of(decode_as(Signed, signed).payload), manifest


def _lengths() -> str:
    return " or ".join(f"{lease_s:g}" for lease_s in STATED)


def profile_of(manifest: Manifest) -> LeaseProfile:
    """The times that all candidates of the job go by."""
    return SOLO if manifest.committee == (manifest.submitter,) else STATED[manifest.lease_s]


def _just_above(term: Term) -> Term:
    """Above `term`, and below every candidate's term of the next round."""
    return Term(term.round + 1, "") if term.round < TERM_ROUND_MAX else term


def candidates_of(manifest: Manifest) -> tuple[str, ...]:
    """Who may coordinate, in order of rank: the submitter, then the committee."""
    return tuple(dict.fromkeys((manifest.submitter, *manifest.committee)))


def quorum_of(manifest: Manifest) -> int:
    return quorum(len(manifest.committee), manifest.byzantine)
