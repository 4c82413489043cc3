"""Whose word counts: trust that spreads from one's own seeds along work that was really done.

Theory of operation. Personalised PageRank (EigenTrust with seeds of one's own):

    t = (1 - a) * C' t + a * p          a = 0.5,  p: the seeds, evenly

`C[i, j]` is the share of verified work that i itself received from j, as i has signed, at most 5% for any one j;
what the cap cuts off flows back to the seeds. Nobody but the seeds is ever given trust for nothing. Hence, for any
set S of peers without a seed, however many names it has and whatever they say of each other,

    trust(S) <= (1 - a) / a * F = F

where F is the trust-weighted share of work that peers outside S received from S. (Sum t over S: trust(S) <=
(1 - a) * (F + trust(S)).) So false names gain no more trust than the share of real work that they did; the usual a = 0.2
would let them keep four times as much, by praising each other. Slander has no way in: there are no negative statements.

What this buys a peer is little on purpose: at most half of its probation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from peerinfer.ids import PeerId
from peerinfer.reputation import NEWCOMER_AUDITS

RESTART = 0.5
"""a."""

SHARE_MAX = 0.05
"""Of what a peer received, the part that one giver counts for at most."""

ROUNDS = 30
"""What is left out after so many is less than a billionth."""

EDGES_PER_RECEIVER_MAX = 256
IMPORTED_AUDITS_MAX = 20.0
SEEDS_MIN = 3
"""With fewer seeds a single bad one is worth too much; one's own node counts."""


@dataclass(frozen=True, slots=True)
class Received:
    """`receiver` states that it received so many verified units from `giver`."""

    receiver: PeerId
    giver: PeerId
    units: float


def spread(edges: Iterable[Received], seeds: Collection[PeerId]) -> dict[PeerId, float]:
    """See the head of this module."""
    if not seeds:
        return {}
    edges = list(edges)
    names = list(dict.fromkeys([*seeds, *(e.receiver for e in edges), *(e.giver for e in edges)]))
    number = {name: position for position, name in enumerate(names)}
    source = np.array([number[edge.receiver] for edge in edges], dtype=np.int64)
    target = np.array([number[edge.giver] for edge in edges], dtype=np.int64)
    units = np.array([edge.units for edge in edges], dtype=np.float64)
    total = np.bincount(source, weights=units, minlength=len(names))
    share = np.minimum(units / total[source], SHARE_MAX) if edges else units
    start = np.zeros(len(names))
    start[[number[seed] for seed in dict.fromkeys(seeds)]] = 1.0 / len(dict.fromkeys(seeds))
    trust = start.copy()
    for _ in range(ROUNDS):
        # What neither the edges nor the restart passes on (the cap, peers that received nothing) goes back to the seeds.
        passed = (1.0 - RESTART) * np.bincount(target, weights=trust[source] * share, minlength=len(names))
        trust = passed + (1.0 - passed.sum()) * start
    return dict(zip(names, trust.tolist(), strict=True))


def flow_into(region: Collection[PeerId], edges: Iterable[Received], trust: Mapping[PeerId, float]) -> float:
    """F: the trust-weighted share of work that peers outside of `region` received from it."""
    inside = set(region)
    edges = list(edges)
    total: dict[PeerId, float] = {}
    for edge in edges:
        total[edge.receiver] = total.get(edge.receiver, 0.0) + edge.units
    return sum(
        trust.get(edge.receiver, 0.0) * min(edge.units / total[edge.receiver], SHARE_MAX)
        for edge in edges
        if edge.giver in inside and edge.receiver not in inside
    )


def probation_tasks(imported: float) -> int:
    """Tasks of a newcomer that are doubled: twenty, or as few as ten where trusted peers vouch for it."""
    spared = min(max(imported, 0.0), IMPORTED_AUDITS_MAX) / IMPORTED_AUDITS_MAX * (NEWCOMER_AUDITS / 2)
    return NEWCOMER_AUDITS - int(spared)
