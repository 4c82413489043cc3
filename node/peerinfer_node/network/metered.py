"""The owner's limits on traffic: a network around another one, which counts all bytes and slows the large ones down.

What carries models, inputs and results is kept to the owner's rates, all peers together. What keeps leases and
membership alive is counted and never held up: it is small, and being late there looks like being dead.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager

import trio

from peerinfer.ids import PeerId
from peerinfer.limits import KIB
from peerinfer.rate import Rate
from peerinfer.tensors import Buffer
from peerinfer_node.ports import Hole, Network, NetworkEvent, Stream, StreamHandler

SLICE_BYTES = 64 * KIB
"""Streams take turns after so much: none waits long behind another's eight megabytes."""

Count = Callable[[int], None]
"""Told of every byte sent or received."""


class MeteredNetwork:
    """Implements `Network`. `bulk` are the protocols that are slowed down; a rate of None is none."""

    def __init__(
        self, network: Network, *, up: Rate | None, down: Rate | None, bulk: Iterable[str], count: Count
    ) -> None:
        self._network = network
        self._up = up
        self._down = down
        self._bulk = frozenset(bulk)
        self._count = count

    @property
    def peer_id(self) -> PeerId:
        return self._network.peer_id

    def addresses(self) -> tuple[str, ...]:
        return self._network.addresses()

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        async def metered(stream: Stream) -> None:
            await handler(self._metered(stream, protocol))

        self._network.serve(protocol, metered)

    def run(self) -> AbstractAsyncContextManager[None]:
        return self._network.run()

    async def dial(self, address: str) -> PeerId:
        return await self._network.dial(address)

    async def answers_at(self, address: str) -> bool:
        return await self._network.answers_at(address)

    def remote_host(self, peer: PeerId) -> str:
        return self._network.remote_host(peer)

    async def open_stream(self, peer: PeerId, protocol: str) -> Stream:
        return self._metered(await self._network.open_stream(peer, protocol), protocol)

    async def disconnect(self, peer: PeerId) -> None:
        await self._network.disconnect(peer)

    def connected(self) -> list[PeerId]:
        return self._network.connected()

    def path(self, peer: PeerId) -> str:
        return self._network.path(peer)

    def dig(self, host: str) -> AbstractContextManager[Hole]:
        return self._network.dig(host)

    async def punch(self, hole: Hole, peer: PeerId, host: str, port: int, *, opens: bool, within_s: float) -> None:
        await self._network.punch(hole, peer, host, port, opens=opens, within_s=within_s)

    def streams(self, peer: PeerId) -> int:
        return self._network.streams(peer)

    def events(self) -> AsyncIterator[NetworkEvent]:
        return self._network.events()

    def _metered(self, stream: Stream, protocol: str) -> Stream:
        is_bulk = protocol in self._bulk
        return MeteredStream(stream, self._up if is_bulk else None, self._down if is_bulk else None, self._count)


class MeteredStream:
    """Implements `Stream`. Reading slowly is enough to slow the sender: the transport has windows."""

    def __init__(self, stream: Stream, up: Rate | None, down: Rate | None, count: Count) -> None:
        self._stream = stream
        self._up = up
        self._down = down
        self._count = count

    @property
    def peer(self) -> PeerId:
        return self._stream.peer

    async def read(self, bytes_max: int) -> bytes:
        if self._down is None:
            data = await self._stream.read(bytes_max)
        else:
            data = await self._stream.read(min(bytes_max, SLICE_BYTES))
            await _wait(self._down, len(data))
        self._count(len(data))
        return data

    async def write(self, data: Buffer) -> None:
        if self._up is None:
            await self._stream.write(data)
            self._count(len(data))
            return
        view = memoryview(data).cast("B")
        for start in range(0, len(view), SLICE_BYTES):
            part = view[start : start + SLICE_BYTES]
            await _wait(self._up, len(part))
            await self._stream.write(part)
            self._count(len(part))

    def write_nowait(self, data: Buffer) -> bool:
        is_written = self._up is None and self._stream.write_nowait(data)
        if is_written:
            self._count(len(data))
        return is_written

    async def close(self) -> None:
        await self._stream.close()

    async def reset(self) -> None:
        await self._stream.reset()


async def _wait(rate: Rate, count: int) -> None:
    wait_s = rate.take(count, trio.current_time())
    if wait_s > 0:
        await trio.sleep(wait_s)
