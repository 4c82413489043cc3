"""What others say of peers: whose word counts here, how much, and what it buys.

Every node that has had work verified says now and then, signed, from whom it received how much, and how many checks of
theirs passed (`Attestation`). Only good can be said: there are no statements against anybody, so slander has no way in;
what a peer did wrong travels as a proof, which everybody checks for themselves (`fault_proofs`).

**Whose word counts** follows from work alone (`trust`): from this node's own verified work, and from the peers that
passed a hundred checks here, along who worked for whom. A node that nobody trusted ever took work from has no voice,
whatever it signs and under however many names.

**What it buys** is little: passed checks that others vouch for, weighed by the trust in them, spare a newcomer at most
half of its probation. It never enters what this node has seen itself, and no committee asks for it.

**Bounds.** Of one signer the newest attestation counts, about thirty peers at most, for a day at most, and not more than
one a minute is taken. Of signers, `ATTESTERS_MAX` are kept; those without trust go first, the one heard longest ago
before the others, so that a flood of names washes nobody away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from peerinfer.errors import DecodeError
from peerinfer.evidence_messages import Attestation, Attested
from peerinfer.ids import PeerId, peer_id_of, public_key_of
from peerinfer.limits import ATTESTED_MAX, CLOCK_SKEW_MAX_S
from peerinfer.reputation import NEWCOMER_AUDITS, UNITS_MAX, Reputation
from peerinfer.trust import (
    EDGES_PER_RECEIVER_MAX,
    IMPORTED_AUDITS_MAX,
    SEEDS_MIN,
    Received,
    probation_tasks,
    spread,
)

ATTESTATION_LASTS_S = 86_400.0
"""So long an attestation counts; a node that lives renews its own."""

APART_MIN_S = 60.0
"""Two attestations of one signer lie so far apart, by its own clock; what comes sooner is left aside."""

ATTESTERS_MAX = 1024
"""Signers whose word is kept: with thirty peers each, 2 MB."""

SEEDS_MAX = 32
SEED_AUDITS = 100.0
"""A peer that passed so many checks here is a seed: trust begins with it as it does with this node."""

RECKONED_EVERY_S = 30.0
"""Trust is worked out anew so often at most: 20 ms for the largest table."""

VOUCHERS_SHOWN_MAX = 10

_SELF = PeerId("")
"""This node, in the graph: its own evidence, which nobody signs."""


@dataclass(frozen=True, slots=True)
class Voucher:
    """One peer that vouches for another."""

    peer: PeerId
    trust: float
    """In it; of 1 that this node has to give."""
    audits: float
    """Checks that it says the other passed."""
    units: float
    """Work that it says it received, in operations."""

    @property
    def counted(self) -> float:
        return self.trust * min(self.audits, IMPORTED_AUDITS_MAX)


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the others' word comes to."""

    trust: float = 0.0
    """In the peer itself: how much its own word counts here."""
    vouchers: tuple[Voucher, ...] = ()
    """The weightiest first."""
    audits: float = 0.0
    """Passed checks that are taken over."""
    probation: int = NEWCOMER_AUDITS
    """Tasks of it that are doubled while it is new."""


@dataclass(slots=True)
class _Said:
    issued_at_s: float
    until_s: float
    about: dict[PeerId, tuple[float, float]]
    """Units and audits, by whom they are of."""
    signed: bytes


@dataclass(slots=True)
class _Reckoned:
    at_s: float = -math.inf
    trust: dict[PeerId, float] = field(default_factory=dict)
    about: dict[PeerId, list[PeerId]] = field(default_factory=dict)
    """Who speaks of a peer."""


