"""Whose word counts for a newcomer, and what no amount of talk can buy."""

from __future__ import annotations

import hashlib
import math
import random

import pytest

from peerinfer.codec import encode
from peerinfer.coordination import Coordination
from peerinfer.envelope import seal
from peerinfer.errors import DecodeError
from peerinfer.evidence_messages import Attestation, Attested
from peerinfer.ids import PeerId, peer_id_of, public_key_of
from peerinfer.limits import ATTESTED_MAX, CLOCK_SKEW_MAX_S, STATEMENT_BYTES_MAX
from peerinfer.reputation import NEWCOMER_AUDITS, UNITS_MAX, Reputation
from peerinfer.vouching import (
    APART_MIN_S,
    ATTESTATION_LASTS_S,
    ATTESTERS_MAX,
    RECKONED_EVERY_S,
    SEED_AUDITS,
    Vouching,
)
from peerinfer_node.keys import MemoryKeys

NOW_S = 1_800_000_000.0
GFLOP = 1e9


def peer(name: str) -> PeerId:
    return peer_id_of(hashlib.sha256(name.encode()).digest())


ME, NEW, EVE = peer("me"), peer("new"), peer("eve")
VETERANS = [peer(f"veteran {number}") for number in range(5)]


def saying(*about: tuple[PeerId, float, int], at_s: float = NOW_S, lasts_s: float = ATTESTATION_LASTS_S) -> Attestation:
    attested = tuple(Attested(public_key_of(name), units, audits) for name, units, audits in about)
    return Attestation(at_s, at_s + lasts_s, attested)


def world(veterans: int = 5) -> Vouching:
    """This node has had much work of some veterans checked."""
    reputation = Reputation()
    for name in VETERANS[:veterans]:
        for _ in range(int(SEED_AUDITS) + 20):
            reputation.passed(name, NOW_S)
        reputation.worked(name, NOW_S, GFLOP)
    return Vouching(reputation, ME)


def hear(vouching: Vouching, author: PeerId, said: Attestation, now_s: float = NOW_S) -> float:
    kept_s = vouching.hear(author, said, b"signed", now_s)
    vouching.check()
    return kept_s


def test_the_word_of_proven_peers_spares_a_newcomer_some_of_its_probation() -> None:
    vouching = world()
    for name in VETERANS:
        assert hear(vouching, name, saying((NEW, GFLOP, 400))) == NOW_S + ATTESTATION_LASTS_S
    opinion = vouching.opinion(NEW, NOW_S)
    assert {voucher.peer for voucher in opinion.vouchers} == set(VETERANS)
    assert 10 <= opinion.probation < NEWCOMER_AUDITS
    assert opinion.audits == pytest.approx(sum(voucher.counted for voucher in opinion.vouchers))


def test_whoever_this_node_never_took_work_from_has_no_voice() -> None:
    vouching = world()
    for number in range(200):
        hear(vouching, peer(f"sybil {number}"), saying((NEW, UNITS_MAX, 4_000_000_000)))
    opinion = vouching.opinion(NEW, NOW_S)
    assert len(opinion.vouchers) == 200
    assert (opinion.audits, opinion.probation) == (0.0, NEWCOMER_AUDITS)


def test_false_names_that_praise_each_other_gain_nothing_by_it() -> None:
    vouching = world()
    names = [peer(f"sybil {number}") for number in range(30)]
    for name in names:
        hear(vouching, name, saying(*((other, UNITS_MAX, 1000) for other in names if other != name)))
    assert all(vouching.opinion(name, NOW_S).trust == 0.0 for name in names)
    assert all(vouching.opinion(name, NOW_S).probation == NEWCOMER_AUDITS for name in names)


def test_a_veteran_that_stuffs_the_ballot_gives_no_more_than_its_own_share() -> None:
    """However much work and however many checks it claims, and for however many names."""
    vouching = world()
    names = [peer(f"friend {number}") for number in range(ATTESTED_MAX)]
    hear(vouching, VETERANS[0], saying(*((name, UNITS_MAX, 4_000_000_000) for name in names)))
    own = vouching.opinion(VETERANS[0], NOW_S).trust
    assert sum(vouching.opinion(name, NOW_S).trust for name in names) <= own
    assert all(vouching.opinion(name, NOW_S).probation >= NEWCOMER_AUDITS - 2 for name in names)


def test_a_single_proven_peer_is_no_seed() -> None:
    """Half of all trust for one peer would be too much; its word counts by the work that it did."""
    vouching = world(veterans=1)
    hear(vouching, VETERANS[0], saying((NEW, GFLOP, 1000)))
    assert vouching.opinion(VETERANS[0], NOW_S).trust <= 0.05
    assert vouching.opinion(NEW, NOW_S).probation == NEWCOMER_AUDITS


def test_who_was_caught_has_no_voice_any_more() -> None:
    reputation = Reputation()
    vouching = Vouching(reputation, ME)
    for name in VETERANS:
        for _ in range(int(SEED_AUDITS) + 20):
            reputation.passed(name, NOW_S)
    hear(vouching, VETERANS[0], saying((NEW, GFLOP, 400)))
    assert vouching.opinion(NEW, NOW_S).audits > 0
    reputation.caught(VETERANS[0], NOW_S, "3 where 4 is right")
    later_s = NOW_S + RECKONED_EVERY_S
    assert vouching.opinion(NEW, later_s).audits == 0.0
    assert hear(vouching, VETERANS[0], saying((NEW, GFLOP, 400), at_s=later_s + APART_MIN_S), later_s) == 0.0


