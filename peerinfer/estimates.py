"""How long one item takes a peer, learned from what its frames took.

Everything is kept as the logarithm of seconds per item, because devices differ by factors. A peer's own samples are
forgotten slowly (`FORGETTING`: about 50 frames count) and drawn toward a *prior*: the median of the peers of its device
class, else of all peers scaled by their own benchmarks, else the job's guess. Medians, because a single peer that
claims to be instant must not move what is believed of honest ones.

How strongly a peer is drawn toward its class is itself learned: the noise of its samples against the spread of the
class (empirical Bayes), never more than `PRIOR_WEIGHT_MAX` samples' worth.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import TypeVar

from peerinfer.ids import Cid, PeerId

FORGETTING = 0.98
PRIOR_WEIGHT_MAX = 3.0
"""A class weighs at most as much as this many frames of the peer itself."""

GUESS_WEIGHT = 0.05
"""A job's guess may be wrong by a factor of a hundred: the first sample nearly replaces it."""

SPREAD_UNKNOWN = 1.0
"""Of peers about which nothing is known: a factor of e either way is common."""

SPREAD_FEW = 0.5
"""Of a class of which too few peers are known to measure it."""

SPREAD_MIN = 0.05
NOISE_MIN = 0.1
NOISE_FORGETTING = 0.9
KNOWN_SAMPLES = 3
"""From so many frames on a peer's speed counts as known."""

K = TypeVar("K")

_SECONDS_MIN = 1e-7
_SECONDS_MAX = 1e7
_PAIRS_MAX = 4096
_CLASS_PEERS_MIN = 3
_QUARTILES_PEERS_MIN = 4
_QUARTILES_TO_SIGMA = 1.349
"""Distance between the quartiles of a normal distribution, in standard deviations."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds per item as a distribution in log space: exp(mu), give or take a factor exp(sigma / sqrt(samples + 1))."""

    mu: float
    sigma: float
    samples: float
    """Frames remembered; 0 for a peer that is known by its class only."""

    @property
    def seconds(self) -> float:
        return math.exp(self.mu)

    @property
    def is_known(self) -> bool:
        return self.samples >= KNOWN_SAMPLES * FORGETTING**KNOWN_SAMPLES

    @property
    def optimistic_s(self) -> float:
        """What a peer might need at best while little is known of it, so that it is tried; the mean afterwards."""
        if self.is_known:
            return math.exp(self.mu)
        return math.exp(self.mu - self.sigma / math.sqrt(self.samples + 1.0))


@dataclass(slots=True)
class _Rate:
    weight: float = 0.0
    log_mean: float = 0.0
    variance: float = SPREAD_FEW**2


@dataclass(frozen=True, slots=True)
class _Description:
    device_class: str
    log_speed: float | None


_NOT_DESCRIBED = _Description("", None)


