"""A card is believed only where it agrees with the processor. The card here is a processor that can be made to lie."""

from __future__ import annotations

import struct
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import models
import numpy as np
import psutil
import pytest
import trio
from models import batch_of, outputs_of
from onnx import TensorProto, helper
from software_vulkan import ENVIRONMENT, needs_software_vulkan

from peerinfer import hangs
from peerinfer.errors import AttemptTimeout, DeviceUnfit, ModelRefused, WorkerDied
from peerinfer.hangs import HANG_FACTOR, HANG_MIN_S
from peerinfer.ids import Cid, cid_of
from peerinfer.quarantine import LOSSES_MAX, UNFIT_MODELS_MAX, WRONG_REST_S
from peerinfer_node.devices import vulkan
from peerinfer_node.devices.choice import judge
from peerinfer_node.devices.fit import fit_words
from peerinfer_node.devices.probe import cpu_device
from peerinfer_node.inference import device_process
from peerinfer_node.inference.certificates import VALID_S, Certificates, Verdict
from peerinfer_node.inference.certified_executor import RECHECK_EVERY_S, CertifiedExecutor
from peerinfer_node.inference.device_access import gpu_access
from peerinfer_node.inference.samples import samples
from peerinfer_node.inference.subprocess_executor import SubprocessExecutor
from peerinfer_node.log import Log
from peerinfer_node.memory_store import MemoryStore
from peerinfer_node.ports import Batch, BatchResult, Device, Group

pytestmark = pytest.mark.slow

CARD = Device("Radeon RX 580", "gpu", "WebGpuExecutionProvider", 8 << 30, 0x1002, 0x67DF)
RNG = np.random.default_rng(11)


class HandClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def now_s(self) -> float:
        return self.at_s

    def wall_s(self) -> float:
        return 1.8e9 + self.at_s


class Card(SubprocessExecutor):
    """A worker process that computes rightly, and whose answers are changed on their way while it lies."""

    lies = False
    dies = False
    runs = 0

    async def run(self, model: Cid, batch: Batch, timeout_s: float) -> BatchResult:
        self.runs += 1
        if self.dies:
            await self.release()
            raise WorkerDied("the worker process died of SIGSEGV")
        result = await super().run(model, batch, timeout_s)
        if not self.lies:
            return result
        changed = bytearray(result.groups[0].body)
        struct.pack_into("<f", changed, 0, 1e6)
        group = result.groups[0]
        return replace(result, groups=(Group(group.positions, group.tensors, bytes(changed)), *result.groups[1:]))


