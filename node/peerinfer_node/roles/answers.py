"""Results of a frame as the coordinator takes them: checked against what was asked, then cut by task."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peerinfer.envelope import unseal
from peerinfer.errors import DecodeError, ProtocolError
from peerinfer.fault_proofs import commitment
from peerinfer.ids import PeerId
from peerinfer.limits import CLOCK_SKEW_MAX_S, TASK_TIMEOUT_MAX_S
from peerinfer.messages import Execution, Frame, OutputGroup, Receipt, Results
from peerinfer.strings import problem_of
from peerinfer.tensors import FREE, Port, feeds, is_string, numpy_dtype

Rows = dict[str, NDArray[Any]]
"""Outputs by name; the first axis is the items of one task, or of several."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Checked results of one frame."""

    peer: PeerId
    frame: Frame
    groups: tuple[OutputGroup, ...]
    body: bytes
    receipt: bytes
    energy_j: float = 0.0
    """As the receipt says."""
    device_class: tuple[str, str] = ("", "")
    """Kind and provider of the device, as it says too."""
    executions: tuple[Execution, ...] = ()
    """In which batches an online frame ran, as the worker says."""
    _places: dict[int, tuple[int, int, int, int]] = field(default_factory=dict, compare=False, repr=False)
    """Where each task's outputs are, once somebody has asked."""

    def rows(self, task: int) -> Rows:
        """The outputs of one task that the frame answered. Raises KeyError if it did not."""
        if not self._places:
            self._places.update(self._found())
        number, start, first, items = self._places[task]
        return cut(self.groups[number].tensors, self.body, start, first, items)

    def _found(self) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
        """Each answered task, with the number and the start of its group, its first row there and its rows."""
        start = 0
        for number, group in enumerate(self.groups):
            first = 0
            for position in group.positions:
                items = self.frame.items[position]
                yield self.frame.tasks[position], (number, start, first, items)
                first += items
            start += sum(spec.size_bytes for spec in group.tensors)


