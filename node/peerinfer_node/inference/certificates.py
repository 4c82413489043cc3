"""Which models came out right on which device: verdicts that are kept across restarts, for as long as they mean anything.

A verdict belongs to a model, a device and the software between them; another driver or provider asks anew.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass

from peerinfer.ids import Cid
from peerinfer.limits import REASON_CHARS_MAX
from peerinfer_node.ports import Device, LocalClock, Store

CERTIFICATES_MAX = 512
"""Per device; those asked for least recently go first."""

VALID_S = 7 * 86_400.0
"""Drivers are mended and cards age: after a week, right or wrong, a model is tried again."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`problem` is "" if the device agreed with the processor."""

    problem: str

    @property
    def is_certified(self) -> bool:
        return not self.problem


class Certificates:
    """The verdicts of one device with one set of software, read once and written through."""

    def __init__(self, store: Store, clock: LocalClock, device: Device, software: str) -> None:
        """`software` names whatever may change the answers: versions of driver, provider and ourselves."""
        identity = f"{device.name}|{device.provider}|{device.vendor_id}|{device.device_id}|{software}"
        self._key = "certificates/" + hashlib.sha256(identity.encode()).hexdigest()[:16]
        self._store = store
        self._clock = clock
        self._verdicts: OrderedDict[str, tuple[str, float]] | None = None

    async def find(self, model: Cid) -> Verdict | None:
        verdicts = await self._loaded()
        if model not in verdicts:
            return None
        problem, given_at_s = verdicts[model]
        if not 0 <= self._clock.wall_s() - given_at_s < VALID_S:
            return None
        verdicts.move_to_end(model)
        return Verdict(problem)

    async def set(self, model: Cid, verdict: Verdict) -> None:
        verdicts = await self._loaded()
        verdicts[model] = (verdict.problem[:REASON_CHARS_MAX], self._clock.wall_s())
        verdicts.move_to_end(model)
        while len(verdicts) > CERTIFICATES_MAX:
            verdicts.popitem(last=False)
        await self._store.set_setting(self._key, json.dumps(verdicts))

    async def counts(self) -> tuple[int, int]:
        """Models that are certified, and models that came out wrong."""
        verdicts = await self._loaded()
        wrong = sum(1 for problem, _ in verdicts.values() if problem)
        return len(verdicts) - wrong, wrong

    async def _loaded(self) -> OrderedDict[str, tuple[str, float]]:
        if self._verdicts is None:
            stored = await self._store.setting(self._key)
            self._verdicts = OrderedDict() if stored is None else _verdicts(stored)
        return self._verdicts


def _verdicts(stored: str) -> OrderedDict[str, tuple[str, float]]:
    """What is not what we wrote is forgotten: certifying again costs seconds."""
    try:
        raw = json.loads(stored)
        return OrderedDict((str(model), (str(problem), float(at_s))) for model, (problem, at_s) in raw.items())
    except (ValueError, TypeError, AttributeError):
        return OrderedDict()
