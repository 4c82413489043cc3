"""A daemon that is not there, behind a real socket, in a thread of its own: for commands that run in this process."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[1]))

from fake_control import FakeControl

from peerinfer_node.gateway.server import open_gateway


@contextmanager
def daemon(socket: Path, fake: FakeControl) -> Iterator[FakeControl]:
    """Answers at `socket` while the context is open, or until it is told to leave."""
    is_up = threading.Event()
    stop: list[trio.CancelScope] = []
    tokens: list[trio.lowlevel.TrioToken] = []

    async def serve() -> None:
        with trio.CancelScope() as scope:
            stop.append(scope)
            tokens.append(trio.lowlevel.current_trio_token())
            async with open_gateway(fake, socket, lambda line: print(line, file=sys.stderr)):
                is_up.set()
                await fake.has_left.wait()

    thread = threading.Thread(target=trio.run, args=(serve,), daemon=True)
    thread.start()
    assert is_up.wait(60)
    try:
        yield fake
    finally:
        with suppress(trio.RunFinishedError):
            tokens[0].run_sync_soon(stop[0].cancel)
        thread.join(60)
        assert not thread.is_alive()
