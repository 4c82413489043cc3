"""Looks at a model without running it, and refuses what could do harm before ONNX Runtime sees it.

Each rule answers an attack that works on ONNX Runtime 1.32, or a way of wasting a volunteer's machine:

    external data          a model read from bytes reads files under the current directory
    model-local functions  2 KB of nested functions unfold to 2**29 nodes: loading never ends and cannot be stopped
    ORT format             a file may be an ONNX model to protobuf and quite another model to ONNX Runtime
    unknown domains, ops   custom operators, remote services, compiled contexts with file names
    loops                  may run for ever; allowed only for models that the owner trusts
    random numbers         no two answers agree: every honest worker would look like a liar, with a proof that it signed
    versions               of the format or of the operators that nobody here knows: ONNX Runtime would say so in C++
    claimed sizes          tensors that claim more than the file brings, sparse tensors that unfold to terabytes

What allocates or computes too much can only be met by limits on the process that runs it. The parser is itself exposed
to the stranger's bytes, so all this happens inside the worker process, after it has locked itself in.
"""

from __future__ import annotations

import math
from typing import Any

import onnx
from google.protobuf.message import DecodeError as ProtobufError

from peerinfer.errors import ModelRefused
from peerinfer.limits import MODEL_BYTES_MAX, NAME_CHARS_MAX, TENSOR_RANK_MAX, TENSORS_MAX
from peerinfer.tensors import Buffer

NODES_MAX = 50_000
"""Over all subgraphs. The largest real model tried has under 10,000."""

DEPTH_MAX = 8
"""Subgraphs inside subgraphs. Real ones go to 3."""

SPARSE_ELEMENTS_MAX = 1 << 28
"""Elements of all sparse tensors together once they are unfolded, as ONNX Runtime does at load: 1 GiB of floats."""

DOMAINS = frozenset(("", "ai.onnx", "ai.onnx.ml", "com.microsoft"))

IR_VERSION_MAX: int = onnx.IR_VERSION
OPSET_MAX: int = onnx.defs.onnx_opset_version()
"""Of the installed ONNX; ONNX Runtime 1.32 knows the same, IR version 14 and opset 28."""

_LOOPS = frozenset(("Loop", "Scan", "BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch"))
_FORBIDDEN = frozenset(("EPContext", "PyOp", "ATen", "OpaqueOp"))
_RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
)
_DROPOUTS = {"Dropout": 2, "BitmaskDropout": 2, "BiasDropout": 4, "BitmaskBiasDropout": 4}
"""Operators that draw random numbers if their input of this number, `training_mode`, is true."""

_STANDARD_DOMAINS = {"": "", "ai.onnx": "", "ai.onnx.ml": "ai.onnx.ml"}

_TensorProto = onnx.TensorProto
_ITEM_BYTES = {
    _TensorProto.FLOAT: 4,
    _TensorProto.UINT8: 1,
    _TensorProto.INT8: 1,
    _TensorProto.UINT16: 2,
    _TensorProto.INT16: 2,
    _TensorProto.INT32: 4,
    _TensorProto.INT64: 8,
    _TensorProto.BOOL: 1,
    _TensorProto.FLOAT16: 2,
    _TensorProto.DOUBLE: 8,
    _TensorProto.UINT32: 4,
    _TensorProto.UINT64: 8,
    _TensorProto.BFLOAT16: 2,
}
_TYPED_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
_PACKED_MAX = 4
"""The narrowest types put four elements into a byte."""


def check_model(data: Buffer, *, allow_loops: bool = False) -> None:
    """Raises `ModelRefused` with the rule that the model breaks and what to do about it."""
    if not data:
        raise ModelRefused("the model file is empty")
    if len(data) > MODEL_BYTES_MAX:
        raise ModelRefused(f"the model has {len(data)} bytes, the limit is {MODEL_BYTES_MAX}")
    raw = bytes(data)
    if raw[4:8] == b"ORTM":
        raise ModelRefused("the model is in ONNX Runtime's own format: bring it as .onnx")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(raw)
    except (ProtobufError, RecursionError) as error:
        raise ModelRefused("not an ONNX model: the file is of another kind, cut short, or nested too deeply") from error
    if not model.ir_version or not model.HasField("graph") or not model.graph.output or not model.opset_import:
        raise ModelRefused("not an ONNX model: it has no graph with outputs")
    _check_versions(model)
    if model.functions:
        raise ModelRefused("the model defines functions of its own: inline them first (onnx.inliner)")
    ports = [*model.graph.input, *model.graph.output]
    if len(model.graph.output) > TENSORS_MAX or any(len(port.name) > NAME_CHARS_MAX for port in ports):
        raise ModelRefused(
            f"the model has more than {TENSORS_MAX} outputs, or a name beyond {NAME_CHARS_MAX} characters"
        )
    for port in ports:
        if len(port.type.tensor_type.shape.dim) > TENSOR_RANK_MAX:
            raise ModelRefused(f"{port.name!r} has more than {TENSOR_RANK_MAX} dimensions")
    _Survey(allow_loops).graph(model.graph, 0)


