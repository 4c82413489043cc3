"""One request to all electors under one nonce, and what its refusals mean; and how far terms have come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from peerinfer.ids import PeerId
from peerinfer.journal_rules import NO_TERM
from peerinfer.lease_messages import (
    LeaseRefused,
)
from peerinfer.lease_profile import LEASE_S_MAX
from peerinfer.machine import NEVER
from peerinfer.messages import Term

ROUNDS_ON_TRUST = 1024
"""How far a single elector's claim raises the next term: far enough for every honest one, and so little that all liars
together, campaign after campaign, never bring honest electors `TERM_ROUND_STEP_MAX` apart."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """Why there is no quorum to be had, and when there may be one."""

    reason: str
    wait_s: float
    """0 at once, with a higher term; `NEVER` if that cannot be said."""
    holder: str = ""


@dataclass(slots=True)
class Round:
    """One set of requests under one nonce."""

    nonce: int
    sent_s: float
    grants: dict[PeerId, bytes] = field(default_factory=dict)
    refused: dict[PeerId, LeaseRefused] = field(default_factory=dict)
    offered: dict[PeerId, None] = field(default_factory=dict)
    """Electors that did not know the job, and were offered the seat."""

    def is_answered_by(self, elector: PeerId, refusal: LeaseRefused) -> bool:
        """The refusal of a seat has no nonce."""
        return refusal.nonce == self.nonce or (refusal.nonce == 0 and elector in self.offered)

    def outlook(self, electors: int, quorum: int, left_out: Mapping[PeerId, str]) -> Outlook | None:
        """None as long as those who have not refused are enough."""
        lost = dict.fromkeys((*self.refused, *left_out))
        short = quorum - (electors - len(lost))
        if short <= 0:
            return None
        waits_s = sorted(_until_it_may_s(refusal) for refusal in self.refused.values())
        wait_s = waits_s[short - 1] if len(waits_s) >= short else NEVER
        if wait_s == NEVER:
            reasons = [*left_out.values(), *(refusal.reason for refusal in self.refused.values())]
            return Outlook(f"{len(lost)} of {electors} electors refuse: {reasons[0]}", NEVER)
        if wait_s == 0.0:
            return Outlook("another candidate has a higher term", 0.0)
        holder = next(refusal.promised.candidate for refusal in self.refused.values() if refusal.kind == "held")
        return Outlook(f"{holder} holds the lease", wait_s, holder)


def _until_it_may_s(refusal: LeaseRefused) -> float:
    """When the elector may answer otherwise: at once with a higher term, when a lease has lapsed, or not soon."""
    if refusal.kind == "stale":
        return 0.0
    if refusal.kind == "held":
        return min(max(refusal.remaining_s, 0.001), LEASE_S_MAX)
    return NEVER


class Terms:
    """What this node has heard of terms. Electors may lie about them."""

    def __init__(self, byzantine: int) -> None:
        self._byzantine = byzantine
        self._claimed: dict[PeerId, int] = {}
        self.seen = NO_TERM
        """The newest that this node's own elector granted."""

    def saw(self, term: Term) -> bool:
        """This node's own elector has granted the term. True if it had before, and nothing newer since."""
        is_newest = term == self.seen != NO_TERM
        self.seen = max(self.seen, term, key=lambda each: each.order)
        return is_newest

    def claim(self, elector: PeerId, term: Term) -> None:
        """The elector says that it has promised this term."""
        self._claimed[elector] = max(self._claimed.get(elector, 0), term.round)

    def begin(self, term: Term) -> None:
        """A new epoch begins above this term; what the electors before it claimed does not count any more."""
        self._claimed.clear()
        self.seen = max(self.seen, term, key=lambda each: each.order)

    def next_round(self, *known: Term) -> int:
        """Above all that is known for certain, and all that electors say, as far as they can be believed.

        The highest but `byzantine` claims is an honest elector's, or below one; beyond it a small step is taken on trust.
        """
        claims = sorted(self._claimed.values(), reverse=True)
        believed = claims[self._byzantine] if len(claims) > self._byzantine else 0
        base = max(believed, self.seen.round, *(term.round for term in known))
        return max(base, min(max(claims, default=0), base + ROUNDS_ON_TRUST)) + 1
