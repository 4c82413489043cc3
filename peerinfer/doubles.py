"""Tasks of one job that further peers are to compute, so that their answers can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from peerinfer.ids import PeerId
from peerinfer.machine import NEVER

PATIENCE_S = 5.0
"""A copy for which nobody suitable is connected is given up after this time."""

PATIENCE_MAX_S = 60.0
"""The same where somebody is, who takes none."""

LOOK_AGAIN_S = 1.0
SCANNED_MAX = 512
"""Waiting tasks that are looked at for one frame; a peer's own stand in its way."""


@dataclass(slots=True)
class _Double:
    wanted: int = 0
    """Copies that nobody has taken yet."""
    exclude: dict[PeerId, None] = field(default_factory=dict)
    """Who answered, or computes it."""
    groups: dict[str, None] = field(default_factory=dict)
    trusted: bool = False
    since_s: float = 0.0


Candidate = tuple[PeerId, Sequence[str], bool]
"""A peer that could compute for the job, its subnets and operator, and whether it is trusted."""


class Doubles:
    """The copies that are wanted, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._doubles: dict[int, _Double] = {}
        self._waiting: dict[int, None] = {}
        self.look_s = NEVER
        """When `impossible` should be asked next."""

    @property
    def waiting(self) -> int:
        """Tasks of which a copy could be given out now."""
        return len(self._waiting)

    def want(self, task: int, exclude: Sequence[PeerId], groups: Sequence[str], *, trusted: bool, now_s: float) -> None:
        """One more copy, by none of these peers and nobody that shares a group with them."""
        double = self._doubles.setdefault(task, _Double())
        double.exclude |= dict.fromkeys(exclude)
        double.groups |= dict.fromkeys(groups)
        double.trusted = trusted
        double.wanted += 1
        double.since_s = now_s
        self._waiting[task] = None
        self.look_s = min(self.look_s, now_s + PATIENCE_S)

    def take(self, peer: PeerId, groups: Sequence[str], is_trusted: bool, count: int) -> list[int]:
        """Up to `count` tasks that this peer may compute."""
        taken: list[int] = []
        for place, task in enumerate(self._waiting):
            if len(taken) >= count or place >= SCANNED_MAX:
                break
            if _suits(self._doubles[task], peer, groups, is_trusted):
                taken.append(task)
        for task in taken:
            double = self._doubles[task]
            double.wanted -= 1
            double.exclude[peer] = None
            double.groups |= dict.fromkeys(groups)
            if not double.wanted:
                del self._waiting[task]
        return taken

    def back(self, tasks: Iterable[int]) -> None:
        """These copies came to nothing; somebody else is to compute them."""
        for task in tasks:
            double = self._doubles.get(task)
            if double is not None:
                double.wanted += 1
                self._waiting[task] = None
                self.look_s = min(self.look_s, double.since_s + PATIENCE_S)

    def forget(self, tasks: Iterable[int]) -> None:
        """Nobody wants to know any more."""
        if not self._doubles:
            return
        for task in tasks:
            if self._doubles.pop(task, None) is not None:
                self._waiting.pop(task, None)

    def impossible(self, candidates: Sequence[Candidate], now_s: float) -> list[int]:
        """Tasks of which no copy can be had from these; they are given up."""
        found = []
        for place, task in enumerate(self._waiting):
            if place >= SCANNED_MAX:
                break
            double = self._doubles[task]
            waited_s = now_s - double.since_s
            somebody = waited_s < PATIENCE_MAX_S and any(_suits(double, *candidate) for candidate in candidates)
            if waited_s >= PATIENCE_S and not somebody:
                found.append(task)
        for task in found:
            self._doubles[task].wanted = 0
            del self._waiting[task]
        self.look_s = now_s + LOOK_AGAIN_S if self._waiting else NEVER
        return found

    def check(self) -> None:
        waiting = [task for task, double in self._doubles.items() if double.wanted]
        assert sorted(waiting) == sorted(self._waiting), f"copies wanted: {waiting}, waiting: {list(self._waiting)}"


def _suits(double: _Double, peer: PeerId, groups: Sequence[str], is_trusted: bool) -> bool:
    if peer in double.exclude or (double.trusted and not is_trusted):
        return False
    return not any(group in double.groups for group in groups)
