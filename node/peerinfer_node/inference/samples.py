"""Inputs to try a model with: made up from its interface and a seed, the same every time.

A model says what shapes and types it takes, not what its numbers mean. Small whole numbers are good for most ids, masks
and lengths, numbers around zero for most measurements, and a few words for texts; where a model cannot live with them,
zeros and ones are tried.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from peerinfer.strings import pack
from peerinfer.tensors import FREE, Port, TensorSpec, dtype_name, is_string, numpy_dtype
from peerinfer_node.ports import Batch, BatchResult

FREE_AXIS_SMALL = 16
"""Size of a free axis: tokens, samples, features."""

FREE_AXIS_IMAGE = 64
"""Size of a free axis of a tensor with four axes or more: networks halve their images five times."""

SAMPLE_ELEMENTS_MAX = 1 << 24

_WORDS = ("", "a", "The", "cat", "no 1", "0", "1.5", "naïve", "2026-11-28")

Arrays = dict[str, npt.NDArray[np.generic]]


def samples(inputs: Sequence[Port], seed: int) -> Iterator[Arrays]:
    """Several sets of inputs, the likeliest first; none if a set would be too large."""
    shapes = {port.name: _shape(port) for port in inputs}
    if sum(math.prod(shape) for shape in shapes.values()) > SAMPLE_ELEMENTS_MAX:
        return
    rng = np.random.default_rng(seed)
    yield {port.name: _random(port, shapes[port.name], rng) for port in inputs}
    for value in (0, 1):
        yield {port.name: _alike(port, shapes[port.name], value) for port in inputs}


def batch_of_one(arrays: Mapping[str, npt.NDArray[np.generic]]) -> Batch:
    """One task whose only item is one whole set of inputs."""
    tensors = [
        TensorSpec(name, dtype_name(array.dtype), (1, *array.shape) if array.ndim else ())
        for name, array in arrays.items()
    ]
    body = [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for array in arrays.values()]
    return Batch((1,), tuple(tensors), body, merge=False)


def outputs_of_one(result: BatchResult) -> Arrays | None:
    """The outputs of a batch of one item, or None if it failed."""
    if result.failures or len(result.groups) != 1:
        return None
    found: Arrays = {}
    body, offset = memoryview(result.groups[0].body), 0
    for spec in result.groups[0].tensors:
        part = bytes(body[offset : offset + spec.size_bytes])
        found[spec.name] = np.frombuffer(part, numpy_dtype(spec.dtype)).reshape(spec.shape)
        offset += spec.size_bytes
    return found


def _shape(port: Port) -> tuple[int, ...]:
    free = FREE_AXIS_IMAGE if len(port.shape) >= 4 else FREE_AXIS_SMALL
    return tuple((2 if axis == 0 else free) if size == FREE else size for axis, size in enumerate(port.shape))


def _alike(port: Port, shape: tuple[int, ...], value: int) -> npt.NDArray[np.generic]:
    if is_string(port.dtype):
        return pack([str(value).encode()] * math.prod(shape), shape)
    return np.full(shape, value, port.dtype)


def _random(port: Port, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.generic]:
    if is_string(port.dtype):
        words = rng.choice(_WORDS, math.prod(shape))
        return pack([str(word).encode() for word in words], shape)
    dtype = np.dtype(port.dtype)
    if dtype.kind == "f":
        return np.asarray(rng.standard_normal(shape), dtype)
    if dtype == np.uint8:
        return np.asarray(rng.integers(0, 256, shape), dtype)  # pixels, bytes of a file
    return np.asarray(rng.integers(0, 2, shape), dtype)
