"""Memory over many runs of many models: what a worker takes at the start is what it takes in the end.

A thousand runs here; `PEERINFER_TEST_RUNS=10000` takes half a minute.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import models
import numpy as np
import psutil
import pytest
from models import batch_of
from process_memory import allocated_bytes

from peerinfer.ids import cid_of
from peerinfer.limits import MIB
from peerinfer_node.devices.probe import cpu_device
from peerinfer_node.inference.networks import SMALL, image_for, model_of
from peerinfer_node.inference.subprocess_executor import SubprocessExecutor

pytestmark = pytest.mark.slow

RUNS = int(os.environ.get("PEERINFER_TEST_RUNS", "1000"))
GROWTH_BYTES_MAX = 8 * MIB
"""Pages that the allocator has touched once; a leak of a kilobyte a run is 10 MB in ten thousand."""

RNG = np.random.default_rng(0)
Inputs = dict[str, np.ndarray]


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


TEN: list[tuple[Callable[[], bytes], Inputs]] = [
    (models.orientation, {"x": floats(1, 3, 224, 224)}),
    (models.magika, {"bytes": RNG.integers(0, 256, (1, 2048)).astype(np.int32)}),
    (lambda: model_of(SMALL), {"x": image_for(SMALL)}),
    (models.digits, {"x": floats(1, 64)}),
    (lambda: models.mlp(1), {"x": floats(1, 64)}),
    (lambda: models.mlp(2), {"x": floats(1, 64)}),
    (lambda: models.mlp(3), {"x": floats(1, 64)}),
    (models.poisonable, {"x": np.array([[4]], np.int64)}),
    (models.identity, {"x": floats(1, 4)}),
    (lambda: models.slow(2, 128), {"x": floats(1, 1)}),
]


async def test_thousands_of_runs_of_ten_models_leave_memory_flat() -> None:
    executor = SubprocessExecutor(cpu_device(), threads=1)
    try:
        loaded = []
        for build, inputs in TEN:
            data = build()
            await executor.load(cid_of(data), data)
            loaded.append((cid_of(data), inputs))
        assert executor.pid is not None
        worker = psutil.Process(executor.pid)
        before = None
        for number in range(RUNS):
            model, inputs = loaded[number % len(loaded)]
            several = 1 + number // len(loaded) % 4  # batches of several sizes
            joined = {name: np.concatenate([rows] * several) for name, rows in inputs.items()}
            result = await executor.run(model, batch_of([1] * several, **joined), 60)
            assert result.failures == ()
            if number == RUNS // 5:
                before = allocated_bytes(worker.pid), allocated_bytes()
        assert before is not None
        growth = allocated_bytes(worker.pid) - before[0], allocated_bytes() - before[1]
        assert worker.is_running()
        print(f"{RUNS} runs: the worker grew by {growth[0] / MIB:.1f} MiB, the daemon by {growth[1] / MIB:.1f} MiB")
        assert max(growth) < GROWTH_BYTES_MAX
    finally:
        await executor.close()
