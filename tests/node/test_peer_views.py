"""Which peer may run a model, and why: as a colleague would say it."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from peerinfer.assignment import PeerProven
from peerinfer.blobs import chunks_of, index_of
from peerinfer.breaker import FAILURES_MAX
from peerinfer.coordination import Coordination
from peerinfer.errors import InputError
from peerinfer.ids import Cid, PeerId
from peerinfer.membership_events import Member
from peerinfer.messages import Advert, DeviceAdvert
from peerinfer_node.peer_views import PeerViews

ADA = PeerId("ada")
MODEL = bytes(300_000)
CID = Cid(index_of(chunks_of(MODEL)).cid)
CPU = DeviceAdvert("a processor", "cpu", "CPUExecutionProvider", 1 << 33, 10.0, 1.0)
ADVERT = Advert(1, 1, 0.0, "ada", "x", (), "running", (), (CPU,), (), "full")


async def at_once(call: Callable[[], Any]) -> Any:
    return call()


class Room:
    """A node that knows one peer."""

    def __init__(self, tmp_path: Path) -> None:
        self.file = tmp_path / "model.onnx"
        self.file.write_bytes(MODEL)
        self.machine = Coordination(random.Random(1))
        self.member = Member(ADA, "alive", advert=ADVERT, path="direct")

    async def why(self) -> dict[str, Any]:
        clock = SimpleNamespace(wall_s=lambda: 100.0, now_s=lambda: 100.0)
        node: Any = SimpleNamespace(
            ports=SimpleNamespace(in_thread=at_once, clock=clock),
            members=SimpleNamespace(machine=SimpleNamespace(members=lambda: [self.member])),
            coordinator=SimpleNamespace(machine=self.machine),
        )
        (answer,) = await PeerViews(node).why(str(self.file))
        return answer

    def offers(self, **changes: Any) -> None:
        self.member = replace(self.member, advert=replace(ADVERT, **changes))


async def test_of_a_stranger_it_is_said_that_it_is_one_and_what_it_would_have_to_fetch(tmp_path: Path) -> None:
    answer = await Room(tmp_path).why()
    assert answer["eligible"]
    assert answer["why"].startswith(
        "would fetch this model first, 293 KiB; a stranger: it has done nothing for this node"
    )


async def test_who_has_the_model_and_how_fast_it_was_is_said(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.offers(models=(CID,))
    assert (await room.why())["why"].startswith("has this model; ")
    for _ in range(20):
        room.machine.estimates.observe(ADA, CID, 10, 0.5)
        room.machine.reputation.passed(ADA, 100.0)
        room.machine.reputation.answered(ADA, 100.0, in_time=True)
    said = (await room.why())["why"]
    assert said.startswith("does 20 items of it each second; passed 20 checks; ")
    assert "answered 100% of 20 frames in time" in said


async def test_a_model_that_its_memory_does_not_hold_rules_a_peer_out(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.offers(devices=(replace(CPU, memory_bytes=len(MODEL) - 1),))
    answer = await room.why()
    assert not answer["eligible"]
    assert answer["why"] == "has 293 KiB of device memory, less than the model alone takes"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"state": "paused", "reasons": ("paused by its owner, until 18:00",)}, "paused by its owner, until 18:00"),
        ({"state": "paused", "reasons": ("the card has 91 °C",)}, "is paused: the card has 91 °C"),
        ({"state": "finishing", "reasons": ()}, "is finishing"),
        ({"devices": ()}, "lends no device"),
    ],
)
async def test_why_a_peer_takes_no_work_is_said_once(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    room = Room(tmp_path)
    room.offers(**changes)
    answer = await room.why()
    assert (answer["eligible"], answer["why"]) == (False, said)


async def test_a_peer_whose_breaker_is_open_is_said_to_rest_and_for_how_long(tmp_path: Path) -> None:
    room = Room(tmp_path)
    breaker = room.machine._force._breaker(ADA)
    for _ in range(FAILURES_MAX - 1):
        breaker.failed(100.0)
    answer = await room.why()
    assert (answer["breaker"], answer["why_not"], answer["eligible"]) == ("closed", "", True)
    breaker.failed(100.0)
    answer = await room.why()
    assert (answer["breaker"], answer["eligible"]) == ("open", False)
    assert re.fullmatch(r"failed 3 frames in a row or more, and gets nothing for [2-5](\.\d)?s", answer["why_not"])
    assert answer["why"] == answer["why_not"]
    breaker.opens_until_s = 100.0
    answer = await room.why()
    assert (answer["breaker"], answer["why_not"], answer["eligible"]) == ("half-open", "", True)


async def test_of_a_liar_its_lie_is_told_here_and_counted_with_others_elsewhere(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.machine.handle(PeerProven(ADA, "task 7: 1 where 2 is right"), 100.0)
    answer = await room.why()
    assert answer["why"].startswith("gave a wrong result 0s ago (task 7: 1 where 2 is right), so it gets no work")
    assert answer["why_not"] == "gave a wrong result before"


async def test_what_is_no_file_is_refused_in_one_line(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.file.unlink()
    with pytest.raises(InputError, match="there is no model file"):
        await room.why()
