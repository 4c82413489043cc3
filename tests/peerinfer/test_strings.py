"""Strings in slots: what goes in comes out, has one form, and nothing else is believed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerinfer.errors import InputError
from peerinfer.limits import STRING_SLOT_BYTES_MAX
from peerinfer.strings import (
    STRING_BYTES_MAX,
    contents,
    pack,
    packed,
    problem_of,
    slot_for,
    unpacked,
    widened,
)
from peerinfer.tensors import ITEM_BYTES, dtype_name, feeds, numpy_dtype

texts = st.lists(st.text(max_size=40), max_size=12)


@given(texts)
def test_what_is_packed_comes_out_again_and_has_nothing_wrong_with_it(values: list[str]) -> None:
    array = np.array([*values, ""], object)[:-1]
    slots = packed(array)
    assert unpacked(slots).tolist() == values
    assert problem_of(slots) == ""
    assert unpacked(widened(slots, 2 * slots.dtype.itemsize)).tolist() == values


@given(texts, st.integers(0, 1 << 20), st.integers(1, 255))
def test_a_changed_byte_is_seen_or_makes_another_string(values: list[str], place: int, change: int) -> None:
    slots = packed(np.array([*values, "end"], object))
    raw = bytearray(slots.tobytes())
    raw[place % len(raw)] ^= change
    forged = np.frombuffer(raw, slots.dtype)
    if not problem_of(forged):
        found = unpacked(forged)
        assert found.tolist() != unpacked(slots).tolist()
        assert packed(found, slot=slots.dtype.itemsize).tobytes() == bytes(raw), "a string has one form only"


@pytest.mark.parametrize(
    ("slot", "problem"),
    [
        (b"\x05\0\0\0abcd", "longer than its slot"),
        (b"\xff\xff\xff\xffabcd", "longer than its slot"),
        (b"\x03\0\0\0abcd", "behind a string"),
        (b"\x02\0\0\0\xc3\x28\0\0", "not UTF-8"),
        (b"\x01\0\0\0\xc3\0\0\0", "not UTF-8"),
        (b"\x04\0\0\0\0\0\0\0", ""),
    ],
)
def test_hostile_slots_are_named_for_what_they_are(slot: bytes, problem: str) -> None:
    found = problem_of(np.frombuffer(slot, "V8"))
    assert problem in found
    assert bool(found) == bool(problem)


def test_zeros_at_the_end_of_a_string_are_kept() -> None:
    array = np.array([["a\0", "\0"], ["", "é\0\0"]], object)
    assert unpacked(packed(array)).tolist() == array.tolist()


def test_arrays_of_every_kind_of_string_are_taken() -> None:
    wanted = [b"a", "löng".encode()]
    for array in (
        np.array(["a", "löng"]),
        np.array(wanted),
        np.array(wanted, object),
        np.array(["a", "löng"], object),
        np.array(["a", "löng"]).astype(">U6"),
    ):
        assert contents(packed(array)) == wanted


@pytest.mark.parametrize(
    ("array", "line"),
    [
        (np.array([1, "a"], object), "not strings"),
        (np.array([1.0, 2.0]), "not strings"),
        (np.array([b"\xff"]), "not UTF-8"),
        (np.array([b"\xc3", b"\xa4"], object), "not UTF-8"),
        (np.array(["\ud800"], object), "not UTF-8"),
        (np.array(["x" * (STRING_BYTES_MAX + 1)], object), f"at most {STRING_BYTES_MAX}"),
    ],
)
def test_what_no_model_takes_is_refused_in_one_line(array: np.ndarray, line: str) -> None:
    with pytest.raises(InputError, match=line):
        packed(array)


def test_the_longest_string_fits_and_the_widths_are_those_that_the_protocol_names() -> None:
    assert slot_for(STRING_BYTES_MAX) == STRING_SLOT_BYTES_MAX
    assert [slot_for(size) for size in (0, 4, 5, 12, 13)] == [8, 8, 16, 16, 32]
    for dtype in ("string8", "string1048576"):
        assert dtype_name(numpy_dtype(dtype)) == dtype
        assert numpy_dtype(dtype).itemsize == ITEM_BYTES[dtype]
    assert "string2097152" not in ITEM_BYTES
    assert "string4" not in ITEM_BYTES


def test_an_empty_tensor_has_a_width_too() -> None:
    assert dtype_name(pack([], (0, 3)).dtype) == "string8"
    assert problem_of(pack([], (0,))) == ""


def test_any_width_feeds_a_string_and_nothing_else_does() -> None:
    assert feeds("string64", "string")
    assert not feeds("string64", "float32")
    assert not feeds("float32", "string")
