"""Proofs that others told of: which is looked at next, and what came of those that were.

Theory of operation. Looking at a proof costs a download and three runs of a stranger's model, and everybody can tell of
one, under as many names as they like. So the word of trusted peers comes first; of what strangers say no more is looked at
than fits into `LOOK_SHARE` of this node's time and `LOOK_BYTES_PER_S` of its line, however much of it there is; and whoever
told of a proof that does not hold is not listened to again. So a flood wins nothing but that other strangers wait.

Evidence that cannot be had now is asked for again later, while the proof lasts: whoever brought it may be away.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

from peerinfer.fault_proofs import Accusation
from peerinfer.ids import PeerId

K = TypeVar("K", bound=Hashable)

OPEN_MAX = 256
"""Accusations that nobody here has looked at, one for each accused; a stranger's oldest goes."""

SETTLED_MAX = 1024
SLANDERERS_MAX = 256
LOOK_SHARE = 0.05
"""Of this node's time, the most that is spent on what strangers say."""

LOOK_BYTES_PER_S = 50_000.0
"""Of its line, the same."""

AGAIN_AFTER_S = 60.0
"""Evidence that cannot be had is asked for again after this time, then after four times as long, and so on."""

FAILURES_MAX = 6

LOOKED_AT = "looked at"
SLANDER = "slander"
"""Notes beside a proof that is written down: it needs no second look; it did not hold."""


class Accusations:
    """`matters` says whether a peer has to do with this node, `trust` how much a peer's word counts, `caught` whether it
    needs no further proof."""

    def __init__(
        self,
        own: PeerId,
        *,
        matters: Callable[[PeerId], bool],
        trust: Callable[[PeerId], float],
        caught: Callable[[PeerId], bool],
    ) -> None:
        self._own = own
        self._matters, self._trust, self._caught = matters, trust, caught
        self._open: dict[PeerId, Accusation] = {}
        self._settled: dict[tuple[PeerId, bytes], Accusation] = {}
        """Who said what: receipts that were looked at."""
        self._slanderers: dict[PeerId, Accusation] = {}
        self._failed: dict[PeerId, tuple[int, float]] = {}
        """How often the evidence against somebody could not be had, and when it is asked for again."""
        self._rests_until_s = 0.0

    def take(self, accusation: Accusation, wall_s: float) -> float:
        """Until when it is worth passing on; 0.0 for what is not."""
        proof = accusation.proof
        if proof.until_s <= wall_s or accusation.issuer in self._slanderers:
            return 0.0
        if self._own in (accusation.accused, accusation.issuer) or _name(accusation) in self._settled:
            return proof.until_s
        if self._gives_way(accusation):
            self._failed.pop(accusation.accused, None)
            self._open[accusation.accused] = accusation
            if len(self._open) > OPEN_MAX:
                strangers = (accused for accused, each in self._open.items() if not self._trust(each.issuer))
                self._close(next(strangers, next(iter(self._open))))
        return proof.until_s

    def _gives_way(self, accusation: Accusation) -> bool:
        """Whether what is open against the same peer counts less, or cannot be looked at anyway."""
        known = self._open.get(accusation.accused)
        if known is None:
            return True
        better = self._trust(accusation.issuer) - self._trust(known.issuer)
        return better > 0 or (better == 0 and accusation.accused in self._failed and known.issuer != accusation.issuer)

    def next(self, now_s: float, wall_s: float) -> Accusation | None:
        """What to look at now: of those who matter here, by those who are trusted most."""
        for accused, each in list(self._open.items()):
            if each.proof.until_s <= wall_s or each.issuer in self._slanderers or self._caught(accused):
                self._close(accused)
        found: Accusation | None = None
        best = 0.0
        for accused, each in self._open.items():
            if now_s < self._failed.get(accused, (0, 0.0))[1] or not self._matters(accused):
                continue
            trust = self._trust(each.issuer)
            if (trust or now_s >= self._rests_until_s) and (found is None or trust > best):
                found, best = each, trust
        return found

    def missing(self, accusation: Accusation, now_s: float) -> None:
        """Its evidence cannot be had, or not be looked at."""
        failures = self._failed.get(accusation.accused, (0, 0.0))[0] + 1
        if failures >= FAILURES_MAX:
            self.settle(accusation)
        else:
            self._failed[accusation.accused] = failures, now_s + AGAIN_AFTER_S * 4.0 ** (failures - 1)

    def settle(self, accusation: Accusation, *, is_slander: bool = False) -> None:
        """It was looked at."""
        self._close(accusation.accused)
        _keep(self._settled, _name(accusation), accusation, SETTLED_MAX)
        if is_slander:
            _keep(self._slanderers, accusation.issuer, accusation, SLANDERERS_MAX)

    def spent(self, seconds: float, fetched_bytes: int, now_s: float) -> None:
        """So much went into the last look."""
        self._rests_until_s = now_s + max(seconds / LOOK_SHARE, fetched_bytes / LOOK_BYTES_PER_S)

    def _close(self, accused: PeerId) -> None:
        self._open.pop(accused, None)
        self._failed.pop(accused, None)

    # --- over restarts ---------------------------------------------------------------------------------------------

    def kept(self, wall_s: float) -> list[tuple[Accusation, str]]:
        """What is worth writing down, each with a note of what came of it."""
        notes = {each.signed: (each, "") for each in self._open.values()}
        notes |= {each.signed: (each, LOOKED_AT) for each in self._settled.values()}
        lasting = {signed: row for signed, row in notes.items() if row[0].proof.until_s > wall_s}
        return list((lasting | {each.signed: (each, SLANDER) for each in self._slanderers.values()}).values())

    def recall(self, accusation: Accusation, note: str) -> None:
        """What was written down before; one without a note is taken like any."""
        if note in (LOOKED_AT, SLANDER):
            self.settle(accusation, is_slander=note == SLANDER)

    def check(self) -> None:
        assert len(self._open) <= OPEN_MAX
        assert len(self._settled) <= SETTLED_MAX
        assert len(self._slanderers) <= SLANDERERS_MAX
        assert set(self._failed) <= set(self._open), "nobody waits for this evidence"


def _name(accusation: Accusation) -> tuple[PeerId, bytes]:
    return accusation.issuer, accusation.proof.receipt


def _keep(kept: dict[K, Accusation], key: K, accusation: Accusation, count_max: int) -> None:
    kept.pop(key, None)
    kept[key] = accusation
    if len(kept) > count_max:
        del kept[next(iter(kept))]
