"""Hypothesis strategies for the wire, read off the checks themselves: a new message is covered without a new test."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from peerinfer.codec import Check, flag, number, registered

SAME_EVERY_TIME = settings(
    derandomize=True, deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
"""The same examples in every run, on a machine however busy."""

FEW = settings(SAME_EVERY_TIME, max_examples=12)
"""For tests that are repeated for every class or field."""

LISTED_MAX = 3
"""Lists stay short here, so that messages with lists of lists fit into a header; lengths at the edge have their tests."""

ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=40),
)
ANYTHING = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
"""Whatever MessagePack can carry."""


POOL = (
    None,
    False,
    True,
    0.0,
    1.5,
    "",
    "text",
    b"",
    b"bytes",
    *range(-2, 100),
    *((1 << bits) + near for bits in range(7, 65) for near in (-1, 0)),
)
"""Where a check says nothing of itself, the values of these that it takes."""


def kind_of(check: Check) -> str:
    """The name of the function that made a check, or its own."""
    return check.__qualname__.split(".")[0]


def parts_of(check: Check) -> dict[str, Any]:
    """What a check was made with."""
    cells = check.__closure__ or ()
    return dict(zip(check.__code__.co_freevars, (cell.cell_contents for cell in cells), strict=True))


def values_for(check: Check) -> st.SearchStrategy[Any]:
    """Values that pass this check, as a decoded message holds them."""
    made_with = parts_of(check)
    if check is flag:
        return st.booleans()
    if check is number:
        return st.floats(allow_nan=False, allow_infinity=False)
    match kind_of(check):
        case "uint":
            return st.integers(0, made_with["limit"] - 1)
        case "text":
            return st.text(max_size=min(made_with["chars_max"], 20))
        case "blob":
            exactly = made_with["exactly"]
            return st.binary(min_size=exactly or 0, max_size=exactly or min(made_with["bytes_max"], 40))
        case "one_of":
            return st.sampled_from(sorted(made_with["allowed"]))
        case "optional":
            return st.none() | values_for(made_with["inner"])
        case "listed":
            length = min(made_with["count_max"], LISTED_MAX)
            return st.lists(values_for(made_with["inner"]), max_size=length).map(tuple)
        case "packed_u32":
            return st.lists(st.integers(0, (1 << 32) - 1), max_size=LISTED_MAX).map(tuple)
        case "record":
            return messages(made_with["layout"].cls)
    return st.sampled_from([value for value in POOL if passes(check, value)])


def passes(check: Check, value: Any) -> bool:
    """True if a check keeps this value as it is."""
    try:
        kept = check(value)
    except ValueError:
        return False
    return type(kept) is type(value) and bool(kept == value)


def check_of(field: dataclasses.Field[Any]) -> Check:
    check: Check = field.metadata["peerinfer.check"]
    return check


def messages(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Messages or parts of this class."""
    return st.builds(cls, *(values_for(check_of(field)) for field in dataclasses.fields(cls)))


def any_message() -> st.SearchStrategy[Any]:
    """A message of any registered class."""
    return st.sampled_from(sorted(registered().values(), key=lambda cls: cls.__name__)).flatmap(messages)


def fields_on_the_wire() -> Iterator[tuple[type[Any], int, dataclasses.Field[Any]]]:
    """Every field of every message, with its position after the tag."""
    for cls in registered().values():
        for position, field in enumerate(dataclasses.fields(cls)):
            yield cls, position, field
