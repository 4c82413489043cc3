"""Online inference: tasks that arrive one by one, are answered at once and leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from peerinfer.assignment import JobEnded, TasksAdded, TaskWithdrawn
from peerinfer.errors import JobFailed, LimitExceeded, PeerinferError
from peerinfer.ids import JobId, PeerId
from peerinfer.messages import JobBrief
from peerinfer.tensors import Port, TensorSpec, dtype_name
from peerinfer_node.roles.answers import Answer, Rows, raw_bytes
from peerinfer_node.roles.job_body import FrameInputs, Verdict


@dataclass(slots=True)
class _Request:
    inputs: Rows
    rows: int
    done: trio.Event = field(default_factory=trio.Event)
    outputs: Rows | None = None
    error: PeerinferError | None = None


class OnlineJob:
    """Implements `JobBody`. Inputs are given by name, their first axis the rows of one request (merged with others)."""

    def __init__(
        self, job: JobId, brief: JobBrief, inputs: Sequence[Port], outputs: Sequence[Port], *, requests_max: int
    ) -> None:
        self.job = job
        self._brief = brief
        self._inputs = tuple(inputs)
        self._outputs = {port.name: port for port in outputs}
        self._requests: dict[int, _Request] = {}
        self._next_task = 0
        self._closed: PeerinferError | None = None
        self._requests_max = requests_max

    @property
    def waiting(self) -> int:
        """Requests without an answer."""
        return len(self._requests)

    async def infer(self, inputs: Rows, post: Callable[[TasksAdded | TaskWithdrawn], None]) -> Rows:
        """One request; `post` tells the machine. Raises what became of it otherwise.

        A caller that goes before the answer withdraws its task. A frame that carries others too goes on.
        """
        if self._closed is not None:
            raise self._closed
        if len(self._requests) >= self._requests_max:
            raise LimitExceeded(
                "requests waiting",
                current=len(self._requests),
                attempted=1,
                limit=self._requests_max,
                unit="requests",
            )
        task, self._next_task = self._next_task, self._next_task + 1
        request = _Request(inputs, max(len(array) if array.ndim else 1 for array in inputs.values()))
        self._requests[task] = request
        post(TasksAdded(self.job, 1))
        try:
            await request.done.wait()
        finally:
            if not request.done.is_set():
                post(TaskWithdrawn(self.job, task))
        if request.error is not None:
            raise request.error
        assert request.outputs is not None
        return request.outputs

    @property
    def requests(self) -> int:
        """How many there were, answered or not."""
        return self._next_task

    # --- what the coordinator asks -----------------------------------------------------------------------------------

    @property
    def brief(self) -> JobBrief:
        return self._brief

    def may_act(self) -> bool:
        return True

    @property
    def outputs(self) -> dict[str, Port]:
        return self._outputs

    async def inputs(self, tasks: Sequence[int]) -> FrameInputs:
        # A task that was withdrawn since is computed with the rows of another: the frame promises a result for each.
        known = [self._requests[task] for task in tasks if task in self._requests]
        requests = [self._requests.get(task, known[0]) for task in tasks]
        items = tuple(request.rows for request in requests)
        tensors, body = [], []
        for port in self._inputs:
            arrays = [request.inputs[port.name] for request in requests]
            if not port.shape and not arrays[0].ndim:  # a scalar that all requests of this job share
                tensors.append(TensorSpec(port.name, dtype_name(arrays[0].dtype), ()))
                body.append(raw_bytes(arrays[0]))
                continue
            tensors.append(TensorSpec(port.name, dtype_name(arrays[0].dtype), (sum(items), *arrays[0].shape[1:])))
            body += [raw_bytes(array) for array in arrays]
        return FrameInputs(items, tuple(tensors), body)

    async def keep(self, answer: Answer, tasks: Sequence[int]) -> None:
        self.keep_nowait(answer, tasks)

    def keep_nowait(self, answer: Answer, tasks: Sequence[int]) -> bool:
        for task in tasks:
            request = self._requests.pop(task, None)
            if request is None:
                continue
            request.outputs = answer.rows(task)
            request.done.set()
        return True

    async def compare(self, answer: Answer, tasks: Sequence[int]) -> Mapping[int, tuple[PeerId, ...]]:
        del answer, tasks
        return {}  # Nobody asks for copies: online requests are believed.

    async def audit(
        self, asked: Mapping[int, tuple[PeerId, ...]], fresh: Mapping[int, tuple[PeerId, Rows]]
    ) -> Mapping[int, Verdict]:
        del fresh
        return dict.fromkeys(asked, Verdict(None, (), "online tasks are not audited"))

    async def evidence(self, task: int, peer: PeerId) -> None:
        del task, peer

    async def settle(self, peer: PeerId, tasks: Sequence[int], *, is_last: bool) -> None:
        del peer, tasks, is_last

    async def void(self, tasks: Sequence[int]) -> None:
        del tasks

    def changed(self) -> None:
        pass

    async def failed(self, task: int, reason: str) -> None:
        request = self._requests.pop(task, None)
        if request is not None:
            request.error = JobFailed(reason)
            request.done.set()

    async def ended(self, end: JobEnded) -> None:
        self._closed = JobFailed(end.reason or "the model was unloaded")
        for request in self._requests.values():
            request.error = self._closed
            request.done.set()
