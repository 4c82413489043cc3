"""When a device that says nothing is taken for one that hangs, and not for one that is slow.

A driver that hangs does not say so. What shows is a process that neither answers nor lets itself be stopped, and an honest
one looks alike while it computes a single large node. The difference is the time that such batches took before: batches of
one model with about as many items and bytes, all counted in powers of two. Whoever is killed far beyond that hung, whether
its time was up or nobody wanted its answer any more: jobs give up late answers early, and would hide each hang if only
an expired limit told of one.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from peerinfer.ids import Cid

HANG_FACTOR = 5.0
"""Times the longest of the last runs: a batch that was not stopped within the grace after so long hung. Two of it are for
what one power of two holds, the rest for machines that are busy."""

HANG_MIN_S = 1.0
"""Whatever was measured: a process may lose its core for that long."""

UNKNOWN_HANG_S = 60.0
"""Where nothing like it has run before. A card compiles its shaders first, in software for half a minute."""

OVERDUE_FACTOR = 20.0
"""Times the longest of the last runs: then a batch is stopped here, though its job may allow each of its tasks more."""

OVERDUE_MIN_S = 30.0

RUNS_KEPT = 4
KINDS_MAX = 256
"""Models times sizes; those used least recently go first."""


class RunTimes:
    """How long batches took on one device."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[tuple[Cid, int, int], deque[float]] = OrderedDict()

    def learn(self, model: Cid, items: int, size_bytes: int, run_s: float) -> None:
        key = (model, items.bit_length(), size_bytes.bit_length())
        self._kinds.setdefault(key, deque(maxlen=RUNS_KEPT)).append(run_s)
        self._kinds.move_to_end(key)
        if len(self._kinds) > KINDS_MAX:
            self._kinds.popitem(last=False)

    def longest_s(self, model: Cid, items: int, size_bytes: int) -> float | None:
        """Of the last runs like this one; None if there was none."""
        times = self._kinds.get((model, items.bit_length(), size_bytes.bit_length()))
        return max(times) if times else None


def is_hung(waited_s: float, longest_s: float | None) -> bool:
    """To be asked of a process that had to be killed."""
    return waited_s >= (UNKNOWN_HANG_S if longest_s is None else max(HANG_MIN_S, HANG_FACTOR * longest_s))


def allowed_s(task_s: float, tasks: int, longest_s: float | None) -> float:
    """How long a batch of so many tasks may take, each of which may take `task_s` as far as its job is concerned."""
    asked_s = task_s * tasks
    # Never less than one task may take: what a network with a loop takes depends on its input, and its owner knows that.
    return asked_s if longest_s is None else min(asked_s, max(OVERDUE_MIN_S, OVERDUE_FACTOR * longest_s, task_s))


def hang_words(waited_s: float, longest_s: float | None) -> str:
    usual = "" if longest_s is None else f", where {longest_s:.2g} s were enough before"
    return f"it hung: no answer and no stop within {waited_s:.3g} s{usual}"
