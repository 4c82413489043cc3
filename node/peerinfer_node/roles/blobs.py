"""Serving blobs to peers, and fetching them: the conversations of `/peerinfer/blob/1`.

Both sides say hello. Then the fetching side asks, for the index or for a run of chunks, and the serving side answers
each question in turn: with what was asked for, or with a refusal. Questions may be asked ahead of the answers.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import trio

from peerinfer.blob_fetch import Fetch
from peerinfer.blob_fetch_events import (
    AskChunks,
    AskHolding,
    AskIndex,
    Begin,
    Begun,
    ChunkArrived,
    Completed,
    Drop,
    Failed,
    FetchEffect,
    FetchEvent,
    HoldingArrived,
    IndexArrived,
    Progressed,
    ProviderLost,
    ProvidersFound,
)
from peerinfer.blobs import chunks_in, marked
from peerinfer.errors import NetworkError, PeerinferError, ProtocolError
from peerinfer.ids import Cid, PeerId
from peerinfer.limits import (
    BLOB_CHUNKS_PER_REQUEST_MAX,
    BLOB_IDLE_S,
    BLOB_OTHERS_MAX,
    BLOB_STREAMS_MAX,
    BLOB_STREAMS_PER_PEER_MAX,
    HELLO_TIMEOUT_S,
    REASON_CHARS_MAX,
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
)
from peerinfer_node.driver import Driver
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.ports import BlobStore, LocalClock, Network, Stream

BLOB_PROTOCOL = "/peerinfer/blob/1"

ASKED_BLOBS_MAX = 256
"""Blobs whose askers are remembered, those asked for lately."""

COMING_WAIT_S = 5.0
"""So long an asker waits for a blob whose index this node has just asked for itself."""

COMING_LOOK_S = 0.1

Reach = Callable[[PeerId], Awaitable[None]]

Progress = Callable[[int, int], None]
"""Called with the bytes that are there and the bytes of the whole blob."""

Given = Callable[[Cid, int], None]
"""Called with the blob and the bytes that a peer has taken of it."""

_log = logging.getLogger("peerinfer.blobs")


class BlobServer:
    """Answers what peers ask of the store, within limits per peer and in all."""

    def __init__(
        self,
        store: BlobStore,
        *,
        agent: str = "peerinfer",
        swarm: str = "",
        objection: Callable[[], str] = lambda: "",
    ) -> None:
        """`objection` says why nothing may be served now, or nothing."""
        self._store = store
        self._hello = Hello(PROTOCOL_VERSION, agent, swarm)
        self._objection = objection
        self._streams: dict[PeerId, int] = {}
        self._watchers: list[Given] = []
        self._askers: OrderedDict[Cid, OrderedDict[PeerId, None]] = OrderedDict()
        self.on_asked: Callable[[Cid, PeerId], None] = lambda cid, peer: None
        """Called when a peer asks for a blob: soon it has some of it."""
        self.is_coming: Callable[[Cid], bool] = lambda cid: False
        """Whether this node is fetching a blob itself, and may not know its index yet."""

    @contextmanager
    def watched(self, watcher: Given) -> Iterator[None]:
        """Tells of every chunk that is given away."""
        self._watchers.append(watcher)
        try:
            yield
        finally:
            self._watchers.remove(watcher)

    async def serve(self, stream: Stream) -> None:
        """Returns when the conversation is over, however it ended."""
        peer = stream.peer
        messages = MessageStream(stream)
        count = self._streams.get(peer, 0)
        is_admitted = count < BLOB_STREAMS_PER_PEER_MAX and sum(self._streams.values()) < BLOB_STREAMS_MAX
        if is_admitted:
            self._streams[peer] = count + 1
        is_closed = False
        try:
            await messages.send(self._hello)
            if is_admitted:
                await self._converse(messages)
            else:
                await messages.send(Goodbye("too many blob streams; come back later"))
            await stream.close()
            is_closed = True
        except PeerinferError as error:
            _log.info("blob stream of %s ended: %s", peer, error)
        finally:
            if is_admitted:
                self._leave(peer)
            # A reset after a goodbye would take it back: the other side throws away what it has not read.
            if not is_closed:
                with trio.CancelScope(shield=True):
                    await stream.reset()

    def _leave(self, peer: PeerId) -> None:
        self._streams[peer] -= 1
        if not self._streams[peer]:
            del self._streams[peer]

    async def _converse(self, messages: MessageStream) -> None:
        try:
            objection = await _greeted(messages, self._hello)
            if objection:
                await messages.send(Goodbye(objection))
                return
            while True:
                with trio.move_on_after(BLOB_IDLE_S) as scope:
                    question, body = await messages.receive_as(BlobManifestWanted, BlobChunksWanted)
                if scope.cancelled_caught:
                    await messages.send(Goodbye(f"nothing was asked for {BLOB_IDLE_S:g} s"))
                    return
                if body:
                    raise ProtocolError(f"{messages.peer} sent a question with a body")
                if objection := self._objection():
                    await messages.send(Goodbye(objection))
                    return
                if isinstance(question, BlobManifestWanted):
                    await self._give_index(messages, Cid(question.cid), again=question.again)
                else:
                    await self._give_chunks(messages, question)
        except EOFError:
            return

    async def _give_index(self, messages: MessageStream, cid: Cid, *, again: bool) -> None:
        pieces = await self._store.pieces(cid)
        with trio.move_on_after(COMING_WAIT_S):
            while pieces is None and self.is_coming(cid):
                await trio.sleep(COMING_LOOK_S)
                pieces = await self._store.pieces(cid)
        if pieces is None:
            await messages.send(BlobRefused(cid, "does not hold it"))
            return
        index, here = pieces
        others = self._others(cid, messages.peer)
        self.on_asked(cid, messages.peer)
        answer = BlobManifest(cid, b"" if here is None else marked(here), others)
        await messages.send(answer, () if again else (index,))

    def _others(self, cid: Cid, peer: PeerId) -> tuple[PeerId, ...]:
        """Who asked for it before this one, the latest last; from now on it is among them."""
        askers = self._askers.setdefault(cid, OrderedDict())
        self._askers.move_to_end(cid)
        if len(self._askers) > ASKED_BLOBS_MAX:
            self._askers.popitem(last=False)
        askers.pop(peer, None)
        others = tuple(askers)
        askers[peer] = None
        if len(askers) > BLOB_OTHERS_MAX:
            askers.popitem(last=False)
        return others[-BLOB_OTHERS_MAX:]

    async def _give_chunks(self, messages: MessageStream, question: BlobChunksWanted) -> None:
        cid = Cid(question.cid)
        if not 1 <= question.count <= BLOB_CHUNKS_PER_REQUEST_MAX:
            raise ProtocolError(f"{messages.peer} asked for {question.count} chunks at once")
        for number in range(question.first, question.first + question.count):
            data = await self._store.read_chunk(cid, number)
            if data is None:
                await messages.send(BlobRefused(cid, f"does not hold chunk {number}"))
                return
            await messages.send(BlobChunk(cid, number), (data,))
            for watcher in self._watchers:
                watcher(cid, len(data))


class BlobFetcher:
    """Fetches blobs into the store. Whoever wants a blob that is being fetched already joins in."""

    def __init__(
        self,
        network: Network,
        store: BlobStore,
        clock: LocalClock,
        *,
        agent: str = "peerinfer",
        swarm: str = "",
        reach: Reach | None = None,
        seed: int = 0,
    ) -> None:
        """`reach` connects to a peer that this node knows of. `seed` is this node's own: where in a blob it begins."""
        self._network = network
        self._reach = reach
        self._seed = seed
        self._store = store
        self._clock = clock
        self._hello = Hello(PROTOCOL_VERSION, agent, swarm)
        self._flights: dict[Cid, _Flight] = {}

    async def fetch(self, cid: Cid, providers: Sequence[PeerId], progress: Progress | None = None) -> None:
        """Returns when the store holds the blob. Goes on where a fetch before this one broke off.

        Raises `NetworkError`, or `ProtocolError` if every provider broke the protocol, with what became of each;
        `LimitExceeded` or `StateUnusable` if the store cannot take it.
        """
        while not await self._store.has(cid):
            flight = self._flights.get(cid)
            if flight is None:
                await self._fly(cid, providers, progress)
                return
            is_in_time = not flight.is_over
            if is_in_time:
                flight.join(providers, progress)
            await flight.ended.wait()
            if is_in_time and flight.error is not None:
                raise flight.error
            # The one who flew it was cancelled: then it is our turn. Otherwise the blob is there.

    def is_fetching(self, cid: Cid) -> bool:
        return cid in self._flights

    def heard_of(self, cid: Cid, peer: PeerId) -> None:
        """This peer fetches the blob too, or has it."""
        flight = self._flights.get(cid)
        if flight is not None and not flight.is_over:
            flight.join((peer,), None)

    async def _fly(self, cid: Cid, providers: Sequence[PeerId], progress: Progress | None) -> None:
        flight = self._flights[cid] = _Flight(
            cid, self._network, self._store, self._clock, self._hello, self._reach, self._seed
        )
        flight.join(providers, progress)
        try:
            await flight.run()
        finally:
            del self._flights[cid]
            flight.ended.set()


