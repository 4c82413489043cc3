"""Tensors as the messages name them: a name, a dtype, a shape. The bytes travel beside, little-endian and row-major."""

from __future__ import annotations

import math

from peerinfer.codec import listed, one_of, part, text, uint, wire
from peerinfer.limits import NAME_CHARS_MAX, TENSOR_RANK_MAX

ITEM_BYTES = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "uint16": 2,
    "int16": 2,
    "float16": 2,
    "uint32": 4,
    "int32": 4,
    "float32": 4,
    "uint64": 8,
    "int64": 8,
    "float64": 8,
}
"""Every dtype that peerinfer carries, by its NumPy name, with the bytes of one element."""


FREE = -1


def _dimension(value: object) -> int:
    if type(value) is not int or not FREE <= value < 1 << 48:
        raise ValueError("not a dimension")
    return value


@part
class TensorSpec:
    """One tensor: its name, NumPy dtype and shape."""

    name: str = wire(text(NAME_CHARS_MAX))
    dtype: str = wire(one_of(*ITEM_BYTES))
    shape: tuple[int, ...] = wire(listed(uint(48), TENSOR_RANK_MAX))

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@part
class Port:
    """One input or output of a model. A negative dimension is free; the names of free dimensions are not kept."""

    name: str = wire(text(NAME_CHARS_MAX))
    dtype: str = wire(text(32))
    shape: tuple[int, ...] = wire(listed(_dimension, TENSOR_RANK_MAX))

    def __str__(self) -> str:
        dims = ", ".join("?" if dim < 0 else str(dim) for dim in self.shape)
        return f"{self.name}: {self.dtype}[{dims}]"
