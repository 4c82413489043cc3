"""Blobs: bytes named by the hash of their index.

A blob is cut into chunks of `CHUNK_BYTES`. Its *index* lists their SHA-256 digests; the blob's cid is the hash of the
index's bytes. So every chunk can be checked by itself, in any order and from anyone, and one content has one cid.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgpack

from peerinfer.errors import LimitExceeded, ProtocolError
from peerinfer.ids import Cid, cid_of
from peerinfer.limits import BLOB_BYTES_MAX, CHUNK_BYTES

_DIGEST_BYTES = 32
INDEX_BYTES_MAX = -(-BLOB_BYTES_MAX // CHUNK_BYTES) * _DIGEST_BYTES + 64
"""The digests of the largest blob and the few bytes around them."""


@dataclass(frozen=True, slots=True)
class BlobIndex:
    """What a blob consists of: its size in bytes and the SHA-256 digest of each chunk. Raises ValueError if unsound."""

    size: int
    digests: bytes
    """32 bytes for each chunk, one after the other."""
    chunk_bytes: int = CHUNK_BYTES
    """Every blob of this version has the same; on the wire it is there so that a later version can tell."""

    def __post_init__(self) -> None:
        if type(self.size) is not int or not 0 <= self.size <= BLOB_BYTES_MAX:
            raise ValueError(f"not a size of at most {BLOB_BYTES_MAX} bytes")
        if type(self.chunk_bytes) is not int or self.chunk_bytes != CHUNK_BYTES:
            raise ValueError(f"chunks are {CHUNK_BYTES} bytes")
        if type(self.digests) is not bytes or len(self.digests) != self.chunks * _DIGEST_BYTES:
            raise ValueError(f"{self.size} bytes are {self.chunks} chunks, and the digests are not as many")

    @property
    def chunks(self) -> int:
        return -(-self.size // self.chunk_bytes)

    @property
    def cid(self) -> Cid:
        return cid_of(self.encode())

    def chunk_size(self, index: int) -> int:
        """Bytes of one chunk; only the last may be shorter than `chunk_bytes`."""
        return min(self.chunk_bytes, self.size - index * self.chunk_bytes)

    def matches(self, index: int, data: bytes | bytearray | memoryview) -> bool:
        """True if `data` is the chunk with this index; False for any other data and any other number."""
        if not 0 <= index < self.chunks or memoryview(data).nbytes != self.chunk_size(index):
            return False
        start = index * _DIGEST_BYTES
        return hashlib.sha256(data).digest() == self.digests[start : start + _DIGEST_BYTES]

    def encode(self) -> bytes:
        encoded: bytes = msgpack.packb((self.size, self.chunk_bytes, self.digests))
        return encoded


def parse_index(data: bytes | bytearray | memoryview) -> BlobIndex:
    """The index that these bytes are, or `ProtocolError`. Only the one canonical form is taken."""
    if len(data) > INDEX_BYTES_MAX:
        raise ProtocolError(f"a blob's index of {len(data)} bytes passes the limit of {INDEX_BYTES_MAX}")
    try:
        raw = msgpack.unpackb(data, use_list=False)
        if type(raw) is not tuple or len(raw) != 3:
            raise ValueError("not a record of three")
        size, chunk_bytes, digests = raw
        index = BlobIndex(size, digests, chunk_bytes)
        if index.encode() != data:
            raise ValueError("not the canonical form")
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise ProtocolError(f"not a blob's index: {error}"[:200]) from None
    return index


def checked_index(cid: str, data: bytes | bytearray | memoryview) -> BlobIndex:
    """The index of the blob `cid`. Raises `ProtocolError` if the bytes do not have this name."""
    if len(data) > INDEX_BYTES_MAX or cid_of(bytes(data)) != cid:
        raise ProtocolError("the index does not have the hash that the blob's name says")
    return parse_index(data)


def chunks_of(data: bytes | bytearray | memoryview) -> Iterator[memoryview]:
    view = memoryview(data).cast("B")
    for start in range(0, len(view), CHUNK_BYTES):
        yield view[start : start + CHUNK_BYTES]


def index_of(chunks: Iterable[bytes | memoryview]) -> BlobIndex:
    """The index of these chunks, taken one at a time. All but the last must have `CHUNK_BYTES`, none may be empty.

    Raises `LimitExceeded` as soon as they pass `BLOB_BYTES_MAX`.
    """
    digests = bytearray()
    size = 0
    for chunk in chunks:
        if size % CHUNK_BYTES or not 0 < len(chunk) <= CHUNK_BYTES:
            raise ValueError(f"chunk {len(digests) // _DIGEST_BYTES} has {len(chunk)} bytes")
        if size + len(chunk) > BLOB_BYTES_MAX:
            raise LimitExceeded(
                "the size of a blob", current=size, attempted=len(chunk), limit=BLOB_BYTES_MAX, unit="bytes"
            )
        size += len(chunk)
        digests += hashlib.sha256(chunk).digest()
    return BlobIndex(size, bytes(digests))


def marked(chunks: Iterable[int]) -> bytes:
    """Numbers of chunks as one bit for each: the lowest bit of the first byte is chunk 0. At least one byte."""
    bits = 0
    for number in chunks:
        bits |= 1 << number
    return bits.to_bytes(max(1, -(-bits.bit_length() // 8)), "little")


def chunks_in(marks: bytes) -> frozenset[int]:
    """What `marked` made of numbers of chunks."""
    return frozenset(8 * place + bit for place, byte in enumerate(marks) if byte for bit in range(8) if byte >> bit & 1)
