"""The encrypted connection under libp2p's streams: a buffered socket, and Noise over it without a task switch.

Part of the libp2p adapter (see `libp2p_network`). The handshake is py-libp2p's own, byte for byte. What it hands over,
a `SecureSession`, reads two bytes, then a message, takes a lock for each and formats a dozen log lines that nobody
reads: 0.6 ms per message and end. This session reads whatever the socket holds, decrypts every whole message in it,
and writes from the calling task when the socket takes the bytes at once.

A write never ends in the middle of a Noise message, whatever is cancelled: what the socket does not take is kept in an
outbox that one task empties. Half a message on the wire would end the connection.
"""

from __future__ import annotations

import os
from typing import Any

import trio
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.secure_session import SecureSession

from peerinfer.ids import PeerId, public_key_of

_RECEIVE_BYTES = 64 * 1024
_RECEIVE_BYTES_BULK = 512 * 1024
"""Asked for after a read that filled the smaller size; allocating this much for every small message would be slow."""

PLAINTEXT_BYTES_MAX = 65535 - 16
"""Of one Noise message: its length has two bytes, its tag has 16."""

OUTBOX_BYTES_MAX = 256 * 1024
"""Writers of data wait while more than this is ready to be sent, so that a slow connection holds little memory."""

OUTBOX_BYTES_LIMIT = 2 * 1024 * 1024
"""A peer that makes us answer (pings, resets) and reads none of it is cut off here."""


def shielded(seconds: float) -> trio.CancelScope:
    """For cleanup that must await: not cancelled from outside, and over after `seconds`."""
    scope = trio.move_on_after(seconds)
    scope.shield = True
    return scope


