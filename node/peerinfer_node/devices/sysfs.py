"""Graphics cards as Linux shows them in files: readable by anybody, in about a millisecond, with no library.

amdgpu tells memory, load, temperature and power; other drivers tell less, and what they do not tell is None. Reading may
wait for the driver: whoever has an event loop to run reads in a thread.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CARD = re.compile(r"card\d{1,4}")
_RENDER = re.compile(r"renderD\d{1,4}")
_TEXT_BYTES_MAX = 4096


@dataclass(frozen=True, slots=True)
class Card:
    """One card and where to ask about it."""

    folder: str
    """Of its PCI device, below the root it was found under."""
    address: str
    """PCI address, like 0000:01:00.0; the kernel's name for cards that are not on a PCI bus."""
    vendor_id: int
    device_id: int
    revision: int
    driver: str
    """amdgpu, radeon, i915, nvidia, nouveau…; "" if none took the card."""
    render_node: str
    """Like /dev/dri/renderD128; "" if there is none."""
    may_use: bool
    """This user may open the render node."""
    memory_bytes: int
    """0 if the driver does not say."""


@dataclass(frozen=True, slots=True)
class Readings:
    """What a card's sensors say now; None is unknown."""

    temperature_c: float | None = None
    power_w: float | None = None
    busy_ratio: float | None = None
    """Of all programs together, this one included. 0 to 1."""
    memory_used_bytes: int | None = None
    fan_rpm: float | None = None


def read_cards(root: Path = Path("/")) -> list[Card]:
    """Every card, by number. `root` holds `sys/` and `dev/`."""
    return list(_cards(root))


def _cards(root: Path) -> Iterator[Card]:
    drm = root / "sys" / "class" / "drm"
    try:
        names = [name for name in os.listdir(drm) if _CARD.fullmatch(name)]
    except OSError:
        return
    for name in sorted(names, key=lambda name: int(name[4:])):
        folder = drm / name / "device"
        vendor_id, device_id = number_in(folder / "vendor", 16), number_in(folder / "device", 16)
        if vendor_id is None or device_id is None:
            continue  # A display that is no graphics card, like a virtual machine's framebuffer.
        render = _render_node(folder)
        node = root / "dev" / "dri" / render
        yield Card(
            folder=str(folder),
            address=os.path.basename(os.path.realpath(folder)),
            vendor_id=vendor_id,
            device_id=device_id,
            revision=number_in(folder / "revision", 16) or 0,
            driver=os.path.basename(os.path.realpath(folder / "driver")) if (folder / "driver").exists() else "",
            render_node=f"/dev/dri/{render}" if render else "",
            may_use=bool(render) and os.access(node, os.R_OK | os.W_OK),
            memory_bytes=number_in(folder / "mem_info_vram_total") or 0,
        )


def read_sensors(card: Card) -> Readings:
    """What the card says now. Never raises: a card that has fallen off the bus says nothing."""
    folder = Path(card.folder)
    busy = number_in(folder / "gpu_busy_percent")
    hwmon = _first_folder(folder / "hwmon")
    temperature = power = fan = None
    if hwmon is not None:
        temperature, fan = number_in(hwmon / "temp1_input"), number_in(hwmon / "fan1_input")
        power = number_in(hwmon / "power1_average")
        power = number_in(hwmon / "power1_input") if power is None else power  # the name since RDNA 3
    return Readings(
        temperature_c=None if temperature is None else temperature / 1000,
        power_w=None if power is None else power / 1e6,
        busy_ratio=None if busy is None else min(1.0, max(0.0, busy / 100)),
        memory_used_bytes=number_in(folder / "mem_info_vram_used"),
        fan_rpm=fan,
    )


def _render_node(folder: Path) -> str:
    try:
        names = sorted(name for name in os.listdir(folder / "drm") if _RENDER.fullmatch(name))
    except OSError:
        return ""
    return names[0] if names else ""


def _first_folder(folder: Path) -> Path | None:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return None
    return folder / names[0] if names else None


def number_in(path: Path, base: int = 10) -> int | None:
    """The whole number in a small file, or None."""
    try:
        with path.open("rb") as file:
            return int(file.read(_TEXT_BYTES_MAX), base)
    except (OSError, ValueError):
        return None
