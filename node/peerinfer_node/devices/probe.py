"""Finds out what this machine can compute with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import psutil

from peerinfer.classes import CPU_PROVIDER
from peerinfer.limits import NAME_CHARS_MAX
from peerinfer_node.devices import nvidia, sysfs, vulkan
from peerinfer_node.devices.choice import FoundGpu, judge
from peerinfer_node.devices.native import installed_providers
from peerinfer_node.ports import Device

_NAME_KEYS = ("model name", "Model", "Hardware")
"""What x86, and some boards that have no "model name", call their processor in /proc/cpuinfo."""

_SOFTWARE_ALLOWED = "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER"
"""The WebGPU provider's own switch for Vulkan drivers in software; we follow it."""


def cpu_device(root: Path = Path("/")) -> Device:
    """The processor with the machine's memory; figures are 0 until it is measured. `root` holds `proc/`."""
    return Device(
        name=_cpu_name(root),
        kind="cpu",
        provider=CPU_PROVIDER,
        memory_bytes=int(psutil.virtual_memory().total),
        selector="cpu",
    )


def find_gpus(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> list[FoundGpu]:
    """Every graphics card, usable or not. Takes half a second where there are some (seconds if a driver hangs).

    Never raises.

    To be called in a thread. Where there is no card and no software driver is allowed, nothing is asked or started.
    """
    cards = sysfs.read_cards(root)
    allow_software = environment.get(_SOFTWARE_ALLOWED) == "1"
    if not cards and not allow_software and not has_foreign_gpus(root):
        return []
    return judge(
        cards,
        vulkan.ask(environment),
        has_provider=has_webgpu_provider(),
        nvidia=nvidia.query() if any(card.driver == "nvidia" for card in cards) else (),
        allow_software=allow_software,
        providers=installed_providers() if cards else (),
    )


def has_webgpu_provider() -> bool:
    """The optional package is installed; it is loaded by worker processes alone."""
    return find_spec("onnxruntime_ep_webgpu") is not None


def has_foreign_gpus(root: Path) -> bool:
    """Cards that do not show as cards: Windows' in its subsystem for Linux, NVIDIA's without their display driver."""
    return any((root / "dev" / name).exists() for name in ("dxg", "nvidia0"))


def default_threads() -> int:
    """Threads of one inference: one core stays free for the owner and the daemon. At least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or allowed
    return max(1, min(physical, allowed) - 1)


def _cpu_name(root: Path) -> str:
    try:
        text = (root / "proc" / "cpuinfo").read_text(errors="replace")
    except OSError:
        return "CPU"
    facts: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.partition(":")
        if separator and value.strip():
            facts.setdefault(key.strip(), " ".join(value.split()))
    return next((facts[key] for key in _NAME_KEYS if key in facts), "CPU")[:NAME_CHARS_MAX]
