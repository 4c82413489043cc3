"""Connections through a relay: one stream to it, one from it, and a whole connection of our own inside.

Part of the libp2p adapter (see `libp2p_network`). Two nodes that cannot dial each other both keep a connection to a third
one. The dialer asks the relay for the other on a stream, the relay opens a stream to the other and copies bytes both
ways. Over these bytes the two make the same connection as over a socket, with their own Noise handshake and their own
yamux: the relay sees who talks to whom and how much, and nothing else, and cannot pretend to be either.

libp2p's circuit v2 does the same with reservations that must be renewed; py-libp2p's is bound to its own host, swarm
transport and upgrader, none of which is used here (FINDINGS A5: it does not renew, and works in one order of start
only). Here a connection to the relay is the reservation: who is connected can be reached.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import trio
from libp2p.io.exceptions import ConnectionClosedError

from peerinfer.errors import DialFailed, NetworkError, PeerinferError
from peerinfer.ids import PeerId
from peerinfer.limits import REASON_CHARS_MAX
from peerinfer.member_messages import Relayed, RelayWanted
from peerinfer.messages import Goodbye
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.network.libp2p_session import OUTBOX_BYTES_LIMIT, OUTBOX_BYTES_MAX, Socket
from peerinfer_node.ports import Stream

RELAY_PROTOCOL = "/peerinfer/relay/1"
"""From the dialer to the relay."""

RELAYED_PROTOCOL = "/peerinfer/relayed/1"
"""From the relay to the node that is dialled."""

RELAY_ANSWER_TIMEOUT_S = 8.0
_COPY_BYTES = 64 * 1024

OpenStream = Callable[[PeerId, str], Awaitable[Stream]]


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """What a node gives as a relay."""

    connections_max: int = 64
    """Relayed connections at once, each two streams and 128 KiB."""
    connections_per_peer_max: int = 8
    bytes_per_s: float = 2 * 1024 * 1024
    """Of all of them together, one way or the other."""
    idle_s: float = 180.0
    """One that carries nothing for so long is closed; a living one has its keep-alive every 20 s."""


class RelayedSocket(Socket):
    """A stream in the place of a TCP connection."""

    is_relayed = True

    def __init__(self, stream: Stream, unread: bytes) -> None:
        # The parts of a TCP socket are not there, so the parent's constructor is not called.
        self._relay = stream
        self._unread = unread
        self._outbox = bytearray()
        self._outbox_filled = trio.Event()
        self._outbox_drained = trio.Event()
        self._closed = trio.Event()
        self._remote = None

    async def receive(self) -> bytes:
        if self._unread:
            data, self._unread = self._unread, b""
            return data
        try:
            data = await self._relay.read(_COPY_BYTES)
        except NetworkError as error:
            raise ConnectionClosedError("the relayed connection broke") from error
        if not data:
            raise ConnectionClosedError("the peer closed the connection")
        return data

    async def write(self, data: bytes) -> None:
        try:
            await self._relay.write(data)
        except NetworkError as error:
            raise ConnectionClosedError("the relayed connection broke") from error

    def send_nowait(self, data: bytes) -> None:
        if self._closed.is_set():
            raise ConnectionClosedError("the connection is closed")
        if len(self._outbox) + len(data) > OUTBOX_BYTES_LIMIT:
            raise ConnectionClosedError("the peer reads nothing")
        self._outbox += data
        self._outbox_filled.set()

    async def run_outbox(self) -> None:
        while not self._closed.is_set():
            while self._outbox:
                part = bytes(memoryview(self._outbox)[:OUTBOX_BYTES_MAX])
                await self.write(part)
                del self._outbox[: len(part)]
                self._outbox_drained.set()
                self._outbox_drained = trio.Event()
            self._outbox_filled = trio.Event()
            await self._outbox_filled.wait()

    async def close(self) -> None:
        was_open = not self._closed.is_set()
        self._closed.set()
        self._outbox_filled.set()
        self._outbox_drained.set()
        if was_open:
            await self._relay.reset()


async def ask_relay(stream: Stream, peer: PeerId) -> RelayedSocket:
    """A connection to `peer` through the relay at the other end of `stream`. Raises `DialFailed` with its reason."""
    messages = MessageStream(stream)
    answer: object = None
    with trio.move_on_after(RELAY_ANSWER_TIMEOUT_S):
        try:
            await messages.send(RelayWanted(peer))
            answer, _ = await messages.receive_as(Relayed, Goodbye)
        except (PeerinferError, EOFError) as error:
            await stream.reset()
            raise DialFailed(f"the relay {stream.peer} broke off: {error}") from error
    if isinstance(answer, Relayed):
        return RelayedSocket(stream, messages.take_unread())
    await stream.reset()
    reason = answer.reason if isinstance(answer, Goodbye) else f"no answer within {RELAY_ANSWER_TIMEOUT_S:g} s"
    raise DialFailed(f"the relay {stream.peer} does not lead to {peer}: {reason}")


class Relay:
    """What a node does for others, within its limits."""

    def __init__(self, limits: RelayLimits, open_stream: OpenStream, is_direct: Callable[[PeerId], bool]) -> None:
        self._limits = limits
        self._open_stream = open_stream
        self._is_direct = is_direct
        self._active: Counter[PeerId] = Counter()
        self._free_s = 0.0
        self.bytes_carried = 0

    @property
    def connections(self) -> int:
        return self._active.total() // 2

    async def serve(self, stream: Stream) -> None:
        """Carries one relayed connection from its first byte to its last."""
        messages = MessageStream(stream)
        wanted, _ = await messages.receive_as(RelayWanted)
        peer, asker = PeerId(wanted.peer), stream.peer
        refusal = self._refusal(asker, peer)
        if refusal:
            await messages.send(Goodbye(refusal[:REASON_CHARS_MAX]))
            return
        self._active.update((asker, peer))
        try:
            other = await self._reach(asker, peer)
            if other is None:
                await messages.send(Goodbye("it does not take the connection"))
                return
            try:
                await messages.send(Relayed(peer))
                await self._copy_both(stream, other, messages.take_unread())
            finally:
                await other.reset()
        finally:
            self._active.subtract((asker, peer))
            self._active += Counter()  # drops what is zero

    def _refusal(self, asker: PeerId, peer: PeerId) -> str:
        limits = self._limits
        if not self._is_direct(asker):
            return "this relay is reached by a relay itself"
        if asker == peer or not self._is_direct(peer):
            return "it is not connected here"
        if self.connections >= limits.connections_max:
            return f"this relay carries {limits.connections_max} connections already"
        if max(self._active[asker], self._active[peer]) >= limits.connections_per_peer_max:
            return f"this relay carries {limits.connections_per_peer_max} connections of one of you already"
        return ""

    async def _reach(self, asker: PeerId, peer: PeerId) -> Stream | None:
        with suppress(PeerinferError):
            other = await self._open_stream(peer, RELAYED_PROTOCOL)
            try:
                await MessageStream(other).send(Relayed(asker))
                return other
            except BaseException:
                await other.reset()
                raise
        return None

    async def _copy_both(self, one: Stream, other: Stream, first: bytes) -> None:
        async with trio.open_nursery() as nursery:
            idle = trio.CancelScope(deadline=trio.current_time() + self._limits.idle_s)

            async def copy(source: Stream, target: Stream, data: bytes) -> None:
                with suppress(NetworkError):
                    while data or (data := await source.read(_COPY_BYTES)):
                        idle.deadline = trio.current_time() + self._limits.idle_s
                        await self._pace(len(data))
                        await target.write(data)
                        data = b""
                nursery.cancel_scope.cancel()

            nursery.start_soon(copy, one, other, first)
            nursery.start_soon(copy, other, one, b"")
            with idle:
                await trio.sleep_forever()
            nursery.cancel_scope.cancel()

    async def _pace(self, size_bytes: int) -> None:
        """Waits for this copy's turn, so that all of them together keep to the rate."""
        self.bytes_carried += size_bytes
        start_s = max(self._free_s, trio.current_time())
        self._free_s = start_s + size_bytes / self._limits.bytes_per_s
        await trio.sleep_until(start_s)
