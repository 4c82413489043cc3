"""An owner's way out when a job's committee has lost its quorum for good: it names a new one.

What is decided is in `peerinfer.rescue` and `peerinfer.committees`. This role asks every elector whether it still serves,
brings home what those that are left hold, writes the owner's word down, and stands for the lease of the new generation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from peerinfer.committees import committees_of, follow_all
from peerinfer.control import JobRequest, Json
from peerinfer.envelope import seal
from peerinfer.errors import JobFailed, PeerinferError, ProtocolError, UsageError
from peerinfer.ids import JobId, PeerId
from peerinfer.journal import Chain, Divergence
from peerinfer.journal_rules import PRIORITY
from peerinfer.lease_messages import (
    JOURNAL_REVISION,
    JournalPart,
    JournalWanted,
    LeaseRefused,
    LeaseWanted,
    SealGiven,
    SeatOffered,
    SeatTaken,
    SnapshotPart,
    SnapshotWanted,
)
from peerinfer.lease_profile import LeaseProfile
from peerinfer.limits import TERM_ROUND_MAX
from peerinfer.messages import Term
from peerinfer.rescue import Standings, carried, longest, next_generation
from peerinfer.snapshots import Assembly, Snapshot
from peerinfer_node.log import Log
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.ports import Keys, LocalClock, Network, Store
from peerinfer_node.roles.coordinating import Coordinating
from peerinfer_node.roles.elections import Elections
from peerinfer_node.roles.elector_lines import LEASE_PROTOCOL
from peerinfer_node.roles.live_job import LiveJob, history_before, in_journal, led
from peerinfer_node.roles.recorder import named_in
from peerinfer_node.roles.result_digests import digests_in
from peerinfer_node.roles.result_records import OpenRecord
from peerinfer_node.roles.work_stream import conversation

ANSWER_S = 5.0
"""An elector that has not answered after this time counts as missing."""

JOURNAL_S = 120.0
"""So long the journal of one elector may take on its way here."""

ACCEPTED_S = 30.0


class Propose(Protocol):
    def __call__(
        self, seed: bytes, request: JobRequest, without: Collection[str] = ()
    ) -> tuple[tuple[PeerId, ...], LeaseProfile]:
        """Who should elect, and for how long at once; none of `without`."""


@dataclass(frozen=True, slots=True)
class _Survey:
    standings: Standings
    changes: tuple[bytes, ...]
    """What leads to that committee: an elector may know more than its owner does."""


class Rescuing:
    """The owner's side. Everybody else learns of a new generation from electors and coordinators."""

    def __init__(
        self,
        *,
        keys: Keys,
        network: Network,
        store: Store,
        clock: LocalClock,
        elections: Elections,
        coordinating: Coordinating,
        propose: Propose,
        stand: Callable[[LiveJob], None],
        log: Log,
        swarm: str,
    ) -> None:
        self._keys = keys
        self._own = keys.peer_id
        self._network = network
        self._store = store
        self._clock = clock
        self._elections = elections
        self._coordinating = coordinating
        self._propose = propose
        self._stand = stand
        self._log = log
        self._swarm = swarm
        self._busy: set[JobId] = set()

    async def rescue(self, live: LiveJob, *, confirmed: bool) -> Json:
        """What a new generation would mean, and with `confirmed` begins it.

        Raises `UsageError` where there is nothing to rescue: a quorum still answers, or the job is another node's.
        """
        job, manifest = live.job, live.manifest
        if manifest.submitter != self._own:
            raise UsageError(f"job {job} belongs to {manifest.submitter}; only who submitted it can rescue it, there")
        if job in self._busy:
            raise UsageError(f"job {job} is being rescued already; see: peerinfer jobs show {job[:8]}")
        self._busy.add(job)
        try:
            survey = await self._survey(live)
            standings = survey.standings
            if live.body is not None or not standings.is_lost:
                raise UsageError(
                    f"job {job} needs no rescue: {standings.words}; "
                    "the job goes on by itself, with what the committee has accepted"
                )
            journal = await self._journal(live, survey)
            committee, _ = self._propose(job.encode(), live.request, standings.missing)
            named, _ = in_journal(journal)
            plan: Json = {
                "job_id": job,
                "generation": standings.seated.generation,
                "quorum": standings.seated.quorum,
                "answering": list(standings.answering),
                "missing": list(standings.missing),
                "committee": list(committee),
                "named": len(named),
                "carried": None,
                "state": "paused",
            }
            return plan if not confirmed else plan | await self._begin(live, survey, journal, committee)
        finally:
            self._busy.discard(job)

    # --- the old committee -------------------------------------------------------------------------------------------

    async def _survey(self, live: LiveJob) -> _Survey:
        """Asks all electors, of the newest committee that any of them knows."""
        job, manifest = live.job, live.manifest
        changes = self._elections.known_changes(job, manifest)
        while True:
            committees, _ = committees_of(job, manifest, changes)
            answering: list[str] = []
            later: list[tuple[bytes, ...]] = []
            async with trio.open_nursery() as nursery:
                for elector in committees[-1].electors:
                    nursery.start_soon(self._probe, live, PeerId(elector), changes, answering, later)
            found, _, used = max(
                (follow_all(job, manifest, committees, records) for records in later),
                key=lambda led: led[0][-1].epoch,
                default=(committees, None, 0),
            )
            if not used:
                electors = committees[-1].electors
                there = tuple(elector for elector in electors if elector in answering)
                return _Survey(Standings(committees[-1], there), changes)
            records = max(later, key=lambda each: follow_all(job, manifest, committees, each)[0][-1].epoch)[:used]
            is_same = found[-1].generation == committees[-1].generation
            changes = (*changes, *records) if is_same else tuple(records)

    async def _probe(
        self,
        live: LiveJob,
        elector: PeerId,
        changes: tuple[bytes, ...],
        answering: list[str],
        later: list[tuple[bytes, ...]],
    ) -> None:
        """Asks for a lease of no time at all, which no elector grants: how it refuses says how it stands."""
        epoch = committees_of(live.job, live.manifest, changes)[0][-1].epoch
        wanted = LeaseWanted(live.job, epoch, Term(0, self._own), 1, 0.0)
        try:
            reply = await self._ask(elector, wanted)
            if isinstance(reply, LeaseRefused) and reply.kind == "unknown":
                # It may never have heard of the job, or has lost what it had promised: it takes the seat, or does not.
                reply = await self._ask(elector, SeatOffered(live.signed, changes))
                if isinstance(reply, SeatTaken):
                    answering.append(elector)
                return
        except PeerinferError as error:
            self._log.debug("elector does not answer", job=live.job, peer=elector, reason=str(error))
            return
        if isinstance(reply, LeaseRefused) and reply.kind == "sealed" and reply.changes:
            later.append(reply.changes)
        if isinstance(reply, LeaseRefused) and reply.kind != "full":
            answering.append(elector)

    async def _ask(self, elector: PeerId, request: Any) -> Any:
        """One question and its answer. Raises `NetworkError`, `ProtocolError`."""
        with trio.move_on_after(ANSWER_S):
            if elector == self._own:
                return await self._elections.own_elector.answer(self._own, request)
            async with self._conversation(elector) as stream:
                await stream.send(request)
                reply, _ = await stream.receive_as(SeatTaken, LeaseRefused, JournalPart, SealGiven)
                return reply
        raise ProtocolError(f"{elector} did not answer within {ANSWER_S:g} s")

    def _conversation(self, elector: PeerId) -> AbstractAsyncContextManager[MessageStream]:
        """With one that can serve candidates of today. An older one answers, but not them: it counts as missing."""
        return conversation(self._network, elector, LEASE_PROTOCOL, swarm=self._swarm, revision=JOURNAL_REVISION)

    async def _journal(self, live: LiveJob, survey: _Survey) -> Chain:
        """The longest that is left, with its signatures checked; what this node knows itself is one of them."""
        machine = self._elections.machine(live.job)
        own = self._elections.elector.chain(live.job)
        found = [chain for chain in (machine.chain if machine is not None else None, own) if chain is not None]

        async def copy(elector: PeerId) -> None:
            with trio.move_on_after(JOURNAL_S):
                try:
                    found.append(await self._copy(live, elector, survey.changes))
                except (PeerinferError, Divergence) as error:
                    self._log.warning("journal not read", job=live.job, peer=elector, reason=str(error))

        async with trio.open_nursery() as nursery:
            for elector in survey.standings.answering:
                if elector != self._own:
                    nursery.start_soon(copy, PeerId(elector))
        return longest(found)

    async def _copy(self, live: LiveJob, elector: PeerId, changes: tuple[bytes, ...]) -> Chain:
        chain, top = Chain(live.manifest.tasks), Term(TERM_ROUND_MAX, "")
        committees, _ = committees_of(live.job, live.manifest, changes)
        async with self._conversation(elector) as stream:
            while True:
                await stream.send(JournalWanted(live.job, 1, len(chain)))
                reply, _ = await stream.receive_as(JournalPart, LeaseRefused)
                if isinstance(reply, JournalPart) and reply.base > len(chain):
                    whole = await self._snapshot(stream, live)
                    chain.install(live.job, live.manifest, top, whole, committees=committees)
                    continue
                if isinstance(reply, LeaseRefused) or not reply.batches:
                    return chain
                before = len(chain)
                chain.extend(live.job, live.manifest, top, reply.batches, committees=committees)
                if len(chain) == before:
                    raise ProtocolError(f"{elector} was asked for other batches")

    async def _snapshot(self, stream: MessageStream, live: LiveJob) -> Snapshot:
        assembly = Assembly(live.manifest.tasks)
        while True:
            await stream.send(SnapshotWanted(live.job, 1, assembly.held))
            part, _ = await stream.receive_as(SnapshotPart, LeaseRefused)
            if isinstance(part, LeaseRefused):
                raise ProtocolError(f"it gives no snapshot: {part.reason}")
            before = assembly.held
            whole = assembly.take(part)
            if whole is not None:
                return whole
            if assembly.held == before:
                raise ProtocolError("it was asked for another part of its snapshot")

    # --- the new one -------------------------------------------------------------------------------------------------

    async def _begin(self, live: LiveJob, survey: _Survey, journal: Chain, committee: Sequence[PeerId]) -> Json:
        job, manifest = live.job, live.manifest
        named, _ = in_journal(journal)
        others = [PeerId(elector) for elector in survey.standings.answering if elector != self._own]
        await self._coordinating.fetch(job, manifest, list(named), named_in(journal), peers=others)
        entries = carried(journal, await self._held(job, named))
        committees, _ = committees_of(job, manifest, survey.changes)
        word = next_generation(job, committees, committee, self._clock.wall_s())
        history = history_before(word.generation, led(journal, manifest, live.history), survey.standings.missing)
        await self._store.set_setting(_history_key(job), json.dumps(history))
        if live.is_over:
            raise UsageError(f"job {job} has ended meanwhile; there is nothing to rescue")
        changes = (seal(word, self._own, self._keys.sign),)
        await self._store.set_setting(generation_key(job), changes[0].hex())
        self._log.warning(
            "job rescued",
            job=job,
            generation=word.generation,
            missing=list(survey.standings.missing),
            carried=len(entries),
        )
        live.history = history
        live.carried_priorities = tuple(journal.details(PRIORITY))
        live.carried, live.survives, live.is_replicated_by_command = entries, False, False
        self._elections.begin_generation(job, changes)
        self._stand(live)
        with trio.move_on_after(ACCEPTED_S):
            while live.body is None and not live.is_over:
                await live.wait_change(live.changes)
        if live.body is None and not live.is_over:
            raise JobFailed(
                f"the new committee has not elected a coordinator within {ACCEPTED_S:g} s ({live.waiting}); "
                f"it goes on trying: peerinfer jobs show {job[:8]}"
            )
        return {"generation": word.generation, "carried": len(entries), "state": "running"}

    async def _held(self, job: JobId, named: Sequence[int] | dict[int, None]) -> Callable[[int, bytes], bool]:
        """Whether outputs of a task, with this digest, are on this node's disk."""
        held: dict[int, set[bytes]] = {}
        for row in await self._store.records_of(job):
            tasks = [task for task in row.tasks if task in named]
            if tasks:
                record = OpenRecord(await self._store.read_results(job, row.offset))
                for task, digest in digests_in(record, tasks).items():
                    held.setdefault(task, set()).add(digest)
        return lambda task, digest: digest in held.get(task, ())


def generation_key(job: JobId) -> str:
    """Under which the owner keeps its word among the settings of state.db."""
    return f"generation:{job}"


async def named_generation(store: Store, job: JobId) -> tuple[bytes, ...]:
    """What this node said of its own job before it was restarted."""
    text = await store.setting(generation_key(job))
    return (bytes.fromhex(text),) if text else ()


def _history_key(job: JobId) -> str:
    return f"history:{job}"


async def history_of(store: Store, job: JobId) -> Json | None:
    """What this node wrote down, when it began its own job's generation, of those before; None if it has not."""
    text = await store.setting(_history_key(job))
    return json.loads(text) if text else None
