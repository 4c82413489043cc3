"""Figures of a benchmark across restarts: for which device, how long, and not for those that may have become wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from peerinfer_node.inference import remembered_figures as figures
from peerinfer_node.inference.remembered_figures import RememberedFigures
from peerinfer_node.memory_store import MemoryStore
from peerinfer_node.ports import Device

FOUND = Device("AMD EPYC", "cpu", "CPUExecutionProvider", 1 << 34, selector="cpu")
MEASURED = replace(
    FOUND, gemm_gflops=94.3, bandwidth_gbs=22.3, conv_images_s=900.0, resnet50_images_s=13.0, answers=(0.25, -0.5)
)


class Clock:
    at_s = 1.8e9

    def wall_s(self) -> float:
        return self.at_s

    def now_s(self) -> float:
        return self.at_s


def remembered(store: MemoryStore, clock: Clock, device: Device = FOUND, software: str = "1", **more: Any) -> Any:
    return RememberedFigures(store, clock, device, software, **({"is_busy": lambda: False} | more))


async def test_what_was_measured_is_known_after_a_restart_with_its_time() -> None:
    store, clock = MemoryStore(), Clock()
    assert await remembered(store, clock).find(FOUND) is None
    kept = await remembered(store, clock).keep(MEASURED)
    assert kept == replace(MEASURED, measured_at_s=clock.at_s)
    assert await remembered(store, clock).find(FOUND) == kept


@pytest.mark.parametrize(
    "changed",
    [
        {"software": "2"},
        {"device": replace(FOUND, name="another")},
        {"device": replace(FOUND, provider="OpenVINOExecutionProvider")},
        {"anew": True},
    ],
)
async def test_another_device_or_software_and_who_wishes_it_measure_anew(changed: dict[str, Any]) -> None:
    store, clock = MemoryStore(), Clock()
    await remembered(store, clock).keep(MEASURED)
    assert await remembered(store, clock, **changed).find(FOUND) is None


async def test_a_benchmark_of_another_revision_measures_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    store, clock = MemoryStore(), Clock()
    await remembered(store, clock).keep(MEASURED)
    monkeypatch.setattr(figures, "REVISION", figures.REVISION + 1)
    assert await remembered(store, clock).find(FOUND) is None


@pytest.mark.parametrize(("is_busy", "valid_s"), [(False, figures.VALID_S), (True, figures.VALID_BUSY_S)])
async def test_figures_grow_old_and_those_of_a_busy_machine_sooner(is_busy: bool, valid_s: float) -> None:
    store, clock = MemoryStore(), Clock()
    await remembered(store, clock, is_busy=lambda: is_busy).keep(MEASURED)
    clock.at_s += valid_s - 1
    assert await remembered(store, clock).find(FOUND) is not None
    clock.at_s += 1
    assert await remembered(store, clock).find(FOUND) is None
    clock.at_s -= valid_s + 1  # the clock was set back
    assert await remembered(store, clock).find(FOUND) is None


@pytest.mark.parametrize(
    "spoilt",
    [
        "",
        "[]",
        "no JSON",
        {"gemm_gflops": "many"},
        {"gemm_gflops": 0},
        {"bandwidth_gbs": -1},
        {"conv_images_s": float("inf")},
        {"answers": None},
        {"answers": [float("nan")]},
        {"answers": [0.0] * (figures.ANSWERS_MAX + 1)},
        {"measured_at_s": None},
    ],
)
async def test_what_is_not_what_we_wrote_is_measured_anew(spoilt: Any) -> None:
    store, clock = MemoryStore(), Clock()
    await remembered(store, clock).keep(MEASURED)
    (key,) = store._settings
    old = json.loads(store._settings[key])
    store._settings[key] = spoilt if isinstance(spoilt, str) else json.dumps(old | spoilt)
    assert await remembered(store, clock).find(FOUND) is None


async def test_a_device_that_could_not_be_measured_leaves_nothing() -> None:
    store, clock = MemoryStore(), Clock()
    await remembered(store, clock).keep(FOUND)
    assert await remembered(store, clock).find(FOUND) is None
