"""Takes a request's body whole, within a limit, before the application sees the request.

hypercorn hands a body over piece by piece through a queue of ten. An application that answers without having read it
leaves the queue full, and the connection hangs for ever; so every body is read or thrown away here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import trio

from peerinfer.limits import MIB

REQUEST_BYTES_MAX = 8 * MIB
"""A request names files, it does not carry them; 8 MiB hold some hundred thousand paths."""

REQUEST_TIMEOUT_S = 30.0
"""For a body to arrive whole."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
Refusal = Callable[[int, str], Application]


class BoundedBody:
    """Wraps an application. `refuse(status, line)` makes the answer to a body that is too large or too slow."""

    def __init__(self, inner: Application, refuse: Refusal) -> None:
        self._inner = inner
        self._refuse = refuse

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        body = bytearray()
        answer: Application = self._inner
        with trio.move_on_after(REQUEST_TIMEOUT_S) as deadline:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body += message.get("body", b"")
                if len(body) > REQUEST_BYTES_MAX:
                    answer = self._refuse(413, f"a request of more than {REQUEST_BYTES_MAX // MIB} MiB is not taken")
                    break
                if not message.get("more_body", False):
                    break
        if deadline.cancelled_caught:
            answer = self._refuse(408, f"the request did not arrive within {REQUEST_TIMEOUT_S:g} s")
        if answer is self._inner:
            await self._inner(scope, _replay(bytes(body), receive), send)
        else:
            await _answer_while_draining(answer, scope, receive, send)


def _replay(body: bytes, receive: Receive) -> Receive:
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


async def _answer_while_draining(
    answer: Application, scope: MutableMapping[str, Any], receive: Receive, send: Send
) -> None:
    async def drain() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        await answer(scope, receive, send)
        nursery.cancel_scope.cancel()
