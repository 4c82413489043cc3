"""Answers as they lie in a job's spool, and back."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from peerinfer.binding import bind
from peerinfer.codec import decode_as, encode
from peerinfer.envelope import unseal
from peerinfer.errors import DecodeError, ProtocolError, StateUnusable
from peerinfer.ids import PeerId
from peerinfer.messages import Manifest, Receipt, RecordGroup, ResultRecord
from peerinfer.splitting import Split
from peerinfer.strings import problem_of
from peerinfer.tensors import Buffer, feeds, is_string
from peerinfer_node.roles.answers import Answer, Rows, cut, fits, raw_bytes

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
    return _parts(ResultRecord(answer.peer, frame.frame, groups, answer.receipt), [answer.body])


def _parts(header: ResultRecord, body: Sequence[Buffer]) -> list[Buffer]:
    encoded = encode(header)
    return [_HEADER_LENGTH.pack(len(encoded)), encoded, *body]


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
        self._places: dict[int, tuple[int, int, int]] = {}
        """Task → number of its group, its first row in there, its rows."""
        start = self._outputs_start = 4 + length
        for number, group in enumerate(self.header.groups):
            self._starts.append(start)
            start += sum(spec.size_bytes for spec in group.tensors)
            first = 0
            for task, rows in zip(group.tasks, group.rows, strict=False):
                self._places[task] = (number, first, rows)
                first += rows
        if start != len(data):
            raise StateUnusable(f"a stored result has {len(data)} bytes, its header says {start}")

    @property
    def peer(self) -> PeerId:
        return PeerId(self.header.peer)

    @property
    def tasks(self) -> tuple[int, ...]:
        """In the order in which their outputs lie."""
        return tuple(self._places)

    @property
    def data(self) -> bytes:
        return self._data

    def groups(self) -> Iterator[tuple[int, RecordGroup]]:
        """Each with the place in `data` at which its tensors begin."""
        yield from zip(self._starts, self.header.groups, strict=True)

    @property
    def outputs(self) -> bytes:
        """All tensors, as they were answered."""
        return self._data[self._outputs_start :]

    def rows(self, task: int) -> Rows:
        """The outputs of one task. Raises `StateUnusable` if it has none here."""
        if task not in self._places:
            raise StateUnusable(f"a stored result of task {task} lies elsewhere than was noted; run the job again")
        number, first, count = self._places[task]
        group = self.header.groups[number]
        return cut(group.tensors, self._data, self._starts[number], first, count)

    def renamed(self, names: Mapping[int, int]) -> list[Buffer]:
        """The parts of a record that holds the outputs of the tasks in `names` under their new numbers, and no others."""
        groups: list[RecordGroup] = []
        body: list[Buffer] = []
        for group in self.header.groups:
            kept = [(task, rows) for task, rows in zip(group.tasks, group.rows, strict=True) if task in names]
            if not kept:
                continue
            outputs = [self.rows(task) for task, _ in kept]
            specs = []
            for spec in group.tensors:
                specs.append(replace(spec, shape=(sum(rows for _, rows in kept), *spec.shape[1:])))
                body += [raw_bytes(output[spec.name]) for output in outputs]
            groups.append(
                RecordGroup(tuple(names[task] for task, _ in kept), tuple(rows for _, rows in kept), tuple(specs))
            )
        header = self.header
        return _parts(ResultRecord(header.peer, header.frame, tuple(groups), header.receipt), body)


def is_receipt_of(record: ResultRecord) -> bool:
    """Whether a record that somebody passed on carries the receipt of the peer that it names, for its frame."""
    try:
        _, receipt = unseal(Receipt, record.receipt, signer=PeerId(record.peer))
    except DecodeError:
        return False
    return receipt.frame == record.frame


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
            if not feeds(spec.dtype, port.dtype) or not has_rows or not fits(spec.shape[1:], port.shape):
                raise ProtocolError(f"a record holds {spec.name} as {spec.dtype}{list(spec.shape)}")
        if any(is_string(spec.dtype) for spec in group.tensors):
            for name, array in (pair for task in group.tasks for pair in record.rows(task).items()):
                if array.dtype.kind == "V" and (problem := problem_of(array)):
                    raise ProtocolError(f"a record holds {name}, in which {problem}")
