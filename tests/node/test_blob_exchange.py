from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from peerinfer.blobs import chunks_of, index_of
from peerinfer.codec import encode
from peerinfer.errors import DialFailed, LimitExceeded, NetworkError, ProtocolError, StateUnusable, StreamClosed
from peerinfer.ids import Cid, PeerId
from peerinfer.limits import (
    BLOB_CHUNKS_PER_REQUEST_MAX,
    BLOB_IDLE_S,
    BLOB_STALL_S,
    BLOB_STREAMS_PER_PEER_MAX,
    CHUNK_BYTES,
    HELLO_TIMEOUT_S,
    MIB,
)
from peerinfer.messages import (
    PROTOCOL_VERSION,
    BlobChunk,
    BlobChunksWanted,
    BlobManifest,
    BlobManifestWanted,
    BlobRefused,
    Goodbye,
    Hello,
    KeepAlive,
)
from peerinfer_node.blob_store import FileBlobStore
from peerinfer_node.clock import SystemClock
from peerinfer_node.memory_blob_store import MemoryBlobStore
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.network.loopback import LoopbackStream, stream_pair
from peerinfer_node.ports import BlobStore, Stream, StreamHandler
from peerinfer_node.roles.blobs import BLOB_PROTOCOL, BlobFetcher, BlobServer, fetch_blob

HERE, A, B, C = PeerId("here"), PeerId("A"), PeerId("B"), PeerId("C")
HELLO = Hello(PROTOCOL_VERSION, "test")


class Wires:
    """Loopback streams to peers whose handlers are given by the test."""

    peer_id = HERE

    def __init__(self, nursery: trio.Nursery) -> None:
        self.handlers: dict[PeerId, StreamHandler] = {}
        self.opened: list[PeerId] = []
        self._nursery = nursery

    async def open_stream(self, peer: PeerId, protocol: str) -> Stream:
        assert protocol == BLOB_PROTOCOL
        if peer not in self.handlers:
            raise DialFailed(f"nobody answers for {peer}")
        self.opened.append(peer)
        here, there = stream_pair(HERE, peer)
        self._nursery.start_soon(self.handlers[peer], there)
        return here


@pytest.fixture
async def wires() -> AsyncIterator[Wires]:
    async with trio.open_nursery() as nursery:
        yield Wires(nursery)
        nursery.cancel_scope.cancel()


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(f"{size} {seed}").randbytes(size)


def cid(data: bytes) -> Cid:
    return index_of(chunks_of(data)).cid


async def server_with(*blobs: bytes) -> BlobServer:
    store = MemoryBlobStore()
    for data in blobs:
        await store.put(data)
    return BlobServer(store)


async def fetch(wires: Wires, data: bytes, *peers: PeerId, store: BlobStore | None = None) -> BlobStore:
    store = store if store is not None else MemoryBlobStore()
    await fetch_blob(cid(data), peers, wires, store, SystemClock())  # type: ignore[arg-type]
    assert await store.read(cid(data)) == data
    return store


Answer = Callable[[MessageStream, Any], Awaitable[None]]


def scripted(answer: Answer) -> StreamHandler:
    """A provider that greets and then answers every question its own way."""

    async def serve(stream: Stream) -> None:
        messages = MessageStream(stream)
        try:
            await messages.send(HELLO)
            await messages.receive_as(Hello)
            while True:
                question, _ = await messages.receive()
                await answer(messages, question)
        except (EOFError, StreamClosed):
            pass

    return serve


def provider_of(data: bytes, spoil: Callable[[MessageStream, BlobChunk, bytes], Awaitable[None]]) -> StreamHandler:
    """A provider that gives the right index; how a chunk is sent is up to `spoil`."""
    chunks = [bytes(chunk) for chunk in chunks_of(data)]

    async def answer(messages: MessageStream, question: Any) -> None:
        if isinstance(question, BlobManifestWanted):
            await messages.send(BlobManifest(question.cid), (index_of(chunks).encode(),))
            return
        for number in range(question.first, question.first + question.count):
            await spoil(messages, BlobChunk(question.cid, number), chunks[number])

    return scripted(answer)


