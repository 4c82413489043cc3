"""The documentation site: every page is in the navigation, links lead somewhere, commands are ones that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from repository import ROOT

from peerinfer_node.cli.parser import build_parser

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
WRITTEN = [page for page in PAGES if page.parent.name == "tutorials" or page.name in ("index.md", "dashboard.md")]
FILES = re.compile(r"(?<![\w./-])((?:deploy|docs|tests)/[\w./-]+\.\w+)")


def label(page: Path) -> str:
    return str(page.relative_to(DOCS))


def named_in(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in named_in(part)]


def commands() -> list[tuple[str, str]]:
    """Of the pages that are written for users: where it stands, and the whole line."""
    found = []
    for page in [*WRITTEN, ROOT / "README.md"]:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
        lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        for line in [*lines, *re.findall(r"`(peerinfer [^`]+)`", text)]:
            said = line.removeprefix("$ ").split("  #")[0].split(" > ")[0].strip(" .…")
            match = re.fullmatch(r"(?:kubectl exec [\w-]+ -- )?(peerinfer [a-z][^|\[]*)", said)
            if match is not None and not re.search("COMMAND|--help", said):
                found.append((page.name, match[1]))
    return list(dict.fromkeys(found))


def test_the_navigation_leads_to_pages_that_exist_and_to_every_tutorial() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = named_in(site["nav"])
    assert {*map(label, WRITTEN)} <= {*named} <= {*map(label, PAGES)}
    assert len(named) == len(set(named))


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_links_of_the_site_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).is_file(), f"{label(page)} links to {target}"


@pytest.mark.parametrize("page", WRITTEN, ids=label)
def test_files_that_a_page_names_exist(page: Path) -> None:
    for name in FILES.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), f"{label(page)} names {name}"


def test_pages_show_commands() -> None:
    assert len(commands()) > 40


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_command_on_a_page_is_one_that_there_is(page: str, line: str) -> None:
    """Words in capitals stand for what the reader fills in."""
    try:
        build_parser().parse_args(shlex.split(line.replace("…", ""))[1:])
    except (Exception, SystemExit) as error:
        pytest.fail(f"{page}: {line}: {error}")
