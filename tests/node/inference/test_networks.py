from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from peerinfer_node.inference.networks import RESNET50, SMALL, Network, image_for, model_of


def multiplications(network: Network) -> float:
    """Millions for one image, counted in the model."""
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(model_of(network)))
    values = [*model.graph.value_info, *model.graph.output]
    shapes = {value.name: [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim] for value in values}
    weights = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    total = 0
    for node in model.graph.node:
        if node.op_type in ("Conv", "MatMul"):
            pixels = shapes[node.output[0]][2:]
            total += int(np.prod(weights[node.input[1]]) * np.prod(pixels or [1]))
    return total / 1e6


@pytest.mark.parametrize("network", [SMALL, RESNET50])
def test_a_network_takes_the_work_that_it_says(network: Network) -> None:
    assert multiplications(network) == pytest.approx(network.multiplications, rel=0.001)


def test_resnet50_has_its_layers() -> None:
    model = onnx.load_from_string(model_of(RESNET50))
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Conv") == 49 + 4  # four of them fit a stage's input to its output
    assert kinds.count("MatMul") == 1


def test_the_small_network_answers_the_same_every_time_and_stays_in_range() -> None:
    answers = []
    for _ in range(2):
        session = onnxruntime.InferenceSession(model_of(SMALL), providers=["CPUExecutionProvider"])
        answers.append(session.run(None, {"x": image_for(SMALL)})[0])
    assert np.array_equal(*answers)
    assert 0.1 < np.abs(answers[0]).max() < 100
