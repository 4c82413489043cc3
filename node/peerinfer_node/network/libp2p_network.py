"""Streams to peers over libp2p: TCP, Noise and Yamux, and nothing else.

This module and its siblings `libp2p_session`, `libp2p_yamux`, `libp2p_mdns` and `libp2p_addresses` are the one adapter
to py-libp2p; no other module imports it. From the library come the identity's form, the negotiation of protocols, the
Noise handshake, the swarm (its table of connections, notifications and resource manager): what two implementations
must agree on. What a hostile or slow peer can lean on is ours: the sockets, the sessions and the muxer.

py-libp2p's defaults are not safe to use (FINDINGS in the repository's history; each has a test that fails when a new
release mends it): its default host accepts plaintext, where knowing a public key is enough to be somebody; one
exception in one handler ends the whole host; listening sockets are shared between processes instead of refused, and
outlive the host; only one address of a peer is tried, and a failure blocks the peer for a minute. Hence no `new_host`
here: the swarm is put together by hand, the sockets are accepted and dialled by this module, and identify, ping, QUIC,
WebSocket and the auto-connector stay out.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from libp2p.abc import INotifee
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection import swarm_connection
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.rcmgr import ResourceLimits, ResourceManager
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL
from libp2p.tools.anyio_service import TrioManager
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from peerinfer.errors import DialFailed, PeerinferError, StateUnusable, StreamClosed
from peerinfer.ids import PeerId, public_key_of
from peerinfer_node.keys import Ed25519Keys
from peerinfer_node.network import libp2p_yamux
from peerinfer_node.network.libp2p_addresses import Address, concrete_hosts, parse_dialable, parse_listen
from peerinfer_node.network.libp2p_mdns import run_mdns
from peerinfer_node.network.libp2p_session import NoiseOverSocket, Socket, shielded
from peerinfer_node.ports import (
    AddressFound,
    Buffer,
    NetworkEvent,
    PeerConnected,
    PeerDisconnected,
    StreamHandler,
)

CONNECTIONS_MAX = 512
"""Each costs three tasks and about 60 kB."""

CONNECTIONS_PER_PEER_MAX = 3
"""Two arise when both sides dial at once, a third when a peer comes back before its old connection is known dead; the
oldest goes when there are more."""

STREAMS_MAX = 2048
"""Both ways, over all connections."""

HANDSHAKES_MAX = 256
HANDSHAKES_PER_HOST_MAX = 64
"""Connections that have not proved who they are. One host must not take all the places, yet a whole laboratory may
start behind one address."""

HANDSHAKE_TIMEOUT_S = 5.0
"""Three round trips and two signatures; a connection that takes longer is dropped."""

DIAL_TIMEOUT_S = 10.0
"""For one address, with the handshake."""

DIALS_MAX = 16
"""At once; further ones wait their turn before their time starts."""

OPEN_STREAM_TIMEOUT_S = 10.0
NEGOTIATE_TIMEOUT_S = 10
END_TIMEOUT_S = 2.0
"""For a stream to be closed or reset."""

CLOSE_TIMEOUT_S = 3.0
"""For all connections to say goodbye when the node stops."""

EVENTS_MAX = 1024

_LISTEN_BACKLOG = 128
_log = logging.getLogger("peerinfer.network")


def _silence_libp2p() -> None:
    """Keeps the library's log out of the user's terminal: it reports every hostile or broken peer with a traceback."""
    logger = logging.getLogger("libp2p")
    logger.handlers = [logging.NullHandler()]
    logger.setLevel(logging.CRITICAL + 1)
    logger.propagate = False
    # This module logs through the root logger, and so would even install a handler there.
    swarm_connection.logging = logger


class Libp2pStream:
    """The port's `Stream` over one of yamux."""

    def __init__(self, net_stream: Any, peer: PeerId) -> None:
        self._net_stream = net_stream
        self._stream: libp2p_yamux.Stream = net_stream.muxed_stream
        self._peer = peer

    @property
    def peer(self) -> PeerId:
        return self._peer

    async def read(self, bytes_max: int) -> bytes:
        return await self._stream.read(bytes_max)

    async def write(self, data: Buffer) -> None:
        await self._stream.write(data)

    async def close(self) -> None:
        # The library's own stream object holds the place in the resource manager, so it is closed with ours.
        with shielded(END_TIMEOUT_S):
            await self._net_stream.close()

    async def reset(self) -> None:
        with shielded(END_TIMEOUT_S):
            await self._net_stream.reset()


