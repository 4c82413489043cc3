"""Online inference: tasks that arrive one by one, are answered at once and leave nothing behind.

Where the job asks for a quorum, an answer waits until as many peers agree as it takes; this node's own device takes the
place of those that are not there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from peerinfer.assignment import JobEnded, TasksAdded, TaskWithdrawn
from peerinfer.comparison import disagreement
from peerinfer.errors import JobFailed, LimitExceeded, PeerinferError, VerificationFailed
from peerinfer.ids import JobId, PeerId
from peerinfer.job_ends import UNVERIFIED
from peerinfer.messages import Execution, JobBrief
from peerinfer.tensors import Port, TensorSpec, dtype_name
from peerinfer_node.roles.answers import Answer, Rows, raw_bytes
from peerinfer_node.roles.job_body import FrameInputs, Verdict

BATCH_SIZES_MAX = 256
"""Of one model, in its statistics. Further ones are not counted."""

Compute = Callable[[Rows], Awaitable[Rows | None]]
"""What this node's own device makes of one request; None if it cannot."""


@dataclass(slots=True)
class Times:
    """Where the time of a request went."""

    began_s: float = 0.0
    queued_s: float = 0.0
    """Until its inputs were on their way to a worker; what is left is travel, computing and checks."""


class Executions:
    """How often a model ran over how many rows at once and for how long, as the workers say that answered."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, float]] = {}

    def note(self, executions: Sequence[Execution]) -> None:
        for each in executions:
            if each.rows in self._known or len(self._known) < BATCH_SIZES_MAX:
                runs, runs_s = self._known.get(each.rows, (0, 0.0))
                self._known[each.rows] = (runs + each.runs, runs_s + each.compute_s)

    def by_rows(self) -> list[Execution]:
        return [Execution(rows, *self._known[rows]) for rows in sorted(self._known)]


@dataclass(slots=True)
class _Request:
    inputs: Rows
    rows: int
    times: Times
    answers: dict[PeerId, Rows] = field(default_factory=dict)
    """Where several are waited for."""
    done: trio.Event = field(default_factory=trio.Event)
    outputs: Rows | None = None
    error: PeerinferError | None = None


class OnlineJob:
    """Implements `JobBody`. Inputs are given by name, their first axis the rows of one request (merged with others)."""

    def __init__(
        self,
        job: JobId,
        brief: JobBrief,
        inputs: Sequence[Port],
        outputs: Sequence[Port],
        *,
        requests_max: int,
        compute: Compute | None = None,
        executions: Executions | None = None,
    ) -> None:
        """`compute` where answers are checked: then they count when `settle` says so. `executions` counts all batches."""
        self.job = job
        self._brief = brief
        self._inputs = tuple(inputs)
        self._outputs = {port.name: port for port in outputs}
        self._requests: dict[int, _Request] = {}
        self._next_task = 0
        self._closed: PeerinferError | None = None
        self._requests_max = requests_max
        self._compute = compute
        self._executions = executions or Executions()
        self._counted: Answer | None = None
        self._last: _Request | None = None
        """The last one that was asked, whose rows stand in for those of one that nobody waits for any more."""

    @property
    def waiting(self) -> int:
        """Requests without an answer."""
        return len(self._requests)

    async def infer(
        self, inputs: Rows, post: Callable[[TasksAdded | TaskWithdrawn], None], times: Times | None = None
    ) -> Rows:
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
        times = times or Times()
        times.began_s = trio.current_time()
        request = _Request(inputs, max(len(array) if array.ndim else 1 for array in inputs.values()), times)
        self._requests[task] = self._last = request
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
        return self.inputs_nowait(tasks)

    def inputs_nowait(self, tasks: Sequence[int]) -> FrameInputs:
        # A task that was withdrawn since is computed with the rows of another: the frame promises a result for each.
        known = [self._requests[task] for task in tasks if task in self._requests]
        for request in known:
            if not request.times.queued_s:
                request.times.queued_s = trio.current_time() - request.times.began_s
        assert self._last is not None
        filler = known[0] if known else self._last
        requests = [self._requests.get(task, filler) for task in tasks]
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
        if answer is not self._counted:
            self._counted = answer
            self._executions.note(answer.executions)
        for task in tasks:
            request = self._requests.get(task)
            if request is not None and self._compute is not None:
                request.answers[answer.peer] = answer.rows(task)
            elif request is not None:
                self._answer(task, answer.rows(task))
        return True

    def _answer(self, task: int, outputs: Rows) -> None:
        request = self._requests.pop(task)
        request.outputs = outputs
        request.done.set()

    async def compare(self, answer: Answer, tasks: Sequence[int]) -> Mapping[int, tuple[PeerId, ...]]:
        agrees: dict[int, tuple[PeerId, ...]] = {}
        for task in tasks:
            request = self._requests.get(task)
            if request is None:
                continue
            rows, earlier = answer.rows(task), request.answers
            agrees[task] = tuple(peer for peer, known in earlier.items() if not _problem(known, rows))
            earlier[answer.peer] = rows
        return agrees

    async def audit(
        self, asked: Mapping[int, tuple[PeerId, ...]], fresh: Mapping[int, tuple[PeerId, Rows]]
    ) -> Mapping[int, Verdict]:
        del fresh
        return {task: await self._verdict(task, peers) for task, peers in asked.items()}

    async def _verdict(self, task: int, peers: tuple[PeerId, ...]) -> Verdict:
        request = self._requests.get(task)
        if request is None or self._compute is None:
            return Verdict(None, (), "nobody waits for it any more")
        reference = await self._compute(request.inputs)
        if reference is None:
            return Verdict(None, (), "this node could not compute it")
        problems = {peer: _problem(request.answers[peer], reference) for peer in peers if peer in request.answers}
        if not problems:
            return Verdict(None, (), "its result was voided")
        wrong = tuple(peer for peer, problem in problems.items() if problem)
        right = tuple(peer for peer, problem in problems.items() if not problem)
        return Verdict(right, wrong, problems[wrong[0]] if wrong else "")

    async def evidence(self, task: int, peer: PeerId) -> None:
        del task, peer

    async def settle(self, peer: PeerId, tasks: Sequence[int], *, is_last: bool) -> None:
        del is_last
        for task in tasks:
            request = self._requests.get(task)
            if request is not None and peer in request.answers:
                self._answer(task, request.answers[peer])

    async def void(self, tasks: Sequence[int]) -> None:
        for task in tasks:
            if task in self._requests:
                self._requests[task].answers.clear()

    def changed(self) -> None:
        pass

    async def failed(self, task: int, reason: str) -> None:
        request = self._requests.pop(task, None)
        if request is not None:
            request.error = VerificationFailed(reason) if reason.startswith(UNVERIFIED) else JobFailed(reason)
            request.done.set()

    async def ended(self, end: JobEnded) -> None:
        self._closed = JobFailed(end.reason or "the model was unloaded")
        for request in self._requests.values():
            request.error = self._closed
            request.done.set()


def _problem(claimed: Rows, reference: Rows) -> str:
    return disagreement(claimed, reference, compare="allclose")
