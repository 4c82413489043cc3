"""New names from where somebody was caught."""

from peerinfer.ids import PeerId
from peerinfer.reputation import DAY_S
from peerinfer.whitewashing import NEW_NAMES_PER_DAY_MAX, REMEMBERED_S, SUBNETS_MAX, Whitewashing

NET, OTHER = "198.51.100.0/24", "203.0.113.0/24"


def name(number: int) -> PeerId:
    return PeerId(f"name {number}")


def test_where_nobody_was_caught_everybody_may_come() -> None:
    machine = Whitewashing()
    assert all(machine.admits(name(number), (NET,), 0.0) for number in range(100))
    machine.caught((OTHER,), 0.0)
    assert all(machine.admits(name(number), (NET,), 0.0) for number in range(100))
    assert all(machine.admits(name(number), (), 0.0) for number in range(100)), "of no network that is known"


def test_where_somebody_was_caught_so_many_new_names_may_come_in_a_day() -> None:
    machine = Whitewashing()
    machine.caught((NET,), 0.0)
    let_in = [machine.admits(name(hour), (NET,), hour * 3600.0) for hour in range(24)]
    assert sum(let_in) == NEW_NAMES_PER_DAY_MAX
    assert machine.admits(name(0), (NET,), 23 * 3600.0), "who was let in may come again"
    assert not machine.admits(name(50), (OTHER, NET), 23 * 3600.0), "one marked network is enough"
    assert machine.admits(name(50), (NET,), 2 * DAY_S)
    assert all(machine.admits(name(number), (NET,), REMEMBERED_S) for number in range(100)), "it is forgotten"
    machine.check()


def test_so_many_networks_are_remembered_and_those_of_today_longest() -> None:
    machine = Whitewashing()
    machine.caught((NET,), 0.0)
    for number in range(SUBNETS_MAX):
        machine.caught((f"network {number}",), 1.0)
        if number == SUBNETS_MAX // 2:
            machine.caught((NET,), 1.0)
    machine.check()
    assert sum(machine.admits(name(number), (NET,), 2.0) for number in range(10)) == NEW_NAMES_PER_DAY_MAX
    assert sum(machine.admits(name(number), ("network 0",), 2.0) for number in range(10)) == 10


def test_who_was_let_in_today_is_known_after_a_restart_and_takes_the_place_of_another() -> None:
    before = Whitewashing()
    before.caught((NET,), 0.0)
    before.caught((OTHER,), 0.0)
    assert before.admits(name(1), (NET,), 100.0)
    assert before.admits(name(2), (NET,), 200.0)
    kept = before.newcomers(100.0 + DAY_S - 1.0)
    assert kept == [(NET, name(1), 100.0), (NET, name(2), 200.0)]
    assert before.newcomers(100.0 + DAY_S) == kept[1:]
    after = Whitewashing()
    after.caught((NET,), 0.0)
    after.restore([*kept, (NET, name(3), 300.0), ("unmarked", name(3), 300.0)], 400.0)
    after.check()
    assert after.newcomers(400.0) == kept
    assert not after.admits(name(4), (NET,), 500.0)
    assert after.admits(name(1), (NET,), 500.0)
    assert after.admits(name(4), (NET,), 100.0 + DAY_S), "since its own arrival, not since the restart"


def test_a_clock_that_was_set_back_keeps_nobody_out_for_longer_than_a_day() -> None:
    machine = Whitewashing()
    machine.caught((NET,), 0.0)
    machine.restore([(NET, name(number), 90 * DAY_S) for number in range(NEW_NAMES_PER_DAY_MAX)], 10.0)
    assert not machine.admits(name(9), (NET,), 20.0)
    assert machine.admits(name(9), (NET,), 10.0 + DAY_S)