class Socket(ReadWriteCloser):  # type: ignore[misc]
    """A TCP connection as libp2p wants it, with a buffer before it."""

    is_relayed = False

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._fd = stream.socket.fileno()
        self._unread = b""
        self._receive_bytes = _RECEIVE_BYTES
        self._outbox = bytearray()
        self._outbox_filled = trio.Event()
        self._outbox_drained = trio.Event()
        self._closed = trio.Event()
        try:
            self._remote: tuple[str, int] | None = stream.socket.getpeername()[:2]
        except OSError:
            self._remote = None

    async def read(self, n: int | None = None) -> bytes:
        """Up to `n` bytes. Raises `ConnectionClosedError` at the end."""
        data = self._unread or await self.receive()
        if n is not None and len(data) > n:
            self._unread = data[n:]
            return data[:n]
        self._unread = b""
        return data

    async def receive(self) -> bytes:
        """Whatever the connection holds, at least one byte. Raises `ConnectionClosedError` at the end."""
        if self._unread:
            data, self._unread = self._unread, b""
            return data
        # Waiting comes first: trio's own stream reads, finds nothing nearly always, and waits then.
        while True:
            if self._closed.is_set():  # its number may be another connection's by now
                raise ConnectionClosedError("the connection is closed")
            try:
                await trio.lowlevel.wait_readable(self._stream.socket.fileno())
                data = os.read(self._stream.socket.fileno(), self._receive_bytes)
                break
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError) as error:
                raise ConnectionClosedError("the connection broke") from error
        if not data:
            raise ConnectionClosedError("the peer closed the connection")
        self._receive_bytes = _RECEIVE_BYTES_BULK if len(data) >= _RECEIVE_BYTES else _RECEIVE_BYTES
        return data

    async def write(self, data: bytes) -> None:
        """Used by the handshake only, before `run_outbox`."""
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError("the connection broke") from error

    def send_nowait(self, data: bytes) -> None:
        """Hands `data` over, at once or through the outbox. Raises `ConnectionClosedError`."""
        if self._closed.is_set():
            raise ConnectionClosedError("the connection is closed")
        sent = 0
        if not self._outbox:
            try:
                # The calling task writes by itself: a task that does it would cost a pass of the scheduler each time.
                sent = os.write(self._fd, data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise ConnectionClosedError("the connection broke") from error
        if sent == len(data):
            return
        if len(self._outbox) + len(data) - sent > OUTBOX_BYTES_LIMIT:
            raise ConnectionClosedError("the peer reads nothing")
        self._outbox += memoryview(data)[sent:]
        self._outbox_filled.set()

    async def flush(self) -> None:
        """Empties the outbox, before `run_outbox` does it."""
        await trio.lowlevel.checkpoint()
        while self._outbox:
            part = bytes(self._outbox)
            await self.write(part)
            del self._outbox[: len(part)]

    @property
    def is_outbox_full(self) -> bool:
        return len(self._outbox) > OUTBOX_BYTES_MAX

    async def wait_outbox_drained(self) -> None:
        """Until the outbox has room for data, or the connection is closed."""
        while self.is_outbox_full and not self._closed.is_set():
            await self._outbox_drained.wait()

    async def wait_outbox_empty(self) -> None:
        while self._outbox and not self._closed.is_set():
            await self._outbox_drained.wait()

    async def run_outbox(self) -> None:
        """Empties the outbox for as long as the connection lives."""
        while not self._closed.is_set():
            while self._outbox:
                part = bytes(memoryview(self._outbox)[:OUTBOX_BYTES_MAX])
                try:
                    await self._stream.send_all(part)
                except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    raise ConnectionClosedError("the connection broke") from error
                del self._outbox[: len(part)]
                self._outbox_drained.set()
                self._outbox_drained = trio.Event()
            self._outbox_filled = trio.Event()
            await self._outbox_filled.wait()

    async def close(self) -> None:
        self._closed.set()
        self._outbox_filled.set()
        self._outbox_drained.set()
        await trio.aclose_forcefully(self._stream)

    async def wait_closed(self) -> None:
        await self._closed.wait()

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._remote


class NoiseSession(SecureSession):  # type: ignore[misc]
    """An authenticated, encrypted connection. `remote_peer` has proved that it holds the key of its peer id."""

    def __init__(self, session: Any, socket: Socket) -> None:
        super().__init__(
            local_peer=session.local_peer,
            local_private_key=session.local_private_key,
            remote_peer=session.remote_peer,
            remote_permanent_pubkey=session.remote_permanent_pubkey,
            is_initiator=session.is_initiator,
            conn=session.conn,
        )
        self.socket = socket
        self._noise = session.conn.noise_state
        self._sealed = bytearray()
        """Received and not yet decrypted: the beginning of a Noise message."""
        self._plain = b""

    async def receive(self) -> list[bytes]:
        """What arrived, decrypted, in its order. Raises `ConnectionClosedError`, also on a forged message."""
        if self._plain:
            data, self._plain = self._plain, b""
            return [data]
        return self._open(await self.socket.receive())

    def _open(self, data: bytes) -> list[bytes]:
        if self._sealed:
            self._sealed += data
            source: bytes | bytearray = self._sealed
        else:
            source = data
        parts: list[bytes] = []
        position, end = 0, len(source)
        try:
            while end - position >= 2:
                after = position + 2 + (source[position] << 8 | source[position + 1])
                if after > end:
                    break
                parts.append(self._noise.decrypt(bytes(source[position + 2 : after])))
                position = after
        except Exception as error:
            raise ConnectionClosedError("a message was forged or damaged") from error
        if source is self._sealed:
            del self._sealed[:position]
        else:
            self._sealed += memoryview(source)[position:]
        return parts

    def send_nowait(self, data: bytes) -> None:
        """Encrypts and hands over `data`, at most `PLAINTEXT_BYTES_MAX`. Raises `ConnectionClosedError`."""
        sealed = self._noise.encrypt(data)
        self.socket.send_nowait(len(sealed).to_bytes(2, "big") + sealed)

    async def read(self, n: int | None = None) -> bytes:
        """For the negotiation of the muxer."""
        while not self._plain:
            self._plain = b"".join(await self.receive())
        data, self._plain = self._plain, b""
        if n is not None and len(data) > n:
            data, self._plain = data[:n], data[n:]
        return data

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), PLAINTEXT_BYTES_MAX):
            self.send_nowait(data[start : start + PLAINTEXT_BYTES_MAX])
        await self.socket.flush()

    async def close(self) -> None:
        await self.socket.close()


class NoiseOverSocket(NoiseTransport):  # type: ignore[misc]
    """py-libp2p's Noise handshake, whose result is a `NoiseSession` with a peer whose id holds its Ed25519 key."""

    async def secure_inbound(self, conn: RawConnection) -> NoiseSession:
        return session_over(await super().secure_inbound(conn), conn)

    async def secure_outbound(self, conn: RawConnection, peer_id: Any) -> NoiseSession:
        return session_over(await super().secure_outbound(conn, peer_id), conn)


def session_over(session: Any, connection: RawConnection) -> NoiseSession:
    try:
        public_key_of(PeerId(str(session.remote_peer)))
    except ValueError as error:
        raise HandshakeFailure(f"the peer's identity is {error}") from error
    return NoiseSession(session, connection.stream)
