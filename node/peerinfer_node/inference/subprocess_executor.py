"""One device's worker as the daemon sees it: a process that is started when needed, and killed and replaced freely.

The process runs strangers' models, so it is believed in nothing: every length is bounded, every answer checked against
the question, and whatever is odd ends the process. A batch that is not wanted any more is stopped politely first, which
works between two nodes of a graph; after `STOP_GRACE_S` comes SIGKILL. Where that comes far beyond the time that such
batches took (`peerinfer.hangs`), the device hung, and `on_hung` is told. The models that a killed process held are
forgotten: `holds` is false and the caller loads them again.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import trio

from peerinfer.batch_size import Measure
from peerinfer.errors import (
    AttemptTimeout,
    DecodeError,
    DeviceUnfit,
    InputError,
    ModelRefused,
    OutOfMemory,
    WorkerDied,
)
from peerinfer.hangs import RunTimes, allowed_s, hang_words, is_hung
from peerinfer.ids import Cid
from peerinfer.limits import FRAME_TASKS_MAX, GIB, MODEL_BYTES_MAX, TENSORS_MAX
from peerinfer.tensors import Buffer
from peerinfer_node.inference import pipe
from peerinfer_node.inference.device_access import DeviceAccess
from peerinfer_node.inference.device_process import DeviceProcess
from peerinfer_node.inference.remembered_figures import RememberedFigures
from peerinfer_node.inference.remembered_sizes import RememberedSizes
from peerinfer_node.ports import Batch, BatchResult, Device, Group, ModelInterface

START_TIMEOUT_S = 30.0
"""Starting takes 0.3 s on an idle machine; importing from a cold, slow disk takes longer."""

LOAD_TIMEOUT_S = 60.0
"""A hundred megabytes load in a quarter of a second; a hostile model may never finish."""

MEASURE_TIMEOUT_S = 60.0
"""Takes a second; a card whose driver compiles for the first time takes many."""

STOP_GRACE_S = 0.25
"""A polite stop acts within 20 ms on real models; a single huge node would go on for as long as it likes."""

DEATH_GRACE_S = 0.25
"""Between the end of a process's socket and the status that says why."""

MEMORY_BYTES_DEFAULT = 4 * GIB
"""Address space of the process. Python and ONNX Runtime take 0.3 GiB of it."""

CACHE_BYTES_DEFAULT = 2 * GIB
"""Loaded models. The one in use always stays."""


_REFUSALS = {"model": ModelRefused, "memory": OutOfMemory, "device": DeviceUnfit}


