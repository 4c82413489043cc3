"""A committee is proposed by a hash and fixed by a signature; quorums overlap in an honest elector."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lease_setting import PEERS, keys
from wire_strategies import SAME_EVERY_TIME

from peerinfer.committee import (
    ELIGIBLE_AFTER_S,
    Eligible,
    check_committee,
    committee_size,
    propose,
    quorum,
    rank_score,
    subnets_of,
)
from peerinfer.errors import ProtocolError
from peerinfer.ids import PeerId
from peerinfer.limits import COMMITTEE_MAX

SEED = bytes(16)


def swarm(count: int, up_s: float = 60.0) -> list[Eligible]:
    return [Eligible(keys(number).peer_id, up_s, ()) for number in range(count)]


@pytest.mark.parametrize(
    ("electors", "byzantine", "needed"),
    [(1, 0, 1), (3, 0, 2), (5, 0, 3), (7, 0, 4), (4, 1, 3), (5, 1, 4), (7, 1, 5), (7, 2, 5), (10, 3, 7), (13, 4, 9)],
)
def test_a_quorum_has_this_many(electors: int, byzantine: int, needed: int) -> None:
    assert quorum(electors, byzantine) == needed


@pytest.mark.parametrize(("electors", "byzantine"), [(1, 0), (3, 0), (4, 1), (5, 1), (7, 2), (8, 2)])
def test_any_two_quorums_share_an_honest_elector(electors: int, byzantine: int) -> None:
    needed = quorum(electors, byzantine)
    quorums = [set(chosen) for chosen in combinations(range(electors), needed)]
    assert all(len(one & other) > byzantine for one in quorums for other in quorums)
    assert needed + byzantine <= electors  # The liars alone cannot keep a quorum from forming.


@pytest.mark.parametrize(
    ("eligible", "size"), [(0, 1), (1, 1), (2, 1), (3, 3), (7, 3), (8, 5), (29, 5), (30, 7), (5000, 7)]
)
def test_committees_grow_with_the_swarm(eligible: int, size: int) -> None:
    assert committee_size(eligible) == size


@pytest.mark.parametrize("count", [0, 1, 2])
def test_where_too_few_are_eligible_the_submitter_stands_alone(count: int) -> None:
    assert propose(SEED, PEERS[0], swarm(count)) == (PEERS[0],)


def test_a_peer_that_has_just_come_is_no_elector() -> None:
    assert propose(SEED, PEERS[0], swarm(5, up_s=ELIGIBLE_AFTER_S / 2)) == (PEERS[0],)


def test_the_same_seed_and_the_same_peers_give_the_same_committee_in_whatever_order_they_are_seen() -> None:
    everybody = swarm(20)
    assert propose(SEED, PEERS[0], everybody) == propose(SEED, PEERS[0], everybody[::-1])


def test_another_job_has_another_committee() -> None:
    assert len({propose(bytes([number]) * 16, PEERS[0], swarm(20)) for number in range(20)}) > 15


def test_one_peer_more_or_less_replaces_one_elector_at_most() -> None:
    everybody = swarm(20)
    before = set(propose(SEED, PEERS[0], everybody))
    for gone in everybody:
        after = set(propose(SEED, PEERS[0], [peer for peer in everybody if peer is not gone]))
        assert len(before - after) == (gone.peer in before)


def test_a_peer_that_is_seen_twice_sits_once() -> None:
    committee = propose(SEED, PEERS[0], swarm(8) * 2)
    assert len(committee) == len(set(committee)) == 5


def test_electors_come_from_different_public_networks_while_there_are_enough() -> None:
    crowd = [Eligible(peer.peer, 60.0, ("203.0.113.0/24",)) for peer in swarm(20)]
    others = [Eligible(keys(100 + number).peer_id, 60.0, (f"198.51.{number}.0/24",)) for number in range(4)]
    assert len(set(propose(SEED, PEERS[0], crowd + others)) & {peer.peer for peer in crowd}) == 1
    assert len(propose(SEED, PEERS[0], crowd)) == 5  # Better a committee from one network than none.


def test_the_rank_is_that_of_the_highest_random_weight() -> None:
    committee = propose(SEED, PEERS[0], swarm(10))
    scores = [rank_score(SEED, peer) for peer in committee]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    ("addresses", "networks"),
    [
        (["/ip4/8.8.4.4/tcp/1"], ("8.8.4.0/24",)),
        (["/ip4/192.168.1.4/tcp/1", "/ip4/127.0.0.1/tcp/1", "/ip4/100.64.0.1/tcp/1"], ()),
        (["/ip6/2a00:1450:4001:82a::200e/tcp/1"], ("2a00:1450:4001::/48",)),
        (["/ip6/fe80::1/tcp/1", "/ip6/::1/tcp/1"], ()),
        (["/ip6/::ffff:8.8.4.4/tcp/1"], ("8.8.4.0/24",)),
        (["/ip4/8.8.4.4/tcp/1", "/ip4/8.8.4.9/udp/2"], ("8.8.4.0/24",)),
        (["", "/", "/ip4", "/ip4/", "/ip4/nonsense/tcp/1", "/dns4/example.org/tcp/1", "ip4/8.8.8.8", "/ip6/%/x"], ()),
    ],
)
def test_addresses_say_which_public_networks_a_peer_is_in(addresses: list[str], networks: tuple[str, ...]) -> None:
    assert subnets_of(addresses) == networks


@given(st.lists(st.text(max_size=40) | st.text(alphabet="/ip46.:0123456789abcdef", max_size=40), max_size=5))
@SAME_EVERY_TIME
def test_no_address_is_too_strange_to_be_read(addresses: list[str]) -> None:
    subnets_of(addresses)


@pytest.mark.parametrize(
    ("committee", "byzantine", "why"),
    [
        ((), 0, "0 electors"),
        (tuple(keys(number).peer_id for number in range(COMMITTEE_MAX + 1)), 0, "14 electors"),
        ((PEERS[0], PEERS[1], PEERS[0]), 0, "twice"),
        ((PEERS[0], PEERS[1], "nobody"), 0, "'nobody'"),
        ((PEERS[0], PEERS[1], ""), 0, "''"),
        (tuple(PEERS[:3]), 1, "cannot tolerate 1"),
        (tuple(PEERS[:6]), 2, "cannot tolerate 2"),
        (tuple(PEERS[:1]), 255, "cannot tolerate 255"),
    ],
)
def test_what_is_no_committee_is_refused(committee: tuple[str, ...], byzantine: int, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        check_committee(committee, byzantine)


@given(st.lists(st.sampled_from(PEERS) | st.text(max_size=60).map(PeerId), max_size=16), st.integers(0, 255))
@SAME_EVERY_TIME
def test_a_committee_that_is_accepted_works(committee: list[PeerId], byzantine: int) -> None:
    try:
        check_committee(committee, byzantine)
    except ProtocolError:
        return
    needed = quorum(len(committee), byzantine)
    assert 2 * needed - len(committee) > byzantine
    assert needed <= len(committee) - byzantine
