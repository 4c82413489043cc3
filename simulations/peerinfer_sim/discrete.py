"""Bare machines, thousands of them, driven from a heap of timed events: no trio, no bytes, no files.

One `Coordination` and many `Volunteering` machines exchange their messages as events, each after its link's latency.
What the roles do between them (streams, tensors, spools) is left out; that is the other floor's business.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from peerinfer.assignment import (
    Audit,
    AuditDone,
    CancelFrame,
    CompareCopies,
    CopiesCompared,
    DropWorker,
    FrameAnswered,
    FrameRefused,
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
from peerinfer.messages import Term
from peerinfer.volunteering import (
    CoordinatorJoined,
    CoordinatorLeft,
    DropFrame,
    FrameCancelled,
    FrameFinished,
    FrameOffered,
    RefuseFrame,
    SetWindow,
    StartFrame,
    StopFrame,
    Volunteering,
)
from peerinfer.waiting_frames import FrameKey
from peerinfer_sim.determinism import rng_for
from peerinfer_sim.event_log import EventLog
from peerinfer_sim.executor import UNEVENNESS
from peerinfer_sim.outcome import Outcome
from peerinfer_sim.scenario import NodeGroup, Scenario
from peerinfer_sim.timeline import Timeline
from peerinfer_sim.watch import Violation, Watch

COMMIT_S = 0.05
"""From a result that counts to its entry in the journal."""

_MODEL_BYTES = 100_000


@dataclass(slots=True)
class _Worker:
    """A volunteer with its device and its link."""

    name: str
    machine: Volunteering
    group: NodeGroup
    items_per_s: float
    latency_s: float
    dice: random.Random
    last_s: float = 0.0
    """When what was sent last, either way, arrives: the link keeps its order."""
    sent: dict[int, SendFrame] = field(default_factory=dict)
    """Frames that it has, or that are on their way to it."""
    lied: set[int] = field(default_factory=set)
    """Tasks that it answered with something else."""
    is_warm: bool = False
    is_alive: bool = True


class DiscreteWorld:
    """One run of a scenario. `run` may be called once."""

    def __init__(self, scenario: Scenario, seed: int, log: EventLog) -> None:
        self._scenario = scenario
        self._seed = seed
        self._log = log
        self._coordinator = Coordination(rng_for(seed, "coordinator", "machine"))
        self._peer = PeerId("coordinator")
        self._workers: dict[PeerId, _Worker] = {}
        self._timeline = Timeline()
        self._at = self._timeline.at
        self._wakes: dict[str, float] = {}
        """When each machine's next tick is due."""
        self._audits_end_s = 0.0
        self._answers: dict[int, list[PeerId]] = {}
        """Who has answered each task that is kept."""
        self._messages = 0
        self.watch = Watch(log, check_every=scenario.check_every)
        job = scenario.job
        self._spec = JobSpec(
            job=JobId(f"{seed & (1 << 128) - 1:032x}"),
            model=Cid("model"),
            model_bytes=_MODEL_BYTES,
            tasks=-(-job.items // job.items_per_task),
            items_per_task=job.items_per_task,
            bytes_per_task=256 * job.items_per_task,
            seconds_per_item=1 / scenario.groups[0].items_per_s,
            verify=job.verify,
        )

    def run(self) -> Outcome:
        """Raises `Violation` if anything happened that must not."""
        started_s = time.perf_counter()
        job = self._scenario.job
        self._gather()
        self._at(job.submit_at_s, lambda: self._coordinate(JobAccepted(self._spec)))
        for fault in self._scenario.draw_faults(rng_for(self._seed, "world", "faults")):
            self._at(job.submit_at_s + fault.at_s, partial(self._crash, PeerId(fault.node)))
        ends_s = job.submit_at_s + job.ends_within_s
        account = None
        while account is None or account.end is None:
            next_s = self._timeline.next_s
            if next_s is None or next_s > ends_s:
                picture = self._coordinator.picture(self._spec.job)
                what = f"the job has not ended within {job.ends_within_s:g} s: {picture}"
                raise Violation(what, self._log.recent(self._peer))
            self._timeline.step()
            account = self.watch.jobs.get((self._peer, self._spec.job))
        end = account.end
        if end.state != "done":
            raise Violation(f"the job is {end.state}: {end.reason}", self._log.recent(self._peer))
        return Outcome(
            scenario=self._scenario.name,
            seed=self._seed,
            digest=self._log.digest,
            logged=self._log.count,
            steps=self.watch.steps,
            messages=self._messages,
            message_bytes=0,
            nodes=1 + len(self._workers),
            tasks=account.tasks,
            final=len(account.kept),
            failed=len(account.failed),
            retried=end.picture.retried,
            voided=len(account.voided),
            audited=end.picture.audited,
            liars=sum(bool(worker.lied) for worker in self._workers.values()),
            caught=len(account.caught),
            lies_passed=sum(
                peer is not None and task in self._workers[peer].lied for task, peer in account.kept.items()
            ),
            job_s=self.now_s - job.submit_at_s,
            virtual_s=self.now_s,
            wall_s=time.perf_counter() - started_s,
        )

    # --- time --------------------------------------------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        return self._timeline.now_s

    def _carry(self, worker: _Worker, action: Callable[[], None]) -> None:
        """Performs the action on the other side of the worker's link, if the worker still lives then."""
        self._messages += 1
        latency_s = worker.latency_s * (1 + self._scenario.links.jitter * worker.dice.random())
        worker.last_s = max(worker.last_s, self.now_s + latency_s)
        self._at(worker.last_s, lambda: action() if worker.is_alive else None)

    def _answer(self, worker: _Worker, event: Any) -> None:
        """Carries what the worker says to the coordinator; twice, now and then."""
        for _ in range(2 if worker.dice.random() < self._scenario.links.doubled else 1):
            self._carry(worker, partial(self._coordinate, event))

    def _step(self, name: str, machine: Any, event: Any) -> list[Any]:
        effects = self.watch.step(name, machine, event, self.now_s)
        wake_s: float = machine.deadline_s
        if math.isfinite(wake_s) and wake_s != self._wakes.get(name):
            self._wakes[name] = wake_s
            self._at(max(wake_s, self.now_s), partial(self._tick, name, wake_s))
        return effects

    def _tick(self, name: str, wake_s: float) -> None:
        if self._wakes.get(name) != wake_s:
            return  # It has asked for another time since.
        del self._wakes[name]
        if name == self._peer:
            self._coordinate(Tick())
        elif self._workers[PeerId(name)].is_alive:
            self._volunteer(self._workers[PeerId(name)], Tick())

    # --- the coordinator ---------------------------------------------------------------------------------------------

    def _coordinate(self, event: Any) -> None:
        for effect in self._step(self._peer, self._coordinator, event):
            match effect:
                case SendFrame(peer, number, job, _, _):
                    worker = self._workers[peer]
                    worker.sent[number] = effect
                    offer = FrameOffered((self._peer, number), job, Term(1, self._peer))
                    self._carry(worker, partial(self._volunteer, worker, offer))
                case CancelFrame(peer, number, _):
                    worker = self._workers[peer]
                    cancel = FrameCancelled((self._peer, number))
                    self._carry(worker, partial(self._volunteer, worker, cancel))
                case KeepResults(peer, _, _, tasks):
                    self._answers |= {task: [peer] for task in tasks}
                case VoidResults(_, _, tasks, _):
                    for task in tasks:
                        self._answers.pop(task, None)
                case CompareCopies(peer, _, job, tasks):
                    self._compare(job, peer, tasks)
                case Audit(job, task, peers):
                    self._audit(job, task, peers)
                case Settle(job, _, tasks, _):
                    self._at(self.now_s + COMMIT_S, partial(self._coordinate, TasksCommitted(job, tasks)))
                case DropWorker(peer, _):
                    worker = self._workers[peer]
                    self._carry(worker, partial(self._volunteer, worker, CoordinatorLeft(self._peer)))
                case JobEnded():
                    return

    def _compare(self, job: JobId, peer: PeerId, tasks: Sequence[int]) -> None:
        """Liars of one group give the same wrong answer."""
        agrees = []
        for task in tasks:
            others = self._answers.setdefault(task, [])
            agrees.append((task, tuple(other for other in others if self._lies(other, task) == self._lies(peer, task))))
            others.append(peer)
        self._at(self.now_s, partial(self._coordinate, CopiesCompared(job, peer, tuple(agrees))))

    def _lies(self, peer: PeerId, task: int) -> bool:
        return task in self._workers[peer].lied

    def _audit(self, job: JobId, task: int, peers: tuple[PeerId, ...]) -> None:
        """The coordinator's own device computes one sample after the other."""
        task_s = self._spec.items_per_task / self._scenario.groups[0].items_per_s
        self._audits_end_s = max(self._audits_end_s, self.now_s) + task_s
        right = tuple(peer for peer in peers if not self._lies(peer, task))
        wrong = tuple(peer for peer in peers if self._lies(peer, task))
        found = AuditDone(job, task, right, wrong, f"task {task} is a lie" if wrong else "")
        self._at(self._audits_end_s, partial(self._coordinate, found))

    # --- the volunteers ----------------------------------------------------------------------------------------------

    def _gather(self) -> None:
        links = self._scenario.links
        for group in self._scenario.groups[1:]:
            for number in range(group.count):
                name = f"{group.name}-{number}"
                speed = group.items_per_s * rng_for(self._seed, name, "speed").lognormvariate(0.0, group.speed_spread)
                latency_s = links.latency_s * rng_for(self._seed, name, "latency").lognormvariate(0.0, links.spread)
                dice = rng_for(self._seed, name, "device")
                worker = _Worker(name, Volunteering(int(group.lends)), group, speed, latency_s, dice)
                self._workers[PeerId(name)] = worker
                self._at(self._scenario.starts_within_s * dice.random(), partial(self._join, worker))

    def _join(self, worker: _Worker) -> None:
        self._coordinate(WorkerJoined(PeerId(worker.name), WorkerOffer(False, ("cpu",), 8 * GIB)))
        self._volunteer(worker, CoordinatorJoined(self._peer))

    def _crash(self, peer: PeerId) -> None:
        worker = self._workers[peer]
        if worker.is_alive:
            self._log.add(self.now_s, worker.name, "crashes")
            worker.is_alive = False
            lost = WorkerLost(peer, "the connection broke")
            self._at(self.now_s + worker.latency_s, partial(self._coordinate, lost))

    def _volunteer(self, worker: _Worker, event: Any) -> None:
        own = PeerId(worker.name)
        for effect in self._step(worker.name, worker.machine, event):
            match effect:
                case SetWindow(_, frames, reason):
                    self._answer(worker, WindowSet(own, frames, reason))
                case StartFrame(key):
                    self._start(worker, key)
                case StopFrame((_, number) as key):
                    worker.sent.pop(number, None)
                    self._at(self.now_s, partial(self._volunteer, worker, FrameFinished(key)))
                case DropFrame((_, number)):
                    worker.sent.pop(number, None)
                case RefuseFrame((_, number), reason, final):
                    worker.sent.pop(number, None)
                    self._answer(worker, FrameRefused(own, number, reason, final))

    def _start(self, worker: _Worker, key: FrameKey) -> None:
        frame = worker.sent[key[1]]
        unevenness = 1 + UNEVENNESS * (2 * worker.dice.random() - 1)
        compute_s = len(frame.tasks) * self._spec.items_per_task / worker.items_per_s * unevenness
        load_s = 0.0 if worker.is_warm else worker.group.load_s
        worker.is_warm = True
        self._at(self.now_s + load_s + compute_s, partial(self._finish, worker, key, compute_s))

    def _finish(self, worker: _Worker, key: FrameKey, compute_s: float) -> None:
        frame = worker.sent.pop(key[1], None)
        if frame is None or not worker.is_alive:
            return  # It was stopped.
        done, failures = [], []
        for position, task in enumerate(frame.tasks):
            if worker.dice.random() < worker.group.fails:
                failures.append((position, "internal", "this device fails now and then"))
                continue
            if worker.dice.random() < worker.group.lies:
                worker.lied.add(task)
            done.append(position)
        own = PeerId(worker.name)
        self._answer(worker, FrameAnswered(own, frame.frame, tuple(done), tuple(failures), compute_s))
        self._volunteer(worker, FrameFinished(key))