class SubprocessExecutor:
    """Implements `ports.Executor`. Starts no task and no process before it is asked for something.

    `timeout_s` of `run` is for one task: a batch may take `timeout_s` times its tasks, unless batches like it have
    always been far faster. `sandbox` is "none" until the
    first process has started (`benchmark` starts one).
    """

    def __init__(
        self,
        device: Device,
        *,
        threads: int = 1,
        memory_bytes: int = MEMORY_BYTES_DEFAULT,
        cache_bytes: int = CACHE_BYTES_DEFAULT,
        allow_loops: bool = False,
        access: DeviceAccess | None = None,
        sizes: RememberedSizes | None = None,
        figures: RememberedFigures | None = None,
    ) -> None:
        """`allow_loops` lets models with loops in, which may never end: for a node that runs its owner's models only.

        `access` is for graphics cards: how the process reaches its own. `sizes` keeps what is measured of batches;
        without, every process measures anew. `figures` keeps what `benchmark` measures.
        """
        access = access or DeviceAccess()
        self._device = device
        self._environment = access.environment
        self._arguments = [f"--threads={threads}", f"--memory-bytes={memory_bytes}", f"--cache-bytes={cache_bytes}"]
        self._arguments += ["--allow-loops"] if allow_loops else []
        self._arguments += access.arguments()
        self._sizes = sizes
        self._figures = figures
        self._measures: OrderedDict[Cid, tuple[Measure, ...]] = OrderedDict()
        self._times = RunTimes()
        self.on_hung: Callable[[str], None] = lambda reason: None
        """Called when the process was killed because the device hung, also if nobody waited for it any more."""
        self._turn = trio.Lock()
        self._process: DeviceProcess | None = None
        self._held: frozenset[str] = frozenset()
        self._level = "none"
        self._layers = ""
        self._requests = 0
        self._closed = False

    @property
    def device(self) -> Device:
        return self._device

    @property
    def sandbox(self) -> str:
        return self._level

    @property
    def layers(self) -> str:
        """What the sandbox consists of, for people."""
        return self._layers

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return self._process.pid if self._process is not None else None

    async def holds(self, model: Cid) -> bool:
        return self._process is not None and self._process.is_alive and model in self._held

    async def load(self, model: Cid, data: Buffer) -> ModelInterface:
        """Raises `ModelRefused`, `DeviceUnfit`, `WorkerDied`, `AttemptTimeout`, `OutOfMemory`."""
        if memoryview(data).nbytes > MODEL_BYTES_MAX:
            raise ModelRefused(f"the model has {memoryview(data).nbytes} bytes, the limit is {MODEL_BYTES_MAX}")
        known = await self._sizes.find(model) if self._sizes is not None else ()
        async with self._turn:
            speeds = tuple(pipe.Speed(one.row_bytes_power, one.rows, one.run_s) for one in known)
            request = pipe.Load(self._next_request(), model, speeds)
            reply, _ = await self._ask(request, [data], (pipe.Loaded, pipe.NotLoaded), LOAD_TIMEOUT_S)
            self._held = frozenset(reply.held)
        if isinstance(reply, pipe.NotLoaded):
            raise _REFUSALS[reply.kind](reply.reason)
        self._note(model, known)
        return ModelInterface(reply.inputs, reply.outputs, reply.load_s, reply.is_widened, max(reply.flops, 1.0))

    async def run(self, model: Cid, batch: Batch, timeout_s: float) -> BatchResult:
        """Raises `WorkerDied`, `AttemptTimeout`, `InputError` (the batch contradicts itself), KeyError (not loaded)."""
        _check_batch(batch)
        kind = (model, sum(batch.items), sum(spec.size_bytes for spec in batch.tensors))
        async with self._turn:
            if not await self.holds(model):
                raise KeyError(model)
            longest_s = self._times.longest_s(*kind)
            request = pipe.Run(self._next_request(), model, batch.items, batch.tensors, batch.merge, batch.outputs)
            started_s = trio.current_time()
            reply, body = await self._ask(
                request,
                batch.body,
                (pipe.Ran, pipe.Unknown),
                allowed_s(timeout_s, len(batch.items), longest_s),
                lambda reply, body: _check_results(reply, body, batch.items),
                longest_s,
            )
            run_s = trio.current_time() - started_s
        if isinstance(reply, pipe.Unknown):
            raise KeyError(model)
        self._times.learn(*kind, run_s)
        if reply.speeds:
            measures = tuple(Measure(speed.row_bytes_power, speed.rows, speed.run_s) for speed in reply.speeds)
            self._note(model, measures)
            if self._sizes is not None:
                await self._sizes.set(model, measures)
        failures = tuple((failure.position, failure.kind, failure.reason) for failure in reply.failures)
        return BatchResult(tuple(_groups(reply, body)), failures, reply.compute_s, reply.executions)

    def measures(self, model: Cid) -> tuple[Measure, ...]:
        """How long runs of this model took by the rows joined in them, as far as it is known."""
        return self._measures.get(model, ())

    def _note(self, model: Cid, measures: tuple[Measure, ...]) -> None:
        self._measures[model] = measures
        self._measures.move_to_end(model)
        if len(self._measures) > pipe.SESSIONS_MAX:
            self._measures.popitem(last=False)

    async def unload(self, model: Cid) -> None:
        async with self._turn:
            if await self.holds(model):
                self._held -= {model}
                await self._ask(pipe.Unload(self._next_request(), model), (), (pipe.Unloaded,), START_TIMEOUT_S)

    async def benchmark(self) -> Device:
        """Measures, unless that is remembered: then it only starts the process, which tells how well it is locked in."""
        known = await self._figures.find(self._device) if self._figures is not None else None
        if known is not None:
            async with self._turn:
                await self._running_process()
            self._device = known
            return known
        async with self._turn:
            request = pipe.Measure(self._next_request())
            reply, _ = await self._ask(request, (), (pipe.Measured, pipe.NotLoaded), MEASURE_TIMEOUT_S)
        if isinstance(reply, pipe.NotLoaded):
            raise DeviceUnfit(reply.reason)
        self._device = replace(
            self._device,
            gemm_gflops=max(0.0, reply.gemm_gflops),
            bandwidth_gbs=max(0.0, reply.bandwidth_gbs),
            conv_images_s=max(0.0, reply.conv_images_s),
            resnet50_images_s=max(0.0, reply.resnet50_images_s),
            answers=reply.answers,
        )
        if self._figures is not None:
            self._device = await self._figures.keep(self._device)
        return self._device

    async def release(self) -> None:
        """Gives the device and its memory back, now: a batch under way fails with `WorkerDied`, models are forgotten.

        The next call starts a new process.
        """
        process = self._process
        if process is not None:
            process.kill()
            with trio.CancelScope(shield=True):  # bounded as in `close`
                async with self._turn:
                    if self._process is process:
                        await self._bury(process)

    async def close(self) -> None:
        """Ends the process; a batch under way fails with `WorkerDied`. Leaves no process and no descriptor. For good."""
        self._closed = True
        if self._process is not None:
            self._process.kill()
        with trio.CancelScope(shield=True):  # bounded: whoever has the turn finds a dead process
            async with self._turn:
                if self._process is not None:
                    await self._bury(self._process)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _next_request(self) -> int:
        self._requests += 1
        return self._requests

    async def _ask(
        self,
        request: pipe.Request,
        body: Iterable[Buffer],
        kinds: Sequence[type[Any]],
        timeout_s: float,
        check: Callable[[Any, memoryview], None] = lambda reply, body: None,
        longest_s: float | None = None,
    ) -> tuple[Any, memoryview]:
        """One question and its answer. However it ends, the process is ready for the next question or buried.

        `longest_s` is what such a question has taken so far, at most.
        """
        process = await self._running_process()
        asked_s = trio.current_time()
        is_answered = False
        try:
            with trio.move_on_after(timeout_s):
                await process.send(request, body)
                reply, reply_body = await process.receive()
                if reply.request != request.request:
                    raise DecodeError(f"request {reply.request} was answered instead of {request.request}")
                pipe.exact(reply, kinds)
                check(reply, reply_body)
                is_answered = True
                return reply, reply_body
        except (EOFError, OSError):
            raise WorkerDied(await self._bury(process, grace_s=DEATH_GRACE_S)) from None
        except DecodeError as error:
            await self._bury(process)
            raise WorkerDied(f"the worker process answered nonsense and was killed: {error}") from error
        finally:
            if not is_answered and not await self._is_interrupted(process, request):
                waited_s = trio.current_time() - asked_s
                # A load cannot be stopped between two nodes; its time being up is a failure of its own.
                if isinstance(request, pipe.Run) and is_hung(waited_s, longest_s):
                    self.on_hung(hang_words(waited_s, longest_s))
        raise AttemptTimeout(f"no answer from the device within {timeout_s:g} s")

    async def _is_interrupted(self, process: DeviceProcess, request: pipe.Request) -> bool:
        """Ends a question that nobody waits for any more, within `STOP_GRACE_S` and the time that dying takes.

        False if the process had to be killed for it.
        """
        if process is not self._process:
            return True  # buried already
        if isinstance(request, pipe.Run) and process.is_between_messages:
            with (
                contextlib.suppress(EOFError, OSError, DecodeError),
                trio.CancelScope(deadline=trio.current_time() + STOP_GRACE_S, shield=True),
            ):
                process.stop(request.request)
                reply, _ = await process.receive()
                if reply.request == request.request:
                    return True
        await self._bury(process)
        return False

    async def _running_process(self) -> DeviceProcess:
        if self._closed:
            raise WorkerDied("the executor is closed")
        if self._process is not None and self._process.is_alive:
            return self._process
        if self._process is not None:
            await self._bury(self._process)
        process = self._process = DeviceProcess(self._arguments, self._environment)
        is_ready = False
        try:
            with trio.move_on_after(START_TIMEOUT_S):
                ready, _ = await process.receive()
                pipe.exact(ready, (pipe.Ready,))
                process.settle()
                self._level, self._layers = ready.level, ready.layers
                is_ready = True
        except (EOFError, OSError):
            raise WorkerDied(await self._bury(process, grace_s=DEATH_GRACE_S)) from None
        except DecodeError as error:
            raise WorkerDied(f"the worker process started with nonsense: {error}") from error
        finally:
            if not is_ready and process is self._process:
                await self._bury(process)
        if not is_ready:
            raise WorkerDied(f"the worker process was not ready within {START_TIMEOUT_S:g} s")
        return process

    async def _bury(self, process: DeviceProcess, *, grace_s: float = 0.0) -> str:
        self._process, self._held = None, frozenset()
        return await process.bury(grace_s=grace_s)


