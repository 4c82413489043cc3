"""How long a silent peer is given, and how far this node trusts its own clock and network. After Lifeguard.

A failure detector that only counts missed answers blames others for its own slowness: a loaded laptop declares half the
swarm dead. Lifeguard (Dadgar, Phillips, Currey 2017; memberlist's `awareness.go` and `suspicion.go`) takes two things
into account. *Local health*: each answer that this node fails to get, each late tick and each suspicion of itself that
it hears stretches its timeouts, each answer shortens them again. *Confirmations*: a suspicion starts with a long timeout
that shrinks as others come to suspect the same peer independently, and stays short where nobody else could.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from peerinfer.ids import PeerId

SUSPICION_MIN_S = 1.5
"""A refutation needs two gossip hops and one signature: a second on a LAN. Less would kill the merely slow."""

SUSPICION_MAX_S = 3.0
"""Without any confirmation. With the second that a failed probe takes, an unplugged peer is dead within about 5 s."""

CONFIRMATIONS_MAX = 3
HEALTH_MAX = 8
"""memberlist's AwarenessMaxMultiplier: timeouts are stretched up to this many times."""

TICK_LATE_S = 0.5
"""A tick that comes later than this says that this process, not its peers, was held up."""


def suspicion_timeout_s(confirmations: int, possible: int) -> float:
    """For `confirmations` by others out of `possible` ones: `max - log(c+1)/log(k+1) * (max - min)`."""
    wanted = min(CONFIRMATIONS_MAX, possible)
    if wanted <= 0:
        return SUSPICION_MIN_S
    share = math.log(min(confirmations, wanted) + 1) / math.log(wanted + 1)
    return SUSPICION_MAX_S - share * (SUSPICION_MAX_S - SUSPICION_MIN_S)


@dataclass(slots=True)
class Suspicion:
    """Of one peer: since when, and who shares it."""

    started_s: float
    origin: PeerId
    """Who first had it: this node, or the one that it heard of."""
    possible: int
    """Others that could confirm it."""
    stretch: float
    """This node's own health when it began."""
    by: dict[PeerId, PeerId] = field(default_factory=dict)
    """Who else suspects the peer, and who told so."""
    verdict_s: float | None = None
    """When somebody first called the peer dead."""
    tellers: dict[PeerId, None] = field(default_factory=dict)
    """Who did."""

    def confirm(self, origin: PeerId, teller: PeerId) -> None:
        """One rumour told by many counts once, and so do many told by one."""
        is_new = origin != self.origin and origin not in self.by and teller not in self.by.values()
        if is_new and len(self.by) < CONFIRMATIONS_MAX:
            self.by[origin] = teller

    def condemn(self, teller: PeerId, now_s: float) -> None:
        self.verdict_s = now_s if self.verdict_s is None else self.verdict_s
        if len(self.tellers) < CONFIRMATIONS_MAX:
            self.tellers[teller] = None

    @property
    def deadline_s(self) -> float:
        """When a neighbour that is under suspicion is dead."""
        return self.started_s + suspicion_timeout_s(len(self.by), self.possible) * self.stretch


class Health:
    """Of this node: 0 is well, `HEALTH_MAX - 1` very ill."""

    def __init__(self) -> None:
        self.score = 0

    def worse(self, by: int = 1) -> None:
        self.score = min(self.score + by, HEALTH_MAX - 1)

    def better(self) -> None:
        self.score = max(self.score - 1, 0)

    @property
    def stretch(self) -> float:
        """What timeouts are multiplied by."""
        return 1.0 + self.score
