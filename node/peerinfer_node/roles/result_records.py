"""Answers as they lie in a job's spool, and back."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from peerinfer.binding import bind
from peerinfer.codec import decode_as, encode
from peerinfer.errors import DecodeError, ProtocolError, StateUnusable
from peerinfer.ids import JobId, PeerId
from peerinfer.messages import Manifest, RecordGroup, ResultRecord
from peerinfer.splitting import Split
from peerinfer_node.ports import Buffer, ResultRow
from peerinfer_node.roles.answers import Answer, Rows, cut, fits

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


def check_record(manifest: Manifest, record: OpenRecord) -> None:
    """Raises `ProtocolError` unless another node's record holds outputs of this job's tasks, as the model gives them."""
    split = Split(manifest.items, manifest.items_per_task)
    binding = bind(manifest.inputs, manifest.given)
    outputs = {port.name: port for port in manifest.outputs}
    for group in record.header.groups:
        if not group.tasks or len(set(group.tasks)) != len(group.tasks) or max(group.tasks) >= manifest.tasks:
            raise ProtocolError("a record names a task twice, or one that the job has not")
        if group.rows != tuple(binding.frame_rows(split.items_of(task)) for task in group.tasks):
            raise ProtocolError("a record holds other items than its tasks have")
        if sorted(spec.name for spec in group.tensors) != sorted(outputs):
            raise ProtocolError("a record holds other outputs than the job has")
        for spec in group.tensors:
            port = outputs[spec.name]
            has_rows = bool(spec.shape) and spec.shape[0] == sum(group.rows)
            if spec.dtype != port.dtype or not has_rows or not fits(spec.shape[1:], port.shape):
                raise ProtocolError(f"a record holds {spec.name} as {spec.dtype}{list(spec.shape)}")
