"""One device's worker process: what batching gives, what a hand-over costs, what the sandbox adds to a start.

The baseline of batching is ONNX Runtime itself, in this process, in a tight loop at the batch that was chosen: no other
process, no checks, no tensors that travel.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime
from harness import Measurement
from onnx import TensorProto, helper

from peerinfer.batch_size import BatchSize
from peerinfer.ids import cid_of
from peerinfer_node.devices.probe import cpu_device
from peerinfer_node.inference.subprocess_executor import SubprocessExecutor

sys.path.append(str(Path(__file__).resolve().parents[1]))

import models
from models import batch_of

RNG = np.random.default_rng(0)
HANDOVER_BYTES = 10_000_000


async def run(quick: bool) -> list[Measurement]:
    found: list[Measurement] = []
    for name, data, inputs in (
        ("orientation", models.orientation(), {"x": RNG.standard_normal((96, 3, 224, 224)).astype(np.float32)}),
        ("magika", models.magika(), {"bytes": RNG.integers(0, 256, (96, 2048)).astype(np.int32)}),
        ("dense", _dense(512), {"x": RNG.standard_normal((1024, 64)).astype(np.float32)}),
        ("mlp", models.mlp(), {"x": RNG.standard_normal((1024, 64)).astype(np.float32)}),
    ):
        # The smallest computes a thousand items in 0.2 ms: what is left to see there is the hand-over of a frame.
        found += await _batching(name, data, inputs, 3 if quick else 9, budget=None if name == "mlp" else 0.8)
    found += await _handover(30 if quick else 200)
    found += _sandbox(5 if quick else 20)
    return found


def _dense(width: int) -> bytes:
    """64 → width → width → 10: about 6 µs an item at 512, a frame of 1,024 of them in 6 ms."""
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("MatMul", ["x", "w0"], ["a0"])]
    for layer in (1, 2):
        nodes += [helper.make_node("Relu", [f"a{layer - 1}"], [f"b{layer}"])]
        nodes += [helper.make_node("MatMul", [f"b{layer}", f"w{layer}"], [f"a{layer}" if layer == 1 else "y"])]
    shapes = ((64, width), (width, width), (width, 10))
    return models.model(
        nodes,
        [models.port("x", TensorProto.FLOAT, ["n", 64])],
        [models.port("y", TensorProto.FLOAT, ["n", 10])],
        [models.constant(f"w{n}", rng.standard_normal(shape).astype(np.float32)) for n, shape in enumerate(shapes)],
    )


async def _batching(
    name: str, data: bytes, inputs: dict[str, Any], repetitions: int, budget: float | None
) -> list[Measurement]:
    """Items per second of both, in turn, so that what disturbs one disturbs the other."""
    ((port, rows),) = inputs.items()
    executor = SubprocessExecutor(cpu_device(), threads=1)
    try:
        await executor.load(cid_of(data), data)
        items = len(rows)
        await _settle(executor, data, port, rows)
        batch = min(items, BatchSize(executor.measures(cid_of(data))).best(rows[0].nbytes))
        session = _session(data)
        ours, theirs = [], []
        for _ in range(repetitions):
            started = perf_counter()
            result = await executor.run(cid_of(data), batch_of([1] * items, **{port: rows}), 60)
            ours.append(items / (perf_counter() - started))
            if result.failures:
                raise ValueError(f"{result.failures[0]}: the measurement is void")
            started = perf_counter()
            for first in range(0, items, batch):
                session.run(None, {port: rows[first : first + batch]})
            theirs.append(items / (perf_counter() - started))
    finally:
        await executor.close()
    loop = f"onnxruntime_loop_{name}"
    return [
        Measurement(f"device_batch_{name}", batch, "rows", "higher"),
        Measurement(loop, median(theirs), "items/s", "higher"),
        Measurement(f"device_batched_{name}", median(ours), "items/s", "higher", baseline=loop, budget=budget),
    ]


async def _settle(executor: SubprocessExecutor, data: bytes, port: str, rows: Any) -> None:
    """Works on until nothing new is measured."""
    for _ in range(40):
        if BatchSize(executor.measures(cid_of(data))).is_settled(rows[0].nbytes):
            return
        await executor.run(cid_of(data), batch_of([1] * len(rows), **{port: rows}), 60)


def _session(data: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


async def _handover(rounds: int) -> list[Measurement]:
    """Ten megabytes to a model that looks at one number of them, and to one that gives them all back."""
    floats = HANDOVER_BYTES // 4
    looks = [helper.make_node("Gather", ["x", "first"], ["y"], axis=1)]
    copied_ms, there_ms = await _handed_over(looks, floats, 1, rounds)
    _, both_ms = await _handed_over([helper.make_node("Neg", ["x"], ["y"])], floats, floats, rounds)
    return [
        Measurement("memory_copy_10mb", copied_ms, "ms"),
        Measurement("device_handover_10mb", there_ms, "ms", baseline="memory_copy_10mb"),
        Measurement("device_handover_10mb_above_copy", there_ms - copied_ms, "ms", budget=5.0),
        Measurement("device_there_and_back_10mb", both_ms, "ms", baseline="memory_copy_10mb"),
    ]


async def _handed_over(nodes: list[Any], floats: int, answered: int, rounds: int) -> tuple[float, float]:
    """Milliseconds of a copy in memory, and of a run in which the model's own time is taken off."""
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])
        for name, size in (("x", floats), ("y", answered))
    ]
    data = models.model(nodes, ports[:1], ports[1:], [models.constant("first", np.array([0], np.int64))])
    row = RNG.standard_normal((1, floats)).astype(np.float32)
    batch = batch_of([1], x=row)
    target = np.empty_like(row)
    executor = SubprocessExecutor(cpu_device(), threads=1)
    ours, copies = [], []
    try:
        await executor.load(cid_of(data), data)
        for number in range(-3, rounds):
            started = perf_counter()
            result = await executor.run(cid_of(data), batch, 60)
            taken_s = perf_counter() - started - result.compute_s
            started = perf_counter()
            np.copyto(target, row)
            copied_s = perf_counter() - started
            if number >= 0:
                ours.append(taken_s * 1e3)
                copies.append(copied_s * 1e3)
    finally:
        await executor.close()
    return median(copies), median(ours)


