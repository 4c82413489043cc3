"""Yamux: many streams over one connection, each with its own flow control.

Part of the libp2p adapter (see `libp2p_network`). On the wire this is hashicorp's yamux as py-libp2p and go-libp2p
speak it; a test exchanges data with py-libp2p's own. Theirs could not be kept, for reasons that each have a test:
a reader that pauses for five seconds breaks the writer's stream; a lost connection looks like a clean end; a writer
that is cancelled may leave half a message on the wire; a peer that ignores the window fills our memory, and one that
opens streams without end fills it too; every read sends an extra frame, and every frame formats log lines.

The state of a connection is changed by plain functions only, between two awaits, so it needs no locks. One task reads
and hands every frame's payload to its stream; one task empties the socket's outbox; one keeps the connection alive.

Memory: a peer can make us hold `WINDOW_BYTES` per stream that we do not read, times `STREAMS_PER_CONNECTION_MAX`;
a stream from which the node does read is granted up to `WINDOW_BYTES_MAX`, so that a long path can be filled.
"""

from __future__ import annotations

import logging
import struct
from typing import Any

import trio
from libp2p.abc import IMuxedConn
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_PROTOCOL

from peerinfer.tensors import Buffer
from peerinfer_node.network.libp2p_session import NoiseSession, shielded
from peerinfer_node.network.libp2p_yamux_stream import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    PING,
    RST,
    SYN,
    WINDOW,
    WINDOW_BYTES_MAX,
    Stream,
)

STREAMS_PER_CONNECTION_MAX = 128
"""Streams that a peer may hold open on one connection; the next one is reset."""

KEEPALIVE_S = 20.0
SILENCE_MAX_S = 60.0
"""A connection on which nothing came for so long is dead: pings go out after `KEEPALIVE_S`, and are answered."""

CLOSE_TIMEOUT_S = 1.0
"""For the last bytes to leave when a connection is closed."""

_log = logging.getLogger("peerinfer.network")

_HEADER = struct.Struct("!BBHII")
"""Version, kind, flags, stream, length."""


