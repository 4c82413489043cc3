"""What both ends of a work stream do alike: greet, keep alive, notice silence, translate endings into one line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import trio

import peerinfer
from peerinfer.errors import NetworkError, PeerinferError, ProtocolError, StreamClosed
from peerinfer.limits import (
    HELLO_TIMEOUT_S,
    KEEPALIVE_IDLE_S,
    KEEPALIVE_S,
    REASON_CHARS_MAX,
    SILENCE_IDLE_MAX_S,
    SILENCE_MAX_S,
)
from peerinfer.messages import PROTOCOL_VERSION, Goodbye, Hello, KeepAlive
from peerinfer_node.network.framing import MessageStream

WORK_PROTOCOL = "/peerinfer/work/1"
AGENT = f"peerinfer/{peerinfer.__version__}"


async def greet(stream: MessageStream, *, swarm: str) -> Hello:
    """Exchanges hellos. Raises `ProtocolError` if the other side speaks another version or is of another swarm."""
    with trio.move_on_after(HELLO_TIMEOUT_S) as scope:
        await stream.send(Hello(PROTOCOL_VERSION, AGENT, swarm))
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
    if problem:
        await say_goodbye(stream, problem)
        raise ProtocolError(f"{stream.peer} {problem}")
    assert isinstance(hello, Hello)
    return hello


async def say_goodbye(stream: MessageStream, reason: str) -> None:
    """Tells the other side why and closes; bounded, and no error if it is gone already."""
    with trio.move_on_after(1.0) as scope:
        scope.shield = True
        with suppress(PeerinferError):
            await stream.send(Goodbye(reason[:REASON_CHARS_MAX]))
        await stream.close()


class Conversation:
    """Receives messages until the stream ends, keeps the other side informed and notices when it falls silent."""

    def __init__(self, stream: MessageStream, handle: Callable[[Any, bytes], Awaitable[None]]) -> None:
        self._stream = stream
        self._handle = handle
        self._heard_s = trio.current_time()
        self.busy = False
        """True while frames are in flight: then the other side must be heard every few seconds."""
        self._rest = trio.CancelScope()
        """Until the next sign of life."""

    def set_busy(self, busy: bool) -> None:
        if busy and not self.busy:
            self._heard_s = trio.current_time()
            # Only ever earlier, so that frames in quick succession neither put it off nor cost a message each.
            self._rest.deadline = min(self._rest.deadline, self._heard_s + KEEPALIVE_S)
        self.busy = busy

    async def run(self) -> str:
        """Returns why the conversation ended, in one line; never raises for what the other side did."""
        reason = "closed the stream"
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_alive)
                try:
                    reason = await self._receive()
                finally:
                    nursery.cancel_scope.cancel()
        except* NetworkError as errors:
            reason = str(errors.exceptions[0])
        except* ProtocolError as errors:
            reason = str(errors.exceptions[0])
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
                await self._handle(message, body)

    async def _keep_alive(self) -> None:
        while True:
            with trio.move_on_after(KEEPALIVE_S if self.busy else KEEPALIVE_IDLE_S) as self._rest:
                await trio.sleep_forever()
            silent_s = trio.current_time() - self._heard_s
            limit_s = SILENCE_MAX_S if self.busy else SILENCE_IDLE_MAX_S
            if silent_s > limit_s:
                await self._stream.reset()
                raise StreamClosed(f"{self._stream.peer} was silent for {silent_s:.0f} s")
            await self._stream.send(KeepAlive())
