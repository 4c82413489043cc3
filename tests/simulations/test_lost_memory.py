"""An elector that has lost what it had promised: it elects nobody for jobs of that time, and others take its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import trio

from peerinfer.control import JobRequest, Json
from peerinfer.envelope import unseal
from peerinfer.ids import JobId
from peerinfer.limits import CLOCK_SKEW_MAX_S
from peerinfer.messages import Advert
from peerinfer_sim import scenario
from peerinfer_sim.disks import SimSeats
from peerinfer_sim.event_log import EventLog
from peerinfer_sim.sim_node import SimNode
from peerinfer_sim.whole import WholeWorld

ITEMS = 120
ITEMS_PER_S = 0.4
"""Of each of four volunteers, so that the job lasts longer than an elector's silence is borne."""


class ForgetfulWorld(WholeWorld):
    """A calm world, but for one elector whose seats.db is gone when it starts again."""

    def __init__(self) -> None:
        found = scenario.load("failover").smaller(nodes=5, items=ITEMS)
        groups = tuple(replace(group, items_per_s=ITEMS_PER_S) for group in found.groups)
        super().__init__(replace(found, groups=groups, faults=()), 1, EventLog())
        self.replaced_after_s = 0.0

    def lose_memory(self, sim: SimNode) -> None:
        lost, sim._seats = sim._seats, SimSeats(sim.disk)
        lost.is_dead = True
        sim._seats.forgot_s = sim._clock.wall_s()
        sim.crash(1.0, 0.0)

    async def _run_job(self, folder: Path, nursery: trio.Nursery) -> Json:
        request = JobRequest(
            str(folder / "model.onnx"), (str(folder / "inputs.npz"),), batch=1, verify="none", detach=True
        )
        control = self._submitter.node.control
        job = self._job = JobId(await control.submit(request))
        committee = self._submitter.node.elections.machine(job).committee
        forgetful = next(sim for sim in self._nodes.values() if sim.peer_id in committee and sim is not self._submitter)
        self.lose_memory(forgetful)
        lost_s = trio.current_time()
        await trio.sleep(10.0)
        assert job not in forgetful.node.elections.elector.jobs, "it took the seat again"
        assert not unseal(Advert, forgetful.node.advertiser.advert())[1].elects
        for sim in self._nodes.values():
            if sim is not forgetful:
                assert forgetful.peer_id not in [member.peer for member in sim.node.proposing.electing()]
        with trio.fail_after(120.0):
            while forgetful.peer_id in self._submitter.node.elections.machine(job).committee:  # noqa: ASYNC110
                await trio.sleep(0.5)
        self.replaced_after_s = trio.current_time() - lost_s
        shown = await self._come_back(job)
        assert len({handover["coordinator"] for handover in shown["handovers"]}) == 1, "nobody else had to coordinate"
        forgetful._clock._wall_offset_s += CLOCK_SKEW_MAX_S
        assert unseal(Advert, forgetful.node.advertiser.advert())[1].elects
        self._harm_done.set()
        return shown


def test_an_elector_that_lost_its_memory_is_proposed_to_nobody_and_replaced_where_it_sat() -> None:
    world = ForgetfulWorld()
    outcome = world.run()
    assert (outcome.final, outcome.failed) == (ITEMS, 0)
    assert world.replaced_after_s < 90.0
