"""Our own node: a coordinator in this process, and a volunteer that is a real `peerinfer join` over encrypted loopback.

The baselines are the bare stream's figures of the same run. Throughput is counted from a job's acceptance to its end:
with every result checked, audited, written to the disk and signed for, as for any user.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import bare_stream
import numpy as np
import psutil
import trio
import workload
from harness import Measurement, percentile
from onnx import TensorProto, helper, numpy_helper

from peerinfer.config import NodeConfig
from peerinfer.control import JOB_ENDED, JobRequest
from peerinfer.ids import JobId
from peerinfer_node.home import Home
from peerinfer_node.node import Node
from peerinfer_node.opening import open_node

sys.path.append(str(Path(__file__).resolve().parents[1]))

from swarm import Daemon, Swarm

TASK_P50 = f"node_{workload.TASK_P50}"
BARE_P50 = "bare_stream_rtt_p50_beside"
TASK_P99 = "node_task_p99"
TASKS = f"node_{workload.TASKS}"
INPUTS_1MB = "node_1mb_inputs"
JOIN_TO_FIRST_TASK = "node_join_to_first_task"
IDLE_CPU = "node_idle_cpu"
IDLE_RSS = "node_idle_rss"
IDLE_TRAFFIC = "node_idle_traffic"

_LARGE_FLOATS = 250_000
"""Of 4 bytes: 1 MB."""

_SETTLE_S = 5.0
"""After a node has started, until what it does once is done."""

_TCP_INFO_BYTES = 256
_BYTES_ACKED, _BYTES_RECEIVED = slice(120, 128), slice(128, 136)
"""Places in the kernel's `struct tcp_info` (linux/tcp.h), the same since Linux 4.1."""


async def run(quick: bool) -> list[Measurement]:
    with tempfile.TemporaryDirectory(prefix="peerinfer-bench-") as folder:
        idle = await _idle(Path(folder) / "idle", 5.0 if quick else 20.0)
        busy = await _busy(Path(folder) / "busy", quick)
    return busy + idle


# --- at work -------------------------------------------------------------------------------------------------------


async def _busy(folder: Path, quick: bool) -> list[Measurement]:
    with Swarm(folder) as swarm:
        async with coordinator(folder) as node:
            model = await node.online.open(workload.model())
            started = perf_counter()
            _join(swarm, node)
            rows = workload.inputs(1)
            found = await node.online.infer(model, {workload.INPUT_NAME: rows}, timeout_s=60.0)
            first_s = perf_counter() - started
            workload.check(rows, found[workload.OUTPUT_NAME])
            bare_ms, times_ms = await _beside_a_bare_stream(node, model, 300 if quick else 3000)
            await node.online.close(model)
            tasks_per_s = await _tasks_per_s(node, folder, 10_000 if quick else 60_000)
            mb_per_s = await _mb_per_s(node, folder, 60 if quick else 300)
    return [
        Measurement(BARE_P50, percentile(bare_ms, 50), "ms"),
        Measurement(TASK_P50, percentile(times_ms, 50), "ms", baseline=BARE_P50, budget=2.0),
        Measurement(TASK_P99, percentile(times_ms, 99), "ms", baseline=TASK_P50),
        Measurement(TASKS, tasks_per_s, "tasks/s", "higher", budget=13_000),
        Measurement(INPUTS_1MB, mb_per_s, "MB/s", "higher", baseline=bare_stream.MB_PER_S, budget=0.7),
        Measurement(JOIN_TO_FIRST_TASK, first_s, "s", budget=5.0),
    ]


