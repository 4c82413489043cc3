"""Who checks a result: this node's own device, or a peer that has proven itself; and which results are checked at all."""

from __future__ import annotations

import random
from collections.abc import Sequence

from peerinfer.ids import PeerId
from peerinfer.verification_events import Effect, Policy, WantAudit, WantCopy
from peerinfer.verification_state import Answered, Provisional, Supporter

AUDITS_QUEUE_S = 2.0
"""The own device is asked for so many audits as it does in this time, by its pace so far. More would bound a short job;
fewer would let the device idle between two answers."""

AUDITS_OUT_MIN = 8
"""So many at least: while its pace is unknown, and for a slow device that computes several audits together."""

AUDITS_OUT_MAX = 256
"""So many at most, however fast it is."""

PACE_WEIGHT = 0.2
"""Of the latest audit in what is believed of the device's pace."""

COPIES_FOR_EACH_PARTNER = 8
"""Copies that may wait for each trusted peer before a check that they would take counts as waiting, too."""

AUDITS_FAILED_MAX = 5
"""So many in a row that could not be computed, and the own device is not asked any more."""


class Checks:
    """Draws checks on what is in `book`, and asks for them in `effects`."""

    def __init__(self, policy: Policy, rng: random.Random, book: Provisional, effects: list[Effect]) -> None:
        self._policy = policy
        self._rng = rng
        self._book = book
        self._effects = effects
        self.now_s = 0.0
        self._failed = 0
        self._audit_s = 0.0
        """How long the own device takes for one audit, others in between included; 0 while that is unknown."""
        self._busy_since_s = 0.0
        self._queued: dict[PeerId, dict[int, None]] = {}
        """Tasks whose audit waits for the own device, by whose answer came first; some need it no more."""

    @property
    def audits_out_max(self) -> int:
        """So many audits the own device is asked for at once."""
        if not self._audit_s:
            return AUDITS_OUT_MIN
        return max(AUDITS_OUT_MIN, min(int(AUDITS_QUEUE_S / self._audit_s), AUDITS_OUT_MAX))

    def audited(self, *, is_known: bool) -> None:
        """An audit came back, with a verdict or without."""
        self._failed = 0 if is_known else self._failed + 1
        took_s = max(self.now_s - self._busy_since_s, AUDITS_QUEUE_S / AUDITS_OUT_MAX)
        self._audit_s += (took_s - self._audit_s) * (PACE_WEIGHT if self._audit_s else 1.0)
        self._busy_since_s = self.now_s

    def drawn(self, peer: Supporter, count: int) -> list[int]:
        """Which of so many results are checked; of a newcomer under `spot` the first for certain, then less and less.

        Where nobody has time, one later check may stand for several of a peer that has proven itself. A newcomer's checks
        wait for their turn: a thousand liars who are checked once each would hardly be seen.
        """
        share, random_ = self._policy.audit_share, self._rng.random
        if self._policy.kind == "spot" and peer.is_trusted and not self._has_time(peer):
            peer.windows[-1].is_deferred = True  # It stays open until there is time.
            return []
        known = peer.audits + peer.checks_out
        if self._policy.kind != "spot" or share * (known + 1.0) >= 1.0:
            return [place for place in range(count) if random_() < share]
        drawn = []
        for place in range(count):
            if random_() < max(share, 1.0 / (known + 1.0)):
                drawn.append(place)
                known += 1.0
        return drawn

    def chosen(self, peer: Supporter, tasks: Sequence[int]) -> list[int]:
        """Which of these results that just came, or of those that came when nobody had time, are to be checked."""
        places, window = self.drawn(peer, len(tasks)), peer.windows[-1]
        if not places or not window.is_deferred:
            return [tasks[place] for place in places]
        window.is_deferred = False
        unseen = [key for key in window.tasks if key in self._book.plain]
        return self._rng.sample(unseen, len(places))

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
        """Trusted peers that could compute a copy, before subnets are looked at."""
        if task.no_copy:
            return 0
        return self._book.trusted_here - sum(self._book.peers[peer].is_trusted for peer in task.peers)

    def _has_time(self, peer: Supporter) -> bool:
        """Whether somebody could check a result of this peer soon."""
        if self._policy.own_device and self._failed < AUDITS_FAILED_MAX:
            if self._book.audits_out < self.audits_out_max:
                return True
            others = self._book.trusted_here - (peer.is_here and peer.is_trusted)
            return others > 0 and self._have_partners_time()
        return True  # Only other peers can: their copies are tasks like any others.

    def _have_partners_time(self) -> bool:
        return self._book.copies_out < COPIES_FOR_EACH_PARTNER * self._book.trusted_here

    def check(self, key: int, task: Answered) -> None:
        """By the own device; by a partner where it is busy."""
        if self.can_audit(task) and self._book.audits_out < self.audits_out_max:
            self.want_audit(key, task)
        else:
            self.check_by_partner(key, task)

    def check_by_partner(self, key: int, task: Answered) -> None:
        """By the own device where no partner has time."""
        partners, can_audit = self.partners(task) > 0, self.can_audit(task)
        if partners and (not can_audit or self._have_partners_time()):
            self.want_copy(key, task, trusted=True)
        elif can_audit:
            self.want_audit(key, task)
        else:
            self.no_check(key, task)

    def want_copy(self, key: int, task: Answered, *, trusted: bool) -> None:
        groups = tuple(dict.fromkeys(group for peer in task.peers for group in self._book.peers[peer].groups))
        self._book.waits(task, copies=task.copies_wanted + 1)
        self._effects.append(WantCopy(key, tuple(task.peers), groups, trusted))

    def want_audit(self, key: int, task: Answered) -> None:
        """A dispute is looked at before all else; the others wait here while the device is busy."""
        if task.audit_wanted and not task.audit_queued:
            return
        if len(task.sides) == 1 and self._book.audits_out >= self.audits_out_max:
            self._book.waits(task, audit=True, is_queued=True)
            self._queued.setdefault(task.first, {})[key] = None
        else:
            self._ask(key, task)

    def _ask(self, key: int, task: Answered) -> None:
        if not self._book.audits_out:
            self._busy_since_s = self.now_s
        self._book.waits(task, audit=True)
        self._effects.append(WantAudit(key, tuple(task.peers)))

    def go_on(self) -> None:
        """Asks for the audits that waited, as far as somebody has time now.

        Newcomers that are nearest to being trusted come first: the sooner there are partners, the shorter the queue.
        """
        while self._book.audits_queued:
            has_time = self._book.audits_out < self.audits_out_max
            if not has_time and not (self._book.trusted_here and self._have_partners_time()):
                return
            name = max(self._queued, key=self._nearness)
            key, _ = self._queued[name].popitem()
            if not self._queued[name]:
                del self._queued[name]
            task = self._book.tasks.get(key)
            if task is None or not task.audit_queued:
                continue
            if has_time:
                self._ask(key, task)
            elif task.subject is not None and self.partners(task) > 0:
                self._book.waits(task, audit=False)
                self.want_copy(key, task, trusted=True)
            else:
                self._queued.setdefault(name, {})[key] = None
                return

    def _nearness(self, name: PeerId) -> float:
        peer = self._book.peers.get(name)
        return -1.0 if peer is None or peer.is_trusted else peer.audits

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
