"""How given arrays fit a model. Decided by names, dtypes and shapes alone, before anything is read or sent.

The first axis of a given array counts items. An array of the model's own rank is *batched*: its rows are items, and
where the model's first dimension is free, rows of many tasks may be merged into one batch. An array with one axis more
is *stacked*: its first axis enumerates whole inputs, each of which runs by itself. A scalar of the model may be given
once and is *shared* by all items.

A fixed first dimension B of a batched input means that the model runs B items at a time: then `block` is B, and a frame
carries the rows as [runs, B, …]. Every refusal is one line that names the input, what was expected and what was given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy.typing as npt

from peerinfer.errors import InputError
from peerinfer.limits import NAME_CHARS_MAX, TENSOR_RANK_MAX, TENSORS_MAX
from peerinfer.tensors import CARRIED, ITEM_BYTES, STRING, Port, TensorSpec, feeds, is_string

Mode = Literal["batched", "stacked", "shared"]

WILDCARD = ""
"""The name of an array whose file gives it none: it binds to the only input of a model."""

_NAMES_SHOWN_MAX = 8
_NAME_SHOWN_CHARS_MAX = 60


@dataclass(frozen=True, slots=True)
class BoundInput:
    """One input of the model with the array that feeds it."""

    name: str
    dtype: str
    mode: Mode
    row: tuple[int, ...]
    """Shape of one item: the given array's without its first axis. Empty for a shared scalar."""


