"""One node's end of the simulated internet: implements `ports.Network`, as the libp2p adapter does for a real one."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager

import trio

from peerinfer.codec import registered
from peerinfer.errors import DialFailed, PeerinferError, StreamClosed
from peerinfer.ids import PeerId
from peerinfer.tensors import Buffer
from peerinfer_node.ports import (
    AddressFound,
    Hole,
    NetworkEvent,
    PeerConnected,
    PeerDisconnected,
    StreamHandler,
)
from peerinfer_sim.event_log import brief
from peerinfer_sim.internet import Internet
from peerinfer_sim.watch import whose

DIAL_TIMEOUT_S = 10.0
OPEN_STREAM_TIMEOUT_S = 10.0
EVENTS_MAX = 1024
UNREAD_BYTES_MAX = 1024 * 1024
"""A writer waits while the other side has this much to read, or on the way to it."""

_ADDRESS = re.compile(r"/ip4/10\.\d+\.\d+\.\d+/tcp/4001/p2p/(\w+)")
_KINDS = {tag: cls.__name__ for tag, cls in registered().items()}


class SimNetwork:
    """The Network port of one node. `name` is what the log calls it, `number` gives it an address."""

    def __init__(self, internet: Internet, peer_id: PeerId, name: str, number: int, *, finds_neighbours: bool) -> None:
        self._internet = internet
        self._peer_id = peer_id
        self._address = f"/ip4/10.{number >> 16}.{number >> 8 & 255}.{number & 255}/tcp/4001/p2p/{peer_id}"
        self._finds_neighbours = finds_neighbours
        self._handlers: dict[str, StreamHandler] = {}
        self._streams: dict[PeerId, dict[SimStream, None]] = {}
        """Of every peer that is connected."""
        self._events: deque[NetworkEvent] = deque(maxlen=EVENTS_MAX)
        self._event_added = trio.Event()
        self._nursery: trio.Nursery | None = None
        internet.names[peer_id] = name

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    @property
    def is_running(self) -> bool:
        return self._internet.networks.get(self._peer_id) is self

    def addresses(self) -> tuple[str, ...]:
        return (self._address,)

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        self._handlers[protocol] = handler

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        internet, own = self._internet, self._peer_id
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if self._finds_neighbours:
                for neighbour in internet.networks.values():
                    self._find(neighbour)
                    neighbour._find(self)
            internet.networks[own] = self
            try:
                yield
            finally:
                internet.part(own, self.connected())
                internet.leave(self)
                nursery.cancel_scope.cancel()

    def _find(self, other: SimNetwork) -> None:
        self._note(AddressFound(other.peer_id, other.addresses()))

    # --- connections -------------------------------------------------------------------------------------------------

    async def dial(self, address: str) -> PeerId:
        match = _ADDRESS.fullmatch(address)
        if match is None:
            raise DialFailed(f"{address} is not an address of this world")
        peer = PeerId(match[1])
        if peer == self._peer_id:
            raise DialFailed(f"cannot dial {address}: it is this node")
        if peer in self._streams:
            await trio.lowlevel.checkpoint()
            return peer
        if peer not in self._internet.networks:
            await self._internet.round_trip(self._peer_id, peer)
            raise DialFailed(f"cannot dial {address}: nothing listens there")
        with trio.move_on_after(DIAL_TIMEOUT_S):
            # TCP's handshake, then Noise's: two round trips until either may speak.
            for _ in range(2):
                await self._internet.trip(self._peer_id, peer)
                await self._internet.trip(peer, self._peer_id)
            other = self._internet.networks.get(peer)
            if other is None:
                raise DialFailed(f"cannot dial {address}: it went away")
            self._connect(peer)
            other._connect(self._peer_id)
            return peer
        raise DialFailed(f"cannot dial {address}: no answer within {DIAL_TIMEOUT_S:g} s")

    def _connect(self, peer: PeerId) -> None:
        if peer not in self._streams:
            self._streams[peer] = {}
            self._note(PeerConnected(peer))

    async def answers_at(self, address: str) -> bool:
        match = _ADDRESS.fullmatch(address)
        if match is None or match[1] not in self._internet.networks:
            return False
        await self._internet.round_trip(self._peer_id, PeerId(match[1]))
        return address in self._internet.networks[PeerId(match[1])].addresses()

    def remote_host(self, peer: PeerId) -> str:
        other = self._internet.networks.get(peer)
        return other.addresses()[0].split("/")[2] if other is not None and peer in self._streams else ""

    async def open_stream(self, peer: PeerId, protocol: str) -> SimStream:
        if peer not in self._streams:
            raise DialFailed(f"not connected to {peer}")
        with trio.move_on_after(OPEN_STREAM_TIMEOUT_S):
            await self._internet.trip(self._peer_id, peer)
            other = self._internet.networks.get(peer)
            if other is None or peer not in self._streams or self._peer_id not in other._streams:
                raise StreamClosed(f"the connection to {peer} broke")
            if protocol not in other._handlers:
                raise StreamClosed(f"{peer} does not speak {protocol}")
            mine = SimStream(self._internet, self, other, protocol)
            theirs = SimStream(self._internet, other, self, protocol)
            mine.other, theirs.other = theirs, mine
            self._streams[peer][mine] = None
            other._take(theirs)
            await self._internet.trip(peer, self._peer_id)
            return mine
        raise StreamClosed(f"{peer} did not open {protocol} within {OPEN_STREAM_TIMEOUT_S:g} s")

    def _take(self, stream: SimStream) -> None:
        assert self._nursery is not None
        self._streams[stream.peer][stream] = None
        self._nursery.start_soon(self._handle, stream)

    async def _handle(self, stream: SimStream) -> None:
        whose.set(self._internet.names[self._peer_id])  # Until here the task was of the node that opened the stream.
        try:
            await self._handlers[stream.protocol](stream)
            await stream.close()
        except PeerinferError:
            await stream.reset()

    async def disconnect(self, peer: PeerId) -> None:
        await trio.lowlevel.checkpoint()
        if peer in self._streams:
            self._internet.part(self._peer_id, [peer])
            self.lose(peer)

    def lose(self, peer: PeerId) -> None:
        """The connection to `peer` has ended."""
        streams = self._streams.pop(peer, None)
        if streams is not None:
            for stream in streams:
                stream.break_off()
            self._note(PeerDisconnected(peer))

    def fall_silent(self) -> None:
        """This node's end is gone: its own tasks find every stream broken."""
        everything, self._streams = self._streams, {}
        for streams in everything.values():
            for stream in streams:
                stream.break_off()

    def forget(self, stream: SimStream) -> None:
        """Both ways of the stream have ended."""
        self._streams.get(stream.peer, {}).pop(stream, None)

    def connected(self) -> list[PeerId]:
        return list(self._streams)

    def dig(self, host: str) -> AbstractContextManager[Hole]:
        raise DialFailed(f"{host} is not met: there are no routers here")

    async def punch(self, hole: Hole, peer: PeerId, host: str, port: int, *, opens: bool, within_s: float) -> None:
        raise DialFailed(f"{peer} is not met: there are no routers here")

    def path(self, peer: PeerId) -> str:
        return "local" if peer == self._peer_id else "direct"

    def streams(self, peer: PeerId) -> int:
        return len(self._streams.get(peer, ()))

    # --- events ------------------------------------------------------------------------------------------------------

    async def events(self) -> AsyncIterator[NetworkEvent]:
        while True:
            while self._events:
                yield self._events.popleft()
            self._event_added = trio.Event()
            await self._event_added.wait()

    def _note(self, event: NetworkEvent) -> None:
        self._events.append(event)
        self._event_added.set()


