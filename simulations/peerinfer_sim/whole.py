"""Whole nodes: the real `Node`, many times over, in one process and under one virtual clock.

Two phases. While faults strike, nothing wrong may be accepted; when the last of them has passed, the job must end within
its time, and its outputs must be all there, once, and right.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trio

from peerinfer.assignment import JobAccepted, TasksCommitted
from peerinfer.candidacy import Candidacy
from peerinfer.control import JOB_ENDED, JobRequest, Json
from peerinfer.coordination import Coordination
from peerinfer.errors import PeerinferError
from peerinfer.ids import JobId, PeerId
from peerinfer_sim import determinism
from peerinfer_sim.determinism import rng_for
from peerinfer_sim.event_log import EventLog
from peerinfer_sim.internet import Internet
from peerinfer_sim.linear_model import Array, write_inputs, write_model
from peerinfer_sim.outcome import Outcome
from peerinfer_sim.oversight import Oversight
from peerinfer_sim.scenario import COORDINATOR, FaultPlan, Scenario
from peerinfer_sim.sim_node import SimNode
from peerinfer_sim.watch import JobAccount, Violation, Watch, watching

STOPS_WITHIN_S = 30.0
"""Every node has stopped this long after it was asked to."""

SETTLES_WITHIN_S = 10.0
"""So long after the last fault has passed every node that lives has found the others again."""

LOOK_EVERY_S = 0.5
"""A submitter that may be dead at the moment is asked so often how its job goes."""


@dataclass(frozen=True, slots=True)
class _Ending:
    """What became of the job."""

    account: JobAccount | None
    """Of the coordinator that ended it."""
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
        self._nodes: dict[str, SimNode] = {}
        self._alive: dict[str, SimNode] = {}
        self._job: JobId | None = None
        self._harm_done = trio.Event()
        self.oversight = Oversight(self._alive)
        self.watch = Watch(log, check_every=scenario.check_every, observe=self._observe)

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
            tasks=shown["tasks"],
            final=shown["final"],
            failed=len(shown["failed"]),
            retried=shown["retried"],
            voided=len(account.voided) if account else 0,
            audited=shown["audited"],
            liars=sum(sim.lies_told > 0 for sim in self._nodes.values()),
            caught=len(account.caught) if account else 0,
            lies_passed=ending.lies_passed,
            job_s=shown["elapsed_s"],
            virtual_s=ending.virtual_s,
            wall_s=time.perf_counter() - started_s,
            terms=len(self.oversight.terms.get(JobId(shown["job_id"]), [""])),
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
                shown = await self._run_job(folder, nodes)
                await self._wait_healed()
                lies_passed = await self._compare(shown, inputs @ weights)
                await self._stop()
                nodes.cancel_scope.cancel()
            world.cancel_scope.cancel()
        accounts = [account for (_, known), account in self.watch.jobs.items() if known == shown["job_id"]]
        return _Ending(next((each for each in accounts if each.end), None), shown, lies_passed, trio.current_time())

    def _start_nodes(self, nursery: trio.Nursery) -> None:
        dice = rng_for(self._seed, "world", "start")
        bootstrap: tuple[str, ...] = ()
        for group in self._scenario.groups:
            for place in range(group.count):
                sim = SimNode(
                    group,
                    place,
                    len(self._nodes),
                    seed=self._seed,
                    internet=self._internet,
                    log=self._log,
                    finds_neighbours=self._scenario.discovery == "lan",
                    bootstrap=bootstrap,
                )
                after_s = self._scenario.starts_within_s * dice.random() if self._nodes else 0.0
                self._nodes[sim.name] = self._alive[sim.name] = sim
                nursery.start_soon(sim.live, after_s, self._alive_again)
                if self._scenario.discovery == "bootstrap":
                    bootstrap = bootstrap or sim.node.ports.network.addresses()

    def _alive_again(self, name: str) -> None:
        self._alive[name] = self._nodes[name]

    @property
    def _submitter(self) -> SimNode:
        return next(iter(self._nodes.values()))

    async def _run_job(self, folder: Path, nursery: trio.Nursery) -> Json:
        """Submits the job and waits for its end. Returns what the submitter shows of it."""
        job = self._scenario.job
        request = JobRequest(
            str(folder / "model.onnx"),
            (str(folder / "inputs.npz"),),
            batch=job.items_per_task,
            verify=job.verify,
            detach=job.detach,
        )
        if not job.detach:
            nursery.start_soon(self._do_harm)
            return await self._follow(await self._submitter.node.control.submit(request))
        accepted = await self._submitter.node.control.submit(request)
        self._job = JobId(accepted)
        nursery.start_soon(self._do_harm)
        return await self._come_back(accepted)

    async def _follow(self, job: str) -> Json:
        ends_within_s = self._scenario.job.ends_within_s
        shown: Json = {}
        with trio.move_on_after(ends_within_s) as scope:
            async for picture in self._submitter.node.control.watch(job):
                shown = picture
        self._check(not scope.cancelled_caught, f"the job has not ended within {ends_within_s:g} s: {shown}")
        self._check(shown["state"] == "done", f"the job is {shown['state']}: {shown['reason']}")
        return shown

    async def _come_back(self, job: str) -> Json:
        """Asks the submitter, in whatever life it is, until the job has ended."""
        ends_within_s = self._scenario.job.ends_within_s
        shown: Json = {}
        with trio.move_on_after(ends_within_s):
            while True:
                await trio.sleep(LOOK_EVERY_S)
                if self._submitter.is_up:
                    try:
                        shown = await self._submitter.node.control.job(job)
                    except PeerinferError as error:
                        shown = {"state": f"not to be seen: {error}", "reason": str(error)}
                for sim in list(self._alive.values()):
                    for view in await sim.node.control.jobs():
                        self._check_counts(sim.name, view)
                if shown.get("state") in JOB_ENDED:
                    break
        self._check(shown.get("state") == "done", f"the job has not ended well within {ends_within_s:g} s: {shown}")
        return shown

    def _check_counts(self, name: str, view: Json) -> None:
        """Whoever shows the job, coordinating or not: its numbers add up."""
        told = {count: view[count] for count in ("tasks", "open", "assigned", "accepted", "final", "failed_tasks")}
        computed = sum(peer["tasks"] for peer in view["peers"])
        adds_up = (
            told["tasks"] == told["open"] + told["assigned"] + told["accepted"] + told["failed_tasks"]
            and told["final"] <= told["accepted"] == computed
            and told["failed_tasks"] == len(view["failed"])
        )
        self._check(adds_up, f"{name} shows the job as {view['state']} with {told}, of which peers did {computed}")

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
            sim.stop()
        with trio.move_on_after(STOPS_WITHIN_S):
            await self._internet.wait_empty()
        running = ", ".join(self._internet.names[peer] for peer in self._internet.networks)
        self._check(not running, f"{running} did not stop within {STOPS_WITHIN_S:g} s")

    def _check(self, good: bool, problem: str) -> None:
        if not good:
            raise Violation(problem, self._log.recent(self._submitter.name))

    def _observe(self, node: str, machine: Any, event: Any) -> None:
        """What the world checks after a machine's step, beyond what the machine and its accounts know."""
        if self._job is None or node not in self._alive:
            return
        if isinstance(machine, Candidacy):
            self.oversight.check_alone(self._job)
        elif isinstance(machine, Coordination):
            match event:
                case JobAccepted(spec) if spec.job == self._job:
                    self.oversight.began(node, spec.job)
                case TasksCommitted(job, tasks) if job == self._job:
                    self.oversight.acknowledged(node, job, tasks)

    # --- faults ------------------------------------------------------------------------------------------------------

    async def _wait_healed(self) -> None:
        """Results lie with those who computed and elected: they can be had when these can be reached."""
        await self._harm_done.wait()
        while any(sim.comes_back for sim in self._nodes.values()):  # noqa: ASYNC110  (virtual time costs nothing)
            await trio.sleep(LOOK_EVERY_S)
        await trio.sleep(SETTLES_WITHIN_S)

    async def _do_harm(self) -> None:
        started_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            for fault in self._scenario.draw_faults(rng_for(self._seed, "world", "faults")):
                await trio.sleep_until(started_s + fault.at_s)
                name = self._coordinator() if fault.node == COORDINATOR else fault.node
                if name is None or not self._nodes[name].is_up:
                    continue  # An earlier fault has taken it.
                self._log.add(trio.current_time(), "world", f"{fault.plan.kind} {name}")
                nursery.start_soon(self._befall, name, fault.plan)
        self._harm_done.set()

    def _coordinator(self) -> str | None:
        assert self._job is not None
        return next((name for name, sim in self._alive.items() if self._job in sim.node.coordinator.machine.jobs), None)

    async def _befall(self, name: str, plan: FaultPlan) -> None:
        sim, internet = self._nodes[name], self._internet
        own = sim.peer_id
        others = [other.peer_id for other in self._nodes.values() if other is not sim]
        match plan.kind:
            case "crash" | "power-cut":
                del self._alive[name]
                self.watch.forget(name)
                sim.crash(plan.lasts_s, plan.lost_s)
            case "cut":
                links = [(own, other) for other in others]
                if not plan.one_way:
                    links += [(other, own) for other in others]
                for source, target in links:
                    internet.cut(source, target)
                await trio.sleep(plan.lasts_s)
                for source, target in links:
                    internet.heal(source, target)
            case "break":
                internet.part(own, internet.networks[own].connected())
                for peer in internet.networks[own].connected():
                    internet.networks[own].lose(peer)
            case "delay":
                for extra_s in (plan.extra_s, 0.0):
                    for other in others:
                        internet.delay(own, other, extra_s)
                        internet.delay(other, own, extra_s)
                    await trio.sleep(plan.lasts_s)
            case "full-disk":
                sim.disk.is_full = True
                await trio.sleep(plan.lasts_s)
                sim.disk.is_full = False


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a world ended of: the first violation in the group, or its first error."""
    found: BaseException | None = group.subgroup(Violation) or group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert found is not None
    return found
