"""Node, peers, devices, models and jobs: routes over whatever implements `peerinfer.control.Control`.

    GET    /api/v1/node                     status
    POST   /api/v1/node/pause               {"until_s": seconds since 1970 or null}, or no body
    POST   /api/v1/node/resume, /finish, /leave
    GET    /api/v1/peers[?why=MODEL]        MODEL is the absolute path of a model file
    GET    /api/v1/reputation[?peer=ID]     what this node has seen of its peers
    GET    /api/v1/devices, /models, /jobs
    POST   /api/v1/jobs                     a JobRequest -> 201 {"job_id": …}
    GET    /api/v1/jobs/ID                  DELETE cancels
    POST   /api/v1/jobs/ID/priority         {"priority": "high"}
    POST   /api/v1/jobs/ID/rescue           names a new committee; GET says what that would mean
    GET    /api/v1/jobs/ID/watch            one JSON object per line, whenever the job changed
    GET    /api/v1/jobs/ID/results          see `peerinfer.result_blocks`
    GET    /api/v1/jobs/ID/provenance
    GET    /api/v1/jobs/ID/timeline         the last frames, stage by stage

Calls that only do something answer 204. Errors are {"error": one line, "kind": the class in `peerinfer.errors`}; an
error in the middle of `watch` or `results` is the last line or record of the stream.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import AsyncGenerator, Callable
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from peerinfer import result_blocks
from peerinfer.control import PRIORITIES, Control, JobRequest
from peerinfer.errors import PeerinferError, UsageError
from peerinfer_node.gateway.refusals import PATH_CHARS_MAX, Refusals, refusal, words
from peerinfer_node.gateway.streaming import Streamed, closed_after

_PREFIX = "/api/v1"

UNTIL_S_MAX = 1e11
"""The wall clock of the year 5138."""


class ControlRoutes:
    def __init__(self, control: Control, refusals: Refusals) -> None:
        self._control = control
        self._refusals = refusals

    def routes(self) -> list[Route]:
        return [
            Route(f"{_PREFIX}/node", self.status, methods=["GET"]),
            Route(f"{_PREFIX}/node/pause", self.pause, methods=["POST"]),
            Route(f"{_PREFIX}/node/resume", self.resume, methods=["POST"]),
            Route(f"{_PREFIX}/node/finish", self.finish, methods=["POST"]),
            Route(f"{_PREFIX}/node/leave", self.leave, methods=["POST"]),
            Route(f"{_PREFIX}/peers", self.peers, methods=["GET"]),
            Route(f"{_PREFIX}/reputation", self.reputation, methods=["GET"]),
            Route(f"{_PREFIX}/devices", self.devices, methods=["GET"]),
            Route(f"{_PREFIX}/models", self.models, methods=["GET"]),
            Route(f"{_PREFIX}/jobs", self.jobs, methods=["GET"]),
            Route(f"{_PREFIX}/jobs", self.submit, methods=["POST"]),
            Route(f"{_PREFIX}/forecast", self.forecast, methods=["POST"]),
            Route(f"{_PREFIX}/jobs/{{job}}", self.job, methods=["GET"]),
            Route(f"{_PREFIX}/jobs/{{job}}", self.cancel, methods=["DELETE"]),
            Route(f"{_PREFIX}/jobs/{{job}}/priority", self.prioritise, methods=["POST"]),
            Route(f"{_PREFIX}/jobs/{{job}}/rescue", self.rescue_plan, methods=["GET"]),
            Route(f"{_PREFIX}/jobs/{{job}}/rescue", self.rescue, methods=["POST"]),
            Route(f"{_PREFIX}/jobs/{{job}}/watch", self.watch, methods=["GET"]),
            Route(f"{_PREFIX}/jobs/{{job}}/results", self.results, methods=["GET"]),
            Route(f"{_PREFIX}/jobs/{{job}}/provenance", self.provenance, methods=["GET"]),
            Route(f"{_PREFIX}/jobs/{{job}}/timeline", self.timeline, methods=["GET"]),
        ]

    # --- the node --------------------------------------------------------------------------------------------------

    async def status(self, request: Request) -> Response:
        """How the node is."""
        return JSONResponse(await self._control.status())

    async def pause(self, request: Request) -> Response:
        """Stops lending at once, for a while or until resume."""
        await self._control.pause(until_s=_until_s(await request.body()))
        return _done()

    async def resume(self, request: Request) -> Response:
        """Lends again."""
        await self._control.resume()
        return _done()

    async def finish(self, request: Request) -> Response:
        """Finishes what runs and takes no more."""
        await self._control.finish()
        return _done()

    async def leave(self, request: Request) -> Response:
        """Finishes what runs and ends the daemon."""
        await self._control.leave()
        return _done()

    async def peers(self, request: Request) -> Response:
        """Who is there; with why=MODEL, who may run a model file."""
        model = request.query_params.get("why")
        if model is None:
            return JSONResponse(await self._control.peers())
        _check_path("why", model)
        return JSONResponse(await self._control.why(model))

    async def reputation(self, request: Request) -> Response:
        return JSONResponse(await self._control.reputation(request.query_params.get("peer")))

    async def devices(self, request: Request) -> Response:
        """What this machine computes with."""
        return JSONResponse(await self._control.devices())

    async def models(self, request: Request) -> Response:
        """Which blobs this node holds."""
        return JSONResponse(await self._control.models())

    # --- jobs ------------------------------------------------------------------------------------------------------

    async def jobs(self, request: Request) -> Response:
        """Every job of this node."""
        return JSONResponse(await self._control.jobs())

    async def forecast(self, request: Request) -> Response:
        """Who could work for such a job, why others could not, and how long it would take. Nothing is sent."""
        return JSONResponse(await self._control.forecast(await _job_request(request)))

    async def submit(self, request: Request) -> Response:
        """Accepts a job; its files are named by absolute paths."""
        job_request = await _job_request(request)
        return JSONResponse({"job_id": await self._control.submit(job_request)}, HTTPStatus.CREATED)

    async def job(self, request: Request) -> Response:
        """How one job stands."""
        return JSONResponse(await self._control.job(request.path_params["job"]))

    async def cancel(self, request: Request) -> Response:
        """Stops a job; what is done is kept."""
        await self._control.cancel(request.path_params["job"])
        return _done()

    async def prioritise(self, request: Request) -> Response:
        """Changes the priority of a running job of this node's own, whoever coordinates it."""
        await self._control.prioritise(request.path_params["job"], _priority(await request.body()))
        return _done()

    async def rescue_plan(self, request: Request) -> Response:
        """What a new committee would mean for a job whose quorum is lost; nothing is changed."""
        return JSONResponse(await self._control.rescue(request.path_params["job"], confirmed=False))

    async def rescue(self, request: Request) -> Response:
        """Names a new committee for a job whose quorum is lost for good."""
        return JSONResponse(await self._control.rescue(request.path_params["job"], confirmed=True))

    async def provenance(self, request: Request) -> Response:
        """Hashes, peers, checks and receipts of a job."""
        return JSONResponse(await self._control.provenance(request.path_params["job"]))

    async def timeline(self, request: Request) -> Response:
        """The last frames of a job, and what each spent in which stage."""
        return JSONResponse(await self._control.timeline(request.path_params["job"]))

    async def watch(self, request: Request) -> Streamed:
        """The job now and whenever it changed, one JSON object per line."""
        job = request.path_params["job"]

        async def lines() -> AsyncGenerator[bytes | memoryview, None]:
            async with closed_after(self._control.watch(job)) as pictures:
                async for picture in pictures:
                    yield _line(picture)

        return self._streamed(lines(), "application/x-ndjson", lambda error: _line(words(error)))

    async def results(self, request: Request) -> Streamed:
        """What there is of the outputs, as a stream of blocks."""
        job = request.path_params["job"]

        async def records() -> AsyncGenerator[bytes | memoryview, None]:
            async with closed_after(self._control.results(job)) as results:
                async for block in results:
                    for chunk in result_blocks.encode_block(block):
                        yield chunk
            yield result_blocks.encode_end()

        return self._streamed(records(), result_blocks.MEDIA_TYPE, result_blocks.encode_error)

    def _streamed(
        self,
        chunks: AsyncGenerator[bytes | memoryview, None],
        media_type: str,
        last_words: Callable[[PeerinferError], bytes],
    ) -> Streamed:
        return Streamed(chunks, media_type, failed=self._refusals.told, refuse=refusal, last_words=last_words)


