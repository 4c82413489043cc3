from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerinfer.errors import UsageError
from peerinfer.governor import (
    IDLE_AFTER_S,
    REST_MIN_S,
    SAMPLE_EVERY_S,
    STALE_S,
    Confined,
    DeviceSample,
    Governor,
    Limits,
    PauseAsked,
    Reason,
    ResumeAsked,
    Sample,
    Sampled,
    SetDevices,
    limit_words,
)
from peerinfer.machine import NEVER, Tick
from peerinfer.units import DAYS, MINUTES_PER_WEEK, WeeklyWindow, parse_weekly

NOON = 12 * 60
COOL = DeviceSample(temperature_c=50.0, power_w=90.0, foreign_busy_ratio=0.0, memory_used_bytes=0)
QUIET = Sample((DeviceSample(foreign_busy_ratio=0.0), COOL), NOON, input_idle_s=3600.0, on_battery=False)
"""A processor and a card at rest, on a Monday at noon."""


class Machine:
    """A governor with a clock that is moved by hand and a sample every half second."""

    def __init__(self, limits: Limits) -> None:
        self.governor = Governor(limits, ["cpu", "gpu"])
        self.now_s = 0.0
        self.reasons: tuple[tuple[Reason, ...], ...] = ((), ())
        self.changes = 0

    def tell(self, event: object, after_s: float = 0.0) -> None:
        self.now_s += after_s
        for effect in self.governor.handle(event, self.now_s):  # type: ignore[arg-type]
            assert isinstance(effect, SetDevices)
            self.reasons = effect.reasons
            self.changes += 1
        self.governor.check()

    def sees(self, sample: Sample, for_s: float = SAMPLE_EVERY_S) -> list[list[str]]:
        """Names of the reasons after seeing the same for so long. Idle time passes."""
        for step in range(round(for_s / SAMPLE_EVERY_S)):
            idle_s = sample.input_idle_s
            aged = replace(sample, input_idle_s=None if idle_s is None else idle_s + step * SAMPLE_EVERY_S)
            self.tell(Sampled(aged), SAMPLE_EVERY_S)
        return self.names

    @property
    def names(self) -> list[list[str]]:
        return [[reason.name for reason in reasons] for reasons in self.reasons]

    def ends(self, device: int = 1) -> list[float]:
        return [reason.until_s for reason in self.reasons[device]]


def card(**values: object) -> Sample:
    return replace(QUIET, devices=(QUIET.devices[0], replace(COOL, **values)))


def test_without_limits_nothing_rests() -> None:
    machine = Machine(Limits())
    assert machine.sees(card(temperature_c=99.0, power_w=400.0, foreign_busy_ratio=1.0)) == [[], []]
    assert machine.changes == 0


def test_a_hot_card_rests_until_it_is_much_cooler_and_the_processor_works_on() -> None:
    machine = Machine(Limits(max_temp_c=80))
    assert machine.sees(card(temperature_c=79.9)) == [[], []]
    assert machine.sees(card(temperature_c=80.0)) == [[], ["temperature"]]
    assert machine.reasons[1][0].words == "hotter than 80 °C; rests until it is below 72 °C"
    assert machine.sees(card(temperature_c=72.0), 60) == [[], ["temperature"]]
    assert machine.sees(card(temperature_c=71.9)) == [[], []]
    assert machine.sees(card(temperature_c=79.0)) == [[], []]


def test_a_card_that_rests_does_so_for_a_while() -> None:
    machine = Machine(Limits(max_temp_c=80))
    machine.sees(card(temperature_c=90.0))
    assert machine.sees(card(temperature_c=50.0), REST_MIN_S - 1) == [[], ["temperature"]]
    assert machine.sees(card(temperature_c=50.0), 1) == [[], []]


def test_power_has_its_own_hysteresis() -> None:
    machine = Machine(Limits(max_power_w=100))
    assert machine.sees(card(power_w=101.0)) == [[], ["power"]]
    assert machine.sees(card(power_w=95.0), 20) == [[], ["power"]]
    assert machine.sees(card(power_w=80.0), 20) == [[], []]


