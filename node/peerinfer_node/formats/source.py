"""Reading files that may be missing, unreadable, changing or hostile.

Files are read in pieces and not memory-mapped: a mapped file that shrinks, or a disk that fails, kills the whole
process with SIGBUS, and this process may be a daemon with other people's jobs. A piece costs one copy out of the page
cache (several GB/s). The file is opened anew for every piece, so that any number of files can be inputs of one job.
"""

from __future__ import annotations

import os
import stat
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import psutil

from peerinfer.errors import InputError
from peerinfer.limits import MIB

INPUT_MEMORY_RATIO_MAX = 0.5
"""Inputs that cannot be read in pieces (compressed, text, tables) may fill this share of the memory that is free."""

SMALL_BYTES_MAX = 256 * MIB
"""Arrays of one job are held in memory up to this sum, so that tasks of a few hundred bytes cost no system call."""

PIECE_BYTES = 8 * MIB
"""Long passes over a file (checksums, the search for NaN) take this much at a time."""

Array = npt.NDArray[Any]


class SourceFile:
    """A regular file as it was when it was opened first. Reads raise `InputError` if it is another one by now."""

    def __init__(self, path: str) -> None:
        self.path = legible(path)
        """For people."""
        self.real_path = path
        with self._open() as file:
            self._identity = _identity(os.fstat(file.fileno()))
        self.size_bytes = self._identity[1]
        if self.size_bytes == 0:
            raise InputError(f"{self.path} is empty; give a file with data")

    def open(self) -> BinaryIO:
        file = self._open()
        if _identity(os.fstat(file.fileno())) != self._identity:
            file.close()
            raise InputError(f"{self.path} has changed since the job began; leave inputs alone until it is done")
        return file

    def read(self, offset: int, size: int) -> npt.NDArray[np.uint8]:
        """Exactly these bytes, in memory of their own."""
        if offset + size > self.size_bytes:
            raise InputError(f"{self.path} ends too early: it is truncated; copy it anew")
        data = np.empty(size, np.uint8)
        self.read_into(offset, data.data)
        return data

    def read_into(self, offset: int, target: memoryview) -> None:
        with self.open() as file:
            position = 0
            while position < len(target):
                try:
                    count = os.preadv(file.fileno(), [target[position:]], offset + position)
                except OSError as error:
                    raise InputError(f"{self.path} cannot be read: {error.strerror}; check the disk") from None
                if count == 0:
                    raise InputError(
                        f"{self.path} has changed since the job began; leave inputs alone until it is done"
                    )
                position += count

    def _open(self) -> BinaryIO:
        check_path(self.real_path)
        try:
            # A named pipe put in the file's place would otherwise hold the thread for ever.
            return os.fdopen(os.open(self.real_path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb", buffering=0)
        except OSError as error:
            raise unreadable(self.real_path, error) from None


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def check_path(path: str, *, folder: bool = False) -> None:
    """Raises `InputError` if there is no such regular file (or folder, where one may be given)."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    if not (stat.S_ISREG(mode) or (folder and stat.S_ISDIR(mode))):
        path = legible(path)
        kind = "a folder" if stat.S_ISDIR(mode) else "neither a file nor a folder"
        raise InputError(f"{path} is {kind}; give a file{' or a folder of images' if folder else ''}")


def unreadable(path: str, error: Exception) -> InputError:
    """The one line for what the operating system said about a file."""
    path = legible(path)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return InputError(f"there is no file {path}; check the path")
    if isinstance(error, PermissionError):
        return InputError(f"{path} may not be read by this user; change its permissions or give a copy")
    reason = getattr(error, "strerror", None) or str(error)
    return InputError(f"{path} cannot be read: {reason}; check the path")


def legible(path: str) -> str:
    """A path fit for a line on a terminal: a file's name may hold line breaks and escape sequences."""
    return path if path.isprintable() else repr(path)


def reason_of(error: Exception) -> str:
    """What a library said, cut to fit into a line of ours."""
    return legible((str(error).strip().splitlines() or [type(error).__name__])[0][:100])


class MemoryBudget:
    """What the inputs of one job may take of the memory that is free when the job is opened."""

    def __init__(self, free_bytes: int | None = None) -> None:
        free = psutil.virtual_memory().available if free_bytes is None else free_bytes
        self.bytes_max = int(free * INPUT_MEMORY_RATIO_MAX)
        self._taken = 0
        self._small = 0

    def take(self, size: int, what: str) -> None:
        """Counts `size` bytes that must be held. Raises `InputError` if they are too many."""
        if self._taken + size > self.bytes_max:
            raise InputError(
                f"{what} would take {size_text(self._taken + size)} of memory and {size_text(self.bytes_max)} are "
                "allowed (half of what is free); save it as .npy or uncompressed .npz, which are read in pieces"
            )
        self._taken += size

    def take_small(self, size: int) -> bool:
        """Counts `size` bytes if they are few enough to be held for the sake of speed."""
        fits = self._small + size <= SMALL_BYTES_MAX and self._taken + size <= self.bytes_max
        if fits:
            self._taken += size
            self._small += size
        return fits


def size_text(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError
