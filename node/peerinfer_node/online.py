"""Online inference: models that stay open for single requests, and the requests themselves."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from peerinfer.assignment import JobClosed, JobSpec, TasksAdded
from peerinfer.binding import bind, check_outputs
from peerinfer.errors import NoSuitablePeer
from peerinfer.ids import Cid, JobId
from peerinfer.messages import JobBrief, Term
from peerinfer.tensors import TensorSpec
from peerinfer_node.ports import BlobStore, Buffer, Executor, Keys, ModelInterface
from peerinfer_node.roles.answers import Rows
from peerinfer_node.roles.coordinator import CoordinatorRole
from peerinfer_node.roles.online_job import OnlineJob

REQUEST_TIMEOUT_S = 30.0
SHAPES_MAX = 64
"""Shapes of requests, beyond the number of items, that one model serves at a time; the one used last goes last."""

_PIN = "online"

Shape = tuple[tuple[int, ...], ...]


@dataclass(slots=True)
class _OpenModel:
    interface: ModelInterface
    model_bytes: int
    bodies: dict[Shape, OnlineJob] = field(default_factory=dict)


class Online:
    """Opens models and answers requests; each shape of requests is one endless job of this node."""

    def __init__(
        self,
        *,
        blobs: BlobStore,
        keys: Keys,
        executor: Executor,
        coordinator: CoordinatorRole,
        rng: random.Random,
        on_accept: Callable[[], None],
    ) -> None:
        self._blobs = blobs
        self._keys = keys
        self._executor = executor
        self._coordinator = coordinator
        self._rng = rng
        self._on_accept = on_accept
        self._open: dict[Cid, _OpenModel] = {}

    async def open(self, data: Buffer) -> Cid:
        """Checks a model here and makes it ready for requests. Raises `ModelRefused`, `InputError`."""
        model = await self._blobs.put(data)
        if model not in self._open:
            interface = await self._executor.load(model, data)
            check_outputs(interface.outputs)
            await self._blobs.pin(model, _PIN)
            self._open[model] = _OpenModel(interface, len(data))
        return model

    async def infer(self, model: Cid, inputs: Rows, *, timeout_s: float = REQUEST_TIMEOUT_S) -> Rows:
        """The outputs for a few items (first axes alike). Raises `InputError`, `NoSuitablePeer`, `JobFailed`."""
        ports = self._open[model].interface.inputs
        bind(ports, [TensorSpec(name, str(array.dtype), array.shape) for name, array in inputs.items()])
        body = self._body(model, tuple(inputs[port.name].shape[1:] for port in ports))
        with trio.move_on_after(timeout_s):
            return await body.infer(inputs, lambda count: self._coordinator.post(TasksAdded(body.job, count)))
        blocked = self._coordinator.machine.blocked(body.job)
        raise NoSuitablePeer(f"no answer within {timeout_s:g} s{': ' + blocked if blocked else ''}")

    async def close(self, model: Cid) -> None:
        """Ends the model's requests. The blob stays as long as others are open."""
        for body in self._open.pop(model).bodies.values():
            self._coordinator.post(JobClosed(body.job))
        if not self._open:
            await self._blobs.unpin(_PIN)

    def _body(self, model: Cid, shape: Shape) -> OnlineJob:
        """The endless job of requests of this shape; only such can be joined into one batch."""
        opened = self._open[model]
        body = opened.bodies.pop(shape, None) or self._begin(model, opened)
        opened.bodies[shape] = body
        if len(opened.bodies) > SHAPES_MAX:
            oldest = opened.bodies.pop(next(iter(opened.bodies)))
            self._coordinator.post(JobClosed(oldest.job))
        return body

    def _begin(self, model: Cid, opened: _OpenModel) -> OnlineJob:
        job = JobId(self._rng.randbytes(16).hex())
        term = Term(1, self._keys.peer_id)
        brief = JobBrief(job, term, model, opened.model_bytes, (), True, REQUEST_TIMEOUT_S, receipts=False)
        body = OnlineJob(job, brief, opened.interface.inputs, opened.interface.outputs)
        spec = JobSpec(
            job=job,
            model=model,
            model_bytes=opened.model_bytes,
            tasks=0,
            items_per_task=1,
            bytes_per_task=1,
            seconds_per_item=1e-3,
            task_timeout_s=REQUEST_TIMEOUT_S,
            online=True,
        )
        self._coordinator.accept(spec, body)
        self._on_accept()
        return body
