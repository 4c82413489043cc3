"""What a device was measured at, across restarts: measuring takes longer than all else that a daemon does to start.

The figures belong to a device, the software between and its threads, as certificates do. A card is measured at every start
all the same, since that is also how one is found out that computes wrongly; of a processor the figures are taken as they
were. They are a first guess: what the balancer goes by later is how fast real work went.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from peerinfer_node.ports import Device, LocalClock, Store

REVISION = 1
"""Of the benchmark in `measuring`: raised when it measures something else, so that old figures are forgotten."""

VALID_S = 7 * 86_400.0
"""Machines get other memory, cooling and owners' habits: after a week they are measured again."""

VALID_BUSY_S = 3600.0
"""Where other programs had the processors meanwhile, a device looks slower than it is."""

ANSWERS_MAX = 64

_FIGURES = ("gemm_gflops", "bandwidth_gbs", "conv_images_s", "resnet50_images_s")


def machine_is_busy() -> bool:
    """More wants to run than there are processors; the benchmark itself counts for one."""
    try:
        return os.getloadavg()[0] > (os.cpu_count() or 1)
    except (OSError, AttributeError):  # a system that does not tell
        return False


class RememberedFigures:
    """Of one device with one set of software."""

    def __init__(
        self,
        store: Store,
        clock: LocalClock,
        device: Device,
        software: str,
        *,
        anew: bool = False,
        is_busy: Callable[[], bool] = machine_is_busy,
    ) -> None:
        """`anew`: nothing is taken from before, but what is measured is kept. `is_busy`: with other programs."""
        identity = f"{device.name}|{device.provider}|{device.vendor_id}|{device.device_id}|{software}|{REVISION}"
        self._key = "figures/" + hashlib.sha256(identity.encode()).hexdigest()[:16]
        self._store = store
        self._clock = clock
        self._anew = anew
        self._is_busy = is_busy

    async def find(self, device: Device) -> Device | None:
        """The device with its figures, if they are known and not too old."""
        stored = None if self._anew else await self._store.setting(self._key)
        known = None if stored is None else _read(stored)
        if known is None:
            return None
        valid_s = VALID_BUSY_S if known.pop("was_busy") else VALID_S
        if not 0 <= self._clock.wall_s() - known["measured_at_s"] < valid_s:
            return None
        return replace(device, **known)

    async def keep(self, device: Device) -> Device:
        """The device as it was measured now; kept where there is something to keep."""
        measured = replace(device, measured_at_s=self._clock.wall_s())
        if measured.gemm_gflops > 0:
            known = {name: getattr(measured, name) for name in (*_FIGURES, "answers", "measured_at_s")}
            await self._store.set_setting(self._key, json.dumps({**known, "was_busy": self._is_busy()}))
        return measured


def _read(stored: str) -> dict[str, Any] | None:
    """What is not what we wrote is forgotten."""
    try:
        raw = json.loads(stored)
        numbers = {name: float(raw[name]) for name in (*_FIGURES, "measured_at_s")}
        answers = tuple(float(answer) for answer in raw["answers"])
    except (ValueError, TypeError, KeyError, OverflowError):
        return None
    is_sound = all(math.isfinite(number) and number >= 0 for number in (*numbers.values(), *map(abs, answers)))
    if not is_sound or numbers["gemm_gflops"] <= 0 or len(answers) > ANSWERS_MAX:
        return None
    return {**numbers, "answers": answers, "was_busy": raw.get("was_busy") is not False}
