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
from collections import deque
from types import TracebackType
from typing import Any

import trio
from libp2p.abc import IMuxedConn, IMuxedStream
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_PROTOCOL

from peerinfer.errors import StreamClosed
from peerinfer_node.network.libp2p_session import PLAINTEXT_BYTES_MAX, NoiseSession, shielded
from peerinfer_node.ports import Buffer

WINDOW_BYTES = 256 * 1024
"""What either side may send on a new stream, by the specification."""

WINDOW_BYTES_MAX = 2 * 1024 * 1024
"""What a peer may send ahead on a stream that we read: 40 MB/s over a path of 50 ms."""

STREAMS_PER_CONNECTION_MAX = 128
"""Streams that a peer may hold open on one connection; the next one is reset."""

KEEPALIVE_S = 20.0
SILENCE_MAX_S = 60.0
"""A connection on which nothing came for so long is dead: pings go out every `KEEPALIVE_S`, and are answered."""

LINGER_S = 60.0
"""How long a stream that we finished, and no longer read, waits for the peer to finish it too."""

CLOSE_TIMEOUT_S = 1.0
"""For the last bytes to leave when a connection is closed."""

_log = logging.getLogger("peerinfer.network")

_HEADER = struct.Struct("!BBHII")
_DATA, _WINDOW, _PING, _GO_AWAY = range(4)
_SYN, _ACK, _FIN, _RST = 1, 2, 4, 8
_FRAME_BYTES = PLAINTEXT_BYTES_MAX - _HEADER.size
"""Payload of one frame: it fits one Noise message."""

_BYTES_BETWEEN_CHECKPOINTS = 256 * 1024


