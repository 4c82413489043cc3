"""Ctrl-C once asks to finish cleanly, twice stops at once, a third time the system's way. SIGTERM counts the same."""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """What the user asked for so far."""

    def __init__(self) -> None:
        self.asked = trio.Event()
        self.is_forced = False


@asynccontextmanager
async def open_stop() -> AsyncGenerator[Stop, None]:
    """Listens for signals. The second one cancels what runs inside the context, and `is_forced` is set."""
    stop = Stop()
    with trio.open_signal_receiver(*_SIGNALS) as received:
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                async for _ in received:
                    if not stop.asked.is_set():
                        stop.asked.set()
                        continue
                    stop.is_forced = True
                    for number in _SIGNALS:
                        signal.signal(number, signal.SIG_DFL)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(listen)
            yield stop
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def given_up_on(stop: Stop) -> AsyncGenerator[None, None]:
    """Cancels what runs inside as soon as the user asks to stop."""
    async with trio.open_nursery() as nursery:

        async def give_up() -> None:
            await stop.asked.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(give_up)
        yield
        nursery.cancel_scope.cancel()