# --- fetching --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 20 * CHUNK_BYTES + 3])
async def test_a_blob_is_fetched_whole(wires: Wires, tmp_path: Path, size: int) -> None:
    data = noise(size)
    wires.handlers[A] = (await server_with(data)).serve
    store = FileBlobStore(tmp_path, 32 * MIB)
    await fetch(wires, data, A, store=store)
    await fetch(wires, data, A, store=store)
    assert wires.opened == [A], "what is held is not fetched again"


async def test_several_providers_share_the_chunks(wires: Wires) -> None:
    data = noise(24 * CHUNK_BYTES)
    sent: dict[PeerId, int] = dict.fromkeys((A, B, C), 0)

    def counting(peer: PeerId) -> StreamHandler:
        async def spoil(messages: MessageStream, chunk: BlobChunk, body: bytes) -> None:
            sent[peer] += 1
            await messages.send(chunk, (body,))

        return provider_of(data, spoil)

    for peer in (A, B, C):
        wires.handlers[peer] = counting(peer)
    await fetch(wires, data, A, B, C)
    assert sum(sent.values()) == 24
    assert min(sent.values()) >= 3


async def test_one_of_two_sends_a_false_chunk_and_the_other_one_completes(wires: Wires) -> None:
    data = noise(12 * CHUNK_BYTES)

    async def spoil(messages: MessageStream, chunk: BlobChunk, body: bytes) -> None:
        await messages.send(chunk, (body[:-1] + b"?",))

    wires.handlers[A] = provider_of(data, spoil)
    wires.handlers[B] = (await server_with(data)).serve
    await fetch(wires, data, A, B)


async def test_a_provider_that_stops_in_the_middle_of_a_chunk_is_replaced(wires: Wires) -> None:
    data = noise(12 * CHUNK_BYTES)

    class Halves:
        """Passes everything on, up to half of the third chunk."""

        def __init__(self, stream: Stream) -> None:
            self._stream = stream
            self._left = 2 * CHUNK_BYTES + CHUNK_BYTES // 2
            self.peer = stream.peer
            self.read, self.close, self.reset = stream.read, stream.close, stream.reset

        async def write(self, data: bytes) -> None:
            await self._stream.write(data[: self._left])
            self._left -= len(data)
            if self._left <= 0:
                await self._stream.close()
                await trio.sleep_forever()

        def write_nowait(self, data: bytes) -> bool:
            return False

    server = await server_with(data)
    wires.handlers[A] = lambda stream: server.serve(Halves(stream))  # type: ignore[arg-type]
    with pytest.raises(NetworkError, match="middle of a message"):
        await fetch(wires, data, A)
    wires.handlers[B] = server.serve
    await fetch(wires, data, A, B)


async def test_a_provider_that_falls_silent_is_given_up_in_time(
    wires: Wires, autojump_clock: trio.testing.MockClock
) -> None:
    data = noise(4 * CHUNK_BYTES)

    async def spoil(messages: MessageStream, chunk: BlobChunk, body: bytes) -> None:
        if chunk.index >= 2:
            await trio.sleep_forever()
        await messages.send(chunk, (body,))

    wires.handlers[A] = provider_of(data, spoil)
    started_s = trio.current_time()
    with pytest.raises(NetworkError, match=r"A owed 2 chunks and sent nothing for 30 s"):
        await fetch(wires, data, A)
    assert trio.current_time() - started_s == pytest.approx(BLOB_STALL_S)


async def test_a_silent_provider_does_not_hold_up_another(wires: Wires, autojump_clock: trio.testing.MockClock) -> None:
    data = noise(10 * CHUNK_BYTES)

    async def spoil(messages: MessageStream, chunk: BlobChunk, body: bytes) -> None:
        await trio.sleep_forever()

    wires.handlers[A] = provider_of(data, spoil)
    wires.handlers[B] = (await server_with(data)).serve
    started_s = trio.current_time()
    await fetch(wires, data, A, B)
    assert trio.current_time() - started_s < BLOB_STALL_S


