"""Tasks to runs of a model and back: joins what may be joined, splits the outputs, and keeps a bad task to itself.

Nothing here knows ONNX Runtime: a model is a function from named arrays to arrays.

Joined tasks (`merge`) run in batches of the size that was measured as the best for this model on this device
(`peerinfer.batch_size`). Where the joined run fails, or does not give one row per item, every task runs alone, so that
one bad task fails alone; where it runs out of memory, fewer rows are joined. Stacked items run one by one.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from peerinfer.batch_size import BatchSize
from peerinfer.errors import InputError
from peerinfer.limits import GIB
from peerinfer.messages import OutputGroup, TaskFailure
from peerinfer.strings import pack, problem_of, slot_for, unpacked
from peerinfer.tensors import ITEM_BYTES, STRING, TensorSpec, is_string, numpy_dtype
from peerinfer.units import format_count
from peerinfer_node.inference.pipe import TASK_REASON_CHARS_MAX, shortened

OUTPUT_BYTES_MAX = 1 * GIB
"""Of one batch. Tasks past it fail; the daemon would have to hold their outputs in memory."""

Array = npt.NDArray[Any]
Feeds = dict[str, Array]
RunModel = Callable[[Feeds], list[Array]]
"""Runs the model once. Raises `RunFailed` or `RunStopped`."""

Outputs = tuple[tuple[Array, ...], ...]
"""For each output of the model its rows, in pieces. Strings are Python's here, as ONNX Runtime takes and gives them."""


class RunFailed(Exception):
    """The model did not get through these inputs. `kind` is one of `messages.FAILURE_KINDS`."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = shortened(reason, TASK_REASON_CHARS_MAX)


class RunStopped(Exception):
    """The daemon asked to stop; nobody waits for a result."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What has to be known of a model to cut its inputs and join its outputs."""

    input_ranks: dict[str, int]
    outputs: tuple[str, ...]
    """Names of the outputs that the run gives, in order."""
    has_item_axis: tuple[bool, ...]
    """For each output: its first axis is that of the items (fixed to 1, or free like an input's first axis)."""


@dataclass(frozen=True, slots=True)
class Answer:
    groups: tuple[OutputGroup, ...]
    body: list[Array]
    failures: tuple[TaskFailure, ...]


def run_batch(
    items: Sequence[int],
    tensors: Sequence[TensorSpec],
    body: memoryview,
    merge: bool,
    signature: Signature,
    run: RunModel,
    size: BatchSize,
) -> Answer:
    """Runs a batch as `ports.Batch` describes it. `body` must have exactly the bytes that `tensors` name.

    `size` says how many rows to join, and learns from every run.
    """
    try:
        feeds = _feeds(tensors, body)
    except RunFailed as failure:
        failures = [TaskFailure(position, failure.kind, failure.reason) for position in range(len(items))]
        return Answer((), [], tuple(failures))
    shared = {name: array for name, array in feeds.items() if array.ndim == 0}
    rows = {name: array for name, array in feeds.items() if array.ndim > 0}
    tasks = _Joined(rows, shared, signature, run, size) if merge else _Stacked(rows, shared, signature, run)
    if isinstance(tasks, _Joined) and len(items) > 1:
        with contextlib.suppress(RunFailed):  # Which of the tasks is to blame shows when each runs alone.
            outputs = tasks.rows(0, sum(items))
            if outputs is not None:
                return _grouped({tuple(range(len(items))): outputs}, [], signature)
    return _alone(items, tasks, signature)


def _alone(items: Sequence[int], tasks: _Joined | _Stacked, signature: Signature) -> Answer:
    done: dict[tuple[int, ...], Outputs] = {}
    failures: list[TaskFailure] = []
    start = 0
    for position, count in enumerate(items):
        try:
            done[(position,)] = tasks.task(start, start + count)
        except RunFailed as failure:
            failures.append(TaskFailure(position, failure.kind, failure.reason))
        start += count
    return _grouped(done, failures, signature)


