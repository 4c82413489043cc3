"""Sharing out many tasks at once, and how large the next frame should be. Pure arithmetic on columns.

`fill` pours tasks over workers like water into vessels: the level is the moment at which all of them are done. Who
would need longer than the level for a single task gets none, since the others are done sooner without its help.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from peerinfer.limits import FRAME_SECONDS_TARGET, FRAME_TASKS_MAX, INLINE_BYTES_MAX, RELAYED_FRAME_BYTES_MAX
from peerinfer.placement_table import Floats

FACTOR = 2.0
"""Of its fair share of what is left, a worker gets one part in so many at once (factoring; Hummel, Schonberg, Flynn,
CACM 1992), so that frames shrink toward the end of a job."""

FRAME_ROUND_TRIPS = 1.5
"""A frame lasts at least so many round trips, so that a far worker is not idle while the next frame travels."""

FRAME_WAY = 0.5
"""And toward the end of a job no frame shrinks below so much of a round trip of its worker's time: finer shares balance
nothing that anybody notices, and each costs its way. Without it ten thousand tasks of a microsecond end with a dozen
frames of a few tasks, one after the other."""

FRAME_SECONDS_MAX = 30.0
"""What is lost with a worker that vanishes."""

_BISECTIONS = 40


def fill(seconds: Floats, ready_s: Floats, tasks: int) -> tuple[NDArray[np.int64], float]:
    """Shares `tasks` among workers that need `seconds` for each and can begin after `ready_s`.

    Returns how many each gets (the sum is `tasks`) and when all of them are done. Raises ValueError without workers.
    """
    if not len(seconds):
        raise ValueError("there is nobody to share the tasks among")
    if tasks <= 0:
        return np.zeros(len(seconds), dtype=np.int64), 0.0
    rates = 1.0 / seconds
    low, high = 0.0, float((ready_s + tasks * seconds).min())
    for _ in range(_BISECTIONS):
        level = (low + high) / 2
        if np.floor(np.maximum(level - ready_s, 0.0) * rates).sum() >= tasks:
            high = level
        else:
            low = level
        if high - low <= 1e-9 * high:
            break
    # Rounding may leave a worker a hair below its next task at `high`: the small shift keeps the sum from falling short.
    counts = np.floor(np.maximum(high * (1 + 1e-9) - ready_s, 0.0) * rates).astype(np.int64)
    surplus = int(counts.sum()) - tasks
    if surplus > 0:
        busy = np.flatnonzero(counts)
        last_first = busy[np.argsort(-(ready_s[busy] + counts[busy] * seconds[busy]), kind="stable")]
        for row in last_first.tolist():
            taken = min(surplus, 1)
            counts[row] -= taken
            surplus -= taken
            if not surplus:
                break
        while surplus > 0:  # many workers tie at the level
            row = int(counts.argmax())
            taken = min(surplus, int(counts[row]))
            counts[row] -= taken
            surplus -= taken
    while surplus < 0:
        row = int((ready_s + (counts + 1) * seconds).argmin())
        counts[row] += 1
        surplus += 1
    used = counts > 0
    return counts, float((ready_s[used] + counts[used] * seconds[used]).max())


def fill_few(seconds: Floats, ready_s: Floats, tasks: int) -> tuple[NDArray[np.int64], float]:
    """The same for very few tasks: one after the other to whom is done with it first."""
    if not len(seconds):
        raise ValueError("there is nobody to share the tasks among")
    counts = np.zeros(len(seconds), dtype=np.int64)
    finish, level_s = ready_s + seconds, 0.0
    for _ in range(tasks):
        row = int(finish.argmin())
        level_s = max(level_s, finish.item(row))
        counts[row] += 1
        finish[row] += seconds.item(row)
    return counts, level_s


def frame_size(
    *,
    open_tasks: int,
    share: float,
    seconds_per_task: float,
    bytes_per_task: float,
    rtt_s: float,
    is_relayed: bool = False,
) -> int:
    """How many tasks the next frame should hold; at least 1. `share`: the worker's part of all speed, 0 to 1.

    Enough for `FRAME_SECONDS_TARGET` of its time and for some round trips, but never more than `1 / FACTOR` of its
    share of what is left, unless that is done long before its answer is back.
    """
    seconds = max(seconds_per_task, 1e-9)
    lasting_s = min(max(FRAME_SECONDS_TARGET, FRAME_ROUND_TRIPS * rtt_s), FRAME_SECONDS_MAX)
    by_time = math.ceil(lasting_s / seconds)
    by_bytes = int((RELAYED_FRAME_BYTES_MAX if is_relayed else INLINE_BYTES_MAX) // max(bytes_per_task, 1.0))
    by_share = max(math.ceil(open_tasks * min(max(share, 0.0), 1.0) / FACTOR), int(FRAME_WAY * rtt_s / seconds))
    return max(1, min(by_time, by_bytes, by_share, FRAME_TASKS_MAX, open_tasks))
