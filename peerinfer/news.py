"""What a node passes on about others: a bounded queue of news, and the budget that keeps its traffic flat.

Every piece of news is told to a few random neighbours, a few times more than the logarithm of the swarm, and then rests:
so it reaches everybody in a swarm of hundreds. In a swarm of a hundred thousand there is more news than a node may send;
then the budget decides, and each node hears a part. Nobody needs all of it: a table is a sample there (DESIGN, §4).
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import islice

from peerinfer.ids import PeerId, peer_id_of, public_key_of
from peerinfer.limits import NEWS_PER_MESSAGE_MAX
from peerinfer.member_messages import (
    Known,
)

NEWS_WAITING_MAX = 256
"""Beyond this the piece that was told most often goes; deaths are kept before arrivals."""

TELLINGS_PER_DIGIT = 4
"""memberlist's RetransmitMult: each piece is told this often for every digit of the number of peers."""

NEWS_BYTES_PER_S = 200.0
NEWS_BYTES_BURST = 256 << 10
NEWS_BYTES_URGENT = 16 << 10
"""What a node tells about others in the long run, and at once; a part is kept for suspicions and deaths. With two
probes a second it stays below 1 kB/s."""

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


_CLASSES = {"suspect": 0, "dead": 0, "left": 1, "alive": 2}


class NewsQueue:
    """At most one piece for each peer, the newest.

    Pieces of one class that were told equally often stand in one line, in the order in which they came to it: so the next
    to tell are the front of the first line, and the first to go is the front of the last, however many wait.
    """

    def __init__(self) -> None:
        self._lines: dict[tuple[int, int], dict[bytes, Known]] = {}
        """By (class, tellings); none is empty."""
        self._line_of: dict[bytes, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._line_of)

    def add(self, news: Known) -> None:
        self._drop(news.key)
        self._put(news, 0)
        if len(self) > NEWS_WAITING_MAX:
            self._drop(next(iter(self._lines[max(self._lines)])))

    @property
    def has_urgent(self) -> bool:
        """A suspicion or a death."""
        return any(kind == 0 for kind, _ in self._lines)

    def take(self, peers: int) -> tuple[Known, ...]:
        """The next pieces to tell, those told least first; `peers` is how many the swarm has, as far as is known."""
        tellings_max = TELLINGS_PER_DIGIT * max(1, math.ceil(math.log10(peers + 1)))
        chosen: list[tuple[Known, int]] = []
        for line in sorted(self._lines):
            room = NEWS_PER_MESSAGE_MAX - len(chosen)
            chosen += [(news, line[1] + 1) for news in islice(self._lines[line].values(), room)]
        for news, tellings in chosen:
            self._drop(news.key)
            if tellings < tellings_max:
                self._put(news, tellings)
        return tuple(news for news, _ in chosen)

    def _put(self, news: Known, tellings: int) -> None:
        line = (_CLASSES[news.state], tellings)
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
