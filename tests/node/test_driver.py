"""The one driver: effects in their order, ticks at deadlines, errors that end it."""

import math

import pytest
import trio
import trio.testing

from peerinfer.machine import Tick
from peerinfer_node.clock import SystemClock
from peerinfer_node.driver import EVENTS_OF_PEERS_MAX, EVENTS_WAITING_MAX, Driver


class Recorder:
    """A machine that notes what it is told. Its effects are those that a test lays down for an event."""

    def __init__(self, effects=None):
        self.effects = effects or {}
        self.deadlines = []
        self.seen = []
        self.deadline_s = math.inf

    def handle(self, event, now_s):
        name = "tick" if isinstance(event, Tick) else event
        self.seen.append((name, now_s))
        self.deadline_s = self.deadlines.pop(0) if self.deadlines else math.inf
        return list(self.effects.get(name, ()))

    def snapshot(self):
        return tuple(self.seen)

    def check(self):
        pass


class Stage:
    """A driver with its machine, and what was performed."""

    def __init__(self, machine, perform=None):
        self.machine = machine
        self.performed = []
        self._perform_one = perform
        self.driver = Driver(machine, SystemClock(), self.perform)

    async def perform(self, effect):
        if self._perform_one is not None:
            await self._perform_one(effect)
        self.performed.append(effect)


@pytest.fixture(name="start")
def start_driver(nursery):
    def start(machine, perform=None):
        stage = Stage(machine, perform)
        nursery.start_soon(stage.driver.run)
        return stage

    return start


async def settle():
    await trio.testing.wait_all_tasks_blocked()


async def test_effects_are_performed_one_after_the_other_in_their_order(start, autojump_clock):
    async def take_time(effect):
        await trio.sleep(1.0 / len(effect))

    stage = start(Recorder({"a": ["one", "three", "fifteen"], "b": ["after"]}), take_time)
    stage.driver.post("a")
    stage.driver.post("b")
    await trio.sleep(10)
    assert stage.performed == ["one", "three", "fifteen", "after"]


async def test_events_posted_while_performing_are_handled_after_the_effects_at_hand(start):
    async def post_more(effect):
        if effect == "first":
            stage.driver.post("b")

    stage = start(Recorder({"a": ["first", "second"], "b": ["third"]}), post_more)
    stage.driver.post("a")
    await settle()
    assert stage.performed == ["first", "second", "third"]


async def test_the_machine_gets_a_tick_at_its_deadline(start, autojump_clock):
    machine = Recorder()
    machine.deadlines = [5.0, 7.5, math.inf]
    stage = start(machine)
    stage.driver.post("a")
    await trio.sleep(100)
    assert machine.seen == [("a", 0.0), ("tick", 5.0), ("tick", 7.5)]


async def test_an_event_before_the_deadline_needs_no_tick(start, autojump_clock):
    machine = Recorder()
    machine.deadlines = [5.0, 50.0]
    stage = start(machine)
    stage.driver.post("a")
    await trio.sleep(2)
    stage.driver.post("b")
    await trio.sleep(10)
    assert machine.seen == [("a", 0.0), ("b", 2.0)]


async def test_a_deadline_in_the_past_brings_a_tick_at_once(start, autojump_clock):
    machine = Recorder()
    machine.deadlines = [-100.0, math.inf]
    stage = start(machine)
    stage.driver.post("a")
    await trio.sleep(1)
    assert machine.seen == [("a", 0.0), ("tick", 0.0)]


async def test_a_machine_that_stands_still_starves_nobody(start, autojump_clock):
    """Its deadline never moves: a fault, but others must get their turn and the driver must be cancellable."""
    machine = Recorder()
    machine.handle = lambda event, now_s: machine.seen.append(event) or []
    machine.deadline_s = -1.0
    stage = start(machine)
    for _ in range(5):
        await trio.lowlevel.checkpoint()
    assert stage.machine.seen


async def test_a_machine_without_a_deadline_waits_for_events_only(start, autojump_clock):
    stage = start(Recorder())
    await trio.sleep(80_000)
    assert stage.machine.seen == []


