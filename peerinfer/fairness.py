"""Whose job comes next: fair shares between submitters, priorities with ageing, deadlines among equals.

Theory of operation. Submitters share by weighted deficit round robin (Shreedhar and Varghese, SIGCOMM 1995). Each has a
*balance* in seconds of work. What is given out is charged at once, by its estimate, and settled when the work is done.
When everybody who has work is in debt, a new round credits everybody with a quantum. So over any time each submitter
with work gets its share, give or take one quantum and one piece of work, whatever priorities it claims; who was idle
saves up nothing, and who went away in debt finds its debt where it left it, less the rounds that passed.

Among submitters in credit, and among the jobs of one submitter, the highest priority goes first. A job that waits rises
by one priority every `AGEING_S`, without end, so nothing waits for ever behind a stream of urgent jobs. Among equals the
earliest deadline goes first, then who has waited longest.

Work is worth what it takes of workers' time; the cost of a job that suits few workers counts like any other.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import IntEnum

QUANTUM_S = 2.0
"""Credit of one round for a weight of 1: about ten frames. More is cheaper and lets shares swing further."""

AGEING_S = 30.0
COST_MAX_S = 3600.0
"""One piece of work is never charged more: a wrong estimate must not lock a submitter out for a day."""

WEIGHT_MIN, WEIGHT_MAX = 0.01, 100.0
SUBMITTERS_MAX = 4096
"""Submitters remembered; those without jobs go first, the one seen longest ago before others."""


class Priority(IntEnum):
    URGENT = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3


@dataclass(slots=True)
class _Job:
    key: str
    submitter: str
    priority: Priority
    deadline_s: float
    since_s: float
    """When it was served last, or came."""
    order: int
    """Among jobs of one moment: who was served longest ago."""


@dataclass(slots=True)
class _Submitter:
    name: str
    weight: float = 1.0
    balance_s: float = 0.0
    round: int = 0
    """The round up to which it was credited."""
    jobs: int = 0


class FairQueue:
    """Decides between job keys; the caller says which of them could be served, and what they cost."""

    def __init__(self) -> None:
        self._jobs: dict[str, _Job] = {}
        self._submitters: dict[str, _Submitter] = {}
        self._round = 0
        self._order = 0

    # --- jobs ------------------------------------------------------------------------------------------------------

    def add(
        self,
        key: str,
        submitter: str,
        now_s: float,
        *,
        priority: Priority = Priority.NORMAL,
        deadline_s: float | None = None,
        weight: float = 1.0,
    ) -> None:
        """`weight`: the submitter's share against the others' (an owner may put its own jobs first); the last counts.

        `deadline_s`: on the clock of `now_s`. Raises ValueError for a key that is there already.
        """
        if key in self._jobs:
            raise ValueError(f"job {key} is queued already")
        self._order += 1
        deadline = math.inf if deadline_s is None or math.isnan(deadline_s) else deadline_s
        self._jobs[key] = _Job(key, submitter, Priority(priority), deadline, now_s, self._order)
        known = self._submitters.pop(submitter, None) or _Submitter(submitter, round=self._round)
        if not known.jobs:
            self._return(known)
        known.weight = min(max(weight, WEIGHT_MIN), WEIGHT_MAX) if math.isfinite(weight) else 1.0
        known.jobs += 1
        self._submitters[submitter] = known
        self._forget_idle()

    def prioritise(self, key: str, priority: Priority) -> None:
        """Changes nothing about how long it has waited. An unknown key is ignored."""
        if key in self._jobs:
            self._jobs[key].priority = Priority(priority)

    def remove(self, key: str) -> None:
        job = self._jobs.pop(key, None)
        if job is None:
            return
        submitter = self._submitters[job.submitter]
        submitter.jobs -= 1
        if not submitter.jobs:
            # Credit is for those who have work: it must not be saved up. A debt stays.
            submitter.balance_s = min(submitter.balance_s, 0.0)
            submitter.round = self._round
        self._forget_idle()

    def __contains__(self, key: object) -> bool:
        return key in self._jobs

    def __len__(self) -> int:
        return len(self._jobs)

    # --- choosing --------------------------------------------------------------------------------------------------

    def next(self, ready: Collection[str], now_s: float) -> str | None:
        """The job that comes next among those that could be served now; None if there is none.

        Unknown keys are ignored. The same question has the same answer until something is charged.
        """
        order = self.ordered(ready, now_s)
        return order[0] if order else None

    def ordered(self, ready: Collection[str], now_s: float) -> list[str]:
        """All of them, the most deserving first: for a worker that the first one may not suit."""
        jobs = [self._jobs[key] for key in ready if key in self._jobs]
        rounds = self._rounds_until_credit({job.submitter for job in jobs})
        jobs.sort(key=lambda job: (rounds[job.submitter], *self._rank(job, now_s)))
        return [job.key for job in jobs]

    def lag_s(self, key: str) -> float:
        """How much less its submitter is owed than who is owed most, in seconds of work for a weight of 1."""
        owed = {name: row.balance_s / row.weight for name, row in self._submitters.items() if row.jobs}
        job = self._jobs[key]
        return max(owed.values()) - owed[job.submitter]

    def charge(self, key: str, cost_s: float, now_s: float) -> None:
        """Work of so many seconds was given out for this job."""
        job = self._jobs.get(key)
        if job is None:
            return
        submitter = self._submitters[job.submitter]
        self._advance(job.submitter)
        submitter.balance_s -= _cost(cost_s)
        job.since_s = max(job.since_s, now_s)
        self._order += 1
        job.order = self._order

    def settle(self, submitter: str, charged_s: float, cost_s: float) -> None:
        """Work charged with `charged_s` took `cost_s`; 0 if it was refused or never begun. The job may have ended."""
        row = self._submitters.get(submitter)
        if row is not None:
            row.balance_s += _cost(charged_s) - _cost(cost_s)
            if not row.jobs:
                row.balance_s = min(row.balance_s, 0.0)

    def snapshot(self) -> dict[str, tuple[float, int]]:
        """Balance in seconds, and jobs, of each submitter that is remembered."""
        return {name: (row.balance_s, row.jobs) for name, row in self._submitters.items()}

    def check(self) -> None:
        counted: dict[str, int] = {}
        for job in self._jobs.values():
            counted[job.submitter] = counted.get(job.submitter, 0) + 1
        for name, row in self._submitters.items():
            assert row.jobs == counted.pop(name, 0), f"submitter {name} has not {row.jobs} jobs"
            assert math.isfinite(row.balance_s), f"submitter {name} has a balance of {row.balance_s}"
            assert row.jobs or row.balance_s <= 0, f"submitter {name} saved up {row.balance_s:.1f} s while idle"
        assert not counted, f"submitters {sorted(counted)} have jobs and no row"

    # --- inside ----------------------------------------------------------------------------------------------------

    def _rank(self, job: _Job, now_s: float) -> tuple[int, float, float, int]:
        risen = int(max(now_s - job.since_s, 0.0) // AGEING_S)
        return job.priority - risen, job.deadline_s, job.since_s, job.order

    def _rounds_until_credit(self, names: Iterable[str]) -> dict[str, int]:
        rounds = {}
        for name in names:
            row = self._submitters[name]
            missing = -row.balance_s
            rounds[name] = 0 if missing <= 0 else int(missing // (QUANTUM_S * row.weight)) + 1
        fewest = min(rounds.values(), default=0)
        return {name: count - fewest for name, count in rounds.items()}

    def _advance(self, served: str) -> None:
        """Rounds pass until the submitter that is served is in credit.

        Everybody with work is credited alike, but nobody is ever more than one quantum ahead: a submitter whose jobs
        suit no worker at the moment must not come back with an hour's credit.
        """
        row = self._submitters[served]
        missing = -row.balance_s
        if missing <= 0:
            return
        rounds = int(missing // (QUANTUM_S * row.weight)) + 1
        self._round += rounds
        for other in self._submitters.values():
            if other.jobs:
                quantum = QUANTUM_S * other.weight
                other.balance_s = min(other.balance_s + rounds * quantum, max(other.balance_s, quantum))
                other.round = self._round

    def _return(self, row: _Submitter) -> None:
        """An idle submitter has work again: its debt has shrunk by the rounds that it missed."""
        missed = (self._round - row.round) * QUANTUM_S * row.weight
        row.balance_s = min(row.balance_s + missed, 0.0)
        row.round = self._round

    def _forget_idle(self) -> None:
        if len(self._submitters) > SUBMITTERS_MAX:
            idle = next((name for name, row in self._submitters.items() if not row.jobs), None)
            if idle is not None:
                del self._submitters[idle]


def _cost(cost_s: float) -> float:
    return min(max(cost_s, 0.0), COST_MAX_S) if not math.isnan(cost_s) else 0.0
