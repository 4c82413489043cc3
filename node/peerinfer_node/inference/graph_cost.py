"""How much a model computes for one item, read off its graph: the unit in which work of different models is counted.

Shapes are inferred with the first axis of every input, and whatever else the model leaves open, taken as one; whoever
knows the real shapes multiplies (`peerinfer.cost`). A multiplication and its addition are two operations. Products of
matrices, convolutions and recurrences are counted exactly, everything else as one operation for each element that comes
out. Where no shape can be inferred, the weights tell: each is used once, by two operations. It is a measure of work, not
of time, and nobody is trusted for it.
"""

from __future__ import annotations

import math
from typing import Any

import onnx
from onnx import shape_inference

KEPT_TENSOR_BYTES_MAX = 64 * 1024
"""Larger weights are left out of what shapes are inferred from: only their dimensions matter."""

FLOPS_MAX = 1e18
"""For one item; more is nonsense, and would drown every other figure."""

_MATRIX = frozenset(("MatMul", "MatMulInteger", "QLinearMatMul", "Gemm", "MatMulNBits", "FusedMatMul"))
_CONVOLUTIONS = frozenset(("Conv", "ConvInteger", "QLinearConv", "FusedConv"))
_RECURRENT = frozenset(("LSTM", "GRU", "RNN"))

Shape = tuple[int, ...]


def flops_of(data: bytes) -> float:
    """Operations for one item; at least 1. Never raises: a count is no reason to refuse a model."""
    try:
        model = onnx.ModelProto()
        model.ParseFromString(data)
        weights = _strip(model.graph)
        counted = _counted(model)
    except Exception:  # the checker and the inference raise whatever they like, and neither decides here
        return 1.0
    return float(min(max(counted or 2.0 * weights, 1.0), FLOPS_MAX))


def _strip(graph: Any) -> int:
    """Takes large weights out, and makes open dimensions one. Returns how many weights there are."""
    weights = 0
    for tensor in graph.initializer:
        weights += math.prod(tensor.dims)
        if tensor.ByteSize() > KEPT_TENSOR_BYTES_MAX:
            for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(field)
    named = {tensor.name for tensor in graph.initializer}
    for port in graph.input:
        if port.name not in named:
            for axis, dimension in enumerate(port.type.tensor_type.shape.dim):
                if axis == 0 or not dimension.HasField("dim_value"):
                    dimension.dim_value = 1
    return weights


def _counted(model: Any) -> float:
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for port in (*graph.input, *graph.value_info, *graph.output):
        dimensions = port.type.tensor_type.shape.dim
        if port.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dimensions):
            shapes.setdefault(port.name, tuple(d.dim_value for d in dimensions))
    return math.fsum(_of_node(node, shapes) for node in graph.node)


def _of_node(node: Any, shapes: dict[str, Shape]) -> float:
    out = shapes.get(node.output[0]) if node.output else None
    given = [shapes.get(name) for name in node.input]
    if node.op_type in _RECURRENT:
        return _recurrence(given)
    if node.op_type == "ConvTranspose" and len(given) > 1 and given[0] and given[1]:
        return 2.0 * math.prod(given[0]) * math.prod(given[1][1:])
    if out is None:
        return 0.0
    elements = float(math.prod(out))
    if node.op_type in _CONVOLUTIONS:
        kernel = given[3] if node.op_type == "QLinearConv" and len(given) > 3 else given[1] if len(given) > 1 else None
        return 2.0 * elements * math.prod(kernel[1:]) if kernel else elements
    if node.op_type in _MATRIX and given and given[0]:
        is_transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return 2.0 * elements * given[0][0 if is_transposed else -1]
    return elements


def _recurrence(given: list[Shape | None]) -> float:
    """Weights hold all gates already, for each direction."""
    x, w, r = (given[place] if len(given) > place else None for place in range(3))
    if not (x and w and r) or len(x) != 3 or len(w) != 3 or len(r) != 3:
        return 0.0
    return 2.0 * x[0] * x[1] * w[0] * (w[1] * w[2] + r[1] * r[2])
