"""The output of a job as a file, in the order of the items, whatever the order in which they came.

.npz      one array per output, named like it, first axis items. Of failed items, floats are NaN, integers 0,
          booleans False and strings empty, and a boolean array `__failed__` says which they are (only if there are
          any). An output whose shape differs between items is three arrays: `NAME.values` holds the values of all
          items one after the other, item i's from `NAME.offsets[i]` to `NAME.offsets[i + 1]`, in the shape
          `NAME.shapes[i]`.
.jsonl    one line per item: {"index": 0, "NAME": nested lists}. A failed item is {"index": 0, "error": true}. JSON
          has no NaN and no infinity: they become null.
.parquet  one row per item, one column of (nested lists of) numbers or strings per output; null where the item failed.
a folder  one .npz per item, named after the item's file, or by number; none for a failed item.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import repeat
from typing import Any, BinaryIO, Protocol

import numpy as np

from peerinfer.binding import check_outputs, quoted
from peerinfer.errors import InputError, StateUnusable, UsageError
from peerinfer.strings import unpacked
from peerinfer.tensors import Port
from peerinfer_node.formats.npz_writer import FAILED, write_item, write_npz
from peerinfer_node.formats.parquet_writer import write_parquet
from peerinfer_node.formats.replacing import new_file, new_folder, probe, unwritable
from peerinfer_node.formats.source import Array
from peerinfer_node.formats.spool import Ordered, Spool

OUTPUT_EXTENSIONS = (".npz", ".parquet", ".jsonl")
PROVENANCE_EXTENSION = ".provenance.json"

NAME_BYTES_MAX = 255 - len(PROVENANCE_EXTENSION)
"""Of the output's name: a file name of Linux has 255 bytes, and the provenance file's is the longer one."""

ITEM_NAME_BYTES_MAX = 200
"""A file name may have 255 bytes, with its number and its extension."""

FILE_BYTES_MIN = 4096
"""What a file takes on most disks, however little it holds."""

_RESERVED = {".npz": (FAILED,), ".jsonl": ("index", "error"), ".parquet": (), "": ()}


class OutputWriter(Protocol):
    """Takes outputs and leaves one whole file (or folder), or nothing. For one thread at a time; all methods block."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Lines for the user about how the output was written; complete after `finish`."""

    def add(self, first_item: int, items: int, rows: Mapping[str, Array]) -> None:
        """Outputs of consecutive items, first axis `items`, in any order. Raises `StateUnusable`; then all is undone."""

    def finish(self, failed_items: Sequence[int]) -> None:
        """Writes the file. Items that never came count as failed. Raises `StateUnusable`; then all is undone."""

    def abort(self) -> None:
        """Leaves nothing behind. May be called at any time, and after `finish`, where it does nothing."""


def check_writable(path: str) -> None:
    """To be called before anything is computed. Raises `UsageError` for a path that names no kind of output, and
    `StateUnusable` for a place where nothing can be written.
    """
    kind = _kind(path)
    if kind and os.path.isdir(path):
        raise UsageError(f"{path} is a folder; name a new {kind} file")
    if not kind:
        if os.path.lexists(path.rstrip("/")) and not os.path.isdir(path):
            raise UsageError(f"{path.rstrip('/')} is a file; name a folder, or a file in {_choices()}")
        if os.path.isdir(path) and _filled(path):
            raise UsageError(f"the folder {path} is not empty; name a new one")
        if os.path.ismount(path):
            raise UsageError(f"the folder {path} is where a disk is mounted; name a new one in it")
    if len(os.fsencode(os.path.basename(path.rstrip("/")))) > NAME_BYTES_MAX:
        raise UsageError(f"the output's name is too long: give at most {NAME_BYTES_MAX} bytes")
    probe(path.rstrip("/"))


def open_writer(path: str, outputs: Sequence[Port], items: int, *, item_names: Sequence[str] | None) -> OutputWriter:
    """A writer for the outputs of `items` items. Raises as `check_writable`, and `InputError` for outputs that the kind
    of file cannot hold.
    """
    check_writable(path)
    check_outputs(outputs)
    kind = _kind(path)
    for port in outputs:
        if port.name in _RESERVED[kind]:
            raise InputError(
                f"an output of the model is called {quoted(port.name)}, a name of {kind}'s own; write .parquet"
            )
    if item_names is not None and len(item_names) != items:
        raise ValueError(f"{len(item_names)} names for {items} items")
    return _Writer(path.rstrip("/"), kind, outputs, items, item_names)