def _check_batch(batch: Batch) -> None:
    """Raises `InputError` if the parts of a batch do not fit together; what it computes is not looked at."""
    names = {spec.name for spec in batch.tensors}
    if not 0 < len(batch.items) <= FRAME_TASKS_MAX or max(len(batch.tensors), len(batch.outputs)) > TENSORS_MAX:
        raise InputError(f"a batch has 1 to {FRAME_TASKS_MAX} tasks and up to {TENSORS_MAX} inputs and outputs")
    if len(names) < len(batch.tensors) or len(set(batch.outputs)) < len(batch.outputs):
        raise InputError("an input is given or an output wanted twice")
    items = sum(batch.items)
    for spec in batch.tensors:
        if spec.shape and spec.shape[0] != items:
            raise InputError(f"input {spec.name!r} has {spec.shape[0]} items, the tasks have {items}")
    needed_bytes = sum(spec.size_bytes for spec in batch.tensors)
    given_bytes = sum(memoryview(part).nbytes for part in batch.body)
    if needed_bytes != given_bytes or needed_bytes > pipe.PIPE_BODY_BYTES_MAX:
        raise InputError(f"the inputs have {given_bytes} bytes, their shapes need {needed_bytes}")


def _check_results(reply: Any, body: memoryview, items: Sequence[int]) -> None:
    """Raises `DecodeError` unless every task has exactly one outcome and every byte belongs to one tensor."""
    if not isinstance(reply, pipe.Ran):
        return
    if len(reply.groups) == 1 and len(reply.groups[0].positions) == len(items):
        # All in one, as nearly always: a thousand tasks are not looked up one by one.
        positions: Sequence[int] = reply.groups[0].positions
        rows_of = [sum(items)]
    else:
        positions = [position for group in reply.groups for position in group.positions]
        if any(position >= len(items) for position in positions):
            raise DecodeError("an outcome belongs to no task")
        rows_of = [sum(items[position] for position in group.positions) for group in reply.groups]
    if sorted((*positions, *(failure.position for failure in reply.failures))) != list(range(len(items))):
        raise DecodeError("some task has no outcome, or two")
    for group, rows in zip(reply.groups, rows_of, strict=True):
        if any(not spec.shape or spec.shape[0] != rows for spec in group.tensors):
            raise DecodeError("the outputs of a group do not have one row for each item")
    if sum(spec.size_bytes for group in reply.groups for spec in group.tensors) != body.nbytes:
        raise DecodeError("the outputs do not fill their body")
    if reply.compute_s < 0:
        raise DecodeError("the time spent is negative")
    if any(execution.compute_s < 0 for execution in reply.executions):
        raise DecodeError("the time of a batch is negative")
    if any(speed.run_s < 0 for speed in reply.speeds):
        raise DecodeError("a time measured is negative")


def _groups(reply: pipe.Ran, body: memoryview) -> Iterator[Group]:
    start = 0
    for group in reply.groups:
        stop = start + sum(spec.size_bytes for spec in group.tensors)
        yield Group(group.positions, group.tensors, body[start:stop])
        start = stop
