"""The control API's other end: a running daemon as a `peerinfer.control.Control`, over its Unix socket or over TCP."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from peerinfer.control import JOB_ENDED, NO_DAEMON, JobRequest, Json, ResultBlock
from peerinfer.errors import DecodeError, NoDaemon, PeerinferError, StreamClosed
from peerinfer.limits import MIB
from peerinfer.result_blocks import BlockDecoder, error_from

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 60.0
"""For answers that need no work. Where the node reads files or waits for a job, there is no limit but the caller's."""

LINE_BYTES_MAX = 64 * MIB
"""One line of `watch`; a job that lists a million failed tasks takes this much."""

_LIMITS = httpx.Limits(max_connections=64, keepalive_expiry=5.0)
"""Connections are given up before the daemon does, which would break a request on its way."""

_PREFIX = "/api/v1"

_PATIENT = httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, read=None)


class HttpControl:
    """Implements `Control`. To be used as an async context; every call raises `NoDaemon` when nobody listens."""

    def __init__(self, socket_path: Path | str = "", *, url: str = "", token: str = "") -> None:
        self._url = url
        self.http = httpx.AsyncClient(
            transport=None if url else httpx.AsyncHTTPTransport(uds=str(socket_path), limits=_LIMITS),
            base_url=url or "http://peerinfer",
            headers={"Authorization": f"Bearer {token}"} if token else None,
            timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            limits=_LIMITS,
            trust_env=False,
        )

    async def __aenter__(self) -> HttpControl:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.aclose()

    async def status(self) -> Json:
        return _object(await self._ask("GET", "/node"))

    async def peers(self) -> list[Json]:
        return _objects(await self._ask("GET", "/peers"))

    async def why(self, model: str) -> list[Json]:
        return _objects(await self._ask("GET", "/peers", params={"why": model}, timeout=_PATIENT))

    async def reputation(self, peer: str | None = None) -> list[Json]:
        return _objects(await self._ask("GET", "/reputation", params={} if peer is None else {"peer": peer}))

    async def forecast(self, request: JobRequest) -> Json:
        return _object(await self._ask("POST", "/forecast", content=request.to_json().encode(), timeout=_PATIENT))

    async def devices(self) -> list[Json]:
        return _objects(await self._ask("GET", "/devices"))

    async def models(self) -> list[Json]:
        return _objects(await self._ask("GET", "/models"))

    async def submit(self, request: JobRequest) -> str:
        answer = _object(await self._ask("POST", "/jobs", content=request.to_json().encode(), timeout=_PATIENT))
        job = answer.get("job_id")
        if not isinstance(job, str):
            raise DecodeError("the daemon answered without a job id")
        return job

    async def jobs(self) -> list[Json]:
        return _objects(await self._ask("GET", "/jobs"))

    async def job(self, job: str) -> Json:
        return _object(await self._ask("GET", _path(job)))

    async def provenance(self, job: str) -> Json:
        return _object(await self._ask("GET", _path(job, "/provenance"), timeout=_PATIENT))

    async def timeline(self, job: str) -> list[Json]:
        return _objects(await self._ask("GET", _path(job, "/timeline")))

    async def cancel(self, job: str) -> None:
        await self._ask("DELETE", _path(job))

    async def prioritise(self, job: str, priority: str) -> None:
        await self._ask("POST", _path(job, "/priority"), content=json.dumps({"priority": priority}).encode())

    async def rescue(self, job: str, *, confirmed: bool) -> Json:
        method = "POST" if confirmed else "GET"
        return _object(await self._ask(method, _path(job, "/rescue"), timeout=_PATIENT))

    async def pause(self, *, until_s: float | None) -> None:
        await self._ask("POST", "/node/pause", content=json.dumps({"until_s": until_s}).encode())

    async def resume(self) -> None:
        await self._ask("POST", "/node/resume")

    async def finish(self) -> None:
        await self._ask("POST", "/node/finish", timeout=_PATIENT)

    async def leave(self) -> None:
        await self._ask("POST", "/node/leave", timeout=_PATIENT)

    async def watch(self, job: str) -> AsyncGenerator[Json, None]:
        """As in `Control`. Raises `StreamClosed` if the daemon ends before the job does."""
        state = ""
        unread = bytearray()
        again = f"peerinfer join, then peerinfer jobs attach {job}"
        ended = f"the daemon ended; the job goes on when it is started again: {again}"
        async with self._streamed(_path(job, "/watch")) as response:
            async for data in _pieces(response, ended):
                unread += data
                *lines, rest = unread.split(b"\n")
                unread = bytearray(rest)
                if len(unread) > LINE_BYTES_MAX:
                    raise DecodeError(f"a line of the daemon passes the limit of {LINE_BYTES_MAX} bytes")
                for line in lines:
                    picture = _object(_parsed(bytes(line)))
                    if "error" in picture and "kind" in picture and "state" not in picture:
                        raise error_from(picture)
                    state = str(picture.get("state"))
                    yield picture
        if state not in JOB_ENDED:
            raise StreamClosed(ended)

    async def results(self, job: str) -> AsyncGenerator[ResultBlock, None]:
        """As in `Control`. Raises `StreamClosed` if the daemon ends before it has sent everything."""
        decoder = BlockDecoder()
        ended = "the daemon ended while it sent results; start it again and fetch them: peerinfer join"
        async with self._streamed(_path(job, "/results")) as response:
            async for data in _pieces(response, ended):
                for block in decoder.feed(data):
                    yield block
        if not decoder.ended:
            raise StreamClosed(ended)

    def translated(self, error: httpx.HTTPError) -> PeerinferError:
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol)):
            nobody = f"no peerinfer node answers at {self._url}; see that it runs, and its --api"
            return NoDaemon(nobody if self._url else NO_DAEMON)
        if isinstance(error, httpx.TimeoutException):
            return StreamClosed(f"the daemon did not answer within {ANSWER_TIMEOUT_S:g} s; its log says what it does")
        return StreamClosed("the daemon ended before it answered; see its log, and start it with: peerinfer join")

    @asynccontextmanager
    async def _streamed(self, path: str) -> AsyncGenerator[httpx.Response, None]:
        try:
            request = self.http.build_request("GET", _PREFIX + path, timeout=_PATIENT)
            response = await self.http.send(request, stream=True)
        except httpx.HTTPError as error:
            raise self.translated(error) from None
        try:
            if not response.is_success:
                try:
                    await response.aread()
                except httpx.HTTPError as error:
                    raise self.translated(error) from None
                raise refusal(response)
            yield response
        finally:
            await response.aclose()

    async def _ask(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = await self.http.request(method, _PREFIX + path, **options)
        except httpx.HTTPError as error:
            raise self.translated(error) from None
        if not response.is_success:
            raise refusal(response)
        return _parsed(response.content) if response.content else None


async def _pieces(response: httpx.Response, ended: str) -> AsyncGenerator[bytes, None]:
    """Raises `StreamClosed` with `ended` where the daemon was killed in the middle."""
    try:
        async for data in response.aiter_raw():
            yield data
    except httpx.HTTPError:
        raise StreamClosed(ended) from None


def _path(job: str, rest: str = "") -> str:
    return f"/jobs/{quote(job, safe='')}{rest}"


def refusal(response: httpx.Response) -> PeerinferError:
    try:
        answer = json.loads(response.content)
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, dict) and "error" in answer:
        return error_from(answer)
    return PeerinferError(f"the daemon answered {response.status_code} without saying why; is it the same version?")


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise DecodeError("the daemon answered something that is not JSON; is it the same version?") from None


def _object(answer: Any) -> Json:
    if not isinstance(answer, dict):
        raise DecodeError("the daemon answered something else than an object; is it the same version?")
    return answer


def _objects(answer: Any) -> list[Json]:
    if not isinstance(answer, list):
        raise DecodeError("the daemon answered something else than a list; is it the same version?")
    return [_object(item) for item in answer]
