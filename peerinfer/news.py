"""What a node passes on about others: a bounded queue of news, and the budget that keeps its traffic flat.

Every piece of news is told to a few random neighbours, a few times more than the logarithm of the swarm, and then rests:
so it reaches everybody in a swarm of hundreds. In a swarm of a hundred thousand there is more news than a node may send;
then the budget decides, and each node hears a part. Nobody needs all of it: a table is a sample there (DESIGN, §4).

What a node has seen for itself goes first, then deaths, then suspicions that others told of: these cost their author
nothing, and one neighbour that doubts everybody must not delay the news of deaths. So hearsay has a share for each
neighbour that tells it, and what is above the share is neither believed nor passed on. Whoever died is told of by others
as well; whoever lives must hear what is believed of him, to refute it.
"""

from __future__ import annotations

import math
from enum import IntEnum
from functools import lru_cache
from itertools import islice

from peerinfer.ids import PeerId, peer_id_of, public_key_of
from peerinfer.limits import NEWS_PER_MESSAGE_MAX
from peerinfer.member_messages import Known

NEWS_WAITING_MAX = 256
"""Beyond this the piece that was told most often goes; deaths are kept before arrivals."""

TELLINGS_PER_DIGIT = 4
"""memberlist's RetransmitMult: each piece is told this often for every digit of the number of peers."""

NEWS_BYTES_PER_S = 200.0
NEWS_BYTES_BURST = 256 << 10
NEWS_BYTES_URGENT = 16 << 10
"""What a node tells about others in the long run, and at once; a part is kept for deaths, half of that for what the node
has seen itself. With two probes a second it stays below 1 kB/s."""

HEARSAY_SHARE = 0.25
"""Of all that a node tells, in the long run and at once, what one neighbour's hearsay may cause: suspicions half of it.
At once these are the deaths of 91 peers of a full table; the neighbours of many who died together tell of them all."""

ADVERTS_BYTES_PER_S = 250.0
ADVERTS_BYTES_BURST = 512 << 10
"""Adverts that a node gives out, and that it asks for. The burst lets it meet a swarm of hundreds at once."""

KNOWN_BYTES = 60
"""One `Known` on the wire, about."""

MESSAGE_BYTES = 90
"""What a message costs beside its content: yamux, Noise, TCP and IP."""


@lru_cache(maxsize=8192)
def key_of(peer: PeerId) -> bytes:
    """`public_key_of`, remembered: base58 takes 20 µs, and every digest names dozens of peers."""
    return public_key_of(peer)


@lru_cache(maxsize=8192)
def peer_with(key: bytes) -> PeerId:
    return peer_id_of(key)


@lru_cache(maxsize=8192)
def known(peer: PeerId, incarnation: int, sequence: int, state: str, by: PeerId | None = None) -> Known:
    return Known(key_of(peer), incarnation, sequence, state, key_of(by) if by else b"")


class Rank(IntEnum):
    """What is told first. Lower is more urgent."""

    SEEN = 0
    """A suspicion or a death, by this node's own eyes."""
    DEATH = 1
    RUMOUR = 2
    """A suspicion that others told of."""
    LEFT = 3
    ALIVE = 4


KEPT_BYTES = {Rank.SEEN: 0, Rank.DEATH: NEWS_BYTES_URGENT // 2}
"""What news of a rank leaves in the budget for what is more urgent; all else leaves `NEWS_BYTES_URGENT`."""


def tellings_max(peers: int) -> int:
    """How often a piece is told in a swarm of so many."""
    return TELLINGS_PER_DIGIT * max(1, math.ceil(math.log10(peers + 1)))


class NewsQueue:
    """At most one piece for each peer, the newest.

    Pieces of one rank that were told equally often stand in one line, in the order in which they came to it: so the next
    to tell are the front of the first line, and the first to go is the front of the last, however many wait.
    """

    def __init__(self) -> None:
        self._lines: dict[tuple[Rank, int], dict[bytes, Known]] = {}
        """By (rank, tellings); none is empty."""
        self._line_of: dict[bytes, tuple[Rank, int]] = {}

    def __len__(self) -> int:
        return len(self._line_of)

    def add(self, news: Known, rank: Rank) -> None:
        self._drop(news.key)
        self._put(news, rank, 0)
        if len(self) > NEWS_WAITING_MAX:
            self._drop(next(iter(self._lines[max(self._lines)])))

    def count(self, rank_max: Rank) -> int:
        """How many pieces wait that are as urgent as this or more."""
        return sum(len(line) for (rank, _), line in self._lines.items() if rank <= rank_max)

    def take(self, peers: int, rank_max: Rank = Rank.ALIVE) -> tuple[Known, ...]:
        """The next pieces to tell, those told least first; `peers` is how many the swarm has, as far as is known."""
        chosen: list[tuple[Known, Rank, int]] = []
        for rank, tellings in sorted(self._lines):
            if rank <= rank_max:
                room = NEWS_PER_MESSAGE_MAX - len(chosen)
                line = self._lines[rank, tellings]
                chosen += [(news, rank, tellings + 1) for news in islice(line.values(), room)]
        for news, rank, tellings in chosen:
            self._drop(news.key)
            if tellings < tellings_max(peers):
                self._put(news, rank, tellings)
        return tuple(news for news, _, _ in chosen)

    def _put(self, news: Known, rank: Rank, tellings: int) -> None:
        line = (rank, tellings)
        self._line_of[news.key] = line
        self._lines.setdefault(line, {})[news.key] = news

    def _drop(self, key: bytes) -> None:
        line = self._line_of.pop(key, None)
        if line is not None:
            del self._lines[line][key]
            if not self._lines[line]:
                del self._lines[line]


class Budget:
    """A bucket of bytes that fills at a constant rate."""

    def __init__(self, bytes_per_s: float, burst_bytes: float) -> None:
        self._rate = bytes_per_s
        self._burst = burst_bytes
        self._held = burst_bytes
        self._filled_s = -math.inf

    def take(self, size_bytes: float, now_s: float, *, keep: float = 0.0) -> bool:
        """Spends `size_bytes` if `keep` are left then."""
        if math.isfinite(self._filled_s):
            self._held = min(self._held + (now_s - self._filled_s) * self._rate, self._burst)
        self._filled_s = now_s
        if self._held - size_bytes < keep:
            return False
        self._held -= size_bytes
        return True
