"""The daemon's control API over its Unix socket, as much of it as the window needs."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any

import httpx

from peerinfer.errors import NoDaemon, PeerinferError
from peerinfer_tui.snapshot import Snapshot, clean, read_snapshot

TIMEOUT_S = 5.0


class Daemon:
    """One daemon, which may come and go; every call tries anew. Use it as an async context."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._http = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=socket), base_url="http://peerinfer/api/v1", timeout=TIMEOUT_S
        )

    async def __aenter__(self) -> Daemon:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def snapshot(self) -> Snapshot:
        """Raises `NoDaemon` if nobody answers, `PeerinferError` if the daemon refuses."""
        node = await self._ask("GET", "/node")
        devices = await self._ask("GET", "/devices")
        peers = await self._ask("GET", "/peers")
        jobs = await self._ask("GET", "/jobs")
        return read_snapshot(node, devices, peers, jobs)

    async def pause(self) -> None:
        """Stops lending until `resume`. Raises as `snapshot` does."""
        await self._ask("POST", "/node/pause")

    async def resume(self) -> None:
        await self._ask("POST", "/node/resume")

    async def _ask(self, method: str, path: str) -> Any:
        try:
            response = await self._http.request(method, path)
        except httpx.TimeoutException:
            raise NoDaemon(f"the daemon at {self._socket} does not answer within {TIMEOUT_S:g} s") from None
        except httpx.TransportError:
            raise NoDaemon(f"no daemon at {self._socket}: start one with `peerinfer join`") from None
        try:
            answer = json.loads(response.content) if response.content else None
        except (ValueError, RecursionError):
            answer = None
        if response.is_success:
            return answer
        said = answer.get("error") if isinstance(answer, dict) else None
        raise PeerinferError(
            clean(said, 500) if isinstance(said, str) else f"the daemon answered {response.status_code}"
        )