_START = """
import sys
import peerinfer, peerinfer_node
from peerinfer_node.inference import pipe
level = "none"
if sys.argv[1:] == ["with"]:
    from peerinfer_node.inference import sandbox
    layers = sandbox.lock_in([peerinfer, peerinfer_node], memory_bytes=4 << 30, opening=sandbox.Opening((), ()))
    level = layers.level
import numpy, onnxruntime
from peerinfer_node.inference import batching, providers
print(level)
"""


def _sandbox(rounds: int) -> list[Measurement]:
    """Starts of a worker's process with its sandbox and without, in turn, to the end of its imports; pairs are compared.

    On a busy machine pairs differ by what others do meanwhile; the processor's time does not.
    """
    without_ms, added_ms, added_cpu_ms, level = [], [], [], ""
    for _ in range(rounds):
        plain_ms, plain_cpu_ms, _ = _started(())
        locked_ms, locked_cpu_ms, level = _started(("with",))
        without_ms.append(plain_ms)
        added_ms.append(locked_ms - plain_ms)
        added_cpu_ms.append(locked_cpu_ms - plain_cpu_ms)
    name = f"device_sandbox_{level}_adds"
    return [
        Measurement("device_start_without_sandbox", median(without_ms), "ms"),
        Measurement(name, median(added_ms), "ms", budget=150.0),
        Measurement(f"{name}_p90", quantiles(added_ms, n=10)[-1], "ms", budget=150.0),
        Measurement(f"{name}_processor", median(added_cpu_ms), "ms", budget=150.0),
        Measurement(f"{name}_processor_p90", quantiles(added_cpu_ms, n=10)[-1], "ms", budget=150.0),
    ]


def _started(arguments: tuple[str, ...]) -> tuple[float, float, str]:
    """Milliseconds that it took, milliseconds of processor time, and what it said."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = perf_counter()
    command = [sys.executable, "-I", "-B", "-c", _START, *arguments]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # as the daemon starts it
    child = subprocess.run(command, capture_output=True, check=True, text=True, env=one_thread)
    taken_ms = (perf_counter() - started) * 1e3
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_ms = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3
    return taken_ms, cpu_ms, child.stdout.strip()
