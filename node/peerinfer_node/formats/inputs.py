"""The inputs of a job, opened: what they are, how they fit the model, and their rows when they are asked for."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from peerinfer.binding import Binding, bind, check_inputs, quoted
from peerinfer.errors import InputError
from peerinfer.strings import contents
from peerinfer.tensors import FREE, ITEM_BYTES, STRING, Port, TensorSpec, is_string
from peerinfer_node.formats.columns import Column, join
from peerinfer_node.formats.images import IMAGE_EXTENSIONS, ImageColumn, ImageOptions, open_images
from peerinfer_node.formats.npy import open_npy, open_npz
from peerinfer_node.formats.safetensors_file import open_safetensors
from peerinfer_node.formats.source import PIECE_BYTES, Array, MemoryBudget, SourceFile, check_path, legible, size_text
from peerinfer_node.formats.tables import open_jsonl, open_parquet

INPUT_EXTENSIONS = (".npz", ".npy", ".safetensors", ".parquet", ".jsonl")


class Inputs(Protocol):
    """The inputs of one job. All methods may be called from any thread; they block while they read."""

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """The whole arrays, in the model's order and under its names."""

    @property
    def binding(self) -> Binding: ...

    @property
    def items(self) -> int: ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """Lines for the user: what will run, but perhaps not as meant."""

    @property
    def item_names(self) -> Sequence[str] | None:
        """File names of the items, or None where they have no names."""

    def rows(self, start: int, stop: int) -> tuple[Array, ...]:
        """Items `start` to `stop` of every input, in the order of `specs`; a shared scalar comes whole.

        C-contiguous and little-endian; views of what is held where possible, so they are not to be written to. Raises
        `InputError` if a file has changed, or an image cannot be decoded.
        """

    def fingerprint(self, start: int, stop: int) -> bytes:
        """SHA-256 that identifies these rows: equal exactly if the inputs are. Arrays of equal content have the same
        from every format; images are known by their files' bytes and what is done to them. Raises as `rows`.
        """


def open_inputs(
    paths: Sequence[str],
    ports: Sequence[Port],
    *,
    image_size: tuple[int, int] | None = None,
    image_layout: str = "auto",
    image_mean: tuple[float, ...] = (0.0,),
    image_std: tuple[float, ...] = (1.0,),
) -> Inputs:
    """Opens files of one kind as the inputs of a model; several files are joined along the first axis, in order.

    Checks everything that can be checked without the model: names, dtypes, shapes, truncation, checksums, NaN. Image
    files are looked at but decoded only by `rows`. Raises `InputError`, one line that names the file and what to do.
    """
    check_inputs(ports)
    kind = _kind(paths)
    if kind == "images":
        options = ImageOptions(image_size, image_layout, image_mean, image_std)
        name, images, names, warnings = open_images(paths, ports, options)
        port = ports[0]
        binding = bind(ports, [TensorSpec(name, port.dtype, images.shape)])
        _check_item(binding)
        return _ImageInputs(binding, images, warnings, names)
    budget = MemoryBudget()
    files = [_columns(kind, path, ports, budget) for path in paths]
    for path, columns in zip(paths, files, strict=True):
        if columns.keys() != files[0].keys():
            odd = sorted(columns.keys() ^ files[0].keys())[0]
            raise InputError(
                f"{legible(path)}: array {quoted(odd)} is not in all of the files; each needs the same arrays"
            )
    joined = {
        name: join(name, [(legible(path), columns[name]) for path, columns in zip(paths, files, strict=True)])
        for name in files[0]
    }
    binding = bind(ports, [TensorSpec(name, column.dtype, column.shape) for name, column in joined.items()])
    _check_item(binding)
    ordered = [joined[port.name] if port.name in joined else next(iter(joined.values())) for port in ports]
    for column in ordered:
        column.prepare(budget)
    return _ArrayInputs(binding, ordered)


