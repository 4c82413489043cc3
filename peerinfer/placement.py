"""Which candidate gets a task: five strategies, one question.

Theory of operation. A strategy turns a candidate into a number, less is better, and the best suited candidate gets the
task. Numbers are kept in a *ranking*, one for each demand, which catches up with the rows of the table that changed
since it looked last; a choice is then one search for the smallest number. Scores are written once and carried by
either columns or single numbers, so what is caught up row by row is what a fresh ranking would say.

The adaptive strategy minimises what a task is expected to cost until its result is believed (ALGORITHMS.md §4.2):

    cost = (wait + round trip + transfer + model load + units * seconds per unit) * copies / (P_ok * P_stays)

Of peers whose speed is not known yet it assumes the best, so that they are tried; but such trials get at most
`UNKNOWN_SHARE` of the work while a known peer could do it, and none of the tasks that a job is waiting for.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np

from peerinfer.ids import PeerId
from peerinfer.placement_table import CandidateTable, Demand, Floats

N = TypeVar("N", float, Floats)
"""One number, or a column of them."""

UNKNOWN_SHARE = 0.05
"""Of a job's work, the most that goes to peers of unknown speed while known ones could do it."""

RANKINGS_MAX = 64
"""Demands whose rankings are kept; the one used longest ago goes first."""

SAMPLE_ABOVE = 20_000
"""Among more candidates than this only `SAMPLE` of them, drawn anew each time, are looked at."""

SAMPLE = 8192
_CATCH_UP_ROWS_MAX = 48
"""Beyond so many touched rows, scoring all of them at once is cheaper."""

_EXPONENT_MAX = 40.0
_FULL = 2.0**60
"""More than any memory: a device that is busy ranks behind every device that is free."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one task is expected to cost at one peer, part by part, in seconds."""

    peer: PeerId
    wait_s: float
    """Behind what it holds already."""
    transfer_s: float
    """Round trip, inputs and outputs."""
    load_s: float
    """Until the model is ready there."""
    compute_s: float
    is_known: bool
    """Its speed is measured rather than guessed."""
    chance: float
    """That a result comes, and is right."""
    copies: float
    total_s: float
    """All of it, weighed by the chance that it must be done again."""


class Strategy:
    """Ranks candidates for demands. Subclasses say how; `choose` is the same for all."""

    name: str = ""
    weighs_speed = False
    """Gives faster peers larger frames, hedges what is late, and holds back slow peers at the end."""

    def __init__(self) -> None:
        self._rankings: dict[Demand, _Ranking] = {}

    def score(self, table: CandidateTable, demand: Demand, row: int) -> float:
        """Of one candidate; `scores` says the same of all of them."""
        raise NotImplementedError

    def scores(self, table: CandidateTable, demand: Demand) -> Floats:
        raise NotImplementedError

    def choose(
        self,
        task: Demand,
        candidates: CandidateTable,
        now_s: float,
        rng: random.Random,
        *,
        excluded: Collection[PeerId] = (),
        is_critical: bool = False,
    ) -> PeerId | None:
        """The best candidate with room that fulfils every requirement and is not `excluded`; None if there is none.

        `is_critical`: the job waits for this very task, so nothing is tried out with it.
        """
        ranking = self.ranking(task, candidates)
        scores = ranking.admitted(task.units, is_critical)
        hidden = [(row, scores.item(row)) for row in candidates.rows_of(excluded)] if excluded else ()
        for row, _ in hidden:
            scores[row] = math.inf
        row = _lowest(scores, rng)
        found = scores.item(row) < math.inf
        for hidden_row, score in hidden:
            scores[hidden_row] = score
        if not found:
            if scores is ranking.known:
                return self._choose_unknown(ranking, candidates, rng, excluded)
            return None
        ranking.note(row, task.units)
        return candidates.peer_at(row)

    def _choose_unknown(
        self, ranking: _Ranking, table: CandidateTable, rng: random.Random, excluded: Collection[PeerId]
    ) -> PeerId | None:
        """Nobody known is left: then the share of the unknown does not matter."""
        scores = ranking.all.copy()
        scores[table.rows_of(excluded)] = math.inf
        row = _lowest(scores, rng)
        if scores.item(row) == math.inf:
            return None
        ranking.note(row, 0.0)
        return table.peer_at(row)

    def ranking(self, demand: Demand, table: CandidateTable) -> _Ranking:
        ranking = self._rankings.get(demand)
        if ranking is None or ranking.table is not table:
            ranking = self._rankings[demand] = _Ranking(self, table, demand)
            if len(self._rankings) > RANKINGS_MAX:
                del self._rankings[next(iter(self._rankings))]
        ranking.catch_up()
        return ranking

    def forget(self, demand: Demand) -> None:
        self._rankings.pop(demand, None)


