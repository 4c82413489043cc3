"""The executor with its real process: what it computes, and what it keeps."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator

import models
import numpy as np
import onnxruntime
import psutil
import pytest
import trio
from models import batch_of, outputs_of
from onnx import TensorProto, helper

from peerinfer.errors import InputError, ModelRefused, OutOfMemory
from peerinfer.ids import cid_of
from peerinfer.strings import packed, unpacked
from peerinfer.tensors import Port, TensorSpec
from peerinfer_node.clock import SystemClock
from peerinfer_node.devices.probe import cpu_device
from peerinfer_node.inference.remembered_figures import RememberedFigures
from peerinfer_node.inference.subprocess_executor import SubprocessExecutor
from peerinfer_node.memory_store import MemoryStore
from peerinfer_node.ports import Batch, Executor

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(7)


@pytest.fixture
async def executor() -> AsyncIterator[SubprocessExecutor]:
    made = SubprocessExecutor(cpu_device(), threads=1)
    try:
        yield made
    finally:
        await made.close()


def directly(model: bytes, **inputs: np.ndarray) -> list[np.ndarray]:
    """What onnxruntime gives without us."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options).run(None, inputs)


async def test_small_tasks_give_what_onnxruntime_gives(executor: Executor) -> None:
    model, x = models.mlp(), RNG.standard_normal((500, 64)).astype(np.float32)
    interface = await executor.load(cid_of(model), model)
    assert interface.inputs == (Port("x", "float32", (-1, 64)),)
    assert interface.outputs == (Port("y", "float32", (-1, 10)),)
    assert 0 < interface.load_s < 60
    items = [1] * 100 + [4] * 100
    result = await executor.run(cid_of(model), batch_of(items, x=x), 10)
    assert len(result.groups) == 1
    assert not result.failures
    assert 0 < result.compute_s < 10
    assert sum(each.rows * each.runs for each in result.executions) == 500
    assert sum(each.compute_s for each in result.executions) == pytest.approx(result.compute_s)
    found = outputs_of(result, items)
    joined = np.concatenate([found[position]["y"] for position in range(200)])
    np.testing.assert_allclose(joined, directly(model, x=x)[0], rtol=1e-4, atol=1e-5)


async def test_a_real_image_classifier_gives_what_onnxruntime_gives(executor: Executor) -> None:
    model, x = models.orientation(), RNG.random((5, 3, 224, 224), np.float32)
    interface = await executor.load(cid_of(model), model)
    assert [port.shape for port in (*interface.inputs, *interface.outputs)] == [(-1, 3, 224, 224), (-1, 4)]
    for merge in (True, False):
        result = await executor.run(cid_of(model), batch_of([2, 1, 2], merge=merge, x=x), 60)
        joined = np.concatenate([outputs_of(result, [2, 1, 2])[n]["fetch_name_0"] for n in range(3)])
        np.testing.assert_allclose(joined, directly(model, x=x)[0], rtol=1e-4, atol=1e-5)


async def test_a_real_classifier_of_bytes_gives_what_onnxruntime_gives(executor: Executor) -> None:
    model, x = models.magika(), RNG.integers(0, 257, (8, 2048)).astype(np.int32)
    await executor.load(cid_of(model), model)
    for merge in (True, False):
        result = await executor.run(cid_of(model), batch_of([1] * 8, merge=merge, bytes=x), 60)
        assert [group.positions for group in result.groups] == [tuple(range(8))]
        joined = np.concatenate([outputs_of(result, [1] * 8)[n]["target_label"] for n in range(8)])
        np.testing.assert_allclose(joined, directly(model, bytes=x)[0], rtol=1e-4, atol=1e-6)


async def test_only_the_wanted_outputs_come_in_the_wanted_order(executor: Executor) -> None:
    model = models.two_inputs()
    await executor.load(cid_of(model), model)
    a, b = RNG.random((2, 4, 3), np.float32)
    scale = np.array(2, np.float32)
    everything = await executor.run(cid_of(model), batch_of([1, 3], a=a, b=b, scale=scale), 10)
    assert [spec.name for spec in everything.groups[0].tensors] == ["sum", "difference"]
    np.testing.assert_allclose(outputs_of(everything, [1, 3])[1]["difference"], (a - b)[1:] * 2, rtol=1e-5)
    wanted = await executor.run(cid_of(model), batch_of([1, 3], outputs=["difference"], a=a, b=b, scale=scale), 10)
    assert [spec.name for spec in wanted.groups[0].tensors] == ["difference"]
    wrong = await executor.run(cid_of(model), batch_of([1, 3], outputs=["product"], a=a, b=b, scale=scale), 10)
    assert [position for position, _, _ in wrong.failures] == [0, 1]
    assert "no output 'product'; it has sum, difference" in wrong.failures[0][2]


