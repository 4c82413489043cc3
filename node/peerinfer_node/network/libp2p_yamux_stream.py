"""One stream of yamux: what was received and not yet read, what may still be sent, and how it ends.

Part of the libp2p adapter (see `libp2p_network` and, for the connection that owns the streams, `libp2p_yamux`).
"""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING

import trio
from libp2p.abc import IMuxedStream

from peerinfer.errors import StreamClosed
from peerinfer.tensors import Buffer
from peerinfer_node.network.libp2p_session import PLAINTEXT_BYTES_MAX

if TYPE_CHECKING:
    from peerinfer_node.network.libp2p_yamux import Connection

WINDOW_BYTES = 256 * 1024
"""What either side may send on a new stream, by the specification."""

WINDOW_BYTES_MAX = 2 * 1024 * 1024
"""What a peer may send ahead on a stream that we read: 40 MB/s over a path of 50 ms."""

LINGER_S = 60.0
"""How long a stream that we finished, and no longer read, waits for the peer to finish it too."""

HEADER_BYTES = 12
DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8

_FRAME_BYTES = PLAINTEXT_BYTES_MAX - HEADER_BYTES
"""Payload of one frame: it fits one Noise message."""

_PART_BYTES_MIN = 1024
"""Smaller frames are joined: one object for each byte of a window would take forty times the window."""

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
        self.receive_window = WINDOW_BYTES
        self._receive_window_target = WINDOW_BYTES
        self._read_bytes = 0
        self.flags_due = 0
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
            if self.flags_due:
                self._connection.send_frame(WINDOW, self._take_flags(), self.stream_id, 0)
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
        delta = self._receive_window_target - self.receive_window - self._unread_bytes
        if delta >= self._receive_window_target // 2 and not (self._is_finished_there or self._broken):
            self.receive_window += delta
            self._connection.send_frame(WINDOW, self._take_flags(), self.stream_id, delta)

    def receive(self, data: bytes) -> None:
        self.receive_window -= len(data)
        if self._unread and len(self._unread[-1]) < _PART_BYTES_MIN:
            self._unread[-1] = bytes(self._unread[-1]) + data
        else:
            self._unread.append(data)
        self._unread_bytes += len(data)
        self._arrived.set()

    def finish_there(self) -> None:
        """The peer will send no more."""
        self._is_finished_there = True
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
            self._connection.send_frame(DATA, self._take_flags(), self.stream_id, len(part), part)
            since_checkpoint += len(part)
            if since_checkpoint >= _BYTES_BETWEEN_CHECKPOINTS:
                since_checkpoint = 0
                await trio.lowlevel.checkpoint()

    def write_nowait(self, data: Buffer) -> bool:
        """False, and nothing is written, where `write` would have to wait or to cut the data. Raises `StreamClosed`."""
        if self._broken or self._is_finished_here:
            raise StreamClosed(self._broken or "the stream is finished")
        if len(data) > min(self._send_window, _FRAME_BYTES) or self._connection.is_outbox_full:
            return False
        self._send_window -= len(data)
        self._connection.send_frame(DATA, self._take_flags(), self.stream_id, len(data), data)
        return True

    def open_window(self, delta: int) -> None:
        self._send_window += delta
        self._window_opened.set()

    def _take_flags(self) -> int:
        flags, self.flags_due = self.flags_due, 0
        return flags

    # --- the end ------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Finishes our side; what the peer still sends can be read."""
        if not (self._is_finished_here or self._broken):
            self._is_finished_here = True
            self.idle_since = trio.current_time()
            self._connection.send_frame(WINDOW, self._take_flags() | FIN, self.stream_id, 0)
            self._connection.forget_if_over(self)
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        # The library resets every stream of a lost connection; what had arrived on them can still be read.
        if not self._connection.is_closed:
            self.reset_nowait("the stream was reset here")
        await trio.lowlevel.checkpoint()

    def reset_nowait(self, reason: str) -> None:
        if not (self._broken or self.is_over):
            self._connection.send_frame(WINDOW, self._take_flags() | RST, self.stream_id, 0)
        self.break_off(reason, discard=True)
        self._connection.forget_if_over(self)

    def break_off(self, reason: str, *, discard: bool) -> None:
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

    def lingers_too_long(self, now: float) -> bool:
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
