"""Answers as they lie in a job's spool, and back."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from peerinfer.codec import decode_as, encode
from peerinfer.errors import DecodeError, StateUnusable
from peerinfer.ids import JobId, PeerId
from peerinfer.messages import RecordGroup, ResultRecord
from peerinfer_node.ports import Buffer, ResultRow
from peerinfer_node.roles.answers import Answer, Rows, cut

_HEADER_LENGTH = struct.Struct("<I")


def record_of(answer: Answer) -> list[Buffer]:
    """The record's parts: length of the header, header, tensors."""
    frame = answer.frame
    groups = tuple(
        RecordGroup(
            tuple(frame.tasks[position] for position in group.positions),
            tuple(frame.items[position] for position in group.positions),
            group.tensors,
        )
        for group in answer.groups
    )
    header = encode(ResultRecord(answer.peer, frame.frame, groups))
    return [_HEADER_LENGTH.pack(len(header)), header, answer.body]


def rows_of(
    job: JobId, answer: Answer, tasks: Sequence[int], keys: Mapping[int, bytes], offset: int
) -> list[ResultRow]:
    """Where each of these tasks stands in the record of `answer` at `offset`."""
    wanted = set(tasks)
    rows = []
    for number, group in enumerate(answer.groups):
        first = 0
        for position in group.positions:
            task, count = answer.frame.tasks[position], answer.frame.items[position]
            if task in wanted:
                rows.append(ResultRow(keys[task], job, task, offset, number, first, count))
            first += count
    return rows


class OpenRecord:
    """One record read back. Raises `StateUnusable` if it is not what was written."""

    def __init__(self, data: bytes) -> None:
        try:
            (length,) = _HEADER_LENGTH.unpack_from(data)
            self.header = decode_as(ResultRecord, memoryview(data)[4 : 4 + length])
        except (struct.error, DecodeError) as error:
            raise StateUnusable(f"a stored result cannot be read: {error}") from None
        self._data = data
        self._starts = []
        start = 4 + length
        for group in self.header.groups:
            self._starts.append(start)
            start += sum(spec.size_bytes for spec in group.tensors)
        if start != len(data):
            raise StateUnusable(f"a stored result has {len(data)} bytes, its header says {start}")

    @property
    def peer(self) -> PeerId:
        return PeerId(self.header.peer)

    def rows(self, row: ResultRow) -> Rows:
        """The outputs that `row` names."""
        group = self.header.groups[row.group]
        return cut(group.tensors, self._data, self._starts[row.group], row.first_item, row.items)
