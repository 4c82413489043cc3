"""Serves HTTP on a Unix socket, and on TCP where the owner asked for it, with hypercorn's connections on our own nursery.

hypercorn's `serve` shields each write from cancellation, so a client that stops reading would hold up the end of the
node for ever. Here every write has a limit, and whatever is still open when the node ends is cut off after a grace.
"""

from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from peerinfer.control import Control
from peerinfer.errors import HomeInUse, StateUnusable
from peerinfer.limits import WRITE_TIMEOUT_S
from peerinfer_node.gateway.access import Guarded
from peerinfer_node.gateway.app import Services, build_app
from peerinfer_node.gateway.body import Application
from peerinfer_node.gateway.events import Feed
from peerinfer_node.gateway.refusals import Note, error_answer
from peerinfer_node.log import Log

CONNECTIONS_MAX = 256
"""Of programs that talk to this node at once over its Unix socket; the next ones wait."""

TCP_CONNECTIONS_MAX = 256
"""Over TCP, where anybody on the machine may connect. The next ones are told to come back, so that they hold no file of
this process, and leave the Unix socket alone."""

KEEP_ALIVE_S = 15.0
"""A connection on which nothing is asked for this long, or whose request has not even begun, is closed."""

WEBSOCKET_MESSAGE_BYTES_MAX = 64 * 1024
WEBSOCKET_PING_S = 20.0
"""Finds readers that have gone without a word."""

GRACE_S = 0.5
"""For answers that are under way when the node ends, such as the one to `leave`."""

TURN_AWAY_S = 1.0

_OWNER_ONLY = 0o077


_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-type: application/json\r\n"
    b'content-length: 44\r\n\r\n{"error": "too many connections; come back"}'
)


@dataclass(frozen=True, slots=True)
class TcpDoor:
    """Where to listen on TCP, and what whoever comes must know."""

    host: str
    port: int
    """0 takes a free one."""
    token: str


@asynccontextmanager
async def open_gateway(
    control: Control,
    path: Path,
    note: Note,
    *,
    tcp: TcpDoor | None = None,
    log: Log | None = None,
    services: Services | None = None,
) -> AsyncGenerator[str, None]:
    """Answers on the socket at `path`, and on TCP, while the context is open; leaves neither task nor socket behind.

    Gives the URL of the TCP door, "" without one. Raises `HomeInUse` if another program answers at `path`,
    `StateUnusable` if a socket cannot be made.
    """
    with ExitStack() as stack:
        # What may fail first: a port that is taken must not leave a socket file behind.
        tcp_listening = stack.enter_context(closing(_bind_tcp(tcp))) if tcp else None
        listening = stack.enter_context(_bound(path))
        feed = Feed(control, note, log=log)
        app = build_app(control, note, feed, services)
        connections = _Connections(app, note)
        doors = [(listening, connections)]
        url = ""
        if tcp and tcp_listening:
            guarded = Guarded(app, token=tcp.token, host=tcp.host, refuse=error_answer)
            doors.append((tcp_listening, _Connections(guarded, note, connections_max=TCP_CONNECTIONS_MAX)))
            host = f"[{tcp.host}]" if ":" in tcp.host else tcp.host
            url = f"http://{host}:{tcp_listening.getsockname()[1]}"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.run)
            for listening, connections in doors:
                nursery.start_soon(connections.cut_off_at_end)
                nursery.start_soon(connections.accept, listening, nursery)
            yield url
            for _, connections in doors:
                connections.accepting.cancel()
            feed.end()
            for _, connections in doors:
                await connections.end_idle()
            nursery.cancel_scope.deadline = trio.current_time() + GRACE_S
            for _, connections in doors:
                await connections.wait_empty()
            nursery.cancel_scope.cancel()


@contextmanager
def _bound(path: Path) -> Iterator[socket.socket]:
    listening = _bind(path)
    identity = os.stat(path)
    try:
        yield listening
    finally:
        listening.close()
        with suppress(OSError):
            # Another node may have put its own socket there since.
            if os.path.samestat(os.stat(path), identity):
                os.unlink(path)


def _bind_tcp(door: TcpDoor) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(door.host, door.port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(TCP_CONNECTIONS_MAX)
            listening.setblocking(False)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise StateUnusable(
            f"cannot listen on {door.host}:{door.port}: {error.strerror}; choose another address with --api HOST:PORT"
        ) from None
    return listening


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
    """Connections of one door. `connections_max` turns away those beyond it, who otherwise wait."""

    def __init__(self, app: Application, note: Note, *, connections_max: int | None = None) -> None:
        self._note = note
        self._connections_max = connections_max
        self._config = Config()
        self._config.keep_alive_timeout = KEEP_ALIVE_S
        self._config.keep_alive_max_requests = sys.maxsize
        self._config.websocket_max_message_size = WEBSOCKET_MESSAGE_BYTES_MAX
        self._config.websocket_ping_interval = WEBSOCKET_PING_S
        self._config.errorlog = None
        self._config.accesslog = None
        self._config.include_server_header = False
        self._context = WorkerContext(None)
        self._app = ASGIWrapper(cast(Any, app))
        self._streams: dict[_LimitedStream, None] = {}
        self._places = trio.CapacityLimiter(CONNECTIONS_MAX)
        self._emptied = trio.Event()
        self.accepting = trio.CancelScope()

    async def accept(self, listening: socket.socket, nursery: trio.Nursery) -> None:
        with self.accepting:
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
            await trio.serve_listeners(self._serve, [listener], handler_nursery=nursery)

    async def _serve(self, stream: trio.SocketStream) -> None:
        if self._connections_max is not None and len(self._streams) >= self._connections_max:
            await _turn_away(stream)
            return
        async with self._places:
            limited = _LimitedStream(stream)
            self._streams[limited] = None
            try:
                await _Connection(self._app, self._config, self._context, ConnectionState({}), limited)
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


async def _turn_away(stream: trio.SocketStream) -> None:
    with trio.move_on_after(TURN_AWAY_S), suppress(trio.BrokenResourceError):
        await stream.send_all(_BUSY)
        await stream.send_eof()
    stream.socket.close()


class _Connection(TCPServer):  # type: ignore[misc]
    async def _read_data(self) -> None:
        await super()._read_data()
        # Otherwise a connection that the client has closed would keep its place until it counts as idle.
        await self.idle_task.stop()


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
