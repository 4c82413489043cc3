"""Which of the graphics cards found can be used, and what keeps the others from it: a decision over what was found.

A card is usable if Vulkan offers it through a driver that is no software, its device file may be opened, and the WebGPU
provider is installed. Every other card is listed with its reason and with what its owner can do about it. That a card is
usable says nothing about its answers yet: that is certified model by model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from peerinfer.classes import WEBGPU_PROVIDER
from peerinfer.limits import GIB, NAME_CHARS_MAX
from peerinfer_node.devices.card_names import VENDORS, Family, card_name, family
from peerinfer_node.devices.native import native_for
from peerinfer_node.devices.nvidia import NvidiaCard
from peerinfer_node.devices.sysfs import Card
from peerinfer_node.devices.vulkan import Adapter, Answer
from peerinfer_node.ports import Device

MEMORY_BYTES_MIN = GIB
"""A card with less cannot hold a usual model beside what it shows on the screen."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a card cannot be used, and what helps."""

    reason: str
    advice: str
    holds_for_all: bool = False
    """Whatever the provider."""


@dataclass(frozen=True, slots=True)
class FoundGpu:
    """One graphics card, usable or not."""

    device: Device
    card: Card | None
    """Where its sensors are; None for adapters that Vulkan knows alone."""
    driver: str
    good_for: str
    has_fp16: bool | None
    obstacles: tuple[Obstacle, ...]
    driver_version: str = ""
    """Vulkan's interface and its driver's own number."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What makes a worker process see this card and no other."""

    @property
    def is_usable(self) -> bool:
        return not self.obstacles


def judge(
    cards: Sequence[Card],
    vulkan: Answer,
    *,
    has_provider: bool,
    nvidia: Sequence[NvidiaCard] = (),
    allow_software: bool = False,
    providers: Collection[str] = (),
) -> list[FoundGpu]:
    """`providers` are those that ONNX Runtime brings itself; a maker's own serves a card that WebGPU cannot reach.

    Every card once, in the order of the kernel's numbers, then what only Vulkan sees.

    Two equal cards share their ids, by which Vulkan's adapters are matched, so each takes one adapter away. Software
    drivers are no cards and appear only where they are allowed.
    """
    waiting = list(vulkan.adapters)
    found = []
    for card in cards:
        adapter = _taken(waiting, card)
        if adapter is None and not card.driver and not card.render_node:
            continue  # A management controller's screen, or the like: nothing that could ever compute.
        figures = next((figures for figures in nvidia if figures.address == card.address), None)
        found.append(_natively(_from_card(card, adapter, figures, vulkan, has_provider), providers))
    for adapter in waiting:
        if adapter.kind != "cpu" or allow_software:
            found.append(_from_adapter(adapter, has_provider))
    return [replace(gpu, device=replace(gpu.device, selector=f"gpu:{number}")) for number, gpu in enumerate(found)]


def _natively(found: FoundGpu, providers: Collection[str]) -> FoundGpu:
    """With the provider of its maker, if that is what it takes to use it and the kernel has a driver for it."""
    card = found.card
    native = native_for(found.device.vendor_id, providers)
    if found.is_usable or native is None or card is None or card.driver in ("", "vfio-pci", "radeon", "nouveau"):
        return found
    kept = tuple(obstacle for obstacle in found.obstacles if obstacle.holds_for_all)
    return replace(found, device=replace(found.device, provider=native.provider), obstacles=kept, environment={})


def _taken(waiting: list[Adapter], card: Card) -> Adapter | None:
    for position, adapter in enumerate(waiting):
        if adapter.kind != "cpu" and (adapter.vendor_id, adapter.device_id) == (card.vendor_id, card.device_id):
            return waiting.pop(position)
    return None