class Bench:
    """A card, the processor beside it, and what they stand on."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.store = MemoryStore()
        self.card = Card(CARD, threads=1)
        self.processor = SubprocessExecutor(cpu_device(), threads=1)
        self.confined = 0
        self.lines: list[str] = []
        self.restart()

    def restart(self, software: str = "driver 1") -> None:
        certificates = Certificates(self.store, self.clock, CARD, software)
        self.executor = CertifiedExecutor(self.card, self.processor, certificates, self.clock, Log(self.lines.append))
        self.executor.on_confined = self.count
        self.card.on_hung = self.executor.hung

    def count(self, reason: str, until_s: float) -> None:
        self.confined += 1

    async def run(self, model: bytes) -> BatchResult:
        x = RNG.standard_normal((2, 64)).astype(np.float32)
        return await self.executor.run(cid_of(model), batch_of([1, 1], x=x), 10)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    try:
        yield made
    finally:
        await made.card.close()
        await made.processor.close()


async def test_a_model_is_certified_once_and_then_runs(bench: Bench) -> None:
    model = models.mlp()
    interface = await bench.executor.load(cid_of(model), model)
    assert interface.inputs[0].name == "x"
    assert await bench.executor.certified() == (1, 0)
    assert bench.card.runs == 1
    assert not (await bench.run(model)).failures
    await bench.executor.load(cid_of(model), model)
    assert bench.card.runs == 2


async def test_a_card_that_agrees_with_the_processor_says_how_far(bench: Bench) -> None:
    device = await bench.executor.benchmark()
    assert device == bench.executor.device
    assert device.agreement == 0  # here both are the processor
    assert fit_words(device).endswith("agrees with the CPU to the last bit")


async def test_a_card_that_computes_a_convolution_network_wrongly_is_not_used_at_all(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = bench.card.benchmark

    async def wrong() -> Device:
        device = await honest()
        return replace(device, answers=(device.answers[0] * 1.5, *device.answers[1:]))

    monkeypatch.setattr(bench.card, "benchmark", wrong)
    device = await bench.executor.benchmark()
    assert (device.gemm_gflops, fit_words(device)) == (0, "")
    assert "convolution network wrongly" in bench.executor.broken
    with pytest.raises(DeviceUnfit, match="wrongly"):
        await bench.executor.load(cid_of(models.mlp()), models.mlp())


async def test_a_verdict_survives_a_restart_but_not_another_driver_nor_a_week(bench: Bench) -> None:
    model = models.mlp()
    await bench.executor.load(cid_of(model), model)
    bench.restart()
    await bench.executor.load(cid_of(model), model)
    assert bench.card.runs == 1
    bench.restart("driver 2")
    await bench.executor.load(cid_of(model), model)
    assert bench.card.runs == 2
    bench.clock.at_s += VALID_S
    bench.restart()
    await bench.executor.load(cid_of(model), model)
    assert bench.card.runs == 3


async def test_a_card_that_is_wrong_with_a_model_is_not_used_for_it(bench: Bench) -> None:
    model, other = models.mlp(), models.mlp(seed=1)
    bench.card.lies = True
    with pytest.raises(DeviceUnfit, match="Radeon RX 580 is not used for this model: output 'y'"):
        await bench.executor.load(cid_of(model), model)
    assert not await bench.executor.holds(cid_of(model))
    bench.card.lies = False
    await bench.executor.load(cid_of(other), other)
    assert not (await bench.run(other)).failures
    with pytest.raises(DeviceUnfit, match="is not used for this model"):
        await bench.executor.load(cid_of(model), model)
    assert await bench.executor.certified() == (1, 1)


async def test_a_card_that_is_wrong_with_every_model_is_in_quarantine(bench: Bench) -> None:
    bench.card.lies = True
    for seed in range(UNFIT_MODELS_MAX):
        with pytest.raises(DeviceUnfit, match="is not used for this model"):
            await bench.executor.load(cid_of(models.mlp(seed)), models.mlp(seed))
    assert bench.confined == 1
    with pytest.raises(
        DeviceUnfit, match=f"in quarantine: it answered wrongly with {UNFIT_MODELS_MAX} models in a row"
    ):
        await bench.executor.load(cid_of(models.mlp(9)), models.mlp(9))


async def test_a_card_that_became_wrong_is_noticed_and_rests(bench: Bench) -> None:
    model = models.mlp()
    await bench.executor.load(cid_of(model), model)
    bench.card.lies = True
    await bench.run(model)
    bench.clock.at_s += RECHECK_EVERY_S
    with pytest.raises(DeviceUnfit, match="in quarantine: it answered wrongly"):
        await bench.run(model)
    assert bench.executor.quarantine.is_confined
    bench.card.lies = False
    bench.clock.at_s += WRONG_REST_S
    assert not bench.executor.quarantine.is_confined
    await bench.executor.load(cid_of(model), model)
    assert not (await bench.run(model)).failures


async def test_a_card_that_stays_right_is_asked_again_now_and_then(bench: Bench) -> None:
    model = models.mlp()
    await bench.executor.load(cid_of(model), model)
    for _ in range(3):
        bench.clock.at_s += RECHECK_EVERY_S
        await bench.run(model)
        await bench.run(model)
    assert bench.card.runs == 1 + 3 * 3
    assert bench.confined == 0


async def test_a_driver_that_is_reset_again_and_again_confines_its_card(bench: Bench) -> None:
    model = models.mlp()
    await bench.executor.load(cid_of(model), model)
    bench.card.dies = True
    for _ in range(LOSSES_MAX):
        with pytest.raises(WorkerDied):
            await bench.run(model)
    with pytest.raises(DeviceUnfit, match="it was lost 3 times within 10 minutes"):
        await bench.run(model)


HANGING = """#!{python} -I
import sys, time
from peerinfer_node.inference import worker_process