async def test_items_of_a_model_without_a_batch_axis_run_one_by_one(executor: Executor) -> None:
    for model, expected in ((models.no_batch(), (3, 4)), (models.fixed_batch(), (3, 4))):
        shape = (3, 3, 4) if model == models.no_batch() else (3, 4)
        x = RNG.random(shape, np.float32)
        await executor.load(cid_of(model), model)
        result = await executor.run(cid_of(model), batch_of([2, 1], merge=False, x=x), 10)
        joined = np.concatenate([outputs_of(result, [2, 1])[position]["y"] for position in range(2)])
        assert joined.shape == expected
        assert [(each.rows, each.runs) for each in result.executions] == [(1, 3)]
        np.testing.assert_allclose(joined, x.sum(axis=1) if x.ndim == 3 else 2 * x, rtol=1e-5)


async def test_outputs_of_different_shapes_come_in_groups(executor: Executor) -> None:
    model = models.nonzero()
    await executor.load(cid_of(model), model)
    x = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 0]], np.float32)
    result = await executor.run(cid_of(model), batch_of([1, 1, 1], merge=False, x=x), 10)
    assert sorted(group.positions for group in result.groups) == [(0, 2), (1,)]
    found = outputs_of(result, [1, 1, 1])
    assert [found[n]["y"].ravel().tolist() for n in range(3)] == [[0, 2], [2], [0, 1]]


async def test_a_poison_task_fails_alone_in_a_joined_batch(executor: Executor) -> None:
    model = models.poisonable()
    await executor.load(cid_of(model), model)
    x = np.array([[1], [2], [99], [3], [4]], np.int64)
    result = await executor.run(cid_of(model), batch_of([1, 2, 1, 1], x=x), 10)
    [(position, kind, reason)] = result.failures
    assert (position, kind) == (1, "model")
    assert "out of" in reason.lower()
    assert "\n" not in reason
    found = outputs_of(result, [1, 2, 1, 1])
    assert {n: outputs["y"].ravel().tolist() for n, outputs in found.items()} == {0: [10], 2: [30], 3: [40]}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"z": np.zeros((2, 64), np.float32)}, "x"),
        ({"x": np.zeros((2, 64), np.float64)}, "float"),
        ({"x": np.zeros((2, 63), np.float32)}, "64"),
        ({"x": np.zeros((2, 64, 1), np.float32)}, "rank"),
        ({}, "x"),
    ],
    ids=["another name", "another dtype", "another dimension", "another rank", "nothing"],
)
async def test_inputs_that_do_not_fit_the_model_fail_their_tasks_with_a_reason(
    executor: Executor, given: dict[str, np.ndarray], words: str
) -> None:
    model = models.mlp()
    await executor.load(cid_of(model), model)
    result = await executor.run(cid_of(model), batch_of([1, 1], **given), 10)
    assert [(position, kind) for position, kind, _ in result.failures] == [(0, "model"), (1, "model")]
    assert words in result.failures[0][2].lower()


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (Batch((), (), [], True), "1 to 1024 tasks"),
        (Batch((1,) * 1025, (TensorSpec("x", "float32", (1025, 1)),), [bytes(4100)], True), "1 to 1024 tasks"),
        (Batch((1, 1), (TensorSpec("x", "float32", (3, 1)),), [bytes(12)], True), "3 items, the tasks have 2"),
        (Batch((2,), (TensorSpec("x", "float32", (2, 1)),), [bytes(7)], True), "7 bytes, their shapes need 8"),
        (Batch((1,), (TensorSpec("x", "float32", (1, 1 << 40)),), [bytes(4)], True), "need"),
        (Batch((1,), (TensorSpec("x", "uint8", (1,)),) * 2, [bytes(2)], True), "twice"),
    ],
)
async def test_a_batch_that_contradicts_itself_is_refused_unsent(executor: Executor, batch: Batch, words: str) -> None:
    with pytest.raises(InputError, match=words):
        await executor.run(cid_of(b"any"), batch, 10)


async def test_models_with_other_than_numbers_are_refused(executor: Executor) -> None:
    brain = models.identity(TensorProto.BFLOAT16, ["n"])
    with pytest.raises(ModelRefused, match="'x' is a tensor\\(bfloat16\\)"):
        await executor.load(cid_of(brain), brain)


