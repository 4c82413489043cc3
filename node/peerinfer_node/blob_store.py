"""Blobs on disk; `blob_folder` says how they lie there.

Decisions are made in the event loop (`BlobShelf`), disk work is done in threads. `_changing` orders all that makes a
blob's files come, go or change their names; chunks are read and written beside it, and find out by a missing file.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import trio

from peerinfer.blob_shelf import BlobShelf
from peerinfer.blobs import BlobIndex, checked_index, chunks_of, index_of
from peerinfer.errors import InputError, PeerinferError, ProtocolError, StateUnusable
from peerinfer.ids import Cid, digest_of_cid
from peerinfer.limits import CHUNK_BYTES
from peerinfer.tensors import Buffer
from peerinfer_node.blob_folder import BlobFolder, checking_cancelled, holder_name

THREADS_MAX = 8

T = TypeVar("T")


class _Entry:
    """One blob of which there are files."""

    def __init__(self, cid: Cid, index: BlobIndex, *, is_whole: bool) -> None:
        self.cid = cid
        self.index = index
        self.is_whole = is_whole
        self.missing: set[int] | None = set() if is_whole else None
        """None until the `.part` file has been looked through."""
        self.looking = trio.Lock()


class FileBlobStore:
    """Implements `ports.BlobStore` in the folder `root`, which nobody else may write to.

    The constructor reads the folder; `open` does the same without blocking the event loop.
    Raises `StateUnusable` if the folder cannot be used.
    """

    def __init__(self, root: Path, bytes_max: int) -> None:
        self._shelf = BlobShelf(bytes_max)
        self._entries: dict[Cid, _Entry] = {}
        self._changing = trio.Lock()
        self._limiter = trio.CapacityLimiter(THREADS_MAX)
        self._last_stamp_ns = 0
        try:
            self._folder = BlobFolder(root)
            self._restore()
        except OSError as error:
            raise _unusable(root, error) from error

    @classmethod
    async def open(cls, root: Path, bytes_max: int) -> FileBlobStore:
        return await trio.to_thread.run_sync(cls, root, bytes_max)

    # --- what is held

    async def has(self, cid: Cid) -> bool:
        return self._whole(cid) is not None

    async def held(self) -> list[Cid]:
        return [cid for cid in self._shelf.by_last_use() if self._entries[cid].is_whole]

    async def manifest(self, cid: Cid) -> bytes | None:
        entry = self._whole(cid)
        return None if entry is None else entry.index.encode()

    async def read(self, cid: Cid) -> bytes:
        entry = self._whole(cid)
        data = None if entry is None else await self._checked(entry, partial(self._folder.read, cid, entry.index))
        if data is None:
            raise KeyError(cid)
        return data

    async def pieces(self, cid: Cid) -> tuple[bytes, frozenset[int] | None] | None:
        entry = self._entries.get(cid)
        if entry is None or entry.missing is None:
            return None
        here = None if entry.is_whole else frozenset(range(entry.index.chunks)) - entry.missing
        return entry.index.encode(), here

    async def read_chunk(self, cid: Cid, index: int) -> bytes | None:
        entry = self._entries.get(cid)
        if entry is None or not 0 <= index < entry.index.chunks or index in (entry.missing or ()):
            return None
        if not entry.is_whole:
            data = await self._in_thread(lambda: self._folder.read_part(cid, entry.index, index))
            if data is not None or not entry.is_whole:
                return data  # else the last chunk came meanwhile, and the file has its name
        return await self._checked(entry, partial(self._folder.read_chunk, cid, entry.index, index))

    # --- what comes in

    async def put(self, data: Buffer) -> Cid:
        view = memoryview(data).cast("B")
        index = await self._in_thread(lambda: index_of(checking_cancelled(chunks_of(view))))
        cid, missing = await self._begin(index)
        for number in missing:
            start = number * CHUNK_BYTES
            await self._write_own(cid, number, view[start : start + CHUNK_BYTES], "the data")
        return cid

    async def put_file(self, path: str) -> Cid:
        """The file is read twice and never held: first for the index, then for the chunks that are not here yet."""
        source = await self._from_source(path, lambda: _open_source(path))
        try:
            index = await self._from_source(path, lambda: index_of(checking_cancelled(_chunks_from(source))))
            cid, missing = await self._begin(index)
            for number in missing:
                chunk = await self._from_source(path, partial(_chunk_from, source, number))
                await self._write_own(cid, number, chunk, path)
        finally:
            source.close()
        return cid

    async def begin(self, cid: Cid, manifest: bytes) -> list[int]:
        index = checked_index(cid, manifest)
        _, missing = await self._begin(index)
        return missing

    async def write_chunk(self, cid: Cid, index: int, data: Buffer) -> bool:
        """Raises `StateUnusable` if the blob was not begun, or had to go again while it came in."""
        entry = self._entries.get(cid)
        if entry is None or entry.missing is None:
            raise _gone(cid)
        if not await self._in_thread(lambda: self._folder.write_chunk(cid, entry.index, index, data)):
            return False
        if self._entries.get(cid) is not entry:
            raise _gone(cid)
        self._shelf.touch(cid)
        entry.missing.discard(index)
        if not entry.missing:
            await self._finish(entry)
        return True

    # --- pins

    async def pin(self, cid: Cid, holder: str) -> None:
        """The blob may come later. Raises `ProtocolError` if `cid` is none."""
        try:
            digest_of_cid(cid)
        except ValueError as error:
            raise ProtocolError(f"not the name of a blob: {error}") from None
        name = holder_name(holder)
        async with self._changing:
            if self._shelf.pin(cid, name):
                await self._in_thread(lambda: self._folder.add_pin(cid, name), shield=True)

    async def unpin(self, holder: str, *, discard: bool = False) -> None:
        async with self._changing:
            cids = await self._unpin(holder_name(holder))
            for cid in cids if discard else ():
                await self._discard(cid)

    async def unpin_all_but(self, holders: Collection[str]) -> None:
        names = {holder_name(holder) for holder in holders}
        async with self._changing:
            for name in self._shelf.holders:
                if name not in names:
                    await self._unpin(name)

    async def discard(self, cid: Cid) -> None:
        async with self._changing:
            await self._discard(cid)

    async def _unpin(self, name: str) -> list[Cid]:
        """While `_changing` is held."""
        cids = self._shelf.unpin(name)
        await self._in_thread(lambda: self._folder.remove_pins(cids, name), shield=True)
        return cids

    async def _discard(self, cid: Cid) -> None:
        """While `_changing` is held."""
        entry = self._entries.get(cid)
        if entry is not None and not self._shelf.is_pinned(cid):
            self._forget(entry)
            await self._in_thread(lambda: self._folder.remove(cid), shield=True)

    # --- entries: in the event loop

    def _whole(self, cid: Cid) -> _Entry | None:
        entry = self._entries.get(cid)
        return entry if entry is not None and entry.is_whole else None

    async def _begin(self, index: BlobIndex) -> tuple[Cid, list[int]]:
        encoded = index.encode()
        cid = index.cid
        async with self._changing:
            entry = self._entries.get(cid)
            if entry is None:
                going = self._shelf.place(cid, index.size + len(encoded))
                for other in going:
                    del self._entries[other]
                entry = self._entries[cid] = _Entry(cid, index, is_whole=False)
                make = partial(self._replace, going, cid, encoded, self._stamp_ns())
                try:
                    await self._in_thread(make, shield=True)
                except PeerinferError:
                    self._forget(entry)
                    raise
                entry.missing = set(range(index.chunks))
            else:
                self._shelf.touch(cid)
        async with entry.looking:
            if entry.missing is None:
                entry.missing = await self._in_thread(lambda: self._folder.missing(cid, index))
        if not entry.missing:
            await self._finish(entry)
        return cid, sorted(entry.missing)

    async def _write_own(self, cid: Cid, index: int, chunk: Buffer, what: str) -> None:
        if not await self.write_chunk(cid, index, chunk):
            raise InputError(f"{what} changed while it was read; try again")

    async def _finish(self, entry: _Entry) -> None:
        async with self._changing:
            if self._entries.get(entry.cid) is not entry:
                raise _gone(entry.cid)
            if entry.is_whole:
                return
            try:
                await self._in_thread(lambda: self._folder.finish(entry.cid, entry.index.size), shield=True)
            except StateUnusable:
                # Its files are not what they should be (somebody emptied the folder): the next `begin` starts afresh.
                self._forget(entry)
                raise
            entry.is_whole = True

    async def _checked(self, entry: _Entry, read: Callable[[], bytes | None]) -> bytes | None:
        """What `read` returns. If that is None the blob is damaged, and is dropped."""
        self._shelf.touch(entry.cid)
        stamp_ns = self._stamp_ns()

        def work() -> bytes | None:
            data = read()
            if data is not None:
                self._folder.note_use(entry.cid, stamp_ns)
            return data

        data = await self._in_thread(work)
        if data is None:
            async with self._changing:
                if self._entries.get(entry.cid) is entry:
                    self._forget(entry)
                    await self._in_thread(lambda: self._folder.remove(entry.cid), shield=True)
        return data

    def _forget(self, entry: _Entry) -> None:
        del self._entries[entry.cid]
        self._shelf.remove(entry.cid)

    def _stamp_ns(self) -> int:
        """Wall time, but growing by all means: the order of last use outlives a clock that is set back."""
        self._last_stamp_ns = max(self._last_stamp_ns + 1, time.time_ns())
        return self._last_stamp_ns

    async def _in_thread(self, work: Callable[[], T], *, shield: bool = False) -> T:
        """Errors of the disk become `StateUnusable`. What must not be left half done or undone is shielded."""
        with trio.CancelScope(shield=shield):
            try:
                return await trio.to_thread.run_sync(work, limiter=self._limiter)
            except OSError as error:
                raise _unusable(self._folder.root, error) from error

    async def _from_source(self, path: str, work: Callable[[], T]) -> T:
        try:
            return await trio.to_thread.run_sync(work, limiter=self._limiter)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error

    def _replace(self, going: list[Cid], cid: Cid, encoded: bytes, stamp_ns: int) -> None:
        for other in going:
            self._folder.remove(other)
        self._folder.add(cid, encoded, stamp_ns)

    def _restore(self) -> None:
        for found in self._folder.blobs():
            self._last_stamp_ns = found.used_ns
            self._entries[found.cid] = _Entry(found.cid, found.index, is_whole=found.is_whole)
            self._shelf.restore(found.cid, found.index.size + len(found.index.encode()))
        for cid, holder in self._folder.pins():
            self._shelf.pin(cid, holder)
        for cid in self._shelf.trim():
            del self._entries[cid]
            self._folder.remove(cid)


def _gone(cid: Cid) -> StateUnusable:
    return StateUnusable(f"the blob {cid} is not being stored, or had to make room for others; raise the cache limit")


def _unusable(root: Path, error: OSError) -> StateUnusable:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StateUnusable(f"the disk of the blob cache {root} is full: free some space there")
    return StateUnusable(f"cannot use the blob cache {root}: {error.strerror}")


def _open_source(path: str) -> BinaryIO:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # A pipe must not hold us up.
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f"cannot read {path}: not a regular file")
    return os.fdopen(descriptor, "rb")


def _chunks_from(source: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: source.read(CHUNK_BYTES), b"")


def _chunk_from(source: BinaryIO, number: int) -> bytes:
    source.seek(number * CHUNK_BYTES)
    return source.read(CHUNK_BYTES)
