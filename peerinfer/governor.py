"""The governor: when a volunteer's devices may be used, and if not, why and until when.

It is told what the machine's sensors say (`Sampled`, twice a second) and what its owner says (`PauseAsked`,
`ResumeAsked`), and keeps the owner's limits. Every refusal has a name, words for people, and the time when it ends, as far
as anybody can know: a schedule ends at a known minute, a hot card when it has cooled.

Limits that would flap are asymmetric. A device rests from `max_temp_c` on until it is `TEMP_HYSTERESIS_C` cooler. An
owner who comes back is noticed with the first sample; that they have gone is believed after `IDLE_AFTER_S`. Whatever
rests stays at rest for `REST_MIN_S`, since stopping and starting costs models loaded anew.

A sensor that cannot be read limits nothing: cards that tell no temperature are common, and the picture says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from peerinfer.machine import NEVER, Tick
from peerinfer.units import MINUTES_PER_DAY, MINUTES_PER_WEEK, WeeklyWindow, format_size

SAMPLE_EVERY_S = 0.5
"""A device that must rest is stopped within a second: one sample, and half a second to stop."""

TEMP_HYSTERESIS_C = 8.0
POWER_HYSTERESIS = 0.9
"""A device over its power limit may go on when it takes less than this share of it."""

IDLE_AFTER_S = 120.0
"""Without keyboard, mouse or another program's load for this long, nobody uses the machine."""

REST_MIN_S = 10.0
FOREIGN_BUSY_RATIO = 0.25
"""Another program that takes this share of a device is its owner's game, film or work."""

STALE_S = 5.0
"""Samples older than this say nothing: the sensors hang, perhaps with the driver. Limits that need them then hold."""

UNTIL_STEP_S = 10.0
"""Times that move with every keystroke are told in such steps, so that not every sample is news."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the owner allows. None and empty limit nothing."""

    max_temp_c: float | None = None
    max_power_w: float | None = None
    max_vram_bytes: int | None = None
    idle_only: bool = False
    on_battery: bool = False
    """Lend also while the machine runs on its battery."""
    schedule: tuple[WeeklyWindow, ...] = ()
    exclusive: tuple[str, ...] = ()
    """Names of programs beside which nothing is lent, while they run."""
    max_daily_bytes: int | None = None
    """Sent and received together, from midnight to midnight."""


NO_LIMITS = Limits()


def limit_words(limits: Limits) -> str:
    """When devices are lent, as their owner reads it: "at 22:00-08:00, while nobody uses this machine, below 80 °C"."""
    parts = [f"at {', '.join(str(window.window) for window in limits.schedule)}"] if limits.schedule else []
    if limits.idle_only:
        parts.append("while nobody uses this machine")
    if limits.exclusive:
        parts.append(f"while none of these runs: {', '.join(limits.exclusive)}")
    if limits.max_temp_c is not None:
        parts.append(f"below {limits.max_temp_c:g} °C")
    if limits.max_power_w is not None:
        parts.append(f"below {limits.max_power_w:g} W")
    if limits.max_vram_bytes is not None:
        parts.append(f"within {format_size(limits.max_vram_bytes)} of a card's memory")
    if limits.max_daily_bytes is not None:
        parts.append(f"until {format_size(limits.max_daily_bytes)} have gone over the line, each day")
    return ", ".join(parts) or "at any time"


@dataclass(frozen=True, slots=True)
class DeviceSample:
    """What a device's sensors say now; None is unknown."""

    temperature_c: float | None = None
    power_w: float | None = None
    busy_ratio: float | None = None
    """Share of the device that all programs take."""
    foreign_busy_ratio: float | None = None
    """Share of the device that other programs than ours take."""
    memory_used_bytes: int | None = None
    """By all programs."""
    own_memory_bytes: int = 0
    """By our worker."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the machine says now."""

    devices: tuple[DeviceSample, ...]
    minute_of_week: int
    """Local time, from Monday 0:00."""
    seconds_of_minute: float = 0.0
    input_idle_s: float | None = None
    """Since keyboard or mouse were last touched."""
    on_battery: bool | None = None
    programs: tuple[str, ...] = ()
    """Those of `Limits.exclusive` that run."""
    bytes_today: int = 0


@dataclass(frozen=True, slots=True)
class Sampled:
    sample: Sample


@dataclass(frozen=True, slots=True)
class PauseAsked:
    until_s: float = NEVER
    """On the machine's clock."""


@dataclass(frozen=True, slots=True)
class ResumeAsked:
    pass


@dataclass(frozen=True, slots=True)
class Confined:
    """A device is in quarantine until then."""

    device: int
    reason: str
    until_s: float


