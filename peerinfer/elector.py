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

from collections.abc import Callable

from peerinfer.committees import candidates_in, committees_of
from peerinfer.elector_events import (
    Answer,
    Asked,
    Effect,
    Event,
    ForgetSeat,
    PersistSeat,
    Request,
    Restored,
    SeatGivenUp,
    SeatPicture,
    SeatRow,
)
from peerinfer.errors import DecodeError, ProtocolError
from peerinfer.ids import JobId, PeerId
from peerinfer.journal import Chain
from peerinfer.journal_rules import NO_TERM
from peerinfer.lease_messages import LeaseRefused, SeatOffered, SeatTaken
from peerinfer.limits import REASON_CHARS_MAX, REGISTERS_BYTES_MAX, SEATS_BYTES_MAX, SEATS_MAX
from peerinfer.machine import NEVER, Tick
from peerinfer.manifests import open_manifest
from peerinfer.messages import Manifest, Term
from peerinfer.seat import Seat
from peerinfer.snapshots import register_bytes_max


class Elector:
    """The machine: every seat of this node."""

    deadline_s = NEVER

    def __init__(self, own: PeerId, sign: Callable[[bytes], bytes]) -> None:
        self._own = own
        self._sign = sign
        self._seats: dict[JobId, Seat] = {}
        self._manifest_bytes = 0
        self._register_bytes = 0
        """What their registers can take at most."""
        self._effects: list[Effect] = []

    def handle(self, event: Event | Tick, now_s: float) -> list[Effect]:
        """`now_s` is of the elector's clock, which must not count faster than time passes."""
        match event:
            case Asked(peer, SeatOffered() as offer, token):
                self._offered(peer, offer, token, now_s)
            case Asked(peer, request, token):
                self._asked(peer, request, token, now_s)
            case Restored(row, batches, snapshot):
                self._put(Seat.restored(self._own, self._sign, row, batches, now_s, snapshot))
            case SeatGivenUp(job):
                if self._drop(job):
                    self._effects.append(ForgetSeat(job))
            case Tick():
                pass
        effects, self._effects = self._effects, []
        return effects

    # --- seats -------------------------------------------------------------------------------------------------------

    def _offered(self, peer: PeerId, offer: SeatOffered, token: int, now_s: float) -> None:
        seat = None
        try:
            job, manifest = open_manifest(offer.manifest)
            committees, start = committees_of(job, manifest, offer.changes)
            seat = self._seats.get(job)
            if self._own not in committees[-1].electors and seat is None:
                raise ProtocolError("this node is not of the committee")
            # To a seat that is there already, whoever knew it before may bring what a quorum or the owner has signed.
            if peer not in candidates_in(manifest, committees[-1]) and (seat is None or not seat.may_ask(peer)):
                raise ProtocolError("only the committee and the submitter may offer a seat")
            if seat is None:
                if not self._has_room(manifest, offer.manifest):
                    self._refuse(token, job, 0, "full", f"is an elector of {len(self._seats)} jobs already")
                    return
                seat = Seat(self._own, self._sign, job, manifest, offer.manifest)
                self._put(seat)
                if start is None:
                    self._effects.append(PersistSeat(seat.row()))
            if start is not None and committees[-1].epoch > seat.epoch:
                seat.begin_epoch(offer.changes, committees, start, now_s)
            missing = seat.take_journal(offer.batches, seat.promised, offer.snapshot)
        except (DecodeError, ProtocolError) as error:
            if seat is not None:
                self._take_effects(seat)
            self._refuse(token, "", 0, "denied", str(error))
            return
        self._take_effects(seat)
        self._effects.append(Answer(token, SeatTaken(job, seat.epoch, missing, seat.is_ready, seat.snapshot_bytes)))

    def _has_room(self, manifest: Manifest, signed: bytes) -> bool:
        return (
            len(self._seats) < SEATS_MAX
            and self._manifest_bytes + len(signed) <= SEATS_BYTES_MAX
            and self._register_bytes + register_bytes_max(manifest.tasks) <= REGISTERS_BYTES_MAX
        )

    def _put(self, seat: Seat) -> None:
        self._drop(seat.job)
        self._seats[seat.job] = seat
        self._manifest_bytes += len(seat.signed_manifest)
        self._register_bytes += register_bytes_max(seat.manifest.tasks)

    def _drop(self, job: JobId) -> bool:
        seat = self._seats.pop(job, None)
        if seat is not None:
            self._manifest_bytes -= len(seat.signed_manifest)
            self._register_bytes -= register_bytes_max(seat.manifest.tasks)
        return seat is not None

    def _asked(self, peer: PeerId, request: Request, token: int, now_s: float) -> None:
        assert not isinstance(request, SeatOffered)
        job = JobId(request.job)
        seat = self._seats.get(job)
        if seat is None:
            self._refuse(token, job, getattr(request, "nonce", 0), "unknown", "is no elector of this job")
        else:
            seat.asked(peer, request, token, now_s)
            self._take_effects(seat)

    def _take_effects(self, seat: Seat) -> None:
        self._effects += seat.effects
        seat.effects = []

    def _refuse(self, token: int, job: str, nonce: int, kind: str, reason: str) -> None:
        message = LeaseRefused(job, nonce, kind, reason[:REASON_CHARS_MAX], NO_TERM)
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

    def is_granted(self, job: JobId, peer: str) -> bool:
        """Whether this peer was granted the lease last; it may have run out since."""
        seat = self._seats.get(job)
        return seat is not None and seat.granted.candidate == peer

    def serves(self, job: JobId, term: Term) -> bool:
        """True if this elector takes the word of the term's holder, and of nobody else."""
        seat = self._seats.get(job)
        return seat is not None and seat.serves(term)

    def is_over(self, job: str) -> bool:
        """True if the job has ended, and that is final."""
        seat = self._seats.get(JobId(job))
        return seat is not None and seat.over

    def snapshot_at(self, now_s: float) -> tuple[SeatPicture, ...]:
        return tuple(seat.picture(now_s) for seat in self._seats.values())

    def snapshot(self) -> tuple[SeatRow, ...]:
        return tuple(seat.row() for seat in self._seats.values())

    def check(self) -> None:
        assert len(self._seats) <= SEATS_MAX, f"{len(self._seats)} seats"
        for seat in self._seats.values():
            seat.check()
