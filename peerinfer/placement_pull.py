"""Placement where workers pull: what a worker with room in its window gets next.

Theory of operation. Pull corrects itself: whoever is done asks again, so no model of every queue is needed while there
is plenty of work. The strategies differ in three things. How large a frame is: equal for all, or by what is known of
the worker's speed. Who gets what when there is less work than room: a worker that others are better than is *held
back*, for a few times as long as these should need, and never for somebody who is held back as well: those of the better
ones that have room are named with the hold, and are given their frame at once. And, for the adaptive strategy, the end of
a job: a task is withheld from a worker that would take longer over it than the others need for everything that is left,
unstarted frames are taken back from the slow, and what is late is computed a second time by whoever would be done sooner.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from peerinfer.ids import JobId, PeerId
from peerinfer.placement import Strategy
from peerinfer.placement_fill import fill, fill_few, frame_size
from peerinfer.placement_table import CandidateTable, Demand, Floats

HOLD_MAX_S = 2.0
"""A wrong belief about the others costs a worker at most this much idleness for each frame."""

HOLD_FACTOR = 3.0
"""The others were to be done with everything: when they have taken so many times as long, nobody waits for them."""

HOLD_MIN_S = 0.1
"""What others need for the smallest jobs is their way and noise."""

INSTEAD_MAX = 8
"""So many of those that a worker is held back for are asked at once."""

LOAD_SHARE_MAX = 0.2
"""A worker changes models when loading takes at most this share of what the other job is owed."""

FIRST_FRAME_TASKS = 4
"""A peer of unknown speed gets at most this many tasks at first."""

FRAME_GROWTH = 8.0
"""And so many times more with every frame that it has answered, until its speed counts as known."""

GREEDY_TASKS_MAX = 8
"""So few tasks are shared out one by one, which is cheaper then."""

BACKUP_GAIN = 1.2
"""A second copy must be expected this many times sooner than the first."""

BACKUP_GAIN_MIN_S = 0.05
"""And so much sooner: nobody notices less, and small tasks are late by that much all the time."""

COPIES_MAX = 2
BACKUP_SHARE = 0.05
"""Of a job's tasks, the most that are computed twice to hasten its end."""

BACKUPS_MIN = 16
"""So many copies are always allowed: small jobs have an end too."""

HELD = "others are expected to be done sooner"
HOLDS_MAX = 65_536
_LEVEL_KEPT_S = 0.05
_SPEED_KEPT_S = 0.5


@dataclass(frozen=True, slots=True)
class OpenJob:
    """A job with tasks to give out, as the caller sees it now. The most deserving job comes first."""

    job: JobId
    demand: Demand
    open_tasks: int
    excluded: Collection[PeerId] = ()
    """Peers that get no more of this job."""
    lag_s: float = 0.0
    """How much less it is owed than the first job, in seconds of work."""


@dataclass(frozen=True, slots=True)
class Portion:
    """Give the worker this many tasks of the job, as one frame."""

    job: JobId
    tasks: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Give it nothing now, and ask again at `until_s`, or when something has changed."""

    until_s: float
    reason: str
    instead: tuple[PeerId, ...] = ()
    """Better ones that have room: what this one did not get is for them, now."""


@dataclass(frozen=True, slots=True)
class InFlight:
    """A frame that was sent and not answered."""

    frame: int
    peer: PeerId
    job: JobId
    demand: Demand
    tasks: int
    due_s: float
    """When its answer was expected, as reckoned when it was sent."""
    expected_s: float
    """What its computation was expected to take."""
    is_started: bool = True
    """It is the oldest of its worker's frames; later ones wait behind it."""
    copies: int = 1
    """Workers that hold these tasks."""
    holders: tuple[PeerId, ...] = ()
    """Other workers that hold these tasks, or may not have them."""


@dataclass(frozen=True, slots=True)
class Backup:
    """Give `tasks` tasks of the frame, from its end, to `peer` as well; `revoke` the frame where it has not begun."""

    frame: int
    peer: PeerId
    tasks: int
    revoke: bool


@dataclass(slots=True)
class _Speed:
    """What all suited workers do together, as of some moment."""

    at_s: float
    rate: float
    """Tasks per second."""
    busy_tasks: float
    """What their present load is worth in tasks."""
    workers: int


@dataclass(slots=True)
class _Level:
    at_s: float
    lasts_s: float
    """Until all of it is done."""
    counts: dict[int, int]
    """Tasks of those that are left, for each row that should get some."""
    left: int
    """Their sum."""
    excluded: int