Event = Sampled | PauseAsked | ResumeAsked | Confined


REASONS = (
    "paused", "schedule", "battery", "exclusive", "quota", "in_use", "shared", "temperature", "power", "memory",
    "quarantine", "sensors",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a device rests."""

    name: str
    """One of `REASONS`."""
    words: str
    until_s: float = NEVER
    """When it ends, on the machine's clock; `NEVER` if nobody can know."""


@dataclass(frozen=True, slots=True)
class SetDevices:
    """For each device why it must rest; an empty tuple lets it work. Comes when anything about it has changed."""

    reasons: tuple[tuple[Reason, ...], ...]


Effect = SetDevices


@dataclass(slots=True)
class _DeviceState:
    reasons: tuple[Reason, ...] = ()
    """Of the device alone."""
    is_hot: bool = False
    is_hungry: bool = False
    foreign_at_s: float = -NEVER
    confined: Reason | None = None
    rested_at_s: float = -NEVER


@dataclass(frozen=True, slots=True)
class GovernorPicture:
    reasons: tuple[tuple[Reason, ...], ...]
    samples: tuple[DeviceSample, ...]

    @property
    def shared(self) -> tuple[Reason, ...]:
        """Reasons that keep every device at rest."""
        if not self.reasons:
            return ()
        return tuple(reason for reason in self.reasons[0] if all(reason in others for others in self.reasons))


class Governor:
    """The machine. `devices` are numbered as in `Sample.devices`; `kinds` says "cpu" or "gpu" of each."""

    def __init__(self, limits: Limits, kinds: Sequence[str]) -> None:
        self._limits = limits
        self._kinds = tuple(kinds)
        self._states = [_DeviceState() for _ in kinds]
        self._sample = Sample(tuple(DeviceSample() for _ in kinds), 0)
        self._sampled_at_s = -NEVER
        self._input_at_s = -NEVER
        self._paused_until_s: float | None = None
        self._shared: tuple[Reason, ...] = ()
        self._told: tuple[tuple[Reason, ...], ...] = ((),) * len(kinds)
        self.deadline_s = NEVER

    def handle(self, event: Event | Tick, now_s: float) -> list[Effect]:
        match event:
            case Sampled(sample):
                assert len(sample.devices) == len(self._states)
                self._sample, self._sampled_at_s = sample, now_s
                if sample.input_idle_s is not None:
                    self._input_at_s = max(self._input_at_s, now_s - sample.input_idle_s)
            case PauseAsked(until_s):
                self._paused_until_s = until_s
            case ResumeAsked():
                self._paused_until_s = None
            case Confined(device, reason, until_s):
                self._states[device].confined = Reason("quarantine", reason, until_s)
        if self._paused_until_s is not None and now_s >= self._paused_until_s:
            self._paused_until_s = None
        self._shared = tuple(self._shared_reasons(now_s))
        for number, state in enumerate(self._states):
            self._judge(number, state, now_s)
        reasons = tuple(self._shared + state.reasons for state in self._states)
        self.deadline_s = self._next_change_s(reasons, now_s)
        if reasons == self._told:
            return []
        self._told = reasons
        return [SetDevices(reasons)]

    # --- the whole machine -------------------------------------------------------------------------------------------

    def _shared_reasons(self, now_s: float) -> list[Reason]:
        limits, sample = self._limits, self._sample
        found = []
        if self._paused_until_s is not None:
            found.append(Reason("paused", "paused by its owner", self._paused_until_s))
        if self._sampled_at_s == -NEVER:
            return found
        if limits.schedule and not any(window.holds(sample.minute_of_week) for window in limits.schedule):
            hours = ", ".join(str(window.window) for window in limits.schedule)
            found.append(Reason("schedule", f"outside the hours to lend in ({hours})", self._schedule_opens_s()))
        if sample.on_battery and not limits.on_battery:
            found.append(Reason("battery", "the machine runs on its battery; --on-battery lends all the same"))
        if sample.programs:
            found.append(Reason("exclusive", f"{', '.join(sorted(sample.programs))} runs"))
        if limits.max_daily_bytes is not None and sample.bytes_today >= limits.max_daily_bytes:
            words = f"today's {format_size(limits.max_daily_bytes)} are used up"
            found.append(
                Reason("quota", words, self._minute_s(-sample.minute_of_week % MINUTES_PER_DAY or MINUTES_PER_DAY))
            )
        if limits.idle_only and now_s - self._input_at_s < IDLE_AFTER_S:
            found.append(Reason("in_use", "somebody uses this machine", _stepped(self._input_at_s + IDLE_AFTER_S)))
        return found

    def _schedule_opens_s(self) -> float:
        for ahead in range(1, MINUTES_PER_WEEK + 1):
            minute = (self._sample.minute_of_week + ahead) % MINUTES_PER_WEEK
            if any(window.holds(minute) for window in self._limits.schedule):
                return self._minute_s(ahead)
        return NEVER

    def _minute_s(self, ahead: int) -> float:
        """The start of the minute that is so many minutes ahead, on the machine's clock; whole seconds, so that a reason
        that was told does not change with every sample."""
        return round(self._sampled_at_s - self._sample.seconds_of_minute + 60.0 * ahead)

    # --- one device ----------------------------------------------------------------------------------------------------

    def _judge(self, number: int, state: _DeviceState, now_s: float) -> None:
        sample = self._sample.devices[number]
        reasons = []
        if state.confined is not None and now_s >= state.confined.until_s:
            state.confined = None
        if state.confined is not None:
            reasons.append(state.confined)
        if now_s - self._sampled_at_s > STALE_S and self._needs_sensors(number):
            reasons.append(Reason("sensors", "its sensors do not answer"))
        reasons += self._from_sensors(number, state, sample, now_s)
        if reasons and not state.reasons:
            state.rested_at_s = now_s
        if not reasons and state.reasons and now_s - state.rested_at_s < REST_MIN_S:
            reasons = list(state.reasons)
        state.reasons = tuple(reasons)

    def _needs_sensors(self, number: int) -> bool:
        limits, is_gpu = self._limits, self._kinds[number] == "gpu"
        return is_gpu and (limits.max_temp_c is not None or limits.max_power_w is not None or limits.idle_only)

    def _from_sensors(self, number: int, state: _DeviceState, sample: DeviceSample, now_s: float) -> list[Reason]:
        limits = self._limits
        found = []
        if limits.max_temp_c is not None and sample.temperature_c is not None:
            edge_c = limits.max_temp_c - TEMP_HYSTERESIS_C if state.is_hot else limits.max_temp_c
            state.is_hot = sample.temperature_c >= edge_c
            if state.is_hot:
                cool = f"rests until it is below {limits.max_temp_c - TEMP_HYSTERESIS_C:g} °C"
                found.append(Reason("temperature", f"hotter than {limits.max_temp_c:g} °C; {cool}"))
        if limits.max_power_w is not None and sample.power_w is not None:
            edge_w = limits.max_power_w * (POWER_HYSTERESIS if state.is_hungry else 1.0)
            state.is_hungry = sample.power_w >= edge_w
            if state.is_hungry:
                calm = f"rests until it takes less than {limits.max_power_w * POWER_HYSTERESIS:g} W"
                found.append(Reason("power", f"takes more than {limits.max_power_w:g} W; {calm}"))
        if limits.idle_only:
            if (sample.foreign_busy_ratio or 0.0) >= FOREIGN_BUSY_RATIO:
                state.foreign_at_s = now_s
            if now_s - state.foreign_at_s < IDLE_AFTER_S:
                until_s = _stepped(state.foreign_at_s + IDLE_AFTER_S)
                found.append(Reason("shared", "another program computes on it", until_s))
        is_gpu = self._kinds[number] == "gpu"
        if is_gpu and limits.max_vram_bytes is not None and sample.own_memory_bytes > limits.max_vram_bytes:
            words = f"our worker took more than {format_size(limits.max_vram_bytes)} of its memory"
            found.append(Reason("memory", words))
        return found

    def _next_change_s(self, reasons: tuple[tuple[Reason, ...], ...], now_s: float) -> float:
        """Samples bring most changes; what ends by itself must not wait for one."""
        ends = [reason.until_s for own in reasons for reason in own if reason.until_s > now_s]
        ends += [state.rested_at_s + REST_MIN_S for state in self._states if state.reasons]
        if self._sampled_at_s > -NEVER:
            ends.append(self._sampled_at_s + STALE_S + SAMPLE_EVERY_S)
        return min((end for end in ends if end > now_s), default=NEVER)

    def snapshot(self) -> GovernorPicture:
        return GovernorPicture(self._told, self._sample.devices)

    def check(self) -> None:
        assert len(self._told) == len(self._states)
        for reasons in self._told:
            names = [reason.name for reason in reasons]
            assert len(names) == len(set(names)), f"said twice: {names}"
            assert all(reason.words and reason.name in REASONS for reason in reasons)


def _stepped(until_s: float) -> float:
    return math.ceil(until_s / UNTIL_STEP_S) * UNTIL_STEP_S if math.isfinite(until_s) else until_s
