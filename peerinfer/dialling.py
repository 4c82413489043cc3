"""Who is dialled, and when again: neighbours until there are enough, and now and then somebody who was lost.

Failed dials are repeated ever more seldom. A node that has nobody goes on for ever; one that has neighbours lets go of an
address after a few times, but tries one of its dead each half minute.
"""

from __future__ import annotations

from dataclasses import replace

from peerinfer.ids import PeerId
from peerinfer.machine import NEVER
from peerinfer.member_table import Entry, Table
from peerinfer.membership_events import Dial
from peerinfer.news import Budget

CONNECTIONS_WANTED = 16
"""Neighbours that are dialled because they exist. Others are dialled when there is work for them. A random graph of this
degree stays whole when most of its nodes fall, and a swarm of up to 17 is a full mesh."""

REDIAL_FIRST_S = 1.0

REDIAL_MAX_S = 60.0

REDIALS_MAX = 8
"""After so many failed dials in a row a peer is left alone until something new is heard of it, or nobody else is there."""

DIAL_JITTER_S = 0.5
"""Of two nodes that hear of each other at the same time, one is first."""

ADDRESSES_DIALLED_PER_S = 8.0
ADDRESSES_DIALLED_BURST = 256.0
"""Of peers that are dialled because they exist: whoever spreads adverts with addresses of others must not make this node
knock at their doors. A peer that works here is dialled without it."""

RECONNECT_EVERY_S = 30.0
"""A random dead peer is dialled this often, whatever else is there: so two halves of a swarm find each other again after
the network between them was cut (serf's reconnect interval)."""


class Dialler:
    """The part of membership that makes connections."""

    def __init__(self, table: Table, connections_wanted: int) -> None:
        self._table = table
        self._connections_wanted = connections_wanted
        self._reconnect_s = -NEVER
        self._allowed = Budget(ADDRESSES_DIALLED_PER_S, ADDRESSES_DIALLED_BURST)

    def address_seen(self, peer: PeerId, addresses: tuple[str, ...], now_s: float) -> None:
        entry = None if peer == self._table.own or not addresses else self._table.entry(peer, now_s)
        if entry is None or entry.is_connected:
            return
        if entry.member.advert is None:
            entry.member = replace(entry.member, addresses=addresses)
        else:
            # What was just seen is more likely to work than what the advert says.
            both = dict.fromkeys((*addresses, *entry.member.advert.addresses))
            entry.member = replace(entry.member, addresses=tuple(both))
        entry.dials_failed, entry.redial_s = 0, now_s
        self._table.wake(now_s)

    def failed(self, entry: Entry, now_s: float) -> None:
        entry.dialling = False
        if entry.is_connected:
            return
        entry.dials_failed += 1
        wait_s = min(REDIAL_FIRST_S * 2 ** min(entry.dials_failed - 1, 16), REDIAL_MAX_S)
        entry.redial_s = now_s + wait_s * (0.5 + 0.5 * self._table.rng.random())
        self._table.wake(entry.redial_s)

    def heard_of(self, entry: Entry, now_s: float) -> None:
        """A peer is new, or is back."""
        entry.dials_failed = 0
        entry.redial_s = now_s + DIAL_JITTER_S * self._table.rng.random()
        self._table.wake(entry.redial_s)

    def lost(self, entry: Entry, now_s: float) -> None:
        """A peer has died."""
        entry.redial_s = now_s + REDIAL_FIRST_S * (0.5 + 0.5 * self._table.rng.random())
        self._table.wake(entry.redial_s)

    def released(self, entry: Entry, now_s: float) -> None:
        """A neighbour lives, but had no room."""
        entry.redial_s = now_s + REDIAL_MAX_S * (0.5 + 0.5 * self._table.rng.random())
        self._table.wake(entry.redial_s)

    def dial(self, entry: Entry) -> None:
        if not (entry.dialling or entry.is_connected) and entry.member.addresses:
            entry.dialling = True
            entry.redial_s = NEVER
            self._table.effects.append(Dial(entry.member.peer, entry.member.addresses))

    def _may_dial(self, entry: Entry) -> bool:
        if entry.is_connected or entry.dialling or entry.member.state == "left":
            return False
        return entry.dials_failed < REDIALS_MAX or not self._table.neighbours

    def fill(self, now_s: float) -> None:
        """Dials until there are neighbours enough."""
        under_way = sum(entry.dialling for entry in self._table.entries.values())
        missing = self._connections_wanted - len(self._table.neighbours) - under_way
        dead = [entry for entry in self._table.entries.values() if entry.member.state == "dead" and not entry.dialling]
        if dead:
            if now_s >= self._reconnect_s:
                self._reconnect_s = now_s + RECONNECT_EVERY_S
                self.dial(self._table.rng.choice(dead))
            self._table.wake(self._reconnect_s)
        if missing <= 0:
            return
        due = [entry for entry in self._table.entries.values() if now_s >= entry.redial_s and self._may_dial(entry)]
        self._table.rng.shuffle(due)
        for entry in due[:missing]:
            if not self._allowed.take(len(entry.member.addresses), now_s):
                self._table.wake(now_s + 1.0)
                return
            self.dial(entry)
