"""Which devices Vulkan offers, asked in a process of its own: drivers are loaded to answer, and some crash or hang.

    python -I -B -m peerinfer_node.devices.vulkan        prints one JSON list

Nothing but ctypes and the system's Vulkan loader is needed. (Offsets are those of vulkan_core.h, which never change.)
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

TIMEOUT_S = 20.0
"""Asking takes 60 ms; a driver that wakes a sleeping card takes seconds."""

ADAPTERS_MAX = 32
KINDS = ("other", "integrated", "discrete", "virtual", "cpu")

_OUTPUT_BYTES_MAX = 64 * 1024
_NAME_CHARS_MAX = 256
_API_VERSION = (1 << 22) | (1 << 12)
_FEATURES_2, _FLOAT16_INT8_FEATURES, _APPLICATION, _CREATE_INFO = 1000059000, 1000082000, 0, 1
_DEVICE_LOCAL = 1


@dataclass(frozen=True, slots=True)
class Adapter:
    """One device that Vulkan offers."""

    name: str
    kind: str
    """One of `KINDS`; "cpu" is a driver in software."""
    vendor_id: int
    device_id: int
    api: str
    """Like 1.3.255."""
    memory_bytes: int
    has_fp16: bool
    driver_version: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What asking gave: adapters, or why there is none to be had (`problem`, `advice`)."""

    adapters: tuple[Adapter, ...] = ()
    problem: str = ""
    advice: str = ""


def ask(environment: Mapping[str, str] | None = None, *, timeout_s: float = TIMEOUT_S) -> Answer:
    """Asks in a child process and waits for it; `environment` is added to ours. Never raises."""
    command = [sys.executable, "-I", "-B", "-m", "peerinfer_node.devices.vulkan"]
    env = {**os.environ, **(environment or {})}
    try:
        child = subprocess.run(  # noqa: S603  (our own module)
            command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return Answer(problem=f"Vulkan's drivers did not answer within {timeout_s:g} s", advice=_DRIVER_ADVICE)
    except OSError as error:
        return Answer(problem=f"Vulkan could not be asked: {error.strerror}")
    if child.returncode < 0:
        return Answer(problem=f"a Vulkan driver crashed ({_signal(-child.returncode)})", advice=_DRIVER_ADVICE)
    return answer_from(child.stdout[:_OUTPUT_BYTES_MAX], child.returncode)


_DRIVER_ADVICE = "update the graphics driver (Debian: mesa-vulkan-drivers from backports)"
_NO_LOADER = "Vulkan's loader is not installed"
_NO_DRIVER = "Vulkan found no driver"


def answer_from(output: bytes, status: int) -> Answer:
    """What a child process said, as an answer; it has drivers of all kinds inside and is believed in nothing."""
    try:
        said = json.loads(output)
        if "problem" in said:
            return Answer(problem=str(said["problem"])[:_NAME_CHARS_MAX], advice=str(said.get("advice", ""))[:500])
        adapters = tuple(_adapter(fields) for fields in said["adapters"][:ADAPTERS_MAX])
    except (ValueError, KeyError, TypeError, AttributeError):
        return Answer(problem=f"Vulkan's drivers ended the question (status {status})", advice=_DRIVER_ADVICE)
    return Answer(adapters)


def _adapter(fields: Mapping[str, Any]) -> Adapter:
    name = "".join(char if char.isprintable() else " " for char in str(fields["name"]))
    return Adapter(
        name=name[:_NAME_CHARS_MAX] or "graphics card",
        kind=str(fields["kind"]) if fields["kind"] in KINDS else "other",
        vendor_id=int(fields["vendor_id"]) & 0xFFFFFFFF,
        device_id=int(fields["device_id"]) & 0xFFFFFFFF,
        api=str(fields["api"])[:32],
        memory_bytes=min(max(0, int(fields["memory_bytes"])), 1 << 50),
        has_fp16=fields["has_fp16"] is True,
        driver_version=int(fields.get("driver_version", 0)) & 0xFFFFFFFF,
    )


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# --- in the child --------------------------------------------------------------------------------------------------


class _Application(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int), ("next", ctypes.c_void_p), ("name", ctypes.c_char_p), ("version", ctypes.c_uint32),
        ("engine", ctypes.c_char_p), ("engine_version", ctypes.c_uint32), ("api", ctypes.c_uint32),
    )  # fmt: skip


