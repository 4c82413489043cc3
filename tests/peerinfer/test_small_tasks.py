"""Jobs of very many very small tasks, where the ways to the workers take longer than what they compute."""

import random

import pytest

from peerinfer.assignment import (
    Effect,
    Event,
    FrameAnswered,
    JobAccepted,
    JobSpec,
    KeepResults,
    SendFrame,
    WindowSet,
    WorkerJoined,
    WorkerOffer,
)
from peerinfer.coordination import Coordination
from peerinfer.ids import Cid, JobId, PeerId
from peerinfer.machine import Tick

TASKS = 10_000
JOB = JobId("1" * 32)


@pytest.mark.parametrize("seed", [3, 6, 7, 9])
def test_nobody_waits_for_somebody_who_waits_as_well(seed: int) -> None:
    """Whose way is nearest and who computes fastest differ, and what is believed of both changes with every frame."""
    rng = random.Random(seed)
    machine = Coordination(random.Random(7))
    now_s, done, under_way = 100.0, 0, list[tuple[float, SendFrame]]()

    def tell(event: Event | Tick) -> None:
        nonlocal done
        effects: list[Effect] = machine.handle(event, now_s)
        machine.check()
        for effect in effects:
            if isinstance(effect, SendFrame):
                under_way.append((now_s + rng.uniform(0.002, 0.012), effect))
            elif isinstance(effect, KeepResults):
                done += len(effect.tasks)

    for name in ("ada", "ben", "cal"):
        offer = WorkerOffer(local=False, kinds=("cpu",), memory_bytes=1 << 33, rtt_s=rng.uniform(0.002, 0.012))
        tell(WorkerJoined(PeerId(name), offer))
        tell(WindowSet(PeerId(name), 2, ""))
    tell(JobAccepted(JobSpec(JOB, Cid("model"), 1000, TASKS, 1, 100, 1e-6)))
    while done < TASKS:
        assert under_way, f"nobody works, and {TASKS - done} tasks wait"
        under_way.sort(key=lambda pair: pair[0])
        at_s, frame = under_way.pop(0)
        while machine.deadline_s <= at_s:
            now_s = machine.deadline_s
            tell(Tick())
        now_s = at_s
        positions = tuple(range(len(frame.tasks)))
        tell(FrameAnswered(frame.peer, frame.frame, positions, (), rng.uniform(5e-5, 2.5e-4)))
    assert now_s - 100.0 < 0.15
