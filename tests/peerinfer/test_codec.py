"""Any bytes give a message or `DecodeError`, and every message survives the way there and back."""

import dataclasses
import importlib
import math
import struct
import tracemalloc

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_strategies import (
    ANYTHING,
    FEW,
    SAME_EVERY_TIME,
    any_message,
    check_of,
    fields_on_the_wire,
    kind_of,
    messages,
    parts_of,
)

from peerinfer import codec
from peerinfer.codec import (
    LIST_ITEMS_MAX,
    blob,
    decode,
    decode_as,
    encode,
    fields_of,
    flag,
    listed,
    message,
    number,
    one_of,
    optional,
    packed_u32,
    part,
    record,
    registered,
    text,
    uint,
    wire,
)
from peerinfer.errors import DecodeError
from peerinfer.limits import HEADER_BYTES_MAX
from peerinfer.messages import Goodbye, Hello, JobDone, KeepAlive, Receipt, Window

MIB = 1024 * 1024


def tag_of(cls):
    return next(tag for tag, found in registered().items() if found is cls)


def check_error(error):
    line = str(error)
    assert "\n" not in line
    assert len(line) <= 200


def message_or_error(data):
    """Decodes; passes if that gives a registered message or `DecodeError`, and lets any other error through."""
    try:
        found = decode(data)
    except DecodeError as error:
        return check_error(error)
    assert type(found) in registered().values()
    return found


def as_raw(sent):
    return list(msgpack.unpackb(encode(sent)))


# --- there and back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", registered().values(), ids=lambda cls: cls.__name__)
@FEW
@given(data=st.data())
def test_every_message_comes_back_as_it_was_sent(cls, data):
    sent = data.draw(messages(cls))
    received = decode_as(cls, encode(sent))
    assert received == sent
    assert encode(received) == encode(sent)


@SAME_EVERY_TIME
@given(any_message())
def test_messages_are_read_from_any_buffer(sent):
    data = encode(sent)
    assert decode(bytearray(data)) == decode(memoryview(data)) == sent


@SAME_EVERY_TIME
@given(any_message(), st.lists(ANYTHING, min_size=1, max_size=3))
def test_fields_of_a_newer_peer_are_ignored(sent, news):
    assert decode(msgpack.packb([*as_raw(sent), *news])) == sent


@SAME_EVERY_TIME
@given(any_message())
def test_what_an_older_peer_leaves_out_is_filled_with_its_default(sent):
    declared = dataclasses.fields(type(sent))
    required = sum(1 for field in declared if field.default is dataclasses.MISSING)
    raw = as_raw(sent)
    for count in range(len(declared) + 1):
        data = msgpack.packb(raw[: 1 + count])
        if count < required:
            with pytest.raises(DecodeError, match=f"needs {required} fields, got {count}"):
                decode(data)
        else:
            kept = {field.name: getattr(sent, field.name) for field in declared[:count]}
            assert decode(data) == type(sent)(**kept)


def test_defaults_are_what_the_field_says():
    assert decode(msgpack.packb([tag_of(Hello), 1, "agent"])) == Hello(1, "agent", "")
    assert decode(msgpack.packb([tag_of(Window), 3])) == Window(3, "")


@part
class Inner:
    first: int = wire(uint(8))
    second: str = wire(text(4), default="-")


@pytest.fixture(name="outer")
def outer_message():
    """A message class that is registered for the length of one test."""

    @message(250)
    class Outer:
        one: Inner = wire(record(Inner))
        maybe: Inner | None = wire(optional(record(Inner)))
        many: tuple[Inner, ...] = wire(listed(record(Inner), 2))
        numbers: tuple[int, ...] = wire(packed_u32(2))
        nested: tuple[tuple[int, ...], ...] = wire(listed(packed_u32(2), 2))

    yield Outer
    del codec._BY_TAG[250], codec._TAGS[Outer]


def test_records_inside_messages_grow_and_shrink_like_messages(outer):
    data = msgpack.packb([250, [1], [2, "b", "from the future"], [[3], [4, "d"]], b"\1\0\0\0", []])
    assert decode(data) == outer(Inner(1, "-"), Inner(2, "b"), (Inner(3, "-"), Inner(4, "d")), (1,), ())


def test_a_record_is_carried_without_its_tag(outer):
    assert list(fields_of(Inner(7, "x"))) == [7, "x"]
    sent = outer(Inner(7, "x"), None, (), (), ((5,), ()))
    assert as_raw(sent) == [250, [7, "x"], None, [], b"", [struct.pack("<I", 5), b""]]


