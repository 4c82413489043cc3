"""The small task that every system is given: 64 floats through a 64→64→10 network, in another process on one thread.

It is as small as inference gets, so that what is measured is the way there and back.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

INPUT_NAME = "x"
OUTPUT_NAME = "y"
INPUT_FLOATS = 64
OUTPUT_FLOATS = 10

TASK_P50 = "task_p50"
"""Ends the name of a measurement: milliseconds from handing over one task to holding its answer, half the times."""

TASKS = "tasks"
"""Ends the name of a measurement: small tasks per second, as many on their way as the system likes.

Each system's two measurements are `<system>_task_p50` and `<system>_tasks`; our own system is called `node`.
"""

Floats = npt.NDArray[np.float32]


@cache
def _weights() -> tuple[Floats, Floats]:
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((INPUT_FLOATS, INPUT_FLOATS), dtype=np.float32)
    return hidden, rng.standard_normal((INPUT_FLOATS, OUTPUT_FLOATS), dtype=np.float32)


@cache
def model() -> bytes:
    """The network as an ONNX file: input `x` float32[n, 64], output `y` float32[n, 10]."""
    hidden, output = _weights()
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", [INPUT_NAME, "hidden"], ["sums"]),
            helper.make_node("Relu", ["sums"], ["activations"]),
            helper.make_node("MatMul", ["activations", "output"], [OUTPUT_NAME]),
        ],
        "mlp",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["n", INPUT_FLOATS])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["n", OUTPUT_FLOATS])],
        [numpy_helper.from_array(hidden, "hidden"), numpy_helper.from_array(output, "output")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made)
    content: bytes = made.SerializeToString()
    return content


def inputs(tasks: int) -> Floats:
    """One row of inputs for each task, every row different: float32[tasks, 64]."""
    return np.random.default_rng(1).standard_normal((tasks, INPUT_FLOATS), dtype=np.float32)


def answers(rows: Floats) -> Floats:
    """What the network says to these inputs, by NumPy alone: float32[tasks, 10]."""
    hidden, output = _weights()
    found: Floats = np.maximum(rows @ hidden, 0) @ output
    return found


def check(rows: Floats, outputs: Floats) -> None:
    """Raises ValueError if a system answered wrongly: a fast wrong answer is no figure."""
    if outputs.shape != (len(rows), OUTPUT_FLOATS) or not np.allclose(outputs, answers(rows), rtol=1e-3, atol=1e-3):
        raise ValueError(f"wrong answers to {len(rows)} tasks: the measurement is void")
