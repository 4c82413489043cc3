"""Outputs on disk: one append-only file per job, `<job id>.spool`, made of records.

    magic (4) | payload length (u32) | CRC-32 of the payload (u32) | CRC-32 of these 12 bytes (u32) | payload

A process that dies while it writes leaves a torn record at the end, and only there, since nothing else is ever written.
Opening a file walks its headers, checks the last payload, and cuts what is torn. Other damage (a failing disk, a power
cut) is found when a record is read. CRC-32 is enough for both: the file is ours, so the enemy is chance.

Nothing here is thread-safe; `SqliteStore` calls it from one thread.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from peerinfer.errors import StateUnusable
from peerinfer.ids import JobId, is_job_id
from peerinfer.limits import FRAME_BLOB_BYTES_MAX, MIB
from peerinfer.tensors import Buffer

RECORD_BYTES_MAX = FRAME_BLOB_BYTES_MAX + 1 * MIB
"""The outputs of one frame as they came from a worker, and what is noted about them."""

OPEN_FILES_MAX = 64
"""Spools kept open. A job that comes back costs one open and a walk over its headers."""

SUFFIX = ".spool"

_MAGIC = b"PIr1"
_HEADER = struct.Struct("<4sIII")
HEADER_BYTES = _HEADER.size
_BUFFERS_MAX = 1000
"""Linux takes 1,024 buffers in one call."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Spool:
    """The spools of all jobs in one folder, which must exist."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[JobId, _File] = OrderedDict()

    def append(self, job: JobId, record: Sequence[Buffer]) -> int:
        """Writes the joined buffers as one record; returns its offset. The record survives the end of this process.

        Raises `StateUnusable` when the disk is full, and then nothing of the record remains; ValueError if the record
        is larger than `RECORD_BYTES_MAX`.
        """
        return self._file(job).append(record)

    def read(self, job: JobId, offset: int) -> bytes:
        """The payload of the record at `offset`. Raises `StateUnusable` if there is none or it is not whole."""
        if not self._path(job).exists():
            raise StateUnusable(f"there are no results of job {job} in {self._folder}; run the job again")
        return self._file(job).read(offset)

    def end(self, job: JobId) -> int:
        """Size of the job's file as it lies on disk, torn tail included; 0 if there is none."""
        try:
            return self._path(job).stat().st_size
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise _unusable(self._path(job), error) from None

    def sync(self, job: JobId) -> None:
        """Returns when the file is on the disk. It is no error if there is none."""
        if self._path(job).exists():
            self._file(job).sync()

    def forget(self, job: JobId) -> None:
        """Removes the job's file. It is no error if there is none."""
        file = self._open.pop(job, None)
        if file is not None:
            file.close()
        path = self._path(job)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _unusable(path, error) from None

    def jobs(self) -> list[JobId]:
        """Jobs that have a file, by id. Other files in the folder are left alone."""
        try:
            names = sorted(os.listdir(self._folder))
        except OSError as error:
            raise _unusable(self._folder, error) from None
        ids = (name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX))
        return [JobId(text) for text in ids if is_job_id(text)]

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def _path(self, job: JobId) -> Path:
        # A job id arrives from peers and from the command line, and becomes a file name here.
        if not is_job_id(job):
            raise ValueError(f"not a job id: {job[:64]!r}")
        return self._folder / f"{job}{SUFFIX}"

    def _file(self, job: JobId) -> _File:
        file = self._open.get(job)
        if file is None:
            while len(self._open) >= OPEN_FILES_MAX:
                self._open.popitem(last=False)[1].close()
            file = self._open[job] = _File(self._path(job))
        self._open.move_to_end(job)
        return file


class _File:
    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _unusable(path, error) from None
        try:
            size = os.fstat(self._fd).st_size
            self._end = self._whole_bytes(size)
            if self._end < size:
                os.ftruncate(self._fd, self._end)
        except OSError as error:
            os.close(self._fd)
            raise _unusable(path, error) from None

    def append(self, record: Sequence[Buffer]) -> int:
        parts = [memoryview(part).cast("B") for part in record if memoryview(part).nbytes]
        if len(parts) > _BUFFERS_MAX:
            parts = [memoryview(b"".join(parts))]
        payload_bytes = sum(part.nbytes for part in parts)
        if payload_bytes > RECORD_BYTES_MAX:
            raise ValueError(f"a record of {payload_bytes} bytes passes the limit of {RECORD_BYTES_MAX}")
        crc = 0
        for part in parts:
            crc = zlib.crc32(part, crc)
        offset = self._end
        try:
            self._write([memoryview(_header(payload_bytes, crc)), *parts], offset)
        except OSError as error:
            self._cut(offset)
            raise _unusable(self._path, error) from None
        self._end = offset + HEADER_BYTES + payload_bytes
        return offset

    def read(self, offset: int) -> bytes:
        try:
            payload = self._payload(offset)
        except OSError as error:
            raise _unusable(self._path, error) from None
        if payload is None:
            raise StateUnusable(f"{self._path} is damaged at byte {offset}; run the job again")
        return payload

    def sync(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise _unusable(self._path, error) from None

    def close(self) -> None:
        os.close(self._fd)

    def _write(self, parts: list[memoryview], offset: int) -> None:
        """All of it, however the kernel divides it: a disk about to be full takes a part first."""
        while parts:
            written = os.pwritev(self._fd, parts, offset)
            offset += written
            while parts and written >= parts[0].nbytes:
                written -= parts.pop(0).nbytes
            if written:
                parts[0] = parts[0][written:]

    def _cut(self, offset: int) -> None:
        # If even this fails, the next append writes over the torn part, and the next open cuts it.
        try:
            os.ftruncate(self._fd, offset)
        except OSError:
            return

    def _length_and_crc(self, offset: int) -> tuple[int, int] | None:
        if offset < 0:
            return None
        raw = os.pread(self._fd, HEADER_BYTES, offset)
        if len(raw) < HEADER_BYTES:
            return None
        magic, length, crc, header_crc = _HEADER.unpack(raw)
        if magic != _MAGIC or header_crc != zlib.crc32(raw[:12]) or length > RECORD_BYTES_MAX:
            return None
        return length, crc

    def _payload(self, offset: int) -> bytes | None:
        """The payload at `offset`, or None if no whole record starts there."""
        found = self._length_and_crc(offset)
        if found is None:
            return None
        length, crc = found
        payload = os.pread(self._fd, length, offset + HEADER_BYTES)
        return payload if len(payload) == length and zlib.crc32(payload) == crc else None

    def _whole_bytes(self, size: int) -> int:
        """Where the last whole record ends."""
        last = end = 0
        while (found := self._length_and_crc(end)) is not None and end + HEADER_BYTES + found[0] <= size:
            last, end = end, end + HEADER_BYTES + found[0]
        return end if end == 0 or self._payload(last) is not None else last


def _header(length: int, crc: int) -> bytes:
    start = struct.pack("<4sII", _MAGIC, length, crc)
    return start + struct.pack("<I", zlib.crc32(start))


def _unusable(path: Path, error: OSError) -> StateUnusable:
    if error.errno in _FULL:
        return StateUnusable(f"the disk that holds {path.parent} is full; free some space, then run the job again")
    return StateUnusable(f"cannot use {path}: {error.strerror or error}")
