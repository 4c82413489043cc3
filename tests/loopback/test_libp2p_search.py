"""A coordinator in a swarm larger than its table finds who can do its job, over real streams."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import trio

from peerinfer.control import JobRequest
from peerinfer_node.clock import SystemClock
from peerinfer_node.keys import MemoryKeys
from peerinfer_node.log import Log
from peerinfer_node.memory_blob_store import MemoryBlobStore
from peerinfer_node.memory_store import MemoryStore
from peerinfer_node.network.libp2p_network import Libp2pNetwork
from peerinfer_node.node import Node, NodeSettings
from peerinfer_node.ports import Ports
from peerinfer_node.seat_store import MemorySeatStore
from peerinfer_sim.executor import Conduct, SimExecutor
from peerinfer_sim.linear_model import write_inputs, write_model

pytestmark = pytest.mark.slow

NODES = 16
TABLE = 8
PATIENCE_S = 150.0
"""All of them share one thread of one process, and perhaps a busy machine: only what never happens is a failure."""


def node_of(number: int, bootstrap: tuple[str, ...], *, kind: str = "cpu") -> Node:
    keys = MemoryKeys(b"search %d" % number)
    executor = SimExecutor(str(number), random.Random(1), seconds_per_item=1e-4, load_s=0.0, conduct=Conduct())
    executor._device = replace(executor._device, kind=kind, gemm_gflops=1.0)
    ports = Ports(
        network=Libp2pNetwork(keys, ["/ip4/127.0.0.1/tcp/0"], mdns=False),
        store=MemoryStore(),
        seats=MemorySeatStore(),
        blobs=MemoryBlobStore(),
        keys=keys,
        clock=SystemClock(),
        seed=number,
        executors=(executor,),
    )
    return Node(ports, NodeSettings(str(number), lends=number > 0, bootstrap=bootstrap, members_max=TABLE), Log())


async def run_job(node: Node, folder, **wanted):
    model, _weights = write_model(np.random.default_rng(0))
    inputs = write_inputs(np.random.default_rng(1), 50)
    (folder / "model.onnx").write_bytes(model)
    np.savez(folder / "inputs.npz", x=inputs)
    request = JobRequest(
        str(folder / "model.onnx"),
        (str(folder / "inputs.npz"),),
        batch=10,
        verify="none",
        timeout_s=PATIENCE_S,
        **wanted,
    )
    shown = {}
    with trio.fail_after(PATIENCE_S):
        async for picture in node.control.watch(await node.control.submit(request)):
            shown = picture
    return shown


def knows(node: Node, other: Node) -> bool:
    return node.members.machine.member(other.peer_id) is not None


async def wait_stranger(nodes: list[Node], to: Node) -> Node:
    """Somebody who does not know this one; tables are samples that keep changing."""
    with trio.fail_after(PATIENCE_S):
        while True:
            strangers = [node for node in nodes if node is not to and not knows(node, to)]
            if strangers:
                return strangers[0]
            await trio.sleep(0.05)


async def live(node: Node, stop: trio.Event, *, task_status: trio.TaskStatus[None]) -> None:
    async with node.run():
        task_status.started()
        await stop.wait()


async def test_the_one_card_of_a_swarm_is_found_by_a_node_that_does_not_know_it(tmp_path) -> None:
    async with trio.open_nursery() as nursery:
        boot, boot_stops, all_stop = node_of(100, ()), trio.Event(), trio.Event()
        await nursery.start(live, boot, boot_stops)
        bootstrap = boot.ports.network.addresses()
        nodes = [node_of(number, bootstrap, kind="gpu" if number == 1 else "cpu") for number in range(NODES)]
        for node in nodes:
            await nursery.start(live, node, all_stop)
        with trio.fail_after(PATIENCE_S):
            while not all(node.members.machine.is_full for node in nodes):  # noqa: ASYNC110
                await trio.sleep(0.05)
        boot_stops.set()  # Whom everybody came in by is gone before anybody searches.
        card = nodes[1]
        stranger = await wait_stranger(nodes, card)
        shown = await run_job(stranger, tmp_path, device_kind="gpu")
        assert shown["state"] == "done", shown["reason"]
        assert [peer["peer_id"] for peer in shown["peers"]] == [card.peer_id]
        assert knows(stranger, card)
        for node in nodes:
            node.members.machine.check()
            node.members.searches.machine.check()
        all_stop.set()