class _Ranking:
    """Scores of every row for one demand. `all` holds everybody, `known` only peers whose speed was measured."""

    def __init__(self, strategy: Strategy, table: CandidateTable, demand: Demand) -> None:
        self.table = table
        self.units = 0.0
        self.units_unknown = 0.0
        self._strategy = strategy
        self._demand = demand
        self._generation = -1
        self._seen = 0
        self.all: Floats = np.empty(0)
        self.known: Floats = self.all

    def catch_up(self) -> None:
        table = self.table
        changes = table.changes
        touched = len(changes) - self._seen
        if self._generation != table.generation or touched > _CATCH_UP_ROWS_MAX:
            self._start_afresh()
            self._generation = table.generation
        elif touched == 1:  # the rule, where choices follow each other
            self._look_again(changes[-1])
        elif touched:
            for row in dict.fromkeys(changes[self._seen :]):
                self._look_again(row)
        self._seen = len(changes)

    def _look_again(self, row: int) -> None:
        table, demand = self.table, self._demand
        fits = table.room.item(row) > 0 and table.suits(demand, row)
        self.all[row] = score = self._strategy.score(table, demand, row) if fits else math.inf
        if self.known is not self.all:
            self.known[row] = score if table.model(demand.model).is_known.item(row) else math.inf

    def _start_afresh(self) -> None:
        scores = self._strategy.scores(self.table, self._demand)
        scores[~(self.table.suited(self._demand) & (self.table.room > 0))] = math.inf
        self.all = self.known = scores
        if self._strategy.weighs_speed:
            self.known = np.where(self.table.model(self._demand.model).is_known, scores, math.inf)

    def admitted(self, units: float, is_critical: bool) -> Floats:
        """The scores that a choice may go by now."""
        may_try = not is_critical and self.units_unknown + units <= UNKNOWN_SHARE * (self.units + units)
        return self.all if may_try else self.known

    def note(self, row: int, units: float) -> None:
        if self.known is self.all:
            return
        self.units += units
        if self.known.item(row) == math.inf:
            self.units_unknown += units


def _lowest(scores: Floats, rng: random.Random) -> int:
    rows = len(scores)
    if rows > SAMPLE_ABOVE:
        first = rng.randrange(rows)
        window = scores[first : first + SAMPLE]
        row = first + int(window.argmin())
        if scores.item(row) < math.inf:
            return row
    return int(scores.argmin())


class RoundRobin(Strategy):
    """In turn: who was given something longest ago."""

    name = "round-robin"

    def score(self, table: CandidateTable, demand: Demand, row: int) -> float:
        return table.turn.item(row)

    def scores(self, table: CandidateTable, demand: Demand) -> Floats:
        return table.turn.copy()


class LeastLoaded(Strategy):
    """Who has the fewest frames for each of its slots."""

    name = "least-loaded"

    def score(self, table: CandidateTable, demand: Demand, row: int) -> float:
        return table.outstanding.item(row) / table.slots.item(row)

    def scores(self, table: CandidateTable, demand: Demand) -> Floats:
        return table.outstanding / table.slots