async def _beside_a_bare_stream(node: Node, model: Any, rounds: int) -> tuple[list[float], list[float]]:
    """Round trips of a bare stream, and single tasks, in turns of a hundred: what the scheduler of two cores does with
    processes that wake each other changes from one second to the next, by half."""
    bare_ms, times_ms = list[float](), list[float]()
    async with bare_stream.round_trips() as round_trips:
        for _ in range(rounds // 100):
            bare_ms += await round_trips(100)
            times_ms += await _single_tasks_ms(node, model, 100)
    return bare_ms, times_ms


async def _single_tasks_ms(node: Node, model: Any, rounds: int) -> list[float]:
    """One task after the other, from handing it over to holding its answer."""
    rows = workload.inputs(rounds)
    times = []
    for number in range(-rounds // 10, rounds):
        row = rows[number : number + 1] if number >= 0 else rows[:1]
        started = perf_counter()
        found = await node.online.infer(model, {workload.INPUT_NAME: row})
        times.append((perf_counter() - started) * 1e3)
        workload.check(row, found[workload.OUTPUT_NAME])
    return times[-rounds:]


async def _tasks_per_s(node: Node, folder: Path, tasks: int) -> float:
    """Small tasks of one item each, with spot checks; the median of three jobs over other inputs."""
    path = folder / "mlp.onnx"
    path.write_bytes(workload.model())
    rates = []
    for repetition in range(3):
        rows = workload.inputs(tasks) + np.float32(repetition)
        seconds, outputs = await job(node, path, folder / f"rows-{repetition}.npy", rows)
        workload.check(rows, outputs[workload.OUTPUT_NAME])
        rates.append(tasks / seconds)
    return median(rates)


async def _mb_per_s(node: Node, folder: Path, items: int) -> float:
    """Megabytes of inputs per second, 1 MB for each task, through a model that hardly looks at them."""
    path = folder / "first.onnx"
    path.write_bytes(_first_of_many())
    rows = np.random.default_rng(0).standard_normal((items, _LARGE_FLOATS), dtype=np.float32)
    rates = []
    for repetition in range(3):
        rows[:, 1] = repetition  # another input, so that no result is taken from the job before
        seconds, outputs = await job(node, path, folder / "large.npy", rows)
        if not np.array_equal(outputs["y"][:, 0], rows[:, 0]):
            raise ValueError("wrong answers to large tasks: the measurement is void")
        rates.append(rows.nbytes / 1e6 / seconds)
    return median(rates)


async def job(
    node: Node, model: Path, path: Path, rows: Any, *, committee: bool = False
) -> tuple[float, dict[str, Any]]:
    """Runs a job with one item per task; the seconds from its acceptance to its end, and its outputs.

    Raises ValueError unless its committee is as it should be.
    """
    np.save(path, rows)
    job_id = await submit(node, model, path)
    seconds = await seconds_to_end(node, job_id, len(rows), committee=committee)
    return seconds, await outputs_of(node, job_id, len(rows))


async def submit(node: Node, model: Path, path: Path) -> JobId:
    request = JobRequest(model=str(model), inputs=(str(path),), batch=1, verify="spot", replicate=False)
    return await node.control.submit(request)


async def seconds_to_end(node: Node, job_id: JobId, tasks: int, *, committee: bool) -> float:
    """From its acceptance. Raises ValueError unless all of it was done, and its committee is as it should be."""
    async for picture in node.control.watch(job_id):
        if picture["state"] in JOB_ENDED:
            break
    is_checked = picture["audited"] or tasks == 1  # of one result of somebody who is known, none may be drawn
    if picture["state"] != "done" or picture["accepted"] != tasks or not is_checked:
        raise ValueError(f"the job is {picture['state']}: {picture['reason']}; the measurement is void")
    if (len(picture["committee"]) > 1) != committee:
        raise ValueError(f"the job's committee has {len(picture['committee'])} members; the measurement is void")
    return float(picture["elapsed_s"])


async def outputs_of(node: Node, job_id: JobId, items: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    async for block in node.control.results(job_id):
        for name, values in block.rows.items():
            whole = found.setdefault(name, np.zeros((items, *values.shape[1:]), values.dtype))
            whole[block.first_item : block.first_item + block.items] = values
    return found


def _first_of_many() -> bytes:
    """f32[n,250000] -> f32[n,1]: the first number of each row."""
    graph = helper.make_graph(
        [helper.make_node("Slice", ["x", "start", "stop", "axis"], ["y"])],
        "first",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", _LARGE_FLOATS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [
            numpy_helper.from_array(np.array([value], np.int64), name)
            for name, value in (("start", 0), ("stop", 1), ("axis", 1))
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = made.SerializeToString()
    return content


# --- at rest -------------------------------------------------------------------------------------------------------


async def _idle(folder: Path, seconds: float) -> list[Measurement]:
    """What a daemon with one connected peer takes while nothing is asked of it; its device's process not counted."""
    with Swarm(folder) as swarm:
        async with coordinator(folder) as node:
            daemon = _join(swarm, node)
            with trio.fail_after(30):
                while not (node.ports.network.connected() and daemon.stdout):  # noqa: ASYNC110  (there is no event)
                    await trio.sleep(0.05)
            await trio.sleep(_SETTLE_S)
            process = psutil.Process(daemon.pid)
            with _traffic_with(node) as traffic:
                cpu, sent, started = process.cpu_times(), traffic(), perf_counter()
                await trio.sleep(seconds)
                spent, later, sent_later = perf_counter() - started, process.cpu_times(), traffic()
            rss = process.memory_info().rss
    cpu_s = later.user + later.system - cpu.user - cpu.system
    found = [
        Measurement(IDLE_CPU, max(0.0, 100 * cpu_s / spent), "% of a core", budget=1.0),
        Measurement(IDLE_RSS, rss / 1e6, "MB", budget=150.0),
    ]
    if sent is not None and sent_later is not None:
        found.append(Measurement(IDLE_TRAFFIC, (sent_later - sent) / spent, "bytes/s"))
    return found


@contextmanager
def _traffic_with(node: Node) -> Iterator[Any]:
    """Gives a function that tells the bytes of both ways on this process's connections with the node's peers."""
    ports = {int(address.split("/")[4]) for address in node.ports.network.addresses()}
    sockets = [
        socket.socket(fileno=os.dup(connection.fd))
        for connection in psutil.Process().net_connections("tcp")
        if connection.raddr and connection.laddr.port in ports
    ]

    def traffic() -> int | None:
        total = 0
        for each in sockets:
            info = each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
            if len(info) < _BYTES_RECEIVED.stop:
                return None
            total += sum(int.from_bytes(info[place], sys.byteorder) for place in (_BYTES_ACKED, _BYTES_RECEIVED))
        return total if sockets else None

    try:
        yield traffic
    finally:
        for each in sockets:
            each.close()


# --- nodes ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def coordinator(folder: Path, *, stays: bool = False) -> AsyncIterator[Node]:
    """A node in this process that lends nothing."""
    home = Home.resolve({"PEERINFER_HOME": str(folder / "coordinator")})
    config = NodeConfig(listen=("/ip4/127.0.0.1/tcp/0",), mdns=False)
    async with open_node(home, config, lends=False, networked=True, stays=stays) as node:
        yield node


def _join(swarm: Swarm, node: Node) -> Daemon:
    return swarm.join("volunteer", bootstrap=node.ports.network.addresses()[0], wait=False)
