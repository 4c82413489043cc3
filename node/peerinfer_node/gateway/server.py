"""Serves the control API on a Unix socket, with hypercorn's connections on our own nursery.

hypercorn's `serve` shields each write from cancellation, so a client that stops reading would hold up the end of the
node for ever. Here every write has a limit, and whatever is still open when the node ends is cut off after a grace.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from peerinfer.control import Control
from peerinfer.errors import HomeInUse, StateUnusable
from peerinfer.limits import WRITE_TIMEOUT_S
from peerinfer_node.gateway.app import Note, build_app

CONNECTIONS_MAX = 256
"""Of programs that talk to this node at once; the next ones wait."""

GRACE_S = 0.5
"""For answers that are under way when the node ends, such as the one to `leave`."""

_OWNER_ONLY = 0o077


@asynccontextmanager
async def open_gateway(control: Control, path: Path, note: Note) -> AsyncGenerator[None, None]:
    """Answers on the socket at `path` while the context is open; leaves neither task nor socket behind.

    Raises `HomeInUse` if another program answers there, `StateUnusable` if the socket cannot be made.
    """
    listening = _bind(path)
    identity = os.stat(path)
    connections = _Connections(control, note)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connections.cut_off_at_end)
            accepting = trio.CancelScope()
            nursery.start_soon(connections.accept, listening, nursery, accepting)
            yield
            accepting.cancel()
            await connections.end_idle()
            nursery.cancel_scope.deadline = trio.current_time() + GRACE_S
            await connections.wait_empty()
            nursery.cancel_scope.cancel()
    finally:
        listening.close()
        with suppress(OSError):
            # Another node may have put its own socket there since.
            if os.path.samestat(os.stat(path), identity):
                os.unlink(path)


def _bind(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        mask = os.umask(_OWNER_ONLY)
        try:
            listening.bind(str(path))
        finally:
            os.umask(mask)
        listening.listen(CONNECTIONS_MAX)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        reason = "its path is too long" if "too long" in str(error) else error.strerror or str(error)
        raise StateUnusable(
            f"cannot make the socket {path}: {reason}; choose another place with PEERINFER_HOME"
        ) from None
    except BaseException:
        listening.close()
        raise
    return listening


def _remove_stale(path: Path) -> None:
    """Raises `HomeInUse` if somebody answers, `StateUnusable` if what lies there is not a socket."""
    try:
        is_socket = stat.S_ISSOCK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise StateUnusable(f"{path} is not a socket; move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            with suppress(FileNotFoundError):
                os.unlink(path)
            return
        except TimeoutError:
            pass
    raise HomeInUse(f"another node answers at {path}; end it with: peerinfer leave")


class _Connections:
    def __init__(self, control: Control, note: Note) -> None:
        self._note = note
        self._config = Config()
        self._config.errorlog = None
        self._config.accesslog = None
        self._config.include_server_header = False
        self._context = WorkerContext(None)
        self._app = ASGIWrapper(build_app(control, note))
        self._streams: dict[_LimitedStream, None] = {}
        self._places = trio.CapacityLimiter(CONNECTIONS_MAX)
        self._emptied = trio.Event()

    async def accept(self, listening: socket.socket, nursery: trio.Nursery, accepting: trio.CancelScope) -> None:
        with accepting:
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
            await trio.serve_listeners(self._serve, [listener], handler_nursery=nursery)

    async def _serve(self, stream: trio.SocketStream) -> None:
        async with self._places:
            limited = _LimitedStream(stream)
            self._streams[limited] = None
            try:
                await TCPServer(self._app, self._config, self._context, ConnectionState({}), limited)
            except* Exception as group:
                # One client's connection must not end the node.
                self._note(f"a connection to the control API broke: {group.exceptions[0]!r}")
            finally:
                limited.cut_off()
                del self._streams[limited]
                if not self._streams:
                    self._emptied.set()

    async def end_idle(self) -> None:
        await self._context.terminated.set()

    async def wait_empty(self) -> None:
        while self._streams:
            self._emptied = trio.Event()
            await self._emptied.wait()

    async def cut_off_at_end(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            for stream in self._streams:
                stream.cut_off()


class _LimitedStream:
    """A connection whose writes end in time. It has what hypercorn asks of a plain socket stream."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.socket: Any = stream.socket

    async def send_all(self, data: bytes) -> None:
        with trio.move_on_after(WRITE_TIMEOUT_S) as scope:
            await self._stream.send_all(data)
        if scope.cancelled_caught:
            self.cut_off()
            raise trio.BrokenResourceError(f"the client took nothing for {WRITE_TIMEOUT_S:g} s")

    async def receive_some(self, bytes_max: int) -> bytes | bytearray:
        return await self._stream.receive_some(bytes_max)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def cut_off(self) -> None:
        """Whoever waits on the connection gets `trio.ClosedResourceError`."""
        self.socket.close()
