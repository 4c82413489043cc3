"""A device that computes in virtual time: it sleeps as long as the work would take, then does the cheap arithmetic."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
import trio

from peerinfer.batch_size import Measure
from peerinfer.classes import CPU_PROVIDER
from peerinfer.errors import AttemptTimeout
from peerinfer.ids import Cid
from peerinfer.limits import GIB
from peerinfer.tensors import Buffer, TensorSpec
from peerinfer_node.ports import Batch, BatchResult, Device, Group, ModelInterface
from peerinfer_sim.linear_model import LinearModel, read_model

BENCHMARK_S = 1.0
UNEVENNESS = 0.1
"""A batch takes up to this share longer or shorter than the last one."""


@dataclass(frozen=True, slots=True)
class Conduct:
    """How a device behaves: chances for each task."""

    lies: float = 0.0
    """It answers with something else."""
    fails: float = 0.0
    """It answers with a failure."""


class SimExecutor:
    """Implements `Executor` for models of `linear_model`."""

    def __init__(
        self, name: str, rng: random.Random, *, seconds_per_item: float, load_s: float, conduct: Conduct
    ) -> None:
        self._rng = rng
        self._seconds_per_item = seconds_per_item
        self._load_s = load_s
        self._conduct = conduct
        self._models: dict[Cid, LinearModel] = {}
        self._turn = trio.Lock()
        self._device = Device(name, "cpu", CPU_PROVIDER, 8 * GIB)
        self.lies_told = 0

    @property
    def device(self) -> Device:
        return self._device

    @property
    def sandbox(self) -> str:
        return "full"

    async def holds(self, model: Cid) -> bool:
        return model in self._models

    async def load(self, model: Cid, data: Buffer) -> ModelInterface:
        async with self._turn:
            if model not in self._models:
                found = read_model(bytes(data))
                await trio.sleep(self._load_s)
                self._models[model] = found
            known = self._models[model]
            return ModelInterface(known.inputs, known.outputs, self._load_s)

    async def run(self, model: Cid, batch: Batch, timeout_s: float) -> BatchResult:
        async with self._turn:
            known = self._models[model]
            task_s = self._seconds_per_item * (1 + UNEVENNESS * (2 * self._rng.random() - 1))
            if task_s * max(batch.items) > timeout_s:
                await trio.sleep(timeout_s)
                raise AttemptTimeout(f"a task took longer than {timeout_s:g} s")
            compute_s = task_s * sum(batch.items)
            await trio.sleep(compute_s)
        return self._answer(known, batch, compute_s)

    def _answer(self, known: LinearModel, batch: Batch, compute_s: float) -> BatchResult:
        (spec,) = batch.tensors
        rows = np.frombuffer(b"".join(batch.body), dtype=spec.dtype).reshape(spec.shape) @ known.weights
        kept, positions, failures = [], [], []
        first = 0
        for position, items in enumerate(batch.items):
            mine = rows[first : first + items]
            first += items
            if self._rng.random() < self._conduct.fails:
                failures.append((position, "internal", "this device fails now and then"))
                continue
            if self._rng.random() < self._conduct.lies:
                self.lies_told += 1
                mine = mine + 1
            positions.append(position)
            kept.append(mine)
        if not positions:
            return BatchResult((), tuple(failures), compute_s)
        joined = np.concatenate(kept)
        name = known.outputs[0].name
        group = Group(tuple(positions), (TensorSpec(name, "float32", joined.shape),), joined.tobytes())
        return BatchResult((group,), tuple(failures), compute_s)

    async def unload(self, model: Cid) -> None:
        self._models.pop(model, None)

    def measures(self, model: Cid) -> tuple[Measure, ...]:
        del model
        return ()

    async def benchmark(self) -> Device:
        async with self._turn:
            await trio.sleep(BENCHMARK_S)
        self._device = replace(self._device, gemm_gflops=1e-3 / self._seconds_per_item, bandwidth_gbs=10.0)
        return self._device

    async def release(self) -> None:
        """There is no memory to give back."""

    async def close(self) -> None:
        pass
