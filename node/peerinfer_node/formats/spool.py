"""Outputs on their way to a file: taken in any order, given back in the order of the items.

Blocks are kept in memory while they are few and in a nameless file on the output's own disk beyond that; nothing of it
is left when the process ends, however it ends. Everything here raises OSError as it comes: the writer knows what to say.
"""

from __future__ import annotations

import math
import tempfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from peerinfer.limits import MIB
from peerinfer.tensors import ITEM_BYTES, Port, dtype_name, feeds, numpy_dtype
from peerinfer_node.formats.source import PIECE_BYTES, Array

SPOOL_MEMORY_BYTES_MAX = 64 * MIB

Row = tuple[int, ...]
"""Shape of one item of one output."""

_Shape = tuple[str, Row]
"""Dtype and shape of one item of one output: the width of strings differs from block to block."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive items of one output: alike in shape, or all failed (`rows` is None)."""

    first_item: int
    items: int
    rows: Array | None


class Spool:
    def __init__(self, folder: str, outputs: Sequence[Port]) -> None:
        self.outputs = tuple(outputs)
        self.size_bytes = 0
        self.items = 0
        self._file = tempfile.SpooledTemporaryFile(max_size=SPOOL_MEMORY_BYTES_MAX, dir=folder)  # noqa: SIM115
        # A job may come in ten million blocks, so that a block is four numbers here and not an object.
        self._first = array("q")
        self._offset = array("q")
        self._count = array("q")
        self._shapes = array("q")
        self._known_shapes: list[tuple[_Shape, ...]] = []
        self._shape_numbers: dict[tuple[_Shape, ...], int] = {}

    def append(self, first_item: int, items: int, rows: Mapping[str, Array]) -> None:
        """Takes the outputs of consecutive items, first axis: items. Of an item that comes twice, the later counts."""
        if rows.keys() != {port.name for port in self.outputs}:
            raise ValueError(f"outputs {sorted(rows)}, expected {sorted(port.name for port in self.outputs)}")
        arrays = []
        for port in self.outputs:
            given = rows[port.name]
            dtype = dtype_name(given.dtype)
            if not feeds(dtype, port.dtype) or given.shape[:1] != (items,):
                raise ValueError(f"output {port.name!r}: {dtype}{list(given.shape)} for {items} items of {port}")
            arrays.append(np.require(given, numpy_dtype(dtype), ["C"]))
        offset = self.size_bytes
        self._file.seek(offset)
        for part in arrays:
            self._file.write(part.reshape(-1).view(np.uint8).data)
            offset += part.nbytes
        shapes = tuple((dtype_name(part.dtype), tuple(part.shape[1:])) for part in arrays)
        self._first.append(first_item)
        self._offset.append(self.size_bytes)
        self._count.append(items)
        number = self._shape_numbers.setdefault(shapes, len(self._known_shapes))
        if number == len(self._known_shapes):
            self._known_shapes.append(shapes)
        self._shapes.append(number)
        self.size_bytes = offset
        self.items += items

    def close(self) -> None:
        self._file.close()

    def ordered(self, items: int, failed: Sequence[int]) -> Ordered:
        """All items in order. Items that never came have failed, whether or not they are listed."""
        holder = np.full(items, -1, np.int64)
        for position, (first, count) in enumerate(zip(self._first, self._count, strict=True)):
            holder[first : first + count] = position
        holder[list(failed)] = -1
        return Ordered(self, holder)

    def row(self, block: int, output: int) -> Row:
        return self._known_shapes[self._shapes[block]][output][1]

    def row_bytes(self, block: int, output: int) -> int:
        return _row_bytes(self._known_shapes[self._shapes[block]][output])

    def read(self, block: int, output: int, first_item: int, items: int) -> Array:
        """Some items of one output, all of which lie in this block."""
        shapes = self._known_shapes[self._shapes[block]]
        before = sum(map(_row_bytes, shapes[:output])) * self._count[block]
        row_bytes = _row_bytes(shapes[output])
        self._file.seek(self._offset[block] + before + (first_item - self._first[block]) * row_bytes)
        data = self._file.read(items * row_bytes)
        if len(data) != items * row_bytes:
            raise OSError("the temporary file is shorter than what was written to it")
        dtype, row = shapes[output]
        return np.frombuffer(data, numpy_dtype(dtype)).reshape(items, *row)


def _row_bytes(shape: _Shape) -> int:
    dtype, row = shape
    return math.prod(row) * ITEM_BYTES[dtype]


class Ordered:
    """What a spool holds, item by item in order: the only thing that the writers of formats see."""

    def __init__(self, spool: Spool, holder: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        self._spool = spool
        self.outputs = spool.outputs
        self.items = len(holder)
        self.failed = holder < 0
        """For each item whether it failed."""
        self._starts = np.concatenate([[0], np.flatnonzero(np.diff(holder)) + 1]) if len(holder) else np.zeros(0, int)
        self._stops = np.append(self._starts[1:], len(holder))
        self._blocks = holder[self._starts]

    def shapes(self, output: int) -> Iterator[tuple[int, int, Row]]:
        """(first item, stop, shape of one item) for all that did not fail."""
        for first, stop, block in self._ranges():
            if block >= 0:
                yield first, stop, self._spool.row(block, output)

    def different_shapes(self, output: int) -> list[Row]:
        """The shapes that items of this output have; the first one first."""
        return list(dict.fromkeys(row for _, _, row in self.shapes(output)))

    def stretches(self, output: int) -> Iterator[Stretch]:
        """One output in pieces of about `PIECE_BYTES`, at least one item each."""
        for first, count, block in self._pieces([output]):
            rows = None if block < 0 else self._spool.read(block, output, first, count)
            yield Stretch(first, count, rows)

    def tables(self) -> Iterator[tuple[int, list[Array] | None]]:
        """All outputs side by side: (items, their arrays; None where they failed), in such pieces."""
        every = range(len(self.outputs))
        for first, count, block in self._pieces(every):
            yield count, None if block < 0 else [self._spool.read(block, output, first, count) for output in every]

    def _ranges(self) -> Iterator[tuple[int, int, int]]:
        for first, stop, block in zip(self._starts, self._stops, self._blocks, strict=True):
            yield int(first), int(stop), int(block)

    def _pieces(self, outputs: Sequence[int]) -> Iterator[tuple[int, int, int]]:
        for first, stop, block in self._ranges():
            row_bytes = 1
            if block >= 0:
                row_bytes = sum(self._spool.row_bytes(block, output) for output in outputs)
            step = max(1, PIECE_BYTES // max(row_bytes, 1))
            for start in range(first, stop, step):
                yield start, min(step, stop - start), block
