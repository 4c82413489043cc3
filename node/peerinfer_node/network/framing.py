"""Messages over a byte stream.

    varint(header length) | varint(body length) | header | body

The header is a message of `peerinfer.codec`; the body is raw bytes (tensors, chunks), never parsed. Both lengths are
checked before anything is allocated, and a body grows as its bytes arrive: a claim alone costs nothing. py-libp2p's
own `read_exactly` gives up after 101 reads (about 6.6 MB), so the loop here is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import trio

from peerinfer.codec import decode, encode
from peerinfer.errors import DecodeError, ProtocolError, StreamClosed
from peerinfer.ids import PeerId
from peerinfer.limits import BODY_BYTES_MAX, HEADER_BYTES_MAX, WRITE_SLICE_BYTES, WRITE_TIMEOUT_S
from peerinfer.tensors import Buffer
from peerinfer_node.ports import Stream

_READ_BYTES = 256 * 1024


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _framed(message: Any, body: Sequence[Buffer]) -> bytes:
    header = encode(message)
    body_bytes = sum(memoryview(part).nbytes for part in body)
    if body_bytes > BODY_BYTES_MAX:
        raise ValueError(f"a body of {body_bytes} bytes passes the limit of {BODY_BYTES_MAX}")
    return b"".join((_varint(len(header)), _varint(body_bytes), header, *body))


class MessageStream:
    """Sends and receives messages with bodies. One reader and any number of writers, whose messages never interleave."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._unread = bytearray()
        self._writing = trio.Lock()
        self.bytes_in = 0
        self.bytes_out = 0

    @property
    def peer(self) -> PeerId:
        return self._stream.peer

    async def send(self, message: Any, body: Sequence[Buffer] = ()) -> None:
        """Raises `StreamClosed`, also when the peer takes nothing of it for `WRITE_TIMEOUT_S`.

        Raises ValueError if the message has no room in a header, or the body is too large; then nothing was sent. Being
        cancelled while it writes ends the stream: what follows half a message would be read as the rest of it.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        data = _framed(message, body)
        if self._write_nowait(data):
            return
        async with self._writing:
            is_whole = False
            try:
                with trio.move_on_after(WRITE_TIMEOUT_S) as scope:
                    if len(data) <= WRITE_SLICE_BYTES:
                        await self._stream.write(data)
                    else:
                        await self._write_slices(data, scope)
                    is_whole = True
            finally:
                if not is_whole:
                    with trio.CancelScope(shield=True):
                        await self._stream.reset()
        if scope.cancelled_caught:
            raise StreamClosed(f"{self.peer} took nothing for {WRITE_TIMEOUT_S:g} s")
        self.bytes_out += len(data)

    def send_nowait(self, message: Any, body: Sequence[Buffer] = ()) -> bool:
        """Sends it here and now and returns True, or nothing where that has to wait: then it is for `send`.

        Raises like `send`.
        """
        return self._write_nowait(_framed(message, body))

    def _write_nowait(self, data: bytes) -> bool:
        if len(data) > WRITE_SLICE_BYTES or self._writing.locked() or not self._stream.write_nowait(data):
            return False
        self.bytes_out += len(data)
        return True

    async def _write_slices(self, data: bytes, scope: trio.CancelScope) -> None:
        view = memoryview(data)
        for start in range(0, len(view), WRITE_SLICE_BYTES):
            scope.deadline = trio.current_time() + WRITE_TIMEOUT_S
            await self._stream.write(view[start : start + WRITE_SLICE_BYTES])

    async def receive(self) -> tuple[Any, bytes]:
        """The next message and its body. Raises `EOFError` at a clean end, `StreamClosed`, `DecodeError`."""
        header_bytes = await self._read_varint(HEADER_BYTES_MAX, "header", at_start=True)
        body_bytes = await self._read_varint(BODY_BYTES_MAX, "body")
        header = await self._read_exactly(header_bytes)
        message = decode(header)
        body = await self._read_exactly(body_bytes) if body_bytes else b""
        return message, body

    async def receive_as(self, *kinds: type[Any]) -> tuple[Any, bytes]:
        """Like `receive`, and a message of any other kind is a `ProtocolError`."""
        message, body = await self.receive()
        if type(message) not in kinds:
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise ProtocolError(f"{self.peer} sent {type(message).__name__} where {wanted} was due")
        return message, body

    def take_unread(self) -> bytes:
        """What came after the last message: of a stream that goes on without messages."""
        data = bytes(self._unread)
        self._unread.clear()
        return data

    async def drain(self, bytes_max: int) -> None:
        """Reads and forgets what still comes, until the other side has finished or said more than is worth waiting for.

        Raises `StreamClosed`.
        """
        self._unread.clear()
        while bytes_max > 0 and (data := await self._stream.read(_READ_BYTES)):
            bytes_max -= len(data)

    async def close(self) -> None:
        await self._stream.close()

    async def reset(self) -> None:
        await self._stream.reset()

    async def _fill(self) -> bool:
        data = await self._stream.read(_READ_BYTES)
        self.bytes_in += len(data)
        self._unread += data
        return bool(data)

    async def _read_varint(self, limit: int, what: str, *, at_start: bool = False) -> int:
        value = shift = 0
        while True:
            if not self._unread and not await self._fill():
                if at_start and shift == 0:
                    raise EOFError
                raise StreamClosed(f"{self.peer} stopped in the middle of a message")
            byte = self._unread[0]
            del self._unread[0]
            value |= (byte & 0x7F) << shift
            if value > limit:
                raise DecodeError(f"a {what} of {value} bytes or more passes the limit of {limit}")
            if byte < 0x80:
                return value
            shift += 7
            if shift > 35:
                raise DecodeError(f"the length of a {what} does not end")

    async def _read_exactly(self, count: int) -> bytes:
        if len(self._unread) >= count:
            data = bytes(memoryview(self._unread)[:count])
            del self._unread[:count]
            return data
        data_so_far, self._unread = self._unread, bytearray()
        while len(data_so_far) < count:
            part = await self._stream.read(min(count - len(data_so_far), _READ_BYTES))
            if not part:
                raise StreamClosed(f"{self.peer} stopped in the middle of a message")
            self.bytes_in += len(part)
            data_so_far += part  # a list of parts would cost forty bytes for each that a peer sends alone
        return bytes(data_so_far)
