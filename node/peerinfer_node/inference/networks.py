"""Convolution networks to measure a device with: residual networks, their weights made up from a seed.

ResNet-50 is what people compare devices by. Here it has its shapes and its 4.1 billion multiplications for an image, and
no trained weights: speed does not depend on them. Layers of one shape share one set, which makes the file a third as
large. The small one takes a four-hundredth of the work, so that it can be tried on anything; what it answers is compared
between devices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

_SEED = 50
_RESIDUE = 0.2
"""What a block adds is made smaller by this: without training, fifty layers would run out of range."""


@dataclass(frozen=True, slots=True)
class Network:
    """Blocks of three convolutions (narrow, 3 by 3, wide), in stages of half the size and twice the width."""

    blocks: tuple[int, ...]
    width: int
    image: int
    """Pixels of a side."""
    answers: int
    multiplications: float
    """For one image, in millions."""


RESNET50 = Network((3, 4, 6, 3), 64, 224, 1000, 4089.2)
SMALL = Network((1, 1, 1, 1), 16, 64, 16, 9.3)


def image_for(network: Network) -> npt.NDArray[np.float32]:
    shape = (1, 3, network.image, network.image)
    return np.random.default_rng(_SEED).standard_normal(shape, dtype=np.float32)


def model_of(network: Network) -> bytes:
    """x f32[n,3,image,image] -> y f32[n,answers]."""
    builder = _Builder()
    width = network.width
    now = builder.conv("x", 3, width, 7, stride=2)
    now = builder.node("MaxPool", [now], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    given = width
    for stage, blocks in enumerate(network.blocks):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            narrow, wide = width << stage, 4 * width << stage
            inner = builder.conv(now, given, narrow, 1)
            inner = builder.conv(inner, narrow, narrow, 3, stride=stride)
            inner = builder.conv(inner, narrow, wide, 1, relu=False, gain=_RESIDUE)
            if not block:
                now = builder.conv(now, given, wide, 1, stride=stride, relu=False)
            now = builder.node("Relu", [builder.node("Add", [now, inner])])
            given = wide
    pooled = builder.node("Flatten", [builder.node("GlobalAveragePool", [now])])
    builder.nodes.append(helper.make_node("MatMul", [pooled, builder.weights((given, network.answers), given)], ["y"]))
    side = network.image
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, side, side]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", network.answers]),
    ]
    graph = helper.make_graph(builder.nodes, "residual", ports[:1], ports[1:], list(builder.initializers.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    data: bytes = model.SerializeToString()
    return data


class _Builder:
    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self._rng = np.random.default_rng(_SEED)

    def node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def conv(
        self, given: str, before: int, after: int, side: int, *, stride: int = 1, relu: bool = True, gain: float = 1.0
    ) -> str:
        weights = self.weights((after, before, side, side), before * side * side, gain)
        edge = side // 2
        attributes = {"kernel_shape": [side, side], "strides": [stride, stride], "pads": [edge] * 4}
        output = self.node("Conv", [given, weights], **attributes)
        return self.node("Relu", [output]) if relu else output

    def weights(self, shape: tuple[int, ...], fan_in: int, gain: float = 1.0) -> str:
        name = f"w{'x'.join(map(str, shape))}_{gain}"
        if name not in self.initializers:
            scale = np.float32(gain * (2 / fan_in) ** 0.5)
            values = self._rng.standard_normal(shape, dtype=np.float32) * scale
            self.initializers[name] = numpy_helper.from_array(values, name)
        return name
