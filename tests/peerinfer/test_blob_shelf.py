from __future__ import annotations

import pytest

from peerinfer.blob_shelf import BlobShelf
from peerinfer.errors import LimitExceeded
from peerinfer.ids import Cid, cid_of

A, B, C, D = (cid_of(name) for name in (b"a", b"b", b"c", b"d"))


def shelf_of(bytes_max: int, *blobs: tuple[Cid, int]) -> BlobShelf:
    shelf = BlobShelf(bytes_max)
    for cid, size in blobs:
        assert shelf.place(cid, size) == []
    return shelf


def test_what_exactly_fits_takes_nothing_down() -> None:
    shelf = shelf_of(30, (A, 10), (B, 10), (C, 10))
    assert shelf.bytes_held == 30


def test_one_byte_more_takes_the_longest_unused_down() -> None:
    shelf = shelf_of(30, (A, 10), (B, 10), (C, 10))
    shelf.touch(A)
    assert shelf.place(D, 1) == [B]
    assert shelf.by_last_use() == [D, A, C]
    assert shelf.bytes_held == 21


def test_no_more_goes_than_must() -> None:
    shelf = shelf_of(30, (A, 10), (B, 10), (C, 10))
    assert shelf.place(D, 20) == [A, B]


def test_what_is_pinned_stays_and_the_next_one_goes() -> None:
    shelf = shelf_of(30, (A, 10), (B, 10), (C, 10))
    shelf.pin(A, "job")
    assert shelf.place(D, 10) == [B]


def test_when_pins_leave_no_room_nothing_changes() -> None:
    shelf = shelf_of(30, (A, 10), (B, 10), (C, 10))
    shelf.pin(A, "job")
    shelf.pin(C, "job")
    with pytest.raises(LimitExceeded):
        shelf.place(D, 11)
    assert shelf.by_last_use() == [C, B, A]
    assert shelf.bytes_held == 30
    assert shelf.place(D, 10) == [B]


def test_a_blob_larger_than_the_shelf_is_refused_and_one_of_its_size_is_not() -> None:
    shelf = shelf_of(30, (A, 10))
    with pytest.raises(LimitExceeded):
        shelf.place(B, 31)
    assert shelf.place(B, 30) == [A]


def test_a_blob_is_free_once_its_last_holder_lets_go() -> None:
    shelf = shelf_of(10, (A, 10))
    assert shelf.pin(A, "one")
    assert not shelf.pin(A, "one")
    assert shelf.pin(A, "two")
    assert shelf.unpin("one") == [A]
    with pytest.raises(LimitExceeded):
        shelf.place(B, 1)
    assert shelf.unpin("two") == [A]
    assert shelf.unpin("two") == []
    assert shelf.place(B, 1) == [A]


def test_a_lowered_limit_takes_down_what_is_not_pinned() -> None:
    shelf = BlobShelf(15)
    for cid in (A, B, C):
        shelf.restore(cid, 10)
    shelf.pin(A, "job")
    assert shelf.trim() == [B, C]
    assert shelf.by_last_use() == [A]
