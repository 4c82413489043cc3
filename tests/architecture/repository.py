"""Where the tree lies and which files are ours, for the tests of its architecture."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

SOURCE_ROOTS = {"peerinfer": ".", "peerinfer_node": "node", "peerinfer_tui": "tui", "peerinfer_sim": "simulations"}
"""Each import package with the folder it lies in."""

_FOLDERS = (".ci", "docs", "node", "peerinfer", "requirements", "simulations", "tests", "tui")
_TEXTS = {"", ".css", ".json", ".md", ".py", ".sh", ".tcss", ".toml", ".txt", ".yaml", ".yml"}


def texts() -> list[Path]:
    """Every text file of the repository, at its root and in its folders; nothing that is built or installed."""
    found = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]
    for folder in _FOLDERS:
        found += [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return sorted(path for path in found if path.suffix in _TEXTS)


def sources() -> list[Path]:
    return [path for path in texts() if path.suffix == ".py"]


def modules(package: str) -> Iterator[tuple[str, ast.Module]]:
    """Every module of one of our packages, by its dotted name, parsed."""
    root = ROOT / SOURCE_ROOTS[package]
    for path in sorted((root / package).rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        yield name, parsed(path)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def imported(tree: ast.AST) -> set[str]:
    """Dotted names of all modules that are imported anywhere in `tree`, in functions too."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def top_level(tree: ast.AST) -> set[str]:
    return {name.partition(".")[0] for name in imported(tree)}
