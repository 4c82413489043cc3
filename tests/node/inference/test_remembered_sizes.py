from __future__ import annotations

import models
import numpy as np
from models import batch_of

from peerinfer.batch_size import DID_NOT_FIT, SAMPLES, Measure
from peerinfer.ids import cid_of
from peerinfer_node.clock import SystemClock
from peerinfer_node.devices.probe import cpu_device
from peerinfer_node.inference.remembered_sizes import MODELS_MAX, VALID_S, RememberedSizes
from peerinfer_node.inference.subprocess_executor import SubprocessExecutor
from peerinfer_node.memory_store import MemoryStore

MEASURES = (Measure(10, 1, 0.001), Measure(10, 2, 0.0015), Measure(10, 4, DID_NOT_FIT))


class Clock(SystemClock):
    ahead_s = 0.0

    def wall_s(self) -> float:
        return super().wall_s() + self.ahead_s


async def test_what_was_measured_outlives_the_node_but_not_a_month_nor_another_driver() -> None:
    store, clock = MemoryStore(), Clock()
    model = cid_of(b"model")
    await RememberedSizes(store, clock, cpu_device(), "driver 1").set(model, MEASURES)
    assert await RememberedSizes(store, clock, cpu_device(), "driver 1").find(model) == MEASURES
    assert await RememberedSizes(store, clock, cpu_device(), "driver 2").find(model) == ()
    clock.ahead_s = VALID_S + 1
    assert await RememberedSizes(store, clock, cpu_device(), "driver 1").find(model) == ()


async def test_the_models_used_least_recently_are_forgotten_first() -> None:
    sizes = RememberedSizes(MemoryStore(), Clock(), cpu_device(), "")
    for number in range(MODELS_MAX + 1):
        await sizes.set(cid_of(b"%d" % number), MEASURES)
        assert await sizes.find(cid_of(b"0"))  # used all the time
    assert await sizes.find(cid_of(b"1")) == ()
    assert await sizes.find(cid_of(b"2")) == MEASURES


async def test_what_is_stored_and_not_ours_is_forgotten() -> None:
    store = MemoryStore()
    sizes = RememberedSizes(store, Clock(), cpu_device(), "")
    for nonsense in ("", "[]", '{"a": 1}', '{"a": [1, [[1, 2]]]}', '{"a": ["x", []]}'):
        await store.set_setting(sizes._key, nonsense)
        assert await RememberedSizes(store, Clock(), cpu_device(), "").find(cid_of(b"a")) == ()


async def test_a_process_measures_a_model_while_it_works_and_the_next_one_knows_it() -> None:
    store, clock = MemoryStore(), Clock()
    data = models.mlp()
    model = cid_of(data)
    rows = np.random.default_rng(0).standard_normal((400, 64)).astype(np.float32)
    first = SubprocessExecutor(cpu_device(), sizes=RememberedSizes(store, clock, cpu_device(), ""))
    second = SubprocessExecutor(cpu_device(), sizes=RememberedSizes(store, clock, cpu_device(), ""))
    try:
        await first.load(model, data)
        assert first.measures(model) == ()
        await first.run(model, batch_of([1] * 400, x=rows), 10)
        measures = first.measures(model)
        assert {measure.rows for measure in measures} >= {1, 2, 4}
        assert {measure.row_bytes_power for measure in measures} == {8}
        await second.load(model, data)
        assert second.measures(model) == measures
        await second.run(model, batch_of([1] * 2 * SAMPLES, x=rows[: 2 * SAMPLES]), 10)
        assert second.measures(model) == measures  # nothing is measured twice
    finally:
        await first.close()
        await second.close()
