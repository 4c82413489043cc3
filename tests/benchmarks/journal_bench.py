"""What the journal costs: the same job with a committee of three daemons against one with a committee of its submitter.

The daemons compute in both cases, and are connected; only who writes down what is final differs. Results are not copied
to the electors (`replicate` is off): what that costs depends on their size and is paid by jobs that must outlive their
submitter. The two take turns, since a machine is never equally quiet for long.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

import node_bench
import numpy as np
import trio
import workload
from harness import Measurement
from node_bench import Swarm

from peerinfer.committee import ELIGIBLE_AFTER_S
from peerinfer_node.node import Node

ALONE = "journal_committee_of_one"
COMMITTEE = "journal_committee_of_three"
_ELECTORS = 3
_TURNS = 5
_CONNECT_TIMEOUT_S = 60.0


async def run(quick: bool) -> list[Measurement]:
    tasks = 10_000 if quick else 100_000
    with tempfile.TemporaryDirectory(prefix="peerinfer-bench-") as name:
        folder = Path(name)
        with Swarm(folder) as swarm:
            async with node_bench.coordinator(folder, stays=True) as node:
                for number in range(_ELECTORS):
                    address = node.ports.network.addresses()[0]
                    swarm.join(f"elector-{number}", bootstrap=address, wait=False)
                await _wait_electors(node)
                found: dict[str, list[float]] = {ALONE: [], COMMITTEE: []}
                for turn in range(_TURNS + 1):
                    for which in (ALONE, COMMITTEE):
                        rate = await _tasks_per_s(node, folder, tasks, which, turn)
                        if turn:  # the first time every volunteer fetches the model
                            found[which].append(rate)
    return [
        Measurement(ALONE, median(found[ALONE]), "tasks/s", "higher"),
        Measurement(COMMITTEE, median(found[COMMITTEE]), "tasks/s", "higher", baseline=ALONE, budget=0.95),
    ]


async def _wait_electors(node: Node) -> None:
    with trio.fail_after(_CONNECT_TIMEOUT_S):
        while True:
            members = [member for member in node.members.machine.members() if member.state == "alive"]
            if sum(member.advert is not None and member.advert.elects for member in members) >= _ELECTORS:
                break
            await trio.sleep(0.1)
    await trio.sleep(ELIGIBLE_AFTER_S + 0.5)


async def _tasks_per_s(node: Node, folder: Path, tasks: int, which: str, turn: int) -> float:
    model = folder / "mlp.onnx"
    model.write_bytes(workload.model())
    # A node that is no daemon elects itself: its jobs end with it.
    node.settings = replace(node.settings, is_daemon=which == COMMITTEE)
    rows = workload.inputs(tasks) + np.float32(2 * turn + (which == COMMITTEE))
    seconds, outputs = await node_bench.job(node, model, folder / "rows.npy", rows, committee=which == COMMITTEE)
    workload.check(rows, outputs[workload.OUTPUT_NAME])
    return tasks / seconds