class _ArrayInputs:
    item_names: Sequence[str] | None = None

    def __init__(self, binding: Binding, columns: Sequence[Column]) -> None:
        self.binding = binding
        self.specs = binding.specs
        self.items = binding.items
        self._columns = tuple(columns)
        self.warnings = tuple(
            warning for spec, column in zip(self.specs, columns, strict=True) if (warning := _not_finite(spec, column))
        )

    def rows(self, start: int, stop: int) -> tuple[Array, ...]:
        _check_range(start, stop, self.items)
        return tuple(column.read(start, stop) for column in self._columns)

    def fingerprint(self, start: int, stop: int) -> bytes:
        whole = hashlib.sha256(b"arrays/1")
        for given, rows in zip(self.binding.inputs, self.rows(start, stop), strict=True):
            dtype = STRING if is_string(given.dtype) else given.dtype  # formats differ in the width of slots
            head = f"{given.name!r} {given.mode} {dtype} {list(rows.shape)} "
            whole.update(head.encode())
            if is_string(given.dtype):
                for text in contents(rows):
                    whole.update(len(text).to_bytes(4, "little") + text)
            else:
                whole.update(rows.reshape(-1).view(np.uint8).data)
        return whole.digest()


class _ImageInputs:
    def __init__(
        self, binding: Binding, images: ImageColumn, warnings: tuple[str, ...], item_names: Sequence[str]
    ) -> None:
        self.binding = binding
        self.specs = binding.specs
        self.items = binding.items
        self.warnings = warnings
        self.item_names: Sequence[str] | None = item_names
        self._images = images

    def rows(self, start: int, stop: int) -> tuple[Array, ...]:
        _check_range(start, stop, self.items)
        return (self._images.read(start, stop),)

    def fingerprint(self, start: int, stop: int) -> bytes:
        _check_range(start, stop, self.items)
        return self._images.digest(start, stop)


def _kind(paths: Sequence[str]) -> str:
    if not paths:
        raise InputError("no input files are given; name at least one")
    kinds: dict[str, str] = {}
    for path in paths:
        check_path(path, folder=True)
        extension = os.path.splitext(path)[1].lower()
        if os.path.isdir(path) or extension in IMAGE_EXTENSIONS:
            kinds.setdefault("images", path)
        elif extension in INPUT_EXTENSIONS:
            kinds.setdefault(extension, path)
        else:
            raise InputError(
                f"{legible(path)}: inputs in {legible(extension) or 'files without an extension'} are not read; "
                f"give {', '.join(INPUT_EXTENSIONS)}, images or a folder of images"
            )
    if len(kinds) > 1:
        raise InputError(f"{' and '.join(map(legible, kinds.values()))} are of different kinds; give files of one kind")
    return next(iter(kinds))


def _columns(kind: str, path: str, ports: Sequence[Port], budget: MemoryBudget) -> dict[str, Column]:
    file = SourceFile(path)
    if kind == ".npy":
        return open_npy(file)
    if kind == ".npz":
        return open_npz(file)
    if kind == ".safetensors":
        return open_safetensors(file)
    if kind == ".parquet":
        return open_parquet(file, ports, budget)
    return open_jsonl(file, ports, budget)


def _check_item(binding: Binding) -> None:
    """One run of the model must fit in memory, whatever the file claims."""
    needed, allowed = binding.item_bytes * binding.block, MemoryBudget().bytes_max
    if needed > allowed:
        raise InputError(
            f"one item takes {size_text(needed)} and {size_text(allowed)} are allowed (half of the memory that is free); "
            "give smaller items"
        )


def _check_range(start: int, stop: int, items: int) -> None:
    if not 0 <= start < stop <= items:
        raise ValueError(f"items {start} to {stop} of {items}")


def _not_finite(spec: TensorSpec, column: Column) -> str | None:
    """A warning about NaN and infinity. They may be meant (missing values), so they run."""
    if not spec.dtype.startswith("float"):
        return None
    count, first = 0, FREE
    items = spec.shape[0] if spec.shape else 1
    step = max(1, PIECE_BYTES // (math.prod(spec.shape[1:]) * ITEM_BYTES[spec.dtype]))
    for start in range(0, items, step):
        finite = np.isfinite(column.read(start, min(start + step, items)))
        if not finite.all():
            count += int(finite.size - np.count_nonzero(finite))
            if first == FREE:
                first = start + int(np.argmin(finite.reshape(len(finite) if finite.ndim else 1, -1).all(axis=1)))
    if not count:
        return None
    numbers = "1 number is" if count == 1 else f"{count} numbers are"
    where = f"first in item {first} (counted from 0)"
    return f"input {quoted(spec.name)}: {numbers} NaN or infinite, {where}; they run as they are"
