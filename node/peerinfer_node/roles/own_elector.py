"""This node as an elector of any job: its seats, their disk, and who asks them.

What cannot be written must not be answered: a seat whose disk fails is out of service until all that it owes is written.
One that cannot be restored, that was given up, or whose promises may be lost with a file that is gone, serves nobody.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from peerinfer.elector import Elector
from peerinfer.elector_events import (
    Answer,
    Asked,
    Effect,
    Event,
    ForgetSeat,
    PersistBatches,
    PersistSeat,
    PersistSnapshot,
    Restored,
    SeatGivenUp,
    SeatRow,
)
from peerinfer.errors import DecodeError, PeerinferError, ProtocolError
from peerinfer.ids import JobId, PeerId
from peerinfer.journal_rules import NO_TERM
from peerinfer.lease_messages import (
    JOURNAL_REVISION,
    Append,
    JournalWanted,
    LeaseRefused,
    LeaseReleased,
    LeaseWanted,
    Prepare,
    SealWanted,
    SeatOffered,
    SnapshotWanted,
)
from peerinfer.limits import CLOCK_SKEW_MAX_S, MANIFEST_SKEW_MAX_S, REASON_CHARS_MAX
from peerinfer.manifests import open_manifest
from peerinfer.snapshots import Snapshot
from peerinfer.units import format_duration
from peerinfer_node.driver import Driver, Reading
from peerinfer_node.log import Log
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.ports import Keys, LocalClock, SeatStore
from peerinfer_node.roles.reception import Reception

Save = Callable[[], Awaitable[None]]

LEASE_STREAMS_PER_PEER_MAX = 4
_REQUESTS = (
    SeatOffered,
    Prepare,
    LeaseWanted,
    LeaseReleased,
    Append,
    JournalWanted,
    SnapshotWanted,
    SealWanted,
)


class OwnElector:
    """Runs the machine. It answers nobody before `run` has restored every seat."""

    def __init__(self, *, keys: Keys, seats: SeatStore, clock: LocalClock, log: Log, swarm: str) -> None:
        self._own = keys.peer_id
        self._seats = seats
        self._clock = clock
        self._log = log
        self.machine = Elector(keys.peer_id, keys.sign)
        self._driver: Driver[Event, Effect] = Driver(self.machine, Reading(clock.elector_s), self._perform)
        self.serve = Reception(
            _REQUESTS,
            self._reply,
            streams_max=LEASE_STREAMS_PER_PEER_MAX,
            swarm=swarm,
            log=log,
            name="lease",
            revision=JOURNAL_REVISION,
        ).serve
        self._tokens: dict[int, tuple[Any, Callable[[Any], None]]] = {}
        self._next_token = 1
        self._broken: dict[JobId, str] = {}
        """Jobs whose seats are out of service, and why. Those with something unsaved serve again when it is written."""
        self._unsaved: dict[JobId, list[Save]] = {}
        """Of seats whose disk would not take them: what must be written, in order, before they may answer again."""
        self._saving: set[JobId] = set()
        self._given_up: dict[JobId, None] = {}
        self._forgot_until_s = -math.inf
        """Jobs of others that are dated before this may be older than the loss of this elector's memory."""
        self._nursery: trio.Nursery | None = None
        self.on_answer: Callable[[Any, Any], None] = lambda request, answer: None
        """Called with every request that the machine has answered, after whoever asked."""
        self.on_unsaved: Callable[[JobId, str], None] = lambda job, reason: None
        """Called when the seat of a job cannot be written down, with the reason."""

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Reports started once every seat has been restored."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            forgot_at_s = await self._seats.forgot_at_s()
            if forgot_at_s is not None:
                self._forgot_until_s = forgot_at_s + CLOCK_SKEW_MAX_S
            self._given_up |= dict.fromkeys(await self._seats.given_up())
            snapshots = await self._seats.snapshots()
            for row, batches in await self._seats.seats():
                self._restore(row, batches, snapshots.get(row.job))
            nursery.start_soon(self._driver.run)
            task_status.started()
            await trio.sleep_forever()

    def _restore(self, row: SeatRow, batches: tuple[bytes, ...], snapshot: Snapshot | None) -> None:
        """A seat that cannot be restored stays out of service: something was promised, and it is not known what."""
        try:
            self.machine.handle(Restored(row, batches, snapshot), self._clock.elector_s())
        except (DecodeError, ProtocolError) as error:
            self._broken[row.job] = "lost what it had promised for this job"
            self._log.error("seat cannot be restored", job=row.job, reason=str(error))

    @property
    def takes_seats(self) -> bool:
        """False for a while after this node has lost what it had promised: others' new jobs may be dated before that."""
        return self._clock.wall_s() >= self._forgot_until_s

    def give_up(self, job: JobId) -> None:
        """Forgets what was promised for this job, and promises nothing for it any more."""
        self._given_up[job] = None
        self._driver.post(SeatGivenUp(job))

    # --- asking ------------------------------------------------------------------------------------------------------

    def post(self, peer: PeerId, request: Any, answer: Callable[[Any], None]) -> None:
        """Whatever state the job's seat is in; `answer` is called when the machine has answered."""
        token, self._next_token = self._next_token, self._next_token + 1
        self._tokens[token] = (request, answer)
        self._driver.post(Asked(peer, request, token))

    def ask(self, peer: PeerId, request: Any, answer: Callable[[Any], None]) -> None:
        """`answer` may be called before this returns."""
        refusal = self._refusal(request)
        if refusal is not None:
            answer(refusal)
        else:
            self.post(peer, request, answer)

    async def answer(self, peer: PeerId, request: Any) -> Any:
        done = trio.Event()
        answers: list[Any] = []

        def take(answer: Any) -> None:
            answers.append(answer)
            done.set()

        self.ask(peer, request, take)
        await done.wait()
        return answers[0]

    async def _reply(self, stream: MessageStream, request: Any, body: bytes) -> None:
        await stream.send(await self.answer(stream.peer, request))

    def _refusal(self, request: Any) -> LeaseRefused | None:
        """What this node refuses before its elector hears of it."""
        if isinstance(request, SeatOffered):
            try:
                job, manifest = open_manifest(request.manifest)
            except (DecodeError, ProtocolError) as error:
                return LeaseRefused("", 0, "denied", str(error)[:200], NO_TERM)
            if job in self._given_up:
                return LeaseRefused(job, 0, "denied", "this elector gave up the job long ago, and its results", NO_TERM)
            skewed_s = manifest.created_at_s - self._clock.wall_s()
            if abs(skewed_s) > MANIFEST_SKEW_MAX_S and not request.changes and job not in self.machine.jobs:
                skew = f"{format_duration(abs(skewed_s))} {'in the future' if skewed_s > 0 else 'ago'}"
                reason = f"the job is dated {skew}, by this elector's clock; is the submitter's clock right?"
                return LeaseRefused(job, 0, "denied", reason, NO_TERM)
            # A job of this node's own is dated by the very clock that dated the loss.
            is_own = manifest.submitter == self._own
            taken_from_s = self._forgot_until_s - (CLOCK_SKEW_MAX_S if is_own else 0.0)
            if manifest.created_at_s < taken_from_s:
                return LeaseRefused(job, 0, "denied", "this elector lost what it had promised for older jobs", NO_TERM)
        else:
            job = JobId(request.job)
        if job not in self._broken:
            return None
        if job in self._unsaved and job not in self._saving and self._nursery is not None:
            self._saving.add(job)
            self._nursery.start_soon(self._save_unsaved, job)  # The disk may have room again when it is asked next.
        return self._out_of_service(job, request)

    def _out_of_service(self, job: JobId, request: Any) -> LeaseRefused:
        return LeaseRefused(
            job, getattr(request, "nonce", 0), "full", f"this elector {self._broken[job]}"[:REASON_CHARS_MAX], NO_TERM
        )

    # --- performing --------------------------------------------------------------------------------------------------

    async def _perform(self, effect: Effect) -> None:
        match effect:
            case PersistSeat(row):
                await self._persist(row.job, lambda: self._seats.save_seat(row))
            case PersistBatches(job, first, batches):
                await self._persist(job, lambda: self._seats.save_batches(job, first, batches))
            case PersistSnapshot(job, base, snapshot, tail):
                await self._persist(job, lambda: self._seats.save_snapshot(job, base, snapshot, tail))
            case ForgetSeat(job):
                await self._persist(job, lambda: self._seats.forget(job, self._clock.wall_s()))
            case Answer(token, message):
                request, answer = self._tokens.pop(token)
                job = JobId(getattr(request, "job", ""))
                if job in self._broken:
                    message = self._out_of_service(job, request)
                answer(message)
                self.on_answer(request, message)

    async def _persist(self, job: JobId, save: Save) -> None:
        """What cannot be written must not be answered: the job's seat is out of service until it can be."""
        if job in self._unsaved:
            self._unsaved[job].append(save)
            return
        try:
            await save()
        except PeerinferError as error:
            self._broken[job] = "cannot write to its disk"
            self._unsaved[job] = [save]
            self._log.error("elector cannot write", job=job, reason=str(error))
            self.on_unsaved(job, str(error))

    async def _save_unsaved(self, job: JobId) -> None:
        """Nothing was answered since the disk failed: the seat written down is the seat as it is, and serves again."""
        try:
            unsaved = self._unsaved[job]
            while unsaved:
                await unsaved[0]()
                del unsaved[0]
            del self._unsaved[job], self._broken[job]
            self._log.info("elector can write again", job=job)
        except PeerinferError as error:
            self._log.debug("elector still cannot write", job=job, reason=str(error))
        finally:
            self._saving.discard(job)