class _Notifee(INotifee):  # type: ignore[misc]
    def __init__(self, network: Libp2pNetwork) -> None:
        self._network = network

    async def connected(self, network: Any, conn: Any) -> None:
        self._network._note_connected(conn)

    async def disconnected(self, network: Any, conn: Any) -> None:
        self._network._note_disconnected(conn)

    async def opened_stream(self, network: Any, stream: Any) -> None:
        pass

    async def closed_stream(self, network: Any, stream: Any) -> None:
        pass

    async def listen(self, network: Any, multiaddr: Any) -> None:
        pass

    async def listen_close(self, network: Any, multiaddr: Any) -> None:
        pass


class Libp2pNetwork:
    """The real twin of the Network port.

    `listen` takes multiaddrs (`/ip4/0.0.0.0/tcp/4001`, port 0 for any free one); empty, the node only dials.
    Raises `UsageError` for one that is malformed. `run` may be entered once.
    """

    def __init__(
        self,
        keys: Ed25519Keys,
        listen: Sequence[str],
        *,
        mdns: bool,
        connections_max: int = CONNECTIONS_MAX,
        streams_max: int = STREAMS_MAX,
        handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
        dial_timeout_s: float = DIAL_TIMEOUT_S,
    ) -> None:
        _silence_libp2p()
        self._keys = keys
        self._peer_id = keys.peer_id
        self._listen = [parse_listen(text) for text in listen]
        self._mdns = mdns
        self._connections_max = connections_max
        self._streams_max = streams_max
        self._handshake_timeout_s = handshake_timeout_s
        self._dial_timeout_s = dial_timeout_s
        self._handlers: dict[str, StreamHandler] = {}
        self._swarm: Any = None
        self._addresses: tuple[str, ...] = ()
        self._handshakes: Counter[str] = Counter()
        self._dials = trio.CapacityLimiter(DIALS_MAX)
        self._connected: dict[PeerId, None] = {}
        self._events: deque[NetworkEvent] = deque(maxlen=EVENTS_MAX)
        self._events_wanted = False
        self._event_added = trio.Event()

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    def addresses(self) -> tuple[str, ...]:
        return self._addresses

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        self._handlers[protocol] = handler

    # --- the life of the node -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        sockets = await self._bind()
        body_failure: BaseException | None = None
        try:
            swarm = self._new_swarm()
            manager = TrioManager(swarm)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(manager.run)
                await swarm.event_background_nursery_created.wait()
                self._swarm = swarm
                nursery.start_soon(self._accept_forever, sockets)
                if self._mdns and self._addresses:
                    nursery.start_soon(self._discover)
                try:
                    yield
                except BaseException as error:
                    body_failure = error
                    raise
                finally:
                    self._swarm = None
                    with shielded(CLOSE_TIMEOUT_S):
                        await self._close_swarm(swarm)
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup:
            # The nursery is this adapter's affair: the caller gets back what it raised.
            if body_failure is not None:
                raise body_failure from body_failure.__cause__
            raise
        finally:
            self._addresses = ()
            self._connected.clear()
            for listener in sockets:
                listener.socket.close()

    async def _bind(self) -> list[trio.SocketListener]:
        """Opens the listening sockets, for this process alone, before anything else is started."""
        listeners: list[trio.SocketListener] = []
        addresses: list[str] = []
        try:
            for wanted in self._listen:
                try:
                    opened = await trio.open_tcp_listeners(wanted.port, host=wanted.host, backlog=_LISTEN_BACKLOG)
                except OSError as error:
                    reason = (error.strerror or str(error)).lower()
                    raise StateUnusable(
                        f"cannot listen on port {wanted.port} of {wanted.host}: {reason}; "
                        "stop what uses it, or choose another with --listen"
                    ) from error
                listeners.extend(opened)
                for listener in opened:
                    port = listener.socket.getsockname()[1]
                    for host in concrete_hosts(wanted.host):
                        addresses.append(str(Address(wanted.kind, host, port, self._peer_id)))
        except BaseException:
            for listener in listeners:
                listener.socket.close()
            raise
        self._addresses = tuple(dict.fromkeys(addresses))
        return listeners

    def _new_swarm(self) -> Any:
        key_pair = create_new_key_pair(self._keys.private_bytes_for_transport())
        noise = NoiseOverSocket(key_pair, noise_privkey=create_new_x25519_key_pair().private_key)
        upgrader = TransportUpgrader({NOISE_PROTOCOL: noise}, {}, NEGOTIATE_TIMEOUT_S)
        upgrader.muxer_multistream = libp2p_yamux.YamuxOnly()
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
                max_connections=self._connections_max,
                min_connections=0,
                low_watermark=0,
                high_watermark=self._connections_max,
                max_connections_per_peer=CONNECTIONS_PER_PEER_MAX,
                inbound_upgrade_timeout=self._handshake_timeout_s,
                outbound_upgrade_timeout=self._handshake_timeout_s,
            ),
        )
        resources = ResourceManager(
            # A connection counts twice while it is upgraded.
            ResourceLimits(max_connections=self._connections_max + HANDSHAKES_MAX, max_streams=self._streams_max),
            # These two change the limits, or close the node to everybody, when a peer keeps running into them.
            enable_graceful_degradation=False,
            enable_circuit_breaker=False,
            enable_metrics=False,
        )
        # Without the semaphore a stream past the limit is refused; with it the peer would hang.
        swarm.set_resource_manager(resources, enable_stream_semaphore=False)
        swarm.set_stream_handler(self._take_stream)
        swarm.register_notifee(_Notifee(self))
        return swarm

    async def _close_swarm(self, swarm: Any) -> None:
        # The library closes one connection after the other, each of which sleeps for 100 ms.
        async with trio.open_nursery() as nursery:
            for connection in swarm.get_connections():
                nursery.start_soon(_close_connection, connection)
        await swarm.close()

    async def _discover(self) -> None:
        try:
            await run_mdns(self._peer_id, self._addresses, self._note_found)
        except OSError as error:
            _log.warning("mDNS is off, peers on this network will not be found: %s", error)

    # --- incoming -----------------------------------------------------------------------------------------------

    async def _accept_forever(self, listeners: list[trio.SocketListener]) -> None:
        if listeners:
            await trio.serve_listeners(self._accept, listeners)

    async def _accept(self, stream: trio.SocketStream) -> None:
        """Holds one incoming connection from its first byte to its last. Never raises."""
        connection = Socket(stream)
        host = (connection.get_remote_address() or ("",))[0]
        swarm = self._swarm
        if swarm is None or self._handshakes.total() >= HANDSHAKES_MAX:
            return
        if self._handshakes[host] >= HANDSHAKES_PER_HOST_MAX:
            return
        self._handshakes[host] += 1
        try:
            await swarm.upgrade_inbound_raw_conn(RawConnection(connection, False), Multiaddr("/ip4/0.0.0.0/tcp/0"))
        except Exception as error:
            _log.debug("refused a connection from %s: %s", host, error)
            return
        finally:
            self._handshakes[host] -= 1
            if not self._handshakes[host]:
                del self._handshakes[host]
        await connection.wait_closed()

    async def _take_stream(self, net_stream: Any) -> None:
        """Negotiates one incoming stream and calls its handler. Never raises: in the swarm that would end the node."""
        peer = PeerId(str(net_stream.muxed_conn.peer_id))
        protocol = "a protocol"
        try:
            public_key_of(peer)
            served = Multiselect(dict.fromkeys(self._handlers))
            chosen, _ = await served.negotiate(MultiselectCommunicator(net_stream), NEGOTIATE_TIMEOUT_S)
            protocol = str(chosen)
            await self._handlers[protocol](Libp2pStream(net_stream, peer))
        except PeerinferError as error:
            _log.debug("%s of %s ended: %s", protocol, peer, error)
            await _reset(net_stream)
        except Exception as error:
            if protocol in self._handlers:
                _log.error("%s of %s failed: %s: %s", protocol, peer, type(error).__name__, error)
            await _reset(net_stream)
        except BaseException:
            await _reset(net_stream)
            raise

    # --- outgoing -----------------------------------------------------------------------------------------------

    async def dial(self, address: str) -> PeerId:
        target, peer = parse_dialable(address)
        if peer == self._peer_id:
            raise DialFailed(f"cannot dial {address}: it is this node")
        if peer in self._connected:
            return peer
        async with self._dials:
            with trio.move_on_after(self._dial_timeout_s):
                await self._dial(target, peer)
                return peer
        raise DialFailed(f"cannot dial {address}: no answer within {self._dial_timeout_s:g} s")

    async def _dial(self, target: Address, peer: PeerId) -> None:
        if self._swarm is None:
            raise DialFailed("the network is not running")
        try:
            stream = await trio.open_tcp_stream(target.host, target.port)
        except OSError as error:
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            if isinstance(cause, BaseExceptionGroup):
                cause = cause.exceptions[0]
            reason = getattr(cause, "strerror", None) or str(cause)
            raise DialFailed(f"cannot dial {target}: {reason.lower()}") from error
        try:
            # Past the swarm's own dialling, which tries one address per peer and then blocks the peer for a minute.
            await self._swarm.upgrade_outbound_raw_conn(RawConnection(Socket(stream), True), ID.from_string(peer))
        except BaseException as error:
            await trio.aclose_forcefully(stream)
            if isinstance(error, Exception):
                raise DialFailed(f"cannot dial {target}: {_reason(error)}") from error
            raise

    async def open_stream(self, peer: PeerId, protocol: str) -> Libp2pStream:
        if self._swarm is None or peer not in self._connected:
            raise DialFailed(f"not connected to {peer}")
        net_stream: Any = None
        opened = False
        try:
            with trio.move_on_after(OPEN_STREAM_TIMEOUT_S):
                net_stream = await self._swarm.new_stream(ID.from_string(peer))
                negotiation = MultiselectCommunicator(net_stream)
                await MultiselectClient().select_one_of([protocol], negotiation, NEGOTIATE_TIMEOUT_S)
                opened = True
                return Libp2pStream(net_stream, peer)
        except Exception as error:
            raise StreamClosed(f"{peer} did not open {protocol}: {_reason(error)}") from error
        finally:
            if not opened and net_stream is not None:
                await _reset(net_stream)
        raise StreamClosed(f"{peer} did not open {protocol} within {OPEN_STREAM_TIMEOUT_S:g} s")

    async def disconnect(self, peer: PeerId) -> None:
        if self._swarm is None:
            return
        async with trio.open_nursery() as nursery:
            for connection in self._swarm.get_connections(ID.from_string(peer)):
                nursery.start_soon(_close_connection, connection)

    def connected(self) -> list[PeerId]:
        return list(self._connected)

    def path(self, peer: PeerId) -> str:
        return "local" if peer == self._peer_id else "direct"

    # --- events -------------------------------------------------------------------------------------------------

    async def events(self) -> AsyncIterator[NetworkEvent]:
        while True:
            while self._events:
                yield self._events.popleft()
            self._event_added = trio.Event()
            await self._event_added.wait()

    def _note(self, event: NetworkEvent) -> None:
        self._events.append(event)
        self._event_added.set()

    def _note_connected(self, connection: Any) -> None:
        peer = PeerId(str(connection.muxed_conn.peer_id))
        if peer not in self._connected:
            self._connected[peer] = None
            self._note(PeerConnected(peer))

    def _note_disconnected(self, connection: Any) -> None:
        peer = PeerId(str(connection.muxed_conn.peer_id))
        still_there = self._swarm is not None and self._swarm.get_connections(connection.muxed_conn.peer_id)
        if peer in self._connected and not still_there:
            del self._connected[peer]
            self._note(PeerDisconnected(peer))

    def _note_found(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        self._note(AddressFound(peer, addresses))


def _reason(error: BaseException) -> str:
    """The first line of what happened, for a person."""
    cause: BaseException = error
    while cause.__cause__ is not None and "ismatch" not in str(cause):
        cause = cause.__cause__
    text = str(cause).partition("\n")[0] or type(cause).__name__
    return "another identity answers there" if "ismatch" in text or "ismatch" in type(cause).__name__ else text


async def _close_connection(connection: Any) -> None:
    with shielded(CLOSE_TIMEOUT_S):
        await connection.close()


async def _reset(net_stream: Any) -> None:
    with shielded(END_TIMEOUT_S):
        await net_stream.reset()