class Hanging:
    def __init__(self, session):
        self.session = session

    def __getattr__(self, name):
        return getattr(self.session, name)

    def run(self, names, feeds, options):
        while feeds["x"][0, 0] == {hangs_at}:
            time.sleep(600)  # in a driver, as far as the other thread and the daemon can see
        return self.session.run(names, feeds, options)

made = worker_process.Worker._session
worker_process.Worker._session = lambda worker, data: Hanging(made(worker, data))
sys.argv = sys.argv[sys.argv.index("-m") + 1 :]
worker_process.main()
"""
HANGS_AT = 666.0


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices' processes, sandboxed as ever, whose sessions hang when they see `HANGS_AT`."""
    script = tmp_path / "hanging"
    script.write_text(HANGING.format(python=sys.executable, hangs_at=HANGS_AT))
    script.chmod(0o700)
    monkeypatch.setattr(device_process.sys, "executable", str(script))


async def hang(bench: Bench, model: bytes) -> None:
    """Nobody waits any more once it has hung, by what this machine has needed so far."""
    x = np.full((2, 64), HANGS_AT, np.float32)
    longest_s = bench.card._times.longest_s(cid_of(model), 2, x.nbytes) or 0.0
    with trio.move_on_after(max(HANG_MIN_S, HANG_FACTOR * longest_s)) as scope:
        await bench.executor.run(cid_of(model), batch_of([1, 1], x=x), 300)
    assert scope.cancelled_caught


async def test_a_driver_that_hangs_confines_its_card_also_where_every_answer_is_given_up_early(
    bench: Bench, hanging: None
) -> None:
    model = models.mlp()
    for loss in range(1, LOSSES_MAX + 1):
        await bench.executor.load(cid_of(model), model)
        assert not (await bench.run(model)).failures  # it works again after each: another process
        pid = bench.card.pid
        await hang(bench, model)
        assert bench.card.pid is None
        assert pid is not None
        assert not psutil.pid_exists(pid)
        assert bench.executor.quarantine.losses == loss
        assert "it hung: no answer and no stop within" in bench.executor.quarantine.last_loss
        assert sum("device hung" in line for line in bench.lines) == loss
    assert bench.confined == 1
    with pytest.raises(DeviceUnfit, match="it was lost 3 times within 10 minutes: it hung"):
        await bench.run(model)


async def test_a_batch_that_is_given_up_early_and_has_to_be_killed_is_no_hang(bench: Bench, hanging: None) -> None:
    model = models.mlp()
    await bench.executor.load(cid_of(model), model)
    pid = bench.card.pid
    await hang(bench, model)  # nothing like it was ever run: it may be compiling
    assert bench.card.pid != pid
    assert bench.executor.quarantine.losses == 0


async def test_a_device_far_beyond_its_usual_time_is_given_up_before_the_time_of_all_its_tasks_is_up(
    bench: Bench, hanging: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hangs, "OVERDUE_MIN_S", HANG_MIN_S)
    model, x = models.mlp(), np.full((40, 64), HANGS_AT, np.float32)
    await bench.executor.load(cid_of(model), model)
    await bench.executor.run(cid_of(model), batch_of([1] * 40, x=x - HANGS_AT), 1.0)
    with pytest.raises(AttemptTimeout, match=r"no answer from the device within [123]?\d(\.\d+)? s"):
        await bench.executor.run(cid_of(model), batch_of([1] * 40, x=x), 1.0)
    assert bench.executor.quarantine.losses == 1


