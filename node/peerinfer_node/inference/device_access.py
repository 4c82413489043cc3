"""What the process of a device is given beyond the processor: which provider to use, which doors stay open to it.

A graphics card cannot be used without opening its device file and talking to its driver, so a worker for one gets an
opening in its sandbox: its own card's file, and what drivers read about themselves. Other cards stay closed, which is
also what makes Vulkan choose the right one of two equal cards. Shader caches are off: they are programs on disk that
one model writes and another one runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from peerinfer.classes import CPU_PROVIDER
from peerinfer_node.devices.choice import FoundGpu

_DRIVER_PATHS = (
    "/sys/class/drm", "/sys/dev", "/sys/devices", "/sys/bus/pci", "/dev/dri",
    "/usr/share/vulkan", "/usr/local/share/vulkan", "/etc/vulkan", "/usr/share/drirc.d", "/usr/share/libdrm",
    "/usr/share/glvnd", "/usr/share/nvidia", "/etc/nvidia", "/proc/driver/nvidia", "/proc/devices",
)  # fmt: skip
_VENDOR_NODES = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset", "/dev/dxg")
_NVIDIA_NODES_MAX = 16

_PASSED_ON = (
    "LD_LIBRARY_PATH", "VK_DRIVER_FILES", "VK_ICD_FILENAMES", "VK_LOADER_DRIVERS_SELECT", "RADV_PERFTEST", "RADV_DEBUG",
    "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER",
)  # fmt: skip
"""How an owner tells Vulkan's loader which driver to use; taken over from the daemon's own environment."""

_LISTS_OF_FILES = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")


@dataclass(frozen=True, slots=True)
class DeviceAccess:
    """How a worker process reaches its device. The default is the processor's."""

    provider: str = CPU_PROVIDER
    environment: Mapping[str, str] = field(default_factory=dict)
    readable: tuple[str, ...] = ()
    device_files: tuple[str, ...] = ()
    """May be opened for writing and controlled (ioctl)."""
    device_ids: tuple[int, int] = (0, 0)
    """PCI vendor and device."""
    widens_halves: bool = False
    """fp16 models are turned into fp32 before they are loaded."""

    @property
    def is_gpu(self) -> bool:
        return self.provider != CPU_PROVIDER

    def arguments(self) -> list[str]:
        """For the worker process's command line."""
        found = [f"--provider={self.provider}", f"--device-ids={self.device_ids[0]}:{self.device_ids[1]}"]
        found += [f"--readable={path}" for path in self.readable]
        found += [f"--device-file={path}" for path in self.device_files]
        return found + (["--widen-halves"] if self.widens_halves else [])


def gpu_access(found: FoundGpu, surroundings: Mapping[str, str] = os.environ) -> DeviceAccess:
    """The access to one usable card. `surroundings` is the daemon's environment."""
    passed_on = {name: surroundings[name] for name in _PASSED_ON if surroundings.get(name)}
    libraries = passed_on.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    manifests = [path for name in _LISTS_OF_FILES for path in passed_on.get(name, "").split(os.pathsep)]
    own = [os.path.abspath(path) for path in (*libraries, *map(os.path.dirname, manifests)) if path]
    node = found.card.render_node if found.card else ""
    files = [node] if node else ["/dev/dri"]  # what Vulkan alone knows has no file that could be told apart
    files += [path for path in _VENDOR_NODES if os.path.exists(path)]
    files += [path for number in range(_NVIDIA_NODES_MAX) if os.path.exists(path := f"/dev/nvidia{number}")]
    return DeviceAccess(
        provider=found.device.provider,
        environment={"MESA_SHADER_CACHE_DISABLE": "true", **passed_on, **found.environment},
        readable=(*_DRIVER_PATHS, *dict.fromkeys(own)),
        device_files=tuple(files),
        device_ids=(found.device.vendor_id, found.device.device_id),
        widens_halves=found.has_fp16 is not True,
    )
