"""Result blocks as a byte stream: what `GET /api/v1/jobs/ID/results` sends.

    record = length of the header (4 bytes, big-endian) | header (MessagePack map) | tensors

A header is one of
    {"first_item": int, "items": int, "rows": [[name, dtype, [dimension, …]], …]}   the tensors follow, one after the
                                                                other, little-endian, row-major, without padding;
                                                                strings in slots as `strings` has them
    {"end": true}                       everything was sent; a stream that stops without it was cut off
    {"error": line, "kind": name}       the node cannot go on; nothing follows
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import numpy as np

from peerinfer.control import ResultBlock
from peerinfer.errors import DecodeError, PeerinferError, kinds
from peerinfer.limits import GIB, HEADER_BYTES_MAX, NAME_CHARS_MAX, TENSOR_RANK_MAX, TENSORS_MAX
from peerinfer.strings import problem_of
from peerinfer.tensors import ITEM_BYTES, dtype_name, is_string, numpy_dtype

MEDIA_TYPE = "application/vnd.peerinfer.blocks"

BLOCK_BYTES_MAX = 4 * GIB
"""Outputs in one block, which both sides hold in memory."""

CHUNK_BYTES = 256 * 1024
"""Written at once, so that a slow reader holds up little."""

_LENGTH = struct.Struct("!I")


def encode_block(block: ResultBlock) -> Iterator[bytes | memoryview]:
    """The record of one block, in chunks of at most `CHUNK_BYTES`."""
    arrays = {name: np.ascontiguousarray(array) for name, array in block.rows.items()}
    rows = [[name, dtype_name(array.dtype), list(array.shape)] for name, array in arrays.items()]
    yield _record({"first_item": block.first_item, "items": block.items, "rows": rows})
    for array in arrays.values():
        if array.nbytes:
            little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
            data = little_endian.reshape(-1).view(np.uint8).data
            for start in range(0, len(data), CHUNK_BYTES):
                yield data[start : start + CHUNK_BYTES]


def encode_end() -> bytes:
    return _record({"end": True})


def encode_error(error: PeerinferError) -> bytes:
    return _record({"error": str(error), "kind": type(error).__name__})


def _record(header: dict[str, Any]) -> bytes:
    packed = msgpack.packb(header)
    return _LENGTH.pack(len(packed)) + bytes(packed)


class BlockDecoder:
    """Bytes in, blocks out. `ended` tells that the sender had no more to say."""

    def __init__(self) -> None:
        self.ended = False
        self._unread = bytearray()
        self._needed = _LENGTH.size
        self._step: Callable[[bytes], ResultBlock | None] = self._read_length
        self._header: _BlockHeader | None = None

    def feed(self, data: bytes) -> list[ResultBlock]:
        """Raises `DecodeError` for anything that is not such a stream, and the error that the sender reports."""
        self._unread += data
        blocks: list[ResultBlock] = []
        while len(self._unread) >= self._needed and not self.ended:
            taken = bytes(memoryview(self._unread)[: self._needed])
            del self._unread[: self._needed]
            block = self._step(taken)
            if block is not None:
                blocks.append(block)
        if self.ended and self._unread:
            raise DecodeError("bytes follow the end of the results")
        return blocks

    def _read_length(self, data: bytes) -> None:
        (length,) = _LENGTH.unpack(data)
        if not 0 < length <= HEADER_BYTES_MAX:
            raise DecodeError(f"a header of {length} bytes passes the limit of {HEADER_BYTES_MAX}")
        self._needed, self._step = length, self._read_header

    def _read_header(self, data: bytes) -> ResultBlock | None:
        try:
            raw = msgpack.unpackb(data)
        except (ValueError, msgpack.UnpackException) as error:
            raise DecodeError(f"a header is not MessagePack: {error}") from None
        if not isinstance(raw, dict):
            raise DecodeError("a header is not a map")
        if raw.get("end") is True:
            self.ended = True
            return None
        if "error" in raw:
            raise error_from(raw)
        self._header = _BlockHeader(raw)
        self._needed, self._step = self._header.body_bytes, self._read_body
        return None

    def _read_body(self, data: bytes) -> ResultBlock:
        assert self._header is not None
        self._needed, self._step = _LENGTH.size, self._read_length
        return self._header.block(data)


class _BlockHeader:
    def __init__(self, raw: dict[Any, Any]) -> None:
        try:
            self.first_item = _count(raw["first_item"])
            self.items = _count(raw["items"])
            self.rows = [(_name(name), _dtype(dtype), _shape(shape)) for name, dtype, shape in raw["rows"]]
        except (KeyError, TypeError, ValueError) as error:
            raise DecodeError(f"a header is not that of a block: {error}") from None
        if len(self.rows) > TENSORS_MAX:
            raise DecodeError(f"a block of {len(self.rows)} outputs passes the limit of {TENSORS_MAX}")
        self.body_bytes = sum(math.prod(shape) * ITEM_BYTES[dtype] for _, dtype, shape in self.rows)
        if self.body_bytes > BLOCK_BYTES_MAX:
            raise DecodeError(f"a block of {self.body_bytes} bytes passes the limit of {BLOCK_BYTES_MAX}")

    def block(self, data: bytes) -> ResultBlock:
        rows: dict[str, Any] = {}
        offset = 0
        for name, dtype, shape in self.rows:
            rows[name] = np.frombuffer(data, numpy_dtype(dtype), math.prod(shape), offset).reshape(shape)
            if is_string(dtype) and (problem := problem_of(rows[name])):
                raise DecodeError(f"output {name!r}: {problem}")
            offset += rows[name].nbytes
        return ResultBlock(self.first_item, self.items, rows)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 48:
        raise ValueError("not a count")
    return value


def _name(value: Any) -> str:
    if type(value) is not str or len(value) > NAME_CHARS_MAX:
        raise ValueError("not a name")
    return value


def _dtype(value: Any) -> str:
    if type(value) is not str or value not in ITEM_BYTES:
        raise ValueError("not a dtype that peerinfer carries")
    return value


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > TENSOR_RANK_MAX:
        raise ValueError("not a shape")
    return tuple(_count(dimension) for dimension in value)


def error_from(answer: Any) -> PeerinferError:
    """The error that a node reported as `{"error": line, "kind": name}`; of the base kind if its name is not known."""
    if not isinstance(answer, dict) or not isinstance(answer.get("error"), str):
        return PeerinferError("the node reported an error without saying which")
    error = PeerinferError.__new__(kinds().get(str(answer.get("kind")), PeerinferError))
    # Some kinds are built from more than their line (LimitExceeded), which does not travel.
    Exception.__init__(error, answer["error"])
    return error
