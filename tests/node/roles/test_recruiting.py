"""Asking volunteers: at once, and ever more rarely where they send this node away."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import trio
from trio.testing import MockClock

from peerinfer.ids import PeerId
from peerinfer.membership_events import Member
from peerinfer.messages import Advert, DeviceAdvert
from peerinfer_node.clock import SystemClock
from peerinfer_node.log import Log
from peerinfer_node.network.loopback import stream_pair
from peerinfer_node.roles.recruiting import AGAIN_MAX_S, Recruiting

VOLUNTEER = PeerId("ann")


class Asked:
    """A node that has one job, and one volunteer whose streams last as long as `lasts_s` says."""

    def __init__(self, *lasts_s: float) -> None:
        self.lasts_s = lasts_s
        self.at_s: list[float] = []
        self.wants_workers = True
        self.workers: list[PeerId] = []
        self.is_full = False
        self.members_max = 512
        self.machine = self
        self.caught: tuple[PeerId, ...] = ()
        self.specs: tuple[Any, ...] = ()

    def members(self) -> list[Member]:
        device = DeviceAdvert("some processor", "cpu", "CPUExecutionProvider", 1 << 30, 10.0, 1.0)
        advert = cast(Advert, SimpleNamespace(state="running", devices=(device,), models=(), incarnation=1, sequence=1))
        return [Member(VOLUNTEER, "alive", (), advert)]

    async def reach(self, peer: PeerId) -> None:
        pass

    async def open_stream(self, peer: PeerId, protocol: str) -> object:
        return stream_pair(peer, peer)[0]

    async def work_with(self, stream: object, offer: object) -> str:
        self.at_s.append(trio.current_time())
        await trio.sleep(self.lasts_s[min(len(self.at_s), len(self.lasts_s)) - 1])
        return "it has as many coordinators as it can"


async def asked_within(seconds: float, *lasts_s: float) -> list[float]:
    """When the volunteer was asked, in seconds after the start."""
    asked = Asked(*lasts_s)
    recruiting = Recruiting(
        own=PeerId("me"),
        lends=False,
        network=cast(Any, asked),
        members=cast(Any, asked),
        coordinator=cast(Any, asked),
        worker=cast(Any, asked),
        clock=SystemClock(),
        log=Log(),
    )
    began_s = trio.current_time()
    with trio.move_on_after(seconds):
        await recruiting.run()
    return [round(at_s - began_s, 3) for at_s in asked.at_s]


async def test_a_volunteer_that_sends_this_node_away_is_asked_more_and_more_rarely(autojump_clock: MockClock) -> None:
    assert await asked_within(70.0, 0.01) == [0.0, 1.0, 2.0, 3.0, 5.0, 9.0, 17.0, 33.0, 49.0, 65.0]
    assert AGAIN_MAX_S == 16.0


async def test_one_that_worked_is_asked_again_at_once(autojump_clock: MockClock) -> None:
    assert await asked_within(50.0, 30.0) == [0.0, 30.0]


async def test_whoever_works_once_is_prompt_again(autojump_clock: MockClock) -> None:
    assert await asked_within(12.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0) == [0.0, 1.0, 2.0, 3.0, 5.0, 7.0, 8.0, 9.0, 10.0]
