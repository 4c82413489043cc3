"""Finds out what this machine can compute with."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from peerinfer.limits import NAME_CHARS_MAX
from peerinfer_node.ports import Device

CPU_PROVIDER = "CPUExecutionProvider"
_NAME_KEYS = ("model name", "Model", "Hardware")
"""What x86, and some boards that have no "model name", call their processor in /proc/cpuinfo."""


def cpu_device(root: Path = Path("/")) -> Device:
    """The processor with the machine's memory; figures are 0 until it is measured. `root` holds `proc/`."""
    return Device(
        name=_cpu_name(root), kind="cpu", provider=CPU_PROVIDER, memory_bytes=int(psutil.virtual_memory().total)
    )


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