def test_an_owner_who_comes_back_is_noticed_with_the_first_sample() -> None:
    machine = Machine(Limits(idle_only=True))
    assert machine.sees(QUIET) == [[], []]
    assert machine.sees(replace(QUIET, input_idle_s=0.0)) == [["in_use"], ["in_use"]]
    assert 0 <= machine.ends()[0] - (machine.now_s + IDLE_AFTER_S) < 10
    assert machine.sees(replace(QUIET, input_idle_s=0.5), IDLE_AFTER_S - 2) == [["in_use"], ["in_use"]]
    assert machine.sees(replace(QUIET, input_idle_s=IDLE_AFTER_S), 2) == [[], []]


def test_somebody_who_types_is_not_news_with_every_sample() -> None:
    machine = Machine(Limits(idle_only=True))
    for _ in range(120):
        machine.sees(replace(QUIET, input_idle_s=0.0))
    assert machine.changes <= 8


def test_another_program_on_a_card_makes_that_card_rest() -> None:
    machine = Machine(Limits(idle_only=True))
    assert machine.sees(card(foreign_busy_ratio=0.9)) == [[], ["shared"]]
    assert machine.sees(card(), IDLE_AFTER_S - 1) == [[], ["shared"]]
    assert machine.sees(card(), 2) == [[], []]


def test_a_sensor_that_tells_nothing_limits_nothing() -> None:
    machine = Machine(Limits(max_temp_c=60, max_power_w=10, idle_only=True))
    silent = Sample((DeviceSample(), DeviceSample()), NOON)
    assert machine.sees(silent) == [[], []]


def test_sensors_that_hang_let_a_limited_card_rest() -> None:
    machine = Machine(Limits(max_temp_c=60))
    machine.sees(QUIET)
    machine.tell(Tick(), STALE_S + SAMPLE_EVERY_S)
    assert machine.names == [[], ["sensors"]]
    assert machine.sees(QUIET, REST_MIN_S + 1) == [[], []]
    never = Machine(Limits(max_temp_c=60))
    never.tell(ResumeAsked())
    assert never.names == [[], ["sensors"]]


def test_a_pause_ends_when_it_was_said_to_and_with_resume() -> None:
    machine = Machine(Limits())
    machine.tell(PauseAsked(until_s=3600.0))
    assert machine.names == [["paused"], ["paused"]]
    assert machine.governor.snapshot().shared[0].until_s == 3600.0
    assert machine.governor.deadline_s <= 3600.0
    machine.tell(Tick(), 3600.0)
    assert machine.names == [[], []]
    machine.tell(PauseAsked())
    assert machine.ends() == [NEVER]
    machine.tell(ResumeAsked())
    assert machine.names == [[], []]


def test_resuming_lifts_a_pause_and_no_limit() -> None:
    machine = Machine(Limits(max_temp_c=60))
    machine.sees(card(temperature_c=70.0))
    machine.tell(PauseAsked())
    assert machine.names == [["paused"], ["paused", "temperature"]]
    machine.tell(ResumeAsked())
    assert machine.names == [[], ["temperature"]]


def test_a_schedule_says_when_it_opens() -> None:
    machine = Machine(Limits(schedule=(parse_weekly("22:00-08:00"),)))
    assert machine.sees(replace(QUIET, seconds_of_minute=30.0)) == [["schedule"], ["schedule"]]
    assert machine.ends()[0] == pytest.approx(10 * 3600 - 30, abs=1)
    assert machine.sees(replace(QUIET, minute_of_week=22 * 60)) == [[], []]
    assert machine.changes == 2


def test_a_schedule_is_told_once_though_time_passes() -> None:
    machine = Machine(Limits(schedule=(parse_weekly("22:00-08:00"),)))
    for step in range(240):
        minute, second = divmod(step * SAMPLE_EVERY_S, 60)
        machine.sees(replace(QUIET, minute_of_week=NOON + int(minute), seconds_of_minute=second))
    assert machine.changes == 1


@pytest.mark.parametrize(
    ("sample", "limits", "name"),
    [
        (replace(QUIET, on_battery=True), Limits(), "battery"),
        (replace(QUIET, programs=("blender",)), Limits(exclusive=("blender",)), "exclusive"),
        (replace(QUIET, bytes_today=10**9), Limits(max_daily_bytes=10**9), "quota"),
    ],
)
def test_what_concerns_the_machine_concerns_every_device(sample: Sample, limits: Limits, name: str) -> None:
    machine = Machine(limits)
    assert machine.sees(sample) == [[name], [name]]
    assert machine.sees(QUIET) == [[], []]


