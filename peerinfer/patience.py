"""When a candidate campaigns next: after the lease that runs, in its turn, and later each time that it was in vain."""

from __future__ import annotations

import random

from peerinfer.lease_profile import LeaseProfile
from peerinfer.machine import NEVER

CAMPAIGN_WAIT_MAX_S = 10.0
"""So long a candidate waits, at most, after many campaigns in vain: a healed network is made use of within this time."""


class Patience:
    """Of one candidate."""

    def __init__(self, profile: LeaseProfile, rng: random.Random) -> None:
        self._profile = profile
        self._rng = rng
        self.rank = 0
        self.next_s = NEVER
        """When to campaign, while watching."""
        self.failures = 0
        """Campaigns in vain, one after the other."""

    def until(self, time_s: float) -> None:
        """Until then, and for this candidate's turn."""
        self.next_s = time_s + self._profile.slot_s * (self.rank + self._rng.random())

    def after_failure(self, now_s: float, first_wait_s: float) -> None:
        """Longer each time, beginning with `first_wait_s`."""
        self.failures += 1
        longest_s = min(first_wait_s * 2.0 ** min(self.failures, 10), CAMPAIGN_WAIT_MAX_S)
        self.until(now_s + longest_s * (0.5 + 0.5 * self._rng.random()))
