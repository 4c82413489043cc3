"""Quarantine of one device: when it has shown that it cannot be relied on, it rests, longer each time.

Three things lead to it, and they weigh differently. A wrong answer to a question whose answer is known is the worst: its
other answers cannot be believed either, so one is enough. A device that vanishes under its work (the driver was reset, the
process was killed) may recover, so only a few in a short time count. So does a streak of failures without any success
between them; single failures are the models' own.

Each quarantine is twice as long as the one before it, up to a limit. After a day without a new one it starts small again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from peerinfer.machine import NEVER, Tick
from peerinfer.units import format_count

WRONG_REST_S = 3600.0
LOST_REST_S = 300.0
STREAK_REST_S = 60.0
REST_MAX_S = 7 * 86_400.0
"""A card that is still wrong after a week needs its owner."""

LOSSES_MAX = 3
LOSS_WINDOW_S = 600.0
"""So many losses within this time lead to quarantine."""

STREAK_MAX = 8
"""Failures in a row."""

UNFIT_MODELS_MAX = 3
"""Models in a row that came out wrong at their certification: then it is not the models."""

FORGIVEN_AFTER_S = 86_400.0


@dataclass(frozen=True, slots=True)
class AnsweredRightly:
    """A run ended well, or a certification did."""

    is_proven: bool = False
    """It was compared with the right answer."""


@dataclass(frozen=True, slots=True)
class AnsweredWrongly:
    """A question with a known answer got another one; the device had been right with the same model before."""

    reason: str


@dataclass(frozen=True, slots=True)
class FoundUnfit:
    """A model came out wrong on its first trial here."""

    reason: str


@dataclass(frozen=True, slots=True)
class DeviceLost:
    reason: str


@dataclass(frozen=True, slots=True)
class RunFailed:
    reason: str


Event = AnsweredRightly | AnsweredWrongly | FoundUnfit | DeviceLost | RunFailed


@dataclass(frozen=True, slots=True)
class Confine:
    """Use the device no more until then; stop what runs on it."""

    until_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class SetFree:
    """The device may be used again."""


Effect = Confine | SetFree


@dataclass(frozen=True, slots=True)
class QuarantinePicture:
    is_confined: bool
    until_s: float
    """`NEVER` if it is free."""
    reason: str
    times: int
    """Quarantines that are not forgiven yet."""
    losses: int
    """Of those that count towards the next one."""
    last_loss: str
    """How the last of these went; "" if there is none."""


class Quarantine:
    """The machine of one device."""

    def __init__(self) -> None:
        self._until_s = NEVER
        self._reason = ""
        self._times = 0
        self._ended_at_s = -NEVER
        self._losses: deque[float] = deque(maxlen=LOSSES_MAX)
        self._last_loss = ""
        self._streak = 0
        self._unfit = 0
        self._handled_s = -NEVER

    @property
    def deadline_s(self) -> float:
        return self._until_s

    @property
    def is_confined(self) -> bool:
        return self._until_s < NEVER

    def handle(self, event: Event | Tick, now_s: float) -> list[Effect]:
        self._handled_s = now_s
        effects: list[Effect] = []
        if self.is_confined and now_s >= self._until_s:
            self._until_s, self._reason, self._ended_at_s = NEVER, "", now_s
            self._losses.clear()
            self._streak = self._unfit = 0
            effects.append(SetFree())
        match event:
            case AnsweredRightly(is_proven):
                self._streak = 0
                self._unfit = 0 if is_proven else self._unfit
            case AnsweredWrongly(reason):
                effects += self._confine(WRONG_REST_S, f"it answered wrongly: {reason}", now_s)
            case FoundUnfit(reason):
                self._unfit += 1
                if self._unfit >= UNFIT_MODELS_MAX:
                    which = f"it answered wrongly with {format_count(self._unfit, 'model')} in a row"
                    effects += self._confine(WRONG_REST_S, f"{which}, the last: {reason}", now_s)
            case DeviceLost(reason):
                self._losses.append(now_s)
                self._last_loss = reason
                if len(self._losses) == LOSSES_MAX and now_s - self._losses[0] <= LOSS_WINDOW_S:
                    which = f"it was lost {LOSSES_MAX} times within {LOSS_WINDOW_S / 60:g} minutes"
                    effects += self._confine(LOST_REST_S, f"{which}: {reason}", now_s)
            case RunFailed(reason):
                self._streak += 1
                if self._streak >= STREAK_MAX:
                    effects += self._confine(STREAK_REST_S, f"{STREAK_MAX} runs in a row failed: {reason}", now_s)
        return effects

    def _confine(self, first_rest_s: float, reason: str, now_s: float) -> list[Effect]:
        """What is said again while it rests already changes nothing: it comes from work that was under way."""
        if self.is_confined:
            return []
        if now_s - self._ended_at_s > FORGIVEN_AFTER_S:
            self._times = 0
        self._until_s = now_s + min(REST_MAX_S, first_rest_s * 2.0 ** min(self._times, 32))
        self._reason = reason
        self._times += 1
        return [Confine(self._until_s, reason)]

    def snapshot(self) -> QuarantinePicture:
        """As of the last event."""
        losses = sum(self._handled_s - lost_s <= LOSS_WINDOW_S for lost_s in self._losses)
        last_loss = self._last_loss if losses else ""
        return QuarantinePicture(self.is_confined, self._until_s, self._reason, self._times, losses, last_loss)

    def check(self) -> None:
        assert self.is_confined == bool(self._reason), f"confined until {self._until_s} because of {self._reason!r}"
        assert self.is_confined or self._streak < STREAK_MAX, f"{self._streak} failures in a row, and free"
        assert len(self._losses) <= LOSSES_MAX
