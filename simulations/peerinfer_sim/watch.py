"""Looks at every step of every machine, and speaks up at the first thing that is wrong.

Two kinds of eyes. A machine's own `check()` asserts what it believes of itself. `JobAccount` believes nothing: it counts
from outside, by events and effects alone, where the result of every task came from and why it counts, and compares
(invariants I6 and I7).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from peerinfer.assignment import (
    AuditDone,
    CopiesCompared,
    DropWorker,
    JobAccepted,
    JobDropped,
    JobEnded,
    JobPicture,
    JobSpec,
    KeepResults,
    Settle,
    TaskFailedForGood,
    TasksAdded,
    TasksCommitted,
    VoidResults,
    WorkerJoined,
)
from peerinfer.coordination import Coordination
from peerinfer.ids import JobId, PeerId
from peerinfer_node.driver import Driver
from peerinfer_sim.event_log import EventLog, brief

whose: ContextVar[str] = ContextVar("whose")
"""The node in whose tasks we are: machines are told apart by where they were made."""


class Violation(Exception):
    """Something happened that must not. `history` holds the last lines of the node where it showed."""

    def __init__(self, what: str, history: list[str]) -> None:
        super().__init__(what)
        self.what = what
        self.history = history


class JobAccount:
    """Whose result each task of one job has, seen from outside."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec
        self.tasks = spec.tasks
        self.kept: dict[int, PeerId | None] = dict.fromkeys(spec.final)
        self.failed: dict[int, str] = dict(spec.failed)
        for peer, _, tasks in spec.kept:
            self.kept |= {task: peer for task in tasks if task not in self.kept and task not in self.failed}
        self.settled = set(spec.final)
        """Tasks that stood up to the job's policy."""
        self.committed = set(spec.final)
        """Tasks that the journal has."""
        self.trusted: set[PeerId] = {peer for peer, local, _ in spec.kept if local}
        """This node's own devices, and those of whose results a sample stood up to its check."""
        self.copies: dict[int, set[PeerId]] = {}
        """Who else has answered a task."""
        self.voided: list[int] = []
        self.caught: set[PeerId] = set()
        self.end: JobEnded | None = None

    def keep(self, effect: KeepResults) -> None:
        for task in effect.tasks:
            assert 0 <= task < self.tasks, f"task {task} does not exist"
            assert task not in self.kept, f"task {task} is kept twice: from {self.kept[task]} and from {effect.peer}"
            assert task not in self.failed, f"task {task} failed for good and is kept all the same"
            assert effect.peer not in self.caught, f"task {task} is taken from {effect.peer}, which was caught"
            self.kept[task] = effect.peer
        if self.spec.online:
            self.settled.update(effect.tasks)
            self.committed.update(effect.tasks)

    def void(self, effect: VoidResults) -> None:
        for task in effect.tasks:
            assert self.kept.get(task) == effect.peer, f"task {task} is voided, but {effect.peer}'s was not kept"
            assert task not in self.settled, f"task {task} is voided, but it has counted already"
            del self.kept[task]
            self.copies.pop(task, None)
        self.voided += effect.tasks

    def settle(self, effect: Settle) -> None:
        if self.spec.verify != "none":
            assert effect.peer in self.trusted, f"{effect.peer}'s results count, and none of them was ever checked"
            assert effect.peer not in self.caught, f"{effect.peer}'s results count, and it was caught"
        for task in effect.tasks:
            is_there = self.kept.get(task) == effect.peer or effect.peer in self.copies.get(task, ())
            assert is_there, f"task {task} counts, but {effect.peer}'s was not kept"
            self.kept[task] = effect.peer
            assert task not in self.settled, f"task {task} counts twice"
            self.settled.add(task)

    def commit(self, tasks: Iterable[int]) -> None:
        for task in tasks:
            assert task in self.settled, f"task {task} is in the journal before it counts"
            assert task not in self.committed, f"task {task} is in the journal twice"
            self.committed.add(task)

    def compare(self, picture: JobPicture) -> None:
        states = (picture.open, picture.assigned, picture.provisional, picture.final, len(picture.failed))
        assert sum(states) == self.tasks, f"{self.tasks} tasks went in, {states} of them are there"
        known = picture.provisional + picture.final
        assert known == len(self.kept), f"{len(self.kept)} results were kept, the machine counts {known}"
        assert picture.final == len(self.committed), f"{len(self.committed)} tasks are final, not {picture.final}"
        assert len(picture.failed) == len(self.failed), f"{len(self.failed)} tasks failed, not {len(picture.failed)}"

    def close(self, end: JobEnded) -> None:
        self.end = end
        if end.state != "done":
            return
        for task in range(self.tasks):
            assert (task in self.committed) != (task in self.failed), f"the job is done without task {task}"
        for task in self.voided:
            assert task in self.committed or task in self.failed, f"task {task} was voided and not done again"


