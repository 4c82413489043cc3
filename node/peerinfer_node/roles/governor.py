"""Keeps the owner's limits: reads the sensors, asks the governor machine, lets devices work or rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import trio

from peerinfer.governor import (
    SAMPLE_EVERY_S,
    STALE_S,
    Confined,
    DeviceSample,
    Effect,
    Event,
    Governor,
    Limits,
    PauseAsked,
    Reason,
    ResumeAsked,
    Sample,
    Sampled,
)
from peerinfer_node.driver import Driver
from peerinfer_node.log import Log
from peerinfer_node.ports import Executor, LocalClock
from peerinfer_node.roles.worker import WorkerRole

TakeSample = Callable[[], Sample | None]
"""Reads the sensors, in a thread; None while an earlier call still waits."""


class GovernorRole:
    """Without `take_sample` (no sensors, as in a simulation) only the owner's pauses count."""

    def __init__(
        self,
        *,
        limits: Limits,
        executors: Sequence[Executor],
        worker: WorkerRole,
        clock: LocalClock,
        log: Log,
        take_sample: TakeSample | None,
    ) -> None:
        self._executors = list(executors)
        self._worker = worker
        self._log = log
        self._take_sample = take_sample
        self._machine = Governor(limits, [executor.device.kind for executor in executors])
        self._driver: Driver[Event, Effect] = Driver(self._machine, clock, self._perform)
        self._is_holding = False
        self._told: dict[Executor, str] = {}
        worker.computing.power_of = lambda executor: self.of(executor)[0].power_w

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._driver.run)
            if self._take_sample is not None:
                nursery.start_soon(self._watch, self._take_sample)

    def pause(self, until_s: float = math.inf) -> None:
        """`until_s` is on the node's monotonic clock."""
        self._driver.post(PauseAsked(until_s))

    def resume(self) -> None:
        """Ends the owner's pause, and takes work again after `finish`; limits hold as before."""
        self._worker.resume()
        others = [[reason for reason in own if reason.name != "paused"] for own in self._machine.snapshot().reasons]
        if all(others):
            self._worker.pause("; ".join(dict.fromkeys(reason.words for own in others for reason in own)))
        self._driver.post(ResumeAsked())

    def confine(self, executor: Executor, reason: str, until_s: float) -> None:
        self._driver.post(Confined(self._executors.index(executor), reason, until_s))

    @property
    def quota_words(self) -> str:
        """Why nothing more is sent today; "" if more may be."""
        return next((reason.words for reason in self._machine.snapshot().shared if reason.name == "quota"), "")

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """What keeps the whole node from working."""
        picture = self._machine.snapshot()
        if not all(picture.reasons):
            return ()
        return picture.shared or tuple(dict.fromkeys(reason for own in picture.reasons for reason in own))

    def of(self, executor: Executor) -> tuple[DeviceSample, tuple[Reason, ...]]:
        """What the sensors of one device said last, and why it rests."""
        picture, number = self._machine.snapshot(), self._executors.index(executor)
        return picture.samples[number], picture.reasons[number]

    async def _watch(self, take_sample: TakeSample) -> None:
        while True:
            with trio.move_on_after(STALE_S):
                sample = await trio.to_thread.run_sync(  # type: ignore[call-arg,unused-ignore]
                    take_sample, abandon_on_cancel=True
                )
                if sample is not None:
                    self._driver.post(Sampled(sample))
            await trio.sleep(SAMPLE_EVERY_S)

    async def _perform(self, effect: Effect) -> None:
        resting = {
            executor: "; ".join(reason.words for reason in reasons)
            for executor, reasons in zip(self._executors, effect.reasons, strict=True)
            if reasons
        }
        for executor, words in resting.items():
            if self._told.get(executor) != words:  # an end that moves with every keystroke is no news
                self._log.info("device rests", device=executor.device.name, reason=words)
        for executor in self._told.keys() - resting.keys():
            self._log.info("device works again", device=executor.device.name)
        self._told = resting
        if len(resting) == len(self._executors):
            self._worker.pause("; ".join(reason.words for reason in self.reasons))
            self._is_holding = True
        elif self._is_holding:
            self._worker.lift_pause()
            self._is_holding = False
        self._worker.rest(resting)
