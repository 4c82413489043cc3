"""A Vulkan driver in software for the tests: SwiftShader, which `fetch_swiftshader.sh` brings."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "build" / "swiftshader"

ENVIRONMENT = {
    "LD_LIBRARY_PATH": str(FOLDER),
    "VK_DRIVER_FILES": str(FOLDER / "vk_swiftshader_icd.json"),
    "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "1",
}
"""What makes Vulkan's loader, and the WebGPU provider, take it."""


def _missing() -> str:
    files = ("libvk_swiftshader.so", "libvulkan.so.1", "vk_swiftshader_icd.json")
    if not all((FOLDER / file).is_file() for file in files):
        return "SwiftShader is not in build/swiftshader; run: tests/fetch_swiftshader.sh"
    if find_spec("onnxruntime_ep_webgpu") is None:
        return "the WebGPU provider is not installed"
    return ""


needs_software_vulkan = pytest.mark.skipif(bool(_missing()), reason=_missing() or "there")
