"""py-libp2p's swarm, put together from the parts that are safe.

Part of the libp2p adapter (see `libp2p_network`, which also says why `new_host` is not used). The swarm keeps the
table of connections, upgrades them (Noise, then yamux) and counts them against the resource manager's limits.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from libp2p.abc import INotifee
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection import swarm_connection
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.rcmgr import ResourceLimits, ResourceManager
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL
from libp2p.transport.upgrader import TransportUpgrader

from peerinfer_node.keys import Ed25519Keys
from peerinfer_node.network.libp2p_keyed import KEYED_NOISE_PROTOCOL, KeyedNoiseOverSocket
from peerinfer_node.network.libp2p_session import NoiseOverSocket
from peerinfer_node.network.libp2p_yamux import YamuxOnly

CONNECTIONS_PER_PEER_MAX = 3
"""Two arise when both sides dial at once, a third when a peer comes back before its old connection is known dead."""

ConnectionNoted = Callable[[Any], Awaitable[None]]


def _silence_libraries() -> None:
    """Keeps their logs out of the user's terminal: they report every hostile or broken peer, with a traceback."""
    for name in ("libp2p", "zeroconf"):
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.setLevel(logging.CRITICAL + 1)
        logger.propagate = False
    # This module logs through the root logger, and so would even install a handler there.
    swarm_connection.logging = logging.getLogger("libp2p")


_silence_libraries()  # On import, since nobody uses the library in any other way than through this adapter.


class _Notifee(INotifee):  # type: ignore[misc]
    def __init__(self, connected: ConnectionNoted, disconnected: ConnectionNoted) -> None:
        self._connected = connected
        self._disconnected = disconnected

    async def connected(self, network: Any, conn: Any) -> None:
        await self._connected(conn)

    async def disconnected(self, network: Any, conn: Any) -> None:
        await self._disconnected(conn)

    async def opened_stream(self, network: Any, stream: Any) -> None:
        pass

    async def closed_stream(self, network: Any, stream: Any) -> None:
        pass

    async def listen(self, network: Any, multiaddr: Any) -> None:
        pass

    async def listen_close(self, network: Any, multiaddr: Any) -> None:
        pass


def new_swarm(
    keys: Ed25519Keys,
    *,
    swarm_key: bytes | None,
    connections_max: int,
    handshakes_max: int,
    streams_max: int,
    handshake_timeout_s: float,
    take_stream: Callable[[Any], Awaitable[None]],
    connected: ConnectionNoted,
    disconnected: ConnectionNoted,
) -> Any:
    """A swarm that speaks Noise and yamux only, and neither listens nor dials by itself.

    `take_stream` gets every incoming stream and must not raise: that would end the whole swarm.
    """
    key_pair = create_new_key_pair(keys.private_bytes_for_transport())
    noise_key = create_new_x25519_key_pair().private_key
    if swarm_key is None:
        security = {NOISE_PROTOCOL: NoiseOverSocket(key_pair, noise_privkey=noise_key)}
    else:
        security = {KEYED_NOISE_PROTOCOL: KeyedNoiseOverSocket(key_pair, noise_key, swarm_key)}
    upgrader = TransportUpgrader(security, {})
    upgrader.muxer_multistream = YamuxOnly()
    own_id = ID.from_pubkey(key_pair.public_key)
    peerstore = PeerStore()
    peerstore.add_key_pair(own_id, key_pair)
    swarm = Swarm(
        own_id,
        peerstore,
        upgrader,
        transports=[],
        retry_config=RetryConfig(max_retries=0),
        connection_config=ConnectionConfig(
            max_connections=connections_max,
            min_connections=0,
            low_watermark=0,
            high_watermark=connections_max,
            max_connections_per_peer=CONNECTIONS_PER_PEER_MAX,
            inbound_upgrade_timeout=handshake_timeout_s,
            outbound_upgrade_timeout=handshake_timeout_s,
        ),
    )
    resources = ResourceManager(
        # A connection counts twice while it is upgraded.
        ResourceLimits(max_connections=connections_max + handshakes_max, max_streams=streams_max),
        # These two change the limits, or close the node to everybody, when a peer keeps running into them.
        enable_graceful_degradation=False,
        enable_circuit_breaker=False,
        enable_metrics=False,
    )
    # Without the semaphore a stream past the limit is refused; with it the peer would hang.
    swarm.set_resource_manager(resources, enable_stream_semaphore=False)
    swarm.set_stream_handler(take_stream)
    swarm.register_notifee(_Notifee(connected, disconnected))
    return swarm
