"""Which electors answer a candidate, and what is said where too few of them do."""

from __future__ import annotations

from peerinfer.ids import PeerId
from peerinfer.machine import NEVER
from peerinfer.standing import Standing


class Hearing:
    """Of one candidate. `standing` says who the electors are."""

    def __init__(self, standing: Standing) -> None:
        self._standing = standing
        self._heard_s: dict[PeerId, float] = {}
        self.missing: tuple[str, ...] = ()
        """Those that had not answered when a quorum was missed last, and have not since."""

    def heard(self, elector: PeerId, now_s: float) -> None:
        self._heard_s[elector] = now_s
        if elector in self.missing:
            self.missing = tuple(one for one in self.missing if one != elector)

    def silent(self, since_s: float) -> tuple[str, ...]:
        return tuple(elector for elector in self._standing.electors if self._heard_s.get(elector, -NEVER) < since_s)

    def miss(self, since_s: float) -> str:
        """Takes note of who has not answered since, and says it in words."""
        self.missing = self.silent(since_s)
        electors = len(self._standing.electors)
        return f"{electors - len(self.missing)} of {electors} electors answered, {self._standing.quorum} are needed"
