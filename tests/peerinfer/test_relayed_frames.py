"""What a worker behind a relay is given at once."""

from __future__ import annotations

import random

import pytest

from peerinfer.assignment import (
    FrameAnswered,
    JobAccepted,
    JobSpec,
    LinkMeasured,
    SendFrame,
    WindowSet,
    WorkerJoined,
    WorkerOffer,
)
from peerinfer.coordination import Coordination
from peerinfer.ids import Cid, JobId, PeerId
from peerinfer.limits import GIB, KIB, RELAYED_FRAME_BYTES_MAX

ADA = PeerId("ada")
TASK_BYTES = 100 * KIB


@pytest.mark.parametrize("is_relayed", [True, False])
def test_a_worker_behind_a_relay_gets_smaller_frames(is_relayed: bool) -> None:
    machine, now_s, sizes = Coordination(random.Random(7)), 100.0, []
    machine.handle(WorkerJoined(ADA, WorkerOffer(False, ("cpu",), 8 * GIB)), now_s)
    machine.handle(WindowSet(ADA, 1, ""), now_s)
    machine.handle(LinkMeasured(ADA, 0.05, is_relayed), now_s)
    spec = JobSpec(
        job=JobId("1" * 32),
        model=Cid("model"),
        model_bytes=1000,
        tasks=2000,
        items_per_task=1,
        bytes_per_task=TASK_BYTES,
        seconds_per_item=0.001,
    )
    said = machine.handle(JobAccepted(spec), now_s)
    for _ in range(20):
        (frame,) = [effect for effect in said if isinstance(effect, SendFrame)]
        count = len(frame.tasks)
        sizes.append(count)
        now_s += 0.1
        said = machine.handle(FrameAnswered(ADA, frame.frame, tuple(range(count)), (), 0.001 * count), now_s)
    assert (max(sizes) * TASK_BYTES <= RELAYED_FRAME_BYTES_MAX) == is_relayed
    assert max(sizes) > 1
