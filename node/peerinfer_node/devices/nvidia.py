"""What NVIDIA's own tool says of its cards. It comes with the driver; where it is missing, there is nothing to ask.

Each question costs a tenth of a second of a core, too much for twice a second; but a card that gets hot must be noticed
within one second. So the tool is left running and speaks by itself (`Watch`).
"""

from __future__ import annotations

import csv
import os
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

SPEAKS_EVERY_MS = 500
SILENT_S = 5.0
"""A tool that says nothing for so long hangs with its driver, or keeps its words to itself."""

STARTED_EVERY_S = 30.0
"""One that ends, or hangs, is started again after so long."""


@dataclass(frozen=True, slots=True)
class NvidiaCard:
    address: str
    """PCI address as Linux writes it: 0000:01:00.0."""
    name: str
    memory_bytes: int
    readings: Readings


class Watch:
    """The tool, running. Starts when it is first asked; to be closed."""

    def __init__(self, program: str | None = None) -> None:
        self._program = program or shutil.which("nvidia-smi")
        self._child: subprocess.Popen[bytes] | None = None
        self._started_s = -STARTED_EVERY_S
        self._heard_s = 0.0
        self._unread = b""
        self._readings: dict[str, Readings] = {}

    def readings(self, now_s: float) -> dict[str, Readings]:
        """What was said last of each card, by its address; empty while nothing is heard. Never waits, never raises."""
        if self._child is None and self._program is not None and now_s - self._started_s >= STARTED_EVERY_S:
            self._start(self._program, now_s)
        if self._child is not None:
            self._listen(self._child, now_s)
        return self._readings

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
        self._child, self._unread, self._readings = None, b"", {}

    def _start(self, program: str, now_s: float) -> None:
        self._started_s = self._heard_s = now_s
        command = [program, f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits", f"--loop-ms={SPEAKS_EVERY_MS}"]
        try:
            self._child = subprocess.Popen(  # noqa: S603  (the driver's own tool)
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError:
            return
        assert self._child.stdout is not None
        os.set_blocking(self._child.stdout.fileno(), False)

    def _listen(self, child: subprocess.Popen[bytes], now_s: float) -> None:
        assert child.stdout is not None
        try:
            while said := os.read(child.stdout.fileno(), _OUTPUT_BYTES_MAX):
                self._unread = (self._unread + said)[-_OUTPUT_BYTES_MAX:]
            has_ended = True
        except BlockingIOError:
            has_ended = False
        whole, newline, rest = self._unread.rpartition(b"\n")
        if newline:
            self._unread = rest
            lines = whole.decode(errors="replace").splitlines()[-CARDS_MAX:]
            for card in cards_from("\n".join(lines)):
                self._readings[card.address] = card.readings
                self._heard_s = now_s
        if has_ended or now_s - self._heard_s > SILENT_S:
            self.close()


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