def write_provenance(path: str, document: Mapping[str, Any]) -> str:
    """Writes where the output came from beside it and returns the file's path. Raises `StateUnusable`."""
    target = path.rstrip("/") + PROVENANCE_EXTENSION
    data = (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
    with new_file(target, needed_bytes=len(data)) as file:
        file.write(data)
    return target


class _Writer:
    def __init__(
        self, path: str, kind: str, outputs: Sequence[Port], items: int, item_names: Sequence[str] | None
    ) -> None:
        self._path = path
        self._kind = kind
        self._outputs = tuple(outputs)
        self._items = items
        self._item_names = item_names
        self._spool = Spool(os.path.dirname(os.path.realpath(path)), outputs)
        self._warnings: list[str] = []

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warnings)

    def add(self, first_item: int, items: int, rows: Mapping[str, Array]) -> None:
        if not 0 <= first_item < first_item + items <= self._items:
            raise ValueError(f"items {first_item} to {first_item + items} of {self._items}")
        try:
            self._spool.append(first_item, items, rows)
        except OSError as error:
            raise self._undone(error) from None

    def finish(self, failed_items: Sequence[int]) -> None:
        write = {".npz": self._npz, ".jsonl": self._jsonl, ".parquet": self._parquet, "": self._folder}[self._kind]
        try:
            write(self._spool.ordered(self._items, failed_items))
        except OSError as error:
            raise self._undone(error) from None
        finally:
            self._spool.close()

    def abort(self) -> None:
        self._spool.close()

    def _undone(self, error: OSError) -> StateUnusable:
        needed = self._needed_bytes()
        self._spool.close()
        return unwritable(self._path, error, needed)

    def _npz(self, ordered: Ordered) -> None:
        with self._new_file() as file:
            self._warnings += write_npz(file, ordered)

    def _parquet(self, ordered: Ordered) -> None:
        with self._new_file() as file:
            write_parquet(file, ordered)

    def _jsonl(self, ordered: Ordered) -> None:
        replaced = dict.fromkeys((port.name for port in self._outputs), 0)
        with self._new_file() as file:
            for index, item in enumerate(_by_item(ordered)):
                line: dict[str, Any] = {"index": index}
                if item is None:
                    line["error"] = True
                else:
                    for port, value in zip(self._outputs, item, strict=True):
                        line[port.name], count = _json_value(value)
                        replaced[port.name] += count
                file.write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        self._warnings += [
            f"output {quoted(name)}: {count} numbers that are NaN or infinite were written as null"
            for name, count in replaced.items()
            if count
        ]

    def _folder(self, ordered: Ordered) -> None:
        names = _file_names(self._items, self._item_names)
        with new_folder(self._path, needed_bytes=self._needed_bytes()) as folder:
            written = []
            for name, item in zip(names, _by_item(ordered), strict=True):
                if item is not None:
                    written.append(os.path.join(folder, name))
                    with open(written[-1], "xb") as file:
                        write_item(file, self._outputs, item)
            # Forcing them to the disk after all are written costs one flush of the journal instead of one per file.
            for path in written:
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
        if len(written) < self._items:
            self._warnings.append(f"{self._items - len(written)} failed items have no file in {self._path}")

    def _new_file(self) -> AbstractContextManager[BinaryIO]:
        return new_file(self._path, needed_bytes=self._needed_bytes())

    def _needed_bytes(self) -> int:
        """About what the whole output takes, judged by what there is of it: once spooled and once in its file."""
        files = 0 if self._kind else self._items * FILE_BYTES_MIN
        return files + 2 * self._spool.size_bytes * self._items // max(self._spool.items, 1)


def _by_item(ordered: Ordered) -> Iterator[tuple[Array, ...] | None]:
    """The outputs of each item, in order; None where it failed."""
    for items, arrays in ordered.tables():
        if arrays is None:
            yield from repeat(None, items)
        else:
            yield from zip(*([values[i, ...] for i in range(items)] for values in arrays), strict=True)


def _json_value(value: Array) -> tuple[Any, int]:
    if value.dtype.kind == "V":
        return unpacked(value).tolist(), 0
    if value.dtype.kind == "f":
        finite = np.isfinite(value)
        if not finite.all():
            shown = value.astype(object)
            shown[~finite] = None
            return shown.tolist(), int(finite.size - np.count_nonzero(finite))
    return value.tolist(), 0


def _file_names(items: int, item_names: Sequence[str] | None) -> Iterator[str]:
    """One file name per item, no two alike, none that leads out of the folder or hides."""
    digits = max(6, len(str(items - 1)))
    used: set[str] = set()
    for index in range(items):
        number = f"{index:0{digits}d}"
        name = number
        if item_names is not None:
            stem = os.path.splitext(os.path.basename(item_names[index]))[0]
            stem = "".join(filter(str.isprintable, stem)).lstrip(".")
            name = stem.encode()[:ITEM_NAME_BYTES_MAX].decode("utf-8", "ignore") or number
        while name.casefold() in used:
            name = f"{name}-{number}"
        used.add(name.casefold())
        yield f"{name}.npz"


def _kind(path: str) -> str:
    """The extension of a file that can be written, or "" for a folder."""
    if not path.rstrip("/"):
        raise UsageError("the output has no name; name a file or a folder")
    extension = os.path.splitext(path)[1].lower()
    if path.endswith("/") or not extension:
        return ""
    if extension not in OUTPUT_EXTENSIONS:
        raise UsageError(
            f"{path}: outputs in {extension} are not written; choose {_choices()}, or a folder (ending in /)"
        )
    return extension


def _choices() -> str:
    return ", ".join(OUTPUT_EXTENSIONS)


def _filled(path: str) -> bool:
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is not None
    except OSError as error:
        raise unwritable(path, error, 0) from None