async def test_after_a_break_only_the_missing_chunks_are_asked_for(wires: Wires, tmp_path: Path) -> None:
    data = noise(9 * CHUNK_BYTES + 5)
    asked: list[int] = []

    def lending(count: int) -> StreamHandler:
        async def spoil(messages: MessageStream, chunk: BlobChunk, body: bytes) -> None:
            asked.append(chunk.index)
            if len(asked) > count:
                await messages.send(Goodbye("enough"))
                await messages.close()
                raise EOFError
            await messages.send(chunk, (body,))

        return provider_of(data, spoil)

    wires.handlers[A] = lending(4)
    with pytest.raises(NetworkError, match="said goodbye: enough"):
        await fetch(wires, data, A, store=FileBlobStore(tmp_path, 32 * MIB))
    assert asked == [0, 1, 2, 3, 4]
    asked.clear()
    wires.handlers[A] = lending(100)
    seen: list[tuple[int, int]] = []
    store = FileBlobStore(tmp_path, 32 * MIB)
    fetcher = BlobFetcher(wires, store, SystemClock())  # type: ignore[arg-type]
    await fetcher.fetch(cid(data), [A], lambda done, total: seen.append((done, total)))
    assert sorted(asked) == [4, 5, 6, 7, 8, 9]
    assert seen[0] == (4 * CHUNK_BYTES, len(data))
    assert seen[-1] == (len(data), len(data))
    assert await store.read(cid(data)) == data


async def test_failure_says_what_became_of_each_provider(wires: Wires) -> None:
    data = noise(10)
    wires.handlers[A] = (await server_with()).serve

    async def garbage(stream: Stream) -> None:
        await stream.write(b"HTTP/1.1 400 Bad Request\r\n" * 10)

    wires.handlers[B] = garbage
    with pytest.raises(NetworkError) as caught:
        await fetch(wires, data, A, B, C)
    line = str(caught.value)
    assert "A refused: does not hold it" in line
    assert "B " in line
    assert "C nobody answers for C" in line
    assert "\n" not in line


async def test_without_providers_it_fails_at_once(wires: Wires) -> None:
    with pytest.raises(NetworkError, match="nobody is known"):
        await fetch(wires, b"data")


async def test_a_blob_that_does_not_fit_is_our_own_limit(wires: Wires) -> None:
    data = noise(100)
    wires.handlers[A] = (await server_with(data)).serve
    with pytest.raises(LimitExceeded):
        await fetch(wires, data, A, store=MemoryBlobStore(50))


async def test_a_disk_that_fills_up_is_no_fault_of_the_provider(wires: Wires) -> None:
    data = noise(3 * CHUNK_BYTES)
    wires.handlers[A] = (await server_with(data)).serve

    class FullStore(MemoryBlobStore):
        async def write_chunk(self, *_: object) -> bool:
            raise StateUnusable("the disk is full")

    with pytest.raises(StateUnusable, match="the disk is full"):
        await fetch(wires, data, A, store=FullStore())


# --- liars -----------------------------------------------------------------------------------------------------------


async def unasked_chunk_first(messages: MessageStream, question: Any) -> None:
    await messages.send(BlobChunk(question.cid, 0), (noise(10),))


async def huge_chunk_number(messages: MessageStream, question: Any) -> None:
    await messages.send(BlobChunk(question.cid, 2**32 - 1), (noise(10),))


async def foreign_index(messages: MessageStream, question: Any) -> None:
    await messages.send(BlobManifest(question.cid), (index_of([b"another"]).encode(),))


async def junk_index(messages: MessageStream, question: Any) -> None:
    await messages.send(BlobManifest(question.cid), (noise(7 * MIB),))


async def foreign_cid(messages: MessageStream, question: Any) -> None:
    await messages.send(BlobManifest(cid(b"another")), (index_of([b"another"]).encode(),))


async def chunk_under_a_foreign_name(messages: MessageStream, question: Any) -> None:
    if isinstance(question, BlobManifestWanted):
        await messages.send(BlobManifest(question.cid), (index_of([noise(10)]).encode(),))
    else:
        await messages.send(BlobChunk(cid(b"another"), 0), (noise(10),))


async def another_kind(messages: MessageStream, question: Any) -> None:
    await messages.send(KeepAlive())


async def the_question_back(messages: MessageStream, question: Any) -> None:
    await messages.send(question)


