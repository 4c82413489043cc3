"""The daemon's control API over its Unix socket, as much of it as the window needs."""

from __future__ import annotations

import json
from dataclasses import replace
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from peerinfer.errors import NoDaemon, PeerinferError
from peerinfer_tui.pictures import PeerPicture, Snapshot
from peerinfer_tui.snapshot import clean, read_job, read_snapshot
from peerinfer_tui.words import JOB_ENDED

TIMEOUT_S = 5.0

PEERS_PER_LOOK = 250
"""The list of a larger swarm is asked for more seldom: with a thousand peers every fifth time. It costs the daemon and the
window more than all the rest."""


class Daemon:
    """One daemon, which may come and go; every call tries anew. Use it as an async context."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._peers: tuple[PeerPicture, ...] = ()
        self._peers_skipped = 0
        """So many times more, the peers of the last time are good enough."""
        self._http = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=socket), base_url="http://peerinfer/api/v1", timeout=TIMEOUT_S
        )

    async def __aenter__(self) -> Daemon:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def snapshot(self, watched: str = "") -> Snapshot:
        """`watched`: a job that the daemon shall ask about wherever its coordinator is.

        Raises `NoDaemon` if nobody answers, `PeerinferError` if the daemon refuses.
        """
        node = await self._ask("GET", "/node")
        devices = (
            node["devices"] if isinstance(node, dict) and "devices" in node else await self._ask("GET", "/devices")
        )
        peers = await self._ask("GET", "/peers") if self._peers_skipped <= 0 else []
        jobs = await self._ask("GET", "/jobs")
        snapshot = read_snapshot(node, devices, peers, jobs)
        if self._peers_skipped > 0:
            self._peers_skipped -= 1
            snapshot = replace(snapshot, peers=self._peers)
        else:
            self._peers = snapshot.peers
            self._peers_skipped = len(self._peers) // PEERS_PER_LOOK
        if any(job.job_id == watched and job.state not in JOB_ENDED for job in snapshot.jobs):
            job = read_job(await self._ask("GET", f"/jobs/{quote(watched, safe='')}"))
            kept = tuple(job if each.job_id == job.job_id else each for each in snapshot.jobs)
            snapshot = replace(snapshot, jobs=kept)
        return snapshot

    async def pause(self, until_s: float | None = None) -> None:
        """Stops lending until `resume`, or until the wall clock says `until_s`. Raises as `snapshot` does."""
        await self._ask("POST", "/node/pause", None if until_s is None else {"until_s": until_s})

    async def resume(self) -> None:
        await self._ask("POST", "/node/resume")

    async def finish(self) -> None:
        """Finishes what runs and takes no more until `resume`."""
        await self._ask("POST", "/node/finish")

    async def cancel(self, job: str) -> None:
        await self._ask("DELETE", f"/jobs/{quote(job, safe='')}")

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        try:
            response = await self._http.request(method, path, json=body)
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
