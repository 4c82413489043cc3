"""One system's trial: the same small tasks for all, measured the same way, answers checked.

Each system's file hands over two functions, one for a task that is waited for and one for many tasks at once, written
as that system's users would write them. The file runs in the environment of requirements/peers.txt; `run_all.py` starts
it with the path of the file to write.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import onnxruntime as ort
from harness import Measurement, compare, percentile, write_results
from workload import INPUT_NAME, OUTPUT_FLOATS, TASK_P50, TASKS, Floats, check, inputs, model

One = Callable[[bytes], bytes]
Many = Callable[[Sequence[bytes]], Sequence[bytes]]

_REPETITIONS = 3
_SYNC_TASKS = 200


class Network:
    """The workload's network on one thread, as the other process of every system runs it."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(model(), options, providers=["CPUExecutionProvider"])

    def run(self, tasks: Sequence[bytes]) -> list[bytes]:
        """The outputs of some tasks, merged into one batch; float32 bytes in and out."""
        rows = np.frombuffer(b"".join(tasks), np.float32).reshape(len(tasks), -1)
        return [row.tobytes() for row in self._session.run(None, {INPUT_NAME: rows})[0]]


def task_p50(system: str, one: One) -> Measurement:
    """Milliseconds of a task that is waited for: the median of some repetitions' medians, after a warm-up."""
    rows = inputs(_SYNC_TASKS)
    tasks = [row.tobytes() for row in rows]
    _checked(rows[:20], [one(task) for task in tasks[:20]])
    medians = []
    for _ in range(_REPETITIONS):
        times = []
        outputs = []
        for task in tasks:
            started = perf_counter()
            outputs.append(one(task))
            times.append((perf_counter() - started) * 1e3)
        _checked(rows, outputs)
        medians.append(percentile(times, 50))
    return Measurement(f"{system}_{TASK_P50}", median(medians), "ms")


def tasks_per_s(system: str, many: Many, count: int) -> Measurement:
    """Tasks per second of `count` tasks handed over at once: the median of some repetitions, after a warm-up."""
    rows = inputs(count)
    tasks = [row.tobytes() for row in rows]
    warm = max(1, count // 10)
    _checked(rows[:warm], many(tasks[:warm]))
    rates = []
    for _ in range(_REPETITIONS):
        started = perf_counter()
        outputs = many(tasks)
        rates.append(count / (perf_counter() - started))
        _checked(rows, outputs)
    return Measurement(f"{system}_{TASKS}", median(rates), "tasks/s", "higher")


def _checked(rows: Floats, outputs: Sequence[bytes]) -> None:
    check(rows, np.frombuffer(b"".join(outputs), np.float32).reshape(-1, OUTPUT_FLOATS))


def hand_in(*measurements: Measurement) -> None:
    """Writes the trial's measurements where `run_all.py` asked for them."""
    write_results(Path(sys.argv[1]), compare(measurements))