async def test_an_error_while_performing_ends_the_driver_and_comes_out(autojump_clock):
    async def fail(effect):
        raise OSError(f"cannot {effect}")

    stage = Stage(Recorder({"a": ["write", "send"]}), fail)
    stage.driver.post("a")
    with pytest.raises(OSError, match="cannot write"):
        await stage.driver.run()
    assert stage.performed == []


async def test_an_error_of_the_machine_comes_out(autojump_clock):
    machine = Recorder()
    machine.handle = lambda event, now_s: 1 / 0
    stage = Stage(machine)
    stage.driver.post("a")
    with pytest.raises(ZeroDivisionError):
        await stage.driver.run()


async def test_events_posted_before_it_runs_are_not_lost(start):
    stage = Stage(Recorder())
    stage.driver.post("a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.driver.run)
        await settle()
        nursery.cancel_scope.cancel()
    assert [name for name, _ in stage.machine.seen] == ["a"]


async def test_events_without_end_are_an_error():
    stage = Stage(Recorder())
    for number in range(EVENTS_WAITING_MAX):
        stage.driver.post(number)
    with pytest.raises(RuntimeError, match="events wait for Recorder"):
        stage.driver.post("one more")


async def test_who_speaks_for_peers_waits_until_there_is_room(start, autojump_clock):
    """The first effect takes ten seconds; meanwhile three talkers fill the queue as far as they may."""

    async def be_slow(effect):
        await trio.sleep(10)

    stage = start(Recorder({"slow": ["write"]}), be_slow)
    stage.driver.post("slow")
    await settle()
    longest = 0

    async def talk():
        nonlocal longest
        for number in range(EVENTS_OF_PEERS_MAX):
            stage.driver.post(number)
            longest = max(longest, len(stage.driver._events))
            await stage.driver.wait_room()

    before_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(talk)
    assert trio.current_time() - before_s == pytest.approx(10.0)
    assert longest <= EVENTS_OF_PEERS_MAX + 3
    await settle()
    assert len(stage.machine.seen) == 1 + 3 * EVENTS_OF_PEERS_MAX


async def test_where_there_is_room_nobody_waits():
    stage = Stage(Recorder())
    with trio.fail_after(1):
        await stage.driver.wait_room()


# --- handling where it is posted -------------------------------------------------------------------------------------


class AtOnce(Stage):
    """A driver that performs at once what does not begin with "slow"."""

    def __init__(self, machine):
        super().__init__(machine)
        self.driver = Driver(machine, SystemClock(), self.perform, self.perform_nowait)

    def perform_nowait(self, effect):
        if effect.startswith("slow"):
            return False
        self.performed.append(effect)
        if effect == "posts more":
            self.driver.post("b")
        return True


@pytest.fixture(name="at_once")
def start_at_once(nursery):
    async def start(effects):
        stage = AtOnce(Recorder(effects))
        nursery.start_soon(stage.driver.run)
        await settle()
        return stage

    return start


async def test_an_idle_driver_handles_an_event_where_it_is_posted(at_once):
    stage = await at_once({"a": ["one", "posts more", "two"], "b": ["three"]})
    stage.driver.post("a")
    assert stage.performed == ["one", "posts more", "two", "three"]


async def test_what_must_wait_is_left_to_the_loop_and_nothing_overtakes_it(at_once):
    stage = await at_once({"a": ["one", "slow", "two"], "b": ["three"]})
    stage.driver.post("a")
    stage.driver.post("b")
    assert stage.performed == ["one"]
    await settle()
    assert stage.performed == ["one", "slow", "two", "three"]
    stage.driver.post("b")
    assert stage.performed[-1] == "three"
    assert len(stage.performed) == 5


async def test_a_deadline_that_an_event_brings_forward_is_kept(at_once, autojump_clock):
    stage = await at_once({"tick": ["late"]})
    stage.machine.deadlines = [50.0, 5.0, math.inf]
    stage.driver.post("a")
    stage.driver.post("b")
    await trio.sleep(4.9)
    assert stage.performed == []
    await trio.sleep(0.2)
    assert stage.performed == ["late"]
    assert stage.machine.seen[-1] == ("tick", 5.0)
