"""Arrays that can be read row by row, wherever they lie: on disk, in memory, or in several files one after the other."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from peerinfer.binding import quoted, shape_text
from peerinfer.errors import InputError
from peerinfer.strings import packed, widened
from peerinfer.tensors import ITEM_BYTES, STRING, dtype_name, is_string
from peerinfer_node.formats.source import PIECE_BYTES, Array, MemoryBudget, SourceFile


class Column(Protocol):
    """One input as a file holds it, whole. `dtype` may be one that peerinfer does not carry; then it is never read."""

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def prepare(self, budget: MemoryBudget) -> None:
        """Reads what cannot be read in pieces and checks what can be checked. Raises `InputError`. To be called once."""

    def read(self, start: int, stop: int) -> Array:
        """Rows, C-contiguous, aligned and little-endian; the whole of a scalar. Raises `InputError`."""


def plain(array: Array) -> Array:
    """The same values, C-contiguous, aligned and little-endian; the same memory where it is so already."""
    if array.dtype.kind == "b":
        # A file can hold other bytes than 0 and 1 in the place of booleans; nothing behind us should meet them.
        array = np.not_equal(np.asarray(array).view(np.uint8), 0)
    return np.require(array, array.dtype.newbyteorder("<"), ["C", "A"])


def shaped(data: npt.NDArray[np.uint8], dtype: np.dtype[np.generic], shape: tuple[int, ...], *, fortran: bool) -> Array:
    """Bytes as the plain array that they are, column-major or not."""
    flat = data.view(dtype)
    return plain(flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape))


class MemoryColumn:
    """An array that is held."""

    def __init__(self, array: Array) -> None:
        self._array = plain(array)
        self.dtype = dtype_name(array.dtype)
        self.shape = tuple(array.shape)

    def prepare(self, budget: MemoryBudget) -> None:
        pass

    def read(self, start: int, stop: int) -> Array:
        return self._array[start:stop] if self.shape else self._array


class FileColumn:
    """An array that lies in a file as it would in memory. `crc` is what its file says of the bytes from `crc_offset`."""

    def __init__(
        self,
        file: SourceFile,
        offset: int,
        dtype: str,
        shape: tuple[int, ...],
        *,
        stored: np.dtype[np.generic] | None = None,
        fortran: bool = False,
        crc: int | None = None,
        crc_offset: int = 0,
    ) -> None:
        self.dtype = dtype
        self.shape = shape
        self._file = file
        self._offset = offset
        self._stored = stored
        self._fortran = fortran
        self._crc = crc
        self._crc_offset = crc_offset
        self._held: Array | None = None

    @property
    def _dtype(self) -> np.dtype[np.generic]:
        return np.dtype(self.dtype) if self._stored is None else self._stored

    @property
    def _size_bytes(self) -> int:
        return math.prod(self.shape) * self._dtype.itemsize

    def prepare(self, budget: MemoryBudget) -> None:
        if self._crc is not None:
            self._check_crc(self._crc)
        if self._fortran:
            # Rows of a column-major array lie scattered over the whole file.
            budget.take(self._size_bytes, f"{self._file.path}: a column-major array")
        elif not budget.take_small(self._size_bytes):
            return
        data = self._file.read(self._offset, self._size_bytes)
        self._held = shaped(data, self._dtype, self.shape, fortran=self._fortran)

    def read(self, start: int, stop: int) -> Array:
        if self._held is not None:
            return self._held[start:stop] if self.shape else self._held
        row = self.shape[1:]
        row_bytes = math.prod(row) * self._dtype.itemsize
        first, count = (start, stop - start) if self.shape else (0, 1)
        data = self._file.read(self._offset + first * row_bytes, count * row_bytes).view(self._dtype)
        return plain(data.reshape((count, *row) if self.shape else ()))

    def _check_crc(self, expected: int) -> None:
        end = self._offset + self._size_bytes
        found = 0
        for position in range(self._crc_offset, end, PIECE_BYTES):
            found = zlib.crc32(self._file.read(position, min(PIECE_BYTES, end - position)).data, found)
        if found != expected:
            raise InputError(f"{self._file.path} is damaged: a checksum is wrong; save or copy it anew")


class StringColumn:
    """NumPy's own strings (`U`, `S`), in slots that hold the longest that such an array could have."""

    def __init__(self, raw: Column, slot: int, where: str) -> None:
        self.dtype = f"{STRING}{slot}"
        self.shape = raw.shape
        self._raw = raw
        self._slot = slot
        self._where = where

    def prepare(self, budget: MemoryBudget) -> None:
        self._raw.prepare(budget)

    def read(self, start: int, stop: int) -> Array:
        try:
            return packed(self._raw.read(start, stop), slot=self._slot)
        except InputError as error:
            raise InputError(f"{self._where}: {error}") from None


class _WiderColumn:
    """The same strings in wider slots."""

    def __init__(self, column: Column, slot: int) -> None:
        self.dtype = f"{STRING}{slot}"
        self.shape = column.shape
        self._column = column
        self._slot = slot

    def prepare(self, budget: MemoryBudget) -> None:
        self._column.prepare(budget)

    def read(self, start: int, stop: int) -> Array:
        return widened(self._column.read(start, stop), self._slot)


class JoinedColumn:
    """The rows of several files, one after the other."""

    def __init__(self, parts: Sequence[Column]) -> None:
        self._parts = tuple(parts)
        self._starts = np.cumsum([0, *(part.shape[0] for part in parts)])
        self.dtype = parts[0].dtype
        self.shape = (int(self._starts[-1]), *parts[0].shape[1:])

    def prepare(self, budget: MemoryBudget) -> None:
        for part in self._parts:
            part.prepare(budget)

    def read(self, start: int, stop: int) -> Array:
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        pieces = []
        while start < stop:
            base, end = int(self._starts[first]), int(self._starts[first + 1])
            upto = min(stop, end)
            if upto > start:
                pieces.append(self._parts[first].read(start - base, upto - base))
            start, first = upto, first + 1
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def join(name: str, parts: Sequence[tuple[str, Column]]) -> Column:
    """One column of the columns of this name in several files, given with their paths, in order."""
    if all(is_string(column.dtype) and column.dtype in ITEM_BYTES for _, column in parts):
        slot = max(ITEM_BYTES[column.dtype] for _, column in parts)
        parts = [(path, c if ITEM_BYTES[c.dtype] == slot else _WiderColumn(c, slot)) for path, c in parts]
    first_path, first = parts[0]
    if len(parts) == 1:
        return first
    for path, column in parts[1:]:
        if (column.dtype, len(column.shape), column.shape[1:]) != (first.dtype, len(first.shape), first.shape[1:]):
            raise InputError(
                f"{path}: array {quoted(name)} is {shape_text(column.dtype, column.shape)}, but in {first_path} it is "
                f"{shape_text(first.dtype, first.shape)}; files are joined along the first axis, all else must agree"
            )
    if not first.shape:
        if first.dtype in ITEM_BYTES:
            values = {column.read(0, 1).tobytes() for _, column in parts}
            if len(values) > 1:
                raise InputError(
                    f"the scalar {quoted(name)} differs between {first_path} and the others; run them apart"
                )
        return first
    return JoinedColumn([column for _, column in parts])
