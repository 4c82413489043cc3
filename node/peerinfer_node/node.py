"""The composition root: the only place where the parts of a node are introduced to each other."""

from __future__ import annotations

import random
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from peerinfer.assignment import PeerProven
from peerinfer.control import Json
from peerinfer.coordination import Coordination
from peerinfer.governor import NO_LIMITS, Limits, limit_words
from peerinfer.ids import PeerId
from peerinfer.limits import MEMBERS_MAX
from peerinfer.membership import Membership
from peerinfer.reputation import Reputation
from peerinfer.vouching import Vouching
from peerinfer_node.log import Log
from peerinfer_node.node_control import NodeControl
from peerinfer_node.online import Online
from peerinfer_node.ports import Ports
from peerinfer_node.roles.acquaintances import Acquaintances
from peerinfer_node.roles.advertiser import Advertiser
from peerinfer_node.roles.attesting import AttestingRole
from peerinfer_node.roles.blobs import BLOB_PROTOCOL, BlobFetcher, BlobServer
from peerinfer_node.roles.contribution import ContributionRole
from peerinfer_node.roles.coordinator import CoordinatorRole
from peerinfer_node.roles.elections import Elections
from peerinfer_node.roles.elector_lines import LEASE_PROTOCOL
from peerinfer_node.roles.governor import GovernorRole
from peerinfer_node.roles.jobs import Jobs
from peerinfer_node.roles.kept_models import KeptModels
from peerinfer_node.roles.kept_statements import KeptStatements
from peerinfer_node.roles.members import MEMBERS_PROTOCOL, MEMBERS_STREAMS, MembersRole
from peerinfer_node.roles.proposing import Proposing
from peerinfer_node.roles.proving import ProvingRole
from peerinfer_node.roles.punching import PUNCH_PROTOCOL, Punching
from peerinfer_node.roles.reachability import REACH_PROTOCOL, Reachability
from peerinfer_node.roles.recruiting import Recruiting
from peerinfer_node.roles.replicas import JOURNAL_PROTOCOL, Replicas
from peerinfer_node.roles.reputation import ReputationRole
from peerinfer_node.roles.reseating import Reseating
from peerinfer_node.roles.work_stream import AGENT, WORK_PROTOCOL
from peerinfer_node.roles.worker import WorkerRole

LEFT = "the coordinator left"
LEAVE_TIMEOUT_S = 4.0
"""For goodbyes: leases given back, what is written made final, the last advert."""

FINISH_TIMEOUT_S = 30.0
"""A node that leaves waits this long for what it has promised to compute."""


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What the node is told beside its ports."""

    name: str = ""
    swarm: str = ""
    lends: bool = False
    """Runs other nodes' work on its devices. Without, they serve its own checks only."""
    lends_processor: bool = True
    """The first device is among those lent. If not, it serves the node's own checks only."""
    own_jobs_first: bool = False
    limits: Limits = NO_LIMITS
    refused_devices: tuple[Json, ...] = ()
    """Graphics cards that were found and are not used, as `devices` shows them."""
    allows_unsandboxed: bool = False
    """Runs strangers' models also where no sandbox can be had."""
    is_daemon: bool = False
    """Stays when its job is done: goes on with jobs that were running when it stopped, and is an elector of others'."""
    remembers_peers: bool = True
    relays: bool = False
    """Carries connections for peers that cannot be dialled."""
    meets_peers: bool = True
    """There is a network. Without, nobody else ever comes to a job."""
    bootstrap: tuple[str, ...] = ()
    members_max: int = MEMBERS_MAX
    api: str = ""


