"""How signed statements reach everybody: each node tells its neighbours which ones it holds, and they ask for what is new.

A statement (an attestation, a proof of fault) travels once over each connection at most as its digest, and once to each
node as itself. Who has taken one tells all its neighbours but the one that it came from; a newcomer is told all that is
held when it connects, and every half minute a random neighbour is told again, which mends what was lost on the way. Only
what was asked for is looked at, so nobody is made to check what nobody wants.

**What is passed on is decided elsewhere**: a kind's own check says whether a statement is true and new, and until when it
is worth keeping. That time must come out of the signed bytes: counted from its arrival, a statement would live for ever,
handed from node to node. What was refused is not asked for again for a while.

**Bounds.** Held: so many of a kind, of one signer, and bytes in all; the oldest of the same kind goes first, and a signer's
newest replaces its own. Asked for: a budget for each neighbour and one for all. A node that says more than its share is
asked less, and is not heard at all beyond it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from peerinfer.ids import PeerId
from peerinfer.limits import STATEMENT_BYTES_MAX, STATEMENTS_NAMED_MAX, STATEMENTS_PER_MESSAGE_MAX
from peerinfer.machine import NEVER, Tick
from peerinfer.membership_events import Send
from peerinfer.news import Budget
from peerinfer.spread_messages import Statement, Statements, StatementsHeld, StatementsWanted

HELD_MAX = 4096
HELD_PER_KIND_MAX = 1024
HELD_BYTES_MAX = 2 << 20
SEEN_MAX = 8192
"""Digests that need no second look. The oldest goes: at worst a statement is fetched and checked again."""

REFUSED_FOR_S = 600.0
KEEP_MAX_S = 86400.0
TELL_AFTER_S = 0.25
"""What arrives within this time is told in one message."""

TOLD_MAX = 24
"""Neighbours that are told at once: more than a node has unless it works with them. The others hear it on the round."""

ROUND_EVERY_S = 30.0
WANTED_AGAIN_S = 3.0
WANTED_MAX = 1024
WANTED_PER_PEER_MAX = 256
ASKED_MAX = 4
"""Neighbours that are asked for one statement, each after the other."""

OWN_PER_S, OWN_BURST = 0.5, 64
"""Statements that this node itself may bring in."""

ASKED_BYTES_PER_S, ASKED_BYTES_BURST = 1000.0, 512 << 10
ASKED_OF_ONE_BYTES_PER_S, ASKED_OF_ONE_BYTES_BURST = 250.0, 128 << 10
GIVEN_BYTES_PER_S, GIVEN_BYTES_BURST = 1000.0, 512 << 10
"""What a node asks for, in all and of one neighbour, and what it gives: a statement takes 200 to 600 bytes."""

STATEMENT_BYTES_USUAL = 512


def digest_of(kind: str, signed: bytes) -> bytes:
    return hashlib.sha256(kind.encode() + b"\0" + signed).digest()[:16]


@dataclass(frozen=True, slots=True)
class Met:
    """A neighbour has connected."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Gone:
    peer: PeerId


@dataclass(frozen=True, slots=True)
class Told:
    peer: PeerId
    message: StatementsHeld | StatementsWanted


@dataclass(frozen=True, slots=True)
class Taken:
    """A statement has been found true and new (`keep_s` > 0), or not worth passing on."""

    statement: Statement
    signer: PeerId
    keep_s: float
    of_signer_max: int = 1
    """How many of this kind are held of one signer."""
    by: PeerId | None = None
    """Who told it; None: it is this node's own."""


Event = Met | Gone | Told | Taken


@dataclass(slots=True)
class _Held:
    statement: Statement
    signer: PeerId
    until_s: float


@dataclass(slots=True)
class _Wanted:
    again_s: float
    asked: int = 1
    holders: list[PeerId] = field(default_factory=list)


