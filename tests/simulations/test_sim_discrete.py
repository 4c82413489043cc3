"""Bare machines on a heap of events, and the controls: guards broken on purpose, which the watch must notice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from peerinfer.assignment import FrameAnswered
from peerinfer.coordination import Coordination
from peerinfer.frame_ends import FrameEnds
from peerinfer.ids import PeerId
from peerinfer.ledger import Ledger, TaskState
from peerinfer.verification import Verification
from peerinfer.verification_checks import Checks
from peerinfer.verification_state import Supporter
from peerinfer.volunteering import StartFrame, Volunteering
from peerinfer_sim import scenario
from peerinfer_sim.discrete import DiscreteWorld
from peerinfer_sim.event_log import EventLog
from peerinfer_sim.internet import LinkProfile
from peerinfer_sim.scenario import FaultPlan, Job, NodeGroup, Scenario
from peerinfer_sim.watch import Violation, Watch

SMALL = Scenario(
    name="small",
    about="Thirty volunteers: a third of them die, some lie, some devices fail, and a tenth of all answers come twice.",
    floor="discrete",
    groups=(
        NodeGroup("coordinator", items_per_s=50.0),
        NodeGroup("volunteer", count=26, items_per_s=2.0, fails=0.02),
        NodeGroup("liar", count=4, items_per_s=2.0, lies=0.5),
    ),
    job=Job(items=600, ends_within_s=120.0),
    links=LinkProfile(latency_s=0.05, doubled=0.1),
    faults=(FaultPlan("crash", "volunteer", 10, (1.0, 10.0)),),
)


def run(seed: int, one: Scenario = SMALL) -> tuple[Any, DiscreteWorld]:
    world = DiscreteWorld(one, seed, EventLog())
    return world.run(), world


def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine believes that all is well; only those who count from outside are left."""
    monkeypatch.setattr(Coordination, "check", lambda machine: None)


@pytest.mark.parametrize("seed", range(5))
def test_a_rough_swarm_finishes_every_task_once(seed: int) -> None:
    outcome, _ = run(seed)
    assert outcome.final + outcome.failed == outcome.tasks == 600
    assert outcome.retried > 0
    assert outcome.caught >= 1


def test_the_same_seed_gives_the_same_history() -> None:
    first, again, other = run(1)[0], run(1)[0], run(2)[0]
    assert replace(first, wall_s=0) == replace(again, wall_s=0)
    assert first.digest != other.digest


@pytest.mark.slow
def test_a_thousand_volunteers_work_for_minutes() -> None:
    outcome, _ = run(1, scenario.load("thousand").smaller(items=8000))
    assert (outcome.nodes, outcome.final) == (1001, 8000)
    assert outcome.virtual_s > 120
    assert outcome.caught > outcome.liars / 2


# --- negative controls -----------------------------------------------------------------------------------------------


def lose_for_good(ledger: Ledger, task: int, *args: Any, **kwargs: Any) -> None:
    """The mistake: what a dead worker had is open again, but nobody puts it back in the queue."""
    ledger._move(task, TaskState.ASSIGNED, TaskState.OPEN)


def test_a_lost_task_that_is_not_put_back_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "lost", lose_for_good)
    with pytest.raises(Violation, match=r"tasks are open, .* wait in a queue"):
        run(1)


def test_a_lost_task_that_is_not_put_back_is_noticed_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    blind(monkeypatch)
    monkeypatch.setattr(Ledger, "lost", lose_for_good)
    with pytest.raises(Violation, match="the job has not ended within 120 s"):
        run(1)


class Forgetful(FrameEnds):
    """The mistake: an answered frame stays, and its worker never has room again."""

    def answered(self, event: FrameAnswered, now_s: float) -> None:
        frame = self._frame(event.peer, event.frame)
        super().answered(event, now_s)
        if frame is not None:
            self._force.begin(frame)


def test_a_frame_that_is_never_done_with_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerinfer.coordination.FrameEnds", Forgetful)
    with pytest.raises(Violation, match="the job has not ended within 120 s"):
        run(1)


