"""What becomes of results that have been judged: final on some ground, void, or never to be known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from peerinfer.ids import PeerId
from peerinfer.reputation import epsilon
from peerinfer.verification_events import Effect, Finalise, Ground, Policy, Unverified, Void
from peerinfer.verification_state import Provisional

_GROUNDS: dict[str, tuple[Ground, ...]] = {
    "none": ("unchecked", "own"),
    "spot": ("window", "audit", "credibility", "own"),
    "adaptive": ("window", "audit", "credibility", "own"),
    "quorum": ("quorum", "audit", "own"),
}
"""Why a result may become final under each policy."""


class Rulings:
    """Says in `effects` what is final and what is not, and counts it."""

    def __init__(self, policy: Policy, book: Provisional, effects: list[Effect]) -> None:
        self._policy = policy
        self._book = book
        self._effects = effects
        self._doubt = 0.0
        self.finals: dict[Ground, int] = {}
        """How many results became final on which ground."""

    @property
    def doubt(self) -> float | None:
        """Expected share of wrong ones among what became final; None if nothing did."""
        count = sum(self.finals.values())
        return self._doubt / count if count else None

    def final(
        self, tasks: Sequence[int], peer: PeerId, error: float, ground: Ground, *, first: PeerId | None = None
    ) -> None:
        policy = self._policy.kind
        assert ground in _GROUNDS[policy], f"task {tasks[0]} became final by {ground} under {policy}"
        self.finals[ground] = self.finals.get(ground, 0) + len(tasks)
        self._doubt += error * len(tasks)
        self._effects.append(Finalise(peer, tuple(tasks), error, ground, peer if first is None else first))

    def void(self, keys: Iterable[int], reason: str) -> None:
        for first, tasks in self._forget_all(keys).items():
            self.tell_void(first, tuple(tasks), reason)

    def unverified(self, keys: Iterable[int], reason: str) -> None:
        for first, tasks in self._forget_all(keys).items():
            self._effects.append(Unverified(first, tuple(tasks), reason))

    def _forget_all(self, keys: Iterable[int]) -> dict[PeerId, list[int]]:
        """Their tasks, by who answered first."""
        by_first: dict[PeerId, list[int]] = {}
        for key in keys:
            task = self._book.tasks.get(key)
            first = self._book.plain[key].peer if task is None else task.first
            by_first.setdefault(first, []).append(key)
            self._book.forget(key)
        return by_first

    def tell_void(self, first: PeerId, keys: tuple[int, ...], reason: str) -> None:
        self._effects.append(Void(first, keys, reason))

    def credibility(self, side: Sequence[PeerId]) -> float:
        return math.prod(epsilon(self._book.peers[peer].audits, self._policy.saboteurs) for peer in side)
