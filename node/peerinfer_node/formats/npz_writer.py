"""Outputs as .npz. Members are stored as they are, so that they can be read in pieces, and dated 1980: the same outputs
give the same bytes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format

from peerinfer.binding import quoted
from peerinfer.strings import unpacked
from peerinfer.tensors import Port, is_string
from peerinfer_node.formats.source import Array
from peerinfer_node.formats.spool import Ordered

FAILED = "__failed__"
LENGTHS = ".lengths"
"""Behind the name of an output whose strings end in zeros: how many characters each has. NumPy takes zeros at the end for
filling, and its arrays of objects, which keep them, are pickles."""

_FILL_BYTES = 1 << 20


def write_npz(file: BinaryIO, ordered: Ordered) -> list[str]:
    """Writes all items and returns warnings. Raises OSError."""
    warnings = []
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for index, port in enumerate(ordered.outputs):
            shapes = ordered.different_shapes(index)
            dtype = np.dtype(port.dtype).newbyteorder("<") if not is_string(port.dtype) else _text_dtype(ordered, index)
            if is_string(port.dtype) and (cut := _ending_in_zeros(ordered, index)):
                are = "1 string ends" if cut == 1 else f"{cut:,} strings end"
                warnings.append(
                    f"output {quoted(port.name)}: {are} in zeros, which NumPy's strings lose; "
                    f"how long they are stands in {port.name}.lengths"
                )
                _write_lengths(archive, ordered, index, port.name)
            if len(shapes) > 1:
                _write_ragged(archive, ordered, index, port.name, dtype)
                warnings.append(
                    f"output {quoted(port.name)} differs in shape between items: it is written as {port.name}.values, "
                    f"{port.name}.offsets and {port.name}.shapes"
                )
                continue
            # Without a single result, what the model leaves free has no length.
            row = shapes[0] if shapes else tuple(max(dim, 0) for dim in port.shape[1:])
            with _member(archive, port.name, dtype, (ordered.items, *row)) as member:
                for stretch in ordered.stretches(index):
                    if stretch.rows is None:
                        _fill(member, dtype, row, stretch.items)
                    else:
                        _write(member, stretch.rows, dtype)
        if ordered.failed.any():
            _write_array(archive, FAILED, ordered.failed)
    return warnings


def write_item(file: BinaryIO, outputs: Sequence[Port], values: Sequence[Array]) -> None:
    """Writes the outputs of one item. Raises OSError."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for port, value in zip(outputs, values, strict=True):
            if not is_string(port.dtype):
                _write_array(archive, port.name, value)
                continue
            texts = unpacked(value)
            _write_array(archive, port.name, texts.astype(str))
            if any(text.endswith("\0") for text in texts.reshape(-1)):
                _write_array(archive, f"{port.name}{LENGTHS}", _lengths(texts))


def _write_ragged(archive: zipfile.ZipFile, ordered: Ordered, index: int, name: str, dtype: np.dtype[Any]) -> None:
    rank = max(len(row) for row in ordered.different_shapes(index))
    shapes = np.zeros((ordered.items, rank), np.int64)
    sizes = np.zeros(ordered.items, np.int64)
    for first, stop, row in ordered.shapes(index):
        # An item with fewer axes than others has -1 in the place of those it lacks.
        shapes[first:stop] = [*row, *([-1] * (rank - len(row)))]
        sizes[first:stop] = np.prod(row, dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    with _member(archive, f"{name}.values", dtype, (int(offsets[-1]),)) as member:
        for stretch in ordered.stretches(index):
            if stretch.rows is not None:
                _write(member, stretch.rows, dtype)
    _write_array(archive, f"{name}.offsets", offsets)
    _write_array(archive, f"{name}.shapes", shapes)


def _text_dtype(ordered: Ordered, index: int) -> np.dtype[Any]:
    """NumPy's strings, wide enough for the longest of this output."""
    return np.dtype(f"<U{max((len(text) for text in _texts(ordered, index)), default=0) or 1}")


def _ending_in_zeros(ordered: Ordered, index: int) -> int:
    return sum(text.endswith("\0") for text in _texts(ordered, index))


def _write_lengths(archive: zipfile.ZipFile, ordered: Ordered, index: int, name: str) -> None:
    """Of each string; in the form of the output, or one after the other where items differ in shape."""
    shapes = ordered.different_shapes(index)
    found = []
    for stretch in ordered.stretches(index):
        if stretch.rows is not None:
            lengths = _lengths(unpacked(stretch.rows))
            found.append(lengths if len(shapes) == 1 else lengths.reshape(-1))
        elif len(shapes) == 1:
            found.append(np.zeros((stretch.items, *shapes[0]), np.int64))
    _write_array(archive, f"{name}{LENGTHS}", np.concatenate(found))


def _lengths(texts: Array) -> Array:
    return np.array([len(text) for text in texts.reshape(-1)], np.int64).reshape(texts.shape)


def _texts(ordered: Ordered, index: int) -> Iterator[str]:
    for stretch in ordered.stretches(index):
        if stretch.rows is not None:
            yield from unpacked(stretch.rows).reshape(-1)


def _member(archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> IO[bytes]:
    member = archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)
    npy_format.write_array_header_1_0(member, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    return member


def _write_array(archive: zipfile.ZipFile, name: str, values: Array) -> None:
    dtype = values.dtype.newbyteorder("<")
    with _member(archive, name, dtype, values.shape) as member:
        _write(member, values, dtype)


def _write(member: IO[bytes], rows: Array, dtype: np.dtype[Any]) -> None:
    if rows.dtype.kind == "V":
        rows = unpacked(rows).astype(dtype)
    member.write(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)


def _fill(member: IO[bytes], dtype: np.dtype[Any], row: tuple[int, ...], items: int) -> None:
    """The rows of failed items: NaN where there is one, an empty string, else 0."""
    empty: Any = {"f": np.nan, "U": ""}.get(dtype.kind, 0)
    one = np.full(row, empty, dtype).tobytes()
    step = max(1, _FILL_BYTES // max(len(one), 1))
    for start in range(0, items, step):
        member.write(one * min(step, items - start))
