"""Every test of the command line has a home of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from daemon_thread import daemon
from fake_control import FakeControl

from peerinfer_node.home import Home


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for name in ("PEERINFER_CONFIG", "PEERINFER_NAME", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PEERINFER_HOME", str(tmp_path / "h"))
    (tmp_path / "h").mkdir(mode=0o700)
    return Home.resolve({"PEERINFER_HOME": str(tmp_path / "h")})


@pytest.fixture
def fake(home: Home) -> Iterator[FakeControl]:
    """A daemon of this home; tests change how it behaves before they run a command."""
    with daemon(home.socket, FakeControl()) as control:
        yield control


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with model.onnx and in.npz, which is also the working directory."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"a fake node reads no model")
    np.savez(folder / "in.npz", x=np.zeros((10, 4), np.float32))
    monkeypatch.chdir(folder)
    return folder