async def test_a_certification_that_breaks_off_is_no_verdict(bench: Bench) -> None:
    model = models.mlp()
    bench.card.dies = True
    with pytest.raises(WorkerDied):
        await bench.executor.load(cid_of(model), model)
    assert await bench.executor.certified() == (0, 0)
    bench.card.dies = False
    with trio.CancelScope() as scope:
        scope.cancel()
        await bench.executor.load(cid_of(model), model)
    assert not await bench.executor.holds(cid_of(model))
    await bench.executor.load(cid_of(model), model)
    assert await bench.executor.certified() == (1, 0)


async def test_a_model_that_the_processor_refuses_is_the_models_fault(bench: Bench) -> None:
    with pytest.raises(ModelRefused):
        await bench.executor.load(cid_of(b"nonsense"), b"nonsense")
    assert not bench.executor.quarantine.is_confined


def random_model() -> bytes:
    noise = helper.make_node("RandomNormalLike", ["x"], ["noise"])
    return models.model(
        [noise, helper.make_node("Add", ["x", "noise"], ["y"])],
        [models.port("x", TensorProto.FLOAT, ["n", 4])],
        [models.port("y", TensorProto.FLOAT, ["n", 4])],
    )


async def test_a_model_whose_answers_differ_from_run_to_run_is_the_models_fault(bench: Bench) -> None:
    with pytest.raises(ModelRefused, match="draws random numbers"):
        await bench.executor.load(cid_of(random_model()), random_model())
    assert not bench.executor.quarantine.is_confined


async def test_models_with_scalars_and_without_a_batch_axis_can_be_tried(bench: Bench) -> None:
    for model in (models.two_inputs(), models.no_batch(), models.fixed_batch(), models.nonzero()):
        await bench.executor.load(cid_of(model), model)
    assert await bench.executor.certified() == (4, 0)


async def test_samples_are_the_same_every_time_and_bounded(bench: Bench) -> None:
    interface = await bench.processor.load(cid_of(models.orientation()), models.orientation())
    first, second = (next(samples(interface.inputs, 20)) for _ in range(2))
    assert first["x"].shape == (2, 3, 224, 224)
    np.testing.assert_array_equal(first["x"], second["x"])
    huge = [replace(interface.inputs[0], shape=(1 << 14, 1 << 14))]
    assert list(samples(huge, 20)) == []


async def test_what_is_stored_and_not_ours_is_forgotten() -> None:
    store, clock = MemoryStore(), HandClock()
    certificates = Certificates(store, clock, CARD, "")
    await certificates.set(cid_of(b"a"), Verdict(""))
    for nonsense in ("[]", "{", '{"a": 1}', '{"a": ["", "soon"]}'):
        await store.set_setting(certificates._key, nonsense)
        assert await Certificates(store, clock, CARD, "").find(cid_of(b"a")) is None


@needs_software_vulkan
async def test_a_card_that_computes_through_vulkan_is_certified() -> None:
    (found,) = judge([], vulkan.ask(ENVIRONMENT), has_provider=True, allow_software=True)
    clock, processor = HandClock(), SubprocessExecutor(cpu_device(), threads=1)
    card = SubprocessExecutor(found.device, threads=1, access=gpu_access(found, ENVIRONMENT))
    certificates = Certificates(MemoryStore(), clock, found.device, "")
    executor = CertifiedExecutor(card, processor, certificates, clock, Log(lambda line: None))
    model, x = models.digits(), models.digits_data()[0][:4]
    try:
        await executor.load(cid_of(model), model)
        found_outputs = outputs_of(await executor.run(cid_of(model), batch_of([4], x=x), 60), [4])[0]["y"]
        assert found_outputs.argmax(axis=1).tolist() == models.digits_data()[1][:4].tolist()
        assert await executor.certified() == (1, 0)
    finally:
        await executor.close()
        await processor.close()
