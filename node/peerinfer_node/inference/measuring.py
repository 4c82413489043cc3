"""A short benchmark of a device: what the balancer believes of it before it has run anything.

Whoever changes what is measured raises `remembered_figures.REVISION`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from peerinfer.limits import MIB
from peerinfer_node.inference.networks import RESNET50, SMALL, Network, image_for, model_of

MEASURE_SECONDS = 0.25
"""For each figure."""

_GEMM_SIZES = (256, 1024)
_CHAIN_BYTES = (4 * MIB, 64 * MIB)
"""The larger ones tell more of a fast device; one that is slow with the smaller ones is not asked for more."""

GBS_MAX = 20_000.0
"""No card comes near. A provider that is said to move more has seen through the chain and computed one number."""

SLOW_S = 0.02
RESNET50_SECONDS_MAX = 1.0
"""A device that would take longer for one image, by what it took for the small network, is not asked: nobody would wait."""

_COPY_BYTES = 64 * MIB
_CHAIN_STEPS = 8


def gemm_gflops(make_session: Callable[[bytes], Any]) -> float:
    """fp32 GFLOP/s of a square matrix product, through the same kind of session that inference on this device uses."""
    gflops = 0.0
    for size in _GEMM_SIZES:
        seconds = _gemm_seconds(make_session, size)
        gflops = 2 * size**3 / seconds / 1e9
        if seconds > SLOW_S:
            break
    return gflops


def _gemm_seconds(make_session: Callable[[bytes], Any], size: int) -> float:
    shape = [size, size]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("a", "b", "c")]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "gemm", ports[:2], ports[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = make_session(model.SerializeToString())
    matrix = np.full(shape, 1 / size, np.float32)
    return _best_seconds(lambda: session.run(None, {"a": matrix, "b": matrix}))


def copy_gbs() -> float:
    """GB/s read and written by copying memory."""
    source = np.ones(_COPY_BYTES, np.uint8)
    target = np.empty_like(source)
    return 2 * _COPY_BYTES / _best_seconds(lambda: np.copyto(target, source)) / 1e9


def device_gbs(make_session: Callable[[bytes], Any]) -> float:
    """GB/s that a graphics card reads and writes in its own memory: what each step of a chain over a large tensor takes.

    The chain starts from one number and ends in one, so that nothing travels; a short chain's time is taken off a long
    one's. 0 if it cannot be told: OpenVINO found out that all numbers of the chain are equal.
    """
    gbs = 0.0
    for size_bytes in _CHAIN_BYTES:
        short_s, long_s = (_chain_seconds(make_session, steps, size_bytes) for steps in (1, 1 + _CHAIN_STEPS))
        if long_s > short_s:
            gbs = 2 * size_bytes * _CHAIN_STEPS / (long_s - short_s) / 1e9
        if long_s > SLOW_S:
            break
    return gbs if gbs < GBS_MAX else 0.0


def _chain_seconds(make_session: Callable[[bytes], Any], steps: int, size_bytes: int) -> float:
    names = [f"t{step}" for step in range(steps + 1)]
    nodes = [helper.make_node("Expand", ["x", "shape"], [names[0]])]
    nodes += [helper.make_node("Sqrt", [names[step]], [names[step + 1]]) for step in range(steps)]
    nodes.append(helper.make_node("ReduceMax", [names[-1]], ["y"], keepdims=0))
    rows = size_bytes // 4 // 4096
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [1]), ("y", []))]
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [rows, 4096])
    graph = helper.make_graph(nodes, "chain", ports[:1], ports[1:], [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = make_session(model.SerializeToString())
    return _best_seconds(lambda: session.run(None, {"x": np.ones(1, np.float32)}))


def convolution(make_session: Callable[[bytes], Any]) -> tuple[float, float, tuple[float, ...]]:
    """Images per second, one by one, of a small convolution network and of ResNet-50 (0: too slow to be measured).

    The third is what the small network answers to its image: every device must say the same.
    """
    seconds, answers = _network_seconds(make_session, SMALL)
    large_s = 0.0
    if seconds * RESNET50.multiplications / SMALL.multiplications <= RESNET50_SECONDS_MAX:
        large_s, _ = _network_seconds(make_session, RESNET50)
    return 1 / seconds, 1 / large_s if large_s else 0.0, answers


def _network_seconds(make_session: Callable[[bytes], Any], network: Network) -> tuple[float, tuple[float, ...]]:
    session = make_session(model_of(network))
    image = image_for(network)
    (answers,) = session.run(None, {"x": image})
    return _best_seconds(lambda: session.run(None, {"x": image})), tuple(map(float, answers[0]))


def _best_seconds(action: Callable[[], object]) -> float:
    """The shortest of several runs: what the device can do when nobody disturbs it. The first one warms up."""
    action()
    best_s = math.inf
    ending = time.perf_counter() + MEASURE_SECONDS
    while best_s == math.inf or time.perf_counter() < ending:
        started = time.perf_counter()
        action()
        best_s = min(best_s, time.perf_counter() - started)
    return best_s