class GpuMatch(Strategy):
    """The smallest device that suffices and is free, so that large ones are left for what needs them."""

    name = "gpu-match"

    def score(self, table: CandidateTable, demand: Demand, row: int) -> float:
        busy = table.outstanding.item(row) // table.slots.item(row)
        return _best_fit(busy, table.memory_bytes.item(row))

    def scores(self, table: CandidateTable, demand: Demand) -> Floats:
        return _best_fit(table.outstanding // table.slots, table.memory_bytes)


def _best_fit(busy: N, memory_bytes: N) -> N:
    return busy * _FULL + memory_bytes


class Latency(Strategy):
    """Who answers soonest: round trip and what waits there. Without the wait everything would herd to the nearest."""

    name = "latency"

    def score(self, table: CandidateTable, demand: Demand, row: int) -> float:
        return table.rtt_s.item(row) + table.wait_s.item(row)

    def scores(self, table: CandidateTable, demand: Demand) -> Floats:
        return table.rtt_s + table.wait_s


class Adaptive(Strategy):
    """The least expected cost until a believed result; see the head of this module."""

    name = "adaptive"
    weighs_speed = True

    def score(self, table: CandidateTable, demand: Demand, row: int) -> float:
        columns = table.model(demand.model)
        seconds, load = columns.optimistic_s.item(row), columns.load_s.item(row)
        if math.isnan(seconds):
            seconds = table.optimism(demand)[1]
        bytes_per_s = table.bytes_per_s.item(row)
        if math.isnan(load):
            load = demand.model_bytes / bytes_per_s
        cost = (
            table.wait_s.item(row)
            + table.rtt_s.item(row)
            + demand.transfer_bytes / bytes_per_s
            + load
            + demand.units * seconds
        )
        copies = table.copies.item(row) * table.detour.item(row)
        p_ok, leave_rate = table.p_ok.item(row), table.leave_rate.item(row)
        weighed: float = _weighed(cost, copies, p_ok, leave_rate, _grows)
        return weighed

    def scores(self, table: CandidateTable, demand: Demand) -> Floats:
        columns = table.model(demand.model)
        seconds = np.where(np.isnan(columns.optimistic_s), table.optimism(demand)[1], columns.optimistic_s)
        load = np.where(np.isnan(columns.load_s), demand.model_bytes / table.bytes_per_s, columns.load_s)
        cost = table.wait_s + table.rtt_s + demand.transfer_bytes / table.bytes_per_s + load + demand.units * seconds
        weighed: Floats = _weighed(cost, table.copies * table.detour, table.p_ok, table.leave_rate, _grow)
        return weighed

    @staticmethod
    def explain(table: CandidateTable, demand: Demand, peer: PeerId) -> Cost:
        """The parts of what a task would cost there. Raises KeyError for a peer that is no candidate."""
        row = table.row_of(peer)
        wait_s, load_s = table.wait_s.item(row), table.load_seconds(demand, row)
        transfer_s = table.rtt_s.item(row) + demand.transfer_bytes / table.bytes_per_s.item(row)
        compute_s = table.seconds_per_task(demand, row)
        whole_s = wait_s + transfer_s + load_s + compute_s
        p_ok, copies, leave_rate = table.p_ok.item(row), table.copies.item(row), table.leave_rate.item(row)
        return Cost(
            peer=peer,
            wait_s=wait_s,
            transfer_s=transfer_s,
            load_s=load_s,
            compute_s=compute_s,
            is_known=bool(table.model(demand.model).is_known[row]),
            chance=p_ok / _grows(whole_s * leave_rate),
            copies=copies,
            total_s=_weighed(whole_s, copies * table.detour.item(row), p_ok, leave_rate, _grows),
        )


def _weighed(cost: N, copies: N, p_ok: N, leave_rate: N, grow: Callable[[N], N]) -> N:
    return cost * copies * grow(cost * leave_rate) / p_ok


def _grows(exponent: float) -> float:
    return math.exp(exponent if exponent < _EXPONENT_MAX else _EXPONENT_MAX)


def _grow(exponent: Floats) -> Floats:
    return np.exp(np.minimum(exponent, _EXPONENT_MAX))


STRATEGIES: Final[dict[str, type[Strategy]]] = {
    strategy.name: strategy for strategy in (RoundRobin, LeastLoaded, GpuMatch, Latency, Adaptive)
}


def strategy_named(name: str) -> Strategy:
    """Raises ValueError, with what there is, for a name that is none of `STRATEGIES`."""
    if name not in STRATEGIES:
        raise ValueError(f"no strategy is called {name!r}; there are {', '.join(STRATEGIES)}")
    return STRATEGIES[name]()
