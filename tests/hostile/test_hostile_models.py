"""Models that attack the machine which runs them. Each must be stopped with a reason, and the next model must run.

The attacks are those that were tried on ONNX Runtime 1.32; most of them do harm there, or hang it for good.
"""

from __future__ import annotations

import mmap
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import models
import numpy as np
import psutil
import pytest
import trio
from models import batch_of, model, outputs_of, port
from onnx import ModelProto, TensorProto, helper

from peerinfer.errors import AttemptTimeout, ModelRefused, OutOfMemory, PeerinferError, WorkerDied
from peerinfer.ids import cid_of
from peerinfer.limits import GIB
from peerinfer_node.devices.probe import cpu_device
from peerinfer_node.inference.subprocess_executor import SubprocessExecutor

pytestmark = pytest.mark.slow

FLOAT, INT64, UINT8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8
LINK = "/proc/self/cwd/../../etc/passwd"
"""A link that leads out of every folder."""

ROW = {"x": np.ones((1, 1), np.float32)}


@dataclass(frozen=True)
class Attack:
    """A model that the static check or ONNX Runtime must refuse, with a word of the reason."""

    data: Callable[[], bytes]
    reason: str


@dataclass(frozen=True)
class Bomb:
    """A model that cannot be told from an honest one before it runs. Its task must fail in one of these ways."""

    data: Callable[[], bytes]
    kinds: tuple[str, ...]
    inputs: dict[str, Any] = field(default_factory=lambda: ROW)
    allow_loops: bool = False


def external(location: str, offset: int = 0) -> bytes:
    tensor = TensorProto(name="w", data_type=UINT8, dims=[64], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", str(offset)), ("length", "64")):
        tensor.external_data.add(key=key, value=value)
    return model([helper.make_node("Identity", ["w"], ["y"])], [], [port("y", UINT8, [64])], [tensor])


def nested(depth: int) -> bytes:
    """Branches inside branches, written by hand: protobuf's own library would run out of stack."""

    def varint(value: int) -> bytes:
        return (bytes([value & 127 | 128]) + varint(value >> 7)) if value > 127 else bytes([value])

    def field_of(number: int, data: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(data)) + data

    leaf = helper.make_graph([helper.make_node("Identity", ["x"], ["o"])], "g", [], [port("o", FLOAT, [1])])
    graph = innermost = leaf.SerializeToString()
    for _ in range(depth):
        node = field_of(1, b"c") + field_of(2, b"o") + field_of(4, b"If")
        for name, branch in ((b"then_branch", graph), (b"else_branch", innermost)):
            node += field_of(5, field_of(1, name) + field_of(6, branch) + b"\xa0\x01\x05")
        graph = field_of(1, node) + field_of(2, b"g") + field_of(12, port("o", FLOAT, [1]).SerializeToString())
    for value in (port("c", TensorProto.BOOL, []), port("x", FLOAT, [1])):
        graph += field_of(11, value.SerializeToString())
    opset = helper.make_opsetid("", models.OPSET).SerializeToString()
    return b"\x08\x09" + field_of(7, graph) + field_of(8, opset)


def function(name: str, calls: Sequence[str]) -> Any:
    """A model-local function that calls others one after the other."""
    nodes, given = [], "a"
    for number, called in enumerate(calls):
        nodes.append(helper.make_node(called, [given], [f"t{number}"], domain="" if called == "Relu" else "loc"))
        given = f"t{number}"
    nodes.append(helper.make_node("Identity", [given], ["b"]))
    opsets = [helper.make_opsetid("", models.OPSET), helper.make_opsetid("loc", 1)]
    return helper.make_function("loc", name, ["a"], ["b"], nodes, opsets)


def calling(name: str, functions: Sequence[Any]) -> bytes:
    node = helper.make_node(name, ["x"], ["y"], domain="loc")
    return model([node], [port("x", FLOAT, [1])], [port("y", FLOAT, [1])], domains=["loc"], functions=functions)


def foreign(op: str, domain: str, **attributes: Any) -> bytes:
    node = helper.make_node(op, ["x"], ["y"], domain=domain, **attributes)
    return model([node], [port("x", FLOAT, [1])], [port("y", FLOAT, [1])], domains=[domain])


def initialised(dims: Sequence[int], raw: bytes) -> bytes:
    tensor = TensorProto(name="w", data_type=FLOAT, dims=dims, raw_data=raw)
    return model([helper.make_node("Identity", ["w"], ["y"])], [], [port("y", FLOAT, None)], [tensor])


def two_faced() -> bytes:
    """Protobuf reads a small honest model; ONNX Runtime would read its own format, unchecked."""
    return b"\x12\x08\0\0ORTM\0\0" + models.identity()


def sparse() -> bytes:
    bomb = ModelProto.FromString(models.identity())
    values = TensorProto(name="w", data_type=FLOAT, dims=[1], raw_data=bytes(4))
    indices = TensorProto(data_type=INT64, dims=[1], raw_data=bytes(8))
    bomb.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [1 << 20, 1 << 20]))
    data: bytes = bomb.SerializeToString()
    return data


