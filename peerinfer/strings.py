"""Strings as tensors hold them: UTF-8 in slots of one width.

    slot = length in bytes (4 bytes, little-endian) | UTF-8 | zeros up to the slot's width

The width is the smallest power of two that the longest element fits into. What stands in a slot has exactly one form:
a length that reaches beyond it, bytes that are no UTF-8, or anything but zeros behind them is refused wherever a slot
comes from somebody else (`problem_of`). A zero within a string is one of its characters and is kept.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peerinfer.errors import InputError
from peerinfer.limits import MIB, STRING_SLOT_BYTES_MAX, STRING_SLOT_BYTES_MIN

LENGTH_BYTES = 4
STRING_BYTES_MAX = STRING_SLOT_BYTES_MAX - LENGTH_BYTES
"""UTF-8 of one element."""

_ELEMENTS_TOGETHER_BYTES = 4 * MIB
"""Looked at in one go: the masks take as much memory again."""


def slot_for(longest: int) -> int:
    """The width of a slot for strings of up to `longest` bytes. Raises `InputError` beyond the limit."""
    if longest > STRING_BYTES_MAX:
        raise InputError(f"a string of {longest} bytes; peerinfer carries at most {STRING_BYTES_MAX}, so cut it first")
    return max(STRING_SLOT_BYTES_MIN, 1 << (longest + LENGTH_BYTES - 1).bit_length())


def pack(values: Sequence[bytes], shape: Sequence[int], *, slot: int = 0) -> NDArray[np.void]:
    """UTF-8 as a tensor of this shape. `slot` is for those that have to be alike; else it is as wide as it must be."""
    width = slot or slot_for(max(map(len, values), default=0))
    raw = bytearray(width * len(values))
    start = 0
    for value in values:
        size = len(value)
        raw[start : start + LENGTH_BYTES] = size.to_bytes(LENGTH_BYTES, "little")
        raw[start + LENGTH_BYTES : start + LENGTH_BYTES + size] = value
        start += width
    return np.frombuffer(raw, np.dtype((np.void, width))).reshape(tuple(shape))


def packed(array: NDArray[Any], *, slot: int = 0) -> NDArray[np.void]:
    """An array of `str`, of `bytes`, or of Python objects that are either. Raises `InputError`, one line, for others.

    NumPy's own arrays of strings (`U`, `S`) do not keep zeros at the end of an element; arrays of objects do.
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    if array.dtype.kind == "U" and flat.view(f"{array.dtype.str[0]}u4").max(initial=0) > sys.maxunicode:
        raise InputError("the array holds numbers that are no characters; save the strings anew")
    values: list[Any] = flat.tolist()
    if array.dtype.kind not in "US" and not all(isinstance(value, (str, bytes)) for value in values):
        raise InputError("the array holds Python objects that are not strings; give an array of str or bytes")
    try:
        found = [value.encode() if isinstance(value, str) else bytes(value) for value in values]
        if array.dtype.kind != "U":
            b"\0".join(found).decode()  # a zero between two elements completes none
    except UnicodeError:
        raise InputError("the array holds bytes that are not UTF-8, which strings of a model are") from None
    return pack(found, array.shape, slot=slot)


def unpacked(array: NDArray[np.void]) -> NDArray[np.object_]:
    """The `str` in each slot, as an array of Python objects. To be asked only of slots that were checked."""
    found = np.empty(array.size, object)
    found[:] = [value.decode() for value in contents(array)]
    return found.reshape(array.shape)


def contents(array: NDArray[np.void]) -> list[bytes]:
    """The UTF-8 in each slot, row-major."""
    slot = array.dtype.itemsize
    data = np.ascontiguousarray(array).tobytes()
    sizes = _sizes(np.frombuffer(data, np.uint8).reshape(-1, slot)).tolist()
    firsts = range(LENGTH_BYTES, len(data) + LENGTH_BYTES, slot)
    return [data[first : first + size] for first, size in zip(firsts, sizes, strict=True)]


def widened(array: NDArray[np.void], slot: int) -> NDArray[np.void]:
    """The same strings in slots of at least their width."""
    width = array.dtype.itemsize
    if width == slot:
        return array
    raw = np.zeros((array.size, slot), np.uint8)
    raw[:, :width] = np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(-1, width)
    return raw.reshape(-1).view(np.dtype((np.void, slot))).reshape(array.shape)


def problem_of(array: NDArray[np.void]) -> str:
    """What is wrong with slots that somebody else filled, in a few words; "" if nothing is."""
    slot = array.dtype.itemsize
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(-1, slot)
    together = max(1, _ELEMENTS_TOGETHER_BYTES // slot)
    for start in range(0, len(raw), together):
        rows = raw[start : start + together]
        sizes = _sizes(rows)
        if sizes.size and int(sizes.max()) > slot - LENGTH_BYTES:
            return "a string is longer than its slot"
        text = rows[:, LENGTH_BYTES:]
        is_behind = np.arange(slot - LENGTH_BYTES) >= sizes[:, None]
        if (text[is_behind] != 0).any():
            return "something stands behind a string in its slot"
        for row in np.flatnonzero((text >= 0x80).any(axis=1)).tolist():
            try:
                text[row, : sizes[row]].tobytes().decode()
            except UnicodeError:
                return "a string is not UTF-8"
    return ""


def _sizes(rows: NDArray[np.uint8]) -> NDArray[np.uint32]:
    sizes: NDArray[np.uint32] = np.ascontiguousarray(rows[:, :LENGTH_BYTES]).reshape(-1).view("<u4")
    return sizes
