"""ARCHITECTURE.md has a place for every module, and names none that is gone."""

from __future__ import annotations

import re

import pytest
from repository import ROOT

PAGE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
FOLDERS = re.findall(r"^### `((?:peerinfer|node|tui)/[\w/]*)`$", PAGE, flags=re.MULTILINE)


def modules_in(folder: str) -> set[str]:
    return {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__", "__main__"}


def named_under(folder: str) -> set[str]:
    section = PAGE.split(f"### `{folder}`\n", 1)[1]
    return set(re.findall(r"`(\w+)`", re.split(r"^##", section, maxsplit=1, flags=re.MULTILINE)[0]))


def test_every_folder_of_modules_has_its_section() -> None:
    found = {path.parent for root in ("peerinfer", "node", "tui") for path in (ROOT / root).rglob("*.py")}
    wanted = {folder for folder in found if modules_in(str(folder.relative_to(ROOT)))}
    assert {ROOT / folder for folder in FOLDERS} == wanted


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_module_is_named_where_its_folder_is_described(folder: str) -> None:
    assert named_under(folder) == modules_in(folder)
