"""How long an owner's node watches a job of which a quorum is missing before it goes on by itself.

Theory of operation. Beginning a generation is safe at any moment, rightly or not: electors and workers fence the one
before, and nothing that it accepts afterwards counts anywhere (`committees`). What a wrong one costs is work. A quorum
that is only out of sight may coordinate the job on the other side of a cut, and what it computes there is computed again
here. So a node that cannot tell does nothing, and leaves it to a person who can. It can tell where

- a quorum has been out of reach for so long that no machine is merely starting again, while this one was awake; and
- nobody else *could* go on, since no elector was ever given the inputs; or this node sees more than half of those that were
  there when the quorum went, itself counted, so that the other side of a cut, if there is one, is the smaller one.

Half is not enough: of two halves both would go on. The owner of a laptop that has lost its network sees nobody, and waits.
"""

from __future__ import annotations

from collections.abc import Iterable

from peerinfer.limits import MEMBERS_MAX

GOES_ON_AFTER_S = 300.0
"""A machine that is switched off and on again is back before, its disks checked, and so is a daemon that is updated."""

LOOKS_EVERY_S = 5.0
SLEPT_S = 30.0
"""Whoever has not looked for so long was asleep, and has yet to see who is still there: it waits anew."""

COMPANY_S = 60.0
"""So long before a quorum went somebody was seen last who counts as having been there."""

COMPANY_MAX = 4 * MEMBERS_MAX
"""Of more that came and went, those seen last. A table is a sample of a large swarm, and changes."""

GENERATIONS_ALONE_MAX = 8
"""A job that loses its quorum for the ninth time has a swarm that a person should look at; far below `GENERATIONS_MAX`."""


class Company:
    """Whom this node has seen of its swarm, and when last."""

    def __init__(self) -> None:
        self._seen_s: dict[str, float] = {}
        """Those seen last stand last."""

    def note(self, now_s: float, alive: Iterable[str], left: Iterable[str], since_s: float) -> None:
        """Who is there now, and who said goodbye. Nobody will ask about anybody who was not seen since `since_s`."""
        there, gone = dict.fromkeys(alive, now_s), dict.fromkeys(left)
        kept = {
            peer: seen_s
            for peer, seen_s in self._seen_s.items()
            if seen_s >= since_s and peer not in there and peer not in gone
        }
        for peer in list(kept)[: len(kept) + len(there) - COMPANY_MAX]:
            del kept[peer]
        self._seen_s = kept | there

    def share(self, alive: Iterable[str], since_s: float, electors: Iterable[str], own: str) -> tuple[int, int]:
        """How many are there, and of how many: those seen since then and the electors, this node counted in both."""
        known = dict.fromkeys([own, *electors, *(peer for peer, seen_s in self._seen_s.items() if seen_s >= since_s)])
        there = dict.fromkeys([own, *alive])
        return sum(peer in there for peer in known), len(known)


class Vigil:
    """Over one job."""

    def __init__(self) -> None:
        self.gone_s: float | None = None
        """When the quorum went; None while it is there. Neither sleep nor a rescue in vain changes who was there then, nor
        one late answer that makes a quorum for a moment."""
        self._back_s: float | None = None
        self._since_s: float | None = None
        """From when on it is waited for."""
        self._looked_s: float | None = None

    def look(self, now_s: float, *, is_missing: bool) -> None:
        """`now_s` counts the time that the machine sleeps."""
        has_slept = self._looked_s is not None and now_s - self._looked_s > SLEPT_S
        self._looked_s = now_s
        if not is_missing:
            self._since_s = None
            self._back_s = now_s if self._back_s is None else self._back_s
            if now_s - self._back_s >= COMPANY_S:
                self.gone_s = None
            return
        self._back_s = None
        if self.gone_s is None:
            self.gone_s = now_s
        if self._since_s is None or has_slept:
            self._since_s = now_s

    def is_over(self, now_s: float) -> bool:
        return self._since_s is not None and now_s - self._since_s >= GOES_ON_AFTER_S

    def left_s(self, now_s: float) -> float:
        """Until it is over, if nobody comes back."""
        return GOES_ON_AFTER_S if self._since_s is None else max(0.0, self._since_s + GOES_ON_AFTER_S - now_s)

    def begin_anew(self) -> None:
        """It was over in vain, or for now."""
        self._since_s = None


def objection(there: int, known: int, generation: int, *, may_be_led: bool) -> str:
    """Why the owner's node leaves a job without a quorum to a person; "" if it does not.

    `may_be_led`: somebody else may have the inputs, and so may coordinate it out of sight.
    """
    if generation >= GENERATIONS_ALONE_MAX:
        return f"it has lost its quorum {GENERATIONS_ALONE_MAX + 1} times"
    if may_be_led and 2 * there <= known:
        return f"this node sees {there} of {known} nodes, itself included, and others may be going on with it"
    return ""
