"""Whole nodes: the real `Node`, many times over, in one process and under one virtual clock."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import trio

from peerinfer.control import JobRequest, Json
from peerinfer.ids import JobId, PeerId
from peerinfer_node.keys import MemoryKeys
from peerinfer_node.log import Log
from peerinfer_node.memory_blob_store import MemoryBlobStore
from peerinfer_node.memory_store import MemoryStore
from peerinfer_node.node import Node, NodeSettings
from peerinfer_node.ports import Ports
from peerinfer_node.seat_store import MemorySeatStore
from peerinfer_sim import determinism
from peerinfer_sim.clock import SimClock
from peerinfer_sim.determinism import inline, rng_for
from peerinfer_sim.event_log import EventLog
from peerinfer_sim.executor import Conduct, SimExecutor
from peerinfer_sim.internet import Internet
from peerinfer_sim.linear_model import Array, write_inputs, write_model
from peerinfer_sim.network import SimNetwork
from peerinfer_sim.outcome import Outcome
from peerinfer_sim.scenario import Fault, NodeGroup, Scenario
from peerinfer_sim.watch import JobAccount, Violation, Watch, watching, whose

STOPS_WITHIN_S = 30.0
"""Every node has stopped this long after it was asked to."""

WALL_OFFSET_MAX_S = 2.0


@dataclass(slots=True)
class _SimNode:
    """One node, and what of it only the world may touch."""

    name: str
    node: Node
    executor: SimExecutor
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    stop: trio.Event = field(default_factory=trio.Event)


@dataclass(frozen=True, slots=True)
class _Ending:
    """What became of the job."""

    account: JobAccount
    shown: Json
    lies_passed: int
    virtual_s: float


class WholeWorld:
    """One run of a scenario. `run` may be called once."""

    def __init__(self, scenario: Scenario, seed: int, log: EventLog) -> None:
        self._scenario = scenario
        self._seed = seed
        self._log = log
        self._internet = Internet(seed, scenario.links, log)
        self._nodes: dict[str, _SimNode] = {}
        self.watch = Watch(log, check_every=scenario.check_every)

    def run(self) -> Outcome:
        """Raises `Violation` if anything happened that must not."""
        started_s = time.perf_counter()
        with watching(self.watch), tempfile.TemporaryDirectory() as folder:
            try:
                ending = determinism.run(lambda: self._live(Path(folder)), self._seed)
            except BaseExceptionGroup as group:
                raise first_of(group) from None
        account, shown = ending.account, ending.shown
        return Outcome(
            scenario=self._scenario.name,
            seed=self._seed,
            digest=self._log.digest,
            logged=self._log.count,
            steps=self.watch.steps,
            messages=self._internet.messages,
            message_bytes=self._internet.message_bytes,
            nodes=len(self._nodes),
            tasks=account.tasks,
            final=len(account.kept),
            failed=len(account.failed),
            retried=shown["retried"],
            voided=len(account.voided),
            audited=shown["audited"],
            liars=sum(sim.executor.lies_told > 0 for sim in self._nodes.values()),
            caught=len(account.caught),
            lies_passed=ending.lies_passed,
            job_s=shown["elapsed_s"],
            virtual_s=ending.virtual_s,
            wall_s=time.perf_counter() - started_s,
        )

    def name_of(self, peer: PeerId) -> str:
        return self._internet.names[peer]

    # --- the course of the world -------------------------------------------------------------------------------------

    async def _live(self, folder: Path) -> _Ending:
        job = self._scenario.job
        model, weights = write_model(np.random.default_rng([self._seed, 0]))
        inputs = write_inputs(np.random.default_rng([self._seed, 1]), job.items)
        (folder / "model.onnx").write_bytes(model)
        np.savez(folder / "inputs.npz", x=inputs)
        async with trio.open_nursery() as world:
            world.start_soon(self._internet.run)
            async with trio.open_nursery() as nodes:
                self._start_nodes(nodes)
                await trio.sleep(job.submit_at_s)
                nodes.start_soon(self._do_harm)
                shown = await self._run_job(folder)
                lies_passed = await self._compare(shown, inputs @ weights)
                await self._stop()
                nodes.cancel_scope.cancel()
            world.cancel_scope.cancel()
        account = self.watch.jobs[self._submitter.name, JobId(shown["job_id"])]
        return _Ending(account, shown, lies_passed, trio.current_time())

    def _start_nodes(self, nursery: trio.Nursery) -> None:
        dice = rng_for(self._seed, "world", "start")
        bootstrap: tuple[str, ...] = ()
        for group in self._scenario.groups:
            for number in range(group.count):
                sim = self._build(group, number, bootstrap)
                after_s = self._scenario.starts_within_s * dice.random() if self._nodes else 0.0
                self._nodes[sim.name] = sim
                nursery.start_soon(self._run_node, sim, after_s)
                if self._scenario.discovery == "bootstrap":
                    bootstrap = bootstrap or sim.node.ports.network.addresses()

    def _build(self, group: NodeGroup, number: int, bootstrap: tuple[str, ...]) -> _SimNode:
        name = f"{group.name}-{number}"
        whose.set(name)
        clock = SimClock(rng_for(self._seed, name, "clock").uniform(-WALL_OFFSET_MAX_S, WALL_OFFSET_MAX_S))
        keys = MemoryKeys(f"{self._seed}:{name}:identity".encode())
        speed = group.items_per_s * rng_for(self._seed, name, "speed").lognormvariate(0.0, group.speed_spread)
        executor = SimExecutor(
            name,
            rng_for(self._seed, name, "device"),
            seconds_per_item=1 / speed,
            load_s=group.load_s,
            conduct=Conduct(lies=group.lies, fails=group.fails),
        )
        by_hearing = self._scenario.discovery == "lan"
        network = SimNetwork(self._internet, keys.peer_id, name, len(self._nodes), finds_neighbours=by_hearing)
        ports = Ports(
            network=network,
            store=MemoryStore(),
            seats=MemorySeatStore(),
            blobs=MemoryBlobStore(),
            keys=keys,
            clock=clock,
            seed=rng_for(self._seed, name, "node").getrandbits(64),
            executors=(executor,),
            in_thread=inline,
        )
        log = Log(lambda line: self._log.add(trio.current_time(), name, line), level="debug")
        return _SimNode(name, Node(ports, NodeSettings(name, lends=group.lends, bootstrap=bootstrap), log), executor)

    async def _run_node(self, sim: _SimNode, after_s: float) -> None:
        whose.set(sim.name)
        await trio.sleep(after_s)
        with sim.scope:
            async with sim.node.run():
                await sim.stop.wait()

    @property
    def _submitter(self) -> _SimNode:
        return next(iter(self._nodes.values()))

    async def _run_job(self, folder: Path) -> Json:
        """Submits the job and waits for its end. Returns what the node shows of it."""
        job, control = self._scenario.job, self._submitter.node.control
        request = JobRequest(
            str(folder / "model.onnx"), (str(folder / "inputs.npz"),), batch=job.items_per_task, verify=job.verify
        )
        shown: Json = {}
        with trio.move_on_after(job.ends_within_s) as scope:
            async for picture in control.watch(await control.submit(request)):
                shown = picture
        self._check(not scope.cancelled_caught, f"the job has not ended within {job.ends_within_s:g} s: {shown}")
        self._check(shown["state"] == "done", f"the job is {shown['state']}: {shown['reason']}")
        return shown

    async def _compare(self, shown: Json, expected: Array) -> int:
        """How many items of the outputs are wrong. That each is there, once, is checked here."""
        found: dict[int, bool] = {}
        async for block in self._submitter.node.control.results(shown["job_id"]):
            for item, row in enumerate(block.rows["y"], block.first_item):
                self._check(item not in found, f"item {item} is among the outputs twice")
                found[item] = bool(np.array_equal(row, expected[item]))
        missing = len(expected) - len(found) - sum(failed["items"] for failed in shown["failed"])
        self._check(not missing, f"{missing} items are missing from the outputs")
        return sum(not is_right for is_right in found.values())

    async def _stop(self) -> None:
        for sim in self._nodes.values():
            sim.stop.set()
        with trio.move_on_after(STOPS_WITHIN_S):
            await self._internet.wait_empty()
        running = ", ".join(self._internet.names[peer] for peer in self._internet.networks)
        self._check(not running, f"{running} did not stop within {STOPS_WITHIN_S:g} s")

    def _check(self, good: bool, problem: str) -> None:
        if not good:
            raise Violation(problem, self._log.recent(self._submitter.name))

    # --- faults ------------------------------------------------------------------------------------------------------

    async def _do_harm(self) -> None:
        started_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            for fault in self._scenario.draw_faults(rng_for(self._seed, "world", "faults")):
                await trio.sleep_until(started_s + fault.at_s)
                self._log.add(trio.current_time(), "world", f"{fault.plan.kind} {fault.node}")
                nursery.start_soon(self._befall, fault)

    async def _befall(self, fault: Fault) -> None:
        sim, plan, internet = self._nodes[fault.node], fault.plan, self._internet
        own = sim.node.peer_id
        if own not in internet.networks:
            return  # An earlier fault has taken it.
        others = [other.node.peer_id for other in self._nodes.values() if other is not sim]
        match plan.kind:
            case "crash":
                internet.crash(own)
                sim.scope.cancel()
            case "cut":
                links = [(own, other) for other in others]
                if not plan.one_way:
                    links += [(other, own) for other in others]
                for source, target in links:
                    internet.cut(source, target)
                await trio.sleep(plan.lasts_s)
                for source, target in links:
                    internet.heal(source, target)
            case "delay":
                for extra_s in (plan.extra_s, 0.0):
                    for other in others:
                        internet.delay(own, other, extra_s)
                        internet.delay(other, own, extra_s)
                    await trio.sleep(plan.lasts_s)


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a world ended of: the first violation in the group, or its first error."""
    found: BaseException | None = group.subgroup(Violation) or group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert found is not None
    return found
