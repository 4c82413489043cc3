"""The results of one job that are provisional: who answered what, what waits for a check, and the windows they lie in.

Bookkeeping alone; `verification` decides. Most results are *plain*: one peer answered, and nobody looks at it. Of those
only the window is kept, so that a frame of a thousand costs two updates of a table. A task that somebody does look at
has an entry of its own, `Answered`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from peerinfer.ids import PeerId


@dataclass(slots=True, eq=False)
class Window:
    """Consecutive answers of one peer that become final, or void, together."""

    peer: PeerId
    tasks: dict[int, None] = field(default_factory=dict)
    answers: int = 0
    waiting: int = 0
    """Tasks whose check is not back."""
    drawn: int = 0
    """Checks that were drawn in it."""
    is_deferred: bool = False
    """Results came while nobody had time to check any: the next check is drawn among all of the window."""
    passed: int = 0
    failed_to_check: int = 0
    """Checks that could not be had, nor another one in their place."""


@dataclass(slots=True, eq=False)
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

    @property
    def checks_out(self) -> int:
        return sum(window.waiting for window in self.windows)


@dataclass(slots=True, eq=False)
class Answered:
    first: PeerId
    """Whose answer came first."""
    sides: list[list[PeerId]]
    """Who gave the same answer; more than one side is a dispute."""
    windows: dict[PeerId, Window] = field(default_factory=dict)
    subject: PeerId | None = None
    """Whose answer the outstanding check is about."""
    copies_wanted: int = 0
    audit_wanted: bool = False
    audit_queued: bool = False
    """The wanted audit has not been asked for yet: the own device is busy."""
    no_audit: bool = False
    """The own device could not compute it."""
    no_copy: bool = False
    """Nobody else could be found for it."""

    @property
    def is_waiting(self) -> bool:
        return self.copies_wanted > 0 or self.audit_wanted

    @property
    def peers(self) -> list[PeerId]:
        return [peer for side in self.sides for peer in side]


class Provisional:
    """Every answer that is not final, in the windows of its supporters."""

    def __init__(self) -> None:
        self.peers: dict[PeerId, Supporter] = {}
        self.tasks: dict[int, Answered] = {}
        """Those that are looked at, or were."""
        self.plain: dict[int, Window] = {}
        """All others."""
        self.trusted_here = 0
        self.waiting = 0
        """Tasks that wait for a check."""
        self.audits_out = 0
        """Audits that the own device was asked for."""
        self.audits_queued = 0
        """Those that it will be asked for."""
        self.copies_out = 0
        """Tasks that wait for a copy."""

    def __len__(self) -> int:
        return len(self.tasks) + len(self.plain)

    def find(self, key: int) -> Answered | None:
        """The task's own entry, made if it has none yet; None if the task is not provisional."""
        task = self.tasks.get(key)
        if task is None and key in self.plain:
            window = self.plain.pop(key)
            task = self.tasks[key] = Answered(window.peer, [[window.peer]], {window.peer: window})
        return task

    def answer_all(self, keys: Sequence[int], peer: Supporter) -> None:
        """First answers to these tasks."""
        window = self._window(peer)
        window.tasks.update(dict.fromkeys(keys))
        window.answers += len(keys)
        self.plain.update(dict.fromkeys(keys, window))

    def answer(self, key: int, task: Answered, peer: Supporter) -> None:
        """One more peer answered the task; which side it is on is the caller's affair."""
        window = self._window(peer)
        task.windows[peer.peer] = window
        window.tasks[key] = None
        window.answers += 1
        window.waiting += task.is_waiting

    @staticmethod
    def _window(peer: Supporter) -> Window:
        if not peer.windows:
            peer.windows.append(Window(peer.peer))
        return peer.windows[-1]

    def withdraw(self, name: PeerId) -> tuple[list[int], list[int]]:
        """Takes a peer and its support away; returns the tasks that it alone had answered, gone too, and the others."""
        peer = self.peers.pop(name)
        self.trust_changed(peer, is_here=False)
        alone, others = [], []
        for window in peer.windows:
            for key in window.tasks:
                if self.plain.pop(key, None) is not None:
                    alone.append(key)
                    continue
                task = self.tasks[key]
                del task.windows[name]
                task.sides = [rest for side in task.sides if (rest := [other for other in side if other != name])]
                others.append(key)
        peer.windows = []
        return alone, others

    def trust_changed(self, peer: Supporter, *, is_here: bool | None = None, audits: float | None = None) -> None:
        self.trusted_here -= peer.is_here and peer.is_trusted
        peer.is_here = peer.is_here if is_here is None else is_here
        peer.audits = peer.audits if audits is None else audits
        self.trusted_here += peer.is_here and peer.is_trusted

    def drop_if_gone(self, peer: Supporter) -> None:
        if not peer.is_here and not any(window.tasks for window in peer.windows):
            self.peers.pop(peer.peer, None)

    def waits(
        self, task: Answered, *, copies: int | None = None, audit: bool | None = None, is_queued: bool = False
    ) -> None:
        """Sets what the task waits for, and keeps the counts in step. `is_queued`: the audit will be asked for later."""
        before = task.is_waiting
        self._count(task, -1)
        task.copies_wanted = task.copies_wanted if copies is None else copies
        if audit is not None:
            task.audit_wanted, task.audit_queued = audit, audit and is_queued
        self._count(task, 1)
        for window in task.windows.values():
            window.waiting += task.is_waiting - before

    def _count(self, task: Answered, sign: int) -> None:
        self.waiting += sign * task.is_waiting
        self.copies_out += sign * (task.copies_wanted > 0)
        self.audits_queued += sign * task.audit_queued
        self.audits_out += sign * (task.audit_wanted and not task.audit_queued)

    def forget(self, key: int, *, apart_from: Window | None = None) -> None:
        """The task is settled. The window `apart_from` is left as it is."""
        held = self.plain.pop(key, None)
        if held is not None:
            if held is not apart_from:
                del held.tasks[key]
            return
        task = self.tasks.pop(key)
        waiting = task.is_waiting
        self._count(task, -1)
        for window in task.windows.values():
            if window is not apart_from:
                del window.tasks[key]
                window.waiting -= waiting

    def check(self) -> None:
        held: dict[int, int] = {}
        for peer in self.peers.values():
            for window in peer.windows:
                waiting = sum(key in self.tasks and self.tasks[key].is_waiting for key in window.tasks)
                assert waiting == window.waiting, f"{peer.peer}: {waiting} checks are out, {window.waiting} counted"
                assert window.answers >= len(window.tasks), f"{peer.peer}: a window holds more than it was given"
                for key in window.tasks:
                    held[key] = held.get(key, 0) + 1
                    where = self.plain[key] if key in self.plain else self.tasks[key].windows[peer.peer]
                    assert where is window, f"task {key} is in another window"
        trusted = sum(peer.is_here and peer.is_trusted for peer in self.peers.values())
        assert trusted == self.trusted_here, f"{trusted} trusted peers are here, {self.trusted_here} counted"
        for key, task in self.tasks.items():
            assert key not in self.plain, f"task {key} is plain and is not"
            assert held.get(key) == len(task.windows) == len(task.peers), f"{key} is not in its supporters' windows"
        assert all(held.get(key) == 1 for key in self.plain), "a plain task is in no window, or in several"
        waiting = sum(task.is_waiting for task in self.tasks.values())
        assert waiting == self.waiting, f"{waiting} tasks wait, {self.waiting} counted"
        queued = sum(task.audit_queued for task in self.tasks.values())
        assert queued == self.audits_queued, f"{queued} audits wait to be asked for, {self.audits_queued} counted"
        audits = sum(task.audit_wanted for task in self.tasks.values()) - queued
        assert audits == self.audits_out, f"{audits} audits are out, {self.audits_out} counted"
        copies = sum(task.copies_wanted > 0 for task in self.tasks.values())
        assert copies == self.copies_out, f"{copies} tasks wait for a copy, {self.copies_out} counted"