class Watch:
    """Performs the steps of a world's machines and keeps the accounts of its jobs."""

    def __init__(
        self, log: EventLog, *, check_every: int = 1, observe: Callable[[str, Any, Any], None] = lambda *step: None
    ) -> None:
        """`observe` sees node, machine and event of every step, after it; what it asserts is checked as well."""
        self.log = log
        self._observe = observe
        self.steps = 0
        self.jobs: dict[tuple[str, JobId], JobAccount] = {}
        self._local: dict[str, PeerId] = {}
        """Nodes that lend themselves their own devices."""
        self._check_every = check_every
        """Large machines take longer to check than to run."""

    def step(self, node: str, machine: Any, event: Any, now_s: float) -> list[Any]:
        """`machine.handle(…)`, logged and checked. Raises `Violation`."""
        self.log.add(now_s, node, f"{type(machine).__name__} {brief(event)}")
        self.steps += 1
        try:
            effects: list[Any] = machine.handle(event, now_s)
            for effect in effects:
                self.log.add(now_s, node, f"  {brief(effect)}")
            if isinstance(machine, Coordination):
                self._account(node, machine, event, effects)
            if self.steps % self._check_every == 0:
                machine.check()
            self._observe(node, machine, event)
        except AssertionError as error:
            raise Violation(f"{type(machine).__name__} of {node}: {error}", self.log.recent(node)) from error
        return effects

    def forget(self, node: str) -> None:
        """The node has died: what it coordinates when it comes back is counted anew."""
        self._local.pop(node, None)
        self.jobs = {(owner, job): account for (owner, job), account in self.jobs.items() if owner != node}

    def _account(self, node: str, machine: Coordination, event: Any, effects: list[Any]) -> None:
        match event:
            case JobAccepted(spec):
                account = self.jobs.setdefault((node, spec.job), JobAccount(spec))
                account.trusted.update([self._local[node]] if node in self._local else [])
            case JobDropped(job, _):
                self.jobs.pop((node, job), None)
            case TasksAdded(job, count):
                self.jobs[node, job].tasks += count
            case TasksCommitted(job, tasks) if (node, job) in self.jobs:
                self.jobs[node, job].commit(tasks)
            case AuditDone(job, _, right, _, _) if (node, job) in self.jobs:
                self.jobs[node, job].trusted.update(right or ())
            case CopiesCompared(job, peer, agrees) if (node, job) in self.jobs:
                for task, others in agrees:
                    self.jobs[node, job].copies.setdefault(task, set()).add(peer)
                    self.jobs[node, job].trusted.update((peer, *others) if others else ())
            case WorkerJoined(peer, offer):
                if offer.local:
                    self._local[node] = peer
                    for (owner, _), account in self.jobs.items():
                        account.trusted.update([peer] if owner == node else [])
        for effect in effects:
            match effect:
                case KeepResults(_, _, job, _):
                    self.jobs[node, job].keep(effect)
                case Settle(job, _, _, _):
                    self.jobs[node, job].settle(effect)
                case VoidResults(job, _, _, _):
                    self.jobs[node, job].void(effect)
                case TaskFailedForGood(job, task, reason):
                    self.jobs[node, job].failed[task] = reason
                case JobEnded(job, _, _, _, picture):
                    self.jobs[node, job].compare(picture)
                    self.jobs[node, job].close(effect)
                case DropWorker(peer, _):
                    for (owner, _), account in self.jobs.items():
                        if owner == node:
                            account.caught.add(peer)
        if self.steps % self._check_every == 0:
            for running, picture in machine.snapshot().items():
                self.jobs[node, running].compare(picture)


class _Watched:
    """A machine as the driver sees it, with somebody looking over its shoulder."""

    def __init__(self, machine: Any, node: str, watch: Watch) -> None:
        self._machine = machine
        self._node = node
        self._watch = watch

    @property
    def deadline_s(self) -> float:
        deadline_s: float = self._machine.deadline_s
        return deadline_s

    def handle(self, event: Any, now_s: float) -> list[Any]:
        return self._watch.step(self._node, self._machine, event, now_s)

    def snapshot(self) -> object:
        return self._machine.snapshot()

    def check(self) -> None:
        self._machine.check()


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Every machine that is given to the one driver meanwhile is watched."""
    init = Driver.__init__

    def watched_init(driver: Any, machine: Any, *others: Any, **named: Any) -> None:
        init(driver, _Watched(machine, whose.get(), watch), *others, **named)

    Driver.__init__ = watched_init  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Driver.__init__ = init  # type: ignore[method-assign]
