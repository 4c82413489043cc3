"""Workers that differ, come and go, and a coordinator that gives them frames: a heap of timed events, nothing real.

The coordinator side is the node's: `Pull` with its strategies, the candidate table and the learned speeds. Workers,
links and time are simulated. Speeds are lognormal with a mean of one task per second; so is the noise of each task.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from dataclasses import dataclass, field

from peerinfer.estimates import Estimates
from peerinfer.ids import Cid, JobId, PeerId
from peerinfer.placement import strategy_named
from peerinfer.placement_pull import Backup, Hold, InFlight, OpenJob, Portion, Pull
from peerinfer.placement_table import Candidate, CandidateTable, Demand

GIB = 1 << 30
WINDOW = 2
LOST_AFTER_S = 5.0
"""Silence after which a worker counts as lost (`limits.SILENCE_MAX_S`)."""

TAIL_CHECK_S = 0.25
NOISE = 0.3
_TASKS_DRAWN_ONE_BY_ONE = 8


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    workers: int
    ideal_s: float = 600.0
    """How long the swarm would take if it could be divided like water."""
    spread: float = 0.5
    """Of the logarithm of the workers' speeds."""
    task_s: float = 1.0
    """Of one task on a worker of speed 1."""
    session_s: float = math.inf
    """Mean time that a worker stays; it is away for a quarter of that."""
    rtt_s: tuple[float, float] = (0.02, 0.15)
    audit_share: float = 0.05
    """Of the tasks, those that are computed once more, as the verification asks."""
    large_share: float = 0.0
    """Of the work, the part that needs a large device; one worker in five has one."""
    model_load_s: float = 0.0


@dataclass(slots=True)
class _Frame:
    number: int
    job: int
    tasks: list[int]
    sent_s: float
    due_s: float
    expected_s: float
    compute_s: float = 0.0
    revoked: bool = False


@dataclass(slots=True)
class _Worker:
    peer: PeerId
    seconds: float
    rtt_s: float
    is_large: bool
    sessions: list[tuple[float, float]]
    is_up: bool = False
    life: int = 0
    """Counts its sessions, so that what belongs to an earlier one is ignored."""
    frames: dict[int, _Frame] = field(default_factory=dict)
    """As the coordinator sees them."""
    queue: deque[_Frame] = field(default_factory=deque)
    running: _Frame | None = None
    warm: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _Job:
    number: int
    job: JobId
    demand: Demand
    tasks: int
    open: deque[int]
    done: bytearray
    left: int
    copies: dict[int, int] = field(default_factory=dict)
    served_s: float = 0.0
    finished_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Outcome:
    efficiency: float
    """Fluid bound over makespan, of all executions that the verification asked for."""
    makespan_s: float
    executions: float
    """For each task and audit."""
    frames: int