@pytest.mark.usefixtures("outer")
def test_the_error_names_the_class_and_the_field():
    with pytest.raises(DecodeError, match=r"Outer\.one: Inner\.second: not a text of at most 4 characters"):
        decode(msgpack.packb([250, [1, "abcde"], None, [], b"", []]))


# --- hostile bytes -------------------------------------------------------------------------------------------------


@SAME_EVERY_TIME
@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_an_error(data):
    message_or_error(data)


@SAME_EVERY_TIME
@given(any_message(), st.data())
def test_damaged_messages_are_a_message_or_an_error(sent, data):
    damaged = bytearray(encode(sent))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        match data.draw(st.sampled_from(["change", "cut", "insert", "repeat"])):
            case "change":
                damaged[at] = data.draw(st.integers(0, 255))
            case "cut":
                del damaged[at + 1 :]
            case "insert":
                damaged[at:at] = data.draw(st.binary(min_size=1, max_size=6))
            case "repeat":
                damaged += damaged[at:]
    message_or_error(bytes(damaged))


@SAME_EVERY_TIME
@given(st.sampled_from(sorted(registered())), st.lists(ANYTHING, max_size=14))
def test_any_values_under_a_known_tag_are_a_message_or_an_error(tag, values):
    message_or_error(msgpack.packb([tag, *values]))


@pytest.mark.parametrize(
    ("cls", "position", "field"),
    list(fields_on_the_wire()),
    ids=lambda value: value.__name__ if isinstance(value, type) else getattr(value, "name", ""),
)
@FEW
@given(data=st.data())
def test_a_field_of_another_type_is_an_error_or_kept_as_that_type(cls, position, field, data):
    raw = as_raw(data.draw(messages(cls)))
    raw[1 + position] = data.draw(ANYTHING)
    found = message_or_error(msgpack.packb(raw))
    if found is not None:
        value = getattr(found, field.name)
        assert value is None or type(value) in (int, float, str, bytes, bool, tuple) or dataclasses.is_dataclass(value)
        assert encode(found)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",  # the one code that MessagePack never uses
        msgpack.packb(None),
        msgpack.packb({}),
        msgpack.packb([]),
        msgpack.packb(["1", 1]),
        msgpack.packb([True, "reason"]),
        msgpack.packb([10.0, "reason"]),
        msgpack.packb([[10], "reason"]),
        msgpack.packb([-1]),
        msgpack.packb([9999, 1]),
        msgpack.packb([2**64 - 1]),
        msgpack.packb([10, "one"]) + b"\0",
        msgpack.packb([10, "one"]) * 2,
        msgpack.packb([10, msgpack.ExtType(5, b"x")]),
        msgpack.packb([10, msgpack.Timestamp(1, 2)]),
        b"\x92\x0a\xc7\x0c\xff" + b"\xff" * 12,  # a timestamp with more nanoseconds than a second has
        b"\x92\x0a\xd5\xff\0\0",  # a timestamp of two bytes
        b"\x92\x0a\xa2\xff\xfe",  # a text that is not UTF-8
        b"\x92\x0a\xa3\xed\xa0\x80",  # half a surrogate pair
        b"\x92\x0a\x81\x90\x01",  # a map whose key is a list
        b"\x92\x0a\x81\x01\x01",  # a map whose key is a number
    ],
    ids=repr,
)
def test_what_is_no_message_is_an_error(data):
    with pytest.raises(DecodeError):
        decode(data)


@pytest.mark.parametrize(
    "code", [b"\xdb", b"\xc6", b"\xdd", b"\xdf", b"\xc9"], ids=["str", "bin", "list", "map", "ext"]
)
@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF, HEADER_BYTES_MAX])
def test_a_declared_length_alone_allocates_nothing(code, length):
    data = b"\x92\x0a" + code + struct.pack(">I", length) + b"\0" * 16
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("opening", [b"\x91", b"\x92\x01", b"\x81\xa1a", b"\xdc\x00\x02\x01"])
@pytest.mark.parametrize("depth", [100, 600, 5_000, 200_000])
def test_deep_nesting_is_an_error(opening, depth):
    data = (b"\x92\x0a" + opening * depth + b"\xc0")[: HEADER_BYTES_MAX - 1]
    with pytest.raises(DecodeError):
        decode(data)


@pytest.mark.parametrize("opening", [b"\xdd\x00\x08\x00\x00", b"\xdc\xff\xff", b"\xdc\x10\x00"])
def test_nested_lists_that_claim_many_items_cost_little(opening):
    data = (b"\x92\x0a" + opening * 1000).ljust(HEADER_BYTES_MAX, b"\xc0")
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 40 * MIB
    finally:
        tracemalloc.stop()


