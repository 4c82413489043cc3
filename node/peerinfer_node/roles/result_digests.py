"""By what the journal names a result: 16 bytes, BLAKE2b over its outputs' names, dtypes, shapes and bytes.

The same for a result that was just answered and for one that was read back. Of frames with a thousand tasks each, all are
taken in one go: cutting every task's arrays out first takes three times as long.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from peerinfer.register import DIGEST_BYTES
from peerinfer.tensors import Buffer, TensorSpec, dtype_name
from peerinfer_node.roles.answers import Answer, Rows, raw_bytes
from peerinfer_node.roles.result_records import OpenRecord


def digests_of(answer: Answer, tasks: Sequence[int]) -> dict[int, bytes]:
    wanted = set(tasks)
    digests: dict[int, bytes] = {}
    start = 0
    for group in answer.groups:
        rows = [(answer.frame.tasks[position], answer.frame.items[position]) for position in group.positions]
        digests |= _digests(group.tensors, rows, answer.body, start, wanted)
        start += sum(spec.size_bytes for spec in group.tensors)
    return digests


def digests_in(record: OpenRecord, tasks: Sequence[int]) -> dict[int, bytes]:
    """Raises `StateUnusable` if the record does not hold one of them."""
    wanted = set(tasks)
    digests: dict[int, bytes] = {}
    for start, group in record.groups():
        digests |= _digests(group.tensors, zip(group.tasks, group.rows, strict=False), record.data, start, wanted)
    for task in wanted - digests.keys():
        record.rows(task)
    return digests


def digest_of_rows(rows: Rows) -> bytes:
    """Of one result, whose outputs are at hand as arrays."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for name, array in rows.items():
        digest.update(_head(name, dtype_name(array.dtype), array.shape))
        digest.update(raw_bytes(array))
    return digest.digest()


def _digests(
    tensors: Sequence[TensorSpec], rows: Iterable[tuple[int, int]], data: Buffer, start: int, wanted: set[int]
) -> dict[int, bytes]:
    """`rows`: each task of the group with its number of rows. The group's tensors lie in `data` from `start` on."""
    body = memoryview(data)
    places = []
    for spec in tensors:
        places.append((start, spec.size_bytes // spec.shape[0]))
        start += spec.size_bytes
    heads: dict[int, tuple[Any, list[bytes]]] = {}
    # By the rows of a task: the hash of the head of the first tensor, to be copied, and the heads of the others.
    digests: dict[int, bytes] = {}
    first = 0
    for task, count in rows:
        if count not in heads:
            begin, *others = [_head(spec.name, spec.dtype, (count, *spec.shape[1:])) for spec in tensors]
            heads[count] = hashlib.blake2b(begin, digest_size=DIGEST_BYTES), [b"", *others]
        if task in wanted:
            begun, tails = heads[count]
            digest = begun.copy()
            for (place, row_bytes), head in zip(places, tails, strict=True):
                if head:
                    digest.update(head)
                digest.update(body[place + first * row_bytes : place + (first + count) * row_bytes])
            digests[task] = digest.digest()
        first += count
    return digests


def _head(name: str, dtype: str, shape: Sequence[int]) -> bytes:
    return f"{name}\0{dtype}{list(shape)}".encode()