class Swarm:
    def __init__(self, scenario: Scenario, strategy: str, seed: int) -> None:
        self.scenario = scenario
        self._world = random.Random(f"{seed}:world:{scenario.name}")
        self._noise = random.Random(f"{seed}:noise:{scenario.name}")
        self._audit_dice = random.Random(f"{seed}:audits:{scenario.name}")
        self.table = CandidateTable()
        self.pull = Pull(strategy_named(strategy), self.table)
        self.estimates = Estimates()
        self.workers = [self._make_worker(number) for number in range(scenario.workers)]
        self._by_peer = {worker.peer: worker for worker in self.workers}
        self.jobs = self._make_jobs()
        self.now_s = 0.0
        self.executions = 0
        self.executions_asked = 0
        self.last_s = 0.0
        self._events: list[tuple[float, int, str, tuple[object, ...]]] = []
        self._counter = 0
        self._frames = 0
        self._idle: dict[PeerId, None] = {}

    # --- the world -------------------------------------------------------------------------------------------------

    def _make_worker(self, number: int) -> _Worker:
        scenario, rng = self.scenario, self._world
        seconds = scenario.task_s * math.exp(rng.gauss(0.0, scenario.spread))
        sessions: list[tuple[float, float]] = [(0.0, math.inf)]
        if math.isfinite(scenario.session_s):
            sessions = []
            at_s = 0.0 if rng.random() < 0.8 else rng.expovariate(4 / scenario.session_s)
            while at_s < 20 * scenario.ideal_s:
                length = rng.expovariate(1 / scenario.session_s)
                sessions.append((at_s, at_s + length))
                at_s += length + rng.expovariate(4 / scenario.session_s)
        rtt_s = math.exp(rng.uniform(math.log(scenario.rtt_s[0]), math.log(scenario.rtt_s[1])))
        return _Worker(PeerId(f"worker-{number}"), seconds, rtt_s, number % 5 == 0, sessions)

    def _make_jobs(self) -> list[_Job]:
        scenario = self.scenario
        total = int(self._capacity(scenario.ideal_s))
        parts = [1.0 - scenario.large_share, scenario.large_share] if scenario.large_share else [1.0]
        jobs = []
        for number, part in enumerate(parts):
            tasks = int(total * part)
            demand = Demand(
                Cid(f"model-{number}"),
                prior_s=scenario.task_s * 3,
                transfer_bytes=1e4,
                model_bytes=1e7 * scenario.model_load_s,
                memory_bytes_min=number * 16 * GIB,
            )
            jobs.append(
                _Job(number, JobId(f"job-{number}"), demand, tasks, deque(range(tasks)), bytearray(tasks), tasks)
            )
        return jobs

    def _capacity(self, until_s: float, *, large_only: bool = False) -> float:
        """Tasks that the workers could do until then, if nothing were lost between them."""
        return sum(
            max(0.0, min(end, until_s) - begin) / worker.seconds
            for worker in self.workers
            for begin, end in worker.sessions
            if begin < until_s and (worker.is_large or not large_only)
        )

    def fluid_bound_s(self) -> float:
        """When all that was asked for could be done at the earliest, by all workers and by those for large tasks."""
        large = sum(len(job.done) for job in self.jobs if job.number)
        low, high = 0.0, 40 * self.scenario.ideal_s
        for _ in range(60):
            middle = (low + high) / 2
            enough = self._capacity(middle) >= self.executions_asked
            enough = enough and self._capacity(middle, large_only=True) >= large
            low, high = (low, middle) if enough else (middle, high)
        return high

    # --- the heap --------------------------------------------------------------------------------------------------

    def _at(self, when_s: float, what: str, *arguments: object) -> None:
        self._counter += 1
        heapq.heappush(self._events, (when_s, self._counter, what, arguments))

    def run(self) -> Outcome:
        for worker in self.workers:
            for begin, end in worker.sessions:
                self._at(begin, "up", worker)
                if math.isfinite(end):
                    self._at(end, "down", worker)
        self._at(TAIL_CHECK_S, "tail")
        while self._events and any(job.left for job in self.jobs):
            self.now_s, _, what, arguments = heapq.heappop(self._events)
            getattr(self, f"_{what}")(*arguments)
        if any(job.left for job in self.jobs):
            raise RuntimeError(f"{self.scenario.name}: the swarm stands still at {self.now_s:.0f} s")
        self.table.check()
        bound = self.fluid_bound_s()
        return Outcome(bound / self.last_s, self.last_s, self.executions / self.executions_asked, self._frames)

    # --- workers ---------------------------------------------------------------------------------------------------

    def _up(self, worker: _Worker) -> None:
        worker.is_up, worker.life = True, worker.life + 1
        worker.queue.clear()
        worker.running = None
        worker.warm.clear()
        if worker.peer in self.table:  # it is back before it was missed
            self._forget(worker)
        self.table.add(Candidate(worker.peer, memory_bytes=(24 if worker.is_large else 8) * GIB, rtt_s=worker.rtt_s))
        for job in self.jobs:
            self._teach(worker, job)
            self.table.set_load(worker.peer, job.demand.model, None if self.scenario.model_load_s else 0.0)
        self.table.update(worker.peer, room=WINDOW)
        self._fill(worker)

    def _down(self, worker: _Worker) -> None:
        worker.is_up, worker.life = False, worker.life + 1
        worker.queue.clear()
        worker.running = None
        self._at(self.now_s + LOST_AFTER_S, "lost", worker, worker.life)

    def _arrive(self, worker: _Worker, life: int, frame: _Frame) -> None:
        if life == worker.life:
            worker.queue.append(frame)
            self._start(worker)

    def _start(self, worker: _Worker) -> None:
        while worker.running is None and worker.queue:
            frame = worker.queue.popleft()
            if frame.revoked:
                continue
            load_s = 0.0
            if self.scenario.model_load_s and frame.job not in worker.warm:
                worker.warm = {frame.job}
                load_s = self.scenario.model_load_s
            frame.compute_s = worker.seconds * self._drawn(len(frame.tasks))
            worker.running = frame
            self._at(self.now_s + load_s + frame.compute_s, "computed", worker, worker.life, frame)

    def _drawn(self, tasks: int) -> float:
        """Noise of so many tasks together; each has mean 1."""
        if tasks <= _TASKS_DRAWN_ONE_BY_ONE:
            return sum(math.exp(self._noise.gauss(-NOISE * NOISE / 2, NOISE)) for _ in range(tasks))
        return max(0.5 * tasks, self._noise.gauss(tasks, NOISE * math.sqrt(tasks)))

    def _computed(self, worker: _Worker, life: int, frame: _Frame) -> None:
        if life != worker.life:
            return
        worker.running = None
        self.executions += len(frame.tasks)
        self._start(worker)
        self._at(self.now_s + worker.rtt_s / 2, "answered", worker, life, frame)

    # --- the coordinator -------------------------------------------------------------------------------------------

    def _answered(self, worker: _Worker, life: int, frame: _Frame) -> None:
        if life != worker.life or frame.number not in worker.frames:
            return
        job = self.jobs[frame.job]
        del worker.frames[frame.number]
        self.estimates.observe(worker.peer, job.demand.model, len(frame.tasks), frame.compute_s)
        self._teach(worker, job)
        self.table.set_load(worker.peer, job.demand.model, 0.0)
        self.table.add_load(worker.peer, -1, -frame.expected_s)
        for task in frame.tasks:
            job.copies[task] -= 1
            if not job.copies[task]:
                del job.copies[task]
            if not job.done[task]:
                job.done[task] = 1
                self._result(job, task)
        self.table.update(worker.peer, room=WINDOW - len(worker.frames))
        self._fill(worker)

    def _result(self, job: _Job, task: int) -> None:
        job.left -= 1
        self.executions_asked += 1
        self.last_s = self.now_s
        if task < job.tasks and self._audit_dice.random() < self.scenario.audit_share:
            job.open.append(len(job.done))
            job.done.append(0)
            job.left += 1
        if not job.left:
            job.finished_s = self.now_s
            self.pull.job_ended(job.job)

    def _teach(self, worker: _Worker, job: _Job) -> None:
        estimate = self.estimates.estimate(worker.peer, job.demand.model, job.demand.prior_s)
        self.table.set_speed(worker.peer, job.demand.model, estimate)

    def _lost(self, worker: _Worker, life: int) -> None:
        if life == worker.life and worker.peer in self.table:
            self._forget(worker)
            self._fill_idle()

    def _forget(self, worker: _Worker) -> None:
        for frame in worker.frames.values():
            self._give_back(frame)
        worker.frames.clear()
        self.table.remove(worker.peer)
        self.pull.changed()
        self._idle.pop(worker.peer, None)

    def _give_back(self, frame: _Frame) -> None:
        job = self.jobs[frame.job]
        for task in reversed(frame.tasks):
            job.copies[task] -= 1
            if not job.copies[task]:
                del job.copies[task]
                if not job.done[task]:
                    job.open.appendleft(task)

    def _fill_idle(self) -> None:
        for peer in list(self._idle):
            self._fill(self._by_peer[peer])

    def _fill(self, worker: _Worker) -> None:
        if worker.peer not in self.table:
            return
        while len(worker.frames) < WINDOW:
            waiting = sorted((job for job in self.jobs if job.open), key=lambda job: job.served_s)
            least = waiting[0].served_s if waiting else 0.0
            offers = [OpenJob(job.job, job.demand, len(job.open), (), job.served_s - least) for job in waiting]
            portion = self.pull.next_frame(worker.peer, offers, self.now_s)
            if not isinstance(portion, Portion):
                if isinstance(portion, Hold):
                    self._at(portion.until_s, "again", worker, worker.life)
                self._idle[worker.peer] = None
                return
            job = next(job for job in waiting if job.job == portion.job)
            tasks = [job.open.popleft() for _ in range(min(portion.tasks, len(job.open)))]
            self._send(worker, job, tasks)
        self._idle.pop(worker.peer, None)

    def _again(self, worker: _Worker, life: int) -> None:
        if life == worker.life:
            self._fill(worker)

    def _send(self, worker: _Worker, job: _Job, tasks: list[int]) -> None:
        row = self.table.row_of(worker.peer)
        expected = self.table.seconds_per_task(job.demand, row) * len(tasks)
        load_s = 0.0 if worker.frames else self.table.load_seconds(job.demand, row)
        due_s = self.now_s + self.table.wait_s.item(row) + expected + load_s + worker.rtt_s
        self._frames += 1
        frame = _Frame(self._frames, job.number, tasks, self.now_s, due_s, expected)
        worker.frames[frame.number] = frame
        for task in tasks:
            job.copies[task] = job.copies.get(task, 0) + 1
        job.served_s += expected
        self.table.add_load(worker.peer, 1, expected)
        self.table.update(worker.peer, room=WINDOW - len(worker.frames))
        self._at(self.now_s + worker.rtt_s / 2, "arrive", worker, worker.life, frame)

    # --- the tail --------------------------------------------------------------------------------------------------

    def _tail(self) -> None:
        self._at(self.now_s + TAIL_CHECK_S, "tail")
        if not self._idle:
            return
        for job in self.jobs:
            if job.left and not job.open:
                free = [peer for peer in self._idle if not self._by_peer[peer].frames]
                late = self._late(job)
                for backup in self.pull.backups(free, list(late.values()), self.now_s, job_tasks=len(job.done)):
                    self._back_up(job, backup, late[backup.frame])

    def _late(self, job: _Job) -> dict[int, InFlight]:
        found = {}
        for peer in self.table.peers:
            worker = self._by_peer[peer]
            for position, frame in enumerate(worker.frames.values()):
                tasks = [task for task in frame.tasks if not job.done[task]] if frame.job == job.number else []
                if tasks:
                    found[frame.number] = InFlight(
                        frame.number,
                        peer,
                        job.job,
                        job.demand,
                        len(frame.tasks),
                        frame.due_s,
                        frame.expected_s,
                        is_started=position == 0,
                        copies=max(job.copies.get(task, 0) for task in frame.tasks),
                    )
        return found

    def _back_up(self, job: _Job, backup: Backup, late: InFlight) -> None:
        worker, holder = self._by_peer[backup.peer], self._by_peer[late.peer]
        frame = holder.frames[backup.frame]
        tasks = [task for task in frame.tasks if not job.done[task]][-backup.tasks :]
        if not tasks:
            return
        if backup.revoke:
            # The message takes its time: what has begun meanwhile is computed in vain, as in the world.
            del holder.frames[frame.number]
            self._at(self.now_s + holder.rtt_s / 2, "revoke", frame)
            self.table.add_load(holder.peer, -1, -frame.expected_s)
            self.table.update(holder.peer, room=0)
            for task in frame.tasks:
                job.copies[task] -= 1
                if not job.copies[task]:
                    del job.copies[task]
        self._send(worker, job, tasks)
        self._idle.pop(worker.peer, None)

    def _revoke(self, frame: _Frame) -> None:
        frame.revoked = True
