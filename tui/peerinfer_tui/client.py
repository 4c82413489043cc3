"""The daemon's control API over its Unix socket, as much of it as the window needs."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any
from urllib.parse import quote

import aiohttp

from peerinfer.control import NO_DAEMON
from peerinfer.errors import NoDaemon, PeerinferError
from peerinfer.limits import MIB
from peerinfer_tui.mirror import Mirror
from peerinfer_tui.pictures import Snapshot
from peerinfer_tui.snapshot import clean

TIMEOUT_S = 5.0
PATIENT_S = 30.0
"""What others have a part in takes longer: they are asked again until somebody coordinates."""

HEARTBEAT_S = 10.0
"""A daemon that answers no ping within half of this is lost."""

MESSAGE_BYTES_MAX = 256 * MIB
"""The picture of a hundred thousand peers. The daemon is ours: the limit is for what is not one."""

_BASE = "http://peerinfer/api/v1"


class Daemon:
    """One daemon, which may come and go; every call tries anew. Use it as an async context."""

    def __init__(self, socket: str, *, clock: Callable[[], float] = time.time) -> None:
        self._socket = socket
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Daemon:
        connector = aiohttp.UnixConnector(self._socket)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def greet(self) -> None:
        """Raises `NoDaemon` if nobody answers, `PeerinferError` if the daemon refuses."""
        await self._ask("GET", "/node")

    async def follow(self, every_s: float) -> AsyncGenerator[Snapshot, None]:
        """How things stand, whenever something has changed, and again when nothing has for `every_s`.

        Raises as `greet`, and when the daemon ends or sends the reader away.
        """
        mirror = Mirror()
        async with self._events() as socket:
            while True:
                await self._take(socket, mirror, every_s)
                yield mirror.snapshot(self._clock())

    @asynccontextmanager
    async def _events(self) -> AsyncGenerator[aiohttp.ClientWebSocketResponse, None]:
        assert self._session is not None
        try:
            async with self._session.ws_connect(
                f"{_BASE}/events", heartbeat=HEARTBEAT_S, max_msg_size=MESSAGE_BYTES_MAX
            ) as socket:
                yield socket
        except aiohttp.WSServerHandshakeError as error:
            raise PeerinferError(f"the daemon answered {error.status}; is it the same version?") from None
        except TimeoutError:
            raise NoDaemon(f"the daemon at {self._socket} does not answer within {TIMEOUT_S:g} s") from None
        except aiohttp.ClientError:
            raise NoDaemon(NO_DAEMON) from None

    async def _take(self, socket: aiohttp.ClientWebSocketResponse, mirror: Mirror, every_s: float) -> None:
        """The next message; at its first call it waits for one, later for `every_s` at most."""
        wait_s = every_s if mirror.node.peer_id else TIMEOUT_S
        try:
            message = await socket.receive(timeout=wait_s)
        except TimeoutError:
            if mirror.node.peer_id:
                return
            raise NoDaemon(f"the daemon at {self._socket} does not answer within {TIMEOUT_S:g} s") from None
        if message.type is not aiohttp.WSMsgType.TEXT:
            said = clean(message.extra, 200) if isinstance(message.extra, str) else ""
            raise NoDaemon(f"{said}: {NO_DAEMON}" if said else NO_DAEMON)
        try:
            raw = json.loads(message.data)
        except (ValueError, RecursionError):
            raise PeerinferError("the daemon says something that is not JSON; is it the same version?") from None
        mirror.take(raw, self._clock())

    async def pause(self, until_s: float | None = None) -> None:
        """Stops lending until `resume`, or until the wall clock says `until_s`. Raises as `greet` does."""
        await self._ask("POST", "/node/pause", None if until_s is None else {"until_s": until_s})

    async def resume(self) -> None:
        await self._ask("POST", "/node/resume")

    async def finish(self) -> None:
        """Finishes what runs and takes no more until `resume`."""
        await self._ask("POST", "/node/finish")

    async def cancel(self, job: str) -> None:
        await self._ask("DELETE", f"/jobs/{quote(job, safe='')}", timeout_s=PATIENT_S)

    async def prioritise(self, job: str, priority: str) -> None:
        await self._ask("POST", f"/jobs/{quote(job, safe='')}/priority", {"priority": priority}, timeout_s=PATIENT_S)

    async def _ask(self, method: str, path: str, body: Any = None, *, timeout_s: float = TIMEOUT_S) -> Any:
        assert self._session is not None
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.request(method, _BASE + path, json=body, timeout=timeout) as response:
                content, status = await response.read(), response.status
        except TimeoutError:
            raise NoDaemon(f"the daemon at {self._socket} does not answer within {timeout_s:g} s") from None
        except aiohttp.ClientError:
            raise NoDaemon(NO_DAEMON) from None
        try:
            answer = json.loads(content) if content else None
        except (ValueError, RecursionError):
            answer = None
        if status < 400:
            return answer
        said = answer.get("error") if isinstance(answer, dict) else None
        raise PeerinferError(clean(said, 500) if isinstance(said, str) else f"the daemon answered {status}")
