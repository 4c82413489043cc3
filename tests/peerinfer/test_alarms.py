"""What is set rings once, at its last time; what is cleared never does; stale entries do not pile up."""

from hypothesis import given
from hypothesis import strategies as st
from wire_strategies import SAME_EVERY_TIME

from peerinfer.alarms import SWEEP_ABOVE, Alarms
from peerinfer.machine import NEVER


def test_alarms_ring_in_the_order_of_their_times() -> None:
    alarms: Alarms[str] = Alarms()
    for key, at_s in (("late", 3.0), ("soon", 1.0), ("never mind", 2.0), ("soon too", 1.0)):
        alarms.set(key, at_s)
    alarms.clear("never mind")
    assert (alarms.next_s, len(alarms)) == (1.0, 3)
    assert alarms.ring(2.5) == ["soon", "soon too"]
    assert "late" in alarms
    assert alarms.ring(3.0) == ["late"]
    assert alarms.next_s == NEVER


def test_an_alarm_has_the_time_that_was_set_last() -> None:
    alarms: Alarms[str] = Alarms()
    for at_s in (5.0, 9.0, 1.0, 7.0):
        alarms.set("job", at_s)
    assert alarms.ring(6.9) == []
    assert alarms.at("job") == alarms.next_s == 7.0
    assert alarms.ring(7.0) == ["job"]
    assert alarms.ring(100.0) == []


def test_alarms_that_were_cleared_are_swept_out() -> None:
    alarms: Alarms[int] = Alarms()
    for number in range(10_000):
        alarms.set(number, 1e6 + number)
        alarms.clear(number - 3)
        assert len(alarms._heap) <= SWEEP_ABOVE + 10
    alarms.check()
    assert alarms.ring(2e6) == [9997, 9998, 9999]


@SAME_EVERY_TIME
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9) | st.none())), st.integers(0, 9))
def test_they_ring_as_a_stupid_list_would(steps: list[tuple[str, int | None]], until: int) -> None:
    alarms: Alarms[str] = Alarms()
    held: dict[str, float] = {}
    for key, at_s in steps:
        if at_s is None:
            alarms.clear(key)
            held.pop(key, None)
        else:
            alarms.set(key, at_s)
            held[key] = at_s
        alarms.check()
        assert alarms.next_s == min(held.values(), default=NEVER)
    assert sorted(alarms.ring(until)) == sorted(key for key, at_s in held.items() if at_s <= until)
