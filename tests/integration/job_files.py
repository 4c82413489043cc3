"""Models and inputs as files, and what ONNX Runtime says to them without anybody in between."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image
from skimage import data

Arrays = Mapping[str, npt.NDArray[Any]]

SIDE = 224
"""What the page-orientation model takes."""

SLOW_ATOL = 2e-3
"""`models.slow` gives back what it is given, up to what its long sums lose."""


def write_model(path: Path, model: bytes) -> Path:
    path.write_bytes(model)
    return path


def write_npz(path: Path, **arrays: npt.ArrayLike) -> Path:
    np.savez(path, **{name: np.asarray(array) for name, array in arrays.items()})
    return path


def write_crops(folder: Path, count: int) -> npt.NDArray[np.float32]:
    """Writes pieces of real photographs as JPEG files, and returns what a model is to see: float32[count,3,224,224]."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    photographs = [data.astronaut(), data.coffee(), data.chelsea()]
    seen = np.empty((count, 3, SIDE, SIDE), np.float32)
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        top, left = (rng.integers(0, side - SIDE + 1) for side in photograph.shape[:2])
        path = folder / f"{number:04}.jpg"
        Image.fromarray(photograph[top : top + SIDE, left : left + SIDE]).save(path, quality=90)
        with Image.open(path) as image:
            seen[number] = (np.asarray(image, np.float32) / 255).transpose(2, 0, 1)
    return seen


def direct(model: bytes, **inputs: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """The model's outputs, straight from ONNX Runtime, item by item: no batch of ours or of anybody."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    items = len(next(iter(inputs.values())))
    rows = [session.run(names, {name: array[i : i + 1] for name, array in inputs.items()}) for i in range(items)]
    return {name: np.concatenate([row[position] for row in rows]) for position, name in enumerate(names)}


def assert_same(output: Path, expected: Arrays, *, atol: float = 1e-5) -> None:
    """The .npz file holds what was expected, in order."""
    with np.load(output) as found:
        assert sorted(found.files) == sorted(expected)
        for name, array in expected.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=atol)


def assert_adds_up(summary: Mapping[str, Any], *, items: int, failed: int = 0) -> None:
    """The totals of `run --json` agree with each other."""
    assert summary["items"] == items
    assert summary["failed"] == failed
    assert summary["accepted"] + summary["failed"] == summary["tasks"]
    assert sum(peer["tasks"] for peer in summary["peers"]) == summary["accepted"]
