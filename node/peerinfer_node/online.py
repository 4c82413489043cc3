"""Online inference: models that stay open for single requests, and the requests themselves.

Requests of one model that come together are answered together: each kind of request is one endless job, whose tasks
travel in frames and are computed in batches. Whether rows of several requests may be joined along the first axis, a
model does not say. A free first axis is a batch for nearly all of them and a sequence for some, so it is tried when the
model is opened: two rows together must give what they give one by one. A model for which they do not, or whose first
axis is fixed, gets whole inputs, each computed by itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import trio
from numpy.typing import NDArray

from peerinfer.assignment import JobClosed, JobSpec
from peerinfer.binding import bind, check_outputs, quoted, shape_text
from peerinfer.comparison import disagreement
from peerinfer.errors import InputError, JobFailed, LimitExceeded, NoSuitablePeer, PeerinferError, VerificationFailed
from peerinfer.fairness import Priority
from peerinfer.ids import Cid, JobId
from peerinfer.messages import Execution, JobBrief, Term
from peerinfer.strings import widened
from peerinfer.tensors import FREE, Buffer, TensorSpec, dtype_name
from peerinfer_node.inference.samples import batch_of_one, outputs_of_one, samples
from peerinfer_node.ports import BlobStore, Executor, Keys, ModelInterface
from peerinfer_node.roles.answers import Rows
from peerinfer_node.roles.coordinator import CoordinatorRole
from peerinfer_node.roles.online_job import Executions, OnlineJob, Times

REQUEST_TIMEOUT_S = 30.0
SHAPES_MAX = 64
"""Kinds of requests (shapes beyond the number of items, priorities) that one model serves at a time; of those that nobody
waits for, the one used last goes last."""

MODELS_OPEN_MAX = 32
"""Each keeps its bytes on disk and a place in the worker process."""

REQUESTS_WAITING_MAX = 1024
"""Of one kind. Further ones are refused: busy, retry later. Beyond what workers take at once, waiting gains nothing."""

CHECKED_SHARE = 0.05
"""Of requests with `verify="spot"`: so many are computed here too before they are answered."""

TRIED_S = 10.0

REQUESTS_PER_JOB_MAX = 100_000
"""Then a new job takes over: a coordinator keeps a byte for each task of a job, and requests have no end."""

_PIN = "online"
_SAMPLE_SEED = 7

Kind = tuple[object, ...]
Array = NDArray[Any]


@dataclass(slots=True)
class _OpenModel:
    interface: ModelInterface
    model_bytes: int
    joins: bool
    """Rows of several requests make one batch."""
    bodies: dict[Kind, OnlineJob] = field(default_factory=dict)
    executions: Executions = field(default_factory=Executions)


class Online:
    """Opens models and answers requests; each kind of requests is one endless job of this node."""

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
        """Checks a model here and makes it ready for requests. Raises `ModelRefused`, `InputError`, `LimitExceeded`."""
        model = await self._blobs.put(data)
        if model not in self._open:
            if len(self._open) >= MODELS_OPEN_MAX:
                raise LimitExceeded(
                    "models that are served", current=len(self._open), attempted=1, limit=MODELS_OPEN_MAX, unit="models"
                )
            interface = await self._executor.load(model, data)
            check_outputs(interface.outputs)
            joins = await self._joins(model, interface)
            await self._blobs.pin(model, _PIN)
            self._open[model] = _OpenModel(interface, len(data), joins)
        return model

    def interface(self, model: Cid) -> ModelInterface:
        return self._open[model].interface

    def executions(self, model: Cid) -> list[Execution]:
        """In which batches its requests ran, since it was opened."""
        opened = self._open.get(model)
        return [] if opened is None else opened.executions.by_rows()

    def opened(self) -> list[Cid]:
        return list(self._open)

    @property
    def waiting(self) -> int:
        """Requests without an answer."""
        return sum(body.waiting for opened in self._open.values() for body in opened.bodies.values())

    async def infer(
        self,
        model: Cid,
        inputs: Rows,
        *,
        timeout_s: float = REQUEST_TIMEOUT_S,
        priority: Priority = Priority.NORMAL,
        verify: str = "none",
        times: Times | None = None,
    ) -> Rows:
        """What the model makes of these inputs, whole as it takes them.

        Raises `InputError`, `NoSuitablePeer` (nobody answered in time), `LimitExceeded` (too many wait), `JobFailed`,
        `VerificationFailed`.
        """
        opened = self._open[model]
        ports = opened.interface.inputs
        for port in ports:
            given = inputs.get(port.name)
            if given is not None and given.ndim != len(port.shape):
                shown = shape_text(dtype_name(given.dtype), given.shape)
                raise InputError(f"input {quoted(port.name)}: the model takes {port}, given {shown}")
        rows = (
            inputs if opened.joins else {name: array[None] if array.ndim else array for name, array in inputs.items()}
        )
        policy = verify if verify.startswith("quorum:") else "none"
        kind = _kind(policy, rows, priority)
        if not (opened.joins and len(ports) == 1 and kind in opened.bodies and len(rows[ports[0].name])):
            bind(ports, [TensorSpec(name, dtype_name(array.dtype), array.shape) for name, array in rows.items()])
        body = self._body(model, opened, kind, priority, policy)
        answer: Rows | None = None
        with trio.move_on_after(timeout_s):
            answer = await body.infer(rows, self._coordinator.post, times)
        if answer is None:
            blocked = self._coordinator.machine.blocked(body.job)
            raise NoSuitablePeer(f"no answer within {timeout_s:g} s{': ' + blocked if blocked else ''}")
        outputs = answer if opened.joins else {name: array[0] for name, array in answer.items()}
        if verify == "spot" and self._rng.random() < CHECKED_SHARE:
            await self._check(model, inputs, outputs)
        return outputs

    async def close(self, model: Cid) -> None:
        """Ends the model's requests. The blob stays as long as others are open."""
        for body in self._open.pop(model).bodies.values():
            self._coordinator.post(JobClosed(body.job))
        if not self._open:
            await self._blobs.unpin(_PIN)

    async def _joins(self, model: Cid, interface: ModelInterface) -> bool:
        """Whether two rows together give what they give one by one, on inputs that are made up."""
        ports = [*interface.inputs, *interface.outputs]
        if any(port.shape[:1] != (FREE,) for port in ports):
            return False
        for arrays in samples(interface.inputs, _SAMPLE_SEED):
            whole = await self._run_here(model, arrays)
            first = await self._run_here(model, {name: array[:1] for name, array in arrays.items()})
            second = await self._run_here(model, {name: array[1:] for name, array in arrays.items()})
            if whole is None or first is None or second is None:
                continue
            try:
                joined = {name: _joined(first[name], second[name]) for name in whole}
            except ValueError:
                return False
            return not disagreement(joined, whole, compare="allclose")
        return False

    async def _run_here(self, model: Cid, inputs: Rows) -> Rows | None:
        try:
            result = outputs_of_one(await self._executor.run(model, batch_of_one(inputs), TRIED_S))
        except (PeerinferError, KeyError):
            return None
        return None if result is None else {name: array[0] for name, array in result.items()}

    async def _computed_here(self, model: Cid, opened: _OpenModel, rows: Rows) -> Rows | None:
        """What this node's own device makes of a request, as the workers' answers have it."""
        if opened.joins:
            return await self._run_here(model, rows)
        whole = {name: array[0] if array.ndim else array for name, array in rows.items()}
        found = await self._run_here(model, whole)
        return None if found is None else {name: array[None] for name, array in found.items()}

    async def _check(self, model: Cid, inputs: Rows, outputs: Rows) -> None:
        reference = await self._run_here(model, inputs)
        if reference is None:
            raise JobFailed("this node could not compute the request to check its answer; send it again")
        problem = disagreement(outputs, reference, compare="allclose")
        if problem:
            raise VerificationFailed(f"the answer did not stand up to its check: {problem}")

    def _body(self, model: Cid, opened: _OpenModel, kind: Kind, priority: Priority, policy: str) -> OnlineJob:
        """The endless job of requests of this kind; only such can be joined into one frame."""
        body = opened.bodies.pop(kind, None)
        if body is not None and body.requests >= REQUESTS_PER_JOB_MAX:
            self._coordinator.post(JobClosed(body.job))  # it ends when it has answered what it was asked
            body = None
        if body is None:
            if len(opened.bodies) >= SHAPES_MAX:
                self._close_oldest(opened)
            body = self._begin(model, opened, priority, policy)
        opened.bodies[kind] = body
        return body

    def _close_oldest(self, opened: _OpenModel) -> None:
        idle = next((kind for kind, body in opened.bodies.items() if not body.waiting), None)
        if idle is None:
            raise LimitExceeded(
                "kinds of requests that wait", current=len(opened.bodies), attempted=1, limit=SHAPES_MAX, unit="kinds"
            )
        self._coordinator.post(JobClosed(opened.bodies.pop(idle).job))

    def _begin(self, model: Cid, opened: _OpenModel, priority: Priority, policy: str) -> OnlineJob:
        job = JobId(self._rng.randbytes(16).hex())
        term = Term(1, self._keys.peer_id)
        brief = JobBrief(job, term, model, opened.model_bytes, (), opened.joins, REQUEST_TIMEOUT_S, receipts=False)
        interface = opened.interface
        body = OnlineJob(
            job,
            brief,
            interface.inputs,
            interface.outputs,
            requests_max=REQUESTS_WAITING_MAX,
            compute=None if policy == "none" else lambda rows: self._computed_here(model, opened, rows),
            executions=opened.executions,
        )
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
            verify=policy,
            priority=priority,
        )
        self._coordinator.accept(spec, body)
        self._on_accept()
        return body


def _joined(first: Array, second: Array) -> Array:
    """Rows of two answers together. Raises ValueError if they are of different shapes."""
    if first.dtype.kind == "V":
        slot = max(first.dtype.itemsize, second.dtype.itemsize)
        first, second = widened(first, slot), widened(second, slot)
    return np.concatenate([first, second])


def _kind(policy: str, rows: Rows, priority: Priority) -> Kind:
    """Requests of one kind may share a frame: alike in all but their number of rows, scalars and string slots included."""
    parts: list[object] = [policy, priority]
    for name, array in sorted(rows.items()):
        parts.append((name, array.dtype, array.shape[1:] if array.ndim else array.tobytes()))
    return tuple(parts)
