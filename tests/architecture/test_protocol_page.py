"""docs/PROTOCOL.md says what the code does: every message, every field, every limit."""

from __future__ import annotations

import dataclasses
import re
from types import ModuleType

import pytest
from repository import ROOT

from peerinfer import (
    contribution,
    evidence_messages,
    job_priority,
    lease_messages,
    limits,
    member_messages,
    messages,
    replica_messages,
    spread_messages,
    tensors,
)
from peerinfer.codec import registered

PAGE = (ROOT / "docs" / "PROTOCOL.md").read_text(encoding="utf-8")
HEADING = re.compile(r"^### (\w+) \((\d+|part)\)$", re.MULTILINE)
UNITS = {"": 1, "B": 1, "KiB": limits.KIB, "MiB": limits.MIB, "GiB": limits.GIB, "s": 1}
NOT_LIMITS = {"KIB", "MIB", "GIB"}


def sections() -> dict[str, str]:
    """The text under each message's heading, by its name."""
    parts = re.split(r"^##+ ", PAGE, flags=re.MULTILINE)
    return {match[1]: part for part in parts if (match := HEADING.match(f"### {part.splitlines()[0]}" if part else ""))}


def parts_of(module: ModuleType) -> dict[str, type]:
    """Dataclasses of the module that stand inside messages."""
    whole = set(registered().values())
    found = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    return {name: value for name, value in found.items() if dataclasses.is_dataclass(value) and value not in whole}


_MODULES = (
    messages,
    member_messages,
    contribution,
    evidence_messages,
    job_priority,
    lease_messages,
    replica_messages,
    spread_messages,
    tensors,
)
PARTS = {name: cls for module in _MODULES for name, cls in parts_of(module).items()}


def documented_limits() -> dict[str, float]:
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([\d.,]+) ?(\w*) \|", PAGE, flags=re.MULTILINE)
    return {name: float(value.replace(",", "")) * UNITS[unit] for name, value, unit in rows}


def test_every_message_has_its_section_and_its_tag() -> None:
    on_the_page = {int(tag): name for name, tag in HEADING.findall(PAGE) if tag != "part"}
    assert on_the_page == {tag: cls.__name__ for tag, cls in registered().items()}


def test_every_part_of_a_message_has_its_section() -> None:
    on_the_page = {name for name, tag in HEADING.findall(PAGE) if tag == "part"}
    assert on_the_page == set(PARTS)


@pytest.mark.parametrize("cls", [*registered().values(), *PARTS.values()], ids=lambda cls: cls.__name__)
def test_the_fields_are_listed_in_the_order_of_the_wire(cls: type) -> None:
    rows = re.findall(r"^\| (\w+) \| (.*?) \|", sections()[cls.__name__], flags=re.MULTILINE)
    assert [name for name, _ in rows if name != "field"] == [field.name for field in dataclasses.fields(cls)]
    for field, (_, kind) in zip(dataclasses.fields(cls), [row for row in rows if row[0] != "field"], strict=True):
        assert ("default" in kind) == (field.default is not dataclasses.MISSING), field.name


def test_every_limit_is_listed_with_its_value() -> None:
    in_the_code = {
        name: float(value) for name, value in vars(limits).items() if name.isupper() and name not in NOT_LIMITS
    }
    assert documented_limits() == in_the_code


def test_every_limit_that_the_page_names_exists() -> None:
    for name in re.findall(r"`([A-Z][A-Z_]+_[A-Z_]+)`", PAGE):
        assert hasattr(limits, name), name


def test_words_that_a_field_may_take_are_listed() -> None:
    for word in (*messages.FAILURE_KINDS, *tensors.ITEM_BYTES):
        assert re.search(rf"\| one of [^|]*\b{word}\b", PAGE), word
