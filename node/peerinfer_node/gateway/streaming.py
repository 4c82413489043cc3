"""An answer that is made while it is sent, and that stops being made when its reader has gone."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from peerinfer.errors import PeerinferError

T = TypeVar("T")

CLOSE_TIMEOUT_S = 1.0


@asynccontextmanager
async def closed_after(source: AsyncIterator[T]) -> AsyncGenerator[AsyncIterator[T], None]:
    """Closes an asynchronous generator where it is left, not when it is collected."""
    try:
        yield source
    finally:
        close: Any = getattr(source, "aclose", None)
        if close is not None:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT_S):
                await close()


class Streamed:
    """Sends what `chunks` yields. An error before the first chunk becomes an ordinary answer, a later one the last chunk.

    `failed(error)` notes an unexpected error and gives the one to tell.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[bytes | memoryview, None],
        media_type: str,
        *,
        failed: Callable[[Exception], PeerinferError],
        refuse: Callable[[PeerinferError], Response],
        last_words: Callable[[PeerinferError], bytes],
    ) -> None:
        self._chunks = chunks
        self._media_type = media_type
        self._failed = failed
        self._refuse = refuse
        self._last_words = last_words

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:

            async def stop_with_reader() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                nursery.cancel_scope.cancel()

            nursery.start_soon(stop_with_reader)
            async with aclosing(self._chunks):
                await self._send_all(scope, receive, send)
            nursery.cancel_scope.cancel()

    async def _send_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_started = False
        try:
            async for chunk in self._chunks:
                if not is_started:
                    await self._start(send)
                    is_started = True
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except Exception as error:
            told = self._failed(error)
            if not is_started:
                await self._refuse(told)(scope, receive, send)
                return
            await send({"type": "http.response.body", "body": self._last_words(told), "more_body": True})
        if not is_started:
            await self._start(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _start(self, send: Send) -> None:
        headers = [(b"content-type", self._media_type.encode()), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
