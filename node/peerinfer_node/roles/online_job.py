"""Online inference: tasks that arrive one by one, are answered at once and leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from peerinfer.assignment import JobEnded
from peerinfer.errors import JobFailed, LimitExceeded, PeerinferError
from peerinfer.ids import JobId, PeerId
from peerinfer.messages import JobBrief
from peerinfer.tensors import Port, TensorSpec
from peerinfer_node.roles.answers import Answer, Rows, raw_bytes
from peerinfer_node.roles.coordinator import FrameInputs, Verdict

REQUESTS_WAITING_MAX = 65_536
"""Beyond this many unanswered requests of one model new ones are refused: busy, retry later."""


@dataclass(slots=True)
class _Request:
    inputs: Rows
    rows: int
    done: trio.Event = field(default_factory=trio.Event)
    outputs: Rows | None = None
    error: PeerinferError | None = None


class OnlineJob:
    """Implements `JobBody`. Inputs are given by name, their first axis the rows of one request (merged with others)."""

    def __init__(self, job: JobId, brief: JobBrief, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
        self.job = job
        self._brief = brief
        self._inputs = tuple(inputs)
        self._outputs = {port.name: port for port in outputs}
        self._requests: dict[int, _Request] = {}
        self._next_task = 0
        self._closed: PeerinferError | None = None

    async def infer(self, inputs: Rows, post: Callable[[int], None]) -> Rows:
        """One request; `post` tells the machine that so many tasks were added. Raises what became of it otherwise.

        A caller that goes before the answer leaves its task behind: it shares a frame with those of others.
        """
        if self._closed is not None:
            raise self._closed
        if len(self._requests) >= REQUESTS_WAITING_MAX:
            raise LimitExceeded(
                "requests waiting",
                current=len(self._requests),
                attempted=1,
                limit=REQUESTS_WAITING_MAX,
                unit="requests",
            )
        task, self._next_task = self._next_task, self._next_task + 1
        request = _Request(inputs, len(next(iter(inputs.values()))))
        self._requests[task] = request
        post(1)
        await request.done.wait()
        if request.error is not None:
            raise request.error
        assert request.outputs is not None
        return request.outputs

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
        requests = [self._requests[task] for task in tasks]
        items = tuple(request.rows for request in requests)
        tensors, body = [], []
        for port in self._inputs:
            arrays = [request.inputs[port.name] for request in requests]
            tensors.append(TensorSpec(port.name, port.dtype, (sum(items), *arrays[0].shape[1:])))
            body += [raw_bytes(array) for array in arrays]
        return FrameInputs(items, tuple(tensors), body)

    async def keep(self, answer: Answer, tasks: Sequence[int]) -> None:
        for task in tasks:
            request = self._requests.pop(task)
            request.outputs = answer.rows(task)
            request.done.set()

    async def audit(self, claims: Mapping[int, Rows | None]) -> Mapping[int, Verdict]:
        return dict.fromkeys(claims, Verdict(None, "online tasks are not audited"))

    async def settle(self, peer: PeerId, tasks: Sequence[int], *, is_last: bool) -> None:
        del peer, tasks, is_last

    async def void(self, tasks: Sequence[int]) -> None:
        del tasks

    def changed(self) -> None:
        pass

    async def failed(self, task: int, reason: str) -> None:
        request = self._requests.pop(task)
        request.error = JobFailed(reason)
        request.done.set()

    async def ended(self, end: JobEnded) -> None:
        self._closed = JobFailed(end.reason or "the model was unloaded")
        for request in self._requests.values():
            request.error = self._closed
            request.done.set()
