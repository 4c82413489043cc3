"""Online inference: models that stay open for single requests, and the requests themselves."""

from __future__ import annotations

import random
from collections.abc import Callable

import trio

from peerinfer.assignment import JobClosed, JobSpec, TasksAdded
from peerinfer.binding import bind, check_outputs
from peerinfer.errors import NoSuitablePeer
from peerinfer.ids import Cid, JobId
from peerinfer.messages import JobBrief, Term
from peerinfer.tensors import TensorSpec
from peerinfer_node.ports import BlobStore, Buffer, Executor, Keys
from peerinfer_node.roles.answers import Rows
from peerinfer_node.roles.coordinator import CoordinatorRole
from peerinfer_node.roles.online_job import OnlineJob

REQUEST_TIMEOUT_S = 30.0


class Online:
    """Opens models and answers requests; each model is one endless job of this node."""

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
        self._open: dict[Cid, OnlineJob] = {}

    async def open(self, data: Buffer) -> Cid:
        """Checks a model here and makes it ready for requests. Raises `ModelRefused`, `InputError`."""
        model = await self._blobs.put(data)
        if model in self._open:
            return model
        interface = await self._executor.load(model, data)
        check_outputs(interface.outputs)
        job = JobId(self._rng.randbytes(16).hex())
        brief = JobBrief(job, Term(1, self._keys.peer_id), model, len(data), (), True, REQUEST_TIMEOUT_S)
        body = OnlineJob(job, brief, interface.inputs, interface.outputs)
        await self._blobs.pin(model, job)
        spec = JobSpec(
            job=job,
            model=model,
            model_bytes=len(data),
            tasks=0,
            items_per_task=1,
            bytes_per_task=1,
            seconds_per_item=1e-3,
            task_timeout_s=REQUEST_TIMEOUT_S,
            online=True,
        )
        self._coordinator.accept(spec, body)
        self._open[model] = body
        self._on_accept()
        return model

    async def infer(self, model: Cid, inputs: Rows, *, timeout_s: float = REQUEST_TIMEOUT_S) -> Rows:
        """The outputs for a few items (first axes alike). Raises `InputError`, `NoSuitablePeer`, `JobFailed`."""
        body = self._open[model]
        bind(body.inputs_wanted, [TensorSpec(name, str(array.dtype), array.shape) for name, array in inputs.items()])
        with trio.move_on_after(timeout_s):
            return await body.infer(inputs, lambda count: self._coordinator.post(TasksAdded(body.job, count)))
        blocked = self._coordinator.machine.blocked(body.job)
        raise NoSuitablePeer(f"no answer within {timeout_s:g} s{': ' + blocked if blocked else ''}")

    async def close(self, model: Cid) -> None:
        body = self._open.pop(model)
        self._coordinator.post(JobClosed(body.job))
        await self._blobs.unpin(body.job)
