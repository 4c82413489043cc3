"""What happened, when and where: folded into one hash, kept for the last moments of each node, written out if wanted."""

from __future__ import annotations

import hashlib
import zlib
from collections import deque
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any, TextIO

RECENT_PER_NODE = 40
"""So much history is printed when something is wrong."""

_SHOWN_MAX = 6
_PLAIN = frozenset((str, int, bool, type(None)))
"""What is shown as it is, and is nearly all."""

_NAMES: dict[type, tuple[str, ...]] = {}
"""Of the fields of each message: looking them up takes longer than all the rest."""


class EventLog:
    """Lines of (virtual time, node, what). Two runs are the same if their digests are."""

    def __init__(self, file: TextIO | None = None) -> None:
        self._digest = hashlib.sha256()
        self._file = file
        self._recent: dict[str, deque[str]] = {}
        self.count = 0

    def add(self, time_s: float, node: str, what: str) -> None:
        line = f"{time_s:.6f} {node} {what}\n"
        self._digest.update(line.encode())
        self.count += 1
        self._recent.setdefault(node, deque(maxlen=RECENT_PER_NODE)).append(line)
        if self._file is not None:
            self._file.write(line)

    def recent(self, node: str) -> list[str]:
        """The last lines of one node, the oldest first."""
        return [line.rstrip() for line in self._recent.get(node, ())]

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()


def brief(value: Any) -> str:
    """A value in a few words: short enough to read, and another one for another value."""
    kind = type(value)
    if kind in _PLAIN:
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes {zlib.crc32(value):08x}>"
    if isinstance(value, float):
        return f"{value:.9g}"
    if isinstance(value, tuple | list):
        if len(value) > _SHOWN_MAX:
            return f"({len(value)}: {brief(value[0])}..{brief(value[-1])} {zlib.crc32(_flat(value).encode()):08x})"
        return f"({', '.join(map(brief, value))})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{brief(key)}: {brief(item)}" for key, item in value.items()) + "}"
    if is_dataclass(kind):
        names = _NAMES.get(kind) or _NAMES.setdefault(kind, tuple(field.name for field in fields(kind)))
        return f"{kind.__name__}({', '.join([brief(getattr(value, name)) for name in names])})"
    return str(value)


def _flat(values: Iterable[Any]) -> str:
    return ",".join(map(brief, values))
