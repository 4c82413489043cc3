"""docs/JSON.md names every field that a command prints, and none that is gone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from repository import ROOT

PAGE = (ROOT / "docs" / "JSON.md").read_text(encoding="utf-8")
NODE, CLI = "node/peerinfer_node", "node/peerinfer_node/cli"

# The functions that make the answers of a section, file by file; their dict displays and assignments hold its fields.
SOURCES = {
    "run": {f"{CLI}/outcome.py": ["summary_json"]},
    "run --dry-run": {f"{CLI}/dry_run.py": ["plan_of", "_port"], f"{NODE}/node_control.py": ["forecast"]},
    "jobs show": {
        f"{NODE}/roles/job_views.py": [
            *("_BLANK", "totals", "totals_in", "_failed", "verification", "handovers", "job_json", "_ports")
        ],
        f"{NODE}/roles/live_views.py": ["known"],
        f"{NODE}/roles/live_job.py": ["led"],
        f"{NODE}/stages.py": ["timeline"],
    },
    "jobs rescue": {f"{NODE}/roles/rescuing.py": ["rescue", "_begin"]},
    "status": {f"{NODE}/node_control.py": ["status", "_rest"]},
    "peers": {f"{NODE}/peer_views.py": ["_picture", "_standing", "why"]},
    "devices": {f"{NODE}/node_control.py": ["_device", "_rest"], f"{NODE}/devices/lent.py": ["_refused"]},
    "models": {f"{NODE}/node_control.py": ["models"]},
    "reputation": {
        f"{NODE}/peer_views.py": ["reputation", "_own_standing", "_standing", "contribution"],
        "peerinfer/contribution.py": ["shown", "statement_of"],
        f"{CLI}/contributing.py": ["verify_statement"],
    },
    "Others": {
        f"{CLI}/model_bench.py": ["_measured", "_picture", "_run"],
        f"{CLI}/doctor.py": ["_doctor"],
        f"{CLI}/swarm.py": ["_invite", "_show"],
        f"{CLI}/configuration.py": ["_path", "_show", "_get"],
        f"{CLI}/identity.py": ["_id", "version"],
        f"{NODE}/roles/job_views.py": ["provenance_json", "_rule"],
    },
}  # fmt: skip


SAID_ON_STDERR = {"warnings"}


def section(name: str) -> str:
    return re.split(r"^## ", PAGE.split(f"\n## {name}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def fields_of(path: str, names: list[str]) -> Iterator[str]:
    """Constant keys of dict displays, and of assignments to items, in these functions or constants."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    missing = set(names)
    for node in ast.walk(tree):
        called = getattr(node, "name", None) or getattr(getattr(node, "target", None), "id", None)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.AnnAssign) or called not in names:
            continue
        missing.discard(called)
        for part in ast.walk(node):
            keys = part.keys if isinstance(part, ast.Dict) else []
            if isinstance(part, ast.Subscript) and isinstance(part.ctx, ast.Store):
                keys = [part.slice]
            yield from (key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str))
    assert not missing, f"{path} has no {', '.join(sorted(missing))} any more"


@pytest.mark.parametrize("name", SOURCES)
def test_every_field_stands_on_the_page(name: str) -> None:
    fields = {field for path, names in SOURCES[name].items() for field in fields_of(path, names)}
    fields -= SAID_ON_STDERR if name == "run --dry-run" else set()
    assert len(fields) >= 3
    named = set(re.findall(r"`(\w+)`", section(name)))
    assert fields <= named, f"docs/JSON.md, {name}: {', '.join(sorted(fields - named))}"


def test_the_page_names_no_field_that_is_gone() -> None:
    code = "\n".join(
        path.read_text(encoding="utf-8") for folder in ("node", "peerinfer") for path in (ROOT / folder).rglob("*.py")
    )
    words = {
        word
        for line in PAGE.splitlines()
        if line.startswith("| `")
        for word in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    gone = [word for word in sorted(words) if f'"{word}"' not in code]
    assert not gone
