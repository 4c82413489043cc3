"""Files: not too long, named for what they are, and with nothing in them that belongs to one desk."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from repository import ROOT, sources, texts

LINES_MAX = 600
TEST_LINES_MAX = 900
"""A test file is read one test at a time."""

NAMELESS = {"util", "utils", "helper", "helpers", "common", "manager", "managers", "misc"}

OUT_OF_PLACE = {
    "a path of one machine": re.compile(r"(?<!peerinfer)/work/|/root/"),
    "the host of a package registry": re.compile(r"pypi\.org|pythonhosted\.org|index-url\s*="),
    "unfinished work": re.compile(r"\b(TODO|FIXME|XXX)\b"),
    "a word from the desk": re.compile(r"\bprompts?\b", re.IGNORECASE),
}


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_no_file_is_longer_than_can_be_held_in_a_head() -> None:
    too_long = {}
    for path in sources():
        limit = TEST_LINES_MAX if path.is_relative_to(ROOT / "tests") else LINES_MAX
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > limit:
            too_long[label(path)] = lines
    assert too_long == {}


def test_every_file_is_named_for_what_it_is() -> None:
    nameless = [
        label(path)
        for path in sources()
        if any(NAMELESS & set(part.split("_")) for part in path.relative_to(ROOT).with_suffix("").parts)
    ]
    assert nameless == []


def test_test_files_have_names_of_their_own() -> None:
    """pytest imports them by their bare names: a second one of a name would hide the first."""
    tests = [path for path in sources() if path.is_relative_to(ROOT / "tests")]
    names = [path.name for path in tests if path.name != "conftest.py"]  # those pytest tells apart by their folders
    assert {name for name in names if names.count(name) > 1} == set()
    assert "__init__.py" not in names


@pytest.mark.parametrize("what", OUT_OF_PLACE)
def test_the_text_holds_nothing_out_of_place(what: str) -> None:
    found = [
        f"{label(path)}:{number}: {line.strip()}"
        for path in texts()
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if OUT_OF_PLACE[what].search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    "target", ["demo", "demo-failover", "test", "check", "bench", "bench-peers", "simulate", "figures", "lock", "clean"]
)
def test_make_has_every_target_and_explains_it(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:.*## \w", makefile, flags=re.MULTILINE)
    assert re.search(rf"^\.PHONY:.* {target}\b", makefile, flags=re.MULTILINE)


def test_continuous_integration_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert " make --no-print-directory test" in script.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "page", ["README.md", "ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/PROTOCOL.md"]
)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    path = ROOT / page
    text = path.read_text(encoding="utf-8")
    assert text.strip()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert "://" in target or (path.parent / target).exists(), f"{page} links to {target}"


def test_every_test_that_the_security_page_names_exists() -> None:
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for name in re.findall(r"`(tests/[\w/.]+)`", page):
        assert (ROOT / name).exists(), name
    written = {found for path in sources() for found in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))}
    for name in re.findall(r"`(test_\w+)`", page):
        assert name in written, name
