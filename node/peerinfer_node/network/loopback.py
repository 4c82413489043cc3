"""Streams inside one process: how a coordinator reaches this node's own devices, and what the simulator builds on."""

from __future__ import annotations

import trio

from peerinfer.errors import StreamClosed
from peerinfer.ids import PeerId
from peerinfer.tensors import Buffer

_BYTES_IN_FLIGHT_MAX = 1024 * 1024


class LoopbackStream:
    """One end of a pair; a writer waits while more than 1 MiB is unread."""

    def __init__(self, peer: PeerId) -> None:
        self._peer = peer
        self._unread = bytearray()
        self._finished = False
        self._broken = False
        self._changed = trio.Condition()
        self._other: LoopbackStream = self

    @property
    def peer(self) -> PeerId:
        return self._peer

    async def read(self, bytes_max: int) -> bytes:
        async with self._changed:
            while not self._unread:
                if self._broken:
                    raise StreamClosed(f"the stream to {self._peer} was reset")
                if self._finished:
                    return b""
                await self._changed.wait()
            data = bytes(memoryview(self._unread)[:bytes_max])
            del self._unread[:bytes_max]
            self._changed.notify_all()
            return data

    async def write(self, data: Buffer) -> None:
        await self._other._take(data)

    def write_nowait(self, data: Buffer) -> bool:
        changed = self._other._changed
        try:
            changed.acquire_nowait()
        except trio.WouldBlock:
            return False
        try:
            return self._other._take_nowait(data)
        finally:
            changed.release()

    async def _take(self, data: Buffer) -> None:
        async with self._changed:
            while not self._take_nowait(data):
                await self._changed.wait()

    def _take_nowait(self, data: Buffer) -> bool:
        if self._finished or self._broken:
            raise StreamClosed(f"the stream to {self._other._peer} is closed")
        if len(self._unread) > _BYTES_IN_FLIGHT_MAX:
            return False
        self._unread += data
        self._changed.notify_all()
        return True

    async def close(self) -> None:
        await self._other._end(broken=False)

    async def reset(self) -> None:
        await self._other._end(broken=True)
        await self._end(broken=True)

    async def _end(self, *, broken: bool) -> None:
        with trio.CancelScope(shield=True):
            async with self._changed:
                self._finished = True
                if broken:
                    self._broken = True
                    self._unread.clear()
                self._changed.notify_all()


def stream_pair(here: PeerId, there: PeerId) -> tuple[LoopbackStream, LoopbackStream]:
    """The end that `here` holds (its peer is `there`), and the end that `there` holds."""
    a, b = LoopbackStream(there), LoopbackStream(here)
    a._other, b._other = b, a
    return a, b