ATTACKS = {
    "external data beside": Attack(lambda: external("secret.txt"), "another file"),
    "external data above": Attack(lambda: external("../secret.txt"), "another file"),
    "external data by path": Attack(lambda: external("/etc/passwd"), "another file"),
    "external data through a link": Attack(lambda: external(LINK), "another file"),
    "external data in proc": Attack(lambda: external("/proc/self/environ"), "another file"),
    "external data in memory": Attack(lambda: external("*/_ORT_MEM_ADDR_/*", 0x400000), "another file"),
    "branches 50 deep": Attack(lambda: nested(50), "deep"),
    "branches 1,000 deep": Attack(lambda: nested(1000), "nested too deeply"),
    "branches 5,000 deep": Attack(lambda: nested(5000), "nested too deeply"),
    "functions that unfold to 2^29 nodes": Attack(
        lambda: calling(
            "F29", [function("F0", ["Relu"])] + [function(f"F{n}", [f"F{n - 1}"] * 2) for n in range(1, 30)]
        ),
        "functions",
    ),
    "a function that calls itself": Attack(lambda: calling("R", [function("R", ["R"])]), "functions"),
    "an operator of a stranger": Attack(lambda: foreign("Evil", "evil.corp"), "unknown domain 'evil.corp'"),
    "an operator that calls a service": Attack(
        lambda: foreign("OpenAIAudioToText", "com.microsoft.extensions", model_uri="http://127.0.0.1:1/"),
        "unknown domain",
    ),
    "a compiled context with a file name": Attack(
        lambda: foreign("EPContext", "com.microsoft", embed_mode=0, ep_cache_context="../secret.txt"), "'EPContext'"
    ),
    "an operator that nobody knows": Attack(lambda: foreign("Frobnicate", ""), "'Frobnicate' is unknown"),
    "an operator that ONNX Runtime lacks": Attack(
        lambda: foreign("Frobnicate", "com.microsoft"), "ONNX Runtime refused"
    ),
    "a loop without end": Attack(lambda: models.looping(2**62), "loops"),
    "a tensor with less data than it claims": Attack(lambda: initialised([1 << 20], bytes(16)), "does not bring"),
    "dimensions that overflow": Attack(lambda: initialised([1 << 33, 1 << 33], b""), "does not bring"),
    "a negative dimension": Attack(lambda: initialised([-4], bytes(16)), "negative"),
    "a sparse tensor of a terabyte": Attack(sparse, "unfold"),
    "two formats in one": Attack(two_faced, "own format"),
    "garbage": Attack(lambda: np.random.default_rng(3).bytes(4096), "not an ONNX model"),
    "half a model": Attack(lambda: models.mlp()[:5000], "not an ONNX model"),
    "nothing": Attack(lambda: b"", "empty"),
}


def filled(elements: int) -> bytes:
    """Fills a constant number of floats, whatever the input; constant folding may try it at load."""
    constant = models.constant("size", np.array([elements], np.int64))
    one = models.constant("one", np.array([1], np.float32))
    nodes = [
        helper.make_node("Constant", [], ["s"], value=constant),
        helper.make_node("ConstantOfShape", ["s"], ["filled"], value=one),
        helper.make_node("ReduceMax", ["filled"], ["m"], keepdims=0),
        helper.make_node("Add", ["x", "m"], ["y"]),
    ]
    return model(nodes, [port("x", FLOAT, ["n", 1])], [port("y", FLOAT, ["n", 1])])


