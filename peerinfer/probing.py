"""Who is asked for a sign of life, and when an answer is overdue.

Every second one neighbour is probed, each in its turn in a random order (SWIM's round robin bounds how long anybody waits
for its turn), and one that has been heard from meanwhile is passed over. With d neighbours a peer is probed about once
a second by one or another of them, however large the swarm is. One that does not answer in time is asked through three
others, since the fault may lie on the way; when they hear nothing either, the probe has failed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from peerinfer.ids import PeerId
from peerinfer.machine import NEVER

PROBE_EVERY_S = 1.0
PROBE_TIMEOUT_MIN_S = 0.5
PROBE_TIMEOUT_MAX_S = 2.0
RTTS_PER_PROBE = 4.0
"""An answer is overdue after this many round trips: one lost packet is sent again within three or four."""

HELPERS = 3
PROBES_MAX = 64
RELAYED_MAX = 64
"""Probes that this node makes for others at once."""


@dataclass(slots=True)
class Probe:
    peer: PeerId
    sent_s: float
    ask_others_s: float
    fails_s: float
    has_asked_others: bool = False

    @property
    def deadline_s(self) -> float:
        return self.fails_s if self.has_asked_others else self.ask_others_s


class Prober:
    """Probes that wait for their answer, by nonce, and those made for others."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._round: list[PeerId] = []
        self._nonce = rng.getrandbits(31)
        self.waiting: dict[int, Probe] = {}
        self._for_others: dict[int, tuple[PeerId, int, float]] = {}

    def next_nonce(self) -> int:
        self._nonce = (self._nonce + 1) & 0xFFFFFFFF
        return self._nonce

    def is_waiting_for(self, peer: PeerId) -> bool:
        return any(probe.peer == peer for probe in self.waiting.values())

    def choose(self, neighbours: Sequence[PeerId]) -> PeerId | None:
        """The next neighbour whose turn it is, of those that need a probe."""
        wanted = dict.fromkeys(neighbours)
        while wanted:
            while self._round:
                peer = self._round.pop()
                if peer in wanted and not self.is_waiting_for(peer):
                    return peer
            if all(self.is_waiting_for(peer) for peer in wanted):
                return None
            self._round = list(neighbours)
            self._rng.shuffle(self._round)
        return None

    def start(self, peer: PeerId, rtt_s: float | None, stretch: float, now_s: float) -> int | None:
        """The nonce to send, or None if too much waits already."""
        if len(self.waiting) >= PROBES_MAX:
            return None
        wanted_s = RTTS_PER_PROBE * rtt_s if rtt_s is not None else PROBE_TIMEOUT_MIN_S
        timeout_s = min(max(wanted_s, PROBE_TIMEOUT_MIN_S), PROBE_TIMEOUT_MAX_S) * stretch
        nonce = self.next_nonce()
        self.waiting[nonce] = Probe(peer, now_s, now_s + timeout_s, now_s + 2 * timeout_s)
        return nonce

    def hurry(self, peer: PeerId) -> None:
        """Asks nobody else about this peer: the probe fails if it does not answer in time itself."""
        for probe in self.waiting.values():
            if probe.peer == peer and not probe.has_asked_others:
                probe.has_asked_others, probe.fails_s = True, probe.ask_others_s

    def start_for(self, asker: PeerId, nonce: int, now_s: float) -> int | None:
        """The nonce of a probe on behalf of `asker`, or None if too many are under way."""
        self._for_others = {key: value for key, value in self._for_others.items() if value[2] > now_s}
        if len(self._for_others) >= RELAYED_MAX:
            return None
        own = self.next_nonce()
        self._for_others[own] = (asker, nonce, now_s + 2 * PROBE_TIMEOUT_MAX_S)
        return own

    def answered_for(self, nonce: int) -> tuple[PeerId, int] | None:
        """Who wanted to know, and under which nonce."""
        found = self._for_others.pop(nonce, None)
        return None if found is None else found[:2]

    def forget(self, peer: PeerId) -> None:
        """No answer of this peer is waited for any more."""
        for nonce in [nonce for nonce, probe in self.waiting.items() if probe.peer == peer]:
            del self.waiting[nonce]

    @property
    def deadline_s(self) -> float:
        return min((probe.deadline_s for probe in self.waiting.values()), default=NEVER)