async def index_without_end(messages: MessageStream, question: Any) -> None:
    while True:
        await messages.send(BlobManifest(question.cid), (index_of([noise(10)]).encode(),))


@pytest.mark.parametrize(
    "answer",
    [
        unasked_chunk_first,
        huge_chunk_number,
        foreign_index,
        junk_index,
        foreign_cid,
        chunk_under_a_foreign_name,
        another_kind,
        the_question_back,
        index_without_end,
    ],
)
async def test_a_liar_is_a_protocol_error_and_no_harm_to_the_honest(wires: Wires, answer: Answer) -> None:
    data = noise(10)
    wires.handlers[A] = scripted(answer)
    with trio.fail_after(5), pytest.raises(ProtocolError, match="could not be fetched: A "):
        await fetch(wires, data, A)
    wires.handlers[B] = (await server_with(data)).serve
    with trio.fail_after(5):
        await fetch(wires, data, A, B)


async def test_a_flood_of_indexes_is_cut_off_while_the_store_is_busy(wires: Wires) -> None:
    cut_off = trio.Event()

    async def flood(stream: Stream) -> None:
        await scripted(index_without_end)(stream)
        cut_off.set()

    class BusyStore(MemoryBlobStore):
        async def begin(self, name: Cid, manifest: bytes) -> list[int]:
            await cut_off.wait()
            return await super().begin(name, manifest)

    wires.handlers[A] = flood
    with trio.fail_after(5), pytest.raises(ProtocolError, match="sent the index twice"):
        await fetch(wires, noise(10), A, store=BusyStore())


async def test_a_provider_that_was_given_up_is_cut_off_while_the_fetch_goes_on(
    wires: Wires, autojump_clock: trio.testing.MockClock
) -> None:
    data = noise(6 * CHUNK_BYTES)
    cut_off_s = 0.0

    async def silent(messages: MessageStream, chunk: BlobChunk, body: bytes) -> None:
        nonlocal cut_off_s
        try:
            while True:
                await messages.receive()
        finally:
            cut_off_s = trio.current_time()

    async def slow(messages: MessageStream, chunk: BlobChunk, body: bytes) -> None:
        await trio.sleep(20)
        await messages.send(chunk, (body,))

    wires.handlers[A] = provider_of(data, silent)
    wires.handlers[B] = provider_of(data, slow)
    started_s = trio.current_time()
    await fetch(wires, data, A, B)
    assert cut_off_s - started_s == pytest.approx(BLOB_STALL_S)
    assert trio.current_time() - started_s == pytest.approx(120)


async def test_what_a_peer_says_of_itself_stays_on_one_line(wires: Wires) -> None:
    async def answer(messages: MessageStream, question: Any) -> None:
        await messages.send(BlobRefused(question.cid, "a\nb\x1b[31m" + "x" * 400))

    wires.handlers[A] = scripted(answer)
    with pytest.raises(NetworkError) as caught:
        await fetch(wires, b"data", A)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("hello", [Hello(PROTOCOL_VERSION + 1, "test"), Hello(PROTOCOL_VERSION, "test", "other swarm")])
async def test_strangers_are_told_so_and_left_alone(wires: Wires, hello: Hello) -> None:
    data = noise(10)
    server = await server_with(data)

    async def stranger(stream: Stream) -> None:
        await MessageStream(stream).send(hello)
        await trio.sleep_forever()

    wires.handlers[A] = stranger
    with pytest.raises(NetworkError, match=r"version|different swarms"):
        await fetch(wires, data, A)

    here, there = stream_pair(HERE, A)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, there)
        messages = MessageStream(here)
        await messages.send(hello)
        await messages.receive_as(Hello)
        goodbye, _ = await messages.receive_as(Goodbye)
        assert "version" in goodbye.reason or "swarm" in goodbye.reason
        with pytest.raises(EOFError):
            await messages.receive()


async def test_a_peer_that_never_says_hello_is_given_up(wires: Wires, autojump_clock: trio.testing.MockClock) -> None:
    async def mute(stream: Stream) -> None:
        await trio.sleep_forever()

    wires.handlers[A] = mute
    started_s = trio.current_time()
    with pytest.raises(NetworkError, match="no hello"):
        await fetch(wires, b"data", A)
    assert trio.current_time() - started_s == pytest.approx(HELLO_TIMEOUT_S)