class SimStream:
    """One end of a stream between two simulated nodes."""

    def __init__(self, internet: Internet, here: SimNetwork, there: SimNetwork, protocol: str) -> None:
        self._internet = internet
        self._here = here
        self._peer = there.peer_id
        self._unread = bytearray()
        self._owed = 0
        """Bytes that the other side has written and this side has not read."""
        self._is_finished = False
        self._is_closed = False
        self._is_broken = False
        self._changed = trio.Event()
        self.protocol = protocol
        self.other = self

    @property
    def peer(self) -> PeerId:
        return self._peer

    async def read(self, bytes_max: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self._unread:
            if self._is_broken:
                raise StreamClosed(f"the stream to {self._peer} broke")
            if self._is_finished:
                return b""
            await self._wait_change()
        data = bytes(memoryview(self._unread)[:bytes_max])
        del self._unread[:bytes_max]
        self._owed -= len(data)
        self.other._wake()
        return data

    async def write(self, data: Buffer) -> None:
        await trio.lowlevel.checkpoint()
        while not self.write_nowait(data):
            await self._wait_change()

    def write_nowait(self, data: Buffer) -> bool:
        if self._is_over:
            raise StreamClosed(f"the stream to {self._peer} is closed")
        if self.other._owed > UNREAD_BYTES_MAX:
            return False
        sent = bytes(data)
        self.other._owed += len(sent)
        self._note(f"-> {self._internet.names[self._peer]} {_kind(sent)} {brief(sent)}")
        self._carry(len(sent), lambda: self.other._arrive(sent))
        return True

    async def close(self) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()
        if not self._is_over:
            self._is_closed = True
            self._carry(0, self.other._finish)
            self._wake()

    async def reset(self) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()
        if not self._is_broken:
            self._carry(0, self.other.break_off)
            self.break_off()

    @property
    def _is_over(self) -> bool:
        return self._is_closed or self._is_broken

    def _carry(self, size: int, action: Callable[[], None]) -> None:
        if self._here.is_running:
            self._internet.carry(self._here.peer_id, self._peer, size, action)

    # --- what arrives ------------------------------------------------------------------------------------------------

    def _arrive(self, data: bytes) -> None:
        if not self._is_broken:
            self._note(f"<- {self._internet.names[self._peer]} {_kind(data)} {brief(data)}")
            self._unread += data
            self._wake()

    def _finish(self) -> None:
        self._is_finished = True
        self._wake()

    def break_off(self) -> None:
        """Ends this side at once."""
        self._is_broken = True
        self._unread.clear()
        self._wake()
        self.other._wake()

    def _wake(self) -> None:
        if self._is_broken or (self._is_finished and self._is_closed):
            self._here.forget(self)
        self._changed.set()
        self._changed = trio.Event()

    async def _wait_change(self) -> None:
        await self._changed.wait()

    def _note(self, what: str) -> None:
        self._internet.note(self._here.peer_id, what)


def _kind(data: bytes) -> str:
    """The message that a write holds, by the tag behind two lengths and the start of its header."""
    start = 0
    for _ in range(2):
        while start < len(data) and data[start] & 0x80:
            start += 1
        start += 1
    return _KINDS.get(data[start + 1], "?") if start + 1 < len(data) else "?"
