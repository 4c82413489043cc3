from __future__ import annotations

import models
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from peerinfer.errors import ModelRefused
from peerinfer_node.inference.halves import CAST_NAMES, widened

RNG = np.random.default_rng(5)


def run(model: bytes, **inputs: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, inputs)


def dtypes_inside(model: bytes) -> set[str]:
    """Types of all values between the casts at the borders, as ONNX infers them."""
    inferred = onnx.shape_inference.infer_shapes(onnx.load_from_string(model))
    return {TensorProto.DataType.Name(value.type.tensor_type.elem_type) for value in inferred.graph.value_info}


def half(name: str, shape: models.Shape) -> object:
    return models.port(name, TensorProto.FLOAT16, shape)


def test_a_model_without_halves_stays_as_it_is() -> None:
    assert widened(models.mlp()) is models.mlp()


def test_everything_inside_is_widened_and_the_outside_stays() -> None:
    weights = RNG.standard_normal((8, 4)).astype(np.float16)
    model = models.model(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("Shape", ["a"], ["s"]),
            helper.make_node("ConstantOfShape", ["s"], ["f"], value=models.constant("v", np.array([2], np.float16))),
            helper.make_node("Add", ["a", "f"], ["y"]),
            helper.make_node("Relu", ["y"], ["z"]),
        ],
        [half("x", ["n", 8])],
        [half("y", ["n", 4]), half("z", ["n", 4])],
        [models.constant("w", weights)],
    )
    wide = widened(model)
    assert "FLOAT16" in dtypes_inside(model)
    assert "FLOAT16" not in dtypes_inside(wide)
    x = RNG.standard_normal((3, 8)).astype(np.float16)
    for found, wanted in zip(run(wide, x=x), run(model, x=x), strict=True):
        assert found.dtype == np.float16
        np.testing.assert_allclose(found, wanted, rtol=5e-3, atol=5e-3)
    assert {node.name for node in onnx.load_from_string(wide).graph.node} & set(CAST_NAMES)


def test_branches_are_widened_too() -> None:
    def branch(op: str) -> object:
        node = helper.make_node(op, ["x"], [f"{op}_out"])
        return helper.make_graph([node], op, [], [half(f"{op}_out", ["n", 2])])

    model = models.model(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch("Neg"), else_branch=branch("Abs"))],
        [models.port("c", TensorProto.BOOL, []), half("x", ["n", 2])],
        [half("y", ["n", 2])],
    )
    x = np.array([[-1, 2]], np.float16)
    for condition in (True, False):
        (found,) = run(widened(model), c=np.array(condition), x=x)
        np.testing.assert_array_equal(found, run(model, c=np.array(condition), x=x)[0])
        assert found.dtype == np.float16


def test_names_that_are_taken_are_not_taken_twice() -> None:
    model = models.model(
        [helper.make_node("Neg", ["x"], ["x_wide"]), helper.make_node("Neg", ["x_wide"], ["y"])],
        [half("x", ["n"])],
        [half("y", ["n"])],
    )
    x = np.array([1, -2], np.float16)
    np.testing.assert_array_equal(run(widened(model), x=x)[0], x)


def test_what_cannot_be_widened_is_refused() -> None:
    passed_through = models.model([helper.make_node("Neg", ["x"], ["y"])], [half("x", ["n"])], [half("x", ["n"])])
    with pytest.raises(ModelRefused, match="both an input and an output"):
        widened(passed_through)