async def fetch_blob(
    cid: Cid, providers: Sequence[PeerId], network: Network, store: BlobStore, clock: LocalClock
) -> None:
    """One fetch by itself; see `BlobFetcher.fetch`."""
    await BlobFetcher(network, store, clock).fetch(cid, providers)


class _Conversation:
    """What is to be asked of one provider. The machine never asks for more than it lets a provider owe."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.questions, self.to_ask = trio.open_memory_channel[AskIndex | AskHolding | AskChunks](float("inf"))


class _Flight:
    """One fetch under way: the `Fetch` machine, and two tasks for each provider, one that asks and one that listens."""

    def __init__(
        self,
        cid: Cid,
        network: Network,
        store: BlobStore,
        clock: LocalClock,
        hello: Hello,
        reach: Reach | None,
        seed: int,
    ) -> None:
        self.is_over = False
        """The outcome is known, though not everything is cleaned up."""
        self.ended = trio.Event()
        self.error: PeerinferError | None = None
        self._cid = cid
        self._watchers: list[Progress] = []
        self._network = network
        self._reach = reach
        self._store = store
        self._hello = hello
        self._fetch = Fetch(cid, seed)
        self._driver: Driver[FetchEvent, FetchEffect] = Driver(self._fetch, clock, self._perform)
        self._conversations: dict[PeerId, _Conversation] = {}
        self._with_index: set[PeerId] = set()
        self._nursery: trio.Nursery | None = None

    def join(self, providers: Sequence[PeerId], progress: Progress | None) -> None:
        if progress is not None:
            self._watchers.append(progress)
        self._driver.post(ProvidersFound(tuple(providers)))

    async def run(self) -> None:
        async with trio.open_nursery() as self._nursery:
            try:
                await self._driver.run()
            except PeerinferError as error:
                self._end(error)
        if self.error is not None:
            raise self.error

    def _end(self, error: PeerinferError | None) -> None:
        assert self._nursery is not None
        self.error = error
        self.is_over = True
        self._nursery.cancel_scope.cancel()

    async def _perform(self, effect: FetchEffect) -> None:
        if isinstance(effect, AskIndex | AskHolding | AskChunks):
            self._conversation(effect.peer).questions.send_nowait(effect)
        elif isinstance(effect, Begin):
            missing = await self._store.begin(self._cid, effect.index.encode())
            self._driver.post(Begun(tuple(missing)))
        elif isinstance(effect, Progressed):
            for watcher in self._watchers:
                watcher(effect.done_bytes, effect.total_bytes)
        elif isinstance(effect, Drop):
            conversation = self._conversations.pop(effect.peer, None)
            if conversation is not None:
                conversation.scope.cancel()
        elif isinstance(effect, Completed):
            self._end(None)
        elif isinstance(effect, Failed):
            self._end(ProtocolError(effect.reason) if effect.lied else NetworkError(effect.reason))

    # --- with one provider

    def _conversation(self, peer: PeerId) -> _Conversation:
        if peer not in self._conversations:
            assert self._nursery is not None
            conversation = self._conversations[peer] = _Conversation()
            self._nursery.start_soon(self._converse, peer, conversation)
        return self._conversations[peer]

    async def _converse(self, peer: PeerId, conversation: _Conversation) -> None:
        with conversation.scope:
            try:
                if self._reach is not None:
                    await self._reach(peer)
                stream = await self._network.open_stream(peer, BLOB_PROTOCOL)
            except PeerinferError as error:
                self._lose(peer, error)
                return
            try:
                async with trio.open_nursery() as nursery:
                    messages = MessageStream(stream)
                    nursery.start_soon(self._ask, messages, conversation)
                    await self._listen(messages)
                    nursery.cancel_scope.cancel()
            finally:
                with trio.CancelScope(shield=True):
                    await stream.reset()

    async def _ask(self, messages: MessageStream, conversation: _Conversation) -> None:
        try:
            await messages.send(self._hello)
            async for question in conversation.to_ask:
                if isinstance(question, AskIndex):
                    await messages.send(BlobManifestWanted(self._cid))
                elif isinstance(question, AskHolding):
                    await messages.send(BlobManifestWanted(self._cid, again=True))
                else:
                    await messages.send(BlobChunksWanted(self._cid, question.first, question.count))
        except PeerinferError as error:
            self._lose(messages.peer, error)

    async def _listen(self, messages: MessageStream) -> None:
        try:
            objection = await _greeted(messages, self._hello)
            if objection:
                raise NetworkError(objection)
            while True:
                await self._take(messages.peer, *await messages.receive())
        except EOFError:
            self._lose(messages.peer, NetworkError("ended the stream"))
        except PeerinferError as error:
            self._lose(messages.peer, error)

    async def _take(self, peer: PeerId, answer: object, body: bytes) -> None:
        if isinstance(answer, Goodbye):
            raise NetworkError(f"said goodbye: {answer.reason}")
        if not isinstance(answer, BlobManifest | BlobChunk | BlobRefused) or answer.cid != self._cid:
            raise ProtocolError(f"answered with a {type(answer).__name__} that was not asked for")
        if isinstance(answer, BlobRefused):
            raise NetworkError(f"refused: {answer.reason}")
        if isinstance(answer, BlobManifest):
            holds = chunks_in(answer.holds) if answer.holds else None
            if self._fetch.expects_holding(peer):
                self._driver.post(HoldingArrived(peer, holds))
            elif peer not in self._with_index:
                self._with_index.add(peer)
                self._driver.post(IndexArrived(peer, body, holds))
            else:
                raise ProtocolError("sent the index twice")
            if answer.others:
                self._driver.post(ProvidersFound(tuple(map(PeerId, answer.others))))
            return
        if not self._fetch.expects(peer, answer.index):
            raise ProtocolError(f"sent chunk {answer.index}, which was not asked for")
        try:
            is_right = await self._store.write_chunk(self._cid, answer.index, body)
        except PeerinferError as error:
            self._end(error)  # Ours to answer for, not the provider's.
            return
        self._driver.post(ChunkArrived(peer, answer.index, is_right))

    def _lose(self, peer: PeerId, error: PeerinferError) -> None:
        reason = "".join(character if character.isprintable() else "?" for character in str(error))
        self._driver.post(ProviderLost(peer, reason[:REASON_CHARS_MAX], lied=isinstance(error, ProtocolError)))


async def _greeted(messages: MessageStream, ours: Hello) -> str:
    """Hears the other side's hello; returns what stands in the way of a conversation, or nothing.

    Raises `EOFError`, `NetworkError`, `ProtocolError`.
    """
    with trio.move_on_after(HELLO_TIMEOUT_S):
        theirs, _ = await messages.receive_as(Hello, Goodbye)
        if isinstance(theirs, Goodbye):
            return f"said goodbye: {theirs.reason}"
        if theirs.version != ours.version:
            return f"this side speaks version {ours.version} of the protocol, the other version {theirs.version}"
        return "" if theirs.swarm == ours.swarm else "the two sides are of different swarms"
    raise NetworkError(f"no hello within {HELLO_TIMEOUT_S:g} s")
