"""Readers of .jsonl and .parquet: columns named like inputs, whose nested lists give the shape of an item.

Both are held in memory as plain arrays. The numbers of a .jsonl file have no dtype of their own and take the model's;
those of a .parquet file keep theirs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from peerinfer.binding import check_names, quoted
from peerinfer.errors import InputError
from peerinfer.limits import MIB, TENSOR_RANK_MAX
from peerinfer.strings import contents, pack, packed, slot_for
from peerinfer.tensors import ITEM_BYTES, STRING, Port, is_string
from peerinfer_node.formats.columns import Column, MemoryColumn
from peerinfer_node.formats.source import Array, MemoryBudget, SourceFile, reason_of

JSONL_LINE_BYTES_MAX = 64 * MIB
"""One line is one item; as Python objects it takes about eight times its length."""

_STRING_BYTES = 64
"""What Python takes for a string beside its characters."""

_BATCH_BYTES = 16 * MIB
_BATCH_ROWS_MAX = 65536


class _GrowingColumn:
    """Rows of one column as they come in. All must have the shape of the first."""

    def __init__(self, dtype: str, row: tuple[int, ...]) -> None:
        self.dtype = dtype
        self.row = row
        self._rows = 0
        self._data = bytearray()

    def append(self, rows: Array, budget: MemoryBudget, where: str) -> None:
        budget.take(rows.nbytes, where)
        self._data += np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        self._rows += len(rows)

    def column(self, budget: MemoryBudget, where: str) -> Column:
        del budget, where  # it was counted as it came
        return MemoryColumn(np.frombuffer(self._data, self.dtype).reshape(self._rows, *self.row))


class _GrowingStrings:
    """The same for strings, whose width is known when all have come."""

    def __init__(self, row: tuple[int, ...]) -> None:
        self.dtype = STRING
        self.row = row
        self._rows = 0
        self._texts: list[bytes] = []
        self._longest = 0

    def append(self, rows: Array, budget: MemoryBudget, where: str) -> None:
        try:
            texts = contents(packed(rows))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        longest = max(map(len, texts), default=0)
        budget.take(sum(map(len, texts)) + _STRING_BYTES * len(texts), where)
        self._longest = max(self._longest, longest)
        self._texts += texts
        self._rows += len(rows)

    def column(self, budget: MemoryBudget, where: str) -> Column:
        budget.take(slot_for(self._longest) * len(self._texts), where)
        return MemoryColumn(pack(self._texts, (self._rows, *self.row)))


# --- jsonl ---------------------------------------------------------------------------------------------------------


def open_jsonl(file: SourceFile, ports: Sequence[Port], budget: MemoryBudget) -> dict[str, Column]:
    dtypes = {port.name: port.dtype for port in ports}
    columns: dict[str, _GrowingColumn | _GrowingStrings] = {}
    with file.open() as raw:
        lines = _Lines(raw, file.path)
        for where, line in lines:
            row = _parse(line, where)
            if not columns:
                check_names(ports, list(row))
            elif row.keys() != columns.keys():
                odd = sorted(row.keys() ^ columns.keys())[0]
                raise InputError(f"{where}: {quoted(odd)} is not in every line; each line needs the same fields")
            for name, value in row.items():
                read = _strings if is_string(dtypes[name]) else _numbers
                values = read(value, dtypes[name], f"{where}, {quoted(name)}")
                if name not in columns:
                    columns[name] = _growing(dtypes[name], values.shape)
                column = columns[name]
                if values.shape != column.row:
                    raise InputError(
                        f"{where}, {quoted(name)}: the shape is {list(values.shape)} and was {list(column.row)} before; "
                        "all items need the same shape"
                    )
                column.append(values[None], budget, where if is_string(dtypes[name]) else file.path)
    if not columns:
        raise InputError(f"{file.path} holds no lines; write one JSON object per item")
    return {name: column.column(budget, file.path) for name, column in columns.items()}


def _growing(dtype: str, row: tuple[int, ...]) -> _GrowingColumn | _GrowingStrings:
    return _GrowingStrings(row) if is_string(dtype) else _GrowingColumn(dtype, row)


class _Lines:
    """Non-blank lines with their place, for errors. No line is read further than its limit."""

    def __init__(self, raw: Any, path: str) -> None:
        import io

        self._stream = io.BufferedReader(raw, buffer_size=MIB)
        self._path = path

    def __iter__(self) -> Any:
        number = 0
        while True:
            number += 1
            where = f"{self._path}, line {number}"
            try:
                line = self._stream.readline(JSONL_LINE_BYTES_MAX + 1)
            except OSError as error:
                raise InputError(f"{where}: cannot be read: {error.strerror}; check the disk") from None
            if not line:
                return
            if len(line) > JSONL_LINE_BYTES_MAX:
                raise InputError(
                    f"{where}: longer than {JSONL_LINE_BYTES_MAX // MIB} MiB; give one item per line, or .npz"
                )
            if line.strip():
                yield where, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else reason_of(error)
        raise InputError(f"{where}: not JSON ({reason}); write one JSON object per line") from None
    if not isinstance(row, dict) or not row:
        raise InputError(f'{where}: not a JSON object; write lines like {{"input": [1.0, 2.0]}}')
    return row


def _strings(value: Any, dtype: str, where: str) -> Array:
    """A text, or nested lists of texts, as an array of them."""
    del dtype
    try:
        found = np.array(value, object)
    except (ValueError, RecursionError):
        raise InputError(f"{where}: the lists are ragged; give nested lists of equal lengths") from None
    if not all(isinstance(text, str) for text in found.reshape(-1).tolist()):
        raise InputError(f"{where}: holds something that is not a text, or ragged lists; the model takes strings")
    return found


def _numbers(value: Any, dtype: str, where: str) -> Array:
    """A nested list as an array of the model's dtype. Nothing is rounded but floats to the nearest float."""
    try:
        found = np.array(value)
    except (ValueError, RecursionError, OverflowError):
        raise InputError(f"{where}: the lists are ragged or not numbers; give nested lists of equal lengths") from None
    if found.dtype.kind not in "biuf":
        raise InputError(f"{where}: holds something that is not a number (or too large); the model takes {dtype}")
    wanted = np.dtype(dtype)
    if found.size == 0:
        return found.astype(wanted)
    kinds = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}[wanted.kind]
    if found.dtype.kind not in kinds:
        given = {"b": "true and false", "f": "fractions", "i": "integers", "u": "integers"}[found.dtype.kind]
        raise InputError(f"{where}: holds {given}; the model takes {dtype}")
    if wanted.kind in "iu":
        limits = np.iinfo(wanted)
        if int(found.min()) < limits.min or int(found.max()) > limits.max:
            raise InputError(f"{where}: holds numbers beyond {dtype} ({limits.min} to {limits.max})")
        return found.astype(wanted)
    with np.errstate(over="ignore"):
        cast = found.astype(wanted)
    if wanted.kind == "f" and np.any(np.isfinite(found) & ~np.isfinite(cast)):
        raise InputError(f"{where}: holds numbers beyond {dtype}")
    return cast


