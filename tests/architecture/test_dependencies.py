"""The locked list: complete, hashed, installable anywhere."""

from __future__ import annotations

import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from repository import ROOT, pyproject

LOCKED = ROOT / "requirements" / "locked.txt"
PINNED = re.compile(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", re.MULTILINE)


def locked() -> dict[str, list[Version]]:
    """Versions by name; some packages have one version for each platform or Python."""
    found: dict[str, list[Version]] = {}
    for name, version in PINNED.findall(LOCKED.read_text(encoding="utf-8")):
        found.setdefault(canonicalize_name(name), []).append(Version(version))
    return found


def declared() -> list[Requirement]:
    project = pyproject()["project"]
    return [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["dev"]]


@pytest.mark.parametrize("requirement", declared(), ids=str)
def test_every_dependency_is_locked_in_a_version_that_fits(requirement: Requirement) -> None:
    versions = locked().get(canonicalize_name(requirement.name), [])
    assert any(requirement.specifier.contains(version) for version in versions), versions


def test_every_line_is_a_pin_or_its_hash() -> None:
    lines = LOCKED.read_text(encoding="utf-8").splitlines()
    for line in lines:
        assert PINNED.match(line) or re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line), line
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        assert line.endswith("\\") == following.startswith("    --hash"), line


def test_no_list_names_a_host() -> None:
    for path in (ROOT / "requirements").iterdir():
        assert not re.search(r"://|--index|--extra-index|--find-links|--trusted-host", path.read_text(encoding="utf-8"))


def test_libp2ps_fastecdsa_is_one_that_needs_no_compiler() -> None:
    assert locked()["fastecdsa"] == [Version("4.0.0")]
