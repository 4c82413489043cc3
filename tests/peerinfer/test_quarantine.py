from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerinfer.machine import NEVER, Tick
from peerinfer.quarantine import (
    FORGIVEN_AFTER_S,
    LOSS_WINDOW_S,
    LOSSES_MAX,
    LOST_REST_S,
    REST_MAX_S,
    STREAK_MAX,
    STREAK_REST_S,
    UNFIT_MODELS_MAX,
    WRONG_REST_S,
    AnsweredRightly,
    AnsweredWrongly,
    Confine,
    DeviceLost,
    FoundUnfit,
    Quarantine,
    RunFailed,
    SetFree,
)

WRONG = AnsweredWrongly("0.3 where 0.9 is right")


def test_one_wrong_answer_confines_a_device_for_an_hour() -> None:
    machine = Quarantine()
    assert machine.handle(WRONG, 10) == [Confine(10 + WRONG_REST_S, "it answered wrongly: 0.3 where 0.9 is right")]
    assert machine.is_confined
    assert machine.deadline_s == 10 + WRONG_REST_S
    assert machine.handle(Tick(), 10 + WRONG_REST_S - 1) == []
    assert machine.handle(Tick(), 10 + WRONG_REST_S) == [SetFree()]
    assert not machine.is_confined
    assert machine.deadline_s == NEVER


def test_each_quarantine_is_twice_as_long_up_to_a_week_and_forgiven_after_a_quiet_day() -> None:
    machine, now_s, rests = Quarantine(), 0.0, []
    for _ in range(12):
        (confined,) = machine.handle(WRONG, now_s)
        assert isinstance(confined, Confine)
        rests.append(confined.until_s - now_s)
        now_s = confined.until_s
        machine.handle(Tick(), now_s)
        now_s += 60
    assert rests[:3] == [WRONG_REST_S, 2 * WRONG_REST_S, 4 * WRONG_REST_S]
    assert rests[-1] == REST_MAX_S
    (confined,) = machine.handle(WRONG, now_s + FORGIVEN_AFTER_S)
    assert isinstance(confined, Confine)
    assert confined.until_s - now_s - FORGIVEN_AFTER_S == pytest.approx(WRONG_REST_S)


def test_a_device_that_is_lost_now_and_then_goes_on_but_not_often() -> None:
    machine = Quarantine()
    for loss in range(10):
        assert machine.handle(DeviceLost("killed"), loss * LOSS_WINDOW_S) == []
    now_s = 100 * LOSS_WINDOW_S
    effects = [machine.handle(DeviceLost("killed"), now_s + loss) for loss in range(LOSSES_MAX)]
    assert effects[:-1] == [[]] * (LOSSES_MAX - 1)
    assert effects[-1] == [Confine(now_s + 2 + LOST_REST_S, "it was lost 3 times within 10 minutes: killed")]


def test_losses_are_told_for_as_long_as_they_count() -> None:
    machine = Quarantine()
    assert (machine.snapshot().losses, machine.snapshot().last_loss) == (0, "")
    machine.handle(DeviceLost("killed"), 0)
    machine.handle(DeviceLost("it hung"), 1)
    assert (machine.snapshot().losses, machine.snapshot().last_loss) == (2, "it hung")
    machine.handle(Tick(), LOSS_WINDOW_S + 1)
    assert (machine.snapshot().losses, machine.snapshot().last_loss) == (1, "it hung")
    machine.handle(Tick(), LOSS_WINDOW_S + 1.1)
    assert (machine.snapshot().losses, machine.snapshot().last_loss) == (0, "")


def test_only_failures_without_a_success_between_them_count() -> None:
    machine = Quarantine()
    for _ in range(5):
        for _ in range(STREAK_MAX - 1):
            assert machine.handle(RunFailed("no"), 0) == []
        machine.handle(AnsweredRightly(), 0)
    for _ in range(STREAK_MAX - 1):
        machine.handle(RunFailed("no"), 0)
    assert machine.handle(RunFailed("no"), 1) == [Confine(1 + STREAK_REST_S, f"{STREAK_MAX} runs in a row failed: no")]


def test_models_that_come_out_wrong_one_after_the_other_are_the_devices_fault() -> None:
    machine = Quarantine()
    for _ in range(UNFIT_MODELS_MAX - 1):
        assert machine.handle(FoundUnfit("off"), 0) == []
    machine.handle(AnsweredRightly(is_proven=True), 0)
    for _ in range(UNFIT_MODELS_MAX - 1):
        assert machine.handle(FoundUnfit("off"), 0) == []
        assert machine.handle(AnsweredRightly(), 0) == []
    (confined,) = machine.handle(FoundUnfit("off"), 0)
    assert isinstance(confined, Confine)
    assert confined.reason == "it answered wrongly with 3 models in a row, the last: off"


def test_what_is_reported_from_work_under_way_does_not_lengthen_a_quarantine() -> None:
    machine = Quarantine()
    machine.handle(WRONG, 0)
    assert machine.handle(WRONG, 1) == []
    assert machine.snapshot().until_s == WRONG_REST_S
    assert machine.snapshot().times == 1


EVENTS = st.sampled_from(
    [AnsweredRightly(), AnsweredRightly(True), WRONG, FoundUnfit("x"), DeviceLost("x"), RunFailed("x"), Tick()]
)


@given(st.lists(st.tuples(EVENTS, st.floats(0, 4000))))
def test_a_device_is_confined_and_set_free_in_turn(history: list[tuple[object, float]]) -> None:
    machine, now_s, confined = Quarantine(), 0.0, False
    for event, pause_s in history:
        now_s += pause_s
        for effect in machine.handle(event, now_s):  # type: ignore[arg-type]
            assert isinstance(effect, SetFree) == confined
            confined = not confined
        assert machine.is_confined == confined
        machine.check()