@pytest.mark.parametrize(
    "said",
    [
        saying((EVE, GFLOP, 5)),
        saying((NEW, GFLOP, 5), (NEW, GFLOP, 6)),
        saying((NEW, 0.0, 5)),
        saying((NEW, -1.0, 5)),
        saying((NEW, UNITS_MAX * 10, 5)),
        saying((NEW, GFLOP, 5), at_s=NOW_S + CLOCK_SKEW_MAX_S + 1),
        saying((NEW, GFLOP, 5), lasts_s=ATTESTATION_LASTS_S + 1),
        saying((NEW, GFLOP, 5), lasts_s=0.0),
        saying((NEW, GFLOP, 5), lasts_s=-5.0),
    ],
    ids=["self-praise", "twice", "no work", "less than none", "too much", "future", "for ever", "no time", "backwards"],
)
def test_what_no_honest_node_says_is_refused(said: Attestation) -> None:
    vouching = world()
    with pytest.raises(DecodeError):
        hear(vouching, EVE, said)
    assert vouching.opinion(NEW, NOW_S).vouchers == ()


def test_a_replayed_attestation_is_nothing_new_and_an_old_one_counts_no_more() -> None:
    vouching = world()
    first, second = saying((NEW, GFLOP, 5)), saying((EVE, GFLOP, 5), at_s=NOW_S + APART_MIN_S)
    assert hear(vouching, VETERANS[0], first)
    assert hear(vouching, VETERANS[0], second, NOW_S + APART_MIN_S)
    for said in (first, second):
        assert hear(vouching, VETERANS[0], said, NOW_S + 2 * APART_MIN_S) == 0.0
    assert vouching.opinion(NEW, NOW_S + 2 * APART_MIN_S).vouchers == ()
    gone_s = NOW_S + APART_MIN_S + ATTESTATION_LASTS_S
    assert vouching.opinion(EVE, gone_s - 1).vouchers
    assert vouching.opinion(EVE, gone_s + RECKONED_EVERY_S).vouchers == ()
    assert hear(vouching, VETERANS[1], saying((NEW, GFLOP, 5)), gone_s) == 0.0


def test_a_million_attestations_of_one_peer_are_one_a_minute() -> None:
    """Twenty thousand are tried here: each of the others costs the same and changes nothing."""
    vouching = world()
    taken = sum(
        bool(vouching.hear(EVE, saying((NEW, GFLOP, 5), at_s=NOW_S + number / 200), b"", NOW_S + 100))
        for number in range(20_000)
    )
    assert taken == math.ceil(20_000 / 200 / APART_MIN_S)
    assert len(vouching._said) == 1


def test_a_flood_of_names_washes_no_trusted_voice_away() -> None:
    vouching = world()
    hear(vouching, VETERANS[0], saying((NEW, GFLOP, 400)))
    for number in range(ATTESTERS_MAX + 300):
        hear(vouching, peer(f"sybil {number}"), saying((EVE, UNITS_MAX, 1000)))
    assert len(vouching._said) == ATTESTERS_MAX
    assert vouching.opinion(NEW, NOW_S + RECKONED_EVERY_S).audits > 0


def test_nobody_can_be_spoken_against() -> None:
    """What others leave out changes nothing in what this node has seen itself."""
    vouching = world()
    reputation = vouching._reputation
    before = reputation.standing(VETERANS[0], NOW_S)
    for number in range(300):
        hear(vouching, peer(f"slanderer {number}"), saying((EVE, GFLOP, 5)))
    assert reputation.standing(VETERANS[0], NOW_S) == before
    assert not reputation.barred(NOW_S)


def test_what_is_said_fits_one_statement_and_is_of_those_that_gave_most() -> None:
    reputation, vouching = Reputation(), world(0)
    vouching = Vouching(reputation, ME)
    assert vouching.attestation(NOW_S) is None
    for number in range(ATTESTED_MAX + 20):
        reputation.worked(peer(f"worker {number}"), NOW_S, GFLOP * (1 + number))
    reputation.worked(EVE, NOW_S, 1e6 * GFLOP)
    reputation.caught(EVE, NOW_S, "lied")
    reputation.worked(PeerId("no peer id"), NOW_S, 1e6 * GFLOP)
    said = vouching.attestation(NOW_S)
    assert said is not None
    assert [each.units for each in said.peers] == [
        GFLOP * (ATTESTED_MAX + 20 - number) for number in range(ATTESTED_MAX)
    ]
    keys = MemoryKeys(b"me")
    assert len(seal(said, keys.peer_id, keys.sign)) <= STATEMENT_BYTES_MAX
    assert encode(said)
    assert hear(world(), keys.peer_id, said)


def test_who_confirms_this_nodes_work_is_known_with_the_words_signed() -> None:
    vouching = world()
    hear(vouching, EVE, saying((ME, 3 * GFLOP, 5)))
    hear(vouching, NEW, saying((EVE, GFLOP, 5)))
    assert vouching.confirmations(NOW_S) == [(EVE, 3 * GFLOP, b"signed")]
    assert vouching.confirmations(NOW_S + ATTESTATION_LASTS_S) == []


def test_the_coordinator_asks_less_of_a_newcomer_that_is_vouched_for() -> None:
    vouching = world()
    for name in VETERANS:
        hear(vouching, name, saying((NEW, GFLOP, 400)))
    machine = Coordination(random.Random(1), reputation=vouching._reputation, vouching=vouching, wall_offset_s=NOW_S)
    assert machine._judgement._known(NEW, None).probation == vouching.opinion(NEW, NOW_S).probation < NEWCOMER_AUDITS
    assert machine._judgement._known(EVE, None).probation == NEWCOMER_AUDITS