def expanded(shape: Sequence[int], then: str) -> bytes:
    nodes = [
        helper.make_node("Expand", ["x", "s"], ["large"]),
        helper.make_node(then, ["large", "large"], ["z"]),
        helper.make_node("ReduceSum", ["z"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    size = models.constant("s", np.array(shape, np.int64))
    return model(nodes, [port("x", FLOAT, ["n", 1])], [port("y", FLOAT, ["n", 1])], [size])


def out_of_bounds() -> bytes:
    node = helper.make_node("Gather", ["w", "x"], ["y"])
    table = models.constant("w", np.arange(4, dtype=np.float32))
    return model([node], [port("x", INT64, ["n"])], [port("y", FLOAT, ["n"])], [table])


BOMBS = {
    "four terabytes": Bomb(lambda: filled(1 << 40), ("memory",)),
    "four gigabytes": Bomb(lambda: filled(1 << 30), ("memory",)),
    "an input blown up to four gigabytes": Bomb(lambda: expanded([1 << 15, 1 << 15], "Add"), ("memory",)),
    "a product of a minute": Bomb(lambda: expanded([12_000, 12_000], "MatMul"), ("timeout", "memory")),
    "a loop without end from a trusted hand": Bomb(
        lambda: models.looping(2**62), ("timeout",), {"x": np.ones(1, np.float32)}, allow_loops=True
    ),
    "an index far outside": Bomb(out_of_bounds, ("model",), {"x": np.array([10**9], np.int64)}),
    "an index far outside on the other side": Bomb(out_of_bounds, ("model",), {"x": np.array([-(2**62)], np.int64)}),
}


async def check_that_an_honest_model_runs(executor: SubprocessExecutor) -> None:
    honest = models.poisonable()
    await executor.load(cid_of(honest), honest)
    result = await executor.run(cid_of(honest), batch_of([1], x=np.array([[4]], np.int64)), 10)
    assert outputs_of(result, [1])[0]["y"].tolist() == [[40]]


@pytest.fixture
async def executor() -> AsyncIterator[SubprocessExecutor]:
    made = SubprocessExecutor(cpu_device(), threads=1, memory_bytes=2 * GIB)
    try:
        yield made
    finally:
        await made.close()


def device_processes() -> list[psutil.Process]:
    """Of this process alone; daemons of other tests may run beside them."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if any("inference.worker_process" in word for word in child.cmdline()):
                found.append(child)
    return found


async def test_every_attack_is_refused_by_name_and_the_process_lives(executor: SubprocessExecutor) -> None:
    await check_that_an_honest_model_runs(executor)
    [process] = device_processes()
    for name, attack in ATTACKS.items():
        data = attack.data()
        with pytest.raises(ModelRefused) as caught:
            await executor.load(cid_of(data), data)
        assert attack.reason in str(caught.value), name
        assert "\n" not in str(caught.value), name
        assert not await executor.holds(cid_of(data)), name
        assert device_processes() == [process], name
    await check_that_an_honest_model_runs(executor)


@pytest.mark.parametrize("name", BOMBS)
async def test_every_bomb_costs_its_own_task_and_nothing_else(name: str) -> None:
    bomb = BOMBS[name]
    executor = SubprocessExecutor(cpu_device(), threads=1, memory_bytes=2 * GIB, allow_loops=bomb.allow_loops)
    try:
        data = bomb.data()
        try:
            await executor.load(cid_of(data), data)
            timeout_s = 1 if "timeout" in bomb.kinds else 60  # others do not depend on how busy the machine is
            result = await executor.run(cid_of(data), batch_of([1], **bomb.inputs), timeout_s)
            [(_, kind, reason)] = result.failures
            assert reason
        except OutOfMemory:
            kind = "memory"
        except AttemptTimeout:
            kind = "timeout"
        assert kind in bomb.kinds
        await check_that_an_honest_model_runs(executor)
    finally:
        await executor.close()
    assert device_processes() == []


async def test_a_model_of_two_gigabytes_is_refused_before_a_byte_of_it_travels(executor: SubprocessExecutor) -> None:
    await check_that_an_honest_model_runs(executor)
    with mmap.mmap(-1, 2 * GIB) as data, pytest.raises(ModelRefused, match="the limit is 2147483647"):
        await executor.load(cid_of(b"large"), data)  # type: ignore[arg-type]
    await check_that_an_honest_model_runs(executor)


STRIKES: dict[str, tuple[signal.Signals, type[PeerinferError], str]] = {
    "an operator that crashes the provider": (signal.SIGSEGV, WorkerDied, "SIGSEGV"),
    "a provider that gives up": (signal.SIGABRT, WorkerDied, "SIGABRT"),
    "a driver that hangs": (signal.SIGSTOP, AttemptTimeout, "no answer from the device within 1 s"),
}
"""What a driver's fault does to the process in the middle of a run; nobody has a model at hand that causes it."""


@pytest.mark.parametrize("name", STRIKES)
async def test_a_fault_of_the_driver_costs_the_run_under_way_and_nothing_else(
    executor: SubprocessExecutor, name: str
) -> None:
    strike, error, words = STRIKES[name]
    await check_that_an_honest_model_runs(executor)
    data = models.slow(2000)
    await executor.load(cid_of(data), data)
    x = np.ones((1, 1), np.float32)
    pid = executor.pid
    assert pid is not None

    async def hit() -> None:
        await trio.sleep(0.1)
        os.kill(pid, strike)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hit)
        with pytest.raises(error, match=words):
            await executor.run(cid_of(data), batch_of([1], x=x), 1 if error is AttemptTimeout else 60)
    assert not psutil.pid_exists(pid)
    await check_that_an_honest_model_runs(executor)
