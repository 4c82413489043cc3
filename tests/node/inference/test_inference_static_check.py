from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import models
import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper

from peerinfer.errors import ModelRefused
from peerinfer_node.inference import static_check
from peerinfer_node.inference.static_check import check_model

REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {}


def refused(reason: str) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    """Registers a model with a word of the reason for which it must be refused."""

    def register(build: Callable[[], bytes]) -> Callable[[], bytes]:
        REFUSED[build.__name__] = (build, reason)
        return build

    return register


def with_constant(tensor: TensorProto) -> bytes:
    node = helper.make_node("Identity", ["w"], ["y"])
    return models.model([node], [], [models.port("y", TensorProto.FLOAT, None)], [tensor])


def tensor(dims: list[int], raw: bytes = b"", dtype: int = TensorProto.FLOAT) -> TensorProto:
    return TensorProto(name="w", data_type=dtype, dims=dims, raw_data=raw)


@refused("empty")
def nothing() -> bytes:
    return b""


@refused("not an ONNX model")
def garbage() -> bytes:
    return np.random.default_rng(1).bytes(4096)


@refused("not an ONNX model")
def text() -> bytes:
    return b"this is no model at all\n"


@refused("not an ONNX model")
def a_picture() -> bytes:
    return b"\x89PNG\r\n\x1a\n" + bytes(200)


@refused("not an ONNX model")
def cut_short() -> bytes:
    return models.mlp()[:-1000]


@refused("not an ONNX model")
def only_a_version() -> bytes:
    data: bytes = ModelProto(ir_version=9).SerializeToString()
    return data


@refused("own format")
def two_faced() -> bytes:
    """An ONNX model to protobuf, ONNX Runtime's own format to ONNX Runtime, which looks at four bytes."""
    face = b"\x12\x08\0\0ORTM\0\0"  # producer_name
    return face + models.identity()


@refused("another file")
def external_data() -> bytes:
    made = tensor([4])
    made.data_location = TensorProto.EXTERNAL
    made.external_data.add(key="location", value="secret.txt")
    return with_constant(made)


@refused("another file")
def external_data_in_an_attribute() -> bytes:
    made = tensor([4], bytes(16))
    made.external_data.add(key="location", value="secret.txt")
    node = helper.make_node("Constant", [], ["y"], value=made)
    return models.model([node], [], [models.port("y", TensorProto.FLOAT, [4])])


def of_versions(*, ir: int = models.IR_VERSION, opset: int = models.OPSET) -> bytes:
    model = ModelProto.FromString(models.mlp())
    model.ir_version, model.opset_import[0].version = ir, opset
    data: bytes = model.SerializeToString()
    return data


@refused("IR version 99 of ONNX, which is newer than any known here: save it with IR version")
def newer_than_the_format() -> bytes:
    return of_versions(ir=99)


@refused("needs opset 99; 1 to")
def newer_than_the_operators() -> bytes:
    return of_versions(opset=99)


@refused("needs opset 0; 1 to")
def without_operators() -> bytes:
    return of_versions(opset=0)


@pytest.mark.parametrize(
    ("version", "newest"), [("ir", static_check.IR_VERSION_MAX), ("opset", static_check.OPSET_MAX)]
)
def test_the_newest_versions_that_pass_are_those_that_onnx_runtime_runs(version: str, newest: int) -> None:
    check_model(of_versions(**{version: newest}))
    onnxruntime.InferenceSession(of_versions(**{version: newest}))
    with pytest.raises(ModelRefused):
        check_model(of_versions(**{version: newest + 1}))


@refused("functions")
def functions() -> bytes:
    function = helper.make_function(
        "loc", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", models.OPSET)]
    )
    node = helper.make_node("F", ["x"], ["y"], domain="loc")
    x, y = models.port("x", TensorProto.FLOAT, [1]), models.port("y", TensorProto.FLOAT, [1])
    return models.model([node], [x], [y], domains=["loc"], functions=[function])


def with_node(op: str, domain: str = "") -> bytes:
    node = helper.make_node(op, ["x"], ["y"], domain=domain)
    x, y = models.port("x", TensorProto.FLOAT, [1]), models.port("y", TensorProto.FLOAT, [1])
    return models.model([node], [x], [y], domains=[domain] if domain else [])


@refused("unknown domain 'evil.corp'")
def custom_domain() -> bytes:
    return with_node("Evil", "evil.corp")


@refused("unknown domain 'com.microsoft.extensions'")
def remote_service() -> bytes:
    return with_node("OpenAIAudioToText", "com.microsoft.extensions")


@refused("'FrobnicateV7' is unknown")
def unknown_operator() -> bytes:
    return with_node("FrobnicateV7")


@refused("reaches outside")
def compiled_context() -> bytes:
    return with_node("EPContext", "com.microsoft")


@refused("loops ('Loop')")
def endless_loop() -> bytes:
    return models.looping(2**62)


@refused("draws random numbers ('RandomNormalLike')")
def noise() -> bytes:
    return with_node("RandomNormalLike")


@refused("draws random numbers ('Multinomial')")
def a_sampled_token() -> bytes:
    return with_node("Multinomial")


@refused("draws random numbers ('Dropout in training mode')")
def dropout_that_is_on() -> bytes:
    return with_dropout([models.constant("on", np.array(True))], [])


@refused("draws random numbers ('Dropout in training mode')")
def dropout_that_an_input_turns_on() -> bytes:
    return with_dropout([], [models.port("on", TensorProto.BOOL, [])])