class Connection(IMuxedConn):  # type: ignore[misc]
    """One connection to `peer_id`, which has proved its identity."""

    def __init__(self, session: NoiseSession, peer_id: Any) -> None:
        self.peer_id = peer_id
        self.secured_conn = session
        self.event_started = trio.Event()
        self._session = session
        self._socket = session.socket
        self._streams: dict[int, Stream] = {}
        self._next_id = 1 if session.is_initiator else 2
        self._streams_of_peer = 0
        self._opened_by_peer, self._accepted = trio.open_memory_channel[Stream](STREAMS_PER_CONNECTION_MAX)
        self._header = b""
        self._payload_missing = 0
        self._payload_stream: Stream | None = None
        self._finish_due = False
        self._closed = trio.Event()
        self._silent_since = 0.0
        self._pings = 0

    # --- the life of the connection -----------------------------------------------------------------------------

    async def start(self) -> None:
        """Runs the connection until it ends. Never raises: whatever a peer does costs this connection only."""
        self._silent_since = trio.current_time()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read)
                nursery.start_soon(self._socket.run_outbox)
                nursery.start_soon(self._keep_alive)
                self.event_started.set()
                await self._closed.wait()
                nursery.cancel_scope.cancel()
        except* ConnectionClosedError as group:
            self._end(str(group.exceptions[0]))
        except* Exception as group:
            # In libp2p's swarm one task's exception ends the whole node.
            _log.exception("a connection to %s failed", self.peer_id, exc_info=group)
            self._end("the connection failed")
        finally:
            self._end("the connection was closed")
            await self._socket.close()

    async def close(self) -> None:
        """Says goodbye and closes. Waits a bounded time."""
        if self._closed.is_set():
            return
        with shielded(CLOSE_TIMEOUT_S):
            try:
                self.send_frame(GO_AWAY, 0, 0, 0)
                await self._socket.wait_outbox_empty()
            except ConnectionClosedError:
                pass  # It is gone already.
        self._end("the connection was closed here")
        with trio.CancelScope(shield=True):
            await self._socket.close()

    def _end(self, reason: str) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        self._opened_by_peer.close()
        streams = list(self._streams.values())
        self._streams.clear()
        for stream in streams:
            stream.break_off(reason, discard=False)

    async def _keep_alive(self) -> None:
        while True:
            await trio.sleep(KEEPALIVE_S)
            now = trio.current_time()
            if now - self._silent_since > SILENCE_MAX_S:
                raise ConnectionClosedError("the peer is silent")
            for stream in list(self._streams.values()):
                if stream.lingers_too_long(now):
                    stream.reset_nowait("the peer did not finish the stream")
            if now - self._silent_since >= KEEPALIVE_S:
                self._pings = (self._pings + 1) & 0xFFFFFFFF
                self.send_frame(PING, SYN, 0, self._pings)

    # --- streams ------------------------------------------------------------------------------------------------

    async def open_stream(self) -> Stream:
        """The peer learns of it with the first bytes. Raises `MuxedConnUnavailable`."""
        await trio.lowlevel.checkpoint()
        if self._closed.is_set():
            raise MuxedConnUnavailable("the connection is closed")
        stream = Stream(self, self._next_id)
        stream.flags_due = SYN
        self._next_id += 2
        self._streams[stream.stream_id] = stream
        return stream

    async def accept_stream(self) -> Stream:
        """Raises `MuxedConnUnavailable` at the end of the connection."""
        try:
            return await self._accepted.receive()
        except trio.EndOfChannel:
            raise MuxedConnUnavailable("the connection is closed") from None

    def _is_id_of_peer(self, stream_id: int) -> bool:
        return stream_id % 2 != self._next_id % 2

    def forget_if_over(self, stream: Stream) -> None:
        if stream.is_over and stream.stream_id in self._streams:
            del self._streams[stream.stream_id]
            self._streams_of_peer -= self._is_id_of_peer(stream.stream_id)

    # --- frames -------------------------------------------------------------------------------------------------

    def send_frame(self, kind: int, flags: int, stream_id: int, length: int, payload: Buffer = b"") -> None:
        try:
            self._session.send_nowait(b"".join((_HEADER.pack(0, kind, flags, stream_id, length), payload)))
        except ConnectionClosedError as error:
            # The streams learn it here; `start` ends the tasks.
            self._end(str(error))

    @property
    def is_outbox_full(self) -> bool:
        return self._socket.is_outbox_full

    async def wait_outbox_drained(self) -> None:
        await self._socket.wait_outbox_drained()

    async def _read(self) -> None:
        while True:
            for part in await self._session.receive():
                self._silent_since = trio.current_time()
                self._feed(part)

    def _feed(self, data: bytes) -> None:
        """Takes the next bytes of the connection, wherever frames begin and end in them."""
        position = 0
        while position < len(data):
            if self._payload_missing:
                part = data[position : position + self._payload_missing]
                position += len(part)
                self._payload_missing -= len(part)
                if self._payload_stream is not None and not self._payload_stream.is_over:
                    self._payload_stream.receive(part)
                self._end_payload()
                continue
            part = data[position : position + _HEADER.size - len(self._header)]
            position += len(part)
            self._header += part
            if len(self._header) == _HEADER.size:
                header, self._header = self._header, b""
                self._take_header(*_HEADER.unpack(header))

    def _take_header(self, version: int, kind: int, flags: int, stream_id: int, length: int) -> None:
        """Raises `ConnectionClosedError` if the peer broke the protocol, or said goodbye."""
        if version != 0 or kind > GO_AWAY:
            raise ConnectionClosedError("the peer does not speak yamux")
        if kind == GO_AWAY:
            raise ConnectionClosedError("the peer closed the connection")
        if kind == PING:
            if flags & SYN:
                self.send_frame(PING, ACK, 0, length)
            return
        stream = self._open_for_peer(stream_id) if flags & SYN else self._streams.get(stream_id)
        if kind == DATA:
            if length > (WINDOW_BYTES_MAX if stream is None else stream.receive_window):
                raise ConnectionClosedError("the peer sent more than it was granted")
            self._payload_stream, self._payload_missing = stream, length
        elif stream is not None and length:
            stream.open_window(length)
        self._finish_due = bool(flags & FIN)
        if flags & RST and stream is not None:
            stream.break_off("the peer reset the stream", discard=True)
            self.forget_if_over(stream)
        if kind == WINDOW:
            self._payload_stream = stream
        self._end_payload()

    def _end_payload(self) -> None:
        """After the last byte of a frame: the peer may have finished the stream with it."""
        if self._payload_missing:
            return
        stream, self._payload_stream = self._payload_stream, None
        if self._finish_due and stream is not None:
            stream.finish_there()
            self.forget_if_over(stream)
        self._finish_due = False

    def _open_for_peer(self, stream_id: int) -> Stream | None:
        if not self._is_id_of_peer(stream_id) or stream_id in self._streams or stream_id == 0:
            raise ConnectionClosedError("the peer used a stream id that is not its own")
        if self._streams_of_peer >= STREAMS_PER_CONNECTION_MAX:
            self.send_frame(WINDOW, RST, stream_id, 0)
            return None
        stream = Stream(self, stream_id)
        try:
            self._opened_by_peer.send_nowait(stream)
        except trio.WouldBlock:
            self.send_frame(WINDOW, RST, stream_id, 0)
            return None
        except trio.ClosedResourceError:
            # What was read with the frame before is still being taken apart after the end.
            raise ConnectionClosedError("the connection was closed") from None
        self._streams[stream_id] = stream
        self._streams_of_peer += 1
        self.send_frame(WINDOW, ACK, stream_id, 0)
        return stream

    # --- what libp2p asks ---------------------------------------------------------------------------------------

    @property
    def is_relayed(self) -> bool:
        return self._socket.is_relayed

    @property
    def is_initiator(self) -> bool:
        return bool(self._session.is_initiator)

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    @property
    def is_established(self) -> bool:
        return self.event_started.is_set() and not self._closed.is_set()

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._socket.get_remote_address()

    def get_transport_addresses(self) -> list[Any]:
        return []

    def get_connection_type(self) -> Any:
        return self._session.get_connection_type()


class YamuxOnly(MuxerMultistream):  # type: ignore[misc]
    """Negotiates yamux and nothing else, and gives the connection to `Connection`."""

    def __init__(self) -> None:
        super().__init__({YAMUX_PROTOCOL: Connection})

    async def new_conn(self, conn: NoiseSession, peer_id: Any) -> Connection:
        await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        return Connection(conn, peer_id)
