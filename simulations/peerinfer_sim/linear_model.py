"""The work of a simulated job: one small matrix product, as a real ONNX file, whose results are exact.

Inputs and weights are small whole numbers held as floats, so every sum is exact whatever the order of the additions,
and a wrong result is wrong without a doubt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from peerinfer.errors import ModelRefused
from peerinfer.tensors import FREE, Port

Array = NDArray[np.float32]
COLUMNS_IN, COLUMNS_OUT = 64, 10
_LARGEST = 8


@dataclass(frozen=True, slots=True)
class LinearModel:
    """y = x @ weights."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    weights: Array


def write_model(rng: np.random.Generator) -> tuple[bytes, Array]:
    """A model (f32[n,64] -> f32[n,10]) and its weights."""
    weights = _whole_numbers(rng, (COLUMNS_IN, COLUMNS_OUT))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", COLUMNS_IN])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", COLUMNS_OUT])],
        [numpy_helper.from_array(weights, "weights")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    data: bytes = made.SerializeToString(deterministic=True)
    return data, weights


def write_inputs(rng: np.random.Generator, items: int) -> Array:
    return _whole_numbers(rng, (items, COLUMNS_IN))


def read_model(data: bytes) -> LinearModel:
    """Raises `ModelRefused` for any other model: this device knows one operator."""
    try:
        graph = onnx.load_model_from_string(data).graph
        (node,), (constant,), (given,), (result,) = graph.node, graph.initializer, graph.input, graph.output
    except Exception as error:  # protobuf has kinds of its own for each way of being broken
        raise ModelRefused(f"not a model of one matrix product: {error}") from None
    if node.op_type != "MatMul":
        raise ModelRefused(f"this device knows MatMul only, not {node.op_type}")
    return LinearModel((_port(given),), (_port(result),), numpy_helper.to_array(constant))


def _port(value: Any) -> Port:
    kind = value.type.tensor_type
    dims = tuple(dim.dim_value if dim.HasField("dim_value") else FREE for dim in kind.shape.dim)
    return Port(value.name, str(helper.tensor_dtype_to_np_dtype(kind.elem_type)), dims)


def _whole_numbers(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.integers(-_LARGEST, _LARGEST, shape, endpoint=True).astype(np.float32)