async def test_strings_reach_the_model_and_come_back_whatever_is_in_them(executor: Executor) -> None:
    echo = models.identity(TensorProto.STRING, ["n", 2])
    texts = [["", "a\0"], ["n\u00e4ive \U0001f600", "x" * 1000], ["two\nlines", "\0"]]
    slots = packed(np.array(texts, object))
    await executor.load(cid_of(echo), echo)
    batch = Batch((1, 2), (TensorSpec("x", "string1024", (3, 2)),), [slots.tobytes()], True)
    result = await executor.run(cid_of(echo), batch, 10)
    (group,) = result.groups
    assert group.tensors[0].dtype == "string1024"
    assert unpacked(np.frombuffer(group.body, slots.dtype)).tolist() == [text for row in texts for text in row]


@pytest.mark.parametrize(
    ("slot", "problem"),
    [
        (b"\xff\0\0\0abcd", "longer than its slot"),
        (b"\1\0\0\0abcd", "behind a string"),
        (b"\1\0\0\0\xff\0\0\0", "UTF-8"),
    ],
)
async def test_slots_that_lie_fail_their_tasks_and_nothing_else(executor: Executor, slot: bytes, problem: str) -> None:
    echo = models.identity(TensorProto.STRING, ["n"])
    await executor.load(cid_of(echo), echo)
    batch = Batch((1, 1), (TensorSpec("x", "string8", (2,)),), [slot * 2], True)
    result = await executor.run(cid_of(echo), batch, 10)
    assert [(position, kind) for position, kind, _ in result.failures] == [(0, "model"), (1, "model")]
    assert problem in result.failures[0][2]
    good = Batch((1,), (TensorSpec("x", "string8", (1,)),), [packed(np.array(["ok"])).tobytes()], True)
    assert not (await executor.run(cid_of(echo), good, 10)).failures


async def test_the_models_used_least_recently_make_room(executor: Executor) -> None:
    small = SubprocessExecutor(cpu_device(), threads=1, cache_bytes=1)
    try:
        first, second = models.mlp(0), models.mlp(1)
        await small.load(cid_of(first), first)
        assert await small.holds(cid_of(first))
        await small.load(cid_of(second), second)
        assert not await small.holds(cid_of(first))
        assert await small.holds(cid_of(second))
        with pytest.raises(KeyError):
            await small.run(cid_of(first), batch_of([1], x=np.zeros((1, 64), np.float32)), 10)
    finally:
        await small.close()
    await executor.load(cid_of(first), first)
    await executor.load(cid_of(second), second)
    assert await executor.holds(cid_of(first))
    await executor.unload(cid_of(first))
    assert not await executor.holds(cid_of(first))
    assert await executor.holds(cid_of(second))


async def test_a_model_is_loaded_once_however_often_it_is_given(executor: Executor) -> None:
    model = models.orientation()
    first = await executor.load(cid_of(model), model)
    again = await executor.load(cid_of(model), model)
    assert (again.inputs, again.outputs) == (first.inputs, first.outputs)
    assert again.load_s < first.load_s / 10


async def test_what_does_not_fit_into_memory_is_reported_and_the_rest_goes_on(executor: Executor) -> None:
    model = models.allocating()
    await executor.load(cid_of(model), model)
    x = np.array([10, 1 << 30, 1 << 40, 20], np.int64)
    result = await executor.run(cid_of(model), batch_of([1] * 4, x=x), 60)
    assert [(position, kind) for position, kind, _ in result.failures] == [(1, "memory"), (2, "memory")]
    assert sorted(outputs_of(result, [1] * 4)) == [0, 3]


async def test_a_model_larger_than_the_memory_lent_is_reported() -> None:
    tight = SubprocessExecutor(cpu_device(), threads=1, memory_bytes=320 << 20)
    try:
        model = models.model(
            [helper.make_node("Add", ["x", "w"], ["y"])],
            [models.port("x", TensorProto.FLOAT, ["n", 1])],
            [models.port("y", TensorProto.FLOAT, ["n", 20 << 20])],
            [models.constant("w", np.zeros(20 << 20, np.float32))],
        )
        with pytest.raises(OutOfMemory):
            await tight.load(cid_of(model), model)
        small = models.mlp()
        await tight.load(cid_of(small), small)
    finally:
        await tight.close()


async def test_a_body_larger_than_the_memory_lent_is_reported() -> None:
    tight = SubprocessExecutor(cpu_device(), threads=1, memory_bytes=320 << 20)
    try:
        with pytest.raises(OutOfMemory):
            await tight.load(cid_of(b"large"), bytes(200 << 20))
        model = models.identity(shape=["n", 1000])
        await tight.load(cid_of(model), model)
        large = await tight.run(cid_of(model), batch_of([50_000], x=np.zeros((50_000, 1000), np.float32)), 60)
        assert [kind for _, kind, _ in large.failures] == ["memory"]
        small = await tight.run(cid_of(model), batch_of([5], x=np.zeros((5, 1000), np.float32)), 60)
        assert not small.failures
    finally:
        await tight.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no memory of this kind")
