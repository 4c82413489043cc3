"""Windows of results that are full, and what is left when a job ends: what has enough evidence becomes final."""

from __future__ import annotations

import random
from collections.abc import Container, Sequence

from peerinfer.ids import PeerId
from peerinfer.reputation import epsilon
from peerinfer.verification_checks import Checks
from peerinfer.verification_events import ANSWERS_MAX, Policy
from peerinfer.verification_rulings import Rulings
from peerinfer.verification_state import Answered, Provisional, Supporter, Window


class Sealing:
    """Over what is in `book`; nothing of anybody in `caught` becomes final any more."""

    def __init__(
        self,
        policy: Policy,
        rng: random.Random,
        book: Provisional,
        *,
        checks: Checks,
        rulings: Rulings,
        caught: Container[PeerId],
    ) -> None:
        self._policy = policy
        self._rng = rng
        self._book = book
        self._checks = checks
        self._rulings = rulings
        self._caught = caught

    def seal_of(self, task: Answered) -> None:
        for name in list(task.windows):
            if name in self._book.peers:
                self.seal(self._book.peers[name])

    def _is_full(self, window: Window) -> bool:
        return window.drawn > 0 if self._policy.kind == "spot" else window.answers >= self._policy.window

    def seal(self, peer: Supporter) -> None:
        """Closes the window that is full, and finalises those whose checks, and all before them, are back."""
        if self._policy.kind == "quorum" or not peer.windows or peer.peer in self._caught:
            return
        if self._is_full(peer.windows[-1]):
            peer.windows.append(Window(peer.peer))
        while len(peer.windows) > 1 and self._is_clean(peer.windows[0]):
            window = peer.windows.pop(0)
            keys = list(window.tasks)
            firsts = [key for key in keys if key not in self._book.tasks or self._book.tasks[key].first == peer.peer]
            for key in [key for key in keys if key in self._book.tasks and self._book.tasks[key].first != peer.peer]:
                first = self._book.tasks[key].first
                self._book.forget(key, apart_from=window)
                self._rulings.final([key], peer.peer, self._error_of(peer), "window", first=first)
            for key in firsts:
                self._book.forget(key, apart_from=window)
            if firsts:
                self._rulings.final(firsts, peer.peer, self._error_of(peer), "window")
        self._book.drop_if_gone(peer)

    def _is_clean(self, window: Window) -> bool:
        if window.waiting or window.failed_to_check:
            return False
        return self._policy.kind != "spot" or window.passed > 0 or not window.tasks

    def _error_of(self, peer: Supporter) -> float:
        if self._policy.kind == "spot":
            return epsilon(peer.audits, self._policy.saboteurs)
        return self._policy.window_error

    def conclude(self) -> None:
        """Judges what is left once its checks are back: one that fails voids others."""
        if self._book.waiting or not len(self._book):
            return
        for peer in list(self._book.peers.values()):
            for window in peer.windows:
                if self._policy.kind == "spot" and window.tasks and not window.drawn:
                    self._checks.draw(self._rng.choice(list(window.tasks)), peer.peer)
            self.seal(peer)
        if self._book.waiting:
            return
        settled: dict[tuple[PeerId, PeerId, float], list[int]] = {}
        hopeless: list[int] = []
        for key in [*self._book.plain, *self._book.tasks]:
            task = self._book.tasks.get(key)
            side = [self._book.plain[key].peer] if task is None else task.sides[0]
            error = self._rulings.credibility(side)
            if not self._suffices(side, error) and self._insist(key):
                continue
            if self._has_evidence(side):
                first = side[0] if task is None else task.first
                settled.setdefault((side[0], first, error), []).append(key)
            else:
                hopeless.append(key)
        if self._book.waiting:
            return
        self._rulings.unverified(hopeless, "no check could be had of this result, on this node or on a second peer")
        for (name, first, error), keys in settled.items():
            for key in keys:
                self._book.forget(key)
            self._rulings.final(keys, name, error, "credibility", first=first)
        for peer in list(self._book.peers.values()):
            self._book.drop_if_gone(peer)

    def _suffices(self, side: Sequence[PeerId], error: float) -> bool:
        """Whether the job's end needs no further opinion of this result."""
        if self._policy.insist:
            return error <= self._policy.doubt_max
        return self._has_evidence(side)

    def _has_evidence(self, side: Sequence[PeerId]) -> bool:
        """A second peer agrees, or one of them has stood up to a check before."""
        return len(side) > 1 or any(self._book.peers[peer].audits >= 1.0 for peer in side)

    def _insist(self, key: int) -> bool:
        """Asks for one more opinion; False if there is none to be had."""
        task = self._book.find(key)
        assert task is not None
        if len(task.peers) >= ANSWERS_MAX:
            return False
        if self._checks.partners(task) > 0:
            task.subject = task.sides[0][0]
            self._checks.want_copy(key, task, trusted=True)
        elif self._checks.can_audit(task):
            self._checks.want_audit(key, task)
        elif len(task.peers) == 1 and not task.no_copy:
            task.subject = task.sides[0][0]
            self._checks.want_copy(key, task, trusted=False)
        return task.is_waiting
