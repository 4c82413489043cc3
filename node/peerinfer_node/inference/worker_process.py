"""The process of one device: locks itself in, then loads and runs models for the daemon that started it.

    python -I -B -m peerinfer_node.inference.worker_process --fd N --control-fd M --parent PID …

This is the only module that imports onnxruntime, and it does so after the sandbox is closed. The main thread waits for
requests and answers them; a second thread waits for requests to stop, so that it can end an inference under way
(`RunOptions.terminate` acts between two nodes of the graph, within milliseconds for most models). The process ends when
the daemon does: by the kernel's signal, or when the sockets close.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import peerinfer
import peerinfer_node
from peerinfer.batch_size import BatchSize, Measure
from peerinfer.codec import fields_of
from peerinfer.errors import DeviceUnfit, ModelRefused
from peerinfer.limits import EXECUTIONS_MAX, NAME_CHARS_MAX, TENSOR_RANK_MAX, TENSORS_MAX
from peerinfer.messages import Execution, TaskFailure
from peerinfer.tensors import FREE, Port
from peerinfer_node.inference import pipe, sandbox
from peerinfer_node.inference.arena import HALF_BYTES, Arena
from peerinfer_node.inference.daemon_end import DaemonEnd
from peerinfer_node.inference.runtime_words import plain_words

IDLE_BEFORE_TRIM_S = 2.0
"""After this long without a request, freed memory goes back to the system."""

_DTYPES = {
    "tensor(bool)": "bool",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(uint16)": "uint16",
    "tensor(int16)": "int16",
    "tensor(float16)": "float16",
    "tensor(uint32)": "uint32",
    "tensor(int32)": "int32",
    "tensor(float)": "float32",
    "tensor(uint64)": "uint64",
    "tensor(int64)": "int64",
    "tensor(double)": "float64",
    "tensor(string)": "string",
}
_MEMORY_WORDS = ("bad_alloc", "bad allocation", "Failed to allocate memory", "Cannot allocate memory")


@dataclass(slots=True)
class _Model:
    session: Any
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    has_item_axis: dict[str, bool]
    cost_bytes: int
    is_widened: bool
    flops: float
    size: BatchSize
    """How many rows to join."""
    told: int = 0
    """The revision of it that the daemon knows."""


class Stopping:
    """Which request is running and how to stop it. Touched by both threads; the lock is held for moments only."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stopped = 0
        self._request = 0
        self._options: Any = None

    def begin(self, request: int, options: Any) -> None:
        with self._lock:
            self._request, self._options = request, options
            if self._stopped == request:
                options.terminate = True

    def end(self) -> None:
        with self._lock:
            self._request, self._options = 0, None

    def is_asked(self, request: int) -> bool:
        return self._stopped == request

    def watch(self, control: socket.socket) -> None:
        """Runs for as long as the daemon does."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                stopped = pipe.read_stop(control)
                with self._lock:
                    self._stopped = stopped
                    if self._request == stopped:
                        self._options.terminate = True
        os._exit(0)


class Worker:
    """Answers requests. To be made after the sandbox is closed."""

    def __init__(
        self,
        *,
        threads: int,
        cache_bytes: int,
        allow_loops: bool,
        provider: str,
        device_ids: tuple[int, int],
        widens_halves: bool,
        stopping: Stopping,
        shared: memoryview | None,
    ) -> None:
        """`shared` is where the daemon sees large answers. Raises `DeviceUnfit` if the provider or its device is not
        there."""
        import numpy
        import onnxruntime

        from peerinfer_node.inference import batching, providers

        onnxruntime.set_default_logger_severity(4)
        onnxruntime.disable_telemetry_events()
        self._numpy = numpy
        self._ort = onnxruntime
        self._batching = batching
        self._threads = threads
        self._cache_bytes = cache_bytes
        self._allow_loops = allow_loops
        self._widens_halves = widens_halves
        self._is_card = providers.is_card(provider, device_ids)
        self._make_session = providers.session_maker(onnxruntime, provider, device_ids, threads)
        self._stopping = stopping
        self._shared = shared
        self._models: OrderedDict[str, _Model] = OrderedDict()

    def answer(self, request: Any, body: memoryview | None) -> pipe.Outgoing:
        """`body` is None if it did not fit into memory."""
        if isinstance(request, pipe.Run):
            return self._run(request, body)
        if isinstance(request, pipe.Load):
            return pipe.Outgoing(self._load(request, body))
        if isinstance(request, pipe.Unload):
            self._models.pop(request.model, None)
            _return_free_memory()
            return pipe.Outgoing(pipe.Unloaded(request.request))
        if isinstance(request, pipe.Measure):
            return pipe.Outgoing(self._measure(request))
        raise AssertionError(f"{request} is not a request")

    def _measure(self, request: pipe.Measure) -> pipe.Measured | pipe.NotLoaded:
        try:
            return self._measured(request)
        except DeviceUnfit as error:
            reason = str(error)
        except Exception as error:  # whatever a provider raises is about its device: the models are ours
            reason = f"it cannot run the models that measure it: {_line(error)}"
        return pipe.NotLoaded(request.request, "device", pipe.shortened(reason), tuple(self._models))

    def _measured(self, request: pipe.Measure) -> pipe.Measured:
        from peerinfer_node.inference.measuring import convolution, copy_gbs, device_gbs, gemm_gflops

        bandwidth_gbs = device_gbs(self._session) if self._is_card else copy_gbs()
        measured = pipe.Measured(
            request.request, gemm_gflops(self._session), bandwidth_gbs, *convolution(self._session)
        )
        _return_free_memory()
        return measured

    # --- loading ---------------------------------------------------------------------------------------------------

    def _load(self, request: pipe.Load, body: memoryview | None) -> pipe.Loaded | pipe.NotLoaded:
        started = time.perf_counter()
        model = self._models.get(request.model)
        try:
            if model is None:
                if body is None:
                    raise MemoryError
                data = bytes(body)
                body.release()
                model = self._made(data, [Measure(*fields_of(speed)) for speed in request.speeds])
                del data
                self._make_room(model.cost_bytes)
                self._models[request.model] = model
        except ModelRefused as error:
            return self._not_loaded(request, "model", str(error))
        except DeviceUnfit as error:
            return self._not_loaded(request, "device", str(error))
        except MemoryError:
            return self._not_loaded(request, "memory", "the model does not fit into the memory lent")
        except Exception as error:  # whatever ONNX Runtime raises is about the model
            return self._not_loaded(request, _kind_of(error), f"ONNX Runtime refused the model: {_line(error)}")
        self._models.move_to_end(request.model)
        load_s = time.perf_counter() - started
        return pipe.Loaded(
            request.request, model.inputs, model.outputs, load_s, model.is_widened, model.flops, tuple(self._models)
        )

    def _not_loaded(self, request: pipe.Load, kind: str, reason: str) -> pipe.NotLoaded:
        return pipe.NotLoaded(request.request, kind, pipe.shortened(reason), tuple(self._models))

    def _made(self, data: bytes, known: Sequence[Measure]) -> _Model:
        from peerinfer_node.inference.graph_cost import flops_of
        from peerinfer_node.inference.static_check import check_model

        check_model(data, allow_loops=self._allow_loops)
        flops = flops_of(data)
        original = data
        if self._widens_halves:
            from peerinfer_node.inference.halves import widened

            data = widened(original)
        is_widened = data is not original
        del original
        self._make_room(len(data))
        before = _resident_bytes()
        session = self._session(data)
        inputs = tuple(_port(found, "input") for found in session.get_inputs())
        outputs = tuple(_port(found, "output") for found in session.get_outputs())
        if len(inputs) > TENSORS_MAX or not 0 < len(outputs) <= TENSORS_MAX:
            raise ModelRefused(
                f"the model has {len(inputs)} inputs and {len(outputs)} outputs, the limit is {TENSORS_MAX}"
            )
        firsts = [found.shape[0] for found in session.get_inputs() if found.shape]
        has_item_axis = {found.name: _is_item_axis(found.shape, firsts) for found in session.get_outputs()}
        cost_bytes = max(len(data), _resident_bytes() - before)
        return _Model(session, inputs, outputs, has_item_axis, cost_bytes, is_widened, flops, BatchSize(known))

    def _session(self, data: bytes) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # Spinning threads cost 88% of a core between runs; an arena keeps the largest batch's memory for ever and is no
        # faster here (5.6 µs against 5.6 µs for the smallest model, 2.67 ms against 2.69 ms for a real one).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_cpu_mem_arena = False
        # What the static check read as ONNX must not be taken for anything else.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        return self._make_session(data, options)

    def _make_room(self, wanted_bytes: int) -> None:
        """Drops the models that were used least recently until `wanted_bytes` more fit, or none is left."""
        held_bytes = sum(model.cost_bytes for model in self._models.values())
        dropped = False
        while self._models and (
            held_bytes + wanted_bytes > self._cache_bytes or len(self._models) >= pipe.SESSIONS_MAX
        ):
            _, model = self._models.popitem(last=False)
            held_bytes -= model.cost_bytes
            dropped = True
        if dropped:
            _return_free_memory()

    # --- running ---------------------------------------------------------------------------------------------------

    def _run(self, request: pipe.Run, body: memoryview | None) -> pipe.Outgoing:
        model = self._models.get(request.model)
        if model is None:
            return pipe.Outgoing(pipe.Unknown(request.request))
        self._models.move_to_end(request.model)
        names = request.outputs or tuple(port.name for port in model.outputs)
        missing = [name for name in names if name not in model.has_item_axis]
        if missing:
            known = ", ".join(model.has_item_axis)
            return _all_failed(request, "model", f"the model has no output {missing[0]!r}; it has {known}")
        signature = self._batching.Signature(
            {port.name: len(port.shape) for port in model.inputs}, names, tuple(model.has_item_axis[n] for n in names)
        )
        options = self._ort.RunOptions()
        options.log_severity_level = 4
        compute_s = 0.0
        executions: dict[int, tuple[int, float]] = {}

        def run(feeds: dict[str, Any]) -> list[Any]:
            nonlocal compute_s
            if self._stopping.is_asked(request.request):
                raise self._batching.RunStopped
            started = time.perf_counter()
            try:
                outputs: list[Any] = model.session.run(names, feeds, options)
            except Exception as error:  # whatever ONNX Runtime raises is about this run
                if self._stopping.is_asked(request.request):
                    raise self._batching.RunStopped from None
                raise self._batching.RunFailed(_kind_of(error), _line(error)) from None
            finally:
                spent_s = time.perf_counter() - started
                compute_s += spent_s
                rows = next((len(array) for array in feeds.values() if array.ndim), 1) if request.merge else 1
                if rows in executions or len(executions) < EXECUTIONS_MAX:
                    runs, runs_s = executions.get(rows, (0, 0.0))
                    executions[rows] = (runs + 1, runs_s + spent_s)
            if not all(isinstance(output, self._numpy.ndarray) for output in outputs):
                raise self._batching.RunFailed("model", "an optional output of the model is missing")
            return outputs

        self._stopping.begin(request.request, options)
        try:
            if body is None:
                raise MemoryError
            answer = self._batching.run_batch(
                request.items, request.tensors, body, request.merge, signature, run, model.size
            )
        except self._batching.RunStopped:
            return pipe.Outgoing(pipe.Stopped(request.request))
        except MemoryError:
            return _all_failed(request, "memory", "the inputs and outputs do not fit into the memory lent")
        finally:
            self._stopping.end()
        parts = [array.reshape(-1).view(self._numpy.uint8).data for array in answer.body]
        speeds: tuple[pipe.Speed, ...] = ()
        if model.told != model.size.revision:
            model.told = model.size.revision
            speeds = tuple(
                pipe.Speed(found.row_bytes_power, found.rows, found.run_s) for found in model.size.measures()
            )
        ran_in = tuple(Execution(rows, *spent) for rows, spent in executions.items())
        try:
            ran = pipe.Ran(request.request, answer.groups, answer.failures, compute_s, speeds, ran_in)
            return pipe.Outgoing(ran, parts, self._shared)
        except ValueError:
            return _all_failed(request, "model", "the outputs have too many different shapes: send fewer tasks at once")


def _port(found: Any, what: str) -> Port:
    dtype = _DTYPES.get(found.type)
    if dtype is None:
        raise ModelRefused(f"{what} {found.name!r} is a {found.type}: only numbers, bools and strings can travel")
    if len(found.shape) > TENSOR_RANK_MAX or len(found.name) > NAME_CHARS_MAX:
        raise ModelRefused(f"{what} {found.name!r} has too many dimensions or too long a name"[:300])
    shape = tuple(dim if isinstance(dim, int) and 0 <= dim < 1 << 48 else FREE for dim in found.shape)
    return Port(found.name, dtype, shape)


def _is_item_axis(shape: list[int | str | None], firsts: Iterable[int | str | None]) -> bool:
    if not shape:
        return False
    return shape[0] == 1 or (not isinstance(shape[0], int) and _axis(shape[0]) in {_axis(first) for first in firsts})


def _axis(dimension: int | str | None) -> int | str | None:
    """ONNX Runtime makes up names for dimensions that have none, each another."""
    return None if isinstance(dimension, str) and dimension.startswith("unk__") else dimension


def _kind_of(error: Exception) -> str:
    is_memory = isinstance(error, MemoryError) or any(words in str(error) for words in _MEMORY_WORDS)
    return "memory" if is_memory else "model"


def _line(error: Exception) -> str:
    return pipe.shortened(plain_words(str(error)))


def _all_failed(request: pipe.Run, kind: str, reason: str) -> pipe.Outgoing:
    reason = pipe.shortened(reason, pipe.TASK_REASON_CHARS_MAX)
    failures = tuple(TaskFailure(position, kind, reason) for position in range(len(request.items)))
    return pipe.Outgoing(pipe.Ran(request.request, (), failures, 0.0, (), ()))


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0  # Elsewhere than on Linux a model is taken to cost what its file has.


def _return_free_memory() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)


def serve(daemon: DaemonEnd, worker: Worker) -> None:
    """Answers until the daemon closes its end."""
    while True:
        if not daemon.is_asked_within(IDLE_BEFORE_TRIM_S):
            _return_free_memory()
            daemon.give_back()
        request, body = daemon.receive()
        outgoing = worker.answer(request, body)
        daemon.send(outgoing)
        del request, body, outgoing  # the memory of a batch is not held until the next one comes


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--fd", "--control-fd", "--parent", "--threads", "--cache-bytes", "--memory-bytes"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--arena-fd", type=int)
    parser.add_argument("--allow-loops", action="store_true")
    parser.add_argument("--provider", required=True)
    parser.add_argument("--device-ids", required=True)
    parser.add_argument("--readable", action="append", default=[])
    parser.add_argument("--device-file", action="append", default=[])
    parser.add_argument("--widen-halves", action="store_true")
    arguments = parser.parse_args()
    sandbox.die_with_parent(arguments.parent)
    os.set_blocking(sys.stderr.fileno(), False)  # nobody reads while a run is under way: what does not fit is dropped
    arena = Arena(arguments.arena_fd) if arguments.arena_fd is not None else None
    memory_bytes = arguments.memory_bytes + (2 * HALF_BYTES if arena is not None else 0)
    opening = sandbox.Opening(tuple(arguments.readable), tuple(arguments.device_file))
    layers = sandbox.lock_in([peerinfer, peerinfer_node], memory_bytes=memory_bytes, opening=opening)
    stopping = Stopping()
    control = socket.socket(fileno=arguments.control_fd)
    threading.Thread(target=stopping.watch, args=(control,), daemon=True).start()
    vendor_id, _, device_id = arguments.device_ids.partition(":")
    try:
        worker = Worker(
            threads=arguments.threads,
            cache_bytes=arguments.cache_bytes,
            allow_loops=arguments.allow_loops,
            provider=arguments.provider,
            device_ids=(int(vendor_id), int(device_id)),
            widens_halves=arguments.widen_halves,
            stopping=stopping,
            shared=arena.answered if arena is not None else None,
        )
    except DeviceUnfit as error:
        sys.exit(str(error))
    daemon = DaemonEnd(socket.socket(fileno=arguments.fd), arena)
    daemon.send(pipe.Outgoing(pipe.Ready(0, layers.level, str(layers))))
    try:
        serve(daemon, worker)
    except (EOFError, ConnectionError):
        os._exit(0)


if __name__ == "__main__":
    main()
