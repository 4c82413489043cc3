"""Workers that differ, come and go, and a coordinator that gives them frames: a heap of timed events.

The coordinator is the node's own machine, `Coordination`, with its strategies, learned speeds, second copies and
verification. Workers, links and time are simulated. Speeds are lognormal with a median of one task per `task_s`; so is
the noise of each task.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from peerinfer.assignment import (
    Audit,
    AuditDone,
    CancelFrame,
    CompareCopies,
    CopiesCompared,
    DropWorker,
    Event,
    FrameAnswered,
    JobAccepted,
    JobEnded,
    JobSpec,
    KeepResults,
    SendFrame,
    Settle,
    TasksCommitted,
    VoidResults,
    WindowSet,
    WorkerJoined,
    WorkerLost,
    WorkerOffer,
)
from peerinfer.coordination import Coordination
from peerinfer.ids import Cid, JobId, PeerId
from peerinfer.limits import GIB
from peerinfer.machine import Tick
from peerinfer_sim.timeline import Timeline

WINDOW = 2
LOST_AFTER_S = 5.0
"""Silence after which a worker counts as lost (`limits.SILENCE_MAX_S`)."""

COMMIT_S = 0.05
"""From a result that counts to its entry in the journal."""

AUDITOR_SHARE = 0.08
"""Speed of the coordinator's own device, which computes samples again, in parts of the swarm's."""

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
    large_share: float = 0.0
    """Of the work, the part that needs a large device; one worker in five has one."""
    model_load_s: float = 0.0
    verify: str = "spot"


@dataclass(slots=True)
class SwarmFrame:
    number: int
    job: JobId
    numbers: tuple[int, ...]
    compute_s: float = 0.0

    @property
    def tasks(self) -> int:
        return len(self.numbers)


@dataclass(slots=True)
class SwarmWorker:
    peer: PeerId
    seconds: float
    rtt_s: float
    is_large: bool
    sessions: list[tuple[float, float]]
    is_up: bool = False
    life: int = 0
    """Counts its sessions, so that what belongs to an earlier one is ignored."""
    queue: deque[SwarmFrame] = field(default_factory=deque)
    running: SwarmFrame | None = None
    warm: set[JobId] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Outcome:
    efficiency: float
    """Fluid bound over makespan, the makespan ending when every result is verified and final."""
    makespan_s: float
    executions: float
    """For each task and each copy that the verification asked for; more than one where frames were lost or hastened."""
    copied: int
    """Tasks that were done twice so that the answers can be compared."""
    audited: int
    frames: int


class Swarm:
    def __init__(self, scenario: Scenario, strategy: str, seed: int) -> None:
        self.scenario = scenario
        self._world = random.Random(f"{seed}:world:{scenario.name}")
        self._noise = random.Random(f"{seed}:noise:{scenario.name}")
        self.machine = Coordination(random.Random(f"{seed}:machine"))
        self.workers = [self._make_worker(number) for number in range(scenario.workers)]
        self._by_peer = {worker.peer: worker for worker in self.workers}
        self.jobs = self._make_jobs(strategy)
        self._executions = 0
        self._audited = 0
        self._copied = 0
        self._answers: dict[tuple[JobId, int], list[PeerId]] = {}
        """Whose answers to a task are kept."""
        self._audits_end_s = 0.0
        self._running = {spec.job for spec in self.jobs}
        self._timeline = Timeline()
        self._frames = 0
        self._wake_s = math.inf

    # --- the world -------------------------------------------------------------------------------------------------

    def _make_worker(self, number: int) -> SwarmWorker:
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
        return SwarmWorker(PeerId(f"worker-{number}"), seconds, rtt_s, number % 5 == 0, sessions)

    def _make_jobs(self, strategy: str) -> list[JobSpec]:
        scenario = self.scenario
        total = int(self._capacity(scenario.ideal_s))
        parts = [1.0 - scenario.large_share, scenario.large_share] if scenario.large_share else [1.0]
        return [
            JobSpec(
                job=JobId(f"{number:032x}"),
                model=Cid(f"model-{number}"),
                model_bytes=int(1e7 * scenario.model_load_s),
                tasks=int(total * part),
                items_per_task=1,
                bytes_per_task=10_000,
                seconds_per_item=scenario.task_s * 3,
                verify=scenario.verify,
                patience_s=600.0,
                memory_bytes_min=number * 16 * GIB,
                strategy=strategy,
            )
            for number, part in enumerate(parts)
        ]

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
        tasks = sum(spec.tasks for spec in self.jobs) + self._copied
        large = sum(spec.tasks for spec in self.jobs[1:])
        low, high = 0.0, 40 * self.scenario.ideal_s
        for _ in range(60):
            middle = (low + high) / 2
            enough = self._capacity(middle) >= tasks and self._capacity(middle, large_only=True) >= large
            low, high = (low, middle) if enough else (middle, high)
        return high

    # --- time ------------------------------------------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        return self._timeline.now_s

    def _at(self, when_s: float, action: Callable[..., object], *arguments: object) -> None:
        self._timeline.at(when_s, partial(action, *arguments))

    def run(self) -> Outcome:
        for spec in self.jobs:
            self._at(0.0, self._tell, JobAccepted(spec))
        for worker in self.workers:
            for begin, end in worker.sessions:
                self._at(begin, self._up, worker)
                if math.isfinite(end):
                    self._at(end, self._down, worker)
        while self._timeline.next_s is not None and self._running:
            self._timeline.step()
        if self._running:
            raise RuntimeError(f"{self.scenario.name}: the swarm stands still at {self.now_s:.0f} s")
        self.machine.check()
        asked = sum(spec.tasks for spec in self.jobs) + self._copied
        return Outcome(
            efficiency=self.fluid_bound_s() / self.now_s,
            makespan_s=self.now_s,
            executions=self._executions / asked,
            copied=self._copied,
            audited=self._audited,
            frames=self._frames,
        )

    # --- workers ---------------------------------------------------------------------------------------------------

    def _up(self, worker: SwarmWorker) -> None:
        worker.is_up, worker.life = True, worker.life + 1
        worker.queue.clear()
        worker.running = None
        worker.warm.clear()
        offer = WorkerOffer(
            False, ("cpu",), (24 if worker.is_large else 8) * GIB, rtt_s=worker.rtt_s, groups=self._groups(worker)
        )
        self._tell(WorkerJoined(worker.peer, offer))
        self._tell(WindowSet(worker.peer, WINDOW, ""))

    def _stop(self, worker: SwarmWorker) -> None:
        worker.is_up, worker.life = False, worker.life + 1
        worker.queue.clear()
        worker.running = None

    def _down(self, worker: SwarmWorker) -> None:
        self._stop(worker)
        self._at(self.now_s + LOST_AFTER_S, self._lost, worker, worker.life)

    def _lost(self, worker: SwarmWorker, life: int) -> None:
        if life == worker.life:
            self._tell(WorkerLost(worker.peer, "silent"))

    def _arrive(self, worker: SwarmWorker, life: int, frame: SwarmFrame) -> None:
        if life == worker.life:
            worker.queue.append(frame)
            self._start(worker)

    def _cancel(self, worker: SwarmWorker, life: int, number: int) -> None:
        if life != worker.life:
            return
        if worker.running is not None and worker.running.number == number:
            worker.running = None
        worker.queue = deque(frame for frame in worker.queue if frame.number != number)
        self._start(worker)

    def _start(self, worker: SwarmWorker) -> None:
        if worker.running is None and worker.queue:
            frame = worker.running = worker.queue.popleft()
            load_s = 0.0 if frame.job in worker.warm else self.scenario.model_load_s
            worker.warm.add(frame.job)
            frame.compute_s = worker.seconds * self._drawn(frame.tasks)
            self._at(self.now_s + load_s + frame.compute_s, self._computed, worker, worker.life, frame)

    def _drawn(self, tasks: int) -> float:
        """Noise of so many tasks together; each has mean 1."""
        if tasks <= _TASKS_DRAWN_ONE_BY_ONE:
            return sum(math.exp(self._noise.gauss(-NOISE * NOISE / 2, NOISE)) for _ in range(tasks))
        return max(0.5 * tasks, self._noise.gauss(tasks, NOISE * math.sqrt(tasks)))

    def _computed(self, worker: SwarmWorker, life: int, frame: SwarmFrame) -> None:
        if life != worker.life or worker.running is not frame:
            return
        worker.running = None
        self._executions += frame.tasks
        self._start(worker)
        self._at(self.now_s + worker.rtt_s / 2, self._answered, worker, life, frame)

    def _answered(self, worker: SwarmWorker, life: int, frame: SwarmFrame) -> None:
        if life == worker.life:
            done = tuple(range(frame.tasks))
            self._tell(FrameAnswered(worker.peer, frame.number, done, (), frame.compute_s))

    # --- the coordinator -------------------------------------------------------------------------------------------

    def _tick(self, at_s: float) -> None:
        if at_s == self._wake_s:
            self._wake_s = math.inf
            self._tell(Tick())

    def _tell(self, event: Event | Tick) -> None:
        for effect in self.machine.handle(event, self.now_s):
            match effect:
                case SendFrame(peer, number, job, tasks, _):
                    worker = self._by_peer[peer]
                    self._frames += 1
                    frame = SwarmFrame(number, job, tasks)
                    self._at(self.now_s + worker.rtt_s / 2, self._arrive, worker, worker.life, frame)
                case CancelFrame(peer, number, _):
                    worker = self._by_peer[peer]
                    self._at(self.now_s + worker.rtt_s / 2, self._cancel, worker, worker.life, number)
                case KeepResults(peer, _, job, tasks):
                    self._answers |= {(job, task): [peer] for task in tasks}
                case VoidResults(job, _, tasks, _):
                    for task in tasks:
                        self._answers.pop((job, task), None)
                case DropWorker(peer, _):
                    self._dropped(peer)
                case CompareCopies(peer, _, job, tasks):
                    self._compare(job, peer, tasks)
                case Audit(job, task, peers):
                    task_s = self.scenario.task_s / (AUDITOR_SHARE * self.scenario.workers)
                    self._audits_end_s = max(self._audits_end_s, self.now_s) + task_s
                    self._audited += 1
                    right = tuple(peer for peer in peers if self._is_right(job, task, peer))
                    wrong = tuple(peer for peer in peers if peer not in right)
                    self._at(self._audits_end_s, self._tell, AuditDone(job, task, right, wrong, "off by nine"))
                case Settle(job, peer, settled, _):
                    self._settled(job, peer, settled)
                    self._at(self.now_s + COMMIT_S, self._tell, TasksCommitted(job, settled))
                case JobEnded(job, state, reason, _, _):
                    if state != "done":
                        raise RuntimeError(f"{self.scenario.name}: the job is {state}: {reason}")
                    self._running.discard(job)
        wake_s = self.machine.deadline_s
        if wake_s < self._wake_s:
            self._wake_s = wake_s
            self._at(max(wake_s, self.now_s), self._tick, wake_s)

    # --- what another world has besides ------------------------------------------------------------------------------

    def _is_right(self, job: JobId, task: int, peer: PeerId) -> bool:
        """Wrong answers to a task are all the same: whoever lies, lies together."""
        del job, task, peer
        return True

    def _groups(self, worker: SwarmWorker) -> tuple[str, ...]:
        """The public networks that it is in."""
        del worker
        return ()

    def _settled(self, job: JobId, peer: PeerId, tasks: tuple[int, ...]) -> None:
        """These answers are final."""

    def _dropped(self, peer: PeerId) -> None:
        """The coordinator wants nothing more of a worker."""

    def _compare(self, job: JobId, peer: PeerId, tasks: tuple[int, ...]) -> None:
        agrees = []
        for task in tasks:
            others = self._answers.setdefault((job, task), [])
            is_right = self._is_right(job, task, peer)
            agrees.append((task, tuple(other for other in others if self._is_right(job, task, other) == is_right)))
            others.append(peer)
        self._copied += len(tasks)
        self._at(self.now_s, self._tell, CopiesCompared(job, peer, tuple(agrees)))
