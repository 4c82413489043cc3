"""Whom this node asks to work on its jobs: every volunteer that it knows, and in a large swarm also those it does not.

The membership's table holds a sample of a large swarm. While a job runs and the table is full, a search asks around for
peers that can do what the job needs (`peerinfer.searching`): a device of its kind and size, or its model in their cache.
They turn up in the table, and are recruited from there like all others.
"""

from __future__ import annotations

import trio

from peerinfer.assignment import JobSpec, LinkMeasured, WorkerOffer
from peerinfer.classes import MODEL, class_for
from peerinfer.committee import subnets_of
from peerinfer.errors import PeerinferError
from peerinfer.ids import Cid, PeerId
from peerinfer.limits import MEMBERS_MAX
from peerinfer.machine import NEVER
from peerinfer.membership_events import (
    Member,
)
from peerinfer_node.log import Log
from peerinfer_node.network.loopback import stream_pair
from peerinfer_node.ports import LocalClock, Network, Stream
from peerinfer_node.roles.coordinator import CoordinatorRole
from peerinfer_node.roles.members import MembersRole
from peerinfer_node.roles.work_stream import WORK_PROTOCOL
from peerinfer_node.roles.worker import WorkerRole

RECRUIT_AGAIN_S = 1.0
"""A volunteer whose work stream ended is tried again so long after it was opened, if it still offers work."""

PROMPT_TRIES = 3
AGAIN_MAX_S = 16.0
"""After so many streams in a row that ended at once the time between them doubles, up to this: it serves others."""

SEARCH_EVERY_S = 10.0
"""The ways of a search are random, so the next one finds others."""

MISFITS_MAX = 64
"""Volunteers without what any job needs, that are recruited all the same: the next job may need them, and a job that fails
for want of workers says how many lacked what. Beyond these they would take the connections of those that fit."""