def _check_versions(model: Any) -> None:
    if model.ir_version > IR_VERSION_MAX:
        raise ModelRefused(
            f"the model is written in IR version {model.ir_version} of ONNX, which is newer than any known here: "
            f"save it with IR version {IR_VERSION_MAX} or lower (model.ir_version = 10 suits most)"
        )
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and not 1 <= opset.version <= OPSET_MAX:
            raise ModelRefused(
                f"the model needs opset {opset.version}; 1 to {OPSET_MAX} are known here: "
                f"export it with opset_version={OPSET_MAX} or lower, or convert it (onnx.version_converter)"
            )


class _Survey:
    """One walk over a model, with what adds up on the way."""

    def __init__(self, allow_loops: bool) -> None:
        self._allow_loops = allow_loops
        self._nodes = 0
        self._sparse_elements = 0

    def graph(self, graph: Any, depth: int) -> None:
        if depth > DEPTH_MAX:
            raise ModelRefused(f"the model nests graphs more than {DEPTH_MAX} deep")
        for tensor in graph.initializer:
            self._tensor(tensor)
        for tensor in graph.sparse_initializer:
            self._sparse(tensor)
        false = {tensor.name for tensor in graph.initializer if _is_false(tensor)}
        for node in graph.node:
            self._node(node)
            self._dropout(node, false)
            for attribute in node.attribute:
                self._attribute(attribute, depth)

    def _node(self, node: Any) -> None:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise ModelRefused(f"the model has more than {NODES_MAX} nodes")
        if not isinstance(node.op_type, str):  # protobuf gives bytes where a text is none
            raise ModelRefused(f"not an ONNX model: an operator is called {node.op_type!r}"[:300])
        if node.domain not in DOMAINS:
            raise ModelRefused(f"the operator {node.op_type!r} is of the unknown domain {node.domain!r}"[:300])
        if node.op_type in _FORBIDDEN:
            raise ModelRefused(f"the operator {node.op_type!r} reaches outside the model")
        if node.op_type in _LOOPS and not self._allow_loops:
            raise ModelRefused(f"the model loops ({node.op_type!r}): it may never end, so it is not run for others")
        if node.op_type in _RANDOM:
            raise _draws(node.op_type)
        standard = _STANDARD_DOMAINS.get(node.domain)
        if standard is not None and not onnx.defs.has(node.op_type, standard):
            raise ModelRefused(f"the operator {node.op_type!r} is unknown to ONNX {onnx.__version__}"[:300])

    def _dropout(self, node: Any, false: set[str]) -> None:
        """`false`: the constants so far that are false. Who cannot be seen to be off is taken to be on."""
        if node.op_type == "Constant" and any(_is_false(attribute.t) for attribute in node.attribute):
            false.update(node.output)
        training = [*node.input][_DROPOUTS.get(node.op_type, len(node.input)) :][:1]
        if training and training[0] and training[0] not in false:
            raise _draws(f"{node.op_type} in training mode")

    def _attribute(self, attribute: Any, depth: int) -> None:
        if attribute.HasField("t"):
            self._tensor(attribute.t)
        for tensor in attribute.tensors:
            self._tensor(tensor)
        if attribute.HasField("sparse_tensor"):
            self._sparse(attribute.sparse_tensor)
        for tensor in attribute.sparse_tensors:
            self._sparse(tensor)
        if attribute.HasField("g"):
            self.graph(attribute.g, depth + 1)
        for graph in attribute.graphs:
            self.graph(graph, depth + 1)

    def _tensor(self, tensor: Any) -> None:
        name = tensor.name[:NAME_CHARS_MAX]
        if tensor.data_location == _TensorProto.EXTERNAL or tensor.external_data:
            raise ModelRefused(f"the tensor {name!r} lies in another file: save the model with its data inside")
        elements = _elements(tensor.dims, name)
        width = _ITEM_BYTES.get(tensor.data_type)
        if tensor.raw_data:
            fits = (
                elements <= _PACKED_MAX * len(tensor.raw_data)
                if width is None
                else elements * width == len(tensor.raw_data)
            )
        else:
            fits = elements <= _PACKED_MAX * sum(len(getattr(tensor, field)) for field in _TYPED_FIELDS)
        if not fits:
            raise ModelRefused(f"the tensor {name!r} does not bring the {elements} elements that it claims")

    def _sparse(self, sparse: Any) -> None:
        self._tensor(sparse.values)
        self._tensor(sparse.indices)
        self._sparse_elements += _elements(sparse.dims, sparse.values.name[:NAME_CHARS_MAX])
        if self._sparse_elements > SPARSE_ELEMENTS_MAX:
            raise ModelRefused(f"sparse tensors would unfold to more than {SPARSE_ELEMENTS_MAX} elements")


def _draws(what: str) -> ModelRefused:
    return ModelRefused(
        f"the model draws random numbers ({what!r}): no two answers agree, so none can be checked; make the noise an input"
    )


def _is_false(tensor: Any) -> bool:
    if tensor.data_type != _TensorProto.BOOL:
        return False
    return bool(tensor.raw_data == b"\0" or (not tensor.raw_data and list(tensor.int32_data) == [0]))


def _elements(dimensions: Any, name: str) -> int:
    if len(dimensions) > TENSOR_RANK_MAX:
        raise ModelRefused(f"the tensor {name!r} has more than {TENSOR_RANK_MAX} dimensions")
    if any(dimension < 0 for dimension in dimensions):
        raise ModelRefused(f"the tensor {name!r} has a negative dimension")
    return math.prod(dimensions)
