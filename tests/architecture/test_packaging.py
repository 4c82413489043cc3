"""What is installed: three packages, and nothing that could be mistaken for somebody else's."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from repository import ROOT, SOURCE_ROOTS, pyproject

SHIPPED = {"peerinfer", "peerinfer_node", "peerinfer_tui"}


def test_the_wheel_is_told_to_hold_three_packages() -> None:
    packages = pyproject()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {Path(package).name for package in packages} == SHIPPED
    for package in packages:
        assert (ROOT / package / "__init__.py").is_file()
        assert (ROOT / package / "py.typed").is_file()


def test_a_checkout_finds_all_four_packages() -> None:
    assert set(pyproject()["tool"]["hatch"]["build"]["dev-mode-dirs"]) == set(SOURCE_ROOTS.values())
    for package, root in SOURCE_ROOTS.items():
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin == str((ROOT / root / package / "__init__.py").resolve())


def test_source_roots_are_no_packages_and_may_not_be_imported() -> None:
    banned = pyproject()["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    for folder in ("node", "tui"):
        assert not (ROOT / folder / "__init__.py").exists()
        assert folder in banned


def test_the_version_is_the_same_everywhere() -> None:
    import peerinfer

    assert pyproject()["project"]["version"] == peerinfer.__version__


@pytest.mark.slow
@pytest.mark.skipif(find_spec("hatchling") is None, reason="hatchling, which builds wheels, is not installed here")
def test_the_wheel_holds_three_packages(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == SHIPPED
    assert "peerinfer_tui/window.tcss" in names
