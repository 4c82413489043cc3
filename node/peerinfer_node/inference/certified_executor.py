"""A graphics card that is believed only where it agrees with the processor.

A driver may compute wrongly and say nothing. So before a card runs a model for anybody, both it and the processor run it
on the same sample, and where they differ the card is not used for this model. Later the sample is run again now and then
(`RECHECK_EVERY_S`): cards that were right can become wrong, from heat or age. What a card did between its last right
answer and a wrong one cannot be called back from here; verification is there for that.

A card that was wrong after it had been right, that vanishes again and again, or that fails without end is in quarantine
for a while (`peerinfer.quarantine`). All refusals are `DeviceUnfit`: the same work may go to another device.
"""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import trio

from peerinfer.batch_size import Measure
from peerinfer.comparison import disagreement
from peerinfer.errors import AttemptTimeout, DeviceUnfit, ExecutionError, OutOfMemory, WorkerDied
from peerinfer.ids import Cid
from peerinfer.limits import MIB
from peerinfer.machine import Tick
from peerinfer.quarantine import (
    AnsweredRightly,
    AnsweredWrongly,
    Confine,
    DeviceLost,
    Event,
    FoundUnfit,
    Quarantine,
    QuarantinePicture,
    RunFailed,
)
from peerinfer.tensors import Buffer
from peerinfer_node.inference.certificates import Certificates, Verdict
from peerinfer_node.inference.samples import Arrays, batch_of_one, outputs_of_one, samples
from peerinfer_node.log import Log
from peerinfer_node.ports import Batch, BatchResult, Device, Executor, LocalClock, ModelInterface

SAMPLE_SEED = 20
RECHECK_EVERY_S = 900.0
SAMPLE_TIMEOUT_S = 120.0
"""Compiling a model's shaders for a card takes seconds, in software half a minute."""

UNLOAD_TIMEOUT_S = 1.0
SAMPLES_KEPT_MAX = 16
SAMPLE_BYTES_MAX = 16 * MIB
"""Inputs and outputs of one kept sample; larger ones are not checked again."""

HALF_TOLERANCE = 1e-2
"""Where half precision was widened, the processor's own answer is this far off."""

AGREEMENT_MIN = 1e-3
"""A card whose answers are further off than this, as a share of the largest one, is broken or has a broken driver. The
worst honest one was at 1e-6."""

T = TypeVar("T")


def _distance(found: Sequence[float], reference: Sequence[float]) -> float | None:
    """The largest difference as a share of the largest answer; infinite for nonsense, None without a reference."""
    if not reference:
        return None
    if len(found) != len(reference) or not all(math.isfinite(value) for value in found):
        return math.inf
    largest = max(abs(value) for value in reference)
    return max(abs(one - other) for one, other in zip(found, reference, strict=True)) / max(largest, 1e-30)


@dataclass(slots=True)
class _Sample:
    inputs: Arrays
    reference: Arrays
    is_widened: bool
    checked_at_s: float


