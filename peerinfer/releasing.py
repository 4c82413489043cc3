"""Letting go of neighbours when there are too many, so that a node that everybody dials first has room for the next.

Whoever comes in by one well-known address would stay connected to it for ever: a few hundred later it would be full, and
the swarm closed to newcomers. So beyond a limit a node asks a random neighbour to leave, and that one closes the
connection. Neither suspects the other for it, and each is still in the other's table. One with which the node works is not
asked, nor one that has just come: it has not been introduced to anybody yet.
"""

from __future__ import annotations

from collections.abc import Callable

from peerinfer.ids import PeerId
from peerinfer.member_table import Entry, Table
from peerinfer.membership_events import Drop
from peerinfer.spread_messages import Released

STAYS_S = 3.0
"""A newcomer is not asked to leave sooner."""

LEAVES_WITHIN_S = 10.0
"""Who was asked and stays is dropped."""


class Releaser:
    """The part of membership that makes room."""

    def __init__(self, table: Table, neighbours_max: int, is_busy: Callable[[PeerId], bool]) -> None:
        self._table = table
        self._neighbours_max = neighbours_max
        self._is_busy = is_busy

    def make_room(self, now_s: float) -> None:
        """Asks as many neighbours to leave as there are too many."""
        entries = [self._table.entries[peer] for peer in self._table.neighbours]
        staying = [entry for entry in entries if entry.leaves_s is None]
        surplus = len(staying) - self._neighbours_max
        if surplus <= 0:
            return
        free = [
            entry for entry in staying if now_s >= entry.connected_s + STAYS_S and not self._is_busy(entry.member.peer)
        ]
        for entry in self._table.rng.sample(free, min(surplus, len(free))):
            entry.leaves_s = now_s + LEAVES_WITHIN_S
            self._table.wake(entry.leaves_s)
            self._table.send(entry.member.peer, Released())
        if surplus > len(free):
            self._table.wake(now_s + STAYS_S)

    def sweep(self, entry: Entry, now_s: float) -> None:
        if entry.leaves_s is None or not entry.is_connected:
            return
        if now_s >= entry.leaves_s:
            self._table.effects.append(Drop(entry.member.peer))
        else:
            self._table.wake(entry.leaves_s)

    def released(self, entry: Entry, now_s: float) -> None:
        """The neighbour asks this node to leave."""
        if not self._is_busy(entry.member.peer):
            entry.leaves_s = now_s
            self._table.effects.append(Drop(entry.member.peer))
