"""What is exported, what docs/METRICS.md lists, and what the dashboard asks for are the same names."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from swarm import Swarm

from peerinfer.governor import REASONS

ROOT = Path(__file__).resolve().parents[2]
SUFFIXES = ("_bucket", "_count", "_sum")


def listed() -> dict[str, set[str]]:
    """Names of the page, with the labels of each."""
    rows = re.findall(
        r"^\| `(peerinfer_\w+)` \| \w+ \| ([^|]*)\|", (ROOT / "docs" / "METRICS.md").read_text(), flags=re.MULTILINE
    )
    return {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


@pytest.mark.slow
def test_exactly_the_documented_names_are_exported_with_bounded_labels(swarm: Swarm) -> None:
    daemon = swarm.join("ada", "--api", "127.0.0.1:0")
    token = Path(daemon.ready["token_file"]).read_text().strip()
    answer = httpx.get(f"{daemon.ready['http']}/metrics", headers={"Authorization": f"Bearer {token}"})
    assert answer.headers["content-type"].startswith("text/plain")
    assert set(re.findall(r"^# TYPE (\w+)", answer.text, flags=re.MULTILINE)) == set(listed())
    assert daemon.peer_id not in answer.text
    for name, labels in re.findall(r"^(peerinfer_\w+)\{([^}]*)\}", answer.text, flags=re.MULTILINE):
        base = next((name.removesuffix(suffix) for suffix in SUFFIXES if name.removesuffix(suffix) in listed()), name)
        assert set(re.findall(r"(\w+)=", labels)) - {"le"} == listed()[base], name


def test_the_page_names_every_reason_to_rest() -> None:
    assert {"device", "kind", "reason"} == listed()["peerinfer_device_rests"]
    page = (ROOT / "docs" / "METRICS.md").read_text()
    assert f"`reason`: {', '.join(REASONS)} |" in page


def test_the_dashboards_ask_for_documented_names_alone() -> None:
    for path in sorted((ROOT / "deploy").rglob("*.json")) if (ROOT / "deploy").exists() else []:
        asked = set(re.findall(r"\bpeerinfer_\w+", path.read_text(encoding="utf-8")))
        known = {name + suffix for name in listed() for suffix in ("", *SUFFIXES)}
        assert asked <= known, path