def raw_bytes(array: NDArray[Any]) -> memoryview:
    """The bytes of an array, row-major, without a copy where it lies so already."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def cut(tensors: Sequence[Any], body: bytes | memoryview, start: int, first: int, items: int) -> Rows:
    """Rows `first` to `first + items` of a group whose tensors lie in `body` from `start` on. Views, not copies."""
    rows: Rows = {}
    for spec in tensors:
        dtype = numpy_dtype(spec.dtype)
        array = np.frombuffer(body, dtype, spec.size_bytes // dtype.itemsize, start).reshape(spec.shape)
        rows[spec.name] = array[first : first + items]
        start += spec.size_bytes
    return rows


def check_results(
    peer: PeerId,
    frame: Frame,
    results: Results,
    body: bytes,
    outputs: Mapping[str, Port],
    *,
    wall_s: float,
    has_receipt: bool = True,
    inputs_digest: bytes | None = None,
) -> Answer:
    """Raises `ProtocolError` unless every task is answered once, with the outputs that the model gives and a receipt.

    `inputs_digest`: what the receipt must commit to beside the outputs; None where that is not asked for.
    """
    wrong = f"the results of frame {frame.frame} from {peer}"
    positions = [position for group in results.groups for position in group.positions]
    positions += [failure.position for failure in results.failures]
    if len(positions) != len(frame.tasks) or set(positions) != set(range(len(frame.tasks))):
        raise ProtocolError(f"{wrong} do not answer every task once")
    if sum(spec.size_bytes for group in results.groups for spec in group.tensors) != len(body):
        raise ProtocolError(f"{wrong} claim other sizes than they have")
    for group in results.groups:
        if not group.positions:
            raise ProtocolError(f"{wrong} hold outputs of no task")
        items = sum(frame.items[position] for position in group.positions)
        if sorted(spec.name for spec in group.tensors) != sorted(outputs):
            raise ProtocolError(f"{wrong} hold other outputs than were asked for")
        for spec in group.tensors:
            port = outputs[spec.name]
            if not feeds(spec.dtype, port.dtype) or not spec.shape or spec.shape[0] != items:
                raise ProtocolError(f"{wrong} hold {spec.name} as {spec.dtype}{list(spec.shape)} for {items} items")
            if not fits(spec.shape[1:], port.shape):
                raise ProtocolError(f"{wrong} hold {spec.name} of shape {list(spec.shape)}, the model gives {port}")
    if any(is_string(port.dtype) for port in outputs.values()):
        _check_strings(results.groups, body, wrong)
    if not has_receipt:
        return Answer(peer, frame, results.groups, body, results.receipt, executions=_executions(frame, results))
    receipt = _check_receipt(peer, frame, results, body, wall_s, wrong)
    if inputs_digest is not None and receipt.work != commitment(
        frame.items, frame.tensors, inputs_digest, results.groups
    ):
        raise ProtocolError(f"{wrong} have a receipt that does not say what was computed")
    device_class = (receipt.kind, receipt.provider)
    return Answer(peer, frame, results.groups, body, results.receipt, receipt.energy_j, device_class)


def _executions(frame: Frame, results: Results) -> tuple[Execution, ...]:
    """Nothing that no worker can have done: each row may have been tried anew in ever smaller batches, not more, and no
    task may take longer than a day."""
    rows = sum(frame.items)
    tries = 1 + max(rows, len(frame.items)).bit_length()
    whole = sum(max(execution.rows, 1) * execution.runs for execution in results.executions)
    times_s = [each.compute_s for each in results.executions]
    is_likely = all(compute_s >= 0 for compute_s in times_s) and sum(times_s) <= TASK_TIMEOUT_MAX_S * len(frame.items)
    if whole > tries * max(rows, len(frame.items)) or not is_likely:
        return ()
    return results.executions


def _check_strings(groups: Sequence[OutputGroup], body: bytes, wrong: str) -> None:
    start = 0
    for group in groups:
        rows = group.tensors[0].shape[0] if group.tensors else 0
        for name, array in cut(group.tensors, body, start, 0, rows).items():
            if array.dtype.kind == "V" and (problem := problem_of(array)):
                raise ProtocolError(f"{wrong} hold {name}, in which {problem}")
        start += sum(spec.size_bytes for spec in group.tensors)


def _check_receipt(peer: PeerId, frame: Frame, results: Results, body: bytes, wall_s: float, wrong: str) -> Receipt:
    try:
        _, receipt = unseal(Receipt, results.receipt, signer=peer)
    except DecodeError as error:
        raise ProtocolError(f"{wrong} have no valid receipt: {error}") from None
    named = (receipt.job, receipt.term, receipt.frame, receipt.tasks, receipt.attempts)
    if named != (frame.job, frame.term, frame.frame, frame.tasks, frame.attempts):
        raise ProtocolError(f"{wrong} have a receipt for something else")
    if receipt.outputs_digest != hashlib.sha256(body).digest():
        raise ProtocolError(f"{wrong} have a receipt for other outputs")
    if receipt.at_s > wall_s + CLOCK_SKEW_MAX_S:
        raise ProtocolError(f"{wrong} have a receipt from the future; is that node's clock right?")
    if receipt.compute_s < 0 or receipt.energy_j < 0:
        raise ProtocolError(f"{wrong} have a receipt for less than nothing")
    return receipt


def fits(item_shape: tuple[int, ...], port: tuple[int, ...]) -> bool:
    """True if items of this shape can come from an output of this shape, with or without its first axis."""

    def agrees(dims: tuple[int, ...]) -> bool:
        return len(dims) == len(item_shape) and all(
            want in (FREE, have) for want, have in zip(dims, item_shape, strict=True)
        )

    return agrees(port[1:]) or agrees(port) or not port
