"""Makers' own execution providers, for cards that WebGPU cannot reach: CUDA, MIGraphX, OpenVINO, DirectML.

Each comes with a build of ONNX Runtime of its own, which takes the place of the usual one, so whoever has one has asked for
it. They are started like any other and believed like any other, where they agree with the processor. None of them could
be tried on a real card by those who wrote this; what is tested is that they are found, chosen and refused in words.

OpenVINO computes on processors as well, and there it was tried. Whoever names the device `openvino` lends the processor
through it; nobody else does, since it is no faster than ONNX Runtime's own provider on most of them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass

from peerinfer_node.devices.card_names import AMD, INTEL, NVIDIA

ASK_TIMEOUT_S = 30.0
_PROGRAM = "import onnxruntime; print(*onnxruntime.get_available_providers())"


@dataclass(frozen=True, slots=True)
class Native:
    provider: str
    """ONNX Runtime's name."""
    vendors: tuple[int, ...]
    package: str


OPENVINO = Native("OpenVINOExecutionProvider", (INTEL,), "onnxruntime-openvino")

NATIVES = (
    Native("CUDAExecutionProvider", (NVIDIA,), "onnxruntime-gpu"),
    Native("MIGraphXExecutionProvider", (AMD,), "onnxruntime-migraphx"),
    OPENVINO,
    Native("DmlExecutionProvider", (AMD, INTEL, NVIDIA), "onnxruntime-directml"),
)
"""The likeliest first."""


def native_for(vendor_id: int, installed: Collection[str]) -> Native | None:
    """The provider of a card's maker, if it is installed."""
    return next((one for one in NATIVES if vendor_id in one.vendors and one.provider in installed), None)


def advice_for(native: Native) -> str:
    """How it is installed: two builds of ONNX Runtime in one place spoil each other."""
    return f"run: pip uninstall onnxruntime; pip install {native.package}"


def version_of(package: str) -> str:
    """ "" if it is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # 15 ms that no worker process needs to wait for

    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def installed_providers() -> frozenset[str]:
    """What this ONNX Runtime brings, asked in a child process: the daemon never loads it. Empty if it cannot be asked."""
    try:
        child = subprocess.run(  # noqa: S603  (our own program)
            [sys.executable, "-I", "-c", _PROGRAM], capture_output=True, timeout=ASK_TIMEOUT_S, check=True, text=True
        )
    except (OSError, subprocess.SubprocessError):
        return frozenset()
    return frozenset(child.stdout.split())