class Recruiting:
    """Opens a work stream to every volunteer that is there, while there is work."""

    def __init__(
        self,
        *,
        own: PeerId,
        lends: bool,
        network: Network,
        members: MembersRole,
        coordinator: CoordinatorRole,
        worker: WorkerRole,
        clock: LocalClock,
        log: Log,
    ) -> None:
        self._own = own
        self._lends = lends
        self._network = network
        self._members = members
        self._coordinator = coordinator
        self._worker = worker
        self._clock = clock
        self._log = log
        self._changed = trio.Event()
        self._recruited: dict[PeerId, bool] = {}
        """Whether each fits some job, as it was when it was recruited."""
        self._brief: dict[PeerId, int] = {}
        """Streams in a row to each that ended within `RECRUIT_AGAIN_S`."""
        self._search_s = -NEVER
        self._nursery: trio.Nursery | None = None

    def look(self) -> None:
        """There may be somebody new, or something new to do."""
        self._changed.set()

    async def run(self) -> None:
        async with trio.open_nursery() as self._nursery:
            while True:
                self._changed = trio.Event()
                if self._coordinator.wants_workers:
                    self._recruit_all()
                    self._search()
                else:
                    self._brief.clear()  # The next job tries everybody at once.
                with trio.move_on_after(RECRUIT_AGAIN_S):
                    await self._changed.wait()

    def _recruit_all(self) -> None:
        if self._lends:
            self._recruit(self._own, self.own_offer(), fits=True)
        jobs = self._coordinator.machine.specs
        misfits = []
        for member in self._members.machine.members():
            offer = offer_of(member)
            if member.peer in self._coordinator.workers and member.rtt_s is not None:
                self._coordinator.post(LinkMeasured(member.peer, member.rtt_s, member.path == "relay"))
            if offer is None:
                continue
            if any(_fits(job, offer) for job in jobs):
                self._recruit(member.peer, offer, fits=True)
            else:
                misfits.append((member.peer, offer))
        room = min(MISFITS_MAX, self._members.machine.members_max // 4) - sum(
            not fits for fits in self._recruited.values()
        )
        for peer, offer in misfits[: max(room, 0)]:
            self._recruit(peer, offer, fits=False)

    def _search(self) -> None:
        """Asks around, if the swarm may have more than the table."""
        now_s = self._clock.now_s()
        if self._members.machine.is_full and now_s >= self._search_s:
            self._search_s = now_s + SEARCH_EVERY_S
            for words in dict.fromkeys(words for job in self._coordinator.machine.specs for words in _words_for(job)):
                self._members.searches.begin(words)

    def _recruit(self, peer: PeerId, offer: WorkerOffer, *, fits: bool) -> None:
        assert self._nursery is not None
        if peer not in self._recruited and peer not in self._coordinator.machine.caught:
            self._recruited[peer] = fits
            self._nursery.start_soon(self._work_with, peer, offer)

    async def _work_with(self, peer: PeerId, offer: WorkerOffer) -> None:
        assert self._nursery is not None
        began_s = trio.current_time()
        try:
            stream: Stream
            if peer == self._own:
                stream, other_end = stream_pair(peer, peer)
                self._nursery.start_soon(self._worker.serve, other_end)
            else:
                await self._members.reach(peer)
                stream = await self._network.open_stream(peer, WORK_PROTOCOL)
            reason = await self._coordinator.work_with(stream, offer)
            self._log.info("worker left", peer=peer, reason=reason)
        except PeerinferError as error:
            self._log.info("volunteer cannot be used", peer=peer, reason=str(error))
        await trio.sleep_until(began_s + self._pause_s(peer, trio.current_time() - began_s))
        del self._recruited[peer]
        self.look()

    def _pause_s(self, peer: PeerId, lasted_s: float) -> float:
        """From the opening of one stream to that of the next."""
        if lasted_s > RECRUIT_AGAIN_S:
            self._brief.pop(peer, None)
            return RECRUIT_AGAIN_S
        brief = self._brief.pop(peer, 0) + 1
        self._brief[peer] = brief
        while len(self._brief) > MEMBERS_MAX:
            del self._brief[next(iter(self._brief))]
        return float(min(RECRUIT_AGAIN_S * 2 ** max(brief - PROMPT_TRIES, 0), AGAIN_MAX_S))

    def own_offer(self) -> WorkerOffer:
        """What this node's devices are to its own jobs."""
        devices = [executor.device for executor in self._worker.executors]
        largest = max(devices, key=lambda device: device.memory_bytes)
        return WorkerOffer(
            True,
            tuple(device.kind for device in devices),
            largest.memory_bytes,
            device_class=_class_of(largest.kind, largest.name),
            speed=max(device.gemm_gflops for device in devices),
        )


def offer_of(member: Member) -> WorkerOffer | None:
    """What a peer would bring as a worker, or None if it offers nothing now."""
    advert = member.advert
    if member.state != "alive" or advert is None or advert.state != "running" or not advert.devices:
        return None
    largest = max(advert.devices, key=lambda device: device.memory_bytes)
    return WorkerOffer(
        False,
        tuple(device.kind for device in advert.devices),
        largest.memory_bytes,
        device_class=_class_of(largest.kind, largest.name),
        speed=max(device.gemm_gflops for device in advert.devices),
        rtt_s=member.rtt_s,
        models=tuple(Cid(model) for model in advert.models),
        is_relayed=member.path == "relay",
        groups=subnets_of(member.addresses),
    )


def _class_of(kind: str, name: str) -> str:
    """Devices of which one is as fast as the other, as far as one can tell without trying."""
    return f"{kind}:{name}"


def _fits(job: JobSpec, offer: WorkerOffer) -> bool:
    """Whether its devices are what the job asks for."""
    return offer.memory_bytes >= job.memory_bytes_min and job.device_kind in (None, *offer.kinds)


def _words_for(job: JobSpec) -> list[tuple[str, ...]]:
    """What to search for: peers that can do the job, and those that need not be sent its model."""
    needs = class_for(job.device_kind, job.memory_bytes_min)
    model = (*needs, f"{MODEL}{job.model}")
    return [] if job.local_only else [needs, model] if needs else [model]