# --- parquet -------------------------------------------------------------------------------------------------------


def open_parquet(file: SourceFile, ports: Sequence[Port], budget: MemoryBudget) -> dict[str, Column]:
    import pyarrow
    import pyarrow.parquet

    try:
        with file.open() as raw, pyarrow.parquet.ParquetFile(pyarrow.PythonFile(raw, "r")) as table:
            return _parquet(table, file.path, ports, budget)
    except InputError:
        raise
    except Exception as error:  # Arrow's own errors, the system's and Thrift's
        reason = reason_of(error)
        raise InputError(f"{file.path} is not a whole .parquet file ({reason}); save or copy it anew") from None


def _parquet(table: Any, path: str, ports: Sequence[Port], budget: MemoryBudget) -> dict[str, Column]:
    schema = table.schema_arrow
    check_names(ports, schema.names)
    depths: dict[str, tuple[int, str]] = {}
    for field in schema:
        depth, leaf = _leaf(field.type)
        if depth >= TENSOR_RANK_MAX:
            raise InputError(
                f"{path}: column {quoted(field.name)} is nested too deeply; at most {TENSOR_RANK_MAX} axes"
            )
        depths[field.name] = (depth, leaf)
        if leaf not in ITEM_BYTES and leaf != STRING:
            raise InputError(
                f"{path}: column {quoted(field.name)} holds {quoted(str(field.type))}; "
                "give numbers or strings, or lists of them for more axes"
            )
    # The first row tells how many to decode at a time. The metadata of the columns would say it too, but asking a damaged
    # file for them ends the process (std::terminate in Arrow 26), and a forged one lies.
    head = next(iter(table.iter_batches(batch_size=1, use_threads=False)), None)
    if head is None or head.num_rows == 0:
        nothing = {name: _growing(leaf, (0,) * depth) for name, (depth, leaf) in depths.items()}
        return {name: column.column(budget, path) for name, column in nothing.items()}
    batch_rows = max(1, min(_BATCH_ROWS_MAX, _BATCH_BYTES // max(head.nbytes, 1)))
    columns = {name: _growing(leaf, ()) for name, (_, leaf) in depths.items()}
    first = 0
    for batch in table.iter_batches(batch_size=batch_rows, use_threads=False):
        for name, array in zip(schema.names, batch.columns, strict=True):
            dense = _dense(array, path, name, first)
            column = columns[name]
            if first == 0:
                column.row = dense.shape[1:]
            if dense.shape[1:] != column.row:
                raise _ragged(path, name, first)
            rows = dense if is_string(column.dtype) else dense.astype(column.dtype, copy=False)
            column.append(rows, budget, path)
        first += batch.num_rows
    return {name: column.column(budget, path) for name, column in columns.items()}


def _leaf(kind: Any) -> tuple[int, str]:
    """How deep the lists of a column are nested, and the NumPy name of what they hold."""
    import pyarrow

    depth = 0
    while _is_list(kind):
        depth, kind = depth + 1, kind.value_type
    names = {pyarrow.float16(): "float16", pyarrow.float32(): "float32", pyarrow.float64(): "float64"}
    if kind in (pyarrow.string(), pyarrow.large_string(), pyarrow.binary(), pyarrow.large_binary()):
        return depth, STRING
    return depth, names.get(kind, str(kind))


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _dense(array: Any, path: str, name: str, first: int) -> Array:
    """Nested lists as an array. `first` is the number of the first row, for errors."""
    from pyarrow import types

    shape = [len(array)]
    while True:
        per_row = math.prod(shape[1:])
        if array.null_count:
            row = first + int(np.flatnonzero(np.asarray(array.is_null()))[0]) // max(per_row, 1)
            raise InputError(f"{path}: column {quoted(name)} has a null in row {row} (counted from 0); fill or drop it")
        if not _is_list(array.type):
            break
        flat = array.flatten()
        if types.is_fixed_size_list(array.type):
            shape.append(array.type.list_size)
        else:
            lengths = np.asarray(array.value_lengths())
            odd = np.flatnonzero(lengths != lengths[:1])
            if odd.size:
                raise _ragged(path, name, first + int(odd[0]) // max(per_row, 1))
            shape.append(int(lengths[0]) if lengths.size else 0)
        array = flat
    return np.asarray(array.to_numpy(zero_copy_only=False)).reshape(shape)


def _ragged(path: str, name: str, row: int) -> InputError:
    return InputError(
        f"{path}: column {quoted(name)} changes its shape in row {row} (counted from 0); all items need the same shape"
    )