class TakesTwice(FrameEnds):
    """The mistake: an answer that has come already is taken once more."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._old: dict[int, Any] = {}

    def answered(self, event: FrameAnswered, now_s: float) -> None:
        if event.peer in self._workers and event.frame not in self._force.frames and event.frame in self._old:
            self._force.begin(self._old[event.frame])
        frame = self._frame(event.peer, event.frame)
        if frame is not None:
            self._old[event.frame] = frame
        super().answered(event, now_s)


def answered_whatever(ledger: Ledger, tasks: Iterable[int]) -> list[int]:
    """The mistake: a result counts although the task has one."""
    given = list(tasks)
    for task in ledger.assigned(given):
        ledger._move(task, TaskState.ASSIGNED, TaskState.PROVISIONAL)
    return given


def test_an_answer_that_is_taken_twice_is_noticed_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    blind(monkeypatch)
    monkeypatch.setattr(Ledger, "answered", answered_whatever)
    monkeypatch.setattr("peerinfer.coordination.FrameEnds", TakesTwice)
    with pytest.raises(Violation, match="is kept twice"):
        run(1)


def test_one_guard_against_double_answers_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger's own: whoever breaks the other alone does no harm."""
    monkeypatch.setattr("peerinfer.coordination.FrameEnds", TakesTwice)
    outcome, _ = run(1)
    assert outcome.final + outcome.failed == 600


def test_a_voided_result_that_is_not_done_again_is_noticed_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    blind(monkeypatch)
    monkeypatch.setattr(Ledger, "void", lambda ledger, task, *args: ledger.finalise([task]))
    with pytest.raises(Violation, match="results were kept, the machine counts"):
        run(1)


def test_results_that_count_unchecked_are_noticed_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistake: what a stranger answers counts at once, under a policy that asks for samples."""
    blind(monkeypatch)

    def believe(machine: Verification, name: PeerId, tasks: list[int]) -> None:
        machine._rulings.final(tasks, name, 0.0, "window")

    monkeypatch.setattr(Verification, "_arrived", believe)
    with pytest.raises(Violation, match="none of them was ever checked"):
        run(1)


def test_samples_of_first_answers_only_let_more_lies_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistake: between a worker's first answer and its last nothing is sampled. Judged by numbers, as rules are."""
    honest = sum(run(seed)[0].lies_passed for seed in range(8))
    drawn = Checks.drawn

    def drawn_first(checks: Checks, peer: Supporter, count: int) -> list[int]:
        is_first = not peer.audits and not peer.checks_out
        return drawn(checks, peer, count) if is_first else []

    monkeypatch.setattr(Checks, "drawn", drawn_first)
    broken = sum(run(seed)[0].lies_passed for seed in range(8))
    assert broken > 1.5 * honest, f"{honest} lies pass with samples, {broken} without"


def test_a_volunteer_that_starts_too_much_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def start_all(machine: Volunteering, now_s: float) -> None:
        while (key := machine._waiting.start_next(now_s)) is not None:
            machine._running[key] = None
            machine._effects.append(StartFrame(key))

    monkeypatch.setattr(Volunteering, "_start", start_all)
    with pytest.raises(Violation, match="frames run on 1 devices"):
        run(1)


def test_a_violation_carries_the_last_steps_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "lost", lose_for_good)
    with pytest.raises(Violation) as caught:
        run(1)
    history = caught.value.history
    assert all(" coordinator " in line for line in history)
    steps = [line for line in history if " Coordination " in line]
    assert "WorkerLost" in steps[-1] or "AuditDone" in steps[-1]


def test_large_worlds_may_check_now_and_then() -> None:
    checks = 0

    class Machine:
        def handle(self, event: object, now_s: float) -> list[object]:
            return []

        def check(self) -> None:
            nonlocal checks
            checks += 1

    watch = Watch(EventLog(), check_every=10)
    machine = Machine()
    for number in range(100):
        watch.step("node", machine, number, 0.0)
    assert checks == 10
