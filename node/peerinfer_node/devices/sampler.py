"""What the machine's sensors say, twice a second: heat, power, load by others, memory, keyboard, battery, programs.

All of it is read from files and costs about a millisecond. Reading can wait for a driver that hangs, so it is done in a
thread; while one call hangs, further ones return None at once instead of piling up.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from peerinfer.governor import DeviceSample, Sample
from peerinfer.limits import KIB
from peerinfer_node.devices import nvidia, sysfs
from peerinfer_node.devices.sysfs import Card, Readings

NVIDIA_EVERY_S = 4.0
"""The tool takes a tenth of a second for each question, so it is asked this often where it does not speak on its own."""

_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
_TERMINAL = re.compile(r"tty[0-9]+")
_FDINFO_FILES_MAX = 1024


@dataclass(frozen=True, slots=True)
class Source:
    """One device and how to learn of it."""

    kind: str
    card: Card | None = None
    worker_pid: Callable[[], int | None] = lambda: None


@dataclass(slots=True)
class _OwnUse:
    """What our worker has used of a card: engine time in all, and memory now."""

    busy_s: float
    memory_bytes: int


class Sampler:
    """Remembers the last reading, since shares are differences. `root` holds `sys/`, `proc/` and `dev/`."""

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        exclusive: Sequence[str] = (),
        root: Path = Path("/"),
        bytes_today: Callable[[], int] = lambda: 0,
    ) -> None:
        self._sources = tuple(sources)
        self._bytes_today = bytes_today
        self._exclusive = frozenset(exclusive)
        self._root = root
        self._busy = threading.Lock()
        self._cpu_sensor = _cpu_sensor(root)
        self._at_s = time.monotonic()
        self._own_cpu_s = self._own_processor_s()
        self._own_gpu: dict[int, _OwnUse] = {}
        self._nvidia: dict[str, Readings] = {}
        self._nvidia_watch = nvidia.Watch()
        self._nvidia_at_s = -NVIDIA_EVERY_S
        psutil.cpu_percent()  # the first call has nothing to compare with

    def sample(self) -> Sample | None:
        """What there is to say now; None while an earlier call still waits for a driver."""
        if not self._busy.acquire(blocking=False):
            return None
        try:
            return self._sample()
        finally:
            self._busy.release()

    def close(self) -> None:
        self._nvidia_watch.close()

    def _sample(self) -> Sample:
        now_s = time.monotonic()
        elapsed_s, self._at_s = max(1e-3, now_s - self._at_s), now_s
        if any(source.card is not None and source.card.driver == "nvidia" for source in self._sources):
            self._ask_nvidia(now_s)
        devices = [
            self._card(number, source, elapsed_s) if source.kind == "gpu" else self._processor(elapsed_s)
            for number, source in enumerate(self._sources)
        ]
        local = time.localtime()
        return Sample(
            devices=tuple(devices),
            minute_of_week=local.tm_wday * 1440 + local.tm_hour * 60 + local.tm_min,
            seconds_of_minute=local.tm_sec,
            input_idle_s=input_idle_s(self._root, time.time()),
            on_battery=on_battery(self._root),
            programs=self._running_programs(),
            bytes_today=self._bytes_today(),
        )

    # --- the processor ---------------------------------------------------------------------------------------------

    def _processor(self, elapsed_s: float) -> DeviceSample:
        total_ratio = psutil.cpu_percent() / 100
        own_s = self._own_processor_s()
        own_ratio = max(0.0, own_s - self._own_cpu_s) / elapsed_s / (os.cpu_count() or 1)
        self._own_cpu_s = own_s
        memory = psutil.virtual_memory()
        temperature = None if self._cpu_sensor is None else sysfs.number_in(self._cpu_sensor)
        return DeviceSample(
            temperature_c=None if temperature is None else temperature / 1000,
            busy_ratio=min(1.0, total_ratio),
            foreign_busy_ratio=min(1.0, max(0.0, total_ratio - own_ratio)),
            memory_used_bytes=memory.total - memory.available,
        )

    def _own_processor_s(self) -> float:
        """Processor time of the daemon and of its workers that run now."""
        pids = [os.getpid(), *(source.worker_pid() for source in self._sources)]
        total_s = 0.0
        for pid in pids:
            try:
                times = psutil.Process(pid).cpu_times() if pid is not None else None
            except psutil.Error:
                continue
            total_s += times.user + times.system if times is not None else 0.0
        return total_s

    # --- cards -----------------------------------------------------------------------------------------------------

    def _card(self, number: int, source: Source, elapsed_s: float) -> DeviceSample:
        if source.card is None:
            return DeviceSample()
        readings = self._nvidia.get(source.card.address) or sysfs.read_sensors(source.card)
        pid = source.worker_pid()
        own = _OwnUse(0.0, 0) if pid is None else own_use(self._root, pid, source.card.address)
        before, foreign_ratio = self._own_gpu.get(number), None
        if own is not None and readings.busy_ratio is not None:
            own_s = own.busy_s - before.busy_s if before is not None else 0.0  # a new worker starts from zero
            foreign_ratio = max(0.0, readings.busy_ratio - max(0.0, own_s) / elapsed_s)
        if own is None:
            self._own_gpu.pop(number, None)
        else:
            self._own_gpu[number] = own
        return DeviceSample(
            temperature_c=readings.temperature_c,
            power_w=readings.power_w,
            busy_ratio=readings.busy_ratio,
            foreign_busy_ratio=foreign_ratio,
            memory_used_bytes=readings.memory_used_bytes,
            own_memory_bytes=own.memory_bytes if own is not None else 0,
        )

    def _ask_nvidia(self, now_s: float) -> None:
        if said := self._nvidia_watch.readings(now_s):
            self._nvidia = said
        elif now_s - self._nvidia_at_s >= NVIDIA_EVERY_S:
            self._nvidia = {card.address: card.readings for card in nvidia.query()}
            self._nvidia_at_s = now_s

    def _running_programs(self) -> tuple[str, ...]:
        if not self._exclusive:
            return ()
        names = {process.info["name"] for process in psutil.process_iter(["name"])}
        return tuple(sorted(self._exclusive & names))


def own_use(root: Path, pid: int, address: str) -> _OwnUse | None:
    """What a process uses of a card (Documentation/gpu/drm-usage-stats.rst), or None if the kernel does not say."""
    folder = root / "proc" / str(pid) / "fdinfo"
    clients: dict[str, dict[str, str]] = {}
    try:
        for name in os.listdir(folder)[:_FDINFO_FILES_MAX]:
            facts = {
                key: value.strip()
                for key, separator, value in (line.partition(":") for line in _lines(folder / name))
                if separator and key.startswith("drm-")
            }
            if facts.get("drm-pdev") == address:
                clients[facts.get("drm-client-id", name)] = facts  # one client may have several descriptors
    except OSError:
        return None
    busy_ns = memory_kib = 0
    for facts in clients.values():
        for key, value in facts.items():
            amount = value.split()[0] if value else ""
            if not amount.isdecimal():
                continue
            if key.startswith("drm-engine-") and not key.startswith("drm-engine-capacity"):
                busy_ns = max(busy_ns, int(amount))  # engines work side by side; the busiest one counts
            elif key == "drm-memory-vram":
                memory_kib += int(amount)
    return _OwnUse(busy_ns / 1e9, memory_kib * KIB)


def on_battery(root: Path) -> bool | None:
    """Whether no mains supply is connected; None on machines without a battery."""
    folder = root / "sys" / "class" / "power_supply"
    try:
        supplies = [folder / name for name in sorted(os.listdir(folder))]
    except OSError:
        return None
    kinds = {supply: "".join(_lines(supply / "type")).strip() for supply in supplies}
    is_portable = any(
        kind == "Battery" and "".join(_lines(supply / "scope")).strip() != "Device" for supply, kind in kinds.items()
    )
    if not is_portable:
        return None  # batteries of mice and headsets are no machine's
    mains = [supply for supply, kind in kinds.items() if kind in ("Mains", "USB")]
    return not any(sysfs.number_in(supply / "online") for supply in mains)


def input_idle_s(root: Path, wall_s: float) -> float | None:
    """Seconds since somebody typed at a terminal of this machine, near or remote; None if there is none.

    Graphical sessions tell only their own programs; other programs' load is what shows them.
    """
    terminals = [root / "dev" / "pts", root / "dev"]
    latest_s = None
    for folder in terminals:
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            if not (name.isdecimal() if folder.name == "pts" else _TERMINAL.fullmatch(name)):
                continue
            try:
                read_at_s = (folder / name).stat().st_atime
            except OSError:
                continue
            latest_s = read_at_s if latest_s is None else max(latest_s, read_at_s)
    return None if latest_s is None else max(0.0, wall_s - latest_s)


def _cpu_sensor(root: Path) -> Path | None:
    folder = root / "sys" / "class" / "hwmon"
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return None
    for name in names:
        if "".join(_lines(folder / name / "name")).strip() in _CPU_SENSORS:
            return folder / name / "temp1_input"
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
