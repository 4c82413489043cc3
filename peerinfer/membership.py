"""Who is there: a bounded table of peers, their adverts, and whether they can be reached.

A peer is *alive* while it is connected, *suspect* from the moment its connection breaks until a redial decides, then
*dead*; *left* if it said so. Of two adverts the one with the higher (incarnation, sequence) is the truth, so a node that
restarts replaces itself at once and an old advert can never come back.

A node tells all its connected peers its own advert; whoever hears a new one passes it on to a few. (Passing it on to
all of them cost 66 copies of every advert at every node in a simulated swarm of 50.)
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from peerinfer.ids import PeerId
from peerinfer.limits import ADVERTS_PER_MESSAGE_MAX, CLOCK_SKEW_MAX_S, PEERS_REMEMBERED_MAX
from peerinfer.machine import NEVER, Tick
from peerinfer.messages import Advert

CONNECTIONS_WANTED = 32
"""Peers that are dialled because they exist. Others are dialled when there is work for them."""

PASSED_ON_TO = 4
"""So many peers are told a new advert of somebody else. About e**-4 of a large swarm then misses it, until the next."""

REDIAL_FIRST_S = 1.0
REDIAL_MAX_S = 60.0
REDIALS_MAX = 8
"""After so many failed dials in a row a peer is left alone until something new is heard of it."""

FORGET_AFTER_S = 600.0
"""A dead peer is remembered this long in memory; its addresses stay in the store."""


@dataclass(frozen=True, slots=True)
class OwnAdvert:
    signed: bytes


@dataclass(frozen=True, slots=True)
class AdvertSeen:
    """Its signature has been checked."""

    peer: PeerId
    advert: Advert
    signed: bytes
    wall_s: float
    """This node's wall clock."""


@dataclass(frozen=True, slots=True)
class Connected:
    peer: PeerId
    path: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    peer: PeerId


@dataclass(frozen=True, slots=True)
class AddressSeen:
    """By discovery or from the store: worth a dial."""

    peer: PeerId
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DialFailed:
    peer: PeerId


@dataclass(frozen=True, slots=True)
class RttMeasured:
    peer: PeerId
    rtt_s: float


Event = OwnAdvert | AdvertSeen | Connected | Disconnected | AddressSeen | DialFailed | RttMeasured


@dataclass(frozen=True, slots=True)
class Dial:
    peer: PeerId
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tell:
    peer: PeerId
    adverts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PeerChanged:
    """What is known of a peer has changed: it may be worth working with, or not any more."""

    peer: PeerId


Effect = Dial | Tell | PeerChanged


@dataclass(frozen=True, slots=True)
class Member:
    """What is known of one peer."""

    peer: PeerId
    state: str = "suspect"
    """alive, suspect, dead or left."""
    addresses: tuple[str, ...] = ()
    advert: Advert | None = None
    signed: bytes = b""
    path: str = ""
    rtt_s: float | None = None
    heard_s: float = 0.0


@dataclass(slots=True)
class _Entry:
    member: Member
    dialling: bool = False
    dials_failed: int = 0
    redial_s: float = NEVER


