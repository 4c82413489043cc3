"""Open Inference Protocol v2: models by name, and requests to them, as Triton and KServe speak it.

Errors are {"error": one line}: 404 for a model or version that is not here, 501 for what is not supported, 503 with
`Retry-After` where nobody has room or answers, 400 for everything else that the client can mend.
"""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

import peerinfer
from peerinfer.binding import quoted
from peerinfer.control import VERIFY
from peerinfer.errors import (
    InputError,
    LimitExceeded,
    ModelRefused,
    NotSupported,
    PeerinferError,
    UnknownModel,
    UsageError,
)
from peerinfer.fairness import Priority
from peerinfer.messages import Execution
from peerinfer.tensors import Port
from peerinfer_node.gateway.body import TENSORS_BYTES_MAX, Message
from peerinfer_node.gateway.oip_tensors import InferRequest, datatype_of, inflate, read_request, write_answer
from peerinfer_node.gateway.refusals import Refusals, refusal
from peerinfer_node.online import REQUEST_TIMEOUT_S
from peerinfer_node.roles.online_job import Times
from peerinfer_node.serving import ServedModel, Serving
from peerinfer_node.tracing import Tracing

PLATFORM = "onnx_onnxv1"
EXTENSIONS = ("binary_tensor_data", "model_repository", "schedule_policy", "statistics")

TIMEOUT_MAX_S = 3600.0
IN_THREAD_BYTES = 512 * 1024
"""JSON of this size takes milliseconds to read: other requests go on meanwhile."""

Handler = Callable[[Request], Awaitable[Response]]


