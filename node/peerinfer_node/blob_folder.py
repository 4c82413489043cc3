"""The files of the blob cache. Every method waits for the disk: they are called in threads.

Of a blob there are two files: `<cid>.index`, and `<cid>.part`, which is renamed to `<cid>.blob` when the last chunk is
in. Pins are empty files under `pins/`. Everything but the pins can be checked against its own name, so nothing needs to
be synced: after kill -9 the files are as they were written, and after a power cut what is damaged is found by its hash
and dropped. What is there of a `.part` file is hashed again before the blob is continued. The time of last use is the
index file's mtime.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TypeVar

import trio.from_thread

from peerinfer.blobs import INDEX_BYTES_MAX, BlobIndex, checked_index, chunks_of
from peerinfer.errors import ProtocolError
from peerinfer.ids import Cid, digest_of_cid
from peerinfer.limits import CHUNK_BYTES
from peerinfer.tensors import Buffer

_SUFFIXES = (".index", ".part", ".blob", ".new")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FoundBlob:
    """A blob that a folder holds, in whole or in part."""

    cid: Cid
    index: BlobIndex
    is_whole: bool
    """Its file has the right size; what is in it is checked when it is read."""
    used_ns: int


class BlobFolder:
    """Raises OSError where the disk does, and ValueError for a cid that is none: no path is ever made of one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        (root / "pins").mkdir(exist_ok=True)

    def blobs(self) -> list[FoundBlob]:
        """What is there, the longest unused first. Removes what is left over of our own files."""
        found: list[FoundBlob] = []
        for cid in dict.fromkeys(_cid_of_file(path) for path in self.root.iterdir()):
            if cid is None:
                continue
            blob = self._blob(cid)
            if blob is None:
                self.remove(cid)
            else:
                found.append(blob)
        return sorted(found, key=lambda blob: (blob.used_ns, blob.cid))

    def pins(self) -> list[tuple[Cid, str]]:
        """Each with the hash of its holder's name."""
        found: list[tuple[Cid, str]] = []
        for path in (self.root / "pins").iterdir():
            cid, _, holder = path.name.partition(".")
            with suppress(ValueError):
                digest_of_cid(cid)
                found.append((Cid(cid), holder))
        return found

    def add(self, cid: Cid, encoded: bytes, used_ns: int) -> None:
        self._path(cid, ".part").write_bytes(b"")
        new = self._path(cid, ".new")
        new.write_bytes(encoded)
        os.utime(new, ns=(used_ns, used_ns))
        new.rename(self._path(cid, ".index"))

    def remove(self, cid: Cid) -> None:
        for suffix in _SUFFIXES:
            self._path(cid, suffix).unlink(missing_ok=True)

    def finish(self, cid: Cid, size: int) -> None:
        part = self._path(cid, ".part")
        os.truncate(part, size)
        part.rename(self._path(cid, ".blob"))

    def note_use(self, cid: Cid, used_ns: int) -> None:
        with suppress(OSError):
            os.utime(self._path(cid, ".index"), ns=(used_ns, used_ns))

    def missing(self, cid: Cid, index: BlobIndex) -> set[int]:
        """The chunks that the `.part` file from before a break does not hold."""
        missing = set(range(index.chunks))
        with suppress(FileNotFoundError), open(self._path(cid, ".part"), "rb") as file:
            for number in checking_cancelled(range(index.chunks)):
                data = file.read(index.chunk_size(number))
                if not data:
                    break
                if index.matches(number, data):
                    missing.remove(number)
        return missing

    def write_chunk(self, cid: Cid, index: BlobIndex, number: int, data: Buffer) -> bool:
        """False if it is not the chunk. Writes nothing if there is no `.part` file (any more)."""
        if not index.matches(number, data):
            return False
        with suppress(FileNotFoundError), open(self._path(cid, ".part"), "r+b") as file:
            file.seek(number * CHUNK_BYTES)
            file.write(data)
        return True

    def read_chunk(self, cid: Cid, index: BlobIndex, number: int) -> bytes | None:
        """None if it is damaged or gone."""
        data = self._read_range(cid, number * CHUNK_BYTES, index.chunk_size(number))
        return data if data is not None and index.matches(number, data) else None

    def read_part(self, cid: Cid, index: BlobIndex, number: int) -> bytes | None:
        """A chunk of a blob that is not whole; None if it is not here."""
        data = self._read_range(cid, number * CHUNK_BYTES, index.chunk_size(number), ".part")
        return data if data is not None and index.matches(number, data) else None

    def read(self, cid: Cid, index: BlobIndex) -> bytes | None:
        """None if any of it is damaged or gone."""
        data = self._read_range(cid, 0, index.size)
        if data is None or len(data) != index.size:
            return None
        are_right = (index.matches(number, chunk) for number, chunk in enumerate(chunks_of(data)))
        return data if all(checking_cancelled(are_right)) else None

    def add_pin(self, cid: Cid, holder: str) -> None:
        self._pin_path(cid, holder).touch()

    def remove_pins(self, cids: list[Cid], holder: str) -> None:
        for cid in cids:
            self._pin_path(cid, holder).unlink(missing_ok=True)

    def _path(self, cid: Cid, suffix: str) -> Path:
        digest_of_cid(cid)
        return self.root / f"{cid}{suffix}"

    def _pin_path(self, cid: Cid, holder: str) -> Path:
        digest_of_cid(cid)
        return self.root / "pins" / f"{cid}.{holder}"

    def _read_range(self, cid: Cid, start: int, count: int, suffix: str = ".blob") -> bytes | None:
        """None if there is no file, or a broken disk where it was."""
        try:
            with open(self._path(cid, suffix), "rb", buffering=0) as file:
                file.seek(start)
                return _read_up_to(file, count)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EIO):
                return None
            raise

    def _blob(self, cid: Cid) -> FoundBlob | None:
        """None if what is there of it is of no use."""
        blob, part = self._path(cid, ".blob"), self._path(cid, ".part")
        self._path(cid, ".new").unlink(missing_ok=True)
        try:
            with open(self._path(cid, ".index"), "rb") as file:
                index = checked_index(cid, file.read(INDEX_BYTES_MAX + 1))
                used_ns = os.fstat(file.fileno()).st_mtime_ns
        except (FileNotFoundError, ProtocolError):
            return None
        is_whole = blob.exists() and blob.stat().st_size == index.size
        (part if is_whole else blob).unlink(missing_ok=True)
        return FoundBlob(cid, index, is_whole, used_ns) if is_whole or part.exists() else None


def holder_name(holder: str) -> str:
    """A holder is named by somebody else: only its hash becomes part of a file's name."""
    return hashlib.sha256(holder.encode()).hexdigest()[:32]


def _cid_of_file(path: Path) -> Cid | None:
    """The blob that a file of the store belongs to; None for anything else that lies there."""
    try:
        digest_of_cid(path.stem)
    except ValueError:
        return None
    return Cid(path.stem) if path.suffix in _SUFFIXES else None


def checking_cancelled(items: Iterable[T]) -> Iterator[T]:
    """Lets a long loop in a thread end when the task that waits for it is cancelled."""
    for item in items:
        trio.from_thread.check_cancelled()
        yield item


def _read_up_to(file: FileIO, count: int) -> bytes:
    """Fewer bytes only at the end of the file. One read of the kernel ends at 2 GiB."""
    data = file.read(count) or b""
    while len(data) < count and (more := file.read(count - len(data))):
        data += more
    return data
