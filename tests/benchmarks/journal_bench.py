"""What the journal costs: the same job with a committee of three daemons against one with a committee of its submitter.

The daemons compute in both cases, and are connected; only who writes down what is final differs. Results are not copied
to the electors (`replicate` is off): what that costs depends on their size and is paid by jobs that must outlive their
submitter. The two take turns, since a machine is never equally quiet for long.

On a machine with fewer cores than processes the electors take their time from the workers and from the coordinator, as
electors on machines of their own do not. So beside the tasks per second it is counted what the coordinator's process and
an elector's spend on each task, and how long a job of one task takes: its election and two rounds of the journal.

Tasks of a fifth of a microsecond are the worst case: nothing but bookkeeping. So tasks of about a millisecond are measured
as well, which is still a fiftieth of what jobs are cut into (`splitting.TASK_SECONDS_TARGET`).
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import models
import node_bench
import numpy as np
import psutil
import trio
import workload
from harness import Measurement
from node_bench import Swarm

from peerinfer.committee import ELIGIBLE_AFTER_S
from peerinfer_node.node import Node

ALONE = "journal_committee_of_one"
COMMITTEE = "journal_committee_of_three"
LONGER = "tasks_of_a_millisecond"
_ELECTORS = 3
_LONGER_NODES, _LONGER_SIZE = 1, 256
_TURNS = 6
"""Even, so that each is the first of its turn as often as the other."""

_SHORT_JOBS = 10
_CONNECT_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class _Spent:
    """By one job: seconds from its acceptance to its end, and of the processor."""

    seconds: float
    coordinator_s: float
    electors_s: float
    """By all three daemons, at work as volunteers as well; without their devices' processes."""


async def run(quick: bool) -> list[Measurement]:
    tasks = 10_000 if quick else 100_000
    with tempfile.TemporaryDirectory(prefix="peerinfer-bench-") as name:
        folder = Path(name)
        with Swarm(folder) as swarm:
            async with node_bench.coordinator(folder, stays=True) as node:
                daemons = []
                for number in range(_ELECTORS):
                    address = node.ports.network.addresses()[0]
                    daemon = swarm.join(f"elector-{number}", bootstrap=address, wait=False)
                    daemons.append(psutil.Process(daemon.pid))
                await _wait_electors(node)
                long = await _in_turn(node, folder, daemons, tasks, _TURNS)
                short = await _in_turn(node, folder, daemons, 1, _SHORT_JOBS)
                longer = await _in_turn(node, folder, daemons, tasks // 20, _TURNS, longer=True)
    return [*_measured(long, tasks), *_short(short), *_longer(longer, tasks // 20)]


def _measured(found: dict[str, list[_Spent]], tasks: int) -> list[Measurement]:
    measured = []
    for which, other in ((ALONE, None), (COMMITTEE, ALONE)):
        rate = median(tasks / spent.seconds for spent in found[which])
        measured.append(Measurement(which, rate, "tasks/s", "higher", other, 0.95 if other else None))
    for which, other in ((ALONE, None), (COMMITTEE, ALONE)):
        micros = 1e6 * median(spent.coordinator_s for spent in found[which]) / tasks
        baseline, budget = (f"{other}_coordinator", 1.05) if other else (None, None)
        measured.append(Measurement(f"{which}_coordinator", micros, "µs of processor/task", "lower", baseline, budget))
    more_s = median(spent.electors_s for spent in found[COMMITTEE]) - median(spent.electors_s for spent in found[ALONE])
    micros = 1e6 * more_s / _ELECTORS / tasks
    measured.append(Measurement(f"{COMMITTEE}_elector", micros, "µs of processor/task"))
    return measured


def _short(found: dict[str, list[_Spent]]) -> list[Measurement]:
    times = {which: 1e3 * median(spent.seconds for spent in found[which]) for which in (ALONE, COMMITTEE)}
    return [
        Measurement(f"{ALONE}_job_of_one", times[ALONE], "ms"),
        Measurement(f"{COMMITTEE}_job_of_one", times[COMMITTEE], "ms", "lower", f"{ALONE}_job_of_one"),
    ]


def _longer(found: dict[str, list[_Spent]], tasks: int) -> list[Measurement]:
    rates = {which: median(tasks / spent.seconds for spent in found[which]) for which in (ALONE, COMMITTEE)}
    return [
        Measurement(f"{ALONE}_{LONGER}", rates[ALONE], "tasks/s"),
        Measurement(f"{COMMITTEE}_{LONGER}", rates[COMMITTEE], "tasks/s", "higher", f"{ALONE}_{LONGER}", 0.95),
    ]


async def _wait_electors(node: Node) -> None:
    with trio.fail_after(_CONNECT_TIMEOUT_S):
        while True:
            members = [member for member in node.members.machine.members() if member.state == "alive"]
            if sum(member.advert is not None and member.advert.elects for member in members) >= _ELECTORS:
                break
            await trio.sleep(0.1)
    await trio.sleep(ELIGIBLE_AFTER_S + 0.5)


async def _in_turn(
    node: Node, folder: Path, daemons: list[psutil.Process], tasks: int, turns: int, *, longer: bool = False
) -> dict[str, list[_Spent]]:
    found: dict[str, list[_Spent]] = {ALONE: [], COMMITTEE: []}
    for turn in range(turns + 1):
        for which in (ALONE, COMMITTEE) if turn % 2 else (COMMITTEE, ALONE):
            spent = await _job(node, folder, daemons, tasks, which, turn, longer=longer)
            if turn:  # the first time every volunteer fetches the model
                found[which].append(spent)
    return found


async def _job(
    node: Node, folder: Path, daemons: list[psutil.Process], tasks: int, which: str, turn: int, *, longer: bool
) -> _Spent:
    model, path = folder / ("longer.onnx" if longer else "mlp.onnx"), folder / "rows.npy"
    model.write_bytes(models.slow(_LONGER_NODES, _LONGER_SIZE) if longer else workload.model())
    node.proposing.elects = which == COMMITTEE  # whoever is no elector of others' jobs elects itself
    rows = np.linspace(-1, 1, tasks, dtype=np.float32).reshape(-1, 1) if longer else workload.inputs(tasks)
    rows += np.float32(2 * turn + (which == COMMITTEE))
    np.save(path, rows)
    job_id = await node_bench.submit(node, model, path)
    own_s, daemons_s = time.process_time(), _processor_s(daemons)
    seconds = await node_bench.seconds_to_end(node, job_id, tasks, committee=which == COMMITTEE)
    own_s, daemons_s = time.process_time() - own_s, _processor_s(daemons) - daemons_s
    outputs = await node_bench.outputs_of(node, job_id, tasks)
    if longer:
        assert np.isfinite(outputs["y"]).all()
        assert outputs["y"].shape == rows.shape
    else:
        workload.check(rows, outputs[workload.OUTPUT_NAME])
    return _Spent(seconds, own_s, daemons_s)


def _processor_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)
