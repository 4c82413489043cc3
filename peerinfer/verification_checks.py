"""Who checks a result: this node's own device, or a peer that has proven itself; and which results are checked at all."""

from __future__ import annotations

import random

from peerinfer.ids import PeerId
from peerinfer.verification_events import Effect, Policy, WantAudit, WantCopy
from peerinfer.verification_state import Answered, Provisional, Supporter

AUDITS_OUT_MAX = 256
"""With so many audits waiting the own device is the bottleneck: trusted peers check instead, and `spot` draws no more."""

AUDITS_FAILED_MAX = 5
"""So many in a row that could not be computed, and the own device is not asked any more."""


class Checks:
    """Draws checks on what is in `book`, and asks for them in `effects`."""

    def __init__(self, policy: Policy, rng: random.Random, book: Provisional, effects: list[Effect]) -> None:
        self._policy = policy
        self._rng = rng
        self._book = book
        self._effects = effects
        self._failed = 0

    def audited(self, *, is_known: bool) -> None:
        """An audit came back, with a verdict or without."""
        self._failed = 0 if is_known else self._failed + 1

    def drawn(self, peer: Supporter, count: int) -> list[int]:
        """Which of so many results are checked; of a newcomer under `spot` the first for certain, then less and less."""
        share, random_ = self._policy.audit_share, self._rng.random
        known = peer.audits + peer.checks_out
        if self._policy.kind != "spot" or share * (known + 1.0) >= 1.0:
            if self._policy.kind == "spot" and self._book.audits_out >= AUDITS_OUT_MAX:
                return []
            return [place for place in range(count) if random_() < share]
        drawn = []
        for place in range(count):
            if random_() < max(share, 1.0 / (known + 1.0)):
                drawn.append(place)
                known += 1.0
        return drawn

    def draw(self, key: int, subject: PeerId, *, by_partner: bool = False) -> None:
        task = self._book.find(key)
        assert task is not None
        task.subject = subject
        task.windows[subject].drawn += 1
        if by_partner:
            self.check_by_partner(key, task)
        else:
            self.check(key, task)

    def can_audit(self, task: Answered) -> bool:
        return self._policy.own_device and not task.no_audit and self._failed < AUDITS_FAILED_MAX

    def partners(self, task: Answered) -> int:
        """Trusted peers that could compute a copy, before subnets and operators are looked at."""
        if task.no_copy:
            return 0
        return self._book.trusted_here - sum(self._book.peers[peer].is_trusted for peer in task.peers)

    def check(self, key: int, task: Answered) -> None:
        is_free = self._book.audits_out < AUDITS_OUT_MAX or self.partners(task) <= 0
        if is_free and self.can_audit(task):
            self.want_audit(key, task)
        else:
            self.check_by_partner(key, task)

    def check_by_partner(self, key: int, task: Answered) -> None:
        if self.partners(task) > 0:
            self.want_copy(key, task, trusted=True)
        elif self.can_audit(task):
            self.want_audit(key, task)
        else:
            self.no_check(key, task)

    def want_copy(self, key: int, task: Answered, *, trusted: bool) -> None:
        groups = tuple(dict.fromkeys(group for peer in task.peers for group in self._book.peers[peer].groups))
        self._book.waits(task, copies=task.copies_wanted + 1)
        self._effects.append(WantCopy(key, tuple(task.peers), groups, trusted))

    def want_audit(self, key: int, task: Answered) -> None:
        if not task.audit_wanted:
            self._book.waits(task, audit=True)
            self._effects.append(WantAudit(key, tuple(task.peers)))

    def no_check(self, key: int, task: Answered) -> None:
        """A check that told nothing is drawn again: what cannot be checked must not be a hiding place."""
        subject, task.subject = task.subject, None
        if subject is None or subject not in task.windows:
            return
        window = task.windows[subject]
        others = [key for key in window.tasks if self._could_check(key)]
        if others:
            self.draw(self._rng.choice(others), subject)
        elif self._policy.kind == "spot" and not task.no_copy and len(task.peers) == 1:
            task.subject = subject
            self.want_copy(key, task, trusted=False)
        else:
            window.failed_to_check += 1

    def _could_check(self, key: int) -> bool:
        task = self._book.tasks.get(key)
        if task is None:
            return self._policy.own_device and self._failed < AUDITS_FAILED_MAX
        return not task.is_waiting and len(task.peers) == 1 and self.can_audit(task)
