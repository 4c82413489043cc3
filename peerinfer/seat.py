"""One job's seat: what its elector has promised and granted, the journal that it keeps, and what it answers with.

The theory is in `elector`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from peerinfer.codec import decode_as
from peerinfer.committees import (
    Seated,
    Start,
    candidates_in,
    committees_of,
    first_committee,
    highest_round,
    open_change,
    open_statements,
    records_after,
)
from peerinfer.elector_events import (
    Answer,
    Effect,
    PersistBatches,
    PersistSeat,
    PersistSnapshot,
    Request,
    SeatPicture,
    SeatRow,
)
from peerinfer.envelope import seal
from peerinfer.errors import DecodeError, ProtocolError
from peerinfer.ids import JobId, PeerId
from peerinfer.journal import Chain, Divergence
from peerinfer.journal_rules import CHECKPOINT, NO_TERM
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
    SnapshotPart,
    SnapshotWanted,
)
from peerinfer.lease_profile import LEASE_S_MAX, LEASE_S_MIN
from peerinfer.limits import REASON_CHARS_MAX, TERM_ROUND_MAX, TERM_ROUND_STEP_MAX
from peerinfer.manifests import open_manifest
from peerinfer.messages import Manifest, Term
from peerinfer.snapshots import Assembly, Snapshot, SnapshotInHand


class Seat:
    """Of one job. Its effects are to be taken and performed after each call."""

    def __init__(
        self, own: PeerId, sign: Callable[[bytes], bytes], job: JobId, manifest: Manifest, signed_manifest: bytes
    ) -> None:
        self._own = own
        self._sign = sign
        self.job = job
        self.manifest = manifest
        self.signed_manifest = signed_manifest
        self.epoch = 0
        self.promised = NO_TERM
        self.granted = NO_TERM
        self.lease_s = 0.0
        self.sealed = False
        self.over = False
        self.deadline_s = 0.0
        """On the elector's clock; until then the candidate of `granted` alone is served."""
        self.granted_at_s = 0.0
        self.chain = Chain(manifest.tasks)
        self.changes: tuple[bytes, ...] = ()
        self.committees: list[Seated] = [first_committee(manifest)]
        self.start: Start | None = None
        """Of this epoch, where it is not the first."""
        self.change = b""
        self.statement = b""
        self.effects: list[Effect] = []
        self._incoming: Assembly | None = None
        """A snapshot on its way here."""
        self._served = SnapshotInHand()
        """One on its way to somebody else."""

    @property
    def seated(self) -> Seated:
        return self.committees[-1]

    @property
    def is_ready(self) -> bool:
        """False while the journal does not reach up to the change that began the epoch."""
        return self.start is None or self.chain.holds(self.start.batches, self.start.head)

    def may_ask(self, peer: str) -> bool:
        """Who may coordinate, or might in an earlier epoch and does not know yet that it is over."""
        return peer == self.manifest.submitter or any(
            peer in one.electors or peer in one.before for one in self.committees
        )

    def serves(self, term: Term) -> bool:
        """The lease was granted for this term, and no higher one has been promised since."""
        return term == self.promised == self.granted

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

    @classmethod
    def restored(
        cls,
        own: PeerId,
        sign: Callable[[bytes], bytes],
        row: SeatRow,
        batches: Iterable[bytes],
        now_s: float,
        snapshot: Snapshot | None = None,
    ) -> Seat:
        """As it was stored. Raises `DecodeError` or `ProtocolError` if it is damaged."""
        job, manifest = open_manifest(row.manifest)
        committees, start = committees_of(job, manifest, row.changes)
        if job != row.job or row.granted.order > row.promised.order or committees[-1].epoch != row.epoch:
            raise ProtocolError(f"the seat of job {row.job} is damaged")
        seat = cls(own, sign, job, manifest, row.manifest)
        seat.epoch, seat.promised, seat.granted = row.epoch, row.promised, row.granted
        seat.lease_s, seat.sealed, seat.over = row.lease_s, row.sealed, row.over
        seat.changes, seat.committees, seat.start = row.changes, committees, start
        seat.change, seat.statement = row.change, row.statement
        if row.granted != NO_TERM:
            seat.deadline_s = now_s + row.lease_s
            seat.granted_at_s = now_s
        if snapshot is not None:
            seat.chain.restore(snapshot, manifest.tasks)
        for batch in batches:
            seat.chain.take(batch)
        # It may have crashed between the two writes with which an epoch begins, or a generation.
        if seat.chain.epoch_at(0) < committees[0].epoch:
            seat.chain.cut(0)
        elif start is not None and seat.is_ready and seat.chain.epoch_at(start.batches) < seat.epoch:
            seat.chain.cut(start.batches)
        if seat.chain.last_term.order > seat.promised.order:
            raise ProtocolError(f"the journal of job {job} is of a term that was not promised")
        return seat

    # --- epochs ------------------------------------------------------------------------------------------------------

    def begin_epoch(self, changes: tuple[bytes, ...], committees: list[Seated], start: Start, now_s: float) -> None:
        """Takes the seat of the newest epoch; whoever was replaced learns that it was."""
        is_rescued = committees[0].generation > self.seated.generation
        self.epoch, self.changes, self.committees, self.start = committees[-1].epoch, changes, committees, start
        self.sealed, self.change, self.statement = False, b"", b""
        # A term is never taken back, and neither is the wait for a lease.
        self.promised = max(self.promised, start.granted, key=lambda term: term.order)
        self.granted, self.lease_s = start.granted, start.lease_s
        self.deadline_s = max(self.deadline_s, now_s + start.lease_s)
        self.effects.append(PersistSeat(self.row()))
        if is_rescued:
            # The journal of another generation; what of it still counts is written anew.
            self.chain.cut(0)
            self.effects.append(PersistBatches(self.job, 0, ()))
        elif self.is_ready and len(self.chain) > start.batches:
            # Whoever took over after the change wrote nothing but that; the epoch begins with the change for everybody.
            self.chain.cut(start.batches)
            self.effects.append(PersistBatches(self.job, start.batches, ()))

    def take_journal(self, batches: Sequence[bytes], term: Term, part: bytes = b"") -> int:
        """Batches of a journal whose end is known by its hash, whoever brings them.

        Returns the first that is missing or differs here, as far as that is known from what was brought.

        Raises `DecodeError`, `ProtocolError`.
        """
        if self.start is None or self.is_ready or not (batches or part):
            return len(self.chain)
        if part:
            self._take_part(part, Term(TERM_ROUND_MAX, ""))
            return len(self.chain)
        try:
            changed, reached = self.chain.extend(self.job, self.manifest, term, batches, committees=self.committees)
        except Divergence as gap:
            return gap.sequence
        if self.is_ready and len(self.chain) > self.start.batches:
            self.chain.cut(self.start.batches)
        if changed < len(self.chain):
            self.effects.append(PersistBatches(self.job, changed, self.chain.signed(changed, len(self.chain))))
        return len(self.chain) if self.is_ready else reached

    @property
    def snapshot_bytes(self) -> int:
        """How much of a snapshot has come, while it is on its way."""
        return self._incoming.held if self._incoming is not None else 0

    def _take_part(self, part: bytes, term: Term) -> None:
        """Of a snapshot that whoever holds the lease brings, or whose end is known. Raises as `Chain.install`."""
        if self._incoming is None:
            self._incoming = Assembly(self.manifest.tasks)
        whole = self._incoming.take(decode_as(SnapshotPart, part))
        if whole is None:
            return
        self._incoming = None
        if not self.chain.install(self.job, self.manifest, term, whole, committees=self.committees):
            return
        self._served.drop()
        self._follow_journal()
        tail = self.chain.signed(self.chain.base, len(self.chain))
        self.effects.append(PersistSnapshot(self.job, self.chain.base, whole, tail))

    def _follow_journal(self) -> None:
        """What was taken may be of a term above the one promised here: whoever held the lease is followed no longer."""
        if self.chain.last_term.order > self.promised.order:
            self.promised = self.chain.last_term
            self.effects.append(PersistSeat(self.row()))

    def _give_part(self, asked: SnapshotWanted, token: int) -> None:
        found = self._served.of(self.chain)
        if found is None:
            self._refuse(token, asked.nonce, "denied", "there is no snapshot of this journal", self.promised)
            return
        part = found.part(self.job, asked.nonce, asked.offset)
        if part.offset + len(part.data) >= part.total:
            self._served.drop()
        self.effects.append(Answer(token, part))

    # --- requests ----------------------------------------------------------------------------------------------------

    def asked(self, peer: PeerId, request: Request, token: int, now_s: float) -> None:
        assert not isinstance(request, SeatOffered)
        nonce = getattr(request, "nonce", 0)
        if getattr(request, "epoch", 0) > self.epoch:
            # Whoever asks may be of a committee that is not known here: it says so when it offers the seat.
            self._refuse(token, nonce, "unknown", f"is not in epoch {request.epoch} yet", self.promised)  # type: ignore[union-attr]
        elif getattr(request, "epoch", self.epoch) < self.committees[0].epoch:
            # Whoever asks in a generation that is over may be of a committee that its owner did not know.
            self._refuse_sealed(token, nonce, request.epoch)  # type: ignore[union-attr]
        elif not self.may_ask(peer):
            self._refuse(token, nonce, "denied", "only the committee and the submitter may ask", NO_TERM)
        elif isinstance(request, JournalWanted):
            part = JournalPart(self.job, nonce, request.first, self.chain.part(request.first), self.chain.base)
            self.effects.append(Answer(token, part))
        elif isinstance(request, SnapshotWanted):
            self._give_part(request, token)
        elif request.term.candidate != peer:
            self._refuse(token, nonce, "denied", "a term names its own candidate", self.promised)
        elif request.epoch < self.epoch:
            self._refuse_sealed(token, nonce, request.epoch)
        elif not self.is_ready:
            self._refuse(token, nonce, "unknown", f"is not in epoch {request.epoch} yet", self.promised)
        elif self._own not in self.seated.electors or peer not in candidates_in(self.manifest, self.seated):
            self._refuse(token, nonce, "denied", "was replaced in the committee", self.promised)
        elif isinstance(request, SealWanted):
            self._seal(request, token)
        elif self.sealed and not isinstance(request, Prepare):
            self._refuse_sealed(token, nonce, self.epoch)
        elif request.term.round > min(self.promised.round + TERM_ROUND_STEP_MAX, highest_round(self.seated.generation)):
            self._refuse(token, nonce, "denied", "the term leaps too far ahead", self.promised)
        elif isinstance(request, Prepare):
            self._prepare(peer, request, token, now_s)
        elif isinstance(request, LeaseWanted):
            self._grant(peer, request, token, now_s)
        elif isinstance(request, LeaseReleased):
            self._release(peer, request, token, now_s)
        else:
            self._append(request, token)

    def _prepare(self, peer: PeerId, asked: Prepare, token: int, now_s: float) -> None:
        if self.sealed and asked.term.order > self.promised.order:
            # It takes nothing any more in this epoch, whatever the term: whoever reads a quorum may count on that.
            promise = Promise(self.job, self.epoch, asked.term, asked.nonce, self.chain.last_term, len(self.chain))
            promise = replace(promise, statement=self.statement, change=self.change)
            self.effects.append(Answer(token, promise))
        elif self._is_held_by_other(peer, now_s):
            self._refuse_held(token, asked.nonce, now_s)
        elif asked.term.order <= self.promised.order:
            self._refuse(token, asked.nonce, "stale", "a term as high was promised already", self.promised)
        else:
            self.promised = asked.term
            promise = Promise(self.job, self.epoch, asked.term, asked.nonce, self.chain.last_term, len(self.chain))
            self.effects += [PersistSeat(self.row()), Answer(token, promise)]

    def _grant(self, peer: PeerId, asked: LeaseWanted, token: int, now_s: float) -> None:
        if not LEASE_S_MIN <= asked.lease_s <= LEASE_S_MAX:
            self._refuse(token, asked.nonce, "denied", f"a lease of {asked.lease_s:g} s", self.promised)
        elif asked.term.order < self.promised.order:
            self._refuse(token, asked.nonce, "stale", "a higher term was promised", self.promised)
        elif self._is_held_by_other(peer, now_s):
            self._refuse_held(token, asked.nonce, now_s)
        else:
            # A lease that still runs is never shortened, not even by the one who holds it.
            lease_s = max(asked.lease_s, self.deadline_s - now_s)
            is_new = (self.promised, self.granted, self.lease_s) != (asked.term, asked.term, lease_s)
            if self.granted != asked.term:
                self.granted_at_s = now_s
            self.promised = self.granted = asked.term
            self.lease_s = lease_s
            self.deadline_s = now_s + lease_s
            grant = Grant(self.job, self.epoch, asked.term, asked.nonce, asked.lease_s)
            if is_new:
                self.effects.append(PersistSeat(self.row()))
            self.effects.append(Answer(token, Granted(asked.nonce, seal(grant, self._own, self._sign))))

    def _release(self, peer: PeerId, asked: LeaseReleased, token: int, now_s: float) -> None:
        held_by_other = self._is_held_by_other(peer, now_s)
        if not held_by_other and asked.term.order >= max(self.promised.order, self.granted.order):
            if asked.term == self.granted and asked.is_over and self.chain.ended:
                self.over = True
            self.promised = _just_above(asked.term, self.seated.generation)
            self.granted = NO_TERM
            self.deadline_s = 0.0
            self.effects.append(PersistSeat(self.row()))
        self.effects.append(Answer(token, SeatTaken(self.job)))

    def _append(self, asked: Append, token: int) -> None:
        if not self.serves(asked.term):
            self._refuse(token, asked.nonce, "stale", "the term does not hold the lease here", self.promised)
            return
        with self._refusing(token, asked.nonce):
            if asked.snapshot:
                self._take_part(asked.snapshot, asked.term)
                changed = matched = len(self.chain)
            else:
                changed, matched = self.chain.extend(
                    self.job, self.manifest, asked.term, asked.batches, committees=self.committees
                )
            if changed < len(self.chain):
                self.effects.append(PersistBatches(self.job, changed, self.chain.signed(changed, len(self.chain))))
                self._compact(changed)
            head = self.chain.hash_before(matched)
            done = Appended(self.job, asked.nonce, asked.term, matched, head, self.snapshot_bytes)
            self.effects.append(Answer(token, done))

    def _compact(self, changed: int) -> None:
        """Whoever holds the lease has written a checkpoint: what is before it is committed, and not needed any more."""
        events = (self.chain.link(sequence).event for sequence in range(max(changed, self.chain.base), len(self.chain)))
        if CHECKPOINT in events and self.chain.compact(len(self.chain)):
            found = self.chain.snapshot()
            assert found is not None
            self.effects.append(PersistSnapshot(self.job, self.chain.base, found))

    def _seal(self, asked: SealWanted, token: int) -> None:
        with self._refusing(token, asked.nonce):
            digest, change = open_change(self.job, self.seated, asked.change)
            proofs = open_statements(self.job, self.seated, digest, change.term.round, asked.proofs)
            is_promised = asked.term == self.promised
            if self.sealed and self.change != asked.change:
                raise ProtocolError("the epoch was sealed for another change")
            if not (self.sealed or is_promised or len(proofs) > self.seated.byzantine):
                raise ProtocolError(
                    "only who was promised the term, or brings another elector's seal, may seal an epoch"
                )
            if not self.chain.holds(change.sequence + 1, digest):
                self._catch_up(change.term, asked)
            if not self.chain.holds(change.sequence + 1, digest):
                raise Divergence(len(self.chain))
            if not self.sealed:
                statement = SealStatement(self.job, self.epoch, digest, self.promised, self.granted, self.lease_s)
                self.sealed, self.change = True, asked.change
                self.statement = seal(statement, self._own, self._sign)
                self.effects.append(PersistSeat(self.row()))
            self.effects.append(Answer(token, SealGiven(self.job, asked.nonce, self.statement)))

    def _catch_up(self, term: Term, asked: SealWanted) -> None:
        """What leads to a change that others have sealed for was committed. Raises as `Chain.extend`."""
        if asked.snapshot:
            self._take_part(asked.snapshot, term)
            return
        if not asked.batches:
            return
        changed, _ = self.chain.extend(self.job, self.manifest, term, asked.batches, committees=self.committees)
        if changed < len(self.chain):
            self._follow_journal()
            self.effects.append(PersistBatches(self.job, changed, self.chain.signed(changed, len(self.chain))))

    def _refuse_sealed(self, token: int, nonce: int, epoch: int) -> None:
        later = records_after(self.committees, self.changes, epoch)
        reason = f"epoch {epoch} is over" if later else f"epoch {epoch} is being closed"
        message = LeaseRefused(self.job, nonce, "sealed", reason, self.promised)
        message = replace(message, statement=self.statement, change=self.change, changes=later)
        self.effects.append(Answer(token, message))

    def _is_held_by_other(self, peer: PeerId, now_s: float) -> bool:
        return now_s < self.deadline_s and self.granted.candidate != peer

    def _refuse_held(self, token: int, nonce: int, now_s: float) -> None:
        remaining_s = self.deadline_s - now_s
        message = LeaseRefused(
            self.job, nonce, "held", "another candidate holds the lease", self.granted, remaining_s=remaining_s
        )
        self.effects.append(Answer(token, message))

    @contextmanager
    def _refusing(self, token: int, nonce: int) -> Iterator[None]:
        """What a request brings may not fit the journal, or be unsound: that is the answer then."""
        try:
            yield
        except Divergence as gap:
            message = LeaseRefused(self.job, nonce, "gap", str(gap), self.promised, sequence=gap.sequence)
            self.effects.append(Answer(token, replace(message, snapshot_bytes=self.snapshot_bytes)))
        except (DecodeError, ProtocolError) as error:
            self._refuse(token, nonce, "denied", str(error), self.promised)

    def _refuse(self, token: int, nonce: int, kind: str, reason: str, promised: Term) -> None:
        message = LeaseRefused(self.job, nonce, kind, reason[:REASON_CHARS_MAX], promised)
        self.effects.append(Answer(token, message))

    # --- pictures ----------------------------------------------------------------------------------------------------

    def picture(self, now_s: float) -> SeatPicture:
        is_held = now_s < self.deadline_s
        return SeatPicture(
            self.job,
            self.promised,
            self.granted.candidate if is_held else "",
            max(self.deadline_s - now_s, 0.0),
            len(self.chain),
            self.granted if is_held else NO_TERM,
            now_s - self.granted_at_s if is_held else 0.0,
            self.over,
        )

    def check(self) -> None:
        assert self.granted.order <= self.promised.order, f"{self.job}: granted above what was promised"
        assert self.chain.last_term.order <= self.promised.order, f"{self.job}: a batch above what was promised"
        self.chain.check()


def _just_above(term: Term, generation: int) -> Term:
    """Above `term`, and below every candidate's term of the next round."""
    return Term(term.round + 1, "") if term.round < highest_round(generation) else term
