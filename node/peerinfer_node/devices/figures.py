"""What this machine's devices were good for when they were last measured, kept for whoever asks while no node runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peerinfer_node.devices.fit import fit_words
from peerinfer_node.ports import Device, Store
from peerinfer_node.store import setting_in

_KEY = "devices/figures"


@dataclass(frozen=True, slots=True)
class Figures:
    measured_at_s: float
    """Wall clock."""
    devices: tuple[tuple[str, str], ...]
    """Name, and what it is good for."""


async def keep_figures(store: Store, devices: Sequence[Device], wall_s: float) -> None:
    """Replaces what was kept; devices without figures are left out."""
    rows = [(device.name, words) for device in devices if (words := fit_words(device))]
    if rows:
        await store.set_setting(_KEY, json.dumps({"measured_at_s": wall_s, "devices": rows}))


def kept_figures(state_db: Path) -> Figures | None:
    """None where nothing was kept, or nothing that we wrote."""
    stored = setting_in(state_db, _KEY)
    try:
        read = json.loads(stored or "")
        rows = tuple((str(name), str(words)) for name, words in read["devices"])
        return Figures(float(read["measured_at_s"]), rows)
    except (ValueError, TypeError, KeyError):
        return None