@dataclass(frozen=True, slots=True)
class Binding:
    """How the given arrays feed the model. Tasks are ranges of items that start and stop at multiples of `block`."""

    items: int
    """Rows along the first axis of the given arrays."""
    merge: bool
    """True if the rows of several tasks may be joined along the first axis into one batch."""
    block: int
    """Items that one run of the model takes; 1 where tasks merge and where whole inputs are stacked."""
    inputs: tuple[BoundInput, ...]
    """In the model's order."""

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """The whole arrays, in the model's order and under its names."""
        return tuple(
            TensorSpec(given.name, given.dtype, () if given.mode == "shared" else (self.items, *given.row))
            for given in self.inputs
        )

    @property
    def item_bytes(self) -> int:
        """Bytes of one item over all inputs, shared scalars left out."""
        return sum(math.prod(given.row) * ITEM_BYTES[given.dtype] for given in self.inputs if given.mode != "shared")

    def frame_rows(self, items: int) -> int:
        """The length of the first axis of a frame that carries `items` items: its items, or its runs of `block`."""
        if items % self.block:
            raise ValueError(f"{items} items are not whole runs of {self.block}")
        return items // self.block

    def frame_specs(self, items: int) -> tuple[TensorSpec, ...]:
        """What a frame of `items` items carries, in the model's order.

        Rows of the given arrays fit by a reshape that moves nothing. With `merge` the first axis is the batch; without,
        every element along it is a whole input of the model, its leading axis kept.
        """
        rows = self.frame_rows(items)
        specs = []
        for given in self.inputs:
            shape: tuple[int, ...]
            if given.mode == "shared":
                shape = ()
            elif given.mode == "stacked" or self.merge:
                shape = (rows, *given.row)
            else:
                shape = (rows, self.block, *given.row)
            specs.append(TensorSpec(given.name, given.dtype, shape))
        return tuple(specs)

    def per_item(self, output: Port, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Outputs of a frame ([frame_rows, …]) with one row per item ([items, …]).

        Only a model that runs a fixed number of items at a time needs this. An output whose first dimension is that
        number is cut into items; any other belongs to the run as a whole, and every item of the run gets it.
        """
        if self.merge or all(given.mode != "batched" for given in self.inputs):
            return values
        fixed = output.shape[:1] == (self.block,)
        # A free dimension of a fixed batch is nearly always a shape that the exporter lost. With a block of one it
        # may as well count what was found in the item, and must then not vary with the data.
        lost = self.block > 1 and output.shape[:1] != () and output.shape[0] < 0
        if (fixed or lost) and values.shape[1:2] == (self.block,):
            return values.reshape(values.shape[0] * self.block, *values.shape[2:])
        return values.repeat(self.block, axis=0) if self.block > 1 else values


def bind(inputs: Sequence[Port], given: Sequence[TensorSpec]) -> Binding:
    """Fits whole arrays (first axis: items) to a model's inputs. Raises `InputError`, one line, if they do not fit."""
    check_inputs(inputs)
    check_names(inputs, [spec.name for spec in given])
    by_name = {spec.name: spec for spec in given}
    pairs = [(port, by_name[port.name] if port.name in by_name else given[0]) for port in inputs]
    modes = [_mode(port, spec) for port, spec in pairs]
    items = _items(pairs, modes)
    block, merge = _block(pairs, modes, items)
    bound = tuple(
        BoundInput(port.name, spec.dtype, mode, tuple(spec.shape[1:]))
        for (port, spec), mode in zip(pairs, modes, strict=True)
    )
    binding = Binding(items=items, merge=merge, block=block, inputs=bound)
    for (port, spec), frame in zip(pairs, binding.frame_specs(block), strict=True):
        if len(frame.shape) > TENSOR_RANK_MAX:
            raise _misfit(port, spec, f"peerinfer carries at most {TENSOR_RANK_MAX} axes")
    return binding


def check_inputs(inputs: Sequence[Port]) -> None:
    """Raises `InputError` if an input of the model cannot be carried (sequences, bfloat16…)."""
    for port in inputs:
        _check_carried("input", "takes", port)
    if not inputs:
        raise InputError("the model takes no inputs, so there is nothing to run it on")
    if len(inputs) > TENSORS_MAX:
        raise InputError(f"the model takes {len(inputs)} inputs; peerinfer carries at most {TENSORS_MAX}")


def check_names(inputs: Sequence[Port], given: Sequence[str]) -> None:
    """Raises `InputError` if the names given are not the model's, each once. A lone unnamed array fits a lone input."""
    if len(inputs) == 1 and list(given) == [WILDCARD]:
        return
    wanted = [port.name for port in inputs]
    missing = [name for name in wanted if name not in given]
    extra = [name for name in given if name not in wanted]
    twice = [name for name in wanted if given.count(name) > 1] if len(given) > len(wanted) else []
    takes = f"the model takes {_ports(inputs)}"
    if given and all(name == WILDCARD for name in given):
        raise InputError(f"the array given has no name, and {takes}; give one .npz with arrays of these names")
    if missing and extra:
        raise InputError(f"missing inputs: {_names(missing)}; {takes}, given {_names(given)}; rename the arrays")
    if missing:
        raise InputError(f"missing inputs: {_names(missing)}; {takes}, given {_names(given) or 'nothing'}")
    if extra:
        raise InputError(f"extra inputs: {_names(extra)}; {takes}; leave the others out")
    if twice:
        raise InputError(f"inputs given twice: {_names(twice)}; give each once")


def check_outputs(outputs: Sequence[Port]) -> None:
    """Raises `InputError` if an output of the model cannot be carried (sequences, bfloat16…)."""
    for port in outputs:
        _check_carried("output", "gives", port)
    if not outputs:
        raise InputError("the model gives no outputs")
    if len(outputs) > TENSORS_MAX:
        raise InputError(f"the model gives {len(outputs)} outputs; peerinfer carries at most {TENSORS_MAX}")


def shape_text(dtype: str, shape: Sequence[int]) -> str:
    """As people write it: float32[?, 3, 224, 224]. The width of strings is nobody's business."""
    shown = STRING if is_string(dtype) else dtype
    return f"{shown}[{', '.join('?' if dim < 0 else str(dim) for dim in shape)}]"


def quoted(name: str) -> str:
    """A name fit for an error of one line, whatever characters it has and however long it is."""
    shown = repr(name)
    return shown if len(shown) <= _NAME_SHOWN_CHARS_MAX else f"{shown[: _NAME_SHOWN_CHARS_MAX - 2]}…'"


def _check_carried(what: str, does: str, port: Port) -> None:
    if port.dtype not in CARRIED:
        raise InputError(
            f"{what} {quoted(port.name)}: the model {does} {quoted(port.dtype)[1:-1]}, which peerinfer does not carry; "
            f"it carries {', '.join(CARRIED)}"
        )
    if len(port.name) > NAME_CHARS_MAX:
        raise InputError(f"{what} {quoted(port.name)}: its name is longer than {NAME_CHARS_MAX} characters; rename it")


def _mode(port: Port, spec: TensorSpec) -> Mode:
    if not feeds(spec.dtype, port.dtype):
        is_number = spec.dtype in ITEM_BYTES and not is_string(spec.dtype) and not is_string(port.dtype)
        advice = f"convert with astype('{port.dtype}')" if is_number else f"give {port.dtype}"
        raise _misfit(port, spec, advice)
    rank, given_rank = len(port.shape), len(spec.shape)
    if given_rank == rank == 0:
        return "shared"
    if given_rank not in (rank, rank + 1):
        if given_rank == rank - 1:
            raise _misfit(port, spec, "an axis is missing: the first one counts items; add it with array[None]")
        raise _misfit(port, spec, f"give {rank or 1} axes, the first one counting items")
    mode: Mode = "batched" if given_rank == rank else "stacked"
    if spec.shape[0] == 0:
        raise _misfit(port, spec, "there are no items; give at least one along the first axis")
    wanted = port.shape if mode == "stacked" else port.shape[1:]
    for axis, (want, have) in enumerate(zip(wanted, spec.shape[1:], strict=True), start=1):
        if 0 <= want != have:
            raise _misfit(port, spec, f"axis {axis} must be {want}")
        if have == 0:
            raise _misfit(port, spec, f"axis {axis} has length 0; leave no axis empty")
    return mode


def _items(pairs: Sequence[tuple[Port, TensorSpec]], modes: Sequence[Mode]) -> int:
    counts = [(port, spec.shape[0]) for (port, spec), mode in zip(pairs, modes, strict=True) if mode != "shared"]
    if not counts:
        return 1
    first_port, first = counts[0]
    for port, count in counts:
        if count != first:
            raise InputError(
                f"input {quoted(port.name)}: expected {first} items as in {quoted(first_port.name)}, given {count}; "
                "the first axis of every array counts items"
            )
    return first


def _block(pairs: Sequence[tuple[Port, TensorSpec]], modes: Sequence[Mode], items: int) -> tuple[int, bool]:
    """Items per run of the model, and whether runs may be merged."""
    fixed: tuple[Port, int] | None = None
    for (port, spec), mode in zip(pairs, modes, strict=True):
        if mode != "batched" or port.shape[0] < 0:
            continue
        size = port.shape[0]
        if size == 0:
            raise _misfit(port, spec, "the model wants an empty batch, which holds no items")
        if fixed is not None and fixed[1] != size:
            raise InputError(
                f"input {quoted(port.name)}: the model takes {size} items at a time here but {fixed[1]} in "
                f"{quoted(fixed[0].name)}; give whole inputs, stacked along a new first axis"
            )
        fixed = (port, size)
    if fixed is None:
        return 1, bool(modes) and all(mode != "stacked" for mode in modes) and "batched" in modes
    port, block = fixed
    if block > 1 and "stacked" in modes:
        other = pairs[modes.index("stacked")][0]
        raise InputError(
            f"input {quoted(port.name)}: the model takes {block} items at a time, but {quoted(other.name)} gives one "
            f"whole input per item; stack {quoted(port.name)} along a new first axis too"
        )
    if items % block:
        raise InputError(
            f"input {quoted(port.name)}: the model takes {block} items at a time, given {items}; "
            f"give a multiple of {block} (pad with {block - items % block} more)"
        )
    return block, False


def _misfit(port: Port, spec: TensorSpec, advice: str) -> InputError:
    return InputError(
        f"input {quoted(port.name)}: the model takes {shape_text(port.dtype, port.shape)}, "
        f"given {shape_text(quoted(spec.dtype)[1:-1], spec.shape)}; {advice}"
    )


def _names(names: Sequence[str]) -> str:
    return _some([quoted(name) for name in names])


def _ports(ports: Sequence[Port]) -> str:
    return _some([f"{quoted(port.name)} ({shape_text(port.dtype, port.shape)})" for port in ports])


def _some(parts: Sequence[str]) -> str:
    shown = ", ".join(parts[:_NAMES_SHOWN_MAX])
    return shown if len(parts) <= _NAMES_SHOWN_MAX else f"{shown} and {len(parts) - _NAMES_SHOWN_MAX} more"
