"""Finding peers beyond the own table: by capability class, or by a model that they keep.

A table holds a random sample of a large swarm, and every neighbour's table another one. So a search asks the neighbours,
each of whom looks in its table and passes the question on to a few of its own neighbours, no further: with 16 neighbours
that pass on to 4 each, 80 tables of 512 are looked at, 40,000 places. The answers are adverts, signed and dated by the
peers themselves, so there is nothing else that would have to be stored somewhere, refreshed and taken back: a peer that
is gone is gone from all tables as the membership finds out. Who finds too little asks again; the ways are random, and the
tables change. docs/decisions/discovery.md has the figures, and says why this is no distributed hash table.

**Bounds.** Each neighbour may ask so often, and a node answers and passes on within a budget. Answers count only while
their question is open, and carry what the caller checks like every advert.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from peerinfer.classes import words_of
from peerinfer.ids import PeerId
from peerinfer.limits import FOUND_PER_MESSAGE_MAX
from peerinfer.machine import NEVER, Tick
from peerinfer.membership_events import Member, Send
from peerinfer.news import MESSAGE_BYTES, Budget
from peerinfer.spread_messages import Found, Search

ASKED = 16
"""Neighbours that a search goes to."""

PASSED_ON_TO = 4
OPEN_S = 5.0
"""Answers are taken, and sent back, for so long."""

OPEN_MAX = 8
PASSED_ON_MAX = 256
"""Questions of others that are open here."""

ASKS_PER_S, ASKS_BURST = 0.2, 10
"""Questions of one neighbour, its own and those that it passes on; with 16 neighbours that each pass on to 4 of theirs
this is a search in five seconds somewhere near."""

ANSWERED_BYTES_PER_S, ANSWERED_BYTES_BURST = 500.0, 256 << 10
"""What a node gives for others' searches, answers and passing on together."""


@dataclass(frozen=True, slots=True)
class Met:
    peer: PeerId


@dataclass(frozen=True, slots=True)
class Gone:
    peer: PeerId


@dataclass(frozen=True, slots=True)
class Asked:
    peer: PeerId
    search: Search


@dataclass(frozen=True, slots=True)
class Answered:
    peer: PeerId
    found: Found


@dataclass(frozen=True, slots=True)
class Begun:
    """This node itself wants to know."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Learnt:
    """An answer to a search of this node, unchecked. `by` said it; it may be the word of somebody behind `by`."""

    by: PeerId
    adverts: tuple[bytes, ...]


Event = Met | Gone | Asked | Answered | Begun
Effect = Send | Learnt


@dataclass(slots=True)
class _Open:
    until_s: float
    asker: PeerId | None
    """Who is to be told; None: this node itself."""
    nonce: int = 0
    """The asker's."""
    told: set[bytes] = field(default_factory=set)
    """Adverts that were sent back already, so that one worker known to all does not come eighty times."""


class Searching:
    """The machine. `members` and `own_advert` read the membership's picture."""

    def __init__(
        self, rng: random.Random, members: Callable[[], Sequence[Member]], own_advert: Callable[[], Member | None]
    ) -> None:
        self._rng = rng
        self._members = members
        self._own_advert = own_advert
        self._neighbours: dict[PeerId, Budget] = {}
        self._open: dict[int, _Open] = {}
        self._nonce = rng.getrandbits(31)
        self._answering = Budget(ANSWERED_BYTES_PER_S, ANSWERED_BYTES_BURST)
        self._effects: list[Effect] = []

    @property
    def deadline_s(self) -> float:
        return min((each.until_s for each in self._open.values()), default=NEVER)

    def handle(self, event: Event | Tick, now_s: float) -> list[Effect]:
        self._open = {nonce: each for nonce, each in self._open.items() if now_s < each.until_s}
        match event:
            case Met(peer):
                self._neighbours[peer] = Budget(ASKS_PER_S, ASKS_BURST)
            case Gone(peer):
                self._neighbours.pop(peer, None)
            case Asked(peer, search):
                self._asked(peer, search, now_s)
            case Answered(peer, found):
                self._answered(peer, found, now_s)
            case Begun(words):
                if sum(each.asker is None for each in self._open.values()) < OPEN_MAX:
                    self._ask(words, _Open(now_s + OPEN_S, None), ASKED, passed_on=False)
        effects, self._effects = self._effects, []
        return effects

    def snapshot(self) -> tuple[int, ...]:
        """The nonces of what is open."""
        return tuple(self._open)

    def check(self) -> None:
        assert len(self._open) <= OPEN_MAX + PASSED_ON_MAX, f"{len(self._open)} searches are open"

    # --- asking ------------------------------------------------------------------------------------------------------

    def _ask(self, words: tuple[str, ...], question: _Open, count: int, *, passed_on: bool) -> None:
        others = [peer for peer in self._neighbours if peer != question.asker]
        chosen = others if len(others) <= count else self._rng.sample(others, count)
        if not chosen:
            return
        self._nonce = (self._nonce + 1) & 0xFFFFFFFF
        self._open[self._nonce] = question
        self._effects += [Send(peer, Search(self._nonce, words, passed_on)) for peer in chosen]

    def _answered(self, peer: PeerId, found: Found, now_s: float) -> None:
        question = self._open.get(found.nonce)
        if question is None:
            return
        fresh = tuple(dict.fromkeys(advert for advert in found.adverts if advert not in question.told))
        if len(question.told) > ASKED * FOUND_PER_MESSAGE_MAX or not fresh:
            return
        question.told.update(fresh)
        if question.asker is None:
            self._effects.append(Learnt(peer, fresh))
        elif question.asker in self._neighbours and self._spend(sum(map(len, fresh)), now_s):
            self._effects.append(Send(question.asker, Found(question.nonce, fresh)))

    # --- answering ---------------------------------------------------------------------------------------------------

    def _asked(self, peer: PeerId, search: Search, now_s: float) -> None:
        allowed = self._neighbours.get(peer)
        if allowed is None or not search.words or not allowed.take(1, now_s):
            return
        found = self._matching(frozenset(search.words), but=peer)
        if found and self._spend(sum(map(len, found)), now_s):
            self._effects.append(Send(peer, Found(search.nonce, found)))
        passed_on = sum(each.asker is not None for each in self._open.values())
        if search.passed_on or passed_on >= PASSED_ON_MAX or not self._spend(PASSED_ON_TO * MESSAGE_BYTES, now_s):
            return
        question = _Open(now_s + OPEN_S, peer, search.nonce, set(found))
        self._ask(search.words, question, PASSED_ON_TO, passed_on=True)

    def _matching(self, words: frozenset[str], *, but: PeerId) -> tuple[bytes, ...]:
        known = [*self._members(), *([own] if (own := self._own_advert()) else [])]
        fit = [
            member.signed
            for member in known
            if member.advert is not None
            and member.peer != but
            and member.state == "alive"
            and words <= words_of(member.advert)
        ]
        return tuple(fit if len(fit) <= FOUND_PER_MESSAGE_MAX else self._rng.sample(fit, FOUND_PER_MESSAGE_MAX))

    def _spend(self, size_bytes: int, now_s: float) -> bool:
        return self._answering.take(size_bytes + MESSAGE_BYTES, now_s)