def test_no_field_may_hold_a_longer_list_than_the_codec_reads():
    for name in ("evidence_messages", "lease_messages", "messages", "replica_messages", "spread_messages"):
        importlib.import_module(f"peerinfer.{name}")

    def lists_in(check):
        if kind_of(check) == "listed":
            yield parts_of(check)["count_max"]
        if kind_of(check) == "record":
            for field in dataclasses.fields(parts_of(check)["layout"].cls):
                yield from lists_in(check_of(field))
        inner = parts_of(check).get("inner") if check.__closure__ else None
        if inner is not None:
            yield from lists_in(inner)

    longest = max(count for _, _, field in fields_on_the_wire() for count in lists_in(check_of(field)))
    assert longest <= LIST_ITEMS_MAX


def test_the_size_of_a_message_is_limited_both_ways():
    data = msgpack.packb([tag_of(KeepAlive), b"\0" * (HEADER_BYTES_MAX - 7)])
    assert len(data) == HEADER_BYTES_MAX
    assert decode(data) == KeepAlive()
    with pytest.raises(DecodeError, match="limit"):
        decode(msgpack.packb([tag_of(KeepAlive), b"\0" * (HEADER_BYTES_MAX - 6)]))
    with pytest.raises(ValueError, match="Goodbye takes"):
        encode(Goodbye("x" * HEADER_BYTES_MAX))


def test_a_message_of_another_class_is_an_error():
    with pytest.raises(DecodeError, match="expected Receipt, got JobDone"):
        decode_as(Receipt, encode(JobDone("job")))


def test_a_tag_is_given_once():
    with pytest.raises(ValueError, match="tag 1 is Hello's"):

        @message(1)
        class Impostor:
            pass

    assert registered()[1] is Hello


def test_messages_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Goodbye("now").reason = "later"


# --- each check at its edge ----------------------------------------------------------------------------------------

GOOD = [
    (uint(8), 0, 0),
    (uint(8), 255, 255),
    (uint(63), 2**63 - 1, 2**63 - 1),
    (text(4), "", ""),
    (text(4), "äöü€", "äöü€"),
    (blob(4), b"", b""),
    (blob(4), b"1234", b"1234"),
    (blob(32, exactly=32), b"x" * 32, b"x" * 32),
    (flag, True, True),
    (flag, False, False),
    (number, 0.0, 0.0),
    (number, 5, 5.0),
    (number, -1.7e308, -1.7e308),
    (number, 2**64 - 1, float(2**64 - 1)),
    (one_of("a", "b"), "b", "b"),
    (optional(uint(8)), None, None),
    (optional(uint(8)), 9, 9),
    (listed(uint(8), 3), [], ()),
    (listed(uint(8), 3), [1, 2, 3], (1, 2, 3)),
    (packed_u32(2), b"", ()),
    (packed_u32(2), b"\xff\xff\xff\xff\1\0\0\0", (2**32 - 1, 1)),
]
BAD = [
    (uint(8), 256),
    (uint(8), -1),
    (uint(8), True),
    (uint(8), 1.0),
    (uint(8), "1"),
    (uint(8), None),
    (uint(63), 2**63),
    (text(4), "äöü€!"),
    (text(4), b"abc"),
    (text(4), None),
    (blob(4), b"12345"),
    (blob(4), "1234"),
    (blob(4), [1, 2]),
    (blob(32, exactly=32), b"x" * 31),
    (blob(32, exactly=32), b"x" * 33),
    (flag, 1),
    (flag, None),
    (number, math.nan),
    (number, math.inf),
    (number, -math.inf),
    (number, True),
    (number, "1.0"),
    (number, None),
    (one_of("a", "b"), "c"),
    (one_of("a", "b"), ["a"]),
    (one_of("a", "b"), None),
    (optional(uint(8)), 256),
    (listed(uint(8), 3), [1, 2, 3, 4]),
    (listed(uint(8), 3), [1, 256]),
    (listed(uint(8), 3), "abc"),
    (listed(uint(8), 3), {1: 2}),
    (listed(uint(8), 3), None),
    (packed_u32(2), b"123"),
    (packed_u32(2), b"123456789012"),
    (packed_u32(2), "1234"),
    (packed_u32(2), [1]),
    (record(Inner), []),
    (record(Inner), 5),
    (record(Inner), "ab"),
    (record(Inner), {}),
]


@pytest.mark.parametrize(("check", "raw", "kept"), GOOD)
def test_a_value_at_the_edge_is_taken(check, raw, kept):
    assert check(raw) == kept
    assert type(check(raw)) is type(kept)


@pytest.mark.parametrize(("check", "raw"), BAD)
def test_a_value_past_the_edge_is_refused(check, raw):
    with pytest.raises(ValueError, match=r"not|none|neither|needs"):
        check(raw)