def test_a_battery_may_be_allowed() -> None:
    assert Machine(Limits(on_battery=True)).sees(replace(QUIET, on_battery=True)) == [[], []]


def test_a_quota_ends_at_midnight() -> None:
    machine = Machine(Limits(max_daily_bytes=1))
    machine.sees(replace(QUIET, bytes_today=2))
    assert machine.ends()[0] == pytest.approx(12 * 3600, abs=1)


def test_a_worker_that_took_too_much_memory_rests_and_others_memory_is_not_ours() -> None:
    machine = Machine(Limits(max_vram_bytes=1 << 30))
    assert machine.sees(card(own_memory_bytes=1 << 29, memory_used_bytes=6 << 30)) == [[], []]
    assert machine.sees(card(own_memory_bytes=2 << 30)) == [[], ["memory"]]


def test_quarantine_is_one_more_reason_and_ends() -> None:
    machine = Machine(Limits())
    machine.tell(Confined(1, "it answered wrongly", 100.0))
    assert machine.names == [[], ["quarantine"]]
    machine.tell(Tick(), 100.0)
    assert machine.names == [[], []]


# --- days and hours ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "minute", "holds"),
    [
        ("mon-fri 22:00-08:00", 23 * 60, True),
        ("mon-fri 22:00-08:00", 5 * 1440 + 7 * 60, True),  # Saturday morning belongs to Friday's night
        ("mon-fri 22:00-08:00", 5 * 1440 + 23 * 60, False),
        ("mon-fri 22:00-08:00", 7 * 60, False),  # Monday morning belongs to Sunday's night
        ("sat-mon 10:00-11:00", 6 * 1440 + 10 * 60, True),
        ("sat-mon 10:00-11:00", 1440 + 10 * 60, False),
        ("sun 00:00-23:59", 6 * 1440, True),
        ("sun 00:00-23:59", 0, False),
    ],
)
def test_a_weekly_window_holds_its_minutes(text: str, minute: int, holds: bool) -> None:
    assert parse_weekly(text).holds(minute) is holds


@pytest.mark.parametrize("text", ["mon-fri 22:00-08:00", "22:00-08:00", "sat 10:00-11:00", "sat-mon 10:00-11:00"])
def test_a_weekly_window_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_weekly(text)) == text


@pytest.mark.parametrize(
    "text", ["someday 10:00-11:00", "mon-xyz 10:00-11:00", "mon", "mon-fri 10:00", "-fri 1:00-2:00"]
)
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a"):
        parse_weekly(text)


WINDOWS = st.builds(
    lambda start, length, first, last: parse_weekly(
        f"{DAYS[first]}-{DAYS[last]} "
        f"{start // 60:02}:{start % 60:02}-{(start + length) % 1440 // 60:02}:{(start + length) % 60:02}"
    ),
    st.integers(0, 1439),
    st.integers(1, 1439),
    st.integers(0, 6),
    st.integers(0, 6),
)


@given(WINDOWS, WINDOWS)
def test_windows_overlap_exactly_if_they_share_a_minute(first: WeeklyWindow, second: WeeklyWindow) -> None:
    shared = any(first.holds(minute) and second.holds(minute) for minute in range(MINUTES_PER_WEEK))
    assert first.overlaps(second) == shared


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(), "at any time"),
        (
            Limits(schedule=(parse_weekly("22:00-08:00"),), idle_only=True, max_temp_c=80),
            "at 22:00-08:00, while nobody uses this machine, below 80 °C",
        ),
        (
            Limits(exclusive=("game",), max_power_w=90.5, max_vram_bytes=4 << 30, max_daily_bytes=5 << 30),
            "while none of these runs: game, below 90.5 W, within 4 GiB of a card's memory, "
            "until 5 GiB have gone over the line, each day",
        ),
    ],
)
def test_when_devices_are_lent_is_said_in_words(limits: Limits, words: str) -> None:
    assert limit_words(limits) == words