class Membership:
    """The machine."""

    def __init__(self, own: PeerId, rng: random.Random) -> None:
        self._own = own
        self._rng = rng
        self._own_advert = b""
        self._entries: dict[PeerId, _Entry] = {}
        self._effects: list[Effect] = []
        self.deadline_s = NEVER

    def handle(self, event: Event | Tick, now_s: float) -> list[Effect]:
        match event:
            case OwnAdvert(signed):
                self._own_advert = signed
                self._effects += [Tell(peer, (signed,)) for peer in self._alive()]
            case AdvertSeen():
                self._advert_seen(event, now_s)
            case Connected(peer, path):
                self._connected(peer, path, now_s)
            case Disconnected(peer):
                self._disconnected(peer, now_s)
            case AddressSeen(peer, addresses):
                self._address_seen(peer, addresses, now_s)
            case DialFailed(peer):
                self._dial_failed(peer, now_s)
            case RttMeasured(peer, rtt_s):
                if peer in self._entries:
                    self._entries[peer].member = replace(self._entries[peer].member, rtt_s=rtt_s)
            case Tick():
                pass
        self._redial(now_s)
        self._forget(now_s)
        self.deadline_s = min((entry.redial_s for entry in self._entries.values()), default=NEVER)
        effects, self._effects = self._effects, []
        return effects

    # --- reading -----------------------------------------------------------------------------------------------------

    def member(self, peer: PeerId) -> Member | None:
        entry = self._entries.get(peer)
        return entry.member if entry else None

    def members(self) -> list[Member]:
        return [entry.member for entry in self._entries.values()]

    def snapshot(self) -> tuple[Member, ...]:
        return tuple(self.members())

    def check(self) -> None:
        assert len(self._entries) <= PEERS_REMEMBERED_MAX, f"{len(self._entries)} peers are remembered"
        assert self._own not in self._entries, "this node is its own peer"

    def _alive(self) -> list[PeerId]:
        return [peer for peer, entry in self._entries.items() if entry.member.state == "alive"]

    @property
    def _connections_coming(self) -> int:
        """Those that are there, and those that are being dialled."""
        return sum(entry.dialling or entry.member.state == "alive" for entry in self._entries.values())

    # --- what happened -----------------------------------------------------------------------------------------------

    def _entry(self, peer: PeerId, now_s: float) -> _Entry:
        entry = self._entries.get(peer)
        if entry is None:
            if len(self._entries) >= PEERS_REMEMBERED_MAX:
                victim = min(self._entries.values(), key=lambda old: (old.member.state == "alive", old.member.heard_s))
                del self._entries[victim.member.peer]
            entry = self._entries[peer] = _Entry(Member(peer, heard_s=now_s))
        return entry

    def _advert_seen(self, event: AdvertSeen, now_s: float) -> None:
        advert, peer = event.advert, event.peer
        if peer == self._own or advert.issued_at_s > event.wall_s + CLOCK_SKEW_MAX_S:
            return
        entry = self._entry(peer, now_s)
        known = entry.member.advert
        if known is not None and (advert.incarnation, advert.sequence) <= (known.incarnation, known.sequence):
            return
        state = entry.member.state
        if advert.state == "left":
            state = "left"
        elif state in ("left", "dead"):
            state = "suspect"
        entry.member = replace(
            entry.member, advert=advert, signed=event.signed, addresses=advert.addresses, state=state, heard_s=now_s
        )
        others = [other for other in self._alive() if other != peer]
        for other in self._rng.sample(others, min(PASSED_ON_TO, len(others))):
            self._effects.append(Tell(other, (event.signed,)))
        if state == "suspect" and self._connections_coming < CONNECTIONS_WANTED:
            entry.dials_failed = 0
            self._dial(entry)
        self._effects.append(PeerChanged(peer))

    def _connected(self, peer: PeerId, path: str, now_s: float) -> None:
        if peer == self._own:
            return
        entry = self._entry(peer, now_s)
        entry.member = replace(entry.member, state="alive", path=path, heard_s=now_s)
        entry.dialling, entry.dials_failed, entry.redial_s = False, 0, NEVER
        known = [other.member.signed for other in self._entries.values() if other.member.signed]
        adverts = [self._own_advert] if self._own_advert else []
        adverts += self._rng.sample(known, min(len(known), ADVERTS_PER_MESSAGE_MAX - 1))
        if adverts:
            self._effects.append(Tell(peer, tuple(adverts)))
        self._effects.append(PeerChanged(peer))

    def _disconnected(self, peer: PeerId, now_s: float) -> None:
        entry = self._entries.get(peer)
        if entry is None or entry.member.state != "alive":
            return
        entry.member = replace(entry.member, state="suspect", path="", heard_s=now_s)
        if entry.member.addresses:
            self._dial(entry)
        else:
            entry.member = replace(entry.member, state="dead")
        self._effects.append(PeerChanged(peer))

    def _address_seen(self, peer: PeerId, addresses: tuple[str, ...], now_s: float) -> None:
        if peer == self._own or not addresses:
            return
        entry = self._entry(peer, now_s)
        if entry.member.state == "alive":
            return
        entry.member = replace(entry.member, addresses=addresses)
        entry.dials_failed = 0
        self._dial(entry)

    def _dial_failed(self, peer: PeerId, now_s: float) -> None:
        entry = self._entries.get(peer)
        if entry is None:
            return
        entry.dialling = False
        if entry.member.state == "alive":
            return
        entry.dials_failed += 1
        if entry.member.state == "suspect":
            entry.member = replace(entry.member, state="dead", heard_s=now_s)
            self._effects.append(PeerChanged(peer))
        if entry.dials_failed < REDIALS_MAX and entry.member.state != "left":
            wait_s = min(REDIAL_FIRST_S * 2 ** (entry.dials_failed - 1), REDIAL_MAX_S)
            entry.redial_s = now_s + wait_s * (0.5 + 0.5 * self._rng.random())

    def _redial(self, now_s: float) -> None:
        for entry in self._entries.values():
            if now_s >= entry.redial_s:
                entry.redial_s = NEVER
                self._dial(entry)

    def _dial(self, entry: _Entry) -> None:
        if not entry.dialling and entry.member.state != "alive" and entry.member.addresses:
            entry.dialling = True
            entry.redial_s = NEVER
            self._effects.append(Dial(entry.member.peer, entry.member.addresses))

    def _forget(self, now_s: float) -> None:
        gone = [
            peer
            for peer, entry in self._entries.items()
            if entry.member.state in ("dead", "left") and now_s >= entry.member.heard_s + FORGET_AFTER_S
        ]
        for peer in gone:
            del self._entries[peer]
            self._effects.append(PeerChanged(peer))
