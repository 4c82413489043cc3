"""What this node has seen of each peer: is it honest, and does it answer?

Theory of operation. Two beta distributions for each peer (Jøsang and Ismail, 2002), and a count. *Integrity* learns from
results that were checked, and from nothing else: a machine that sleeps is not a cheat. *Reliability* learns whether
answers came, and came in time. Both forget; proven faults are remembered longer than good work. The count `k` is of
passed audits since the last proven fault, and gives the chance that an unchecked result is wrong (Sarmenta's
credibility, with blacklisting):

    epsilon = min(f0, f0 / ((1 - f0) * e * k))          f0 = 0.10

Decisions use lower confidence bounds, so that a newcomer stands below any honest veteran and shedding a name never
pays. Figures of other nodes do not enter here; what they may do is in `trust`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from peerinfer.ids import PeerId

DAY_S = 86_400.0
GOOD_HALF_LIFE_S = 14 * DAY_S
BAD_HALF_LIFE_S = 60 * DAY_S
AUDITS_HALF_LIFE_S = 30 * DAY_S
SABOTEURS_PRIOR = 0.10
"""f0: the share of peers that are assumed to cheat, before anything is known."""

FAULT_WEIGHT = 20.0
"""One proven fault weighs as much as twenty good results, and is remembered four times as long."""

BARRED_ABOVE = FAULT_WEIGHT / 4
"""A peer that was caught once is given no work until so much of it is forgotten: after 120 days. Then it is a newcomer."""

DETAIL_CHARS_MAX = 200
NETWORKS_MAX = 4
"""Of one peer, in which it was caught: the last ones."""

NEWCOMER_AUDITS = 20
"""A peer with fewer passed audits is a newcomer: its work is doubled."""

P_OK_MIN = 0.05
PEERS_MAX = 10_000
UNITS_MAX = 1e24
"""Of work and energy; more is nonsense."""

EVIDENCE_MAX = 1e6
"""No count grows further; also the bound on what a file may claim."""

EPSILON_MIN = 1e-9


@dataclass(slots=True)
class Evidence:
    """What was seen of one peer, as of `at_s` on a clock that survives a restart (seconds of wall time)."""

    at_s: float
    good: float = 1.0
    """Alpha of integrity: checked results that were right, and 1."""
    bad: float = 1.0
    """Beta of integrity."""
    on_time: float = 1.0
    """Alpha of reliability."""
    late: float = 1.0
    """Beta of reliability: answers that came late, and answers that never came."""
    audits: float = 0.0
    """k."""
    faults: int = 0
    detail: str = ""
    """How the last fault was seen."""
    fault_s: float = 0.0
    """When."""
    mismatches: int = 0
    """Jobs in which it computed less precisely than was asked for."""
    units: float = 0.0
    """Operations in results of it that became final. Never forgotten: it is what the peer has given."""
    energy_j: float = 0.0
    """What that took, as its receipts say."""
    networks: tuple[str, ...] = ()
    """The public networks that it was in when it was caught."""

    def aged(self, now_s: float) -> Evidence:
        """The same, as much of it as still counts at `now_s`. A clock that was set back changes nothing."""
        since_s = max(now_s - self.at_s, 0.0)
        good, bad = 0.5 ** (since_s / GOOD_HALF_LIFE_S), 0.5 ** (since_s / BAD_HALF_LIFE_S)
        return Evidence(
            at_s=max(self.at_s, now_s),
            good=1.0 + (self.good - 1.0) * good,
            bad=1.0 + (self.bad - 1.0) * bad,
            on_time=1.0 + (self.on_time - 1.0) * good,
            late=1.0 + (self.late - 1.0) * bad,
            audits=self.audits * 0.5 ** (since_s / AUDITS_HALF_LIFE_S),
            faults=self.faults,
            detail=self.detail,
            fault_s=self.fault_s,
            mismatches=self.mismatches,
            units=self.units,
            energy_j=self.energy_j,
            networks=self.networks,
        )

    @property
    def seen(self) -> float:
        """How much was seen, in checks and answers, as much of it as still counts."""
        return self.good + self.bad + self.on_time + self.late - 4.0


@dataclass(frozen=True, slots=True)
class Standing:
    """What follows from the evidence, at one moment. All but `audits` and `faults` between 0 and 1."""

    integrity: float
    """Lower confidence bound of the share of right results; 0.21 for a stranger."""
    reliability: float
    """Lower confidence bound of the share of answers in time; 0.21 for a stranger."""
    timeliness: float
    """The same as expected: 0.5 for a stranger."""
    epsilon: float
    """Chance that an unchecked result is wrong."""
    audits: float
    faults: int
    is_barred: bool = False
    """Caught with a wrong result, and not so long ago that it would be forgotten."""

    @property
    def is_newcomer(self) -> bool:
        return self.audits < NEWCOMER_AUDITS

    @property
    def p_ok(self) -> float:
        """Chance that a task given to this peer yields a right result in time, for choosing between peers."""
        return max((1.0 - self.epsilon) * (0.5 + 0.5 * self.integrity) * self.timeliness, P_OK_MIN)


class Reputation:
    """Evidence of the `PEERS_MAX` peers seen last; peers with a proven fault are forgotten after all others."""

    def __init__(self) -> None:
        self._rows: dict[PeerId, Evidence] = {}
        self._changed: dict[PeerId, None] = {}
        """Rows that the store does not have as they are now; those that are gone as well."""

    # --- what happened ---------------------------------------------------------------------------------------------

    def passed(self, peer: PeerId, now_s: float) -> None:
        """A result of the peer was checked, and right."""
        row = self._touch(peer, now_s)
        row.good = min(row.good + 1.0, EVIDENCE_MAX)
        row.audits = min(row.audits + 1.0, EVIDENCE_MAX)

    def caught(self, peer: PeerId, now_s: float, detail: str = "", networks: Sequence[str] = ()) -> None:
        """A result of the peer is proven wrong."""
        row = self._touch(peer, now_s)
        before = [network for network in row.networks if network not in networks]
        row.networks = (*before, *networks)[-NETWORKS_MAX:]
        row.detail, row.fault_s = detail[:DETAIL_CHARS_MAX], now_s
        row.bad = min(row.bad + FAULT_WEIGHT, EVIDENCE_MAX)
        row.audits = 0.0
        row.faults = min(row.faults + 1, int(EVIDENCE_MAX))

    def mismatched(self, peer: PeerId, now_s: float) -> int:
        """It computed less precisely than a job asked for: no lie, but counted. Returns how often so far."""
        row = self._touch(peer, now_s)
        row.mismatches = min(row.mismatches + 1, int(EVIDENCE_MAX))
        return row.mismatches

    def answered(self, peer: PeerId, now_s: float, *, in_time: bool, weight: float = 1.0) -> None:
        """A frame was answered, in time or late."""
        row = self._touch(peer, now_s)
        weight = min(max(weight, 0.0), EVIDENCE_MAX)
        if in_time:
            row.on_time = min(row.on_time + weight, EVIDENCE_MAX)
        else:
            row.late = min(row.late + weight, EVIDENCE_MAX)

    def vanished(self, peer: PeerId, now_s: float) -> None:
        """The peer left with work in hand, or never answered. Says nothing of its honesty."""
        row = self._touch(peer, now_s)
        row.late = min(row.late + 1.0, EVIDENCE_MAX)

    def worked(self, peer: PeerId, now_s: float, units: float) -> None:
        """So much of what it computed has become final. Says nothing of its honesty, and is never used for it."""
        row = self._touch(peer, now_s)
        row.units = min(row.units + max(units, 0.0), UNITS_MAX)

    def took(self, peer: PeerId, now_s: float, energy_j: float) -> None:
        """So much energy, as it says."""
        row = self._touch(peer, now_s)
        row.energy_j = min(row.energy_j + max(energy_j, 0.0), UNITS_MAX)

    # --- what follows ----------------------------------------------------------------------------------------------

    def standing(self, peer: PeerId, now_s: float) -> Standing:
        row = self._rows.get(peer)
        return standing(Evidence(now_s) if row is None else row, now_s)

    def evidence(self, peer: PeerId, now_s: float) -> Evidence:
        row = self._rows.get(peer)
        return Evidence(now_s) if row is None else row.aged(now_s)

    def barred(self, now_s: float) -> dict[PeerId, str]:
        """Peers that get no work, and how they were caught."""
        return {peer: row.detail for peer, row in self._rows.items() if standing(row, now_s).is_barred}

    def networks(self) -> list[tuple[float, tuple[str, ...]]]:
        """Where peers were caught, and when each was caught last (wall time), in that order."""
        return sorted((row.fault_s, row.networks) for row in self._rows.values() if row.networks)

    def knows(self, peer: PeerId) -> bool:
        return peer in self._rows

    def snapshot(self, now_s: float) -> dict[PeerId, Standing]:
        return {peer: standing(row, now_s) for peer, row in self._rows.items()}

    # --- keeping ---------------------------------------------------------------------------------------------------

    def rows(self) -> list[tuple[PeerId, Evidence]]:
        """For the store, the one seen longest ago first."""
        return list(self._rows.items())

    def changes(self) -> tuple[list[tuple[PeerId, Evidence]], list[PeerId]]:
        """What the store should write since it was asked last, and what it should forget."""
        changed, self._changed = self._changed, {}
        rows = [(peer, self._rows[peer]) for peer in changed if peer in self._rows]
        return rows, [peer for peer in changed if peer not in self._rows]

    def change_again(self, peers: Iterable[PeerId]) -> None:
        """Their changes could not be kept: `changes` gives them once more."""
        self._changed |= dict.fromkeys(peers)

    def restore(self, rows: Iterable[tuple[PeerId, Evidence]], now_s: float) -> int:
        """Takes rows from the store; returns how many were refused, since a file may have been edited by hand.

        A row from the future counts as of now: it would never be forgotten otherwise.
        """
        refused = 0
        for peer, row in rows:
            if not is_usable(row):
                refused += 1
                continue
            self._rows[peer] = replace(row, at_s=min(row.at_s, now_s), fault_s=min(row.fault_s, now_s))
            self._bound()
        return refused

    def check(self) -> None:
        assert len(self._rows) <= PEERS_MAX, f"{len(self._rows)} peers are remembered, {PEERS_MAX} at most"
        for peer, row in self._rows.items():
            assert min(row.good, row.bad, row.on_time, row.late) >= 1.0, f"{peer} has evidence below none: {row}"
            assert 0 <= row.audits <= EVIDENCE_MAX, f"{peer} passed {row.audits} audits"

    def _touch(self, peer: PeerId, now_s: float) -> Evidence:
        row = self._rows.pop(peer, None)
        row = Evidence(now_s) if row is None else row.aged(now_s)
        self._rows[peer] = row
        self._changed[peer] = None
        self._bound()
        return row

    def _bound(self) -> None:
        if len(self._rows) <= PEERS_MAX:
            return
        # Whoever floods us with names must not wash away what we know of cheats: they go last, and only by age.
        oldest = next(iter(self._rows))
        if self._rows[oldest].faults:
            oldest = next((peer for peer, row in self._rows.items() if not row.faults), oldest)
        del self._rows[oldest]
        self._changed[oldest] = None


def standing(row: Evidence, now_s: float) -> Standing:
    aged = row.aged(now_s)
    return Standing(
        integrity=lower_bound(aged.good, aged.bad),
        reliability=lower_bound(aged.on_time, aged.late),
        timeliness=aged.on_time / (aged.on_time + aged.late),
        epsilon=epsilon(aged.audits),
        audits=aged.audits,
        faults=aged.faults,
        is_barred=aged.faults > 0 and aged.bad - 1.0 > BARRED_ABOVE,
    )


def is_usable(row: Evidence) -> bool:
    """Whether this can be evidence at all."""
    numbers = (row.good, row.bad, row.on_time, row.late, row.audits, row.faults, row.at_s, row.fault_s, row.mismatches)
    if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
        return False
    counts = (row.good - 1, row.bad - 1, row.on_time - 1, row.late - 1, row.audits, row.faults, row.mismatches)
    amounts = (row.units, row.energy_j)
    if not all(type(amount) in (int, float) and 0 <= amount <= UNITS_MAX for amount in amounts):
        return False
    if type(row.networks) is not tuple or len(row.networks) > NETWORKS_MAX:
        return False
    words = (row.detail, *row.networks)
    return all(0 <= count <= EVIDENCE_MAX for count in counts) and all(type(word) is str for word in words)


def lower_bound(alpha: float, beta: float) -> float:
    """Mean of a beta distribution less one standard deviation."""
    total = alpha + beta
    return alpha / total - math.sqrt(alpha * beta / (total * total * (total + 1.0)))


def epsilon(audits: float, saboteurs: float = SABOTEURS_PRIOR) -> float:
    """Chance that an unchecked result of a peer with so many passed audits is wrong."""
    if audits <= 0:
        return saboteurs
    return max(min(saboteurs, saboteurs / ((1.0 - saboteurs) * math.e * audits)), EPSILON_MIN)
