"""Lines that delay and lose packets: what `tc … netem` does where the kernel has it, which is not everywhere.

Each machine gets a TUN device; one thread reads what leaves by one, throws some of it away, holds the rest for a while
and lets it in by another. TCP above sees what it would see on such a line: its own losses, round trips and timeouts.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import random
import selectors
import struct
import threading
import time

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
PACKETS_HELD_MAX = 20_000
"""Like any router's queue, it has an end."""


class FarLines:
    def __init__(self, delay_s: float, loss: float, seed: int = 1) -> None:
        """`delay_s` is one way, and `loss` the share of the packets of each direction that is lost."""
        self._delay_s, self._loss = delay_s, loss
        self._rng = random.Random(seed)
        self._selector = selectors.DefaultSelector()
        self._device_of: dict[bytes, int] = {}
        self._unplugged: set[bytes] = set()
        self._held: list[tuple[float, int, int, bytes]] = []
        self.carried = self.lost = 0
        self._woken, self._wake = os.pipe()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def open(self, device: str, address: bytes) -> None:
        """Makes the TUN device by which `address` (as in a packet) is reached. Raises OSError where it may not."""
        opened = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        try:
            fcntl.ioctl(opened, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN | _IFF_NO_PI))
        except OSError:
            os.close(opened)
            raise
        self._device_of[address] = opened
        self._selector.register(opened, selectors.EVENT_READ)
        os.write(self._wake, b"\0")

    def unplug(self, address: bytes) -> None:
        """Nothing passes to or from there any more, and nobody is told."""
        self._unplugged.add(address)

    def close(self) -> None:
        os.close(self._wake)
        self._thread.join()
        for opened in (self._woken, *self._device_of.values()):
            os.close(opened)

    def _carry(self) -> None:
        while True:
            wait_s = max(self._held[0][0] - time.monotonic(), 0.0) if self._held else None
            for key, _ in self._selector.select(wait_s):
                if key.fd != self._woken:
                    self._take_all(key.fd)
                elif not os.read(self._woken, 64):
                    return
            while self._held and self._held[0][0] <= time.monotonic():
                _, _, device, packet = heapq.heappop(self._held)
                with contextlib.suppress(OSError):  # the machine is gone, or takes no more
                    os.write(device, packet)

    def _take_all(self, device: int) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._take(os.read(device, 65536))

    def _take(self, packet: bytes) -> None:
        if packet[0] >> 4 != 4:
            return
        source, target = packet[12:16], packet[16:20]
        device = self._device_of.get(target)
        if device is None or {source, target} & self._unplugged:
            return
        self.carried += 1
        if self._rng.random() < self._loss or len(self._held) >= PACKETS_HELD_MAX:
            self.lost += 1
            return
        heapq.heappush(self._held, (time.monotonic() + self._delay_s, self.carried, device, packet))