def _from_card(
    card: Card, adapter: Adapter | None, figures: NvidiaCard | None, vulkan: Answer, has_provider: bool
) -> FoundGpu:
    kind = family(card.vendor_id, card.device_id)
    name = card_name(card.vendor_id, card.device_id, card.revision)
    if not name and figures is not None:
        name = figures.name
    if not name and adapter is not None:
        name = adapter.name
    if not name:
        name = f"{VENDORS.get(card.vendor_id, 'unknown')} card {card.vendor_id:04x}:{card.device_id:04x}"
    memory_bytes = card.memory_bytes or (figures.memory_bytes if figures else 0)
    memory_bytes = memory_bytes or (adapter.memory_bytes if adapter else 0)
    obstacles = []
    if not has_provider:
        obstacles.append(_NO_PROVIDER)
    obstacles += _driver_obstacles(card, adapter, vulkan)
    if 0 < memory_bytes < MEMORY_BYTES_MIN:
        words = f"it has {memory_bytes >> 20} MiB of memory, too little for models"
        obstacles.append(Obstacle(words, "", holds_for_all=True))
    has_fp16 = adapter.has_fp16 if adapter else kind.has_fp16 if kind else None
    version = _version(adapter) if adapter else ""
    driver = f"{card.driver}, {adapter.name}, Vulkan {adapter.api}" if adapter else card.driver
    return FoundGpu(
        device=_device(name, memory_bytes, card.vendor_id, card.device_id, has_fp16, driver),
        card=card,
        driver=card.driver,
        good_for=_good_for(kind),
        has_fp16=has_fp16,
        obstacles=tuple(obstacles),
        driver_version=version,
        environment=_selecting(card.vendor_id, card.device_id),
    )


_NO_PROVIDER = Obstacle("the WebGPU provider is not installed", "run: pip install 'peerinfer[gpu]'")


def _driver_obstacles(card: Card, adapter: Adapter | None, vulkan: Answer) -> list[Obstacle]:
    if not card.driver:
        return [Obstacle("no driver has taken it", "install the driver for it, and restart")]
    if card.driver == "radeon":
        switch = "amdgpu.si_support=1 radeon.si_support=0 amdgpu.cik_support=1 radeon.cik_support=0"
        return [Obstacle("the old driver radeon has no Vulkan", f"start the kernel with: {switch}")]
    if card.driver == "vfio-pci":
        return [Obstacle("it is set aside for virtual machines", "")]
    if card.render_node and not card.may_use:
        return [
            Obstacle(
                f"you may not open {card.render_node}",
                "join the group that may, then log in again: sudo usermod -aG render $USER",
                holds_for_all=True,
            )
        ]
    if vulkan.problem:
        return [Obstacle(vulkan.problem, vulkan.advice)]
    if adapter is None:
        return [Obstacle(f"no Vulkan driver offers it (kernel driver: {card.driver})", _driver_advice(card))]
    return []


def _driver_advice(card: Card) -> str:
    if card.driver in ("amdgpu", "i915", "xe", "nouveau"):
        return "install Mesa's Vulkan drivers (Debian: mesa-vulkan-drivers; Fedora: mesa-vulkan-drivers)"
    return "install the Vulkan part of its driver (Debian: nvidia-vulkan-icd)" if card.driver == "nvidia" else ""


def _from_adapter(adapter: Adapter, has_provider: bool) -> FoundGpu:
    kind = family(adapter.vendor_id, adapter.device_id)
    return FoundGpu(
        device=_device(
            adapter.name,
            adapter.memory_bytes,
            adapter.vendor_id,
            adapter.device_id,
            adapter.has_fp16,
            f"Vulkan {adapter.api}",
        ),
        card=None,
        driver="Vulkan",
        good_for="tests: it computes on the processor" if adapter.kind == "cpu" else _good_for(kind),
        has_fp16=adapter.has_fp16,
        obstacles=() if has_provider else (_NO_PROVIDER,),
        driver_version=_version(adapter),
        environment={} if adapter.kind == "cpu" else _selecting(adapter.vendor_id, adapter.device_id),
    )


def _version(adapter: Adapter) -> str:
    return f"{adapter.api}/{adapter.driver_version:x}"


def _good_for(kind: Family | None) -> str:
    return f"{kind.good_for} ({kind.name})" if kind else "models that it computes as the processor does"


def _device(name: str, memory_bytes: int, vendor_id: int, device_id: int, has_fp16: bool | None, driver: str) -> Device:
    return Device(
        name[:NAME_CHARS_MAX],
        "gpu",
        WEBGPU_PROVIDER,
        memory_bytes,
        vendor_id,
        device_id,
        has_fp16=has_fp16,
        driver=driver[:NAME_CHARS_MAX],
    )


def _selecting(vendor_id: int, device_id: int) -> dict[str, str]:
    """The provider takes the first adapter and cannot be told otherwise, but Mesa can be: `!` leaves only this one."""
    return {"MESA_VK_DEVICE_SELECT": f"{vendor_id:04x}:{device_id:04x}!"}