class _Joined:
    """Tasks whose rows may run together."""

    def __init__(self, rows: Feeds, shared: Feeds, signature: Signature, run: RunModel, size: BatchSize) -> None:
        self._rows = rows
        self._shared = shared
        self._signature = signature
        self._run = run
        self._size = size
        self._row_bytes = sum(array.itemsize * math.prod(array.shape[1:]) for array in rows.values())

    def rows(self, start: int, stop: int) -> Outputs | None:
        """The outputs of these rows, or None if they are not one row each. Raises `RunFailed`.

        A run of a small model takes 40 µs, so what is done for each run here is felt.
        """
        runs: list[list[Array]] = []
        first = start
        while first < stop or not runs:
            last = first + min(self._size.rows(self._row_bytes, stop - first), stop - first)
            started = time.perf_counter()
            try:
                outputs = self._run_rows(first, last)
            except RunFailed as failure:
                if failure.kind != "memory" or last - first < 2:
                    raise
                self._size.did_not_fit(self._row_bytes, last - first)
                continue
            taken_s = time.perf_counter() - started
            for output, other in zip(outputs, runs[0] if runs else outputs, strict=True):
                shape = output.shape
                if not shape or shape[0] != last - first or shape[1:] != other.shape[1:]:
                    return None
            if last > first:
                self._size.ran(self._row_bytes, last - first, taken_s)
            runs.append(outputs)
            first = max(last, first + 1)
        return tuple(zip(*runs, strict=True))

    def task(self, start: int, stop: int) -> Outputs:
        """The outputs of one task, in one run if smaller ones do not fit together. Raises `RunFailed`."""
        outputs = self.rows(start, stop)
        if outputs is not None:
            return outputs
        whole = self._run_rows(start, stop)
        for name, output in zip(self._signature.outputs, whole, strict=True):
            if output.ndim == 0 or output.shape[0] != stop - start:
                shape = f"the shape {list(output.shape)} for {format_count(stop - start, 'item')}"
                advice = "run each by itself: give inputs with an axis more, array[:, None]"
                raise RunFailed("model", f"output {name!r} has {shape}, so its rows are no items; {advice}")
        return tuple((output,) for output in whole)

    def _run_rows(self, first: int, last: int) -> list[Array]:
        feeds = {name: array[first:last] for name, array in self._rows.items()}
        feeds.update(self._shared)
        return self._run(feeds)


class _Stacked:
    """Tasks whose items are whole inputs, stacked along a first axis that the model may not have."""

    def __init__(self, stacked: Feeds, shared: Feeds, signature: Signature, run: RunModel) -> None:
        self._stacked = stacked
        self._shared = shared
        self._signature = signature
        self._run = run
        self._keeps_axis = {name for name, array in stacked.items() if signature.input_ranks.get(name) == array.ndim}

    def task(self, start: int, stop: int) -> Outputs:
        """The outputs of one task, its items along a new first axis or along the model's own. Raises `RunFailed`."""
        runs = [self._item(item) for item in range(start, stop)]
        if not runs:
            raise RunFailed("model", "a task without items has no outputs unless it may be joined with others")
        outputs: list[tuple[Array, ...]] = []
        for name, pieces in zip(self._signature.outputs, zip(*runs, strict=True), strict=True):
            if any(piece.shape != pieces[0].shape for piece in pieces):
                raise RunFailed("model", f"output {name!r} differs in shape between items: send one item per task")
            outputs.append(pieces)
        return tuple(outputs)

    def _item(self, item: int) -> list[Array]:
        feeds = {
            name: array[item : item + 1] if name in self._keeps_axis else array[item, ...]
            for name, array in self._stacked.items()
        }
        outputs = self._run(feeds | self._shared)
        return [
            output if self._keeps_axis and has_axis and output.ndim and output.shape[0] == 1 else output[np.newaxis]
            for output, has_axis in zip(outputs, self._signature.has_item_axis, strict=True)
        ]


