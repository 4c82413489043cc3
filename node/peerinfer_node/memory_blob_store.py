"""Blobs in memory: the simulator's twin of `blob_store`, with the same promises and without threads."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from peerinfer.blob_shelf import BlobShelf
from peerinfer.blobs import BlobIndex, checked_index, chunks_of, index_of
from peerinfer.errors import InputError, ProtocolError, StateUnusable
from peerinfer.ids import Cid, digest_of_cid
from peerinfer.limits import GIB
from peerinfer.tensors import Buffer


class _Entry:
    def __init__(self, index: BlobIndex) -> None:
        self.index = index
        self.chunks: dict[int, bytes] = {}

    @property
    def is_whole(self) -> bool:
        return len(self.chunks) == self.index.chunks


class MemoryBlobStore:
    """Implements `ports.BlobStore`."""

    def __init__(self, bytes_max: int = GIB) -> None:
        self._shelf = BlobShelf(bytes_max)
        self._entries: dict[Cid, _Entry] = {}

    async def put(self, data: Buffer) -> Cid:
        index = index_of(chunks_of(data))
        entry = self._begin(index.cid, index)
        for number, chunk in enumerate(chunks_of(data)):
            entry.chunks[number] = bytes(chunk)
        return index.cid

    async def put_file(self, path: str) -> Cid:
        try:
            data = Path(path).read_bytes()  # noqa: ASYNC240 - simulations run without threads
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        return await self.put(data)

    async def has(self, cid: Cid) -> bool:
        return self._whole(cid) is not None

    async def held(self) -> list[Cid]:
        return [cid for cid in self._shelf.by_last_use() if self._entries[cid].is_whole]

    async def read(self, cid: Cid) -> bytes:
        entry = self._whole(cid)
        if entry is None:
            raise KeyError(cid)
        self._shelf.touch(cid)
        return b"".join(chunk for _, chunk in sorted(entry.chunks.items()))

    async def manifest(self, cid: Cid) -> bytes | None:
        entry = self._whole(cid)
        return None if entry is None else entry.index.encode()

    async def pieces(self, cid: Cid) -> tuple[bytes, frozenset[int] | None] | None:
        entry = self._entries.get(cid)
        if entry is None:
            return None
        return entry.index.encode(), None if entry.is_whole else frozenset(entry.chunks)

    async def read_chunk(self, cid: Cid, index: int) -> bytes | None:
        entry = self._entries.get(cid)
        if entry is None or index not in entry.chunks:
            return None
        self._shelf.touch(cid)
        return entry.chunks[index]

    async def begin(self, cid: Cid, manifest: bytes) -> list[int]:
        entry = self._begin(cid, checked_index(cid, manifest))
        return [number for number in range(entry.index.chunks) if number not in entry.chunks]

    async def write_chunk(self, cid: Cid, index: int, data: Buffer) -> bool:
        """Raises `StateUnusable` if the blob was not begun, or had to go again while it came in."""
        entry = self._entries.get(cid)
        if entry is None:
            raise StateUnusable(f"the blob {cid} is not being stored, or had to make room for others")
        if not entry.index.matches(index, data):
            return False
        self._shelf.touch(cid)
        entry.chunks[index] = bytes(data)
        return True

    async def pin(self, cid: Cid, holder: str) -> None:
        """The blob may come later. Raises `ProtocolError` if `cid` is none."""
        try:
            digest_of_cid(cid)
        except ValueError as error:
            raise ProtocolError(f"not the name of a blob: {error}") from None
        self._shelf.pin(cid, holder)

    async def unpin(self, holder: str, *, discard: bool = False) -> None:
        for cid in self._shelf.unpin(holder):
            if discard:
                await self.discard(cid)

    async def unpin_all_but(self, holders: Collection[str]) -> None:
        for holder in self._shelf.holders:
            if holder not in holders:
                self._shelf.unpin(holder)

    async def discard(self, cid: Cid) -> None:
        if cid in self._entries and not self._shelf.is_pinned(cid):
            self._shelf.remove(cid)
            del self._entries[cid]

    def _whole(self, cid: Cid) -> _Entry | None:
        entry = self._entries.get(cid)
        return entry if entry is not None and entry.is_whole else None

    def _begin(self, cid: Cid, index: BlobIndex) -> _Entry:
        if cid in self._entries:
            self._shelf.touch(cid)
        else:
            for other in self._shelf.place(cid, index.size + len(index.encode())):
                del self._entries[other]
            self._entries[cid] = _Entry(index)
        return self._entries[cid]
