"""The candidate table and the five strategies: who is chosen, and why others are not."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from peerinfer.estimates import Estimate
from peerinfer.ids import Cid, PeerId
from peerinfer.placement import STRATEGIES, UNKNOWN_SHARE, Adaptive, strategy_named
from peerinfer.placement_table import CHANGES_MAX, Candidate, CandidateTable, Demand

MODEL = Cid("model")
GIB = 1 << 30
RNG = random.Random(0)


def peer(name: object) -> PeerId:
    return PeerId(f"peer-{name}")


def known(seconds: float) -> Estimate:
    return Estimate(math.log(seconds), 0.1, 20.0)


def table_of(*candidates: Candidate, seconds: float | None = 1.0) -> CandidateTable:
    table = CandidateTable()
    for candidate in candidates:
        assert table.add(candidate)
        if seconds is not None:
            table.set_speed(candidate.peer, MODEL, known(seconds))
        table.set_load(candidate.peer, MODEL, 0.0)
    table.check()
    return table


def choose(name: str, table: CandidateTable, demand: Demand, **options: object) -> PeerId | None:
    return strategy_named(name).choose(demand, table, 0.0, RNG, **options)  # type: ignore[arg-type]


def random_table(rng: random.Random, candidates: int) -> CandidateTable:
    table = CandidateTable()
    for number in range(candidates):
        mutate(rng, table, number, force_add=True)
    return table


def mutate(rng: random.Random, table: CandidateTable, number: int, *, force_add: bool = False) -> None:
    """One of the things that happen to a candidate."""
    name = peer(number)
    if force_add or name not in table:
        kinds = rng.choice((("cpu",), ("cuda", "cpu"), ("rocm",)))
        table.add(
            Candidate(
                name,
                kinds,
                rng.choice((2, 8, 24)) * GIB,
                rng.choice((1, 2)),
                rng.random() < 0.1,
                rng.random() / 5,
                rng.choice((1e5, 1e7, 1e9)),
                rng.choice((0.0, 1e-4, 1e-2)),
                rng.random(),
                rng.choice((1.0, 2.0)),
            )
        )
        return
    match rng.randrange(9):
        case 0:
            table.remove(name)
        case 1:
            table.bar(name, "rests")
        case 2:
            table.unbar(name)
        case 3:
            table.set_speed(name, MODEL, Estimate(rng.gauss(0, 1), 0.3, rng.choice((0.0, 1.0, 9.0))))
        case 4:
            table.set_load(name, MODEL, rng.choice((None, 0.0, 3.0)))
        case 5:
            table.update(name, rtt_s=rng.random(), p_ok=rng.random())
        case _:
            table.add_load(name, rng.choice((1, -1)), rng.gauss(0, 1))


# --- requirements --------------------------------------------------------------------------------------------------


def test_a_model_goes_only_where_the_memory_holds_it_as_far_as_is_known() -> None:
    table = table_of(
        Candidate(peer("large"), memory_bytes=2 * GIB),
        Candidate(peer("small"), memory_bytes=2 * GIB - 1),
        Candidate(peer("unknown"), memory_bytes=0),
    )
    demand = Demand(MODEL, model_bytes=2.0 * GIB)
    assert table.exclusions(demand) == {"has less device memory than the model alone takes": [peer("small")]}
    rows = {name: table.row_of(peer(name)) for name in ("large", "small", "unknown")}
    mask = table.suited(demand)
    assert [name for name, row in rows.items() if mask[row]] == ["large", "unknown"]
    assert [name for name, row in rows.items() if table.suits(demand, row)] == ["large", "unknown"]


def test_every_excluded_candidate_has_its_reason() -> None:
    table = table_of(
        Candidate(peer("fits"), ("cuda",), 8 * GIB, local=True),
        Candidate(peer("cpu"), ("cpu",), 64 * GIB, local=True),
        Candidate(peer("small"), ("cuda",), 2 * GIB, local=True),
        Candidate(peer("far"), ("cuda",), 8 * GIB),
        Candidate(peer("liar"), ("cuda",), 8 * GIB, local=True),
    )
    table.bar(peer("liar"), "gave a wrong result")
    demand = Demand(MODEL, kind="cuda", memory_bytes_min=4 * GIB, local_only=True)
    assert table.exclusions(demand) == {
        "has no CUDA to lend": [peer("cpu")],
        "has too little device memory": [peer("small")],
        "only this node's own devices were asked for": [peer("far")],
        "gave a wrong result": [peer("liar")],
    }
    assert table.why_not(demand, peer("fits")) is None
    assert table.why_not(demand, peer("nobody")) == "is not here"
    for name in STRATEGIES:
        assert choose(name, table, demand) == peer("fits")


def test_the_most_frequent_reason_comes_first() -> None:
    table = table_of(*[Candidate(peer(number), memory_bytes=number * GIB) for number in range(5)])
    table.bar(peer(4), "rests")
    reasons = table.exclusions(Demand(MODEL, memory_bytes_min=4 * GIB))
    assert [len(peers) for peers in reasons.values()] == [4, 1]


def test_the_reason_and_the_mask_never_disagree() -> None:
    rng = random.Random(3)
    table = random_table(rng, 200)
    demands = [
        Demand(MODEL),
        Demand(MODEL, kind="cuda"),
        Demand(MODEL, kind="tpu"),
        Demand(MODEL, memory_bytes_min=8 * GIB),
        Demand(MODEL, local_only=True),
    ]
    for _ in range(300):
        mutate(rng, table, rng.randrange(200))
    for demand in demands:
        suited = table.suited(demand)
        for name in table.peers:
            row = table.row_of(name)
            assert bool(suited[row]) == table.suits(demand, row) == (table.why_not(demand, name) is None)
        assert not suited[[row for row in range(table.capacity) if row not in map(table.row_of, table.peers)]].any()


def test_rows_of_peers_that_left_are_used_again() -> None:
    table = table_of(*[Candidate(peer(number)) for number in range(64)])
    capacity = table.capacity
    for number in range(1000):
        table.remove(peer(number))
        table.add(Candidate(peer(number + 64)))
        table.check()
    assert table.capacity == capacity
    assert len(table) == 64


def test_a_new_peer_inherits_nothing_from_the_row_it_gets() -> None:
    table = table_of(Candidate(peer("old")))
    table.add_load(peer("old"), 3, 60.0)
    table.bar(peer("old"), "gave a wrong result")
    table.remove(peer("old"))
    table.add(Candidate(peer("new")))
    demand = Demand(MODEL, prior_s=2.0, model_bytes=1e7)
    assert table.why_not(demand, peer("new")) is None
    cost = Adaptive.explain(table, demand, peer("new"))
    assert (cost.wait_s, cost.compute_s, cost.is_known) == (0.0, 2.0, False)
    assert cost.load_s == pytest.approx(1.0)


def test_numbers_without_sense_are_bounded() -> None:
    table = CandidateTable()
    table.add(Candidate(peer(0), rtt_s=math.nan, bytes_per_s=-1.0, leave_rate=math.inf, p_ok=math.nan, copies=0.0))
    table.add_load(peer(0), -5, -100.0)
    table.check()
    assert math.isfinite(Adaptive.explain(table, Demand(MODEL), peer(0)).total_s)


# --- choosing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRATEGIES)
def test_caught_up_row_by_row_says_what_a_fresh_ranking_says(name: str) -> None:
    rng = random.Random(7)
    table = random_table(rng, 90)
    strategy = strategy_named(name)
    demands = [Demand(MODEL, transfer_bytes=1e6, model_bytes=1e8), Demand(MODEL, kind="cuda", units=3)]
    for _ in range(600):
        for _ in range(rng.choice((1, 1, 1, 80))):
            mutate(rng, table, rng.randrange(150))
        table.check()
        demand = rng.choice(demands)
        caught_up = strategy.ranking(demand, table)
        fresh = strategy_named(name).ranking(demand, table)
        np.testing.assert_allclose(caught_up.all, fresh.all, rtol=1e-9)
        np.testing.assert_allclose(caught_up.known, fresh.known, rtol=1e-9)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_ranking_survives_more_changes_than_are_kept(name: str) -> None:
    table = table_of(Candidate(peer("a")), Candidate(peer("b")))
    strategy, demand = strategy_named(name), Demand(MODEL)
    assert strategy.choose(demand, table, 0.0, RNG) is not None
    for _ in range(CHANGES_MAX + 5):
        table.add_load(peer("a"), 1, 1.0)
    assert strategy.choose(demand, table, 0.0, RNG) == peer("b")


@pytest.mark.parametrize("name", STRATEGIES)
def test_nobody_is_chosen_where_nobody_fits(name: str) -> None:
    assert choose(name, CandidateTable(), Demand(MODEL)) is None
    table = table_of(Candidate(peer(0)), Candidate(peer(1)))
    assert choose(name, table, Demand(MODEL, kind="cuda")) is None
    assert choose(name, table, Demand(MODEL), excluded=[peer(0), peer(1)]) is None
    assert choose(name, table, Demand(MODEL), excluded=[peer(0), peer("elsewhere")]) == peer(1)
    assert choose(name, table, Demand(MODEL)) is not None, "exclusion lasted beyond its choice"


def test_an_unknown_strategy_is_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"'fastest'; there are round-robin, least-loaded, gpu-match, latency"):
        strategy_named("fastest")


def test_round_robin_goes_round() -> None:
    table = table_of(*[Candidate(peer(number)) for number in range(4)])
    strategy, demand = strategy_named("round-robin"), Demand(MODEL)
    turns = []
    for _ in range(12):
        chosen = strategy.choose(demand, table, 0.0, RNG)
        assert chosen is not None
        table.add_load(chosen, 1, 1.0)
        turns.append(chosen)
    assert [turns.count(peer(number)) for number in range(4)] == [3, 3, 3, 3]
    assert turns[:4] == turns[4:8] == turns[8:]


def test_least_loaded_counts_frames_by_slot() -> None:
    table = table_of(Candidate(peer("one")), Candidate(peer("four"), slots=4))
    table.add_load(peer("one"), 1, 0.1)
    table.add_load(peer("four"), 3, 9.0)
    assert choose("least-loaded", table, Demand(MODEL)) == peer("four")
    table.add_load(peer("four"), 2, 9.0)
    assert choose("least-loaded", table, Demand(MODEL)) == peer("one")


def test_gpu_match_leaves_large_devices_for_large_models() -> None:
    table = table_of(*[Candidate(peer(size), memory_bytes=size * GIB) for size in (24, 4, 8)])
    assert choose("gpu-match", table, Demand(MODEL, memory_bytes_min=6 * GIB)) == peer(8)
    assert choose("gpu-match", table, Demand(MODEL, memory_bytes_min=12 * GIB)) == peer(24)
    assert choose("gpu-match", table, Demand(MODEL)) == peer(4)
    table.add_load(peer(4), 1, 1.0)
    assert choose("gpu-match", table, Demand(MODEL)) == peer(8), "a free device goes before a busy one"


def test_latency_prefers_the_near_until_work_waits_there() -> None:
    table = table_of(Candidate(peer("near"), rtt_s=0.01), Candidate(peer("far"), rtt_s=0.2))
    assert choose("latency", table, Demand(MODEL)) == peer("near")
    table.add_load(peer("near"), 1, 0.5)
    assert choose("latency", table, Demand(MODEL)) == peer("far")


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"rtt_s": 0.01}, {"rtt_s": 0.4}),
        ({"bytes_per_s": 1e8}, {"bytes_per_s": 1e5}),
        ({"p_ok": 0.9}, {"p_ok": 0.4}),
        ({"leave_rate": 0.0}, {"leave_rate": 0.1}),
        ({"copies": 1.0}, {"copies": 2.0}),
    ],
)
def test_adaptive_weighs_every_part_of_the_cost(better: dict[str, float], worse: dict[str, float]) -> None:
    table = table_of(Candidate(peer("worse"), **worse), Candidate(peer("better"), **better))  # type: ignore[arg-type]
    assert choose("adaptive", table, Demand(MODEL, transfer_bytes=1e6)) == peer("better")


def test_adaptive_stays_where_the_model_is_warm_until_waiting_costs_more_than_loading() -> None:
    table = table_of(Candidate(peer("cold")), Candidate(peer("warm")))
    table.set_load(peer("cold"), MODEL, None)
    demand = Demand(MODEL, model_bytes=1e8)  # ten seconds of transfer
    strategy = strategy_named("adaptive")
    given = []
    for _ in range(15):
        chosen = strategy.choose(demand, table, 0.0, RNG)
        assert chosen is not None
        table.add_load(chosen, 1, 1.0)
        given.append(chosen)
    assert given[:9] == [peer("warm")] * 9
    assert peer("cold") in given


def test_adaptive_shares_by_speed() -> None:
    table = table_of(*[Candidate(peer(number)) for number in range(4)])
    for number in range(4):
        table.set_speed(peer(number), MODEL, known(1.0 / (number + 1)))
    strategy, demand = strategy_named("adaptive"), Demand(MODEL)
    given = {peer(number): 0 for number in range(4)}
    for _ in range(1000):
        chosen = strategy.choose(demand, table, 0.0, RNG)
        assert chosen is not None
        given[chosen] += 1
        table.add_load(chosen, 1, table.seconds_per_task(demand, table.row_of(chosen)))
    shares = [given[peer(number)] / 1000 for number in range(4)]
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.01)


def test_the_unknown_get_their_chance_and_no_more_than_their_share() -> None:
    table = table_of(Candidate(peer("known")), seconds=1.0)
    for number in range(20):
        table.add(Candidate(peer(number)))
        table.set_speed(peer(number), MODEL, Estimate(0.0, 1.0, 0.0))
        table.set_load(peer(number), MODEL, 0.0)
    strategy, demand = strategy_named("adaptive"), Demand(MODEL)
    given = [strategy.choose(demand, table, 0.0, RNG) for _ in range(1000)]
    trials = [chosen for chosen in given if chosen != peer("known")]
    assert len(trials) == pytest.approx(UNKNOWN_SHARE * 1000, abs=1)
    assert all(strategy.choose(demand, table, 0.0, RNG, is_critical=True) == peer("known") for _ in range(40))


def test_the_unknown_get_everything_where_nobody_is_known() -> None:
    table = table_of(Candidate(peer("a")), Candidate(peer("b")), seconds=None)
    strategy, demand = strategy_named("adaptive"), Demand(MODEL)
    assert strategy.choose(demand, table, 0.0, RNG, is_critical=True) is not None
    assert strategy.choose(demand, table, 0.0, RNG, excluded=[peer("a")]) == peer("b")
    assert strategy.choose(demand, table, 0.0, RNG, excluded=[peer("a"), peer("b")]) is None


def test_the_explanation_adds_up_to_the_score() -> None:
    rng = random.Random(11)
    table = random_table(rng, 30)
    demand = Demand(MODEL, units=2, transfer_bytes=1e6, model_bytes=1e7, prior_s=0.5)
    for number in range(30):
        table.set_speed(peer(number), MODEL, known(rng.random() + 0.1))
        table.add_load(peer(number), 1, rng.random())
    strategy = Adaptive()
    for name in table.peers:
        cost = strategy.explain(table, demand, name)
        whole = cost.wait_s + cost.transfer_s + cost.load_s + cost.compute_s
        assert cost.total_s == pytest.approx(whole * cost.copies / cost.chance)
        assert cost.total_s == pytest.approx(strategy.score(table, demand, table.row_of(name)))


def test_a_huge_table_is_sampled_and_still_obeys_the_requirements() -> None:
    table = CandidateTable()
    for number in range(33_000):
        table.add(Candidate(peer(number), memory_bytes=(16 if number % 3000 == 0 else 4) * GIB))
    strategy, demand = strategy_named("latency"), Demand(MODEL, memory_bytes_min=8 * GIB)
    chosen = {strategy.choose(demand, table, 0.0, random.Random(seed)) for seed in range(40)}
    assert None not in chosen
    assert all(table.why_not(demand, name) is None for name in chosen if name)
    assert len(chosen) > 2, "the sample never moved"
