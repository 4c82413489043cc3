"""Streams to peers over libp2p: TCP, Noise and Yamux, and nothing else.

This module and its siblings `libp2p_*` are the one adapter to py-libp2p; no other module imports it. From the library
come the form of the identity, the negotiation of protocols, the Noise handshake and the swarm (its table of connections
and its resource manager): what two implementations must agree on. What a hostile or slow peer can lean on is ours:
the sockets, the sessions and the muxer.

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
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import trio
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.tools.anyio_service import TrioManager
from multiaddr import Multiaddr

from peerinfer.addresses import relay_of
from peerinfer.errors import DialFailed, KeyRefused, PeerinferError, StreamClosed
from peerinfer.ids import PeerId
from peerinfer.invites import PrivateSwarm
from peerinfer.member_messages import Relayed
from peerinfer_node.keys import Ed25519Keys
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.network.libp2p_addresses import Address, parse_dialable, parse_listen, subnet_of
from peerinfer_node.network.libp2p_keyed import WRONG_KEY
from peerinfer_node.network.libp2p_mdns import run_mdns
from peerinfer_node.network.libp2p_relay import (
    RELAY_PROTOCOL,
    RELAYED_PROTOCOL,
    Relay,
    RelayedSocket,
    RelayLimits,
    ask_relay,
)
from peerinfer_node.network.libp2p_session import Socket, shielded
from peerinfer_node.network.libp2p_sockets import connect, dig, open_listeners
from peerinfer_node.network.libp2p_stream import (
    CLOSE_TIMEOUT_S,
    NO_KEY,
    OTHER_SWARM,
    Libp2pStream,
    close_connection,
    reason_of,
    reset_stream,
)
from peerinfer_node.network.libp2p_swarm import CONNECTIONS_PER_PEER_MAX, new_swarm
from peerinfer_node.ports import (
    AddressFound,
    Hole,
    NetworkEvent,
    PeerConnected,
    PeerDisconnected,
    StreamHandler,
)
from peerinfer_node.ports import Stream as PortStream

CONNECTIONS_MAX = 512
"""Each costs three tasks and about 60 kB."""

STREAMS_MAX = 2048
"""Both ways, over all connections."""

HANDSHAKES_MAX = 256
HANDSHAKES_PER_HOST_MAX = 64
"""Connections that have not proved who they are. One host must not take all the places, yet a whole laboratory may
start behind one address."""

CONNECTIONS_PER_SUBNET_MAX = 64
"""Accepted from one public /24 or /48, whoever they say they are: identities cost nothing, networks do."""

HANDSHAKE_TIMEOUT_S = 5.0
"""Three round trips and two signatures; a connection that takes longer is dropped."""

DIAL_TIMEOUT_S = 10.0
"""For one address, with the handshake."""

DIALS_MAX = 16
"""At once; further ones wait their turn before their time starts."""

OPEN_STREAM_TIMEOUT_S = 10.0
NEGOTIATE_TIMEOUT_S = 10
ANSWER_TIMEOUT_S = 4.0
"""For a peer that is tried at an address of its own, on its request."""

EVENTS_MAX = 1024

_log = logging.getLogger("peerinfer.network")


class Libp2pNetwork:
    """The real twin of the Network port.

    `listen` takes multiaddrs (`/ip4/0.0.0.0/tcp/4001`, port 0 for any free one); empty, the node only dials.
    Raises `UsageError` for one that is malformed. With `swarm` only its members can connect, either way. `port_wished`
    is taken instead of any free one if it is free. With `relay` it carries others' connections. Entered once.
    """

    def __init__(
        self,
        keys: Ed25519Keys,
        listen: Sequence[str],
        *,
        mdns: bool,
        swarm: PrivateSwarm | None = None,
        port_wished: int | None = None,
        relay: RelayLimits | None = None,
        connections_max: int = CONNECTIONS_MAX,
        streams_max: int = STREAMS_MAX,
        handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
        dial_timeout_s: float = DIAL_TIMEOUT_S,
    ) -> None:
        self._keys = keys
        self._peer_id = keys.peer_id
        self._listen = [parse_listen(text) for text in listen]
        self._mdns = mdns
        self._private_swarm = swarm
        self._port_wished = port_wished
        self._connections_max = connections_max
        self._streams_max = streams_max
        self._handshake_timeout_s = handshake_timeout_s
        self._dial_timeout_s = dial_timeout_s
        self._handlers: dict[str, StreamHandler] = {RELAYED_PROTOCOL: self._take_relayed}
        if relay is not None:
            self._handlers[RELAY_PROTOCOL] = Relay(relay, self.open_stream, self._is_direct).serve
        self._swarm: Any = None
        self._addresses: tuple[str, ...] = ()
        self._handshakes: Counter[str] = Counter()
        self._half_open: dict[Socket, None] = {}
        self._accepted: Counter[str] = Counter()
        self._dials = trio.CapacityLimiter(DIALS_MAX)
        self._connected: dict[PeerId, str] = {}
        """By which path each peer was said to be connected last."""
        self._events: deque[NetworkEvent] = deque(maxlen=EVENTS_MAX)
        self._event_added = trio.Event()

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    def addresses(self) -> tuple[str, ...]:
        return self._addresses

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        """The stream ends with its handler: it is closed when the handler returns, and reset when it raises."""
        self._handlers[protocol] = handler

    # --- the life of the node -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        sockets, self._addresses = await open_listeners(self._listen, self._port_wished, self._peer_id)
        body_failure: BaseException | None = None
        try:
            swarm = new_swarm(
                self._keys,
                swarm_key=self._private_swarm.key if self._private_swarm else None,
                connections_max=self._connections_max,
                handshakes_max=HANDSHAKES_MAX,
                streams_max=self._streams_max,
                handshake_timeout_s=self._handshake_timeout_s,
                take_stream=self._take_stream,
                connected=self._note_connected,
                disconnected=self._note_disconnected,
            )
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

    async def _close_swarm(self, swarm: Any) -> None:
        # The library closes one connection after the other, each of which sleeps for 100 ms.
        async with trio.open_nursery() as nursery:
            for connection in swarm.get_connections():
                nursery.start_soon(close_connection, connection)
        await swarm.close()

    async def _discover(self) -> None:
        try:
            tag = self._private_swarm.tag if self._private_swarm else ""
            await run_mdns(self._peer_id, self._addresses, tag, self._note_found)
        except OSError as error:
            _log.warning("mDNS is off, peers on this network will not be found: %s", error)

    def _connections_to(self, peer: PeerId) -> list[Any]:
        """The library's connections to a peer that are open, oldest first."""
        if self._swarm is None:
            return []
        known = self._swarm.get_connections(ID.from_string(peer))
        return [connection for connection in known if not (connection.is_closed or connection.muxed_conn.is_closed)]

    # --- incoming -----------------------------------------------------------------------------------------------

    async def _accept_forever(self, listeners: list[trio.SocketListener]) -> None:
        if listeners:
            await trio.serve_listeners(self._accept, listeners)

    async def _accept(self, stream: trio.SocketStream) -> None:
        """Holds one incoming connection from its first byte to its last. Never raises."""
        connection = Socket(stream)
        host = (connection.get_remote_address() or ("",))[0]
        swarm = self._swarm
        subnet = subnet_of(host)
        is_full = subnet and self._accepted[subnet] >= CONNECTIONS_PER_SUBNET_MAX
        if swarm is None or is_full or self._handshakes[host] >= HANDSHAKES_PER_HOST_MAX:
            return
        while len(self._half_open) >= HANDSHAKES_MAX:
            # The oldest has had the most time: so whoever fills all places with silence keeps no honest peer out.
            oldest = next(iter(self._half_open))
            del self._half_open[oldest]
            await oldest.close()
        self._accepted[subnet] += 1
        try:
            await self._hold(swarm, connection, host)
        finally:
            self._accepted[subnet] -= 1
            if not self._accepted[subnet]:
                del self._accepted[subnet]

    async def _hold(self, swarm: Any, connection: Socket, host: str) -> None:
        self._handshakes[host] += 1
        self._half_open[connection] = None
        try:
            await swarm.upgrade_inbound_raw_conn(RawConnection(connection, False), Multiaddr("/ip4/0.0.0.0/tcp/0"))
        except Exception as error:
            _log.debug("refused a connection from %s: %s", host, error)
            await connection.close()
        finally:
            self._half_open.pop(connection, None)
            self._handshakes[host] -= 1
            if not self._handshakes[host]:
                del self._handshakes[host]
        await connection.wait_closed()

    async def _take_stream(self, net_stream: Any) -> None:
        """Negotiates one incoming stream and calls its handler. Never raises: in the swarm that would end the node."""
        peer = PeerId(str(net_stream.muxed_conn.peer_id))
        protocol = "a protocol"
        try:
            served = Multiselect(dict.fromkeys(self._handlers))
            chosen, _ = await served.negotiate(MultiselectCommunicator(net_stream), NEGOTIATE_TIMEOUT_S)
            protocol = str(chosen)
            stream = Libp2pStream(net_stream, peer)
            await self._handlers[protocol](stream)
            await stream.close()
        except PeerinferError as error:
            _log.debug("%s of %s ended: %s", protocol, peer, error)
            await reset_stream(net_stream)
        except Exception as error:
            if protocol in self._handlers:
                _log.error("%s of %s failed: %s: %s", protocol, peer, type(error).__name__, error)
            await reset_stream(net_stream)
        except BaseException:
            await reset_stream(net_stream)
            raise

    async def _take_relayed(self, stream: PortStream) -> None:
        """Holds one incoming connection that a relay carries, from its first byte to its last."""
        messages = MessageStream(stream)
        await messages.receive_as(Relayed)
        swarm = self._swarm
        if swarm is None or len(self._half_open) >= HANDSHAKES_MAX or not self._is_direct(stream.peer):
            return
        socket = RelayedSocket(stream, messages.take_unread())
        host = str(stream.peer)
        if self._handshakes[host] >= HANDSHAKES_PER_HOST_MAX:
            return
        await self._hold(swarm, socket, host)

    # --- outgoing -----------------------------------------------------------------------------------------------

    async def dial(self, address: str) -> PeerId:
        circuit = relay_of(address)
        if circuit is not None:
            return await self._dial_by_relay(*circuit)
        target, peer = parse_dialable(address)
        if peer == self._peer_id:
            raise DialFailed(f"cannot dial {address}: it is this node")
        if self._is_direct(peer):
            return peer
        async with self._dials:
            with trio.move_on_after(self._dial_timeout_s):
                await self._dial(target, peer)
                return peer
        raise DialFailed(f"cannot dial {address}: no answer within {self._dial_timeout_s:g} s")

    async def _dial_by_relay(self, relay_address: str, peer: PeerId) -> PeerId:
        if peer == self._peer_id:
            raise DialFailed("cannot dial this node by a relay: it is this node")
        if self._connections_to(peer):
            return peer
        relay = await self.dial(relay_address)
        if not self._is_direct(relay):
            raise DialFailed(f"cannot dial {peer} by {relay}: that relay is reached by a relay itself")
        async with self._dials:
            with trio.move_on_after(self._dial_timeout_s):
                try:
                    socket = await ask_relay(await self.open_stream(relay, RELAY_PROTOCOL), peer)
                except StreamClosed as error:
                    raise DialFailed(f"cannot dial {peer} by {relay}: it does not relay") from error
                await self._upgrade(socket, peer, f"{peer} by relay {relay}")
                return peer
        raise DialFailed(f"cannot dial {peer} by {relay}: no answer within {self._dial_timeout_s:g} s")

    async def answers_at(self, address: str) -> bool:
        target, peer = parse_dialable(address)
        if self._swarm is None:
            return False
        with trio.move_on_after(ANSWER_TIMEOUT_S):
            connection: Socket | None = None
            try:
                connection = Socket(await connect(target.host, target.port))
                raw = RawConnection(connection, True)
                await self._swarm.upgrader.upgrade_security(raw, True, ID.from_string(peer))
                return True
            except Exception as error:
                _log.debug("%s does not answer: %s", target, error)
            finally:
                if connection is not None:
                    with trio.CancelScope(shield=True):
                        await connection.close()
        return False

    @contextmanager
    def dig(self, host: str) -> Iterator[Hole]:
        hole = dig(host)
        try:
            yield hole
        finally:
            hole.close()

    async def _dial(self, target: Address, peer: PeerId) -> None:
        if self._swarm is None:
            raise DialFailed("the network is not running")
        await self._upgrade(Socket(await connect(target.host, target.port)), peer, str(target))

    async def punch(self, hole: Hole, peer: PeerId, host: str, port: int, *, opens: bool, within_s: float) -> None:
        connection = Socket(await hole.meet(host, port, within_s))
        if self._swarm is None:
            await connection.close()
            raise DialFailed("the network is not running")
        if opens:
            await self._upgrade(connection, peer, f"{peer} half way")
            return
        try:
            await self._swarm.upgrade_inbound_raw_conn(
                RawConnection(connection, False), Multiaddr("/ip4/0.0.0.0/tcp/0")
            )
        except BaseException as error:
            await connection.close()
            if isinstance(error, Exception):
                raise DialFailed(
                    f"met somebody at {host} who is not {peer}: {reason_of(error, self._refusal)}"
                ) from error
            raise

    async def _upgrade(self, connection: Socket, peer: PeerId, what: str) -> None:
        try:
            # Past the swarm's own dialling, which tries one address per peer and then blocks the peer for a minute.
            await self._swarm.upgrade_outbound_raw_conn(RawConnection(connection, True), ID.from_string(peer))
        except BaseException as error:
            await connection.close()
            if isinstance(error, Exception):
                reason = reason_of(error, self._refusal)
                kind = KeyRefused if reason in (self._refusal, WRONG_KEY) else DialFailed
                raise kind(f"cannot dial {what}: {reason}") from error
            raise

    @property
    def _refusal(self) -> str:
        return NO_KEY if self._private_swarm is None else OTHER_SWARM

    async def open_stream(self, peer: PeerId, protocol: str) -> Libp2pStream:
        if not self._connections_to(peer):
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
            raise StreamClosed(f"{peer} did not open {protocol}: {reason_of(error, 'it does not speak it')}") from error
        finally:
            if not opened and net_stream is not None:
                await reset_stream(net_stream)
        raise StreamClosed(f"{peer} did not open {protocol} within {OPEN_STREAM_TIMEOUT_S:g} s")

    async def disconnect(self, peer: PeerId) -> None:
        async with trio.open_nursery() as nursery:
            for connection in self._connections_to(peer):
                nursery.start_soon(close_connection, connection)

    def connected(self) -> list[PeerId]:
        return list(self._connected)

    def path(self, peer: PeerId) -> str:
        if peer == self._peer_id:
            return "local"
        return "direct" if self._is_direct(peer) else "relay" if self._connections_to(peer) else ""

    def streams(self, peer: PeerId) -> int:
        return sum(len(connection.get_streams()) for connection in self._connections_to(peer))

    def _is_direct(self, peer: PeerId) -> bool:
        return any(not connection.muxed_conn.is_relayed for connection in self._connections_to(peer))

    def remote_host(self, peer: PeerId) -> str:
        for connection in self._connections_to(peer):
            address = connection.muxed_conn.get_remote_address()
            if address is not None:
                return str(address[0])
        return ""

    # --- events -------------------------------------------------------------------------------------------------

    async def events(self) -> AsyncIterator[NetworkEvent]:
        """Also what happened since `run`, if nobody has read it yet."""
        while True:
            while self._events:
                yield self._events.popleft()
            self._event_added = trio.Event()
            await self._event_added.wait()

    def _note(self, event: NetworkEvent) -> None:
        self._events.append(event)
        self._event_added.set()

    async def _note_connected(self, connection: Any) -> None:
        peer = PeerId(str(connection.muxed_conn.peer_id))
        self._note_path(peer)
        if self._is_direct(peer):
            for other in self._connections_to(peer):
                if other.muxed_conn.is_relayed:
                    await close_connection(other)  # Nothing goes through a relay that need not.
        # The newest connection of a peer stays; of the others, one without streams goes first.
        *older, _ = self._connections_to(peer) or [None]
        if len(older) >= CONNECTIONS_PER_PEER_MAX:
            await close_connection(min(older, key=lambda other: len(other.get_streams())))

    async def _note_disconnected(self, connection: Any) -> None:
        peer = PeerId(str(connection.muxed_conn.peer_id))
        if self._connections_to(peer):
            self._note_path(peer)
        elif self._connected.pop(peer, None) is not None:
            self._note(PeerDisconnected(peer))

    def _note_path(self, peer: PeerId) -> None:
        path = self.path(peer)
        if self._connected.get(peer) != path:
            self._connected[peer] = path
            self._note(PeerConnected(peer))

    def _note_found(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        self._note(AddressFound(peer, addresses))