class _CreateInfo(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int), ("next", ctypes.c_void_p), ("flags", ctypes.c_uint32),
        ("application", ctypes.POINTER(_Application)), ("layer_count", ctypes.c_uint32), ("layers", ctypes.c_void_p),
        ("extension_count", ctypes.c_uint32), ("extensions", ctypes.c_void_p),
    )  # fmt: skip


class _Float16Int8(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int), ("next", ctypes.c_void_p), ("float16", ctypes.c_uint32), ("int8", ctypes.c_uint32),
    )  # fmt: skip


class _Features2(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int), ("next", ctypes.c_void_p), ("features", ctypes.c_uint32 * 55))


def _enumerate() -> dict[str, Any]:
    try:
        vulkan = ctypes.CDLL("vulkan-1.dll" if sys.platform == "win32" else "libvulkan.so.1")
    except OSError:
        return {
            "problem": _NO_LOADER,
            "advice": "install it (Debian: libvulkan1, and mesa-vulkan-drivers for the card)",
        }
    application = _Application(_APPLICATION, None, b"peerinfer", 1, None, 0, _API_VERSION)
    info = _CreateInfo(_CREATE_INFO, None, 0, ctypes.pointer(application), 0, None, 0, None)
    instance = ctypes.c_void_p()
    if vulkan.vkCreateInstance(ctypes.byref(info), None, ctypes.byref(instance)) != 0:
        return {"problem": _NO_DRIVER, "advice": "install one (Debian: mesa-vulkan-drivers)"}
    count = ctypes.c_uint32(ADAPTERS_MAX)
    handles = (ctypes.c_void_p * ADAPTERS_MAX)()
    vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), handles)
    adapters = [_describe(vulkan, ctypes.c_void_p(handle)) for handle in handles[: count.value]]
    vulkan.vkDestroyInstance(instance, None)
    if not adapters:
        return {"problem": "Vulkan's drivers offer no device", "advice": "install one (Debian: mesa-vulkan-drivers)"}
    return {"adapters": adapters}


def _describe(vulkan: Any, device: ctypes.c_void_p) -> dict[str, Any]:
    properties = ctypes.create_string_buffer(4096)
    vulkan.vkGetPhysicalDeviceProperties(device, properties)
    api, driver_version, vendor_id, device_id, kind = struct.unpack_from("=5I", properties.raw)
    memory = ctypes.create_string_buffer(2048)
    vulkan.vkGetPhysicalDeviceMemoryProperties(device, memory)
    heaps_at = 4 + 32 * 8
    (heap_count,) = struct.unpack_from("=I", memory.raw, heaps_at)
    heaps = [struct.unpack_from("=QI", memory.raw, heaps_at + 4 + 16 * heap) for heap in range(min(heap_count, 16))]
    local = [size for size, flags in heaps if flags & _DEVICE_LOCAL]
    return asdict(
        Adapter(
            name=properties.raw[20:276].split(b"\0")[0].decode(errors="replace"),
            kind=KINDS[kind] if kind < len(KINDS) else "other",
            vendor_id=vendor_id,
            device_id=device_id,
            api=f"{api >> 22 & 0x7F}.{api >> 12 & 0x3FF}.{api & 0xFFF}",
            memory_bytes=max(local, default=0),
            has_fp16=_has_fp16(vulkan, device),
            driver_version=driver_version,
        )
    )


def _has_fp16(vulkan: Any, device: ctypes.c_void_p) -> bool:
    try:
        get_features = vulkan.vkGetPhysicalDeviceFeatures2
    except AttributeError:
        return False  # a loader older than Vulkan 1.1
    halves = _Float16Int8(_FLOAT16_INT8_FEATURES, None, 0, 0)
    features = _Features2(_FEATURES_2, ctypes.cast(ctypes.pointer(halves), ctypes.c_void_p), (ctypes.c_uint32 * 55)())
    get_features(device, ctypes.byref(features))
    return bool(halves.float16)


def main() -> None:
    sys.stdout.write(json.dumps(_enumerate()))


if __name__ == "__main__":
    main()
