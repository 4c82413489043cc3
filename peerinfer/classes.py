"""What a node can do, as words that can be searched for: capability classes, and the models that it keeps.

    cpu, gpu                      it lends such a device
    gpu-8GiB, vulkan-8GiB         one with at least this much memory, of this kind or driven this way
    model:<cid>                   it keeps this model, so that it need not be sent

Sizes are powers of two, and a card has all classes up to its own: who needs 6 GiB asks for gpu-4GiB and looks at the
adverts. A word is true of a node only while the node lends: what rests is of no use to whoever searches.
"""

from __future__ import annotations

from peerinfer.limits import GIB
from peerinfer.messages import Advert, DeviceAdvert

MODEL = "model:"
GIB_MAX = 1024

CPU_PROVIDER = "CPUExecutionProvider"
WEBGPU_PROVIDER = "WebGpuExecutionProvider"
"""ONNX Runtime's names of the execution providers that need no build of its own."""

_DRIVEN = {WEBGPU_PROVIDER: "vulkan", "CUDAExecutionProvider": "cuda"}

_NEARLY = 0.9
"""A card that is sold as 8 GiB keeps a little of it for itself."""


def words_of(advert: Advert) -> frozenset[str]:
    """Everything that can be searched for and is true of this node."""
    if advert.state != "running":
        return frozenset()
    words = {f"{MODEL}{cid}" for cid in advert.models}
    for device in advert.devices:
        words.update(_classes_of(device))
    return frozenset(words)


def class_for(kind: str | None, memory_bytes: int) -> tuple[str, ...]:
    """Words that are true of every node with such a device; they may be true of others too."""
    if kind is None and memory_bytes < GIB:
        return ()
    if kind is None:
        # Some device with so much memory, of whatever kind: only a look at the advert can tell.
        return ()
    size = _largest(memory_bytes)
    return (f"{kind}-{size}GiB",) if size else (kind,)


def _classes_of(device: DeviceAdvert) -> list[str]:
    words = [device.kind]
    size = 1
    while size <= GIB_MAX and size * GIB * _NEARLY <= device.memory_bytes:
        words += [f"{name}-{size}GiB" for name in (device.kind, _DRIVEN.get(device.provider, "")) if name]
        size *= 2
    return words


def _largest(memory_bytes: int) -> int:
    """The largest power of two in GiB that is not more; 0 below 1 GiB."""
    gib = min(memory_bytes // GIB, GIB_MAX)
    return 1 << (gib.bit_length() - 1) if gib else 0
