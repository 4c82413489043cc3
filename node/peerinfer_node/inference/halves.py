"""Widens a half-precision model to single precision, for cards that compute no halves (Polaris and older).

Every float16 tensor inside becomes float32: constants, attributes, casts, declared types. Inputs and outputs keep their
type, with a cast right behind or before them, so the model takes and gives what it did. The results are at least as
exact; the weights take twice the memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from peerinfer.errors import ModelRefused
from peerinfer.limits import MODEL_BYTES_MAX, TENSORS_MAX

_HALF, _SINGLE = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
_TYPE_ATTRIBUTES = frozenset(("to", "dtype", "output_dtype"))
"""Attributes of operators that name a type of tensor by its number."""

CAST_NAMES = tuple(f"peerinfer_cast_{number}" for number in range(2 * TENSORS_MAX))
"""The casts between the outside and the inside. They read or write halves, so they are for the processor."""


def widened(data: bytes) -> bytes:
    """The model with float32 in place of float16, or `data` itself if it has none. Raises `ModelRefused`.

    `data` has passed the static check, so its subgraphs are nested a few levels deep and its tensors bring their bytes.
    """
    model = onnx.ModelProto()
    model.ParseFromString(data)
    graphs = _graphs(model.graph)
    if not any(_has_halves(graph) for graph in graphs):
        return data
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if _is_half(value) and value.name not in constants]
    outputs = [value for value in model.graph.output if _is_half(value)]
    for graph in graphs:
        _widen(graph)
    _keep_types(model.graph, graphs, inputs, outputs)
    if model.ByteSize() > MODEL_BYTES_MAX:
        raise ModelRefused("the card computes no half precision, and widened to single the model passes 2 GiB")
    result: bytes = model.SerializeToString()
    return result


def _graphs(graph: Any) -> list[Any]:
    """The graph and all inside it."""
    found = [graph]
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                found += _graphs(inner)
    return found


def _is_half(value: Any) -> bool:
    return bool(value.type.tensor_type.elem_type == _HALF)


def _tensors(attribute: Any) -> list[Any]:
    return [*([attribute.t] if attribute.HasField("t") else ()), *attribute.tensors]


def _names_half(attribute: Any) -> bool:
    return attribute.name in _TYPE_ATTRIBUTES and attribute.i == _HALF


def _has_halves(graph: Any) -> bool:
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    return (
        any(tensor.data_type == _HALF for tensor in graph.initializer)
        or any(_is_half(value) for value in (*graph.input, *graph.output))
        or any(_names_half(attribute) for attribute in attributes)
        or any(tensor.data_type == _HALF for attribute in attributes for tensor in _tensors(attribute))
    )


def _widen(graph: Any) -> None:
    del graph.value_info[:]  # ONNX Runtime infers them anew
    for value in (*graph.input, *graph.output):
        if _is_half(value):
            value.type.tensor_type.elem_type = _SINGLE
    tensors = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            tensors += _tensors(attribute)
            if _names_half(attribute):
                attribute.i = _SINGLE
    for tensor in tensors:
        if tensor.data_type == _HALF:
            try:
                wide = numpy_helper.to_array(tensor).astype(np.float32)
            except (ValueError, TypeError) as error:
                raise ModelRefused(f"tensor {tensor.name[:100]!r} does not hold what it claims") from error
            tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))


def _keep_types(graph: Any, graphs: list[Any], inputs: list[Any], outputs: list[Any]) -> None:
    """Gives these inputs and outputs their type back: inside, wide twins of theirs take their place."""
    twins: dict[str, str] = {}
    taken = {name for inner in graphs for node in inner.node for name in (*node.input, *node.output)}
    for value in (*inputs, *outputs):
        if value.name in twins:
            raise ModelRefused(f"{value.name[:100]!r} is both an input and an output of half precision")
        twins[value.name] = _fresh(value.name, taken)
        value.type.tensor_type.elem_type = _HALF
    for inner in graphs:
        for node in inner.node:
            node.input[:] = [twins.get(name, name) for name in node.input]
            node.output[:] = [twins.get(name, name) for name in node.output]
    if len(twins) > len(CAST_NAMES):
        raise ModelRefused(f"the model has more than {TENSORS_MAX} inputs or outputs")
    casts = iter(CAST_NAMES)
    widening = [
        helper.make_node("Cast", [value.name], [twins[value.name]], name=next(casts), to=_SINGLE) for value in inputs
    ]
    narrowing = [
        helper.make_node("Cast", [twins[value.name]], [value.name], name=next(casts), to=_HALF) for value in outputs
    ]
    nodes = [*widening, *graph.node, *narrowing]
    del graph.node[:]
    graph.node.extend(nodes)


def _fresh(name: str, taken: set[str]) -> str:
    wide = name + "_wide"
    while wide in taken:
        wide += "_"
    taken.add(wide)
    return wide
