"""The results that are provisional: who answered what, what waits for a check, and the windows they are gathered in.

Bookkeeping alone; `verification` decides. Each answer stands in its task and in one window of the peer that gave it, and
the counts of what waits are kept beside, so that no event costs more than what it touches.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from peerinfer.ids import JobId, PeerId
from peerinfer.verification_events import TaskKey


@dataclass(slots=True)
class Window:
    """Consecutive answers of one peer that become final, or void, together."""

    tasks: dict[TaskKey, None] = field(default_factory=dict)
    answers: int = 0
    waiting: int = 0
    """Tasks whose check is not back."""


@dataclass(slots=True)
class Supporter:
    peer: PeerId
    groups: tuple[str, ...]
    audits: float
    probation: int
    is_own: bool
    is_here: bool = True
    windows: list[Window] = field(default_factory=list)
    """The last one takes what arrives; the others are full and wait for their checks."""

    @property
    def is_trusted(self) -> bool:
        return self.audits >= self.probation


@dataclass(slots=True)
class Answered:
    sides: list[list[PeerId]]
    """Who gave the same answer; more than one side is a dispute."""
    windows: dict[PeerId, Window] = field(default_factory=dict)
    subject: PeerId | None = None
    """Whose answer the outstanding check is about."""
    copies_wanted: int = 0
    audit_wanted: bool = False
    is_excused: bool = False
    """The check that is due could not be had."""

    @property
    def is_waiting(self) -> bool:
        return self.copies_wanted > 0 or self.audit_wanted

    @property
    def peers(self) -> list[PeerId]:
        return [peer for side in self.sides for peer in side]


class Provisional:
    """Every answer that is not final, in its task and in the windows of its supporters."""

    def __init__(self) -> None:
        self.peers: dict[PeerId, Supporter] = {}
        self.tasks: dict[TaskKey, Answered] = {}
        self.open: dict[JobId, dict[TaskKey, None]] = {}
        """The tasks by job."""
        self.trusted_here = 0
        self._waiting: dict[JobId, int] = {}

    def waiting(self, job: JobId) -> int:
        """How many of the job's tasks wait for a check."""
        return self._waiting.get(job, 0)

    def answer(self, key: TaskKey, task: Answered, peer: Supporter) -> None:
        """One more peer answered the task; which side it is on is the caller's affair."""
        if key not in self.tasks:
            self.tasks[key] = task
            self.open.setdefault(key[0], {})[key] = None
        if not peer.windows:
            peer.windows.append(Window())
        window = peer.windows[-1]
        task.windows[peer.peer] = window
        window.tasks[key] = None
        window.answers += 1
        window.waiting += task.is_waiting

    def withdraw(self, name: PeerId) -> list[TaskKey]:
        """Takes a peer and its support away; returns the tasks that it had answered."""
        peer = self.peers.pop(name)
        self.trust_changed(peer, is_here=False)
        keys = [key for window in peer.windows for key in window.tasks]
        peer.windows = []
        for key in keys:
            task = self.tasks[key]
            del task.windows[name]
            task.sides = [rest for side in task.sides if (rest := [other for other in side if other != name])]
        return keys

    def trust_changed(self, peer: Supporter, *, is_here: bool | None = None, audits: float | None = None) -> None:
        self.trusted_here -= peer.is_here and peer.is_trusted
        peer.is_here = peer.is_here if is_here is None else is_here
        peer.audits = peer.audits if audits is None else audits
        self.trusted_here += peer.is_here and peer.is_trusted

    def drop_if_gone(self, peer: Supporter) -> None:
        if not peer.is_here and not any(window.tasks for window in peer.windows):
            self.peers.pop(peer.peer, None)

    def waits(self, key: TaskKey, task: Answered, *, copies: int | None = None, audit: bool | None = None) -> None:
        """Sets what the task waits for, and keeps the windows' counts in step."""
        before = task.is_waiting
        task.copies_wanted = task.copies_wanted if copies is None else copies
        task.audit_wanted = task.audit_wanted if audit is None else audit
        changed = task.is_waiting - before
        self._waiting[key[0]] = self._waiting.get(key[0], 0) + changed
        for window in task.windows.values():
            window.waiting += changed

    def forget(self, key: TaskKey, *, apart_from: Window | None = None) -> None:
        task = self.tasks.pop(key)
        waiting = task.is_waiting
        for window in task.windows.values():
            if window is not apart_from:
                del window.tasks[key]
                window.waiting -= waiting
        job = key[0]
        self._waiting[job] = self._waiting.get(job, 0) - waiting
        del self.open[job][key]
        if not self.open[job]:
            del self.open[job]
            del self._waiting[job]

    def check(self) -> None:
        held: dict[TaskKey, int] = {}
        for peer in self.peers.values():
            for window in peer.windows:
                waiting = sum(self.tasks[key].is_waiting for key in window.tasks)
                assert waiting == window.waiting, f"{peer.peer}: {waiting} checks are out, {window.waiting} counted"
                assert window.answers >= len(window.tasks), f"{peer.peer}: a window holds more than it was given"
                for key in window.tasks:
                    held[key] = held.get(key, 0) + 1
                    assert self.tasks[key].windows[peer.peer] is window
        trusted = sum(peer.is_here and peer.is_trusted for peer in self.peers.values())
        assert trusted == self.trusted_here, f"{trusted} trusted peers are here, {self.trusted_here} counted"
        for key, task in self.tasks.items():
            assert held.get(key) == len(task.windows) == len(task.peers), f"{key} is not in its supporters' windows"
            assert key in self.open[key[0]]
        assert sum(len(tasks) for tasks in self.open.values()) == len(self.tasks)
        for job, tasks in self.open.items():
            waiting = sum(self.tasks[key].is_waiting for key in tasks)
            assert waiting == self.waiting(job), f"job {job}: {waiting} tasks wait, {self.waiting(job)} counted"
