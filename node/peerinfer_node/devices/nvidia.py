"""What NVIDIA's own tool says of its cards. It comes with the driver; where it is missing, there is nothing to ask."""

from __future__ import annotations

import csv
import shutil
import subprocess
from dataclasses import dataclass

from peerinfer.limits import MIB, NAME_CHARS_MAX
from peerinfer_node.devices.sysfs import Readings

TIMEOUT_S = 10.0
"""The first question after a start wakes the cards, which takes seconds."""

CARDS_MAX = 64
_FIELDS = "pci.bus_id,name,memory.total,memory.used,temperature.gpu,power.draw,utilization.gpu,fan.speed"
_OUTPUT_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class NvidiaCard:
    address: str
    """PCI address as Linux writes it: 0000:01:00.0."""
    name: str
    memory_bytes: int
    readings: Readings


def query(program: str | None = None) -> list[NvidiaCard]:
    """Asks `nvidia-smi` and waits for it. Never raises; empty if it is not there or does not answer."""
    program = program or shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        child = subprocess.run(  # noqa: S603  (the driver's own tool)
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return cards_from(child.stdout[:_OUTPUT_BYTES_MAX].decode(errors="replace")) if child.returncode == 0 else []


def cards_from(output: str) -> list[NvidiaCard]:
    """The cards in what `nvidia-smi` printed; lines that are not understood are left out."""
    cards = []
    for row in csv.reader(output.splitlines()[:CARDS_MAX], skipinitialspace=True):
        if len(row) != len(_FIELDS.split(",")) or ":" not in row[0]:
            continue
        memory_mib, used_mib, temperature, power, busy_percent, _ = (_number(field) for field in row[2:])
        readings = Readings(
            temperature_c=temperature,
            power_w=power,
            busy_ratio=None if busy_percent is None else busy_percent / 100,
            memory_used_bytes=None if used_mib is None else int(used_mib * MIB),
        )
        name = row[1].strip()[:NAME_CHARS_MAX] or "NVIDIA card"
        cards.append(NvidiaCard(_address(row[0]), name, int((memory_mib or 0) * MIB), readings))
    return cards


def _address(text: str) -> str:
    """00000000:01:00.0 is how the tool writes 0000:01:00.0."""
    domain, _, rest = text.strip().partition(":")
    return f"{domain[-4:]}:{rest}".lower()


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None  # "[N/A]", "[Not Supported]"
