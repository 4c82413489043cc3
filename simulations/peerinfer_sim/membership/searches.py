"""Searches in a swarm that no table holds whole: how many of those that exist are found, by how many messages.

The tables are drawn at random, as the membership's are in a large swarm, and every node's machine is the real one. Only
the nodes that a search touches are made, so a hundred thousand need no memory.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from peerinfer.ids import PeerId, peer_id_of
from peerinfer.limits import MEMBERS_MAX
from peerinfer.membership_events import Member, Send
from peerinfer.messages import Advert, DeviceAdvert
from peerinfer.searching import Answered, Asked, Begun, Effect, Learnt, Met, Searching
from peerinfer.spread_messages import Found, Search

NEIGHBOURS = 16
_GPU = DeviceAdvert("card", "gpu", "WebGpuExecutionProvider", 8 << 30, 1.0, 1.0)
_CPU = DeviceAdvert("processor", "cpu", "CPUExecutionProvider", 8 << 30, 1.0, 1.0)
RARE = ("vulkan-8GiB",)


@dataclass(frozen=True, slots=True)
class SearchFigures:
    found: float
    """Of those that exist, after each search of a series."""
    messages: int
    """Of all nodes together, for one search."""
    bytes: int
    """Of all answers, for one search, with adverts of 400 bytes."""

    def __str__(self) -> str:
        return f"{100 * self.found:.0f}% found by {self.messages} messages and {self.bytes / 1000:.0f} kB of adverts"


class SearchedSwarm:
    """`rare` of `size` nodes have a card; number 0 searches, with its own neighbours and theirs."""

    def __init__(self, seed: int, size: int, rare: int, table: int = MEMBERS_MAX) -> None:
        self._rng = random.Random(seed)
        self._size = size
        self._table = min(table, size - 1)
        self._rare = set(self._rng.sample(range(1, size), rare))
        self._nodes: dict[int, Searching] = {}
        self._numbers: dict[PeerId, int] = {}
        self._neighbours: dict[int, list[int]] = {}
        self.found: set[bytes] = set()
        self.messages = self.bytes = 0
        self.gone: set[int] = set()

    def search(self, now_s: float) -> SearchFigures:
        self.messages = self.bytes = 0
        waiting = [(0, effect) for effect in self._node(0, now_s).handle(Begun(RARE), now_s)]
        while waiting:
            by, effect = waiting.pop(0)
            waiting += self._carry(by, effect, now_s)
        return SearchFigures(len(self.found) / len(self._rare), self.messages, self.bytes)

    def _carry(self, by: int, effect: Effect, now_s: float) -> list[tuple[int, Effect]]:
        if isinstance(effect, Learnt):
            self.found.update(effect.adverts)
            return []
        assert isinstance(effect, Send)
        to = self._numbers[effect.peer]
        if to in self.gone:
            return []
        self.messages += 1
        if isinstance(effect.message, Found):
            self.bytes += 400 * len(effect.message.adverts)
            event: Asked | Answered = Answered(self._peer(by), effect.message)
        else:
            assert isinstance(effect.message, Search)
            event = Asked(self._peer(by), effect.message)
        return [(to, each) for each in self._node(to, now_s).handle(event, now_s)]

    def _peer(self, number: int) -> PeerId:
        peer = _peer_of(number)
        self._numbers[peer] = number
        return peer

    def _node(self, number: int, now_s: float) -> Searching:
        if number not in self._nodes:
            table = [self._member(each) for each in self._rng.sample(range(self._size), self._table) if each != number]
            node = Searching(random.Random(number), lambda: table, lambda: self._member(number))
            self._nodes[number] = node
            self._meet(number, now_s)
        return self._nodes[number]

    def _meet(self, number: int, now_s: float) -> None:
        known = self._neighbours.setdefault(number, [])
        while len(known) < NEIGHBOURS:
            other = self._rng.randrange(self._size)
            if other != number and other not in known:
                known.append(other)
                self._neighbours.setdefault(other, []).append(number)
                if other in self._nodes:
                    self._nodes[other].handle(Met(self._peer(number)), now_s)
        for other in known:
            self._nodes[number].handle(Met(self._peer(other)), now_s)

    def _member(self, number: int) -> Member:
        device = _GPU if number in self._rare else _CPU
        advert = Advert(1, 1, 0.0, "", "", (), "running", (), (device,), (), "full")
        return Member(self._peer(number), "alive", (), advert, self._peer(number).encode())


@cache
def _peer_of(number: int) -> PeerId:
    """The same in every swarm: making a name takes longer than all that it does."""
    return peer_id_of(number.to_bytes(32, "big"))


def searches(seed: int, size: int, rare: int, times: int = 3, *, table: int = MEMBERS_MAX) -> list[SearchFigures]:
    """Figures of a search and of those that follow it, ten seconds apart."""
    swarm = SearchedSwarm(seed, size, rare, table)
    return [swarm.search(10.0 * time) for time in range(times)]