class OipRoutes:
    def __init__(self, serving: Serving, refusals: Refusals) -> None:
        self._serving = serving
        self._refusals = refusals
        self._tracing = Tracing(time.time)

    def routes(self) -> list[BaseRoute]:
        found: list[BaseRoute] = [
            Route("/v2", self._told(self.server), methods=["GET"]),
            Route("/v2/health/live", self._told(self.live), methods=["GET"]),
            Route("/v2/health/ready", self._told(self.live), methods=["GET"]),
            Route("/v2/repository/index", self._told(self.index), methods=["POST"]),
            Route("/v2/repository/models/{model}/load", self._told(self.load), methods=["POST"]),
            Route("/v2/repository/models/{model}/unload", self._told(self.unload), methods=["POST"]),
            Route("/v2/models/stats", self._told(self.statistics), methods=["GET"]),
        ]
        for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            found += [
                Route(prefix, self._told(self.metadata), methods=["GET"]),
                Route(f"{prefix}/ready", self._told(self.ready), methods=["GET"]),
                Route(f"{prefix}/stats", self._told(self.statistics), methods=["GET"]),
                Route(f"{prefix}/infer", self._told(self.infer), methods=["POST"]),
            ]
        return found

    def _told(self, handler: Handler) -> Handler:
        """A handler whose errors have Triton's status codes, and whose work ends when the client goes."""

        async def answered(request: Request) -> Response:
            try:
                return await _while_wanted(request, handler)
            except PeerinferError as error:
                # What a client could do nothing about but come back is 503 here, where the rest of the API says 429.
                return refusal(error, status=503 if isinstance(error, LimitExceeded) else None)
            except Exception as error:
                return refusal(self._refusals.told(error))

        answered.__doc__ = handler.__doc__
        answered.__name__ = handler.__name__
        return answered

    # --- the server ------------------------------------------------------------------------------------------------

    async def server(self, request: Request) -> Response:
        """Name, version and extensions of this server."""
        return JSONResponse({"name": "peerinfer", "version": peerinfer.__version__, "extensions": list(EXTENSIONS)})

    async def live(self, request: Request) -> Response:
        """Whether the node runs. It is ready as soon as it does: models are opened when they are asked for."""
        return Response()

    # --- models ----------------------------------------------------------------------------------------------------

    async def index(self, request: Request) -> Response:
        """Every model that is served or could be."""
        wanted = _json_of(await request.body())
        models = await self._serving.index()
        if wanted.get("ready") is True:
            models = [model for model in models if model["state"] == "READY"]
        return JSONResponse(models)

    async def load(self, request: Request) -> Response:
        """Opens a model: from the folder, from a blob (`cid`), or from bytes in base64 (`file:1/model.onnx`)."""
        parameters = _json_of(await request.body()).get("parameters", {})
        if not isinstance(parameters, dict):
            raise UsageError("parameters: not a JSON object")
        cid, data = parameters.get("cid", ""), b""
        for name, value in parameters.items():
            if name.startswith("file:"):
                data = _from_base64(value)
        if not isinstance(cid, str):
            raise UsageError("cid is not a text")
        await self._serving.load(request.path_params["model"], cid=cid, data=data)
        return Response()

    async def unload(self, request: Request) -> Response:
        """Closes a model. It stays closed until it is loaded again."""
        await self._serving.unload(request.path_params["model"])
        return Response()

    async def metadata(self, request: Request) -> Response:
        """What a model takes and gives."""
        model = await self._model(request)
        return JSONResponse(
            {
                "name": model.name,
                "versions": sorted(each.version for each in self._serving.served() if each.name == model.name),
                "platform": PLATFORM,
                "inputs": [_port(port) for port in model.interface.inputs],
                "outputs": [_port(port) for port in model.interface.outputs],
            }
        )

    async def ready(self, request: Request) -> Response:
        """Whether a model can be asked. Opens it if need be."""
        try:
            await self._model(request)
        except (UnknownModel, ModelRefused) as error:
            return refusal(error, status=404 if isinstance(error, UnknownModel) else 400)
        return Response()

    async def statistics(self, request: Request) -> Response:
        """Requests to one model, or to all, since they were opened."""
        models = [await self._model(request)] if "model" in request.path_params else self._serving.served()
        return JSONResponse({"model_stats": [_statistics(model, self._serving.executions(model)) for model in models]})

    async def _model(self, request: Request) -> ServedModel:
        return await self._serving.model(request.path_params["model"], request.path_params.get("version", ""))

    # --- requests --------------------------------------------------------------------------------------------------

    async def infer(self, request: Request) -> Response:
        """Runs a model on the inputs of the request. Parameters: priority, timeout (in microseconds), verify."""
        headers = request.headers
        body = inflate(await request.body(), headers.get("content-encoding", ""), TENSORS_BYTES_MAX)
        json_length = headers.get("inference-header-content-length")
        if len(body) > IN_THREAD_BYTES and json_length is None:
            asked = await trio.to_thread.run_sync(read_request, body, json_length)
        else:
            asked = read_request(body, json_length)
        model = await self._model(request)
        started_s, times = time.perf_counter(), Times()
        outputs = await self._serving.infer(
            model,
            asked.inputs,
            timeout_s=_timeout_s(asked.parameters),
            priority=_priority(asked.parameters),
            verify=_verify(asked.parameters),
            times=times,
        )
        spent_s = time.perf_counter() - started_s
        about = {"peerinfer.model": model.name, "peerinfer.model_version": model.version}
        self._tracing.request(headers, about, min(times.queued_s, spent_s), max(spent_s - times.queued_s, 0.0))
        # How long the swarm took, without this gateway: the standard header for it.
        told = {"Server-Timing": f"infer;dur={spent_s * 1e3:.3f}"}
        model.statistics.last_at_ms = int(time.time() * 1000)
        wanted = _wanted(asked, model)
        head: dict[str, Any] = {"model_name": model.name, "model_version": model.version}
        if asked.id:
            head["id"] = asked.id
        chosen = {name: outputs[name] for name in wanted}
        parts, length = write_answer(head, chosen, wanted)
        answer = b"".join(parts)
        if length is None:
            return Response(answer, media_type="application/json", headers=told)
        told["Inference-Header-Content-Length"] = str(length)
        return Response(answer, media_type="application/octet-stream", headers=told)