class CertifiedExecutor:
    """Implements `ports.Executor` over a card's executor; `reference` is the processor's."""

    def __init__(
        self,
        card: Executor,
        reference: Executor,
        certificates: Certificates,
        clock: LocalClock,
        log: Log,
    ) -> None:
        self._card = card
        self._reference = reference
        self._certificates = certificates
        self._clock = clock
        self._log = log
        self.on_confined: Callable[[str, float], None] = lambda reason, until_s: None
        """Called when a quarantine begins, with its reason and its end on the node's clock."""
        self._quarantine = Quarantine()
        self._broken = ""
        self._measured: Device | None = None
        self._samples: OrderedDict[Cid, _Sample] = OrderedDict()

    @property
    def device(self) -> Device:
        return self._measured or self._card.device

    @property
    def sandbox(self) -> str:
        return self._card.sandbox

    @property
    def quarantine(self) -> QuarantinePicture:
        self._tell(Tick())
        return self._quarantine.snapshot()

    async def certified(self) -> tuple[int, int]:
        """How many models came out right here, and how many wrong."""
        return await self._certificates.counts()

    async def holds(self, model: Cid) -> bool:
        return await self._card.holds(model)

    async def load(self, model: Cid, data: Buffer) -> ModelInterface:
        """Also raises `DeviceUnfit`: in quarantine, or wrong with this model."""
        self._refuse_if_confined()
        verdict = await self._certificates.find(model)
        if verdict is not None and not verdict.is_certified:
            raise DeviceUnfit(self._wrong(verdict))
        interface = await self._watched(lambda: self._card.load(model, data))
        if verdict is None:
            try:
                verdict = await self._certify(model, data, interface)
            except BaseException:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + UNLOAD_TIMEOUT_S):
                    await self._forget(model)  # what is loaded but not certified must not be taken for usable
                raise
            await self._certificates.set(model, verdict)
        if not verdict.is_certified:
            await self._forget(model)
            self._log.warning("model not for this device", device=self.device.name, model=model, reason=verdict.problem)
            self._tell(FoundUnfit(verdict.problem))
            raise DeviceUnfit(self._wrong(verdict))
        return interface

    async def run(self, model: Cid, batch: Batch, timeout_s: float) -> BatchResult:
        """Also raises `DeviceUnfit`, as `load` does."""
        self._refuse_if_confined()
        await self._recheck(model)
        result = await self._watched(lambda: self._card.run(model, batch, timeout_s))
        if len(result.failures) < len(batch.items):
            self._tell(AnsweredRightly())
        else:
            self._tell(RunFailed(result.failures[0][2]))
        return result

    async def unload(self, model: Cid) -> None:
        self._samples.pop(model, None)
        await self._card.unload(model)

    def measures(self, model: Cid) -> tuple[Measure, ...]:
        return self._card.measures(model)

    async def benchmark(self) -> Device:
        """A card that cannot be measured, or is wrong while it is, is not used until the node starts anew.

        Then its figures are 0.
        """
        card = self._card.device
        try:
            card = await self._watched(self._card.benchmark)
            reference = self._reference.device if self._reference.device.answers else await self._reference.benchmark()
            self._measured = replace(card, agreement=_distance(card.answers, reference.answers))
        except ExecutionError as error:
            self._broken = f"it could not be measured: {error}"
        if self._measured is not None and (self._measured.agreement or 0.0) > AGREEMENT_MIN:
            self._broken = f"it computes a convolution network wrongly (off by {self._measured.agreement:.0e})"
        if self._broken:
            self._measured = replace(
                card, gemm_gflops=0.0, bandwidth_gbs=0.0, conv_images_s=0.0, resnet50_images_s=0.0, answers=()
            )
            self._log.warning("device not used", device=self.device.name, reason=self._broken)
        return self.device

    async def release(self) -> None:
        await self._card.release()

    async def close(self) -> None:
        await self._card.close()

    # --- inside ----------------------------------------------------------------------------------------------------

    async def _certify(self, model: Cid, data: Buffer, interface: ModelInterface) -> Verdict:
        """Raises what keeps both from being asked; that is no verdict on the card."""
        await self._reference.load(model, data)
        for inputs in samples(interface.inputs, SAMPLE_SEED):
            reference = outputs_of_one(await self._reference.run(model, batch_of_one(inputs), SAMPLE_TIMEOUT_S))
            if reference is None:
                continue
            found = await self._watched(lambda: self._card.run(model, batch_of_one(inputs), SAMPLE_TIMEOUT_S))  # noqa: B023
            if found.failures:
                return Verdict(f"it cannot run it: {found.failures[0][2]}")
            problem = self._compared(outputs_of_one(found), reference, interface.is_widened)
            if not problem:
                self._tell(AnsweredRightly(is_proven=True))
                self._keep(model, _Sample(inputs, reference, interface.is_widened, self._clock.now_s()))
            return Verdict(problem)
        return Verdict("no sample input could be made up that the processor can run, so nothing can be compared")

    def _compared(self, found: Arrays | None, reference: Arrays, is_widened: bool) -> str:
        is_half = is_widened or any(array.dtype.name == "float16" for array in reference.values())
        tolerance = HALF_TOLERANCE if is_half else None
        return disagreement(found or {}, reference, compare="allclose", rtol=tolerance, atol=tolerance)

    def _keep(self, model: Cid, sample: _Sample) -> None:
        arrays = (*sample.inputs.values(), *sample.reference.values())
        if sum(array.nbytes for array in arrays) <= SAMPLE_BYTES_MAX:
            self._samples[model] = sample
            if len(self._samples) > SAMPLES_KEPT_MAX:
                self._samples.popitem(last=False)

    async def _recheck(self, model: Cid) -> None:
        sample = self._samples.get(model)
        if sample is None or self._clock.now_s() - sample.checked_at_s < RECHECK_EVERY_S:
            return
        result = await self._watched(lambda: self._card.run(model, batch_of_one(sample.inputs), SAMPLE_TIMEOUT_S))
        problem = self._compared(outputs_of_one(result), sample.reference, sample.is_widened)
        if problem:
            await self._forget(model)
            self._log.warning("device answers wrongly", device=self.device.name, model=model, reason=problem)
            self._tell(AnsweredWrongly(problem))
            self._refuse_if_confined()
        sample.checked_at_s = self._clock.now_s()
        self._tell(AnsweredRightly(is_proven=True))

    def hung(self, reason: str) -> None:
        """Its process was killed since it neither answered nor stopped."""
        self._log.warning("device hung", device=self.device.name, reason=reason)
        self._tell(DeviceLost(reason))

    async def _watched(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What the card answers; its losses and failures are remembered."""
        try:
            return await ask()
        except WorkerDied as error:
            self._tell(DeviceLost(str(error)))
            raise
        except (AttemptTimeout, OutOfMemory) as error:
            self._tell(RunFailed(str(error)))
            raise

    async def _forget(self, model: Cid) -> None:
        self._samples.pop(model, None)
        with contextlib.suppress(ExecutionError):  # a dead process holds nothing
            await self._card.unload(model)

    def _wrong(self, verdict: Verdict) -> str:
        return f"{self.device.name} is not used for this model: {verdict.problem}"

    @property
    def broken(self) -> str:
        """Why the card cannot be used at all; "" if it can."""
        return self._broken

    def _refuse_if_confined(self) -> None:
        if self._broken:
            raise DeviceUnfit(f"{self.device.name} is not used: {self._broken}")
        picture = self.quarantine
        if picture.is_confined:
            raise DeviceUnfit(f"{self.device.name} is in quarantine: {picture.reason}")

    def _tell(self, event: Event | Tick) -> None:
        for effect in self._quarantine.handle(event, self._clock.now_s()):
            if not isinstance(effect, Confine):
                continue
            self._log.warning(
                "device in quarantine", device=self.device.name, reason=self._quarantine.snapshot().reason
            )
            self.on_confined(effect.reason, effect.until_s)