async def test_large_bodies_lie_in_shared_memory_which_the_process_gives_back_when_it_is_idle(
    executor: SubprocessExecutor,
) -> None:
    model = models.identity(shape=["n", 1000])
    await executor.load(cid_of(model), model)
    process = executor._process
    assert process is not None
    assert process._arena is not None
    fd = process._arena.fd

    def shared_bytes() -> int:
        return os.fstat(fd).st_blocks * 512

    loaded_bytes = shared_bytes()
    for rows in (2500, 10, 2500, 2500):  # one after the other in the same memory
        x = RNG.standard_normal((rows, 1000)).astype(np.float32)
        result = await executor.run(cid_of(model), batch_of([rows], x=x), 60)
        assert np.array_equal(outputs_of(result, [rows])[0]["y"], x)
    assert shared_bytes() >= loaded_bytes + 20_000_000
    with trio.fail_after(30):
        while shared_bytes():  # noqa: ASYNC110  (another process)
            await trio.sleep(0.05)
    again = await executor.run(cid_of(model), batch_of([2500], x=x), 60)
    assert np.array_equal(outputs_of(again, [2500])[0]["y"], x)


async def test_more_shapes_than_a_header_holds_are_a_failure_and_not_a_crash(executor: Executor) -> None:
    nodes = [helper.make_node("NonZero", ["x"], [f"{number:02}" + "y" * 200]) for number in range(60)]
    outputs = [models.port(node.output[0], TensorProto.INT64, [1, "m"]) for node in nodes]
    model = models.model(nodes, [models.port("x", TensorProto.FLOAT, ["k"])], outputs)
    await executor.load(cid_of(model), model)
    x = np.tril(np.ones((200, 200), np.float32))
    result = await executor.run(cid_of(model), batch_of([1] * 200, merge=False, x=x), 60)
    assert len(result.failures) == 200
    assert "fewer tasks" in result.failures[0][2]
    fewer = await executor.run(cid_of(model), batch_of([1] * 20, merge=False, x=x[:20]), 60)
    assert len(fewer.groups) == 20


async def test_no_rows_and_all_dtypes_come_back(executor: Executor) -> None:
    for number, dtype in enumerate(("bool", "float16", "int8", "uint64", "float64")):
        model = models.identity(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), ["n", 3])
        x = (np.arange(12).reshape(4, 3) % 2).astype(dtype)
        await executor.load(cid_of(model), model)
        for rows in (4, 0):
            items = [rows, 0]
            result = await executor.run(cid_of(model), batch_of(items, merge=True, x=x[:rows]), 10)
            found = outputs_of(result, items)
            assert found[0]["y"].dtype == dtype, number
            assert np.array_equal(found[0]["y"], x[:rows])
            assert found[1]["y"].shape == (0, 3)


async def test_a_large_batch_comes_back_whole(executor: Executor) -> None:
    model = models.identity(shape=["n", 1000])
    await executor.load(cid_of(model), model)
    x = RNG.random((12_000, 1000), np.float32)
    result = await executor.run(cid_of(model), batch_of([12_000], x=x), 60)
    assert np.array_equal(outputs_of(result, [12_000])[0]["y"], x)


async def test_the_benchmark_measures_the_device_once_and_then_only_starts_the_process() -> None:
    store, found = MemoryStore(), cpu_device()
    for anew in (True, False):
        executor = SubprocessExecutor(found, figures=RememberedFigures(store, SystemClock(), found, "1", anew=anew))
        try:
            assert executor.sandbox == "none"
            device = await executor.benchmark()
            assert executor.device == device
            assert device.gemm_gflops > 0.5
            assert device.bandwidth_gbs > 0.1
            assert device.answers
            assert abs(SystemClock().wall_s() - device.measured_at_s) < 600
            assert executor.pid is not None
            if anew:
                measured = device
        finally:
            await executor.close()
    assert device == measured


async def test_closing_leaves_no_process_and_no_descriptor() -> None:
    before = os.listdir("/proc/self/fd")
    executor = SubprocessExecutor(cpu_device(), threads=1)
    model = models.mlp()
    await executor.load(cid_of(model), model)
    assert len(psutil.Process().children()) == 1
    await executor.close()
    await executor.close()
    assert psutil.Process().children() == []
    assert len(os.listdir("/proc/self/fd")) == len(before)