class Node:
    """One node. Everything starts in `run` and has ended when `run` returns."""

    def __init__(self, ports: Ports, settings: NodeSettings, log: Log) -> None:
        rng = random.Random(ports.seed)  # noqa: S311  (samples and jitter, not keys)
        own, network, clock, swarm = ports.keys.peer_id, ports.network, ports.clock, settings.swarm
        self.ports = ports
        self.settings = settings
        self.log = log
        self.executor = ports.executors[0]
        self.fetcher = BlobFetcher(
            network,
            ports.blobs,
            clock,
            agent=AGENT,
            swarm=swarm,
            reach=self._reach,
            seed=zlib.crc32(own.encode()),
        )
        self.members = MembersRole(
            machine=Membership(
                own,
                random.Random(rng.random()),  # noqa: S311
                members_max=settings.members_max,
                is_busy=lambda peer: network.streams(peer) > MEMBERS_STREAMS,
            ),
            rng=random.Random(ports.seed + 1),  # noqa: S311
            network=network,
            clock=clock,
            log=log,
            swarm=swarm,
            on_change=lambda peer: self._look_for_workers(),
        )
        self.kept_models = KeptModels(self.fetcher, self.members)
        lent = ports.executors if settings.lends_processor else ports.executors[1:]
        self.worker = WorkerRole(
            executors=lent,
            blobs=ports.blobs,
            fetch_blob=self.fetcher.fetch,
            fetch_model=self.kept_models.fetch,
            keys=ports.keys,
            clock=clock,
            log=log,
            swarm=swarm,
            lends=settings.lends,
            allows_unsandboxed=settings.allows_unsandboxed,
            own_jobs_first=settings.own_jobs_first,
        )
        self.governor = GovernorRole(
            limits=settings.limits,
            executors=lent,
            worker=self.worker,
            clock=clock,
            log=log,
            take_sample=ports.take_sample,
        )
        known = Reputation()
        vouching = Vouching(known, own)
        self.coordinator = CoordinatorRole(
            machine=Coordination(
                random.Random(rng.random()),  # noqa: S311
                first_frame=1 + rng.getrandbits(40),
                reputation=known,
                vouching=vouching,
                wall_offset_s=clock.wall_s() - clock.now_s(),
            ),
            blobs=ports.blobs,
            fetch_blob=self.fetcher.fetch,
            clock=clock,
            log=log,
            swarm=swarm,
        )
        self.reputation = ReputationRole(
            machine=self.coordinator.machine, store=ports.store, keys=ports.keys, clock=clock, log=log
        )
        self.attesting = AttestingRole(
            vouching=vouching, statements=self.members.statements, keys=ports.keys, clock=clock, log=log
        )
        self.proving = ProvingRole(
            statements=self.members.statements,
            blobs=ports.blobs,
            fetch_blob=self.fetcher.fetch,
            executor=self.executor,
            keys=ports.keys,
            clock=clock,
            log=log,
            may_run=self._no_proofs_words,
            matters=lambda peer: known.knows(peer) or self.members.machine.member(peer) is not None,
            trust=lambda peer: vouching.opinion(peer, clock.wall_s()).trust,
            caught=self.coordinator.machine.is_barred,
            convict=lambda peer, detail: self.coordinator.post(PeerProven(peer, detail)),
        )
        self.coordinator.auditing.on_lie = self.proving.found
        self.kept_statements = KeptStatements(
            vouching=vouching,
            proving=self.proving,
            statements=self.members.statements,
            store=ports.store,
            keys=ports.keys,
            clock=clock,
            log=log,
        )
        self.contribution = ContributionRole(
            worker=self.worker, store=ports.store, keys=ports.keys, clock=clock, log=log
        )
        self.reachability = Reachability(
            network=network,
            members=self.members,
            clock=clock,
            log=log,
            swarm=swarm,
            rng=random.Random(rng.random()),  # noqa: S311
        )
        self.acquaintances = Acquaintances(
            network=network,
            members=self.members,
            store=ports.store,
            clock=clock,
            log=log,
            named=settings.bootstrap,
            remembers=settings.remembers_peers,
        )
        self.elections = Elections(
            keys=ports.keys,
            seats=ports.seats,
            network=network,
            clock=clock,
            log=log,
            swarm=swarm,
            rng=random.Random(rng.random()),  # noqa: S311
        )
        self.replicas = Replicas(
            own=own,
            network=network,
            store=ports.store,
            blobs=ports.blobs,
            fetch_blob=self.fetcher.fetch,
            elector=self.elections.elector,
            log=log,
            swarm=swarm,
        )
        self.proposing = Proposing(
            own=own,
            elects=settings.is_daemon,
            members=self.members,
            coordination=self.coordinator.machine,
            network=network,
            clock=clock,
        )
        blob_server = BlobServer(ports.blobs, agent=AGENT, swarm=swarm, objection=lambda: self.governor.quota_words)
        blob_server.on_asked = self.fetcher.heard_of
        blob_server.is_coming = self.fetcher.is_fetching
        self.jobs = Jobs(
            blob_server=blob_server,
            store=ports.store,
            blobs=ports.blobs,
            keys=ports.keys,
            network=network,
            swarm=swarm,
            clock=clock,
            log=log,
            executor=self.executor,
            coordinator=self.coordinator,
            elections=self.elections,
            replicas=self.replicas,
            propose=self.proposing.committee,
            rng=random.Random(rng.random()),  # noqa: S311
            on_accept=self._look_for_workers,
            in_thread=ports.in_thread,
            members=self.members.machine.members,
            outlasts_jobs=settings.is_daemon,
        )
        self.online = Online(
            blobs=ports.blobs,
            keys=ports.keys,
            executor=self.executor,
            coordinator=self.coordinator,
            rng=random.Random(rng.random()),  # noqa: S311
            on_accept=self._look_for_workers,
        )
        self.advertiser = Advertiser(
            ports=ports,
            settings=settings,
            worker=self.worker,
            members=self.members,
            reachability=self.reachability,
            governor=self.governor,
            models=self.kept_models,
            own_elector=self.elections.own_elector,
            rng=random.Random(rng.random()),  # noqa: S311
        )
        self.punching = Punching(
            network=network, clock=clock, log=log, swarm=swarm, seen_host=self.reachability.seen_host
        )
        self.recruiting = Recruiting(
            own=own,
            lends=settings.lends,
            network=network,
            members=self.members,
            coordinator=self.coordinator,
            worker=self.worker,
            clock=clock,
            log=log,
        )
        self.control = NodeControl(self)
        self.left = trio.Event()
        self._nursery: trio.Nursery | None = None
        network.serve(WORK_PROTOCOL, self.worker.serve)
        network.serve(BLOB_PROTOCOL, blob_server.serve)
        network.serve(MEMBERS_PROTOCOL, self.members.serve)
        network.serve(REACH_PROTOCOL, self.reachability.serve)
        network.serve(PUNCH_PROTOCOL, self.punching.serve)
        network.serve(LEASE_PROTOCOL, self.elections.own_elector.serve)
        network.serve(JOURNAL_PROTOCOL, self.replicas.serve)

    async def _reach(self, peer: PeerId) -> None:
        await self.members.reach(peer)

    @property
    def peer_id(self) -> PeerId:
        return self.ports.keys.peer_id

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """The node is up inside the context; leaving it stops everything, at once."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self.elections.run)
            async with self.ports.network.run():
                await nursery.start(self.jobs.run)
                for part in (self.worker, self.governor, self.coordinator, self.members, self.advertiser):
                    nursery.start_soon(part.run)
                nursery.start_soon(self.recruiting.run)
                nursery.start_soon(Reseating(elections=self.elections, choose=self.proposing.elector, log=self.log).run)
                nursery.start_soon(self.reachability.run)
                nursery.start_soon(self.punching.run)
                nursery.start_soon(self.acquaintances.run)
                nursery.start_soon(self.members.watch_clock)
                await self.control.restore()
                await self.reputation.restore()
                nursery.start_soon(self.reputation.run)
                await self.kept_statements.restore()
                nursery.start_soon(self.kept_statements.run)
                nursery.start_soon(self.attesting.run)
                nursery.start_soon(self.proving.run)
                await self.contribution.restore()
                nursery.start_soon(self.contribution.run)
                if self.settings.is_daemon:
                    nursery.start_soon(self.jobs.take_up)
                try:
                    yield
                finally:
                    with trio.move_on_after(LEAVE_TIMEOUT_S) as scope:
                        scope.shield = True
                        await self.jobs.hand_over_all(LEFT)
                        await self.advertiser.say_left()
                        await self.acquaintances.save()
                        await self.reputation.save()
                        await self.kept_statements.save()
                        await self.contribution.save()
                    nursery.cancel_scope.cancel()
            for executor in self.ports.executors:
                with trio.move_on_after(5.0) as scope:
                    scope.shield = True
                    await executor.close()

    def _no_proofs_words(self) -> str:
        """Why this node runs no stranger's model to look at a proof."""
        picture = self.worker.picture
        if not self.settings.lends or picture.state != "running":
            return "it lends nothing now"
        return self.worker.unsandboxed_words

    def ready(self) -> Json:
        """What scripts wait for before they use the node."""
        return {
            "event": "ready",
            "peer_id": self.peer_id,
            "name": self.settings.name,
            "addresses": list(self.ports.network.addresses()),
            "api": self.settings.api,
            "devices": [device.name for device in self.advertiser.devices],
            "sandbox": self.executor.sandbox,
            "lends": limit_words(self.settings.limits) if self.settings.lends else "",
        }

    def _look_for_workers(self) -> None:
        self.recruiting.look()

    async def wait_left(self) -> None:
        """Returns when somebody asked this node to leave and its work is finished."""
        await self.left.wait()

    async def leave(self) -> None:
        """Gives its leases back at once, and finishes what it computes, within `FINISH_TIMEOUT_S`."""
        self.worker.finish()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.jobs.hand_over_all, LEFT)
            with trio.move_on_after(FINISH_TIMEOUT_S):
                await self.worker.finished.wait()
        self.left.set()
