"""Tells systemd how the service does (sd_notify(3)): that it is ready, that it lives, that it ends.

The watchdog is fed from the node's own event loop: a node whose loop hangs is started again.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Mapping
from contextlib import suppress

import trio

NOTIFY_BYTES_MAX = 2048
FEEDS_PER_TIMEOUT = 3
"""One feeding may be lost to a busy machine, and a second one may be late."""


class ServiceNotice:
    """Says nothing where no service manager listens."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._timeout_s = _timeout_s(environ)

    def tell(self, **states: str) -> None:
        """`READY="1"`, `STATUS="…"` and the like. Never fails: nobody's work depends on it."""
        family = getattr(socket, "AF_UNIX", None)
        if not self._address or family is None:
            return
        text = "\n".join(f"{name}={' '.join(value.split())}" for name, value in states.items())
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as said:
            said.setblocking(False)
            said.sendto(text.encode(errors="replace")[:NOTIFY_BYTES_MAX], self._address)

    async def feed_watchdog(self) -> None:
        """Until cancelled; returns at once where no watchdog waits."""
        if not math.isfinite(self._timeout_s):
            return
        while True:
            self.tell(WATCHDOG="1")
            await trio.sleep(self._timeout_s / FEEDS_PER_TIMEOUT)


def _timeout_s(environ: Mapping[str, str]) -> float:
    text = environ.get("WATCHDOG_USEC", "")
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        return math.inf
    return int(text) / 1e6