async def _while_wanted(request: Request, handler: Handler) -> Response:
    """Stops the work when the client has gone. The body must be whole, as `BoundedBody` makes it."""
    await request.body()
    answer: Response | None = None
    async with trio.open_nursery() as nursery:

        async def stop_with_client() -> None:
            message: Message = {"type": ""}
            while message["type"] != "http.disconnect":
                message = await request.receive()
            nursery.cancel_scope.cancel()

        nursery.start_soon(stop_with_client)
        error: Exception | None = None
        try:
            answer = await handler(request)
        except Exception as raised:
            error = raised
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error
    return answer if answer is not None else Response(status_code=499)


def _json_of(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise UsageError("the request is not JSON") from None
    if not isinstance(found, dict):
        raise UsageError("the request is not a JSON object")
    return found


def _from_base64(value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (ValueError, TypeError):
        raise UsageError("the file is not in base64") from None


def _wanted(asked: InferRequest, model: ServedModel) -> dict[str, bool]:
    """The outputs to send, and whether each goes as a binary tensor."""
    known = {port.name for port in model.interface.outputs}
    for output in asked.outputs:
        if output.name not in known:
            raise InputError(
                f"the model gives no output {quoted(output.name)}; it gives {', '.join(map(quoted, known))}"
            )
    if asked.outputs:
        return {output.name: output.is_binary for output in asked.outputs}
    return {port.name: asked.is_binary for port in model.interface.outputs}


def _timeout_s(parameters: Any) -> float:
    value = parameters.get("timeout", 0)
    if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
        raise UsageError("timeout: give microseconds of at least 0")
    return min(value / 1e6, TIMEOUT_MAX_S) if value else REQUEST_TIMEOUT_S


def _priority(parameters: Any) -> Priority:
    """One of our words, or Triton's numbers: 0 for the default, 1 for the highest, then downwards."""
    value = parameters.get("priority", 0)
    if isinstance(value, str) and value.upper() in Priority.__members__:
        return Priority[value.upper()]
    if type(value) is not int or value < 0:
        raise UsageError("priority: give urgent, high, normal, low, or a number from 1, the highest; 0 is normal")
    order = [Priority.NORMAL, Priority.URGENT, Priority.HIGH, Priority.NORMAL]
    return order[value] if value < len(order) else Priority.LOW


def _verify(parameters: Any) -> str:
    value = parameters.get("verify", "none")
    if not isinstance(value, str) or VERIFY.fullmatch(value) is None:
        raise UsageError("verify: give none, spot or quorum:2 to quorum:9")
    if value == "adaptive":
        raise NotSupported("verify adaptive is for jobs; an online request takes none, spot or quorum:2 to quorum:9")
    return str(value)


def _port(port: Port) -> dict[str, Any]:
    return {
        "name": port.name,
        "datatype": datatype_of(port.dtype),
        "shape": [max(size, -1) for size in port.shape],
    }


def _statistics(model: ServedModel, executions: list[Execution]) -> dict[str, Any]:
    """As Triton means them: a request counts once, an execution may be of the rows of several, on any worker."""
    count = model.statistics
    nothing = {"count": 0, "ns": 0}
    success = {"count": count.succeeded, "ns": count.succeeded_ns}
    return {
        "name": model.name,
        "version": model.version,
        "last_inference": count.last_at_ms,
        "inference_count": count.items,
        "execution_count": sum(each.runs for each in executions),
        "inference_stats": {
            "success": success,
            "fail": {"count": count.failed, "ns": count.failed_ns},
            "queue": {"count": count.succeeded, "ns": count.queued_ns},
            "compute_input": nothing,
            "compute_infer": {"count": count.succeeded, "ns": count.succeeded_ns - count.queued_ns},
            "compute_output": nothing,
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [
            {
                "batch_size": each.rows,
                "compute_input": {"count": each.runs, "ns": 0},
                "compute_infer": {"count": each.runs, "ns": int(each.compute_s * 1e9)},
                "compute_output": {"count": each.runs, "ns": 0},
            }
            for each in executions
        ],
    }
