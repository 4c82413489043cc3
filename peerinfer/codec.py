"""Messages to bytes and back: typed, bounded, total.

A message is a frozen dataclass whose fields are declared with `wire(check)`. On the wire it is one MessagePack array,
`[tag, field, field, …]`, in the order of declaration. Positions are for ever: a new field goes to the end with a
default, so that an older peer's message (too short) is filled up and a newer peer's (too long) is cut; unknown trailing
fields are ignored, unknown tags are an error.

Decoding is total: any bytes give a message or `DecodeError`, and nothing is allocated on the word of a length alone.
A check takes the raw value and returns the value to keep, or raises ValueError.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform

import msgpack

from peerinfer.errors import DecodeError
from peerinfer.limits import HEADER_BYTES_MAX

Check = Callable[[Any], Any]
M = TypeVar("M")

LIST_ITEMS_MAX = 4096
"""No list in a message is longer, a newer peer's unknown fields included: a thousand nested headers that each claim a
million items would otherwise take gigabytes before the message turns out to be cut short. These take 32 MiB at most."""

_CHECK = "peerinfer.check"
_TO_WIRE = "peerinfer.to_wire"
_REQUIRED = object()


def wire(check: Check, default: Any = _REQUIRED) -> Any:
    """Declares one field of a message. A default is what an older peer means by leaving it out."""
    metadata = {_CHECK: check}
    if default is _REQUIRED:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


# --- checks --------------------------------------------------------------------------------------------------------


def uint(bits: int) -> Check:
    limit = 1 << bits

    def check(value: Any) -> int:
        if type(value) is not int or not 0 <= value < limit:
            raise ValueError(f"not an unsigned integer of {bits} bits")
        return value

    return check


def text(chars_max: int) -> Check:
    def check(value: Any) -> str:
        if type(value) is not str or len(value) > chars_max:
            raise ValueError(f"not a text of at most {chars_max} characters")
        return value

    return check


def blob(bytes_max: int, *, exactly: int | None = None) -> Check:
    def check(value: Any) -> bytes:
        if type(value) is not bytes or len(value) > bytes_max or (exactly is not None and len(value) != exactly):
            raise ValueError(
                f"not a byte string of {'at most ' if exactly is None else ''}{exactly or bytes_max} bytes"
            )
        return value

    return check


def flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("neither true nor false")
    return value


def number(value: Any) -> float:
    """A finite number; integers are taken as floats."""
    if type(value) is int:
        value = float(value)
    if type(value) is not float or not math.isfinite(value):
        raise ValueError("not a finite number")
    return value


def one_of(*choices: str) -> Check:
    allowed = frozenset(choices)

    def check(value: Any) -> str:
        if type(value) is not str or value not in allowed:
            raise ValueError(f"none of {', '.join(choices)}")
        return value

    return check


def optional(inner: Check) -> Check:
    def check(value: Any) -> Any:
        return None if value is None else inner(value)

    return _forward(check, inner, lambda to_wire: lambda value: None if value is None else to_wire(value))


def listed(inner: Check, count_max: int) -> Check:
    """A tuple of at most `count_max` checked values."""

    def check(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)) or len(value) > count_max:
            raise ValueError(f"not a list of at most {count_max}")
        return tuple(inner(item) for item in value)

    return _forward(check, inner, lambda to_wire: lambda value: [to_wire(item) for item in value])


def packed_u32(count_max: int) -> Check:
    """A tuple of 32-bit numbers, carried as one little-endian byte string: a frame's tasks cost microseconds."""

    def check(value: Any) -> tuple[int, ...]:
        if type(value) is not bytes or len(value) % 4 or len(value) > 4 * count_max:
            raise ValueError(f"not at most {count_max} packed 32-bit numbers")
        return struct.unpack(f"<{len(value) // 4}I", value)

    setattr(check, _TO_WIRE, lambda value: struct.pack(f"<{len(value)}I", *value))
    return check


def record(cls: type[Any]) -> Check:
    """A nested message, carried without its tag."""
    layout = _layout(cls)

    def check(value: Any) -> Any:
        return layout.build(value, 0)

    setattr(check, _TO_WIRE, layout.fields)
    return check


def fields_of(part: Any) -> Sequence[Any]:
    """A part or message as MessagePack takes it, without a tag: what `record` of its class reads back."""
    return _layout(type(part)).fields(part)


def _forward(check: Check, inner: Check, wrap: Callable[[Check], Check]) -> Check:
    to_wire = getattr(inner, _TO_WIRE, None)
    if to_wire is not None:
        setattr(check, _TO_WIRE, wrap(to_wire))
    return check


# --- layouts -------------------------------------------------------------------------------------------------------


