"""Lays out what a kernel shows of a machine, from the descriptions in `fixtures/*.tree`."""

from __future__ import annotations

from pathlib import Path

FIXTURES = Path(__file__).with_name("fixtures")
RX580 = "sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0"
"""Folder of the card in `rx580.tree`."""


def lay_out(name: str, root: Path) -> Path:
    """The tree of `fixtures/<name>.tree` under `root`, which is returned."""
    for line in (FIXTURES / f"{name}.tree").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        if " -> " in line:
            path, target = line.split(" -> ")
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).symlink_to(target)
        elif line.endswith("/"):
            (root / line).mkdir(parents=True, exist_ok=True)
        else:
            path, _, content = line.partition(" =")
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(content.strip() + "\n")
    return root
