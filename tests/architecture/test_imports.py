"""Who may import whom. The contracts between packages are import-linter's; what it cannot say is here."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from repository import ROOT, SOURCE_ROOTS, imported, modules, pyproject, top_level

OURS = set(SOURCE_ROOTS)
SHIPPED = ("peerinfer", "peerinfer_node", "peerinfer_tui")

THIRD_PARTY = {
    "peerinfer": {"cryptography", "msgpack", "numpy"},
    "peerinfer_tui": {"httpx", "rich", "textual", "aiohttp", "textual_serve"},
}
"""What the two may use besides the standard library."""

CLIENT = re.compile(r"peerinfer\.(aio|client(\.\w+)?)")
"""The part of `peerinfer` that touches the world: it speaks HTTP to a node, and may start one."""

CLIENT_USES = {"anyio", "httpx", "numpy"}


def decisions() -> Iterator[tuple[str, ast.Module]]:
    return ((name, tree) for name, tree in modules("peerinfer") if not CLIENT.fullmatch(name))


BROUGHT_ALONG = {"rich", "protobuf", "zeroconf"}
"""What textual (styled text), onnx (a model's messages) and libp2p (mDNS) are made of, and come with."""

ONE_DOOR = {
    "libp2p": re.compile(r"peerinfer_node\.network\.libp2p_\w+"),
    "multiaddr": re.compile(r"peerinfer_node\.network\.libp2p_\w+"),
    "onnxruntime": re.compile(r"peerinfer_node\.inference\.worker_process"),
    "textual": re.compile(r"peerinfer_tui\..*"),
}
"""Libraries that only the modules of this name may import; everyone else sees a port."""


def foreign(tree: ast.AST) -> set[str]:
    """Top-level modules imported from neither us nor the standard library."""
    return top_level(tree) - OURS - set(sys.stdlib_module_names)


def misused_randomness(tree: ast.AST) -> list[str]:
    """What a decision does with `random` besides taking a generator, or making one from a seed."""
    wrong = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "random":
            wrong += [alias.name for alias in node.names if alias.name != "Random"]
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random":
            wrong += [node.attr] if node.attr != "Random" else []
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("random.Random", "Random"):
            wrong += [] if node.args else ["Random() without a seed"]
    return wrong


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs the contracts of pyproject.toml over the packages in `folder`."""
    path = os.pathsep.join(str(folder / root) for root in SOURCE_ROOTS.values())
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [program, "--no-cache"], cwd=folder, env={**os.environ, "PYTHONPATH": path}, check=False, capture_output=True,
        text=True,
    )  # fmt: skip


def planted(folder: Path, module: str, line: str) -> Path:
    """A copy of the tree in `folder` whose `module` ends with one more line."""
    shutil.copy(ROOT / "pyproject.toml", folder)
    for package, root in SOURCE_ROOTS.items():
        shutil.copytree(ROOT / root / package, folder / root / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    return folder


@pytest.mark.slow
def test_the_contracts_between_packages_are_kept() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("peerinfer/ids.py", "import time"),
        ("peerinfer/ids.py", "import trio"),
        ("peerinfer/ids.py", "import peerinfer_node.ports"),
        ("node/peerinfer_node/ports.py", "import peerinfer_tui.app"),
        ("node/peerinfer_node/ports.py", "import peerinfer_sim"),
        ("tui/peerinfer_tui/view.py", "import peerinfer_node"),
        ("tui/peerinfer_tui/view.py", "import trio"),
    ],
)
def test_a_contract_that_is_broken_is_noticed(tmp_path: Path, module: str, line: str) -> None:
    done = lint_imports(planted(tmp_path, module, line))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout


@pytest.mark.parametrize("package", THIRD_PARTY)
def test_decisions_and_window_use_few_libraries(package: str) -> None:
    for name, tree in modules(package):
        allowed = CLIENT_USES if CLIENT.fullmatch(name) else THIRD_PARTY[package]
        assert foreign(tree) <= allowed, name


def test_no_decision_imports_the_client() -> None:
    for name, tree in decisions():
        found = {each for each in imported(tree) if CLIENT.fullmatch(each)}
        assert not found or name == "peerinfer", name


def test_importing_the_package_loads_no_client() -> None:
    code = "import sys, peerinfer; print(sorted({'anyio', 'httpx', 'numpy', 'peerinfer.client'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_a_decision_imports_nothing_by_name() -> None:
    """Otherwise every rule on this page could be walked around."""
    for name, tree in decisions():
        assert not top_level(tree) & {"importlib", "pkgutil", "runpy"}, name
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not calls & {"__import__", "eval", "exec", "open", "print", "input"}, name


def test_a_decision_is_given_its_randomness() -> None:
    for name, tree in modules("peerinfer"):
        assert misused_randomness(tree) == [], name


def test_randomness_of_its_own_would_be_noticed() -> None:
    assert misused_randomness(ast.parse("import random\nrandom.shuffle(x)")) == ["shuffle"]
    assert misused_randomness(ast.parse("from random import choice, Random")) == ["choice"]
    assert misused_randomness(ast.parse("import random\nr = random.Random()")) == ["Random() without a seed"]
    assert misused_randomness(ast.parse("import random\ndef f(r: random.Random): random.Random(7)")) == []


@pytest.mark.parametrize("library", ONE_DOOR)
def test_a_library_is_imported_behind_one_door(library: str) -> None:
    importers = [name for package in SHIPPED for name, tree in modules(package) if library in top_level(tree)]
    assert [name for name in importers if not ONE_DOOR[library].fullmatch(name)] == []


def test_the_worker_process_is_imported_by_nobody() -> None:
    """It is started as a program: whoever imported it would load onnxruntime into the daemon."""
    door = "peerinfer_node.inference.worker_process"
    assert [name for name, tree in modules("peerinfer_node") if door in imported(tree)] == []


def test_nothing_is_pickled() -> None:
    for package in SHIPPED:
        for name, tree in modules(package):
            assert not top_level(tree) & {"pickle", "marshal", "shelve", "cloudpickle", "dill"}, name


def test_every_library_that_is_imported_is_a_declared_dependency() -> None:
    project = pyproject()["project"]
    extras = [line for name, lines in project["optional-dependencies"].items() if name != "dev" for line in lines]
    declared = {re.split(r"[^A-Za-z0-9_.-]", line)[0].lower() for line in project["dependencies"] + extras}
    declared |= BROUGHT_ALONG
    distributions = packages_distributions()
    for package in SHIPPED:
        for name, tree in modules(package):
            for library in sorted(foreign(tree)):
                owners = {owner.lower().replace("_", "-") for owner in distributions.get(library, [])}
                assert owners & declared, f"{name} imports {library}, which no dependency in pyproject.toml brings"