# --- many who want the same ------------------------------------------------------------------------------------------


async def test_who_wants_the_same_blob_joins_the_fetch_under_way(wires: Wires) -> None:
    data = noise(6 * CHUNK_BYTES)
    wires.handlers[A] = (await server_with(data)).serve
    store = MemoryBlobStore()
    fetcher = BlobFetcher(wires, store, SystemClock())  # type: ignore[arg-type]
    seen: list[int] = []
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(fetcher.fetch, cid(data), [A], lambda done, total: seen.append(done))
    assert wires.opened == [A]
    assert seen.count(len(data)) == 5


async def test_when_the_first_is_cancelled_a_joined_one_takes_over(wires: Wires) -> None:
    data = noise(2 * CHUNK_BYTES)
    gate = trio.Event()
    asked = trio.Event()

    async def spoil(messages: MessageStream, chunk: BlobChunk, body: bytes) -> None:
        asked.set()
        await gate.wait()
        await messages.send(chunk, (body,))

    wires.handlers[A] = provider_of(data, spoil)
    store = MemoryBlobStore()
    fetcher = BlobFetcher(wires, store, SystemClock())  # type: ignore[arg-type]
    scope = trio.CancelScope()

    async def first() -> None:
        with scope:
            await fetcher.fetch(cid(data), [A])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await asked.wait()
        nursery.start_soon(fetcher.fetch, cid(data), [A])
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert await store.read(cid(data)) == data
    assert wires.opened == [A, A]


async def test_one_who_joins_brings_providers_along_and_all_fail_together(wires: Wires) -> None:
    data = noise(2 * CHUNK_BYTES)
    gate = trio.Event()

    async def refusing(messages: MessageStream, question: Any) -> None:
        await gate.wait()
        await messages.send(BlobRefused(question.cid, "not today"))

    wires.handlers[A] = scripted(refusing)
    fetcher = BlobFetcher(wires, MemoryBlobStore(), SystemClock())  # type: ignore[arg-type]
    errors: list[str] = []

    async def fetching(peer: PeerId) -> None:
        try:
            await fetcher.fetch(cid(data), [peer])
        except NetworkError as error:
            errors.append(str(error))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetching, A)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(fetching, B)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert len(errors) == 2
    assert "not today" in errors[0]
    assert errors[0] == errors[1]
    wires.handlers[B] = (await server_with(data)).serve
    await fetcher.fetch(cid(data), [B])


async def test_one_who_comes_when_a_fetch_has_just_failed_starts_another(wires: Wires) -> None:
    data = noise(10)
    cleaning, gate = trio.Event(), trio.Event()
    wires.handlers[A] = (await server_with()).serve
    wires.handlers[B] = (await server_with(data)).serve
    open_stream = wires.open_stream

    async def open_slow_to_end(peer: PeerId, protocol: str) -> Stream:
        stream = await open_stream(peer, protocol)
        reset = stream.reset

        async def slow_reset() -> None:
            cleaning.set()
            await gate.wait()
            await reset()

        stream.reset = slow_reset  # type: ignore[method-assign]
        return stream

    wires.open_stream = open_slow_to_end  # type: ignore[method-assign]
    fetcher = BlobFetcher(wires, MemoryBlobStore(), SystemClock())  # type: ignore[arg-type]

    async def first() -> None:
        with pytest.raises(NetworkError, match="does not hold it"):
            await fetcher.fetch(cid(data), [A])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await cleaning.wait()
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(fetcher.fetch, cid(data), [B])
        await trio.testing.wait_all_tasks_blocked()
        gate.set()


# --- serving ---------------------------------------------------------------------------------------------------------


async def greeted(nursery: trio.Nursery, server: BlobServer, peer: PeerId = HERE) -> MessageStream:
    here, there = stream_pair(peer, A)
    nursery.start_soon(server.serve, there)
    messages = MessageStream(here)
    await messages.send(HELLO)
    await messages.receive_as(Hello)
    return messages


