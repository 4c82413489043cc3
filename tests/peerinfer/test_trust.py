"""Trust from one's own seeds, and the bound on what any number of false names can gain."""

from __future__ import annotations

import random

import pytest

from peerinfer.ids import PeerId
from peerinfer.reputation import NEWCOMER_AUDITS
from peerinfer.trust import (
    RESTART,
    Received,
    flow_into,
    probation_tasks,
    spread,
)

SEEDS = [PeerId(f"seed-{number}") for number in range(3)]


def honest(number: int) -> PeerId:
    return PeerId(f"honest-{number}")


def sybil(number: int) -> PeerId:
    return PeerId(f"sybil-{number}")


def swarm(rng: random.Random, peers: int, edges_each: int = 12) -> list[Received]:
    """Honest peers, the seeds among them, that do work for each other."""
    names = [*SEEDS, *(honest(number) for number in range(peers))]
    return [
        Received(receiver, giver, rng.uniform(1, 100))
        for receiver in names
        for giver in rng.sample(names, edges_each)
        if giver != receiver
    ]


def test_trust_comes_from_seeds_alone() -> None:
    assert spread([Received(honest(1), honest(2), 5.0)], []) == {}
    trust = spread([Received(honest(1), honest(2), 5.0)], SEEDS)
    assert trust[honest(1)] == trust[honest(2)] == 0.0
    assert sum(trust.values()) == pytest.approx(1.0)
    assert spread([], SEEDS) == pytest.approx(dict.fromkeys(SEEDS, 1 / 3))


def test_who_works_for_the_trusted_is_trusted() -> None:
    trust = spread(swarm(random.Random(1), 60), SEEDS)
    assert sum(trust.values()) == pytest.approx(1.0)
    assert min(trust[honest(number)] for number in range(60) if honest(number) in trust) > 0
    assert max(trust, key=lambda name: trust[name]) in SEEDS


@pytest.mark.parametrize("attack_edges", [0, 3, 30, 300])
@pytest.mark.parametrize("shape", ["clique", "ring", "star"])
def test_no_number_of_false_names_gains_more_than_the_work_it_did(attack_edges: int, shape: str) -> None:
    rng = random.Random(attack_edges)
    names = [sybil(number) for number in range(300)]
    edges = swarm(rng, 100)
    links = {
        "clique": [(a, b) for a in names[:60] for b in names[:60] if a != b],
        "ring": [(names[i], names[i - 1]) for i in range(300)],
        "star": [(name, names[0]) for name in names[1:]],
    }
    edges += [Received(a, b, 1e6) for a, b in links[shape]]
    edges += [Received(honest(rng.randrange(100)), rng.choice(names), 50.0) for _ in range(attack_edges)]
    trust = spread(edges, SEEDS)
    mass = sum(trust.get(name, 0.0) for name in names)
    flow = flow_into(names, edges, trust)
    assert mass <= (1 - RESTART) / RESTART * flow + 1e-9
    assert mass <= flow + 1e-9
    assert (mass == 0.0) == (attack_edges == 0)


def test_a_giver_counts_for_a_part_of_what_one_received_at_most() -> None:
    """A seed that took everything from one peer does not hand that peer everything."""
    trust = spread([Received(SEEDS[0], honest(1), 1e9)], SEEDS)
    assert trust[honest(1)] <= 0.05 * trust[SEEDS[0]]


def test_praise_spares_at_most_half_of_the_probation() -> None:
    assert probation_tasks(0.0) == NEWCOMER_AUDITS
    assert probation_tasks(10.0) == 15
    assert probation_tasks(1e9) == probation_tasks(20.0) == 10
    assert probation_tasks(-5.0) == NEWCOMER_AUDITS
