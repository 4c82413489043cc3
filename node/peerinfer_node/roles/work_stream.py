"""What both ends of a work stream do alike: greet, keep alive, notice silence, read large bodies, hang up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio

import peerinfer
from peerinfer.blobs import parse_index
from peerinfer.errors import NetworkError, PeerinferError, ProtocolError, StreamClosed
from peerinfer.ids import Cid, PeerId
from peerinfer.limits import (
    HELLO_TIMEOUT_S,
    KEEPALIVE_IDLE_S,
    KEEPALIVE_S,
    MIB,
    REASON_CHARS_MAX,
    SILENCE_IDLE_MAX_S,
    SILENCE_MAX_S,
)
from peerinfer.messages import PROTOCOL_REVISION, PROTOCOL_VERSION, Goodbye, Hello, KeepAlive
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.ports import BlobStore, Network

WORK_PROTOCOL = "/peerinfer/work/1"
AGENT = f"peerinfer/{peerinfer.__version__}"

LINGER_S = 1.0
"""How long the other side gets to read what was said to it last."""

LINGER_BYTES_MAX = 1 * MIB
"""What it may still say meanwhile."""


async def greet(stream: MessageStream, *, swarm: str, revision: int = 0) -> Hello:
    """Exchanges hellos. Raises `ProtocolError` if the other side speaks another version or is of another swarm.

    `revision` is what it must know of the protocol.
    """
    with trio.move_on_after(HELLO_TIMEOUT_S) as scope:
        await stream.send(Hello(PROTOCOL_VERSION, AGENT, swarm, PROTOCOL_REVISION))
        try:
            hello, _ = await stream.receive_as(Hello, Goodbye)
        except EOFError:
            raise StreamClosed(f"{stream.peer} closed the stream instead of greeting") from None
    if scope.cancelled_caught:
        raise StreamClosed(f"{stream.peer} did not greet within {HELLO_TIMEOUT_S:g} s")
    if isinstance(hello, Goodbye):
        raise ProtocolError(f"{stream.peer} said goodbye: {hello.reason}")
    problem = ""
    if hello.version != PROTOCOL_VERSION:
        problem = f"speaks protocol version {hello.version}, this node speaks {PROTOCOL_VERSION}; upgrade the older one"
    elif hello.swarm != swarm:
        problem = f"belongs to swarm {hello.swarm!r}, this node to {swarm!r}"
    elif hello.revision < revision:
        problem = f"speaks revision {hello.revision} of the protocol, and this needs {revision}; upgrade the older one"
    if problem:
        await say_goodbye(stream, problem)
        raise ProtocolError(f"{stream.peer} {problem}")
    assert isinstance(hello, Hello)
    return hello


@asynccontextmanager
async def conversation(
    network: Network, peer: PeerId, protocol: str, *, swarm: str, revision: int = 0
) -> AsyncIterator[MessageStream]:
    """A stream to this peer, after the greeting. Raises `NetworkError`, `ProtocolError`.

    `revision` is what the other one must know of the protocol.
    """
    stream = MessageStream(await network.open_stream(peer, protocol))
    try:
        await greet(stream, swarm=swarm, revision=revision)
        yield stream
    except EOFError:
        raise StreamClosed(f"{peer} closed the stream") from None
    finally:
        with trio.CancelScope(shield=True):
            await stream.close()


async def say_goodbye(stream: MessageStream, reason: str) -> None:
    """Tells the other side why and closes; bounded, and no error if it is gone already."""
    with trio.move_on_after(1.0) as scope:
        scope.shield = True
        with suppress(PeerinferError):
            await stream.send(Goodbye(reason[:REASON_CHARS_MAX]))
        await stream.close()


async def hang_up(stream: MessageStream) -> None:
    """Closes, and resets once the other side has closed too or had time to read why. Never raises; bounded."""
    with trio.CancelScope(shield=True):
        await stream.close()
        with trio.move_on_after(LINGER_S), suppress(PeerinferError):
            await stream.drain(LINGER_BYTES_MAX)
        await stream.reset()


async def read_blob(blobs: BlobStore, cid: Cid, *, bytes_max: int, what: str) -> bytes:
    """A blob that has just been fetched, whose size only its sender knew. Raises KeyError if it is not held any more.

    Raises `ProtocolError` before anything is read if it is larger than `bytes_max`.
    """
    index = await blobs.manifest(cid)
    if index is None:
        raise KeyError(cid)
    size = parse_index(index).size
    if size > bytes_max:
        raise ProtocolError(f"{what} have {size} bytes, {bytes_max} were announced")
    return await blobs.read(cid)


class Conversation:
    """Receives messages until the stream ends, keeps the other side informed and notices when it falls silent."""

    def __init__(self, stream: MessageStream, handle: Callable[[Any, bytes], Awaitable[None]]) -> None:
        self._stream = stream
        self._handle = handle
        self._heard_s = trio.current_time()
        self._heard_bytes = 0
        self._is_handling = False
        self.busy = False
        """True while frames are in flight: then the other side must be heard every few seconds."""
        self._rest = trio.CancelScope()
        """Until the next sign of life."""
        self._has_ended = False

    def set_busy(self, busy: bool) -> None:
        if busy and not self.busy:
            self._heard_s = trio.current_time()
            # Only ever earlier, so that frames in quick succession neither put it off nor cost a message each.
            self._rest.deadline = min(self._rest.deadline, self._heard_s + KEEPALIVE_S)
        self.busy = busy

    async def run(self) -> str:
        """Returns why the conversation ended, in one line; never raises for what the other side did."""
        reason, objects = "closed the stream", False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_alive)
                try:
                    reason = await self._receive()
                except (NetworkError, ProtocolError) as error:
                    reason, objects = str(error), isinstance(error, ProtocolError)
                # A sign of life that is being written may end: cut short, it would take the goodbye with it.
                self._has_ended = True
                self._rest.cancel()
                nursery.cancel_scope.deadline = trio.current_time() + LINGER_S
        except* NetworkError as errors:
            reason = str(errors.exceptions[0])
        if objects:
            await say_goodbye(self._stream, reason)
        return reason

    async def _receive(self) -> str:
        while True:
            try:
                message, body = await self._stream.receive()
            except EOFError:
                return "closed the stream"
            self._heard_s = trio.current_time()
            if isinstance(message, Goodbye):
                return f"said goodbye: {message.reason}"
            if not isinstance(message, KeepAlive):
                self._is_handling = True
                await self._handle(message, body)
                self._is_handling = False
                self._heard_s = trio.current_time()
            await trio.lowlevel.checkpoint()  # one read may bring ten thousand messages; others want their turn

    async def _keep_alive(self) -> None:
        while not self._has_ended:
            with trio.move_on_after(KEEPALIVE_S if self.busy else KEEPALIVE_IDLE_S) as self._rest:
                await trio.sleep_forever()
            if self._has_ended:
                return
            if self._is_handling or self._stream.bytes_in != self._heard_bytes:
                # We are late ourselves, or a large message is on its way: neither is silence.
                self._heard_s = trio.current_time()
                self._heard_bytes = self._stream.bytes_in
            silent_s = trio.current_time() - self._heard_s
            limit_s = SILENCE_MAX_S if self.busy else SILENCE_IDLE_MAX_S
            if silent_s > limit_s:
                await self._stream.reset()
                raise StreamClosed(f"{self._stream.peer} was silent for {silent_s:.0f} s")
            await self._stream.send(KeepAlive())