class Vouching:
    """Attestations that count, and what follows from them. Wall clock throughout, since statements carry it."""

    def __init__(self, reputation: Reputation, own: PeerId = _SELF) -> None:
        self._reputation = reputation
        self._own = own
        self._said: dict[PeerId, _Said] = {}
        self._reckoned = _Reckoned()

    # --- what is said ----------------------------------------------------------------------------------------------

    def hear(self, author: PeerId, attestation: Attestation, signed: bytes, wall_s: float) -> float:
        """Until when a statement with a good signature is worth passing on; 0.0 if it is nothing new.

        Raises `DecodeError` for what no honest node says or passes on.
        """
        about = check_attestation(author, attestation, wall_s)
        if attestation.until_s <= wall_s or author == self._own:
            return 0.0
        if self._reputation.standing(author, wall_s).is_barred:
            return 0.0
        before = self._said.get(author)
        if before is not None and attestation.issued_at_s < before.issued_at_s + APART_MIN_S:
            return 0.0
        self._said.pop(author, None)
        self._said[author] = _Said(attestation.issued_at_s, attestation.until_s, about, signed)
        if len(self._said) > ATTESTERS_MAX:
            self._reckon(wall_s)
            trust = self._reckoned.trust
            del self._said[next((name for name in self._said if not trust.get(name)), next(iter(self._said)))]
        return attestation.until_s

    def attestation(self, wall_s: float) -> Attestation | None:
        """What this node can say of others: those that gave it most. None if it has nothing to say."""
        told = [
            (row.units, peer, row.audits)
            for peer, row in self._reputation.rows()
            if row.units > 0 and not row.faults and _is_peer(peer)
        ]
        told.sort(key=lambda entry: (-entry[0], entry[1]))
        attested = tuple(
            Attested(public_key_of(peer), units, int(audits)) for units, peer, audits in told[:ATTESTED_MAX]
        )
        return Attestation(wall_s, wall_s + ATTESTATION_LASTS_S, attested) if attested else None

    # --- what follows ----------------------------------------------------------------------------------------------

    def opinion(self, peer: PeerId, wall_s: float) -> Opinion:
        self._reckon(wall_s)
        trust = self._reckoned.trust
        vouchers = []
        for author in self._reckoned.about.get(peer, ()):
            units, audits = self._said[author].about[peer] if author in self._said else (0.0, 0.0)
            if units:
                vouchers.append(Voucher(author, trust.get(author, 0.0), audits, units))
        vouchers.sort(key=lambda voucher: (-voucher.counted, -voucher.units, voucher.peer))
        audits = min(math.fsum(voucher.counted for voucher in vouchers), IMPORTED_AUDITS_MAX)
        return Opinion(trust.get(peer, 0.0), tuple(vouchers), audits, probation_tasks(audits))

    def words(self, wall_s: float) -> list[bytes]:
        """What was said by those whose word counts, or of this node, as they signed it, the weightiest first."""
        self._reckon(wall_s)
        counted = [(self._reckoned.trust.get(author, 0.0), said) for author, said in self._said.items()]
        counted = [(trust, said) for trust, said in counted if trust or self._own in said.about]
        return [said.signed for _, said in sorted(counted, key=lambda entry: -entry[0])]

    def confirmations(self, wall_s: float) -> list[tuple[PeerId, float, bytes]]:
        """Who confirms work of this node, how much of it, and the signed statement that says so."""
        self._expire(wall_s)
        return [
            (author, said.about[self._own][0], said.signed)
            for author, said in self._said.items()
            if self._own in said.about
        ]

    def _reckon(self, wall_s: float) -> None:
        if wall_s < self._reckoned.at_s + RECKONED_EVERY_S and wall_s >= self._reckoned.at_s:
            return
        self._expire(wall_s)
        rows = self._reputation.snapshot(wall_s)
        own = sorted(
            ((row.units, peer) for peer, row in self._reputation.rows() if row.units > 0 and not rows[peer].faults),
            reverse=True,
        )
        edges = [Received(_SELF, peer, units) for units, peer in own[:EDGES_PER_RECEIVER_MAX]]
        about: dict[PeerId, list[PeerId]] = {}
        for author, said in self._said.items():
            if author in rows and rows[author].is_barred:
                continue
            for peer, (units, _) in said.about.items():
                edges.append(Received(author, peer, units))
                about.setdefault(peer, []).append(author)
        proven = sorted((-row.audits, peer) for peer, row in rows.items() if row.audits >= SEED_AUDITS)
        seeds = [_SELF, *(peer for _, peer in proven if not rows[peer].faults)][:SEEDS_MAX]
        if len(seeds) < SEEDS_MIN:  # One bad seed among two would be worth half of all trust.
            seeds = [_SELF]
        self._reckoned = _Reckoned(wall_s, spread(edges, seeds), about)

    def _expire(self, wall_s: float) -> None:
        for author in [author for author, said in self._said.items() if said.until_s <= wall_s]:
            del self._said[author]

    def check(self) -> None:
        assert len(self._said) <= ATTESTERS_MAX
        assert all(len(said.about) <= ATTESTED_MAX for said in self._said.values())


def check_attestation(author: PeerId, attestation: Attestation, wall_s: float) -> dict[PeerId, tuple[float, float]]:
    """What it says, by peer. Raises `DecodeError` for what makes no sense whoever signed it."""
    lasts_s = attestation.until_s - attestation.issued_at_s
    if not 0 < lasts_s <= ATTESTATION_LASTS_S or attestation.issued_at_s > wall_s + CLOCK_SKEW_MAX_S:
        raise DecodeError("an attestation lasts longer than a day, or is from the future")
    about: dict[PeerId, tuple[float, float]] = {}
    for each in attestation.peers:
        peer = peer_id_of(each.key)
        if peer == author or peer in about:
            raise DecodeError("an attestation praises its own author, or somebody twice")
        if not 0 < each.units <= UNITS_MAX:
            raise DecodeError("an attestation speaks of an amount of work that cannot be")
        about[peer] = (each.units, float(each.audits))
    return about


def _is_peer(name: PeerId) -> bool:
    try:
        public_key_of(name)
    except ValueError:
        return False
    return True
