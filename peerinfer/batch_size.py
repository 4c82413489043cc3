"""How many rows of one model go into one run on one device: measured where it runs, remembered, never guessed twice.

Joining rows pays on a graphics card, where each run has a price of its own, and on a processor for small dense models;
convolutions gain nothing there and some lose. No rule tells which, so a few runs of each size are timed while real work
goes through: 2 rows, 1, 4, 8 and so on.

Machines are busy, and not always to the same degree: of two sizes measured one after the other the first may have had the
quiet minute. So each new size meets the best one so far in pairs, a run of one and then a run of the other, and the median
of the pairs' ratios decides, which no single disturbed run moves. Three pairs that agree are enough, else there are five.
What is kept is the time of the first size and, for each other one, the time that follows from its ratio.

Looking ends where two sizes one after the other brought nothing, where a run takes longer than `RUN_SECONDS_MAX`, or where
rows do not fit into the memory. The smallest size that is within `WORTH` of the best is used: short runs can be stopped,
and take less memory. Rows of other sizes (longer texts, larger images) are another question, so every power of two of bytes
has answers of its own.

What was found is checked against the work that follows: where runs of the chosen size take clearly longer or shorter than
was kept (`CLEARLY`), the device is not what it was, and all other sizes meet the chosen one again, which stays in use. It
takes twice as many runs each time to come to that, so that a machine whose load comes and goes does not measure for ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from peerinfer.limits import MIB

ROWS_MAX = 256
SAMPLES = 3
"""Pairs of runs, where all of them say the same; runs of the first size, which has nothing to meet."""

SAMPLES_MAX = 5
"""Pairs where they do not."""

CHECK_RUNS = 16
"""Runs of the chosen size at work whose median is compared with what was kept; doubled with every new measurement."""

CHECK_RUNS_MAX = 4096

CLEARLY = 1.5
"""So many times slower, or faster. A core that is shared with one other program makes 2."""

WORTH = 1.03
"""A larger run must be faster by this, per row."""

RUN_SECONDS_MAX = 0.2
"""A frame holds about this much work, and a device must be free within a second."""

RUN_BYTES_MAX = 64 * MIB
"""Inputs of one run. What a model makes of them may be a hundred times as much."""

SIZES_OF_ROWS_MAX = 8
"""Powers of two of bytes per row for which answers are kept, of one model."""

DID_NOT_FIT = 0.0

_ORDER = (2, 1, *(1 << power for power in range(2, 9)))
"""Two first: only a run of several rows shows whether the model gives one row for each."""

MEASURES_MAX = SIZES_OF_ROWS_MAX * len(_ORDER)


@dataclass(frozen=True, slots=True)
class Measure:
    """So long takes one run of so many rows; `DID_NOT_FIT` where memory ran out."""

    row_bytes_power: int
    rows: int
    run_s: float


class BatchSize:
    """What is known of one model on one device. `ran` and `did_not_fit` teach it, `rows` asks."""

    def __init__(self, known: Iterable[Measure] = ()) -> None:
        self._answers: dict[int, _Answer] = {}
        self.gives_rows = False
        """A run of several rows gave one row for each."""
        self.revision = 0
        """Grows with all that is worth keeping."""
        for measure in known:
            if measure.rows in _ORDER and len(self._answers) <= SIZES_OF_ROWS_MAX and measure.run_s >= 0:
                answer = self._answers.setdefault(measure.row_bytes_power, _Answer())
                if measure.run_s == DID_NOT_FIT:
                    answer.limit(max(1, measure.rows // 2))
                else:
                    answer.note(measure.rows, measure.run_s)

    def rows(self, row_bytes: int, remaining: int) -> int:
        """How many of the remaining rows to run next."""
        answer = self._of(row_bytes)
        rows_max = _rows_max(answer, row_bytes)
        wanted = answer.next_size(rows_max, remaining)
        if not self.gives_rows:
            wanted = max(min(2, rows_max), wanted)
        return max(1, min(wanted, remaining))

    def ran(self, row_bytes: int, rows: int, run_s: float) -> None:
        self.gives_rows = self.gives_rows or rows > 1
        answer = self._of(row_bytes)
        self.revision += answer.learn(rows, run_s, _rows_max(answer, row_bytes))

    def did_not_fit(self, row_bytes: int, rows: int) -> None:
        self._of(row_bytes).limit(max(1, rows // 2))
        self.revision += 1

    def best(self, row_bytes: int) -> int:
        """The size that is used where enough rows are there."""
        return self._of(row_bytes).best()

    def is_settled(self, row_bytes: int) -> bool:
        """Nothing more is to be tried."""
        answer = self._of(row_bytes)
        return answer.untried(_rows_max(answer, row_bytes)) is None

    def measures(self) -> tuple[Measure, ...]:
        found: list[Measure] = []
        for power, answer in self._answers.items():
            found += [Measure(power, rows, run_s) for rows, run_s in sorted(answer.known.items())]
            if answer.rows_max < ROWS_MAX:
                found.append(Measure(power, _size_above(answer.rows_max), DID_NOT_FIT))
        return tuple(found[:MEASURES_MAX])

    def _of(self, row_bytes: int) -> _Answer:
        power = (row_bytes - 1 if row_bytes else 0).bit_length()
        answer = self._answers.get(power)
        if answer is not None:
            return answer
        if len(self._answers) >= SIZES_OF_ROWS_MAX:
            return self._answers[min(self._answers, key=lambda known: abs(known - power))]
        return self._answers.setdefault(power, _Answer())


@dataclass(slots=True)
class _Duel:
    """A size that is looked at, against the best so far (0: there is none)."""

    challenger: int
    champion: int
    challenger_s: list[float] = field(default_factory=list)
    champion_s: list[float] = field(default_factory=list)

    @property
    def turn(self) -> int:
        is_even = len(self.challenger_s) == len(self.champion_s)
        return self.challenger if is_even or not self.champion else self.champion

    def note(self, rows: int, run_s: float) -> None:
        (self.challenger_s if rows == self.challenger else self.champion_s).append(run_s)

    def ratio(self) -> float | None:
        """Of the times for each row, below 1 where the challenger is faster; None while it is not certain yet."""
        pairs = zip(self.challenger_s, self.champion_s, strict=False)
        ratios = [(one / self.challenger) / (other / self.champion) for one, other in pairs]
        is_alike = len({ratio * WORTH < 1 for ratio in ratios}) == 1
        return median(ratios) if len(ratios) >= (SAMPLES if is_alike else SAMPLES_MAX) else None


class _Answer:
    """For rows of one size in bytes."""

    def __init__(self) -> None:
        self.known: dict[int, float] = {}
        """Seconds of a run, by its rows."""
        self.rows_max = ROWS_MAX
        self._duel = _Duel(0, 0)
        self._at_work: list[float] = []
        self._check_runs = CHECK_RUNS
        self._untried: dict[int, int | None] = {}
        self._best: int | None = None
        """Both follow from `known`; asked before and after each run, which for a small model takes as long as they do."""

    def note(self, rows: int, run_s: float) -> None:
        self.known[rows] = run_s
        self._think_anew()

    def limit(self, rows_max: int) -> None:
        """More rows do not fit."""
        self.rows_max = min(self.rows_max, rows_max)
        self._think_anew()

    def _think_anew(self) -> None:
        self._untried.clear()
        self._best = None

    def learn(self, rows: int, run_s: float, rows_max: int) -> bool:
        """True if this run was the last that was needed to know something new."""
        run_s = max(run_s, 1e-9)
        duel = self._current(rows_max)
        if duel is not None and rows == duel.turn:
            duel.note(rows, run_s)
            return self._is_decided(duel)
        if duel is None and rows == self.best():
            self._check(rows, run_s)
        return False

    def _is_decided(self, duel: _Duel) -> bool:
        if not duel.champion:
            if len(duel.challenger_s) < SAMPLES:
                return False
            self.note(duel.challenger, median(duel.challenger_s))
            return True
        ratio = duel.ratio()
        if ratio is None:
            return False
        self.note(duel.challenger, ratio * self.known[duel.champion] / duel.champion * duel.challenger)
        return True

    def _check(self, rows: int, run_s: float) -> None:
        self._at_work.append(run_s)
        if len(self._at_work) < self._check_runs:
            return
        now_s = median(self._at_work)
        self._at_work.clear()
        if not 1 / CLEARLY < now_s / self.known.get(rows, now_s) < CLEARLY:
            self.known.clear()
            self.note(rows, now_s)
            self._check_runs = min(2 * self._check_runs, CHECK_RUNS_MAX)

    def next_size(self, rows_max: int, remaining: int) -> int:
        duel = self._current(rows_max)
        if duel is not None and duel.turn <= remaining:
            return min(duel.turn, rows_max)
        return min(self.best(), rows_max)

    def _current(self, rows_max: int) -> _Duel | None:
        challenger = self.untried(rows_max)
        if challenger is None:
            return None
        champion = self.best() if self.known else 0
        if (self._duel.challenger, self._duel.champion) != (challenger, champion):
            self._duel = _Duel(challenger, champion)
        return self._duel

    def untried(self, rows_max: int) -> int | None:
        """The size to look at next, or None when enough is known."""
        try:
            return self._untried[rows_max]
        except KeyError:
            found = self._untried[rows_max] = self._next_untried(rows_max)
            return found

    def _next_untried(self, rows_max: int) -> int | None:
        best_s = float("inf")
        without_gain, is_slow = 0, False
        for rows in _ORDER:
            if rows > rows_max:
                return None
            if rows not in self.known:
                return rows
            is_slow = is_slow or self.known[rows] > RUN_SECONDS_MAX
            if is_slow and rows != 2:
                return None
            row_s = self.known[rows] / rows
            without_gain = 0 if row_s * WORTH < best_s else without_gain + (rows > 2)
            best_s = min(best_s, row_s)
            if without_gain >= 2:
                return None
        return None

    def best(self) -> int:
        if self._best is None:
            self._best = self._smallest_of_the_fastest()
        return self._best

    def _smallest_of_the_fastest(self) -> int:
        known = {rows: run_s / rows for rows, run_s in self.known.items() if rows <= self.rows_max}
        in_time = {rows: row_s for rows, row_s in known.items() if rows * row_s <= RUN_SECONDS_MAX}
        if not known:
            return 1
        if not in_time:
            return min(known)
        fastest_s = min(in_time.values())
        return min(rows for rows, row_s in in_time.items() if row_s <= fastest_s * WORTH)


def _rows_max(answer: _Answer, row_bytes: int) -> int:
    by_bytes = RUN_BYTES_MAX // (row_bytes or 1)
    return answer.rows_max if answer.rows_max <= by_bytes else (by_bytes or 1)


def _size_above(rows_max: int) -> int:
    return min(rows for rows in (*sorted(_ORDER), 2 * ROWS_MAX) if rows > rows_max)
