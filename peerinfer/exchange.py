"""What neighbours tell each other about third ones: adverts on demand, news by gossip, and a digest now and then.

Two who meet show each other a few names of their tables. Who does not know some of those turns the other's pages
(`reading`); two that know the same have said so in a kilobyte. Everything here has a budget, so that a node of a large
swarm sends no more than one of a small swarm.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from peerinfer.ids import PeerId
from peerinfer.limits import ADVERT_BYTES_MAX, DIGEST_PEERS_MAX, NEWS_PER_MESSAGE_MAX, PAGE_PEERS_MAX
from peerinfer.machine import NEVER
from peerinfer.member_messages import Adverts, AdvertsWanted, Digest, Known, News
from peerinfer.member_table import Entry, Table, known_of
from peerinfer.messages import Advert
from peerinfer.news import (
    ADVERTS_BYTES_BURST,
    ADVERTS_BYTES_PER_S,
    HEARSAY_SHARE,
    KEPT_BYTES,
    KNOWN_BYTES,
    MESSAGE_BYTES,
    NEWS_BYTES_BURST,
    NEWS_BYTES_PER_S,
    NEWS_BYTES_URGENT,
    Budget,
    NewsQueue,
    Rank,
    key_of,
    known,
    peer_with,
    tellings_max,
)
from peerinfer.reading import READ_AGAIN_S, Reader, pages_max
from peerinfer.spread_messages import Page

GOSSIP_EVERY_S = 0.25
GOSSIP_FANOUT = 2
SYNC_EVERY_S = 30.0
"""A sample of the table goes to a random neighbour, who mends what gossip has missed."""
SYNC_PEERS = 64
GREETING_PEERS = 16
"""Names that a new neighbour is shown."""
INTRODUCED = 8
"""Neighbours whose adverts a new one gets at once."""
STRANGERS_PER_S = 0.2
STRANGERS_BURST = 16.0
"""Adverts of unknown peers that a full table asks for: each pushes out another one. Without this bound the tables of a
swarm that is larger than they are would go round and round as fast as the budgets allow; with it the half of a table is
replaced in twenty minutes, while peers stay for hours."""

WANTED_AGAIN_S = 2.0
WANTED_ASKED_MAX = 4
"""Neighbours that are asked for one advert, each after the other."""
DOUBTS_MAX = 4
"""Who call a peer dead in a version that is not known here; two are believed."""

ADVERTS_BYTES = 32 * 1024
"""Adverts in one message, together: what is urgent waits behind it, on a slow line 30 ms."""

_ORDER = {"alive": 0, "suspect": 1, "dead": 2, "left": 3}


Version = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Doubt:
    """Somebody suspects a peer, or calls it dead, as of a version that is not known here yet."""

    version: Version
    by: PeerId
    is_dead: bool


@dataclass(slots=True)
class Wanted:
    """An advert that was asked for."""

    again_s: float
    asked: int = 1
    doubts: list[Doubt] = field(default_factory=list)
    """Only the peer itself can say that there is such a version: they wait for its advert."""

    def note(self, doubt: Doubt) -> None:
        """The newest of each teller."""
        others = [each for each in self.doubts if each.by != doubt.by]
        self.doubts = [*others, doubt][-DOUBTS_MAX:]


class Exchange:
    """The part of membership that passes on."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.own_advert: Advert | None = None
        self.own_signed = b""
        self.news = NewsQueue()
        self._telling = Budget(NEWS_BYTES_PER_S, NEWS_BYTES_BURST)
        self._serving = Budget(ADVERTS_BYTES_PER_S, ADVERTS_BYTES_BURST)
        self._fetching = Budget(ADVERTS_BYTES_PER_S, ADVERTS_BYTES_BURST)
        self._replacing = Budget(STRANGERS_PER_S, STRANGERS_BURST)
        self.wanted: dict[PeerId, Wanted] = {}
        self.reader = Reader(table)
        self._gossip_s = self.sync_s = NEVER

    @property
    def deadline_s(self) -> float:
        return min(self.sync_s, self._gossip_s if self.news and self._table.neighbours else NEVER)

    def greet(self, peer: PeerId) -> None:
        """Tells a new neighbour what it needs to find its way."""
        # A few strangers' adverts go along in any case: a newcomer must not depend on the one that it came in by.
        neighbours = [entry.member.signed for entry in self._table.entries.values() if entry.is_connected]
        others = [signed for signed in neighbours if signed]
        adverts = self._table.rng.sample(others, min(INTRODUCED, len(others)))
        if self.own_signed:
            adverts.append(self.own_signed)
        if adverts:
            self._table.send(peer, Adverts(tuple(adverts)))
        self._table.send(peer, self._digest(GREETING_PEERS, peer))

    def send_adverts(self, peer: PeerId, keys: tuple[bytes, ...], now_s: float) -> None:
        found: list[bytes] = []
        size_bytes = 0
        for key in keys:
            wanted = peer_with(key)
            entry = self._table.entries.get(wanted)
            signed = self.own_signed if wanted == self._table.own else entry.member.signed if entry else b""
            if not signed:
                continue
            if not self._serving.take(len(signed), now_s):
                break
            if size_bytes + len(signed) > ADVERTS_BYTES:
                self._table.send(peer, Adverts(tuple(found)))
                found, size_bytes = [], 0
            found.append(signed)
            size_bytes += len(signed)
        if found:
            self._table.send(peer, Adverts(tuple(found)))

    def want(self, peer: PeerId, now_s: float, *, is_urgent: bool) -> bool:
        """Whether to ask for this peer's advert now. It is urgent if somebody doubts that the peer lives."""
        if peer in self.wanted or len(self.wanted) >= self._table.members_max:
            return False
        is_stranger = self._table.is_full and peer not in self._table.entries
        if is_stranger and not self._replacing.take(1, now_s):
            return False
        keep = 0 if is_urgent else NEWS_BYTES_URGENT
        if not self._fetching.take(ADVERT_BYTES_MAX / 10, now_s, keep=keep):  # an advert takes 400 to 1,000 bytes
            return False
        self.wanted[peer] = Wanted(now_s + WANTED_AGAIN_S)
        self._table.wake(now_s + WANTED_AGAIN_S)
        return True

    def arrived(self, peer: PeerId, version: Version) -> list[Doubt]:
        """Which doubts are about the advert that has come. It is still wanted if some are about a newer one."""
        wanted = self.wanted.get(peer)
        if wanted is None:
            return []
        if not any(doubt.version > version for doubt in wanted.doubts):
            del self.wanted[peer]
        return [doubt for doubt in wanted.doubts if doubt.version == version]

    def ask_again(self, now_s: float) -> None:
        """Asks somebody else for the adverts that did not come."""
        again: list[bytes] = []
        for peer, wanted in list(self.wanted.items()):
            if now_s < wanted.again_s:
                self._table.wake(wanted.again_s)
            elif wanted.asked >= WANTED_ASKED_MAX or not self._table.neighbours:
                del self.wanted[peer]
            elif len(again) < DIGEST_PEERS_MAX:
                wanted.asked += 1
                wanted.again_s = now_s + WANTED_AGAIN_S
                self._table.wake(wanted.again_s)
                again.append(key_of(peer))
        if again:
            self._table.send(self._table.rng.choice(list(self._table.neighbours)), AdvertsWanted(tuple(again)))

    def send_page(self, peer: PeerId, after: bytes, now_s: float) -> None:
        """What comes next in this node's table, in the order of the keys."""
        entry = self._table.entries[peer]
        if entry.pages is None:
            pages = pages_max(self._table.members_max)
            entry.pages = Budget(pages / READ_AGAIN_S, pages)
        # An empty page costs the same look through the table as a full one, so it is paid for in advance, and as much.
        size_bytes = MESSAGE_BYTES + KNOWN_BYTES * min(PAGE_PEERS_MAX, len(self._table.entries))
        if entry.pages.take(1, now_s) and self._telling.take(size_bytes, now_s, keep=NEWS_BYTES_URGENT):
            self._table.send(peer, Page(self._table.page(after, PAGE_PEERS_MAX)))

    def set_right(self, peer: PeerId, told: tuple[Known, ...], now_s: float) -> None:
        """Answers news of somebody's end, or life, if it is known here that it is otherwise."""
        better = []
        for each in told:
            entry = self._table.entries.get(peer_with(each.key))
            if entry is None or entry.member.advert is None or entry.member.state == each.state:
                continue
            member, version = entry.member, (each.incarnation, each.sequence)
            has_ended = member.state in ("dead", "left")
            was_doubted = each.state in ("suspect", "dead")
            if (has_ended and member.version >= version) or (was_doubted and member.version > version):
                better.append(known_of(member))
        size_bytes = MESSAGE_BYTES + KNOWN_BYTES * len(better)
        if better and self._telling.take(size_bytes, now_s, keep=NEWS_BYTES_URGENT):
            self._table.send(peer, News(tuple(better)))

    def ask_about(self, entry: Entry, now_s: float) -> None:
        """Repeats a rumour to some neighbour: one that knows better sets it right."""
        size_bytes = MESSAGE_BYTES + KNOWN_BYTES
        if self._table.neighbours and self._telling.take(size_bytes, now_s, keep=NEWS_BYTES_URGENT):
            peer = self._table.rng.choice(list(self._table.neighbours))
            self._table.send(peer, News((self._rumour_of(entry),)))

    def mend(self, peer: PeerId, digest: Digest, now_s: float) -> None:
        """Answers a digest with what is missing in it, or stands in it wrongly."""
        states = {each.key: each for each in digest.known}
        # On connection each side sends a digest, and needs no answer to know what the other has.
        is_whole = len(states) == digest.of and now_s > self._table.entries[peer].connected_s + WANTED_AGAIN_S
        entries = self._table.entries
        named = (entries.get(peer_with(key)) for key in states)
        better = []
        for entry in entries.values() if is_whole else named:
            if entry is None or entry.member.advert is None or entry.member.peer == peer:
                continue
            member, other = entry.member, states.get(key_of(entry.member.peer))
            if other is None:
                is_better = member.state in ("alive", "suspect")
            else:
                theirs = (other.incarnation, other.sequence)
                is_newer, is_same = member.version > theirs, member.version == theirs
                is_better = is_newer or (is_same and _ORDER[member.state] > _ORDER[other.state])
            if is_better:
                better.append(known_of(member))
        for start in range(0, min(len(better), DIGEST_PEERS_MAX), NEWS_PER_MESSAGE_MAX):
            part = tuple(better[start : start + NEWS_PER_MESSAGE_MAX])
            if self._telling.take(MESSAGE_BYTES + KNOWN_BYTES * len(part), now_s, keep=NEWS_BYTES_URGENT):
                self._table.send(peer, News(part))

    def believes(self, teller: PeerId, now_s: float, *, is_dead: bool) -> bool:
        """Whether one more thing that this neighbour says of others is believed, and passed on."""
        entry = self._table.entries.get(teller)
        if entry is None:
            return False  # It is gone, and so is the account of what it said.
        burst = HEARSAY_SHARE * NEWS_BYTES_BURST
        if entry.hearsay is None:
            entry.hearsay = Budget(HEARSAY_SHARE * NEWS_BYTES_PER_S, burst)
        size_bytes = KNOWN_BYTES * tellings_max(len(self._table.entries))
        return entry.hearsay.take(size_bytes, now_s, keep=0 if is_dead else burst / 2)

    def tell(self, entry: Entry, rank: Rank) -> None:
        if entry.member.advert is not None:
            if not self.news:
                self._gossip_s = -NEVER
            self.news.add(self._rumour_of(entry), rank)

    def _rumour_of(self, entry: Entry) -> Known:
        origin = entry.suspicion.origin if entry.suspicion else None
        return known(entry.member.peer, *entry.member.version, entry.member.state, origin)

    def _digest(self, peers_max: int, but: PeerId) -> Digest:
        sample, of = self._table.sample(peers_max, but)
        return Digest(sample, of)

    def gossip(self, now_s: float) -> None:
        if now_s < self._gossip_s or not self.news or not self._table.neighbours:
            return
        self._gossip_s = now_s + GOSSIP_EVERY_S
        neighbours = list(self._table.neighbours)
        for peer in self._table.rng.sample(neighbours, min(GOSSIP_FANOUT, len(neighbours))):
            rank = self._affordable(now_s)
            if rank is None:
                return
            self._table.send(peer, News(self.news.take(len(self._table.entries), rank)))

    def _affordable(self, now_s: float) -> Rank | None:
        """Pays for one message: with all ranks if there is enough for that, else without those that are less urgent."""
        for rank in (Rank.ALIVE, Rank.DEATH, Rank.SEEN):
            count = min(self.news.count(rank), NEWS_PER_MESSAGE_MAX)
            size_bytes = MESSAGE_BYTES + KNOWN_BYTES * count
            if count and self._telling.take(size_bytes, now_s, keep=KEPT_BYTES.get(rank, NEWS_BYTES_URGENT)):
                return rank
        return None

    def sync(self, now_s: float) -> None:
        if now_s < self.sync_s:
            return
        self.sync_s = now_s + SYNC_EVERY_S * (0.9 + 0.2 * self._table.rng.random())
        peer = self._table.rng.choice(list(self._table.neighbours))
        digest = self._digest(SYNC_PEERS, peer)
        if self._telling.take(MESSAGE_BYTES + KNOWN_BYTES * len(digest.known), now_s, keep=NEWS_BYTES_URGENT):
            self._table.send(peer, digest)
