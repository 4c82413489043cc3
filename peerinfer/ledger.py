"""The tasks of one job: where each stands, which wait, and why some failed.

Every task is in exactly one state at any time (invariant I6), and the counts are kept beside so that a picture of a
job of ten million tasks costs nothing.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from peerinfer.ids import PeerId


class TaskState(IntEnum):
    OPEN = 0
    ASSIGNED = 1
    PROVISIONAL = 2
    FINAL = 3
    FAILED = 4


@dataclass(slots=True)
class Faults:
    """What went wrong with one task so far. Only tasks with a history have one."""

    failures: int = 0
    losses: int = 0
    crashed: bool = False
    """It was in a batch that brought a worker down: from now on it travels alone, so that only the culprit fails."""
    peers: list[PeerId] = field(default_factory=list)
    reason: str = ""


class Ledger:
    """States and queue of a job's tasks. `retries` is how often a task may fail and be tried again."""

    def __init__(
        self, tasks: int, *, retries: int, final: Iterable[int] = (), failed: Iterable[tuple[int, str]] = ()
    ) -> None:
        self._state = bytearray(tasks)
        self._counts = [tasks, 0, 0, 0, 0]
        self._faults: dict[int, Faults] = {}
        self._delayed: list[tuple[float, int]] = []
        self._retries = retries
        for task in final:
            self._move(task, TaskState.OPEN, TaskState.FINAL)
        for task, reason in failed:
            self._move(task, TaskState.OPEN, TaskState.FAILED)
            self._faults[task] = Faults(reason=reason)
        self._claimed: Counter[int] = Counter()
        """Of how many times that a task stands in the queue the first ones do not count: it was claimed out of its turn."""
        self._open: deque[int] = deque(task for task in range(tasks) if self._state[task] == TaskState.OPEN)

    # --- reading ---------------------------------------------------------------------------------------------------

    @property
    def tasks(self) -> int:
        return len(self._state)

    def count(self, state: TaskState) -> int:
        return self._counts[state]

    def state(self, task: int) -> TaskState:
        return TaskState(self._state[task])

    @property
    def waiting(self) -> int:
        """Open tasks that could be taken now."""
        return len(self._open) - (self._claimed.total() if self._claimed else 0)

    @property
    def all_answered(self) -> bool:
        """No task is open or assigned."""
        return not self._counts[TaskState.OPEN] and not self._counts[TaskState.ASSIGNED]

    @property
    def next_delayed_s(self) -> float | None:
        return self._delayed[0][0] if self._delayed else None

    def failed(self) -> dict[int, str]:
        """Why each failed task failed, by task."""
        return {
            task: faults.reason
            for task, faults in sorted(self._faults.items())
            if self._state[task] == TaskState.FAILED
        }

    def attempt_number(self, task: int) -> int:
        faults = self._faults.get(task)
        return 0 if faults is None else faults.failures + faults.losses

    def failed_by(self, tasks: Iterable[int]) -> tuple[PeerId, ...]:
        """Peers that could not compute some of these tasks, or vanished with them."""
        if not self._faults:
            return ()
        return tuple(peer for task in tasks if task in self._faults for peer in self._faults[task].peers)

    # --- moving ----------------------------------------------------------------------------------------------------

    def add(self, count: int) -> range:
        """Appends open tasks; returns their numbers."""
        first = len(self._state)
        self._state.extend(bytes(count))
        self._counts[TaskState.OPEN] += count
        added = range(first, first + count)
        self._open.extend(added)
        return added

    def wake(self, now_s: float) -> None:
        """Puts tasks whose wait is over back in the queue, at the front."""
        while self._delayed and self._delayed[0][0] <= now_s:
            _, task = heapq.heappop(self._delayed)
            self._open.appendleft(task)

    def offers(self, peer: PeerId, eligible: Collection[PeerId]) -> bool:
        """Whether `take` would find anything for `peer`."""
        if not self._faults:
            return self.waiting > 0
        waits = int(TaskState.OPEN)
        return any(self._state[task] == waits and not self._is_for_others(task, peer, eligible) for task in self._open)

    def _is_for_others(self, task: int, peer: PeerId, eligible: Collection[PeerId]) -> bool:
        """The peer failed at it, and somebody eligible has not."""
        faults = self._faults.get(task)
        if faults is None or peer not in faults.peers:
            return False
        return len(eligible) > sum(other in eligible for other in faults.peers)

    def take(self, count: int, peer: PeerId, eligible: Collection[PeerId]) -> list[int]:
        """Takes up to `count` tasks for `peer`, which gets nothing it failed at while somebody `eligible` has not."""
        taken: list[int] = []
        passed: list[int] = []
        while self._open and len(taken) < count:
            task = self._open.popleft()
            if self._claimed and self._skips(task):
                continue
            faults = self._faults.get(task)
            if faults is not None:
                if self._is_for_others(task, peer, eligible):
                    passed.append(task)
                    continue
                if faults.crashed:
                    if taken:
                        passed.append(task)
                        break
                    taken.append(task)
                    break
            taken.append(task)
        self._open.extendleft(reversed(passed))
        self._move_all(taken, TaskState.OPEN, TaskState.ASSIGNED)
        return taken

    def claim(self, tasks: Sequence[int]) -> list[int]:
        """Those of the tasks that wait: they are with somebody from now on. Costs nothing for those that stay."""
        delayed = {task for _, task in self._delayed}
        claimed = [task for task in tasks if task < len(self._state) and self._state[task] == TaskState.OPEN]
        self._claimed.update(task for task in claimed if task not in delayed)
        if not delayed.isdisjoint(claimed):
            self._delayed = [entry for entry in self._delayed if entry[1] not in claimed]
            heapq.heapify(self._delayed)
        self._move_all(claimed, TaskState.OPEN, TaskState.ASSIGNED)
        return claimed

    def assigned(self, tasks: Iterable[int]) -> list[int]:
        """Those of the tasks that somebody has and nobody has answered."""
        state, assigned = self._state, int(TaskState.ASSIGNED)
        return [task for task in tasks if state[task] == assigned]

    def answered(self, tasks: Iterable[int]) -> list[int]:
        """Takes results; returns the tasks for which one was due."""
        due = self.assigned(tasks)
        self._move_all(due, TaskState.ASSIGNED, TaskState.PROVISIONAL)
        return due

    def adopt(self, tasks: Iterable[int]) -> list[int]:
        """Takes results from before the job began, provisionally; returns the tasks that were open."""
        adopted = []
        for task in tasks:
            if self._state[task] == TaskState.OPEN:
                self._move(task, TaskState.OPEN, TaskState.PROVISIONAL)
                adopted.append(task)
        self._forget_claims()
        self._open = deque(task for task in self._open if self._state[task] == TaskState.OPEN)
        self._delayed = [entry for entry in self._delayed if self._state[entry[1]] == TaskState.OPEN]
        heapq.heapify(self._delayed)
        return adopted

    def _forget_claims(self) -> None:
        """Before the queue is gone through anyway."""
        if self._claimed:
            self._open = deque(task for task in self._open if not self._skips(task))

    def _skips(self, task: int) -> bool:
        if not self._claimed[task]:
            return False
        self._claimed[task] -= 1
        if not self._claimed[task]:
            del self._claimed[task]
        return True

    def give_back(self, tasks: Sequence[int]) -> None:
        """Tasks that certainly did not run: back to the front of the queue, without a mark."""
        for task in reversed(tasks):
            self._move(task, TaskState.ASSIGNED, TaskState.OPEN)
            self._open.appendleft(task)

    def lost(self, task: int, peer: PeerId, reason: str, *, losses_max: int) -> None:
        """The peer vanished with it. Not the task's fault, unless it keeps happening."""
        faults = self._fault(task, peer, reason)
        faults.losses += 1
        if faults.losses > losses_max:
            self._move(task, TaskState.ASSIGNED, TaskState.FAILED)
        else:
            self._move(task, TaskState.ASSIGNED, TaskState.OPEN)
            self._open.appendleft(task)

    def failed_at(
        self, task: int, peer: PeerId, reason: str, *, crashed: bool, retry_at_s: float, is_last: bool = False
    ) -> bool:
        """The peer could not compute it. True if it is tried again, at `retry_at_s`; False if it failed for good."""
        faults = self._fault(task, peer, reason)
        faults.failures += 1
        faults.crashed = faults.crashed or crashed
        if is_last or faults.failures > self._retries:
            self._move(task, TaskState.ASSIGNED, TaskState.FAILED)
            return False
        self._move(task, TaskState.ASSIGNED, TaskState.OPEN)
        heapq.heappush(self._delayed, (retry_at_s, task))
        return True

    def withdraw(self, task: int, reason: str) -> bool:
        """Nobody wants the task any more; False if it has its result, or failed."""
        state = self.state(task)
        if state not in (TaskState.OPEN, TaskState.ASSIGNED):
            return False
        self._move(task, state, TaskState.FAILED)
        self._faults.setdefault(task, Faults()).reason = reason
        if state == TaskState.OPEN:
            self._forget_claims()
            self._open = deque(other for other in self._open if other != task)
            self._delayed = [entry for entry in self._delayed if entry[1] != task]
            heapq.heapify(self._delayed)
        return True

    def void(self, task: int, peer: PeerId, reason: str) -> None:
        """A provisional result that is not believed any more: the task is open again, for others."""
        self._fault(task, peer, reason)
        self._move(task, TaskState.PROVISIONAL, TaskState.OPEN)
        self._open.append(task)

    def reject(self, task: int, peer: PeerId, reason: str) -> None:
        """A provisional result that nobody can vouch for, however often it is computed: the task fails for good."""
        self._fault(task, peer, reason)
        self._move(task, TaskState.PROVISIONAL, TaskState.FAILED)

    def finalise(self, tasks: Iterable[int]) -> int:
        """Provisional results of these tasks count from now on; returns how many there were."""
        state, provisional = self._state, int(TaskState.PROVISIONAL)
        kept = [task for task in tasks if state[task] == provisional]
        self._move_all(kept, TaskState.PROVISIONAL, TaskState.FINAL)
        return len(kept)

    def check(self) -> None:
        counted = [self._state.count(state) for state in TaskState]
        assert counted == self._counts, f"counts {self._counts}, but the states say {counted}"
        queue = Counter(self._open)
        assert all(queue[task] >= count > 0 for task, count in self._claimed.items()), (
            "a claimed task is not in the queue"
        )
        waiting = [*(queue - self._claimed).elements(), *(task for _, task in self._delayed)]
        assert len(set(waiting)) == len(waiting), "a task waits in a queue twice"
        assert len(waiting) == self._counts[TaskState.OPEN], (
            f"{self._counts[TaskState.OPEN]} tasks are open, {len(waiting)} wait in a queue"
        )

    def _fault(self, task: int, peer: PeerId, reason: str) -> Faults:
        faults = self._faults.setdefault(task, Faults())
        if peer not in faults.peers:
            faults.peers.append(peer)
        faults.reason = reason
        return faults

    def _move_all(self, tasks: Sequence[int], old: TaskState, new: TaskState) -> None:
        """Like `_move` for each, in a loop that a coordinator of small tasks spends little time in."""
        state, before, after = self._state, int(old), int(new)
        for task in tasks:
            assert state[task] == before, f"task {task} is {TaskState(state[task]).name}, not {old.name}"
            state[task] = after
        self._counts[old] -= len(tasks)
        self._counts[new] += len(tasks)

    def _move(self, task: int, old: TaskState, new: TaskState) -> None:
        assert self._state[task] == old, (
            f"task {task} is {TaskState(self._state[task]).name}, not {old.name}: cannot become {new.name}"
        )
        self._state[task] = new
        self._counts[old] -= 1
        self._counts[new] += 1