class _Layout:
    """How one class lies on the wire."""

    def __init__(self, cls: type[Any]) -> None:
        declared = dataclasses.fields(cls)
        self.cls = cls
        self.names = [field.name for field in declared]
        self.checks: list[Check] = [field.metadata[_CHECK] for field in declared]
        self.required = sum(1 for field in declared if field.default is dataclasses.MISSING)
        self.converters = [
            (position, getattr(check, _TO_WIRE))
            for position, check in enumerate(self.checks)
            if hasattr(check, _TO_WIRE)
        ]
        if not self.names:
            self._get: Callable[[Any], tuple[Any, ...]] = lambda message: ()
        elif len(self.names) == 1:
            single = attrgetter(self.names[0])
            self._get = lambda message: (single(message),)
        else:
            self._get = attrgetter(*self.names)

    def fields(self, message: Any) -> Sequence[Any]:
        values = self._get(message)
        if not self.converters:
            return values
        converted = list(values)
        for position, to_wire in self.converters:
            converted[position] = to_wire(converted[position])
        return converted

    def build(self, raw: Any, start: int) -> Any:
        if not isinstance(raw, (list, tuple)):
            raise ValueError("not a record")
        if len(raw) - start < self.required:
            raise ValueError(f"{self.cls.__name__} needs {self.required} fields, got {len(raw) - start}")
        values = []
        position = start
        for check in self.checks:
            if position == len(raw):
                break
            try:
                values.append(check(raw[position]))
            except ValueError as error:
                raise ValueError(f"{self.cls.__name__}.{self.names[position - start]}: {error}") from None
            position += 1
        return self.cls(*values)


_LAYOUTS: dict[type[Any], _Layout] = {}
_BY_TAG: dict[int, _Layout] = {}
_TAGS: dict[type[Any], int] = {}


def _layout(cls: type[Any]) -> _Layout:
    if cls not in _LAYOUTS:
        _LAYOUTS[cls] = _Layout(cls)
    return _LAYOUTS[cls]


@dataclass_transform(frozen_default=True, field_specifiers=(wire,))
def message(tag: int) -> Callable[[type[M]], type[M]]:
    """Makes a class a frozen dataclass and gives it its number on the wire. A number is never used again."""

    def register(cls: type[M]) -> type[M]:
        made = dataclasses.dataclass(frozen=True, slots=True)(cls)
        if tag in _BY_TAG:
            raise ValueError(f"tag {tag} is {_BY_TAG[tag].cls.__name__}'s")
        _BY_TAG[tag] = _layout(made)
        _TAGS[made] = tag
        return made

    return register


@dataclass_transform(frozen_default=True, field_specifiers=(wire,))
def part(cls: type[M]) -> type[M]:
    """Makes a class a frozen dataclass that stands inside messages, without a number of its own."""
    return dataclasses.dataclass(frozen=True, slots=True)(cls)


def registered() -> dict[int, type[Any]]:
    """Every message by its tag, for documentation and tests."""
    return {tag: layout.cls for tag, layout in sorted(_BY_TAG.items())}


# --- the two doors -------------------------------------------------------------------------------------------------


def encode(message: Any) -> bytes:
    """The bytes of a registered message. Raises ValueError if they would pass `HEADER_BYTES_MAX`."""
    tag = _TAGS[type(message)]
    encoded: bytes = msgpack.packb((tag, *_LAYOUTS[type(message)].fields(message)))
    if len(encoded) > HEADER_BYTES_MAX:
        raise ValueError(f"{type(message).__name__} takes {len(encoded)} bytes, the limit is {HEADER_BYTES_MAX}")
    return encoded


def decode(data: bytes | bytearray | memoryview) -> Any:
    """The message that `data` holds, or `DecodeError`; no other error for any bytes."""
    if len(data) > HEADER_BYTES_MAX:
        raise DecodeError(f"a message of {len(data)} bytes passes the limit of {HEADER_BYTES_MAX}")
    try:
        raw = msgpack.unpackb(data, use_list=False, max_array_len=LIST_ITEMS_MAX, max_map_len=LIST_ITEMS_MAX)
        if not isinstance(raw, tuple) or not raw or type(raw[0]) is not int:
            raise ValueError("not an array that starts with a tag")
        layout = _BY_TAG.get(raw[0])
        if layout is None:
            raise ValueError(f"unknown message {raw[0]}")
        return layout.build(raw, 1)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise DecodeError(f"not a message: {error}"[:200]) from None


def decode_as(cls: type[M], data: bytes | bytearray | memoryview) -> M:
    """The message of this class that `data` holds, or `DecodeError`."""
    found = decode(data)
    if type(found) is not cls:
        raise DecodeError(f"expected {cls.__name__}, got {type(found).__name__}")
    return found
