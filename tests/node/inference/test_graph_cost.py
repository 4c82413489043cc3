"""How much a model computes for one item, by hand and by its graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from peerinfer.cost import format_flops, growth
from peerinfer.tensors import FREE, Port, TensorSpec
from peerinfer_node.inference.graph_cost import FLOPS_MAX, flops_of


def model(nodes: list[onnx.NodeProto], x: list[int | str], weights: dict[str, np.ndarray], y: list[int | str]) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return bytes(made.SerializeToString())


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def test_a_product_of_matrices_is_counted_exactly_whatever_the_batch() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    for batch in ("n", 8):
        assert flops_of(model(nodes, [batch, 64], {"w": zeros(64, 10)}, [batch, 10])) == 2 * 64 * 10 + 10


def test_large_weights_are_counted_without_their_values() -> None:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)]
    assert flops_of(model(nodes, ["n", 512], {"w": zeros(512, 512)}, ["n", 512])) == 2 * 512 * 512


def test_a_convolution_is_counted_by_its_outputs_and_kernel() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])]
    found = flops_of(model(nodes, ["n", 3, 32, 32], {"w": zeros(16, 3, 3, 3)}, ["n", 16, 32, 32]))
    assert found == 2 * 16 * 32 * 32 * 3 * 9


def test_where_no_shape_is_known_the_weights_tell() -> None:
    nodes = [helper.make_node("NonZero", ["x"], ["i"]), helper.make_node("Cast", ["i"], ["y"], to=1)]
    assert flops_of(model(nodes, ["n", 4], {"unused": zeros(100)}, ["n", "k"])) >= 1


@pytest.mark.parametrize("data", [b"", b"\x00", b"\xff" * 100, b"\x08\x08"])
def test_no_bytes_make_it_raise(data: bytes) -> None:
    assert flops_of(data) == 1.0


def test_a_graph_that_claims_too_much_is_cut_off() -> None:
    nodes = [helper.make_node("MatMul", ["x", "x"], ["y"])]
    assert flops_of(model(nodes, [1, 2**30, 2**30], {}, [1, 2**30, 2**30])) <= FLOPS_MAX


def test_what_the_model_leaves_open_makes_an_item_larger() -> None:
    tokens = Port("ids", "int64", (FREE, FREE))
    assert growth([tokens], [TensorSpec("ids", "int64", (1000, 128))]) == 128
    assert growth([Port("x", "float32", (FREE, 64))], [TensorSpec("x", "float32", (1000, 64))]) == 1
    assert growth([Port("x", "float32", ())], [TensorSpec("x", "float32", ())]) == 1


def test_amounts_are_said_as_people_say_them() -> None:
    assert format_flops(1.0) == "1 FLOP"
    assert format_flops(1.234e12) == "1.23 TFLOP"
    assert format_flops(5e22) == "5e+04 EFLOP"
