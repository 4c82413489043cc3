"""Outputs as .parquet: one row per item, nested lists for the axes of an output, numbers or strings."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np

from peerinfer.binding import quoted
from peerinfer.errors import InputError
from peerinfer.limits import MIB
from peerinfer.strings import unpacked
from peerinfer.tensors import is_string
from peerinfer_node.formats.source import Array
from peerinfer_node.formats.spool import Ordered

ROW_GROUP_BYTES = 32 * MIB
ROW_GROUP_ITEMS_MAX = 65536


def write_parquet(file: BinaryIO, ordered: Ordered) -> None:
    """Writes all items. Raises OSError, and `InputError` for an output whose number of axes differs between items."""
    import pyarrow
    import pyarrow.parquet

    ranks = []
    for index, port in enumerate(ordered.outputs):
        found = {len(row) for row in ordered.different_shapes(index)} or {max(len(port.shape) - 1, 0)}
        if len(found) > 1:
            raise InputError(
                f"output {quoted(port.name)} differs in its number of axes between items; write .npz or .jsonl"
            )
        ranks.append(found.pop())
    types = [_type(port.dtype, rank) for port, rank in zip(ordered.outputs, ranks, strict=True)]
    schema = pyarrow.schema([pyarrow.field(port.name, kind) for port, kind in zip(ordered.outputs, types, strict=True)])
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        group: list[Any] = []
        group_items = group_bytes = 0
        for items, arrays in ordered.tables():
            if arrays is None:
                columns = [pyarrow.nulls(items, kind) for kind in types]
            else:
                columns = [_nested(values) for values in arrays]
                group_bytes += sum(values.nbytes for values in arrays)
            group.append(pyarrow.RecordBatch.from_arrays(columns, schema=schema))
            group_items += items
            if group_bytes >= ROW_GROUP_BYTES or group_items >= ROW_GROUP_ITEMS_MAX:
                writer.write_table(pyarrow.Table.from_batches(group))
                group, group_items, group_bytes = [], 0, 0
        if group:
            writer.write_table(pyarrow.Table.from_batches(group))


def _type(dtype: str, rank: int) -> Any:
    import pyarrow

    kind = pyarrow.string() if is_string(dtype) else pyarrow.from_numpy_dtype(np.dtype(dtype))
    for _ in range(rank):
        kind = pyarrow.list_(kind)
    return kind


def _nested(values: Array) -> Any:
    """An array as Arrow sees it: lists of lists along every axis but the first."""
    import pyarrow

    if values.dtype.kind == "V":
        found = pyarrow.array(unpacked(values).reshape(-1).tolist(), pyarrow.string())
    else:
        found = pyarrow.array(np.ascontiguousarray(values).reshape(-1))
    for axis in range(values.ndim - 1, 0, -1):
        lists = int(np.prod(values.shape[:axis], dtype=np.int64))
        offsets = np.arange(lists + 1, dtype=np.int64) * values.shape[axis]
        if offsets[-1] >= 1 << 31:
            raise InputError(f"one item of {list(values.shape[1:])} numbers is too large for .parquet; write .npz")
        found = pyarrow.ListArray.from_arrays(offsets.astype(np.int32), found)
    return found
