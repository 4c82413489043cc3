"""Elections: this node as a candidate of the jobs that it can coordinate, and what its own elector lets it see."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from peerinfer import candidacy_events
from peerinfer.candidacy import Candidacy
from peerinfer.candidacy_events import (
    HAND_OVER_S,
    Ask,
    Campaign,
    ChangeCommittee,
    ChangesSeen,
    Committed,
    CommitteeChanged,
    HandOver,
    Heard,
    LeaseSeen,
    Lost,
    Over,
    Phase,
    Unheard,
    Won,
    Write,
)
from peerinfer.committees import Seated, number_of
from peerinfer.ids import JobId, PeerId
from peerinfer.journal import Chain
from peerinfer.lease_messages import (
    Granted,
    LeaseRefused,
    LeaseReleased,
    SeatOffered,
)
from peerinfer.lease_profile import LeaseProfile
from peerinfer.manifests import open_manifest, profile_of
from peerinfer.messages import Manifest, Term
from peerinfer.register import Entry
from peerinfer_node.driver import Driver, Reading
from peerinfer_node.log import Log
from peerinfer_node.ports import Keys, LocalClock, Network, SeatStore
from peerinfer_node.roles.elector_lines import ElectorLines
from peerinfer_node.roles.known_committees import KnownCommittees
from peerinfer_node.roles.own_elector import OwnElector

LOOK_AGAIN_S = 0.02

_SERVES_NOT = ("denied", "unknown", "full")
"""An elector that refuses so is of no more use to the holder than one that is silent."""


@dataclass(slots=True)
class _Candidate:
    """One job that this node may coordinate."""

    machine: Candidacy
    profile: LeaseProfile
    driver: Driver[candidacy_events.Event, candidacy_events.Effect]
    on_won: Callable[[Term], None]
    on_lost: Callable[[str], None]
    on_committed: Callable[[Sequence[bytes]], None]
    on_over: Callable[[Chain], None]
    over: trio.Event = field(default_factory=trio.Event)
    won_s: float = 0.0
    heard_s: dict[PeerId, float] = field(default_factory=dict)
    """When each elector served it last, on the holder's clock."""


async def _until(is_so: Callable[[], bool]) -> None:
    """Looks again and again: at the end of a job or of the node, where an event in every machine would cost more."""
    while not is_so():  # noqa: ASYNC110
        await trio.sleep(LOOK_AGAIN_S)


