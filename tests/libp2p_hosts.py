"""What the tests of the libp2p adapter share: nodes of ours, hosts of py-libp2p as it comes, and raw attackers."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import count
from typing import Any

import trio
from libp2p import new_host
from libp2p.abc import IHost
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.config import ConnectionConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.security.insecure import transport as insecure
from libp2p.security.insecure.transport import InsecureTransport
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_PROTOCOL
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from peerinfer_node.keys import MemoryKeys
from peerinfer_node.network.libp2p_network import Libp2pNetwork
from peerinfer_node.network.libp2p_session import NoiseOverSocket, NoiseSession, Socket
from peerinfer_node.network.libp2p_yamux import YamuxOnly

ANY_PORT = "/ip4/127.0.0.1/tcp/0"
ECHO = "/peerinfer/test/echo/1"
DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
PATIENCE_S = 60.0
"""For what is sure to happen, on a machine that stands still now and then. Nothing is measured by it."""

_seeds = count()


async def echo(stream: Any) -> None:
    while data := await stream.read(65536):
        await stream.write(data)
    await stream.close()


def node(*, listen: tuple[str, ...] = (ANY_PORT,), mdns: bool = False, **limits: Any) -> Libp2pNetwork:
    """A node of its own identity that echoes."""
    network = Libp2pNetwork(MemoryKeys(b"node %d" % next(_seeds)), listen, mdns=mdns, **limits)
    network.serve(ECHO, echo)
    return network


@contextmanager
def hurried(network: Libp2pNetwork, handshake_s: float) -> Iterator[None]:
    """Whoever comes meanwhile has so long for its handshake; who comes later has as long as ever."""
    config = network._swarm.connection_config
    usual_s, config.inbound_upgrade_timeout = config.inbound_upgrade_timeout, handshake_s
    yield
    config.inbound_upgrade_timeout = usual_s


async def echoed(network: Libp2pNetwork, peer: Any, data: bytes = b"hello") -> bytes:
    """`data` as it comes back over a new stream."""
    with trio.fail_after(PATIENCE_S):
        stream = await network.open_stream(peer, ECHO)
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                await stream.write(data)
                await stream.close()

            nursery.start_soon(send)
            received = bytearray()
            while part := await stream.read(65536):
                received += part
    return bytes(received)


def logged(caplog: Any) -> list[str]:
    """What the node itself logged (pytest listens to the silenced loggers of the libraries too)."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("peerinfer")]


async def wait_until(condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    with trio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110  (the library offers no event)
            await trio.sleep(0.01)


@asynccontextmanager
async def stock_host(*, safe: bool = True, listen: bool = True, **options: Any) -> AsyncIterator[IHost]:
    """A host of py-libp2p's own parts; `safe` is with Noise and Yamux only, otherwise as `new_host` makes it."""
    pair = options.pop("key_pair", None) or create_new_key_pair(b"stock %26d" % next(_seeds))
    if safe:
        noise = NoiseTransport(pair, noise_privkey=create_new_x25519_key_pair().private_key)
        options = {"sec_opt": {NOISE_PROTOCOL: noise}, "muxer_opt": {YAMUX_PROTOCOL: Yamux}} | options
    config = ConnectionConfig(min_connections=0, low_watermark=0, max_connections_per_peer=1)
    host = new_host(key_pair=pair, connection_config=config, **options)
    async with host.run([Multiaddr(ANY_PORT)] if listen else []):
        try:
            yield host
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(5):
                await host.close()


@asynccontextmanager
async def raw_tcp(address: str) -> AsyncIterator[trio.SocketStream]:
    """A connection that has said nothing yet."""
    _, _, host, _, port, *_ = address.split("/")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        yield stream


class Impersonator(InsecureTransport):
    """Dials in plaintext and shows the victim's public key instead of its own."""

    def __init__(self, key_pair, victim):
        super().__init__(key_pair)
        self._own, self._victim = key_pair.public_key, victim

    async def secure_outbound(self, conn, peer_id):
        real = insecure.make_exchange_message
        insecure.make_exchange_message = lambda key: real(self._victim if key == self._own else key)
        try:
            return await super().secure_outbound(conn, peer_id)
        finally:
            insecure.make_exchange_message = real


class RawPeer:
    """A peer that has authenticated itself and sends whatever frames it likes."""

    def __init__(self, session: NoiseSession) -> None:
        self.session = session
        self._unread = b""

    def send_frame(self, kind: int, flags: int, stream_id: int, length: int, payload: bytes = b"") -> None:
        self.session.send_nowait(struct.pack("!BBHII", 0, kind, flags, stream_id, length) + payload)

    async def receive_frame(self) -> tuple[int, int, int, int, bytes]:
        """Kind, flags, stream, length and payload."""
        _, kind, flags, stream_id, length = struct.unpack("!BBHII", await self._take(12))
        return kind, flags, stream_id, length, await self._take(length) if kind == DATA else b""

    async def _take(self, size: int) -> bytes:
        while len(self._unread) < size:
            self._unread += b"".join(await self.session.receive())
        data, self._unread = self._unread[:size], self._unread[size:]
        return data

    async def wait_closed(self) -> None:
        """Reads until the node has closed the connection."""
        with trio.fail_after(PATIENCE_S):
            try:
                while True:
                    await self.session.receive()
            except Exception as error:
                assert type(error).__name__ == "ConnectionClosedError"  # noqa: PT017


@asynccontextmanager
async def raw_session(address: str, peer_id: str, seed: bytes = b"r" * 32) -> AsyncIterator[NoiseSession]:
    """An authenticated connection on which yamux is agreed and nothing sent yet. What its socket does not take waits."""
    pair = create_new_key_pair(seed)
    noise = NoiseOverSocket(pair, noise_privkey=create_new_x25519_key_pair().private_key)
    upgrader = TransportUpgrader({NOISE_PROTOCOL: noise}, {})
    async with raw_tcp(address) as stream:
        connection = RawConnection(Socket(stream), True)
        with trio.fail_after(PATIENCE_S):
            session = await upgrader.upgrade_security(connection, True, ID.from_string(peer_id))
            await YamuxOnly()._selector.select(session, True, PATIENCE_S)

        async def send_what_waits() -> None:
            with suppress(ConnectionClosedError):
                await session.socket.run_outbox()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_what_waits)
            yield session
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def raw_peer(network: Libp2pNetwork) -> AsyncIterator[RawPeer]:
    async with raw_session(network.addresses()[0], network.peer_id) as session:
        yield RawPeer(session)