class Stream(IMuxedStream):  # type: ignore[misc]
    """One stream. Reads by one task and writes by one task at a time."""

    def __init__(self, connection: Connection, stream_id: int) -> None:
        self.muxed_conn = connection
        self.stream_id = stream_id
        self._connection = connection
        self._unread: deque[bytes | memoryview] = deque()
        self._unread_bytes = 0
        self._arrived = trio.Event()
        self._window_opened = trio.Event()
        self._send_window = WINDOW_BYTES
        self._receive_window = WINDOW_BYTES
        self._receive_window_target = WINDOW_BYTES
        self._read_bytes = 0
        self._flags_due = 0
        """SYN, until the first frame of ours carries it."""
        self._is_finished_here = False
        self._is_finished_there = False
        self._broken: str | None = None
        self.idle_since = 0.0
        """When it was finished here or last read after that; counts once it is finished here."""

    # --- reading ------------------------------------------------------------------------------------------------

    async def read(self, n: int | None = None) -> bytes:
        """At least one byte, or b"" once the peer has finished. Raises `StreamClosed`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._unread:
            if self._broken:
                raise StreamClosed(self._broken)
            if self._is_finished_there:
                return b""
            if self._flags_due:
                self._connection._send(_WINDOW, self._take_flags(), self.stream_id, 0)
            self._arrived = trio.Event()
            await self._arrived.wait()
        data = self._unread.popleft()
        if n is not None and len(data) > n:
            view = memoryview(data)
            data = view[:n]
            self._unread.appendleft(view[n:])
        self._unread_bytes -= len(data)
        self._grant(len(data))
        return bytes(data)

    def _grant(self, read_bytes: int) -> None:
        """Lets the peer send on, in large steps: a window update for every message would double the frames."""
        self._read_bytes += read_bytes
        self.idle_since = trio.current_time()
        if self._read_bytes >= WINDOW_BYTES:
            self._receive_window_target = WINDOW_BYTES_MAX
        delta = self._receive_window_target - self._receive_window - self._unread_bytes
        if delta >= self._receive_window_target // 2 and not (self._is_finished_there or self._broken):
            self._receive_window += delta
            self._connection._send(_WINDOW, self._take_flags(), self.stream_id, delta)

    def _receive(self, data: bytes) -> None:
        self._receive_window -= len(data)
        self._unread.append(data)
        self._unread_bytes += len(data)
        self._arrived.set()

    # --- writing ------------------------------------------------------------------------------------------------

    async def write(self, data: Buffer) -> None:
        """Waits while the peer's window or our outbox is full, for as long as that lasts. Raises `StreamClosed`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        view = memoryview(data).cast("B")
        position = since_checkpoint = 0
        while position < len(view):
            if self._broken or self._is_finished_here:
                raise StreamClosed(self._broken or "the stream is finished")
            if not self._send_window:
                self._window_opened = trio.Event()
                await self._window_opened.wait()
                continue
            if self._connection.is_outbox_full:
                await self._connection.wait_outbox_drained()
                continue
            part = view[position : position + min(self._send_window, _FRAME_BYTES)]
            self._send_window -= len(part)
            position += len(part)
            self._connection._send(_DATA, self._take_flags(), self.stream_id, len(part), part)
            since_checkpoint += len(part)
            if since_checkpoint >= _BYTES_BETWEEN_CHECKPOINTS:
                since_checkpoint = 0
                await trio.lowlevel.checkpoint()

    def _take_flags(self) -> int:
        flags, self._flags_due = self._flags_due, 0
        return flags

    # --- the end ------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Finishes our side; what the peer still sends can be read."""
        if not (self._is_finished_here or self._broken):
            self._is_finished_here = True
            self.idle_since = trio.current_time()
            self._connection._send(_WINDOW, self._take_flags() | _FIN, self.stream_id, 0)
            self._connection._forget_if_over(self)
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        # The library resets every stream of a lost connection; what had arrived on them can still be read.
        if not self._connection.is_closed:
            self._reset("the stream was reset here")
        await trio.lowlevel.checkpoint()

    def _reset(self, reason: str) -> None:
        if not (self._broken or self.is_over):
            self._connection._send(_WINDOW, self._take_flags() | _RST, self.stream_id, 0)
        self._break(reason, discard=True)
        self._connection._forget_if_over(self)

    def _break(self, reason: str, *, discard: bool) -> None:
        if self._is_finished_there and not discard:
            self._is_finished_here = True  # Everything that the peer had to say is here.
        else:
            self._broken = self._broken or reason
        if discard:
            self._unread.clear()
            self._unread_bytes = 0
        self._arrived.set()
        self._window_opened.set()

    @property
    def is_over(self) -> bool:
        return self._broken is not None or (self._is_finished_here and self._is_finished_there)

    def _linger_is_over(self, now: float) -> bool:
        return self._is_finished_here and now - self.idle_since > LINGER_S

    def set_deadline(self, ttl: int) -> None:
        raise NotImplementedError("deadlines are trio's")

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._connection.get_remote_address()

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


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
                self._send(_GO_AWAY, 0, 0, 0)
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
            stream._break(reason, discard=False)

    async def _keep_alive(self) -> None:
        while True:
            await trio.sleep(KEEPALIVE_S)
            now = trio.current_time()
            if now - self._silent_since > SILENCE_MAX_S:
                raise ConnectionClosedError("the peer is silent")
            for stream in list(self._streams.values()):
                if stream._linger_is_over(now):
                    stream._reset("the peer did not finish the stream")
            if now - self._silent_since >= KEEPALIVE_S:
                self._pings = (self._pings + 1) & 0xFFFFFFFF
                self._send(_PING, _SYN, 0, self._pings)

    # --- streams ------------------------------------------------------------------------------------------------

    async def open_stream(self) -> Stream:
        """The peer learns of it with the first bytes. Raises `MuxedConnUnavailable`."""
        await trio.lowlevel.checkpoint()
        if self._closed.is_set():
            raise MuxedConnUnavailable("the connection is closed")
        stream = Stream(self, self._next_id)
        stream._flags_due = _SYN
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

    def _forget_if_over(self, stream: Stream) -> None:
        if stream.is_over and stream.stream_id in self._streams:
            del self._streams[stream.stream_id]
            self._streams_of_peer -= self._is_id_of_peer(stream.stream_id)

    # --- frames -------------------------------------------------------------------------------------------------

    def _send(self, kind: int, flags: int, stream_id: int, length: int, payload: Buffer = b"") -> None:
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
                    self._payload_stream._receive(part)
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
        if version != 0 or kind > _GO_AWAY:
            raise ConnectionClosedError("the peer does not speak yamux")
        if kind == _GO_AWAY:
            raise ConnectionClosedError("the peer closed the connection")
        if kind == _PING:
            if flags & _SYN:
                self._send(_PING, _ACK, 0, length)
            return
        stream = self._open_for_peer(stream_id) if flags & _SYN else self._streams.get(stream_id)
        if kind == _DATA:
            if length > (WINDOW_BYTES_MAX if stream is None else stream._receive_window):
                raise ConnectionClosedError("the peer sent more than it was granted")
            self._payload_stream, self._payload_missing = stream, length
        elif stream is not None and length:
            stream._send_window += length
            stream._window_opened.set()
        self._finish_due = bool(flags & _FIN)
        if flags & _RST and stream is not None:
            stream._break("the peer reset the stream", discard=True)
            self._forget_if_over(stream)
        if kind == _WINDOW:
            self._payload_stream = stream
        self._end_payload()

    def _end_payload(self) -> None:
        """After the last byte of a frame: the peer may have finished the stream with it."""
        if self._payload_missing:
            return
        stream, self._payload_stream = self._payload_stream, None
        if self._finish_due and stream is not None:
            stream._is_finished_there = True
            stream._arrived.set()
            self._forget_if_over(stream)
        self._finish_due = False

    def _open_for_peer(self, stream_id: int) -> Stream | None:
        if not self._is_id_of_peer(stream_id) or stream_id in self._streams or stream_id == 0:
            raise ConnectionClosedError("the peer used a stream id that is not its own")
        if self._streams_of_peer >= STREAMS_PER_CONNECTION_MAX:
            self._send(_WINDOW, _RST, stream_id, 0)
            return None
        stream = Stream(self, stream_id)
        try:
            self._opened_by_peer.send_nowait(stream)
        except trio.WouldBlock:
            self._send(_WINDOW, _RST, stream_id, 0)
            return None
        self._streams[stream_id] = stream
        self._streams_of_peer += 1
        self._send(_WINDOW, _ACK, stream_id, 0)
        return stream

    # --- what libp2p asks ---------------------------------------------------------------------------------------

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