async def test_what_is_not_held_is_refused_and_the_stream_goes_on(nursery: trio.Nursery) -> None:
    data = noise(2 * CHUNK_BYTES)
    messages = await greeted(nursery, await server_with(data))
    for question in (
        BlobManifestWanted(cid(b"other")),
        BlobManifestWanted("../../etc/passwd"),
        BlobChunksWanted(cid(data), 2, 1),
        BlobChunksWanted(cid(data), 2**32 - 1, BLOB_CHUNKS_PER_REQUEST_MAX),
        BlobChunksWanted("", 0, 1),
    ):
        await messages.send(question)
        await messages.receive_as(BlobRefused)
    await messages.send(BlobChunksWanted(cid(data), 1, 1))
    answer, body = await messages.receive_as(BlobChunk)
    assert (answer.index, body) == (1, data[CHUNK_BYTES:])


OUT_OF_BOUNDS = [
    (BlobChunksWanted(cid(b"x"), 0, BLOB_CHUNKS_PER_REQUEST_MAX + 1), b""),
    (BlobChunksWanted(cid(b"x"), 0, 0), b""),
    (BlobManifestWanted(cid(b"x")), b"a body"),
    (BlobChunk(cid(b"x"), 0), b"x"),
    (HELLO, b""),
]


@pytest.mark.parametrize(("question", "body"), OUT_OF_BOUNDS)
async def test_a_question_out_of_bounds_ends_the_stream(nursery: trio.Nursery, question: Any, body: bytes) -> None:
    messages = await greeted(nursery, await server_with(b"x"))
    await messages.send(question, (body,))
    with pytest.raises(StreamClosed):
        await messages.receive()


@pytest.mark.parametrize("seed", range(20))
async def test_garbage_ends_the_stream_and_not_the_server(nursery: trio.Nursery, seed: int) -> None:
    server = await server_with(b"x")
    chance = random.Random(seed)
    here, there = stream_pair(HERE, A)
    with trio.fail_after(5):
        async with trio.open_nursery() as serving:
            serving.start_soon(server.serve, there)
            if chance.random() < 0.7:
                await MessageStream(here).send(HELLO)
            question = bytearray(encode(BlobChunksWanted(cid(b"x"), 0, 1)))
            question[chance.randrange(len(question))] ^= 1 << chance.randrange(8)
            await here.write(bytes([len(question), 0]) + question if seed % 2 else chance.randbytes(500))
            await here.close()
    messages = await greeted(nursery, server)
    await messages.send(BlobManifestWanted(cid(b"x")))
    await messages.receive_as(BlobManifest)


async def test_a_peer_has_so_many_streams_and_no_more(nursery: trio.Nursery) -> None:
    server = await server_with(b"x")
    held = [await greeted(nursery, server) for _ in range(BLOB_STREAMS_PER_PEER_MAX)]
    refused = await greeted(nursery, server)
    goodbye, _ = await refused.receive_as(Goodbye)
    assert "too many" in goodbye.reason
    other = await greeted(nursery, server, peer=B)
    await other.send(BlobManifestWanted(cid(b"x")))
    await other.receive_as(BlobManifest)
    await held[0].close()
    await trio.testing.wait_all_tasks_blocked()
    again = await greeted(nursery, server)
    await again.send(BlobManifestWanted(cid(b"x")))
    await again.receive_as(BlobManifest)


async def test_an_idle_stream_is_closed_with_a_word(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    messages = await greeted(nursery, await server_with(b"x"))
    started_s = trio.current_time()
    await messages.receive_as(Goodbye)
    assert trio.current_time() - started_s == pytest.approx(BLOB_IDLE_S)


async def test_nothing_is_left_behind_when_a_fetch_ends(wires: Wires) -> None:
    data = noise(3 * CHUNK_BYTES)
    server = await server_with(data)
    streams: list[LoopbackStream] = []
    ended = trio.Event()

    async def serve(stream: Any) -> None:
        streams.append(stream)
        await server.serve(stream)
        ended.set()

    wires.handlers[A] = serve
    await fetch(wires, data, A)
    with trio.fail_after(5):
        await ended.wait()
    with pytest.raises(StreamClosed):
        await streams[0].write(b"?")