class Estimates:
    """Seconds per item by (peer, model). Holds the `_PAIRS_MAX` pairs that were observed last."""

    def __init__(self) -> None:
        self._rates: dict[tuple[PeerId, Cid], _Rate] = {}
        self._described: dict[PeerId, _Description] = {}
        # Sorted log means, one for each peer: of a class, of all, and of all after scaling by their benchmarks.
        self._classes: dict[tuple[Cid, str], list[float]] = {}
        self._models: dict[Cid, list[float]] = {}
        self._scaled: dict[Cid, list[float]] = {}

    def describe(self, peer: PeerId, device_class: str, speed: float | None = None) -> None:
        """What a peer says of itself: the class of its device, and its benchmark in any unit that all share (more is
        faster). Only a prior: what its frames take soon counts for more."""
        usable = speed is not None and math.isfinite(speed) and speed > 0
        rates = [(key, rate) for key, rate in self._rates.items() if key[0] == peer]
        for (_, model), rate in rates:
            self._unfile(peer, model, rate)
        self._described.pop(peer, None)
        self._described[peer] = _Description(device_class, math.log(speed) if usable and speed else None)
        for (_, model), rate in rates:
            self._file(peer, model, rate)
        if len(self._described) > _PAIRS_MAX:
            self.forget(next(iter(self._described)))

    def observe(self, peer: PeerId, model: Cid, items: int, seconds: float) -> None:
        """A frame of `items` took `seconds` of the peer's device."""
        if not math.isfinite(seconds):
            return
        key = (peer, model)
        rate = self._rates.pop(key, None)
        if rate is None:
            rate = _Rate()
        else:
            self._unfile(peer, model, rate)
        sample = math.log(min(max(seconds / max(items, 1), _SECONDS_MIN), _SECONDS_MAX))
        if rate.weight > 0:
            rate.variance += (1 - NOISE_FORGETTING) * ((sample - rate.log_mean) ** 2 - rate.variance)
        rate.weight = rate.weight * FORGETTING + 1.0
        rate.log_mean += (sample - rate.log_mean) / rate.weight
        self._rates[key] = rate
        self._file(peer, model, rate)
        if len(self._rates) > _PAIRS_MAX:
            self._drop(next(iter(self._rates)))

    def known(self, peer: PeerId, model: Cid) -> bool:
        return (peer, model) in self._rates

    def estimate(self, peer: PeerId, model: Cid, prior_s: float) -> Estimate:
        """`prior_s`: what the job guesses of one item, for when nothing has been measured."""
        rate = self._rates.get((peer, model))
        mu, spread, is_guess = self._prior(peer, model, prior_s)
        if rate is None:
            return Estimate(mu, spread, 0.0)
        noise = max(math.sqrt(rate.variance), NOISE_MIN)
        weight = GUESS_WEIGHT if is_guess else min(PRIOR_WEIGHT_MAX, (noise / spread) ** 2)
        posterior = (weight * mu + rate.weight * rate.log_mean) / (weight + rate.weight)
        return Estimate(posterior, noise, rate.weight)

    def seconds_per_item(self, peer: PeerId, model: Cid, prior_s: float) -> float:
        return self.estimate(peer, model, prior_s).seconds

    def forget(self, peer: PeerId) -> None:
        for key in [key for key in self._rates if key[0] == peer]:
            self._drop(key)
        self._described.pop(peer, None)

    # --- priors ----------------------------------------------------------------------------------------------------

    def _prior(self, peer: PeerId, model: Cid, prior_s: float) -> tuple[float, float, bool]:
        """Log seconds per item, its spread, and whether that is a mere guess."""
        described = self._described.get(peer, _NOT_DESCRIBED)
        alike = self._classes.get((model, described.device_class), ())
        if described.device_class and len(alike) >= _CLASS_PEERS_MIN:
            return _median(alike), _spread(alike), False
        scaled = self._scaled.get(model, ())
        if described.log_speed is not None and len(scaled) >= _CLASS_PEERS_MIN:
            return _median(scaled) - described.log_speed, _spread(scaled), False
        others = self._models.get(model, ())
        if len(others) >= (1 if (peer, model) not in self._rates else _CLASS_PEERS_MIN):
            return _median(others), max(_spread(others), SPREAD_FEW), False
        return math.log(min(max(prior_s, _SECONDS_MIN), _SECONDS_MAX)), SPREAD_UNKNOWN, True

    def _file(self, peer: PeerId, model: Cid, rate: _Rate) -> None:
        described = self._described.get(peer, _NOT_DESCRIBED)
        insort(self._models.setdefault(model, []), rate.log_mean)
        if described.device_class:
            insort(self._classes.setdefault((model, described.device_class), []), rate.log_mean)
        if described.log_speed is not None:
            insort(self._scaled.setdefault(model, []), rate.log_mean + described.log_speed)

    def _unfile(self, peer: PeerId, model: Cid, rate: _Rate) -> None:
        described = self._described.get(peer, _NOT_DESCRIBED)
        _remove(self._models, model, rate.log_mean)
        if described.device_class:
            _remove(self._classes, (model, described.device_class), rate.log_mean)
        if described.log_speed is not None:
            _remove(self._scaled, model, rate.log_mean + described.log_speed)

    def _drop(self, key: tuple[PeerId, Cid]) -> None:
        peer, model = key
        self._unfile(peer, model, self._rates.pop(key))

    def check(self) -> None:
        for model, values in self._models.items():
            filed = sorted(rate.log_mean for (_, known), rate in self._rates.items() if known == model)
            assert values == filed, f"model {model}: {len(values)} peers are filed, {len(filed)} are known"
        assert len(self._rates) <= _PAIRS_MAX, f"{len(self._rates)} pairs are remembered, {_PAIRS_MAX} at most"
        assert len(self._described) <= _PAIRS_MAX


def _median(values: list[float] | tuple[()]) -> float:
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def _spread(values: list[float] | tuple[()]) -> float:
    if len(values) < _QUARTILES_PEERS_MIN:
        return SPREAD_FEW
    quarter = len(values) // 4
    return max((values[-1 - quarter] - values[quarter]) / _QUARTILES_TO_SIGMA, SPREAD_MIN)


def _remove(lists: dict[K, list[float]], key: K, value: float) -> None:
    values = lists[key]
    del values[bisect_left(values, value)]
    if not values:
        del lists[key]
