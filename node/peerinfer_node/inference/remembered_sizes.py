"""Which batch sizes a device is fast with, model by model, across restarts.

What is measured belongs to a model, a device and the software between them, as certificates do; another driver is
measured anew. It comes from worker processes, so it is believed no further than that it may make a batch larger.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict

from peerinfer.batch_size import MEASURES_MAX, Measure
from peerinfer.ids import Cid
from peerinfer_node.ports import Device, LocalClock, Store

MODELS_MAX = 256
"""Per device; those used least recently go first. Two kilobytes each at most."""

VALID_S = 30 * 86_400.0
"""Cards get more memory to themselves, or less: after a month a model is measured again."""

Measures = tuple[Measure, ...]


class RememberedSizes:
    """The measures of one device with one set of software, read once and written through."""

    def __init__(self, store: Store, clock: LocalClock, device: Device, software: str) -> None:
        identity = (
            f"{device.name}|{device.provider}|{device.vendor_id}|{device.device_id}|{device.memory_bytes}|{software}"
        )
        self._key = "batch_sizes/" + hashlib.sha256(identity.encode()).hexdigest()[:16]
        self._store = store
        self._clock = clock
        self._measures: OrderedDict[str, tuple[float, Measures]] | None = None

    async def find(self, model: Cid) -> Measures:
        known = await self._loaded()
        if model not in known:
            return ()
        given_at_s, measures = known[model]
        if not 0 <= self._clock.wall_s() - given_at_s < VALID_S:
            return ()
        known.move_to_end(model)
        return measures

    async def set(self, model: Cid, measures: Measures) -> None:
        known = await self._loaded()
        known[model] = (self._clock.wall_s(), measures)
        known.move_to_end(model)
        while len(known) > MODELS_MAX:
            known.popitem(last=False)
        raw = {
            name: (at_s, [(measure.row_bytes_power, measure.rows, measure.run_s) for measure in kept])
            for name, (at_s, kept) in known.items()
        }
        await self._store.set_setting(self._key, json.dumps(raw))

    async def _loaded(self) -> OrderedDict[str, tuple[float, Measures]]:
        if self._measures is None:
            stored = await self._store.setting(self._key)
            self._measures = OrderedDict() if stored is None else _measures(stored)
        return self._measures


def _measures(stored: str) -> OrderedDict[str, tuple[float, Measures]]:
    """What is not what we wrote is forgotten: measuring again costs moments."""
    try:
        return OrderedDict(
            (str(name), (float(at_s), tuple(Measure(int(p), int(r), float(s)) for p, r, s in kept[:MEASURES_MAX])))
            for name, (at_s, kept) in json.loads(stored).items()
        )
    except (ValueError, TypeError, AttributeError):
        return OrderedDict()
