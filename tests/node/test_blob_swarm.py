"""A lab that wants one blob: whoever fetches it serves what it has, so that its holder sends it little more than once."""

from __future__ import annotations

import random
import zlib
from typing import ClassVar

import pytest
import trio
import trio.testing

from peerinfer.blob_fetch import HOLDING_AGAIN_S
from peerinfer.blobs import chunks_in, chunks_of, index_of, marked
from peerinfer.errors import DialFailed, NetworkError
from peerinfer.ids import Cid, PeerId
from peerinfer.limits import BLOB_CHUNKS_MAX, BLOB_STALL_S, CHUNK_BYTES, MIB
from peerinfer.rate import Rate
from peerinfer.tensors import Buffer
from peerinfer_node.clock import SystemClock
from peerinfer_node.memory_blob_store import MemoryBlobStore
from peerinfer_node.network.loopback import stream_pair
from peerinfer_node.network.metered import MeteredStream
from peerinfer_node.ports import Stream
from peerinfer_node.roles.blobs import BlobFetcher, BlobServer

SEED = PeerId("seed")
LINE_BYTES_S = 10 * MIB
"""Of everybody, up and down."""


class Store(MemoryBlobStore):
    """Every chunk is in memory once, however many have it."""

    chunks: ClassVar[dict[bytes, bytes]] = {}

    async def write_chunk(self, cid: Cid, index: int, data: Buffer) -> bool:
        return await super().write_chunk(cid, index, self.chunks.setdefault(bytes(data), bytes(data)))


class Node:
    """Its own store, line, server and fetcher; the lab is everybody by name."""

    def __init__(self, peer_id: PeerId, lab: dict[PeerId, Node], nursery: trio.Nursery) -> None:
        self.peer_id = peer_id
        self.store = Store()
        self.sent_bytes = 0
        self._up, self._down = Rate(LINE_BYTES_S), Rate(LINE_BYTES_S)
        self._lab = lab
        self._nursery = nursery
        self.server = BlobServer(self.store)
        seed = zlib.crc32(peer_id.encode())
        self.fetcher = BlobFetcher(self, self.store, SystemClock(), seed=seed)  # type: ignore[arg-type]
        self.server.on_asked = self.fetcher.heard_of
        self.server.is_coming = self.fetcher.is_fetching
        lab[peer_id] = self

    def metered(self, stream: Stream) -> Stream:
        return MeteredStream(stream, self._up, self._down, self._count)

    def _count(self, count: int) -> None:
        self.sent_bytes += count

    async def open_stream(self, peer: PeerId, protocol: str) -> Stream:
        if peer not in self._lab:
            raise DialFailed(f"{peer} is gone")
        here, there = stream_pair(self.peer_id, peer)
        other = self._lab[peer]
        self._nursery.start_soon(other.server.serve, other.metered(there))
        return self.metered(here)


def blob_of(chunks: int) -> tuple[bytes, Cid]:
    data = random.Random(chunks).randbytes(chunks * CHUNK_BYTES)
    return data, index_of(chunks_of(data)).cid


async def seconds_for(nodes: int, chunks: int) -> float:
    """How long it takes until so many nodes have a blob that one has."""
    data, cid = blob_of(chunks)
    lab: dict[PeerId, Node] = {}
    async with trio.open_nursery() as nursery:
        seed = Node(SEED, lab, nursery)
        await seed.store.put(data)
        started_s = trio.current_time()
        async with trio.open_nursery() as fetching:
            for number in range(nodes):
                node = Node(PeerId(f"node {number}"), lab, nursery)
                fetching.start_soon(node.fetcher.fetch, cid, [SEED])
        taken_s = trio.current_time() - started_s
        for node in lab.values():
            assert await node.store.read(cid) == data
        nursery.cancel_scope.cancel()
    return taken_s


@pytest.mark.slow
async def test_ten_nodes_get_a_blob_in_little_more_time_than_one(autojump_clock: trio.testing.MockClock) -> None:
    alone_s = await seconds_for(1, 100)
    together_s = await seconds_for(10, 100)
    print(f"100 MB, all lines {LINE_BYTES_S // MIB} MiB/s: one node {alone_s:.1f} s, ten nodes {together_s:.1f} s")
    assert alone_s == pytest.approx(10.0, rel=0.05)
    assert together_s < 1.7 * alone_s  # of the one who has it alone they would have it in ten times as long


async def test_what_is_left_of_a_blob_whose_only_holder_went_is_said_in_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Two who have the same half would ask each other for ever."""
    data, cid = blob_of(4)
    index = index_of(chunks_of(data)).encode()
    lab: dict[PeerId, Node] = {}
    async with trio.open_nursery() as nursery:
        one, two = (Node(PeerId(name), lab, nursery) for name in ("one", "two"))
        for node in (one, two):
            await node.store.begin(cid, index)
            await node.store.write_chunk(cid, 0, data[:CHUNK_BYTES])
        started_s = trio.current_time()
        with pytest.raises(NetworkError, match="got no more of it itself"):
            await one.fetcher.fetch(cid, [two.peer_id])
        assert trio.current_time() - started_s < BLOB_STALL_S + 2 * HOLDING_AGAIN_S
        nursery.cancel_scope.cancel()


async def test_what_another_one_gets_later_is_fetched_from_it_then(autojump_clock: trio.testing.MockClock) -> None:
    data, cid = blob_of(3)
    index = index_of(chunks_of(data)).encode()
    lab: dict[PeerId, Node] = {}
    async with trio.open_nursery() as nursery:
        one, two = (Node(PeerId(name), lab, nursery) for name in ("one", "two"))
        await two.store.begin(cid, index)
        nursery.start_soon(one.fetcher.fetch, cid, [two.peer_id])
        for number, chunk in enumerate(chunks_of(data)):
            await trio.sleep(4)
            await two.store.write_chunk(cid, number, chunk)
        with trio.fail_after(2 * HOLDING_AGAIN_S + 1):
            while not await one.store.has(cid):  # noqa: ASYNC110  (a store has no event)
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()


async def test_a_provider_that_names_nobody_but_ghosts_costs_nothing(autojump_clock: trio.testing.MockClock) -> None:
    data, cid = blob_of(8)
    lab: dict[PeerId, Node] = {}
    async with trio.open_nursery() as nursery:
        seed, node = Node(SEED, lab, nursery), Node(PeerId("node"), lab, nursery)
        await seed.store.put(data)
        for number in range(40):
            seed.server._others(cid, PeerId(f"ghost {number}"))
        await node.fetcher.fetch(cid, [SEED])
        assert await node.store.read(cid) == data
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("chunks", [(), (0,), (7, 8), (0, 9, 100), (BLOB_CHUNKS_MAX - 1,)])
def test_marks_come_back_as_the_chunks_that_they_stand_for(chunks: tuple[int, ...]) -> None:
    marks = marked(chunks)
    assert 1 <= len(marks) <= BLOB_CHUNKS_MAX // 8
    assert chunks_in(marks) == frozenset(chunks)