def with_dropout(constants: list[TensorProto], inputs: list[Any]) -> bytes:
    node = helper.make_node("Dropout", ["x", "", "on"], ["y"])
    x, y = models.port("x", TensorProto.FLOAT, [4]), models.port("y", TensorProto.FLOAT, [4])
    return models.model([node], [x, *inputs], [y], constants)


@refused("deep")
def deep() -> bytes:
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["o"])], "g", [], [models.port("o", 1, [1])])
    for _ in range(static_check.DEPTH_MAX + 1):
        node = helper.make_node("If", ["c"], ["o"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([node], "g", [], [models.port("o", 1, [1])])
    c, x = models.port("c", TensorProto.BOOL, []), models.port("x", TensorProto.FLOAT, [1])
    return models.model(graph.node, [c, x], graph.output)


@refused("more than 50000 nodes")
def many_nodes() -> bytes:
    nodes = [helper.make_node("Identity", [f"a{n}"], [f"a{n + 1}"]) for n in range(static_check.NODES_MAX + 1)]
    return models.model(nodes, [models.port("a0", 1, [1])], [models.port(f"a{len(nodes)}", 1, [1])])


@refused("does not bring")
def less_data_than_claimed() -> bytes:
    return with_constant(tensor([1 << 20], bytes(16)))


@refused("does not bring")
def dimensions_that_overflow() -> bytes:
    return with_constant(tensor([1 << 33, 1 << 33]))


@refused("does not bring")
def dimensions_that_overflow_to_the_right_size() -> bytes:
    return with_constant(tensor([1 << 62, 4, 4], bytes(64)))


@refused("does not bring")
def narrow_type_that_claims_too_much() -> bytes:
    return with_constant(tensor([1 << 20], bytes(16), TensorProto.INT4))


@refused("negative")
def negative_dimension() -> bytes:
    return with_constant(tensor([-4], bytes(16)))


@refused("more than 16 dimensions")
def many_dimensions() -> bytes:
    return with_constant(tensor([1] * 17, bytes(4)))


@refused("unfold")
def sparse_bomb() -> bytes:
    values, indices = tensor([1], bytes(4)), tensor([1], bytes(8), TensorProto.INT64)
    model = ModelProto()
    model.ParseFromString(models.identity())
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [1 << 20, 1 << 20]))
    data: bytes = model.SerializeToString()
    return data


@refused("outputs")
def many_outputs() -> bytes:
    nodes = [helper.make_node("Identity", ["x"], [f"y{n}"]) for n in range(65)]
    return models.model(nodes, [models.port("x", 1, [1])], [models.port(f"y{n}", 1, [1]) for n in range(65)])


@pytest.mark.parametrize("name", REFUSED)
def test_a_harmful_model_is_refused_with_its_reason(name: str) -> None:
    build, reason = REFUSED[name]
    with pytest.raises(ModelRefused) as caught:
        check_model(build())
    assert reason in str(caught.value)
    assert len(str(caught.value)) <= 500
    assert "\n" not in str(caught.value)


def test_a_model_past_the_size_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_check, "MODEL_BYTES_MAX", 1000)
    with pytest.raises(ModelRefused, match="limit"):
        check_model(models.mlp())


@pytest.mark.parametrize(
    "build",
    [
        models.mlp,
        models.two_inputs,
        models.fixed_batch,
        models.nonzero,
        models.poisonable,
        models.orientation,
        models.magika,
    ],
)
def test_ordinary_models_pass(build: Callable[[], bytes]) -> None:
    check_model(build())


def test_branches_pass_and_loops_pass_for_those_who_trust_them() -> None:
    then = helper.make_graph([helper.make_node("Identity", ["x"], ["t"])], "t", [], [models.port("t", 1, [1])])
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["e"])], "e", [], [models.port("e", 1, [1])])
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    c, x = models.port("c", TensorProto.BOOL, []), models.port("x", TensorProto.FLOAT, [1])
    check_model(models.model([node], [c, x], [models.port("y", TensorProto.FLOAT, [1])]))
    check_model(models.looping(5), allow_loops=True)


def test_dropout_that_is_off_passes() -> None:
    check_model(with_node("Dropout"))
    check_model(with_dropout([models.constant("on", np.array(False))], []))
    nodes = [
        helper.make_node("Constant", [], ["on"], value=models.constant("c", np.array(False))),
        helper.make_node("Dropout", ["x", "", "on"], ["y"]),
    ]
    x, y = models.port("x", TensorProto.FLOAT, [4]), models.port("y", TensorProto.FLOAT, [4])
    check_model(models.model(nodes, [x], [y]))


def test_a_loop_inside_a_branch_is_still_a_loop() -> None:
    loop = ModelProto()
    loop.ParseFromString(models.looping(5))
    branch = helper.make_graph(loop.graph.node, "t", [], loop.graph.output, loop.graph.initializer)
    node = helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    c, x = models.port("c", TensorProto.BOOL, []), models.port("x", TensorProto.FLOAT, [1])
    with pytest.raises(ModelRefused, match="Loop"):
        check_model(models.model([node], [c, x], [models.port("z", TensorProto.FLOAT, [1])]))


def test_any_damage_to_a_model_is_a_refusal_or_nothing() -> None:
    rng = np.random.default_rng(0)
    whole = models.two_inputs()
    for _ in range(500):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(whole), 3):
            damaged[position] = rng.integers(0, 256)
        with contextlib.suppress(ModelRefused):
            check_model(bytes(damaged))