class Spreading:
    """The machine."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._neighbours: dict[PeerId, Budget] = {}
        self._held: dict[bytes, _Held] = {}
        """In the order of arrival."""
        self._held_bytes = 0
        self._seen: dict[bytes, float] = {}
        self._wanted: dict[bytes, _Wanted] = {}
        self._fresh: dict[bytes, PeerId | None] = {}
        self._asking = Budget(ASKED_BYTES_PER_S, ASKED_BYTES_BURST)
        self._giving = Budget(GIVEN_BYTES_PER_S, GIVEN_BYTES_BURST)
        self._tell_s = self._round_s = self._expire_s = NEVER
        self._effects: list[Send] = []

    def handle(self, event: Event | Tick, now_s: float) -> list[Send]:
        match event:
            case Met(peer):
                self._met(peer, now_s)
            case Gone(peer):
                self._neighbours.pop(peer, None)
            case Told(peer, StatementsHeld(digests)):
                self._hear(peer, digests, now_s)
            case Told(peer, StatementsWanted(digests)):
                self._give(peer, digests, now_s)
            case Taken():
                self._take(event, now_s)
        self._expire(now_s)
        self._ask_again(now_s)
        self._tell(now_s)
        self._go_round(now_s)
        effects, self._effects = self._effects, []
        return effects

    @property
    def deadline_s(self) -> float:
        wanted_s = min((wanted.again_s for wanted in self._wanted.values()), default=NEVER)
        round_s = self._round_s if self._held and self._neighbours else NEVER
        return min(self._tell_s, wanted_s, round_s, self._expire_s)

    def expects(self, digest: bytes) -> bool:
        """Whether it was asked for and has not come yet: what did not is not looked at."""
        return digest in self._wanted

    def snapshot(self) -> tuple[Statement, ...]:
        """What is held."""
        return tuple(held.statement for held in self._held.values())

    def check(self) -> None:
        assert self._held_bytes == sum(len(held.statement.signed) for held in self._held.values())
        assert self._held_bytes <= HELD_BYTES_MAX, f"{self._held_bytes} bytes are held"
        assert len(self._held) <= HELD_MAX
        assert len(self._seen) <= SEEN_MAX
        assert len(self._wanted) <= WANTED_MAX
        assert set(self._held) <= set(self._seen), "what is held has been seen"

    # --- what happens ------------------------------------------------------------------------------------------------

    def _met(self, peer: PeerId, now_s: float) -> None:
        if not self._neighbours:
            self._round_s = now_s + ROUND_EVERY_S * self._rng.random()
        self._neighbours[peer] = Budget(ASKED_OF_ONE_BYTES_PER_S, ASKED_OF_ONE_BYTES_BURST)
        if self._held:
            self._send(peer, StatementsHeld(tuple(self._held)[-STATEMENTS_NAMED_MAX:]))

    def _hear(self, peer: PeerId, digests: Sequence[bytes], now_s: float) -> None:
        allowed = self._neighbours.get(peer)
        if allowed is None:
            return
        asked_for = sum(wanted.holders[0] == peer for wanted in self._wanted.values())
        ask: list[bytes] = []
        for digest in dict.fromkeys(digests):
            if digest in self._seen:
                continue
            wanted = self._wanted.get(digest)
            if wanted is not None:
                if len(wanted.holders) < ASKED_MAX and peer not in wanted.holders:
                    wanted.holders.append(peer)
                continue
            if len(self._wanted) >= WANTED_MAX or asked_for + len(ask) >= WANTED_PER_PEER_MAX:
                break
            if not (allowed.take(STATEMENT_BYTES_USUAL, now_s) and self._asking.take(STATEMENT_BYTES_USUAL, now_s)):
                break
            self._wanted[digest] = _Wanted(now_s + WANTED_AGAIN_S, holders=[peer])
            ask.append(digest)
        if ask:
            self._send(peer, StatementsWanted(tuple(ask)))

    def _give(self, peer: PeerId, digests: Sequence[bytes], now_s: float) -> None:
        found: list[Statement] = []
        for digest in dict.fromkeys(digests):
            held = self._held.get(digest)
            if held is None:
                continue
            if not self._giving.take(len(held.statement.signed), now_s):
                break
            found.append(held.statement)
            if len(found) == STATEMENTS_PER_MESSAGE_MAX:
                self._send(peer, Statements(tuple(found)))
                found = []
        if found:
            self._send(peer, Statements(tuple(found)))

    def _take(self, event: Taken, now_s: float) -> None:
        statement = event.statement
        digest = digest_of(statement.kind, statement.signed)
        self._wanted.pop(digest, None)
        if digest in self._held:
            return
        keep_s = min(event.keep_s, KEEP_MAX_S)
        self._seen.pop(digest, None)
        self._seen[digest] = now_s + max(keep_s, 0.0) + REFUSED_FOR_S
        self._expire_s = min(self._expire_s, now_s + (keep_s if keep_s > 0 else REFUSED_FOR_S))
        if keep_s > 0 and len(statement.signed) <= STATEMENT_BYTES_MAX:
            self._make_room(statement, event)
            self._held[digest] = _Held(statement, event.signer, now_s + keep_s)
            self._held_bytes += len(statement.signed)
            if not self._fresh:
                self._tell_s = now_s + TELL_AFTER_S
            self._fresh[digest] = event.by
        while len(self._seen) > SEEN_MAX:
            # What is held stays seen, or it would be asked for again.
            del self._seen[next(each for each in self._seen if each not in self._held)]

    def _make_room(self, statement: Statement, event: Taken) -> None:
        alike = [digest for digest, held in self._held.items() if held.statement.kind == statement.kind]
        same = [digest for digest in alike if self._held[digest].signer == event.signer]
        if len(same) >= event.of_signer_max:
            self._drop(same[0])
        elif len(alike) >= HELD_PER_KIND_MAX:
            self._drop(alike[0])
        for digest in list(self._held):
            if len(self._held) < HELD_MAX and self._held_bytes + len(statement.signed) <= HELD_BYTES_MAX:
                return
            self._drop(digest)

    def _drop(self, digest: bytes) -> None:
        held = self._held.pop(digest)
        self._held_bytes -= len(held.statement.signed)
        self._fresh.pop(digest, None)

    # --- time --------------------------------------------------------------------------------------------------------

    def _expire(self, now_s: float) -> None:
        if now_s < self._expire_s:
            return
        for digest in [digest for digest, held in self._held.items() if now_s >= held.until_s]:
            self._drop(digest)
        for digest in [digest for digest, until_s in self._seen.items() if now_s >= until_s]:
            del self._seen[digest]
        ends = (*(held.until_s for held in self._held.values()), *self._seen.values())
        self._expire_s = min(ends, default=NEVER)

    def _ask_again(self, now_s: float) -> None:
        asks: dict[PeerId, list[bytes]] = {}
        for digest, wanted in list(self._wanted.items()):
            if now_s < wanted.again_s:
                continue
            wanted.holders = [peer for peer in wanted.holders[1:] if peer in self._neighbours]
            if not wanted.holders or wanted.asked >= ASKED_MAX:
                del self._wanted[digest]
                continue
            wanted.asked += 1
            wanted.again_s = now_s + WANTED_AGAIN_S
            asks.setdefault(wanted.holders[0], []).append(digest)
        for peer, digests in asks.items():
            for start in range(0, len(digests), STATEMENTS_NAMED_MAX):
                self._send(peer, StatementsWanted(tuple(digests[start : start + STATEMENTS_NAMED_MAX])))

    def _tell(self, now_s: float) -> None:
        if now_s < self._tell_s:
            return
        self._tell_s = NEVER
        fresh, self._fresh = self._fresh, {}
        peers = list(self._neighbours)
        for peer in peers if len(peers) <= TOLD_MAX else self._rng.sample(peers, TOLD_MAX):
            digests = tuple(digest for digest, by in fresh.items() if by != peer)
            for start in range(0, len(digests), STATEMENTS_NAMED_MAX):
                self._send(peer, StatementsHeld(digests[start : start + STATEMENTS_NAMED_MAX]))

    def _go_round(self, now_s: float) -> None:
        if now_s < self._round_s:
            return
        self._round_s = now_s + ROUND_EVERY_S * (0.9 + 0.2 * self._rng.random())
        if self._held and self._neighbours:
            peer = self._rng.choice(list(self._neighbours))
            digests = list(self._held)
            chosen = digests if len(digests) <= 64 else self._rng.sample(digests, 64)
            self._send(peer, StatementsHeld(tuple(chosen)))

    def _send(self, peer: PeerId, message: StatementsHeld | StatementsWanted | Statements) -> None:
        self._effects.append(Send(peer, message))
