"""How many choices the strategies make in a second, each with the bookkeeping that a choice causes, on one core."""

from __future__ import annotations

import random
from statistics import median
from time import thread_time

from peerinfer.estimates import Estimate
from peerinfer.ids import Cid, PeerId
from peerinfer.placement import strategy_named
from peerinfer.placement_fill import fill
from peerinfer.placement_table import Candidate, CandidateTable, Demand

_REPETITIONS = 5
_MODEL = Cid("model")
BUDGETS = {1_000: 200_000, 10_000: 50_000}
"""Choices in a second, by how many candidates there are."""


def _table(candidates: int) -> CandidateTable:
    rng = random.Random(1)
    table = CandidateTable()
    for number in range(candidates):
        peer = PeerId(f"peer-{number}")
        table.add(
            Candidate(
                peer,
                memory_bytes=rng.choice((4, 8, 16, 24)) << 30,
                rtt_s=rng.uniform(0.005, 0.2),
                bytes_per_s=rng.uniform(1e6, 1e8),
                leave_rate=rng.uniform(0, 1e-3),
                p_ok=rng.uniform(0.5, 1.0),
            )
        )
        table.set_speed(peer, _MODEL, Estimate(rng.gauss(-3, 0.5), 0.3, 20.0))
        table.set_load(peer, _MODEL, 0.0)
    return table


def choices_per_second(name: str, candidates: int, rounds: int) -> float:
    """A choice is noted as load, and the answer of an earlier one as relief, as in a running job."""
    table, rng, strategy = _table(candidates), random.Random(2), strategy_named(name)
    demand = Demand(_MODEL, units=4.0, transfer_bytes=1e5, memory_bytes_min=6 << 30)
    rates = []
    waiting: list[PeerId] = []
    for _ in range(_REPETITIONS):
        started = thread_time()
        for _ in range(rounds):
            peer = strategy.choose(demand, table, 0.0, rng)
            assert peer is not None
            table.add_load(peer, 1, 0.2)
            waiting.append(peer)
        rates.append(rounds / (thread_time() - started))
        for peer in waiting:
            table.add_load(peer, -1, -0.2)
        waiting.clear()
    return median(rates)


def filled_per_second(candidates: int) -> float:
    table = _table(candidates)
    columns = table.model(_MODEL)
    rows = slice(0, candidates)
    rates = []
    for _ in range(_REPETITIONS):
        started = thread_time()
        counts, _ = fill(columns.seconds[rows], table.rtt_s[rows], 1_000_000)
        rates.append(int(counts.sum()) / (thread_time() - started))
    return median(rates)
