"""Whole nodes under virtual time that a test plays with: one detached job, and nothing befalls anybody but by the test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import trio

from peerinfer.control import JobRequest, Json
from peerinfer.ids import PeerId
from peerinfer_sim import scenario
from peerinfer_sim.event_log import EventLog
from peerinfer_sim.linear_model import Array
from peerinfer_sim.sim_node import SimNode
from peerinfer_sim.whole import WholeWorld

ITEMS = 1500
CHECK_EVERY = 7
"""Steps from one look at a machine's invariants to the next: what is broken stays so, and looking each time is a third of
all that these tests cost."""

Play = Callable[["PlayedWorld", JobRequest], Awaitable[Json]]


class PlayedWorld(WholeWorld):
    """A calm world; `play` is given the request of a job, and returns what is shown of it in the end."""

    def __init__(self, play: Play, *, items: int = ITEMS) -> None:
        """Fewer items take as long as `ITEMS` do, and less of the machine that plays them."""
        calm = replace(scenario.load("failover").smaller(nodes=6, items=items), faults=())
        slow = tuple(replace(group, items_per_s=group.items_per_s * items / ITEMS) for group in calm.groups)
        super().__init__(replace(calm, groups=slow, check_every=CHECK_EVERY), 1, EventLog())
        self._play = play

    @property
    def submitter(self) -> SimNode:
        return self._submitter

    async def electors(self, job: str) -> list[SimNode]:
        """But for the submitter."""
        shown = await self.submitter.node.control.job(job)
        named = [self._nodes[self.name_of(PeerId(peer))] for peer in shown["committee"]]
        return [sim for sim in named if sim is not self.submitter]

    def crash(self, sim: SimNode, lasts_s: float) -> None:
        del self._alive[sim.name]
        self.watch.forget(sim.name)
        sim.crash(lasts_s, 0.0)

    @property
    def alive(self) -> list[SimNode]:
        return list(self._alive.values())

    async def _run_job(self, folder: Path, nursery: trio.Nursery) -> Json:
        self._harm_done.set()
        request = JobRequest(
            str(folder / "model.onnx"), (str(folder / "inputs.npz"),), batch=1, verify="none", detach=True
        )
        return await self._play(self, request)

    async def _compare(self, shown: Json, expected: Array) -> int:
        return 0