def _done() -> Response:
    return Response(status_code=HTTPStatus.NO_CONTENT)


def _line(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode() + b"\n"


def _check_path(name: str, path: str) -> None:
    if not os.path.isabs(path) or "\0" in path or len(path) > PATH_CHARS_MAX:
        raise UsageError(f"{name}: give an absolute path of at most {PATH_CHARS_MAX} characters")


def _until_s(body: bytes) -> float | None:
    if not body:
        return None
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):
        raise UsageError("the request is not JSON") from None
    until_s = raw.get("until_s") if isinstance(raw, dict) and raw.keys() <= {"until_s"} else math.nan
    if until_s is None:
        return None
    if type(until_s) not in (int, float) or not 0 <= until_s <= UNTIL_S_MAX:
        raise UsageError('until_s: give {"until_s": seconds since 1970} or {"until_s": null}')
    return float(until_s)


def _priority(body: bytes) -> str:
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):
        raise UsageError("the request is not JSON") from None
    if not isinstance(raw, dict) or raw.keys() != {"priority"} or raw["priority"] not in PRIORITIES:
        raise UsageError(f'give {{"priority": one of {", ".join(PRIORITIES)}}}')
    return str(raw["priority"])


async def _job_request(request: Request) -> JobRequest:
    job_request = JobRequest.from_json(await request.body())
    for name, path in (("model", job_request.model), *(("inputs", path) for path in job_request.inputs)):
        _check_path(name, path)
    return job_request
