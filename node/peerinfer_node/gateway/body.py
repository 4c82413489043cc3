"""Takes a request's body whole, within a limit, before the application sees the request.

hypercorn hands a body over piece by piece through a queue of ten. An application that answers without having read it
leaves the queue full, and the connection hangs for ever; so every body is read or thrown away here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import trio

from peerinfer.limits import MIB

REQUEST_BYTES_MAX = 8 * MIB
"""A request names files, it does not carry them; 8 MiB hold some hundred thousand paths."""

TENSORS_BYTES_MAX = 64 * MIB
"""Inputs of one online request. More than that is a job, whose inputs go as blobs."""

BODIES_BYTES_MAX = 256 * MIB
"""Bodies that are held in memory at once, of all requests together; further ones are asked to come back."""

REQUEST_TIMEOUT_S = 30.0
"""For a body to arrive whole."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
Refusal = Callable[[int, str], Application]
BytesMax = Callable[[str, str], int | None]
"""From method and path, how large a body may be; None where the route reads it piece by piece."""


class BoundedBody:
    """Wraps an application. `refuse(status, line)` makes the answer to a body that is too large or too slow."""

    def __init__(self, inner: Application, refuse: Refusal, bytes_max: BytesMax) -> None:
        self._inner = inner
        self._refuse = refuse
        self._bytes_max = bytes_max
        self._held_bytes = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        limit = self._bytes_max(scope["method"], scope["path"])
        if limit is None:
            async with _drained_once_answered(receive, send) as send_and_drain:
                await self._inner(scope, receive, send_and_drain)
            return
        taken = _Taken(limit)
        if _declared_bytes(scope) > limit:
            taken.refused = (413, _too_large(limit))
        else:
            await self._take(taken, receive)
        try:
            if taken.has_gone:
                return
            if taken.refused is None:
                await self._inner(scope, _replay(taken.data, receive), send)
            else:
                await answer_while_draining(self._refuse(*taken.refused), scope, receive, send)
        finally:
            self._held_bytes -= taken.held_bytes

    async def _take(self, taken: _Taken, receive: Receive) -> None:
        parts: list[bytes] = []
        with trio.move_on_after(REQUEST_TIMEOUT_S) as deadline:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    taken.has_gone = True
                    return
                part: bytes = message.get("body", b"")
                if taken.held_bytes + len(part) > taken.limit:
                    taken.refused = (413, _too_large(taken.limit))
                    return
                if part and self._held_bytes + len(part) > BODIES_BYTES_MAX:
                    taken.refused = (503, "this node holds as many requests as it can; send the request again")
                    return
                taken.held_bytes += len(part)
                self._held_bytes += len(part)
                parts.append(part)
                if not message.get("more_body", False):
                    break
        if deadline.cancelled_caught:
            taken.refused = (408, f"the request did not arrive within {REQUEST_TIMEOUT_S:g} s")
            return
        taken.data = parts[0] if len(parts) == 1 else b"".join(parts)


class _Taken:
    """A body on its way in."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.data = b""
        self.held_bytes = 0
        self.has_gone = False
        self.refused: tuple[int, str] | None = None


def _too_large(limit: int) -> str:
    return f"a request of more than {limit // MIB} MiB is not taken"


def _declared_bytes(scope: MutableMapping[str, Any]) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0


def _replay(body: bytes, receive: Receive) -> Receive:
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


async def answer_while_draining(
    answer: Application, scope: MutableMapping[str, Any], receive: Receive, send: Send
) -> None:
    """Answers a request whose body was not read, and throws the body away meanwhile."""
    async with _drained_once_answered(receive, send) as send_and_drain:
        await answer(scope, receive, send_and_drain)


@asynccontextmanager
async def _drained_once_answered(receive: Receive, send: Send) -> AsyncGenerator[Send, None]:
    """Gives a `send` that, from the first word of the answer on, throws away what still arrives."""

    async def drain() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async with trio.open_nursery() as nursery:
        is_draining = False

        async def send_and_drain(message: Message) -> None:
            nonlocal is_draining
            if not is_draining:
                is_draining = True
                nursery.start_soon(drain)
            await send(message)

        yield send_and_drain
        nursery.cancel_scope.cancel()