def _feeds(tensors: Sequence[TensorSpec], body: memoryview) -> Feeds:
    feeds: Feeds = {}
    offset = 0
    for spec in tensors:
        part = body[offset : offset + spec.size_bytes]
        if spec.dtype == "bool":
            array: Array = np.frombuffer(part, np.uint8) != 0  # another byte than 0 and 1 is undefined behaviour
        elif is_string(spec.dtype):
            slots = np.frombuffer(part, numpy_dtype(spec.dtype))
            if problem := problem_of(slots):
                raise RunFailed("model", f"input {spec.name!r}: {problem}")
            array = unpacked(slots)
        else:
            dtype = numpy_dtype(spec.dtype)
            array = np.frombuffer(part if offset % dtype.itemsize == 0 else bytes(part), dtype)
        feeds[spec.name] = array.reshape(spec.shape)
        offset += spec.size_bytes
    return feeds


class _Packing:
    """One output of some tasks as it travels: numbers as they are, strings in slots that the longest of them fits into."""

    def __init__(self, pieces: Sequence[Array]) -> None:
        """Raises `InputError` for a string that is too long to travel."""
        self.pieces = pieces
        self.dtype = pieces[0].dtype.name
        self.size_bytes = sum(piece.nbytes for piece in pieces)
        self._strings: list[list[bytes]] = []
        if pieces[0].dtype.kind == "O":
            self._strings = [[text.encode() for text in piece.reshape(-1).tolist()] for piece in pieces]
            self._slot = slot_for(max((len(text) for texts in self._strings for text in texts), default=0))
            self.dtype = f"{STRING}{self._slot}"
            self.size_bytes = self._slot * sum(piece.size for piece in pieces)

    def arrays(self) -> list[Array]:
        if self._strings:
            return [pack(texts, p.shape, slot=self._slot) for texts, p in zip(self._strings, self.pieces, strict=True)]
        return [np.ascontiguousarray(piece) for piece in self.pieces]


def _grouped(done: dict[tuple[int, ...], Outputs], failures: list[TaskFailure], signature: Signature) -> Answer:
    """Puts tasks with equal outputs (but for the rows) into one group each."""
    alike: dict[tuple[Any, ...], list[tuple[tuple[int, ...], tuple[_Packing, ...]]]] = {}
    total_bytes = 0
    for positions, outputs in done.items():
        try:
            found = tuple(_Packing(pieces) for pieces in outputs)
        except (InputError, UnicodeError) as error:
            failures.extend(TaskFailure(position, "model", f"an output has {error}") for position in positions)
            continue
        size_bytes = sum(packing.size_bytes for packing in found)
        if total_bytes + size_bytes > OUTPUT_BYTES_MAX:
            reason = f"the outputs of this batch pass the limit of {OUTPUT_BYTES_MAX} bytes: send fewer items"
            failures.extend(TaskFailure(position, "memory", reason) for position in positions)
            continue
        total_bytes += size_bytes
        key = tuple((packing.dtype, packing.pieces[0].shape[1:]) for packing in found)
        alike.setdefault(key, []).append((positions, found))
    groups: list[OutputGroup] = []
    body: list[Array] = []
    for key, members in alike.items():
        specs: list[TensorSpec] = []
        for number, (name, (dtype, trailing)) in enumerate(zip(signature.outputs, key, strict=True)):
            pieces = [piece for _, packings in members for piece in packings[number].arrays()]
            if dtype not in ITEM_BYTES:
                raise AssertionError(f"{name}: {dtype} passed the check at load")
            specs.append(TensorSpec(name, dtype, (sum(map(len, pieces)), *trailing)))
            body += pieces
        positions = tuple(chain.from_iterable(group for group, _ in members))
        groups.append(OutputGroup(positions, tuple(specs)))
    return Answer(tuple(groups), body, tuple(failures))
