"""The byte stream of results: whatever is encoded comes back, and bytes that are not such a stream are one error."""

from __future__ import annotations

import struct
from contextlib import suppress

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerinfer.control import ResultBlock
from peerinfer.errors import DecodeError, InputError, LimitExceeded, PeerinferError
from peerinfer.result_blocks import CHUNK_BYTES, BlockDecoder, encode_block, encode_end, encode_error
from peerinfer.strings import LENGTH_BYTES, pack
from peerinfer.tensors import ITEM_BYTES, is_string, numpy_dtype


def _bytes_of(*blocks: ResultBlock) -> bytes:
    return b"".join(bytes(chunk) for block in blocks for chunk in encode_block(block))


def _record(header: object, body: bytes = b"") -> bytes:
    packed = msgpack.packb(header)
    return struct.pack("!I", len(packed)) + packed + body


@pytest.mark.parametrize("dtype", [dtype for dtype in ITEM_BYTES if not is_string(dtype)])
def test_every_dtype_comes_back_bit_for_bit(dtype: str) -> None:
    raw = np.random.default_rng(0).integers(0, 2, (3, 4)).astype(dtype)
    (block,) = BlockDecoder().feed(_bytes_of(ResultBlock(7, 3, {"y": raw, "z": raw[:, :0]})))
    assert (block.first_item, block.items, list(block.rows)) == (7, 3, ["y", "z"])
    assert block.rows["y"].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(block.rows["y"], raw)
    assert block.rows["z"].shape == (3, 0)


@pytest.mark.parametrize("dtype", [dtype for dtype in ITEM_BYTES if is_string(dtype)])
def test_strings_of_every_width_come_back_as_they_were(dtype: str) -> None:
    slot = ITEM_BYTES[dtype]
    raw = pack([b"x" * (slot - LENGTH_BYTES), b"", "ü".encode(), b"\0"], (2, 2), slot=slot)
    (block,) = BlockDecoder().feed(_bytes_of(ResultBlock(7, 2, {"y": raw})))
    assert block.rows["y"].dtype == numpy_dtype(dtype)
    assert block.rows["y"].tobytes() == raw.tobytes()


def test_arrays_that_are_strided_or_big_endian_come_back_with_their_values() -> None:
    big = np.arange(12, dtype=">f4").reshape(3, 4)
    (block,) = BlockDecoder().feed(_bytes_of(ResultBlock(0, 3, {"y": big, "t": big.astype("<f4").T[:3]})))
    np.testing.assert_array_equal(block.rows["y"], big)
    np.testing.assert_array_equal(block.rows["t"], big.T[:3])


@given(cuts=st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_it_does_not_matter_where_the_stream_is_cut(cuts: list[int]) -> None:
    blocks = [ResultBlock(first, 2, {"y": np.full((2, 3), first, np.int64)}) for first in (4, 0, 2)]
    data = _bytes_of(*blocks) + encode_end()
    decoder, found, position, turn = BlockDecoder(), [], 0, 0
    while position < len(data):
        step = cuts[turn % len(cuts)]
        found += decoder.feed(data[position : position + step])
        position, turn = position + step, turn + 1
    assert decoder.ended
    assert [block.first_item for block in found] == [4, 0, 2]
    assert all((block.rows["y"] == block.first_item).all() for block in found)


def test_a_large_array_is_sent_in_small_chunks() -> None:
    chunks = list(encode_block(ResultBlock(0, 1, {"y": np.zeros((1, 1_000_000), np.float32)})))
    assert max(len(chunk) for chunk in chunks) == CHUNK_BYTES


def test_a_reported_error_is_raised_as_its_kind() -> None:
    with pytest.raises(InputError, match="bad input"):
        BlockDecoder().feed(encode_error(InputError("bad input")))


def test_a_kind_that_is_built_from_numbers_keeps_its_line() -> None:
    error = LimitExceeded("jobs", current=1, attempted=2, limit=2, unit="jobs")
    with pytest.raises(LimitExceeded, match="would pass the limit of 2 jobs"):
        BlockDecoder().feed(encode_error(error))


def test_an_unknown_kind_is_an_error_of_ours_all_the_same() -> None:
    with pytest.raises(PeerinferError, match="new trouble"):
        BlockDecoder().feed(_record({"error": "new trouble", "kind": "FromTheFuture"}))


_GOOD = {"first_item": 0, "items": 1, "rows": [["y", "float32", [1, 2]]]}


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        b"\0\0\0\0",
        struct.pack("!I", 3) + b"\xc1\xc1\xc1",
        _record([1, 2]),
        _record({}),
        _record({**_GOOD, "first_item": -1}),
        _record({**_GOOD, "items": True}),
        _record({**_GOOD, "rows": 5}),
        _record({**_GOOD, "rows": [["y", "object", [1]]]}),
        _record({**_GOOD, "rows": [["y", "float32", [-1]]]}),
        _record({**_GOOD, "rows": [["y", "float32", [1 << 40, 1 << 40]]]}),
        _record({**_GOOD, "rows": [["y", "float32", [1] * 17]]}),
        _record({**_GOOD, "rows": [["y", "float32", [0]]] * 65}),
        _record({**_GOOD, "rows": [[["y"], "float32", [1]]]}),
        encode_end() + b"x",
    ],
)
def test_bytes_that_are_not_results_are_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        BlockDecoder().feed(data)


@given(st.binary(max_size=200))
def test_any_bytes_give_blocks_or_one_well_defined_error(data: bytes) -> None:
    with suppress(PeerinferError):
        BlockDecoder().feed(data)


def test_a_stream_that_stops_is_not_taken_for_whole() -> None:
    decoder = BlockDecoder()
    decoder.feed(_bytes_of(ResultBlock(0, 1, {"y": np.zeros((1, 2))}))[:-1])
    assert not decoder.ended
