"""The table of peers: bounded, with a stated rule for who goes, and what the parts of membership share.

When it is full, a newcomer takes the place of one that left or died (the longest ago), else of a random one that is not
connected: so the table of a node in a larger swarm is a sample that keeps changing, and nobody can push a neighbour out.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from heapq import nsmallest

from peerinfer.ids import PeerId
from peerinfer.machine import NEVER
from peerinfer.member_messages import Known
from peerinfer.membership_events import Effect, Member, MemberMessage, PeerChanged, Send
from peerinfer.news import Budget, key_of, known
from peerinfer.suspicion import Suspicion

STALE_AFTER_S = 1800.0
"""A peer that is not connected and sent no new advert for so long (six times the refresh) is forgotten: its death was
missed."""


SWEEP_EVERY_S = 0.1
"""The whole table is looked through at most this often: news of a large swarm comes in hundreds of pieces each second."""


@dataclass(slots=True)
class Entry:
    member: Member
    is_connected: bool = False
    was_reached: bool = False
    """One of its addresses has worked."""
    dialling: bool = False
    dials_failed: int = 0
    redial_s: float = NEVER
    suspicion: Suspicion | None = None
    is_doubted: bool = False
    """Others doubt that this neighbour lives: its next advert refutes them, and is news."""
    doubters: dict[PeerId, PeerId] = field(default_factory=dict)
    """Who doubts this neighbour since it was last heard, and who told so: witnesses if it stays silent."""
    fresh_s: float = 0.0
    """When its newest advert came."""
    pages: Budget | None = None
    """How many pages of this node's table the neighbour may still turn; None if it has not turned any."""
    hearsay: Budget | None = None
    """How much of what it says of others is still believed and passed on; None if it has not said any such thing."""
    ended_s: float = 0.0
    ask_s: float = 0.0
    connected_s: float = 0.0
    leaves_s: float | None = None
    """One side wants to end this connection, though both live; when it is closed at the latest."""


class Table:
    """Peers by their id, the neighbours among them, and the effects that this event has had so far."""

    def __init__(self, own: PeerId, rng: random.Random, members_max: int) -> None:
        self.own = own
        self.rng = rng
        self.members_max = members_max
        self.entries: dict[PeerId, Entry] = {}
        self.neighbours: dict[PeerId, None] = {}
        self.effects: list[Effect] = []
        self._wanted_s = NEVER
        """When some entry's time may have come."""
        self._swept_s = -NEVER

    @property
    def is_full(self) -> bool:
        return len(self.entries) >= self.members_max

    def entry(self, peer: PeerId, now_s: float) -> Entry | None:
        """None if the table is full of neighbours."""
        entry = self.entries.get(peer)
        if entry is None:
            if self.is_full and not self.evict():
                return None
            entry = self.entries[peer] = Entry(Member(peer, heard_s=now_s), fresh_s=now_s)
            self.wake(now_s + STALE_AFTER_S)
        return entry

    def evict(self) -> bool:
        free = [entry for entry in self.entries.values() if not entry.is_connected]
        ended = [entry for entry in free if entry.member.state in ("dead", "left")]
        if not free:
            return False
        victim = min(ended, key=lambda entry: entry.ended_s) if ended else self.rng.choice(free)
        del self.entries[victim.member.peer]
        self.effects.append(PeerChanged(victim.member.peer))
        return True

    def wake(self, at_s: float) -> None:
        self._wanted_s = min(self._wanted_s, at_s)

    @property
    def sweeps_s(self) -> float:
        """When to look at every entry."""
        return max(self._wanted_s, self._swept_s + SWEEP_EVERY_S)

    def begin_sweep(self, now_s: float) -> None:
        self._wanted_s, self._swept_s = NEVER, now_s

    def send(self, peer: PeerId, message: MemberMessage) -> None:
        self.effects.append(Send(peer, message))

    def sample(self, count: int, but: PeerId) -> tuple[tuple[Known, ...], int]:
        """At random, of all peers that have an advert, and how many these are."""
        members = [entry.member for entry in self.entries.values() if entry.member.advert and entry.member.peer != but]
        chosen = members if len(members) <= count else self.rng.sample(members, count)
        return tuple(known_of(member) for member in chosen), len(members)

    def page(self, after: bytes, count: int) -> tuple[Known, ...]:
        """Those with the next keys after this one."""
        keys = {key_of(peer): entry for peer, entry in self.entries.items() if entry.member.advert}
        chosen = nsmallest(count, (key for key in keys if key > after))
        return tuple(known_of(keys[key].member) for key in chosen)


def known_of(member: Member) -> Known:
    return known(member.peer, *member.version, member.state)
