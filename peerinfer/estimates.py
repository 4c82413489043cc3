"""How long one item takes a peer, learned from what its frames took.

Kept in log space with forgetting: the weight of old samples shrinks by `FORGETTING` with each new one, so about 50
frames are remembered. A peer without samples is estimated by the median of the others, then by the prior.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from peerinfer.ids import Cid, PeerId

FORGETTING = 0.98
_SECONDS_MIN = 1e-7
_PAIRS_MAX = 4096


@dataclass(slots=True)
class _Rate:
    weight: float = 0.0
    log_mean: float = 0.0


class Estimates:
    """Seconds per item by (peer, model). Holds the `_PAIRS_MAX` pairs that were observed last."""

    def __init__(self) -> None:
        self._rates: dict[tuple[PeerId, Cid], _Rate] = {}

    def observe(self, peer: PeerId, model: Cid, items: int, seconds: float) -> None:
        key = (peer, model)
        rate = self._rates.pop(key, None) or _Rate()
        rate.weight = rate.weight * FORGETTING + 1.0
        sample = math.log(max(seconds / max(items, 1), _SECONDS_MIN))
        rate.log_mean += (sample - rate.log_mean) / rate.weight
        self._rates[key] = rate
        if len(self._rates) > _PAIRS_MAX:
            del self._rates[next(iter(self._rates))]

    def known(self, peer: PeerId, model: Cid) -> bool:
        return (peer, model) in self._rates

    def seconds_per_item(self, peer: PeerId, model: Cid, prior_s: float) -> float:
        rate = self._rates.get((peer, model))
        if rate is not None:
            return math.exp(rate.log_mean)
        others = [other.log_mean for (_, known), other in self._rates.items() if known == model]
        return math.exp(statistics.median(others)) if others else prior_s

    def forget(self, peer: PeerId) -> None:
        for key in [key for key in self._rates if key[0] == peer]:
            del self._rates[key]