@dataclass(frozen=True, slots=True)
class _Helper:
    peer: PeerId
    ready_s: float
    seconds: float
    """For one task."""

    @property
    def done_s(self) -> float:
        return self.ready_s + self.seconds


class Pull:
    """One for each coordinator. The caller keeps the table: room, load and speeds."""

    def __init__(self, strategy: Strategy, table: CandidateTable) -> None:
        self.strategy = strategy
        self._table = table
        self._held: dict[tuple[PeerId, JobId], float] = {}
        self._speeds: dict[JobId, _Speed] = {}
        self._levels: dict[JobId, _Level] = {}
        self._backups: dict[JobId, int] = {}
        self._demands: dict[JobId, Demand] = {}

    def next_frame(
        self, peer: PeerId, jobs: Sequence[OpenJob], now_s: float, *, is_best: bool = False
    ) -> Portion | Hold | None:
        """What `peer` should get. None: none of the jobs has anything that it could do.

        `is_best`: it was chosen among all who suit, so nobody is worth waiting for.
        """
        table = self._table
        if peer not in table:
            return None
        row = table.row_of(peer)
        fitting = [job for job in jobs if job.open_tasks > 0 and self._fits(job, peer, row)]
        hold: Hold | None = None
        for job in self._in_order(fitting, row):
            self._demands[job.job] = job.demand
            until_s = self._held.get((peer, job.job))
            tasks = self._portion(job, row, now_s, is_best=is_best)
            if tasks == 0 and (until_s is None or now_s < until_s):
                hold = _sooner(hold, self._hold(job, row, now_s, until_s))
                continue
            self._held.pop((peer, job.job), None)
            level = self._levels.get(job.job)
            if level is not None:  # what was given is not to be given again by the same reckoning
                given = max(tasks, 1)
                level.left -= given
                level.counts[row] = max(level.counts.get(row, 0) - given, 0)
            return Portion(job.job, max(tasks, 1))
        return hold

    def job_ended(self, job: JobId) -> None:
        self._speeds.pop(job, None)
        self._levels.pop(job, None)
        self._backups.pop(job, None)
        demand = self._demands.pop(job, None)
        if demand is not None:
            self.strategy.forget(demand)
        for key in [key for key in self._held if key[1] == job]:
            del self._held[key]

    def changed(self) -> None:
        """A worker came or left: whoever is held back is judged anew."""
        self._held.clear()
        self._speeds.clear()
        self._levels.clear()

    # --- which job -------------------------------------------------------------------------------------------------

    def _fits(self, job: OpenJob, peer: PeerId, row: int) -> bool:
        return peer not in job.excluded and self._table.suits(job.demand, row)

    def _in_order(self, jobs: list[OpenJob], row: int) -> list[OpenJob]:
        if len(jobs) < 2:
            return jobs
        if self.strategy.name == "gpu-match":
            # A large device first serves what only large devices can do.
            return sorted(jobs, key=lambda job: (-job.demand.memory_bytes_min, job.demand.kind is None))
        if not self.strategy.weighs_speed:
            return jobs
        load_s = self._table.load_seconds(jobs[0].demand, row)
        if load_s <= 0:
            return jobs
        for position, job in enumerate(jobs):
            is_warm = self._table.load_seconds(job.demand, row) <= 0
            if is_warm and job.lag_s - jobs[0].lag_s <= load_s / LOAD_SHARE_MAX:
                return [job, *jobs[:position], *jobs[position + 1 :]]
        return jobs

    # --- how much --------------------------------------------------------------------------------------------------

    def _portion(self, job: OpenJob, row: int, now_s: float, *, is_best: bool) -> int:
        """Tasks for the worker at `row`; 0 if it should be held back."""
        if self.strategy.weighs_speed:
            return self._by_speed(job, row, now_s, is_best=is_best)
        return self._by_rank(job, row, now_s)

    def _by_rank(self, job: OpenJob, row: int, now_s: float) -> int:
        """Equal frames; where there are fewer than workers with room, the best ranked get them."""
        table, demand = self._table, job.demand
        speed = self._speed(job, now_s)
        tasks = frame_size(
            open_tasks=job.open_tasks,
            share=1.0 / max(speed.workers, 1),
            seconds_per_task=speed.workers / speed.rate if speed.rate else demand.prior_s * demand.units,
            bytes_per_task=demand.transfer_bytes,
            rtt_s=0.0,
            is_relayed=table.is_relayed(row),
        )
        scores = self.strategy.ranking(demand, table).all
        better = (scores < scores.item(row)) & (table.room > 0)
        better[table.rows_of(job.excluded)] = False
        return tasks if int(np.count_nonzero(better)) * tasks < job.open_tasks else 0

    def _by_speed(self, job: OpenJob, row: int, now_s: float, *, is_best: bool) -> int:
        """Frames by speed, and nothing for whom the others need not wait."""
        table, demand = self._table, job.demand
        speed = self._speed(job, now_s)
        seconds = table.seconds_per_task(demand, row)
        is_known = bool(table.model(demand.model).is_known[row])
        tasks = frame_size(
            open_tasks=job.open_tasks,
            share=min(1.0, (table.slots.item(row) / seconds) / speed.rate) if speed.rate else 1.0,
            seconds_per_task=seconds,
            bytes_per_task=demand.transfer_bytes,
            rtt_s=table.rtt_s.item(row),
            is_relayed=table.is_relayed(row),
        )
        if not is_known:
            tasks = min(tasks, int(FIRST_FRAME_TASKS * FRAME_GROWTH ** table.model(demand.model).samples.item(row)))
        if speed.workers <= 1:
            return tasks
        if is_best and job.open_tasks == 1:
            return 1
        done_s = self._ready_s(demand, row) + seconds
        if speed.rate and done_s <= (job.open_tasks + speed.busy_tasks) / speed.rate:
            return tasks
        return min(tasks, self._level(job, now_s).counts.get(row, 0))

    def _ready_s(self, demand: Demand, row: int) -> float:
        table = self._table
        transfer = demand.transfer_bytes / table.bytes_per_s.item(row)
        return table.wait_s.item(row) + table.rtt_s.item(row) + transfer + table.load_seconds(demand, row)

    def _seconds(self, demand: Demand) -> Floats:
        """Between two tasks of each row, all its devices together."""
        seconds = self._table.model(demand.model).seconds
        return demand.units * np.where(np.isnan(seconds), demand.prior_s, seconds) / self._table.slots

    def _speed(self, job: OpenJob, now_s: float) -> _Speed:
        speed = self._speeds.get(job.job)
        if speed is None or now_s - speed.at_s > _SPEED_KEPT_S:
            table = self._table
            suited = table.suited(job.demand)
            suited[table.rows_of(job.excluded)] = False
            rates = suited / self._seconds(job.demand)
            busy = float((rates * table.wait_s).sum())
            speed = _Speed(now_s, float(rates.sum()), busy, int(np.count_nonzero(suited)))
            self._speeds[job.job] = speed
        return speed

    def _level(self, job: OpenJob, now_s: float) -> _Level:
        """Who should get how much of what is left, if nobody were to wait for anybody."""
        level = self._levels.get(job.job)
        is_old = level is None or now_s - level.at_s > _LEVEL_KEPT_S
        if level is None or is_old or level.left < job.open_tasks or level.excluded != len(job.excluded):
            table, demand = self._table, job.demand
            suited = table.suited(demand)
            suited[table.rows_of(job.excluded)] = False
            rows = np.flatnonzero(suited)
            load = table.model(demand.model).load_s
            load = np.where(np.isnan(load), demand.model_bytes / table.bytes_per_s, load)
            ready = table.wait_s + table.rtt_s + demand.transfer_bytes / table.bytes_per_s + load
            shared_out = fill_few if job.open_tasks <= GREEDY_TASKS_MAX else fill
            counts, lasts_s = shared_out(self._seconds(demand)[rows], ready[rows], job.open_tasks)
            shares = {int(row): int(count) for row, count in zip(rows, counts, strict=True) if count}
            level = self._levels[job.job] = _Level(now_s, lasts_s, shares, job.open_tasks, len(job.excluded))
        return level

    def _hold(self, job: OpenJob, row: int, now_s: float, until_s: float | None) -> Hold:
        """`until_s`: when the worker is held back already."""
        if until_s is None:
            lasts_s = HOLD_MAX_S
            if self.strategy.weighs_speed:
                lasts_s = min(max(HOLD_FACTOR * self._level(job, now_s).lasts_s, HOLD_MIN_S), HOLD_MAX_S)
            if len(self._held) >= HOLDS_MAX:
                del self._held[next(iter(self._held))]
            until_s = self._held[self._table.peer_at(row), job.job] = now_s + lasts_s
        return Hold(until_s, HELD, self._better(job, row, now_s))

    def _better(self, job: OpenJob, row: int, now_s: float) -> tuple[PeerId, ...]:
        """Some of those with room that the worker at `row` is held back for."""
        table = self._table
        if self.strategy.weighs_speed:
            counts = self._level(job, now_s).counts
            rows = [other for other in sorted(counts, key=lambda other: -counts[other]) if counts[other]]
        else:
            scores = self.strategy.ranking(job.demand, table).all
            rows = np.flatnonzero(scores < scores.item(row)).tolist()
            rows.sort(key=scores.item)
        free = [other for other in rows if other != row and table.room.item(other) > 0]
        return tuple(table.peer_at(other) for other in free[:INSTEAD_MAX])

    # --- the end of a job ------------------------------------------------------------------------------------------

    def backup(self, peer: PeerId, in_flight: Sequence[InFlight], now_s: float, *, job_tasks: int = 0) -> Backup | None:
        """The frame that `peer`, which has nothing to do, should take over or compute a second time."""
        found = self.backups([peer], in_flight, now_s, job_tasks=job_tasks)
        return found[0] if found else None

    def backups(
        self, idle: Sequence[PeerId], in_flight: Sequence[InFlight], now_s: float, *, job_tasks: int = 0
    ) -> list[Backup]:
        """Matches idle workers with the frames of one job that are expected last. For jobs without open tasks only.

        `job_tasks`: tasks of the job in all, which bounds how many are computed twice.
        """
        if not self.strategy.weighs_speed or not in_flight:
            return []
        late = [frame for frame in in_flight if frame.copies < COPIES_MAX]
        late.sort(key=lambda frame: -remaining_s(frame, now_s))
        free = self._by_finish(idle, in_flight[0].demand)
        found: list[Backup] = []
        for frame in late:
            if not free or remaining_s(frame, now_s) <= BACKUP_GAIN * free[0].done_s:
                break  # nor is any later one late enough, not even for the fastest
            helper = next((each for each in free if each.peer != frame.peer and each.peer not in frame.holders), None)
            backup = None if helper is None else self._backed_up(frame, helper, now_s, job_tasks)
            if helper is not None and backup is not None:
                found.append(backup)
                free.remove(helper)
                if not backup.revoke:
                    self._backups[frame.job] = self._backups.get(frame.job, 0) + backup.tasks
        return found

    def _by_finish(self, idle: Sequence[PeerId], demand: Demand) -> list[_Helper]:
        """Idle workers that could do a task of the job, who would be done first before others."""
        table = self._table
        free = []
        for peer in idle:
            if peer in table and table.suits(demand, table.row_of(peer)):
                row = table.row_of(peer)
                free.append(_Helper(peer, self._ready_s(demand, row), table.seconds_per_task(demand, row)))
        return sorted(free, key=lambda helper: helper.done_s)

    def _backed_up(self, frame: InFlight, helper: _Helper, now_s: float, job_tasks: int) -> Backup | None:
        left_s = remaining_s(frame, now_s)
        if left_s <= max(BACKUP_GAIN * helper.done_s, helper.done_s + BACKUP_GAIN_MIN_S):
            return None
        tasks = min(frame.tasks, max(1, int((left_s / BACKUP_GAIN - helper.ready_s) / helper.seconds)))
        if not frame.is_started and tasks == frame.tasks:
            return Backup(frame.frame, helper.peer, tasks, revoke=True)
        allowed = max(BACKUPS_MIN, int(BACKUP_SHARE * job_tasks)) - self._backups.get(frame.job, 0)
        return Backup(frame.frame, helper.peer, min(tasks, allowed), revoke=False) if allowed > 0 else None


def remaining_s(frame: InFlight, now_s: float) -> float:
    """How much longer the frame is expected to take. What is late by some time is expected to need as much again:
    a worker that is twice late is more likely lost than just about to answer."""
    left_s = frame.due_s - now_s
    if left_s > 0:
        return max(left_s, 0.1 * frame.expected_s)
    return max(-left_s, 0.1 * frame.expected_s)


def _sooner(first: Hold | None, second: Hold) -> Hold:
    if first is None:
        return second
    instead = tuple(dict.fromkeys((*first.instead, *second.instead)))
    return Hold(min(first.until_s, second.until_s), HELD, instead)
