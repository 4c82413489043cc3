"""The devices of a real node: the processor always, for the node's own checks, and every usable graphics card asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import peerinfer
from peerinfer.config import NodeConfig
from peerinfer.control import Json
from peerinfer.errors import UsageError
from peerinfer.governor import Limits
from peerinfer_node.devices.choice import FoundGpu
from peerinfer_node.devices.native import NATIVES, OPENVINO, advice_for, version_of
from peerinfer_node.devices.probe import cpu_device, default_threads
from peerinfer_node.devices.sampler import Sampler, Source
from peerinfer_node.devices.sysfs import Readings, read_sensors
from peerinfer_node.inference.certificates import Certificates
from peerinfer_node.inference.certified_executor import CertifiedExecutor
from peerinfer_node.inference.device_access import DeviceAccess, gpu_access
from peerinfer_node.inference.remembered_figures import RememberedFigures
from peerinfer_node.inference.remembered_sizes import RememberedSizes
from peerinfer_node.inference.subprocess_executor import SubprocessExecutor
from peerinfer_node.log import Log
from peerinfer_node.ports import Executor, LocalClock, Store


@dataclass(frozen=True, slots=True)
class LentDevices:
    executors: tuple[Executor, ...]
    """The processor first."""
    lends_processor: bool
    sampler: Sampler
    """Of the devices that are lent."""
    limits: Limits
    refused: tuple[Json, ...]
    """Cards that were found and cannot be used, or were not asked for, as people see them."""

    def report_to(self, confine: Callable[[Executor, str, float], None]) -> None:
        """Calls `confine` when the quarantine of a card begins."""
        for executor in self.executors:
            if isinstance(executor, CertifiedExecutor):
                executor.on_confined = partial(confine, executor)


def lend(
    config: NodeConfig,
    gpus: Sequence[FoundGpu],
    store: Store,
    clock: LocalClock,
    log: Log,
    bytes_today: Callable[[], int] = lambda: 0,
    *,
    measures_anew: bool = False,
) -> LentDevices:
    """Starts nothing yet. `bytes_today` counts towards the daily quota. With `measures_anew` no figures are remembered.

    Raises `UsageError` if a card was asked for by number that is not there or not usable, or OpenVINO where it is not
    installed.
    """
    threads = config.cpu_threads or default_threads()
    own = cpu_device()
    software = f"{_software(None)} {threads} threads"
    sizes = RememberedSizes(store, clock, own, software)
    figures = RememberedFigures(store, clock, own, software, anew=measures_anew)
    processor = SubprocessExecutor(own, threads=threads, sizes=sizes, figures=figures)
    processor.on_hung = lambda reason: log.warning("device hung", device=own.name, reason=reason)
    chosen = _chosen(config.device, gpus)
    executors: list[Executor] = [processor]
    sources = [Source("cpu", worker_pid=lambda: processor.pid)]
    if "openvino" in config.device:
        if not version_of(OPENVINO.package):
            raise UsageError(f"OpenVINO is not installed; {advice_for(OPENVINO)}")
        device = replace(own, provider=OPENVINO.provider, selector="openvino")
        through = SubprocessExecutor(
            device,
            threads=threads,
            access=DeviceAccess(provider=OPENVINO.provider),
            sizes=RememberedSizes(store, clock, device, software),
            figures=RememberedFigures(store, clock, device, software, anew=True),
        )
        certificates = Certificates(store, clock, device, _software(None))
        executors.append(_certified(through, processor, certificates, clock, log))
        sources.append(Source("cpu", worker_pid=lambda: through.pid))
    for found in chosen:
        device = found.device
        if config.max_vram_bytes is not None and config.max_vram_bytes < device.memory_bytes:
            device = replace(device, memory_bytes=config.max_vram_bytes)
        software = _software(found)
        sizes = RememberedSizes(store, clock, device, software)
        figures = RememberedFigures(store, clock, device, software, anew=True)
        card = SubprocessExecutor(device, threads=1, access=gpu_access(found), sizes=sizes, figures=figures)
        certificates = Certificates(store, clock, device, software)
        executors.append(_certified(card, processor, certificates, clock, log))
        sources.append(Source("gpu", found.card, lambda card=card: card.pid))  # type: ignore[misc]
    lends_processor = "auto" in config.device or "cpu" in config.device
    return LentDevices(
        executors=tuple(executors),
        lends_processor=lends_processor,
        sampler=Sampler(
            sources if lends_processor else sources[1:], exclusive=config.exclusive, bytes_today=bytes_today
        ),
        limits=limits_of(config),
        refused=tuple(_refused(found) for found in gpus if found not in chosen),
    )


def _certified(
    card: SubprocessExecutor, processor: Executor, certificates: Certificates, clock: LocalClock, log: Log
) -> CertifiedExecutor:
    executor = CertifiedExecutor(card, processor, certificates, clock, log)
    card.on_hung = executor.hung
    return executor


def limits_of(config: NodeConfig) -> Limits:
    return Limits(
        max_temp_c=config.max_temp_c,
        max_power_w=config.max_power_w,
        max_vram_bytes=config.max_vram_bytes,
        idle_only=config.idle_only,
        on_battery=config.on_battery,
        schedule=config.schedule,
        exclusive=config.exclusive,
        max_daily_bytes=config.max_daily_bytes,
    )


def _refused(found: FoundGpu) -> Json:
    """In the fields of INTERFACES' `devices`."""
    device = found.device
    sensors = read_sensors(found.card) if found.card is not None else Readings()
    reasons = [f"{obstacle.reason}; {obstacle.advice}".strip("; ") for obstacle in found.obstacles]
    return {
        "selector": device.selector,
        "name": device.name,
        "kind": device.kind,
        "provider": device.provider,
        "vendor_id": device.vendor_id,
        "device_id": device.device_id,
        "vram_bytes": device.memory_bytes,
        "temperature_c": sensors.temperature_c,
        "power_w": sensors.power_w,
        "busy_ratio": sensors.busy_ratio,
        "benchmark": {
            "gemm_gflops": 0.0,
            "bandwidth_gbs": 0.0,
            "conv_images_s": 0.0,
            "resnet50_images_s": 0.0,
            "measured_at": None,
        },
        "good_for": found.good_for,
        "agreement": None,
        "fp16": device.has_fp16,
        "driver": device.driver,
        "certified": False,
        "state": "refused",
        "reasons": reasons or ["not lent: --device leaves it out"],
    }


def _chosen(wanted: Sequence[str], gpus: Sequence[FoundGpu]) -> list[FoundGpu]:
    if "auto" in wanted:
        return [found for found in gpus if found.is_usable]
    chosen = []
    for name in wanted:
        kind, _, number = name.partition(":")
        if kind != "gpu":
            continue
        if int(number) >= len(gpus):
            raise UsageError(f"there is no {name}; {len(gpus)} graphics cards were found: see peerinfer doctor")
        found = gpus[int(number)]
        if not found.is_usable:
            obstacle = found.obstacles[0]
            advice = f"; {obstacle.advice}" if obstacle.advice else ""
            raise UsageError(f"{name} ({found.device.name}) cannot be used: {obstacle.reason}{advice}")
        chosen.append(found)
    return chosen


def _software(found: FoundGpu | None) -> str:
    """What may change a device's answers and its speed; None is the processor."""
    versions = [peerinfer.__version__, *((found.driver, found.driver_version) if found else ())]
    for package in ("onnxruntime", "onnxruntime-ep-webgpu", *(native.package for native in NATIVES)):
        versions.append(version_of(package) or "none")
    return " ".join(versions)
