"""Tensors as the messages name them: a name, a dtype, a shape. The bytes travel beside, little-endian and row-major.

Strings travel in slots of one width (`strings`), a power of two that the dtype names: `string32`. So every element of
every tensor has a size that is known from its dtype, and rows of strings are cut, joined and found on disk like numbers.
A model takes and gives `string`, whatever the width.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from peerinfer.codec import listed, one_of, part, text, uint, wire
from peerinfer.limits import NAME_CHARS_MAX, STRING_SLOT_BYTES_MAX, STRING_SLOT_BYTES_MIN, TENSOR_RANK_MAX

Buffer = bytes | bytearray | memoryview
"""Bytes of a tensor, or of anything, that need not be copied to be passed on."""

STRING = "string"
"""The dtype of a model's inputs and outputs that are strings."""

_NUMBER_BYTES = {
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
_SLOTS = [1 << power for power in range(STRING_SLOT_BYTES_MIN.bit_length() - 1, STRING_SLOT_BYTES_MAX.bit_length())]

ITEM_BYTES = _NUMBER_BYTES | {f"{STRING}{slot}": slot for slot in _SLOTS}
"""Every dtype that peerinfer carries with the bytes of one element: NumPy's names, and strings in slots."""

CARRIED = (*_NUMBER_BYTES, STRING)
"""The same for people, and for models: which inputs and outputs can be carried."""


def is_string(dtype: str) -> bool:
    """Whether it is the dtype of strings, in slots or as a model has it."""
    return dtype.startswith(STRING)


def feeds(dtype: str, port: str) -> bool:
    """Whether a tensor of `dtype` is what a model means by `port`."""
    return dtype == port or (port == STRING and is_string(dtype))


_NUMPY = {name: np.dtype(name).newbyteorder("<") for name in _NUMBER_BYTES} | {
    f"{STRING}{slot}": np.dtype((np.void, slot)) for slot in _SLOTS
}


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """How one of `ITEM_BYTES` lies in memory: a number, or a slot as it travels."""
    return _NUMPY[dtype]


def dtype_name(dtype: np.dtype[Any]) -> str:
    """The inverse. What is not carried has NumPy's name for it."""
    return f"{STRING}{dtype.itemsize}" if dtype.kind == "V" and dtype.fields is None else dtype.name


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
