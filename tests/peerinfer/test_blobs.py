from __future__ import annotations

import hashlib
import random

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerinfer.blobs import INDEX_BYTES_MAX, BlobIndex, checked_index, chunks_of, index_of, parse_index
from peerinfer.errors import LimitExceeded, ProtocolError
from peerinfer.ids import cid_of
from peerinfer.limits import BLOB_BYTES_MAX, BODY_BYTES_MAX, CHUNK_BYTES


def index_of_size(size: int) -> BlobIndex:
    """An index that says the size; its digests are of nothing."""
    return BlobIndex(size, bytes(32) * -(-size // CHUNK_BYTES))


@given(st.binary(max_size=200))
def test_any_bytes_are_an_index_or_a_protocol_error(data: bytes) -> None:
    try:
        index = parse_index(data)
    except ProtocolError:
        return
    assert index.encode() == data


nested = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=70)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(nested)
def test_any_messagepack_is_an_index_or_a_protocol_error(value: object) -> None:
    data = msgpack.packb(value)
    try:
        index = parse_index(data)
    except ProtocolError:
        return
    assert index.encode() == data


@given(st.integers(-1, 4 * CHUNK_BYTES), st.integers(0, 5), st.sampled_from([CHUNK_BYTES, CHUNK_BYTES - 1, 0, -1]))
def test_an_index_is_taken_only_if_size_and_chunks_agree(size: int, chunks: int, chunk_bytes: int) -> None:
    data = msgpack.packb((size, chunk_bytes, bytes(32 * chunks)))
    is_sound = size >= 0 and chunk_bytes == CHUNK_BYTES and chunks == (size + CHUNK_BYTES - 1) // CHUNK_BYTES
    if is_sound:
        assert parse_index(data) == BlobIndex(size, bytes(32 * chunks))
    else:
        with pytest.raises(ProtocolError):
            parse_index(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x93" * 5000,  # nested without end
        b"\xdd\xff\xff\xff\xff",  # claims four thousand million entries
        b"\xc6\xff\xff\xff\xff",  # claims four gigabytes
        msgpack.packb((0, CHUNK_BYTES)),
        msgpack.packb((0, CHUNK_BYTES, b"", 1)),
        msgpack.packb((0, CHUNK_BYTES, "")),
        msgpack.packb((0.0, CHUNK_BYTES, b"")),
        msgpack.packb((False, CHUNK_BYTES, b"")),
        msgpack.packb((0, CHUNK_BYTES, b"")) + b"\0",
        b"\x93\xcc\x00\xce\x00\x10\x00\x00\xc4\x00",  # a zero in two bytes: not the canonical form
        msgpack.packb((BLOB_BYTES_MAX + 1, CHUNK_BYTES, bytes(32 * 16385))),
        bytes(INDEX_BYTES_MAX + 1),
    ],
    ids=range(14),
)
def test_an_odd_index_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_index(data)


def test_the_largest_blob_has_an_index_that_fits_one_body() -> None:
    index = index_of_size(BLOB_BYTES_MAX)
    assert len(index.encode()) <= INDEX_BYTES_MAX <= BODY_BYTES_MAX
    assert parse_index(index.encode()) == index


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_an_index_describes_every_chunk(size: int) -> None:
    data = random.Random(size).randbytes(size)
    chunks = list(chunks_of(data))
    index = index_of(chunks)
    assert b"".join(chunks) == data
    assert index.size == size
    assert index.chunks == len(chunks)
    assert [index.chunk_size(number) for number in range(index.chunks)] == [len(chunk) for chunk in chunks]
    assert all(index.matches(number, chunk) for number, chunk in enumerate(chunks))
    assert parse_index(index.encode()) == index
    assert checked_index(index.cid, index.encode()) == index


def test_a_cid_is_the_same_on_every_machine() -> None:
    index = index_of(chunks_of(b"peerinfer"))
    expected = b"\x93\x09\xce\x00\x10\x00\x00\xc4\x20" + hashlib.sha256(b"peerinfer").digest()
    assert index.encode() == expected
    assert index.cid == cid_of(expected)


def test_a_chunk_matches_only_at_its_own_place_and_whole() -> None:
    data = random.Random(1).randbytes(CHUNK_BYTES + 10)
    first, last = (bytes(chunk) for chunk in chunks_of(data))
    index = index_of([first, last])
    assert index.matches(1, last)
    assert not index.matches(0, last)
    assert not index.matches(1, last[:-1])
    assert not index.matches(1, last[:-1] + b"?")
    assert not index.matches(2, last)
    assert not index.matches(-1, last)
    assert not index.matches(2, b"")


def test_an_index_under_another_name_is_refused() -> None:
    with pytest.raises(ProtocolError, match="hash"):
        checked_index(index_of([b"a"]).cid, index_of([b"b"]).encode())


def test_chunks_of_the_wrong_size_are_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="chunk 1"):
        index_of([b"short", b"more"])
    with pytest.raises(ValueError, match="chunk 0"):
        index_of([b""])
    with pytest.raises(ValueError, match="chunk 0"):
        index_of([bytes(CHUNK_BYTES + 1)])


def test_a_blob_that_never_ends_stops_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerinfer.blobs.BLOB_BYTES_MAX", 2 * CHUNK_BYTES)
    chunk = bytes(CHUNK_BYTES)
    taken = 0

    def endless() -> object:
        nonlocal taken
        while True:
            taken += 1
            yield chunk

    with pytest.raises(LimitExceeded):
        index_of(endless())  # type: ignore[arg-type]
    assert taken == 3