class Elections:
    """Runs the elector and the candidates of this node."""

    def __init__(
        self,
        *,
        keys: Keys,
        seats: SeatStore,
        network: Network,
        clock: LocalClock,
        log: Log,
        swarm: str,
        rng: random.Random,
    ) -> None:
        self._keys = keys
        self._own = keys.peer_id
        self._clock = clock
        self._log = log
        self._rng = rng
        self.own_elector = OwnElector(keys=keys, seats=seats, clock=clock, log=log, swarm=swarm)
        self.own_elector.on_answer = self._follow
        self.elector = self.own_elector.machine
        self._known = KnownCommittees(self.elector)
        self._lines = ElectorLines(network=network, log=log, swarm=swarm, on_reply=self._on_reply)
        self._candidates: dict[JobId, _Candidate] = {}
        self._telling: dict[JobId, _Candidate] = {}
        """Of jobs that are over: each tells the electors that do not know it, for one lease at most."""
        self._nursery: trio.Nursery | None = None
        self.on_seat: Callable[[JobId, bytes], None] = lambda job, manifest: None
        """Called when this node has become an elector of another node's job."""
        self.on_replaced: Callable[[JobId], None] = lambda job: None
        """Called when the owner of a job has named a committee that this node is not in."""
        self.won = 0
        self.lost = 0

    # --- outside -----------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Reports started once every seat has been restored: before that no elector may answer."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self.own_elector.run)
            task_status.started()
            await trio.sleep_forever()

    def stand(
        self,
        job: JobId,
        signed_manifest: bytes,
        *,
        campaign: bool,
        on_won: Callable[[Term], None],
        on_lost: Callable[[str], None],
        on_committed: Callable[[Sequence[bytes]], None],
        on_over: Callable[[Chain], None],
    ) -> None:
        """Makes this node a candidate: at once with `campaign`, otherwise when the lease of whoever holds it lapses."""
        assert self._nursery is not None
        if job in self._candidates:
            return
        chain = self.elector.chain(job)
        if chain is not None and self.elector.is_over(job):
            on_over(chain)
            return
        _, manifest = open_manifest(signed_manifest)
        profile = profile_of(manifest)
        machine = Candidacy(
            self._own,
            self._keys.sign,
            job,
            manifest,
            signed_manifest,
            Chain(manifest.tasks),
            profile=profile,
            rng=random.Random(self._rng.random()),  # noqa: S311
            changes=self._known.changes(job, manifest),
            wall_s=self._clock.wall_s,
        )
        driver: Driver[candidacy_events.Event, candidacy_events.Effect] = Driver(
            machine, Reading(self._clock.holder_s), lambda effect: self._perform_candidate(job, effect)
        )
        self._candidates[job] = _Candidate(machine, profile, driver, on_won, on_lost, on_committed, on_over)
        if campaign:
            driver.post(Campaign())
        else:
            driver.post(LeaseSeen("", self._clock.holder_s() + profile.lease_s))
        self._nursery.start_soon(self._run_candidate, self._candidates[job])

    def write(self, job: JobId, entries: tuple[Entry, ...], *, event: str = "", detail: str = "", now: bool) -> None:
        """Appends to the journal if this node holds the lease; otherwise nothing happens."""
        candidate = self._candidates.get(job)
        if candidate is not None:
            candidate.driver.post(Write(entries, event, detail, is_last=now))

    def hand_over(self, job: JobId, reason: str) -> None:
        candidate = self._candidates.get(job)
        if candidate is not None:
            candidate.driver.post(HandOver(reason))

    def campaign(self, job: JobId) -> None:
        """Looks at once how the job stands: who campaigns reads the journals of a quorum. Nobody's lease is touched."""
        candidate = self._candidates.get(job)
        if candidate is not None:
            candidate.driver.post(Campaign())

    def note_lease(self, job: JobId, holder: str) -> None:
        """Another candidate says who coordinates. Its term is not asked for: a liar's would spoil this node's own."""
        candidate = self._candidates.get(job)
        if candidate is not None and holder != self._own:
            candidate.driver.post(LeaseSeen(holder, self._clock.holder_s() + candidate.profile.lease_s))

    def machine(self, job: JobId) -> Candidacy | None:
        candidate = self._candidates.get(job)
        return candidate.machine if candidate else None

    def committee(self, job: JobId, manifest: Manifest) -> tuple[PeerId, ...]:
        """Who elects for the job now, as far as is known here."""
        machine = self.machine(job)
        if machine is not None:
            return machine.committee
        return tuple(PeerId(elector) for elector in self.seated(job, manifest).electors)

    def seated(self, job: JobId, manifest: Manifest) -> Seated:
        """The newest committee that is known here."""
        machine = self.machine(job)
        return machine.seated if machine is not None else self._known.seated(job, manifest)

    def known_changes(self, job: JobId, manifest: Manifest) -> tuple[bytes, ...]:
        """What leads to it."""
        machine = self.machine(job)
        return machine.changes if machine is not None else self._known.changes(job, manifest)

    def begin_generation(self, job: JobId, changes: tuple[bytes, ...]) -> None:
        """The owner's word, given on this node: its candidate follows, and campaigns."""
        self._known.name(job, changes)
        candidate = self._candidates.get(job)
        if candidate is not None:
            candidate.driver.post(ChangesSeen(changes))
            self.campaign(job)

    def candidates(self, job: JobId, manifest: Manifest) -> tuple[PeerId, ...]:
        """Who may coordinate the job now."""
        return tuple(dict.fromkeys((PeerId(manifest.submitter), *self.committee(job, manifest))))

    def gone(self) -> dict[JobId, tuple[PeerId, ...]]:
        """Of the jobs that are coordinated here, the other electors that have not served for longer than is borne."""
        now_s = self._clock.holder_s()
        found: dict[JobId, tuple[PeerId, ...]] = {}
        for job, candidate in self._candidates.items():
            since_s = now_s - candidate.profile.gone_s
            if candidate.machine.holds(now_s) and candidate.won_s < since_s:
                others = (one for one in candidate.machine.committee if one != self._own)
                silent = (one for one in others if candidate.heard_s.get(one, -1e9) < since_s)
                found[job] = tuple(silent)
        return {job: silent for job, silent in found.items() if silent}

    def change_committee(self, job: JobId, committee: tuple[PeerId, ...]) -> None:
        candidate = self._candidates.get(job)
        if candidate is not None:
            candidate.driver.post(ChangeCommittee(committee))

    def changes(self, job: JobId) -> tuple[bytes, ...]:
        """Every change of the job's committee that this node's candidate knows."""
        machine = self.machine(job)
        return machine.changes if machine is not None else ()

    def holds(self, job: JobId, term: Term) -> bool:
        """True if this node may act for the job in this term at this very moment."""
        candidate = self._candidates.get(job)
        return (
            candidate is not None and candidate.machine.term == term and candidate.machine.holds(self._clock.holder_s())
        )

    def withdraw(self, job: JobId) -> None:
        """Is no candidate any more; what this node holds is given back first by `hand_over`.

        Where the job is over, the electors that have not heard of it are told first, for as long as a lease lasts.
        """
        candidate = self._candidates.pop(job, None)
        if candidate is None:
            return
        if candidate.machine.is_telling and self._nursery is not None:
            self._telling[job] = candidate
            self._nursery.start_soon(self._tell, job, candidate)
        else:
            candidate.over.set()

    async def _tell(self, job: JobId, candidate: _Candidate) -> None:
        with trio.move_on_after(candidate.profile.lease_s):
            await _until(lambda: not candidate.machine.is_telling)
        candidate.over.set()
        self._telling.pop(job, None)

    async def hand_over_all(self, jobs: Iterable[JobId], reason: str) -> None:
        """Gives these leases back and returns when their electors have heard of it, or will not.

        What is written already becomes final first, which takes `HAND_OVER_S` at most. Whoever does not wait for this
        leaves its electors to wait for the lease to run out.
        """
        leaving = [candidate for job in jobs if (candidate := self._candidates.get(job)) is not None]
        for candidate in leaving:
            candidate.driver.post(HandOver(reason))
        answer_s = max((candidate.profile.answer_s for candidate in leaving), default=0.0)
        with trio.move_on_after(HAND_OVER_S + answer_s):
            await _until(lambda: not any(one.machine.has_lease(self._clock.holder_s()) for one in leaving))
            await _until(lambda: self._lines.is_quiet)

    @property
    def own(self) -> PeerId:
        return self._own

    @property
    def leases_held(self) -> int:
        now_s = self._clock.holder_s()
        return sum(candidate.machine.holds(now_s) for candidate in self._candidates.values())

    # --- as a candidate ----------------------------------------------------------------------------------------------

    async def _run_candidate(self, candidate: _Candidate) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(candidate.driver.run)
            await candidate.over.wait()
            nursery.cancel_scope.cancel()

    async def _perform_candidate(self, job: JobId, effect: candidacy_events.Effect) -> None:
        if isinstance(effect, Ask):
            if job in self._candidates or job in self._telling:
                self._ask(job, effect.elector, effect.request)
            return
        candidate = self._candidates.get(job)
        if candidate is None:
            return
        match effect:
            case Won(term):
                self.won += 1
                candidate.won_s = self._clock.holder_s()
                self._log.info("lease won", job=job, term=number_of(term))
                candidate.on_won(term)
            case Lost(reason):
                self.lost += 1
                self._log.warning("lease lost", job=job, reason=reason)
                candidate.on_lost(reason)
            case Committed(first, last):
                candidate.on_committed(candidate.machine.chain.signed(first, last - first))
            case Over():
                candidate.on_over(candidate.machine.chain)
            case CommitteeChanged(_, committee, is_candidate):
                machine = candidate.machine
                self._log.info("committee changed", job=job, epoch=machine.epoch, committee=list(committee))
                if machine.seated.generation and not is_candidate:
                    signed = self.elector.manifest(job)
                    if signed is not None:  # The seat is fenced on disk, whatever becomes of this candidate.
                        self.own_elector.post(self._own, SeatOffered(signed, machine.changes), lambda reply: None)
                    self.on_replaced(job)

    def _ask(self, job: JobId, elector_id: PeerId, request: candidacy_events.Request) -> None:
        assert self._nursery is not None
        if elector_id == self._own:
            self.own_elector.ask(self._own, request, lambda reply: self._on_reply(job, self._own, reply))
        else:
            candidate = self._candidates.get(job) or self._telling[job]
            self._lines.ask(self._nursery, elector_id, job, request, candidate.profile.answer_s)

    def _on_reply(self, job: JobId, elector_id: PeerId, reply: candidacy_events.Reply | None) -> None:
        candidate = self._candidates.get(job) or self._telling.get(job)
        if candidate is not None:
            if not (reply is None or (isinstance(reply, LeaseRefused) and reply.kind in _SERVES_NOT)):
                candidate.heard_s[elector_id] = self._clock.holder_s()
            candidate.driver.post(Unheard(elector_id) if reply is None else Heard(elector_id, reply))

    def _follow(self, request: Any, message: Any) -> None:
        """Lets this node's own candidate see what its elector has granted."""
        if isinstance(request, SeatOffered) and not isinstance(message, LeaseRefused):
            job, _ = open_manifest(request.manifest)
            if request.changes and job in self._candidates:
                self._candidates[job].driver.post(ChangesSeen(request.changes))
            self.on_seat(job, request.manifest)
            return
        candidate = self._candidates.get(JobId(getattr(request, "job", "")))
        if candidate is None:
            return
        if isinstance(message, Granted):
            until_s = self._clock.holder_s() + request.lease_s
            candidate.driver.post(LeaseSeen(request.term.candidate, until_s, request.term))
        elif isinstance(request, LeaseReleased):
            candidate.driver.post(LeaseSeen("", self._clock.holder_s(), request.term))
            # An end that stands in the journal may still be replaced; one that the holder calls final may not.
            chain = self.elector.chain(JobId(request.job))
            if chain is not None and candidate.machine.phase is Phase.WATCHING and self.elector.is_over(request.job):
                candidate.on_over(chain)
