"""Opens a real node: libp2p, SQLite, files and a process for each device behind the ports."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager

import trio

from peerinfer.addresses import peer_of
from peerinfer.config import NodeConfig
from peerinfer.ids import PeerId
from peerinfer.invites import parse_invite
from peerinfer.rate import Rate
from peerinfer_node.home import Home
from peerinfer_node.log import Log
from peerinfer_node.network.metered import MeteredNetwork
from peerinfer_node.node import Node, NodeSettings
from peerinfer_node.ports import Network, Ports
from peerinfer_node.roles.blobs import BLOB_PROTOCOL
from peerinfer_node.roles.replicas import JOURNAL_PROTOCOL
from peerinfer_node.roles.work_stream import WORK_PROTOCOL
from peerinfer_node.traffic import Traffic, kept


def _others(addresses: Sequence[str], own: PeerId) -> tuple[str, ...]:
    """Without this node's own: it stands in the invites that it made."""
    return tuple(dict.fromkeys(address for address in addresses if peer_of(address) != own))


def _within_limits(network: Network, config: NodeConfig, traffic: Traffic) -> Network:
    """The network itself where its owner set no limits: what is not asked for costs nothing."""
    if config.max_up_bytes_s is None and config.max_down_bytes_s is None and config.max_daily_bytes is None:
        return network
    return MeteredNetwork(
        network,
        up=None if config.max_up_bytes_s is None else Rate(config.max_up_bytes_s),
        down=None if config.max_down_bytes_s is None else Rate(config.max_down_bytes_s),
        bulk=(WORK_PROTOCOL, BLOB_PROTOCOL, JOURNAL_PROTOCOL),
        count=traffic.count,
    )


@asynccontextmanager
async def open_node(
    home: Home,
    config: NodeConfig,
    *,
    lends: bool,
    networked: bool,
    stays: bool = False,
    measures_anew: bool = False,
    log: Log | None = None,
) -> AsyncIterator[Node]:
    """A real node: libp2p, SQLite, files, one process for the device. `home` belongs to it while it is open.

    `lends` offers its device to others; without a network it serves the node's own jobs. A node that `stays` is a daemon
    though it lends nothing; one that `measures_anew` does not go by what its devices were measured at before. Raises
    `HomeInUse`, `StateUnusable` (a port is taken, a file cannot be used) before anything has happened.
    """
    from peerinfer_node.blob_store import FileBlobStore
    from peerinfer_node.clock import SystemClock
    from peerinfer_node.devices.lent import lend
    from peerinfer_node.devices.probe import find_gpus
    from peerinfer_node.identity import load_identity
    from peerinfer_node.network.offline import OfflineNetwork
    from peerinfer_node.seat_store import SqliteSeatStore
    from peerinfer_node.store import SqliteStore
    from peerinfer_node.swarm_file import remember_port, remembered_port

    log = log or Log()
    invite = parse_invite(config.swarm) if config.swarm else None
    home.prepare()
    with home.lock():
        keys = load_identity(home)
        network: Network
        if networked:
            from peerinfer_node.network.libp2p_network import Libp2pNetwork
            from peerinfer_node.network.libp2p_relay import RelayLimits

            network = Libp2pNetwork(
                keys,
                config.listen,
                mdns=config.mdns,
                swarm=None if invite is None else invite.swarm,
                port_wished=remembered_port(home),
                relay=RelayLimits() if config.relay else None,
            )
        else:
            network = OfflineNetwork(keys.peer_id)
        gpus = await trio.to_thread.run_sync(find_gpus) if lends else []
        clock = SystemClock()
        with ExitStack() as stack:
            store = stack.enter_context(SqliteStore.open(home.state_db))
            if store.warning:
                log.warning(store.warning)
            blobs = await FileBlobStore.open(home.blobs, config.max_cache_bytes)
            seed = int.from_bytes(os.urandom(8), "big")
            seats = stack.enter_context(SqliteSeatStore.open(home.seats_db, is_new_node=False))
            if seats.warning:
                log.warning(seats.warning)
            traffic = Traffic(store, log)
            await traffic.restore()
            network = _within_limits(network, config, traffic)
            devices = lend(config, gpus, store, clock, log, lambda: traffic.bytes_today, measures_anew=measures_anew)
            stack.callback(devices.sampler.close)
            ports = Ports(
                network=network,
                store=store,
                seats=seats,
                blobs=blobs,
                keys=keys,
                clock=clock,
                seed=seed,
                executors=devices.executors,
                take_sample=devices.sampler.sample if lends else None,
            )
            settings = NodeSettings(
                name=config.name,
                swarm="" if invite is None else invite.swarm.name,
                lends=lends or not networked,
                lends_processor=devices.lends_processor,
                own_jobs_first=config.own_jobs_first,
                limits=devices.limits,
                refused_devices=devices.refused,
                allows_unsandboxed=config.allow_unsandboxed,
                is_daemon=lends or stays,
                meets_peers=networked,
                bootstrap=_others((*config.bootstrap, *(invite.bootstrap if invite else ())), keys.peer_id)
                if networked
                else (),
                relays=config.relay and networked,
                api=str(home.socket) if lends or stays else "",
            )
            node = Node(ports, settings, log)
            devices.report_to(node.governor.confine)
            async with node.run(), kept(traffic):
                for address in network.addresses():
                    remember_port(home, int(address.split("/")[4]))
                    break
                if lends:
                    await node.advertiser.measure()
                yield node
