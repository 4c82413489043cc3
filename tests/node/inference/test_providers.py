"""Providers of a card's maker. No machine of ours has such a card, so their way is gone with one that all builds bring.

OpenVINO computes on the processor as well; its test runs where `onnxruntime-openvino` is installed.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import models
import numpy as np
import onnxruntime
import pytest
from models import batch_of, outputs_of

from peerinfer.config import NodeConfig
from peerinfer.errors import DeviceUnfit, WorkerDied
from peerinfer.ids import cid_of
from peerinfer_node.clock import SystemClock
from peerinfer_node.devices.lent import lend
from peerinfer_node.devices.native import NATIVES, OPENVINO
from peerinfer_node.devices.probe import cpu_device
from peerinfer_node.inference.certificates import Certificates
from peerinfer_node.inference.certified_executor import CertifiedExecutor
from peerinfer_node.inference.device_access import DeviceAccess
from peerinfer_node.inference.providers import session_maker
from peerinfer_node.inference.subprocess_executor import SubprocessExecutor
from peerinfer_node.log import Log
from peerinfer_node.memory_store import MemoryStore
from peerinfer_node.ports import Device

BROUGHT = "AzureExecutionProvider"
"""It computes nothing itself; ONNX Runtime treats it as any other built-in provider."""


class Pretending:
    """An ONNX Runtime that has this provider, by what it says."""

    def __init__(self, provider: str, *, starts: bool = True, takes_part: bool = True) -> None:
        self.provider = provider
        self.starts = starts
        self.takes_part = takes_part
        self.asked: list[tuple[str, dict[str, str]]] = []

    def get_available_providers(self) -> list[str]:
        return [self.provider]

    def InferenceSession(self, data: bytes, options: object, providers: list[Any]) -> SimpleNamespace:
        assert providers[1:] == ["CPUExecutionProvider"]
        self.asked.append(providers[0])
        taken = [SimpleNamespace(ep_name=self.provider if self.takes_part else "CPUExecutionProvider")]
        return SimpleNamespace(
            disable_fallback=lambda: None,
            get_providers=lambda: [self.provider] if self.starts else ["CPUExecutionProvider"],
            get_provider_graph_assignment_info=lambda: taken,
        )

    def make(self, device_ids: tuple[int, int]) -> None:
        session_maker(self, self.provider, device_ids, 3)(b"", onnxruntime.SessionOptions())


@pytest.mark.parametrize("native", NATIVES, ids=lambda native: native.provider)
def test_a_makers_provider_that_is_missing_is_refused_with_the_package_to_install(native: object) -> None:
    if native.provider in onnxruntime.get_available_providers():  # type: ignore[attr-defined]
        pytest.skip("it is installed here")
    with pytest.raises(DeviceUnfit, match=f"install {native.package}"):  # type: ignore[attr-defined]
        session_maker(onnxruntime, native.provider)  # type: ignore[attr-defined]


@pytest.mark.parametrize("native", NATIVES, ids=lambda native: native.provider)
def test_a_makers_provider_that_falls_back_to_the_processor_is_refused(native: object) -> None:
    """What Python's wrapper does when CUDA's libraries are not there: it prints a line and goes on without."""
    provider = native.provider  # type: ignore[attr-defined]
    pretending = Pretending(provider, starts=False)
    with pytest.raises(DeviceUnfit, match="did not start; its drivers or libraries are missing"):
        pretending.make((0x10DE, 0x1B80))
    assert [name for name, _ in pretending.asked] == [provider]


@pytest.mark.parametrize("native", NATIVES, ids=lambda native: native.provider)
def test_a_makers_provider_that_takes_no_part_of_a_model_is_refused(native: object) -> None:
    pretending = Pretending(native.provider, takes_part=False)  # type: ignore[attr-defined]
    with pytest.raises(DeviceUnfit, match="can run no part of the model"):
        pretending.make((0x10DE, 0x1B80))


def test_openvino_is_told_whether_it_is_a_card_since_it_would_take_the_processor() -> None:
    pretending = Pretending(OPENVINO.provider)
    pretending.make((0x8086, 0x56A0))
    pretending.make((0, 0))
    assert [options for _, options in pretending.asked] == [
        {"device_type": "GPU"},
        {"device_type": "CPU", "num_of_threads": "3"},
    ]


@pytest.mark.slow
@pytest.mark.skipif(
    BROUGHT not in onnxruntime.get_available_providers(), reason="this ONNX Runtime has no second provider"
)
async def test_a_built_in_provider_is_certified_and_runs_in_its_sandboxed_process() -> None:
    device = Device("a card", "gpu", BROUGHT, 1 << 30)
    card = SubprocessExecutor(device, access=DeviceAccess(provider=BROUGHT, device_files=("/dev/null",)))
    processor = SubprocessExecutor(cpu_device())
    certificates = Certificates(MemoryStore(), SystemClock(), device, "driver 1")
    executor = CertifiedExecutor(card, processor, certificates, SystemClock(), Log(lambda line: None))
    model, x = models.mlp(), np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    try:
        await executor.load(cid_of(model), model)
        assert await executor.certified() == (1, 0)
        found = outputs_of(await executor.run(cid_of(model), batch_of([4], x=x), 10), [4])[0]
        await processor.load(cid_of(model), model)
        expected = outputs_of(await processor.run(cid_of(model), batch_of([4], x=x), 10), [4])[0]
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6)
    finally:
        await card.close()
        await processor.close()


@pytest.mark.slow
@pytest.mark.skipif(
    OPENVINO.provider not in onnxruntime.get_available_providers(), reason="onnxruntime-openvino is not installed"
)
async def test_openvino_on_the_processor_agrees_with_it_and_as_a_card_that_is_not_there_is_refused() -> None:
    lent = lend(NodeConfig(device=("openvino",)), [], MemoryStore(), SystemClock(), Log(lambda line: None))
    processor, executor = lent.executors
    no_card = Device("a card", "gpu", OPENVINO.provider, 1 << 30, 0x8086, 0x56A0)
    card = SubprocessExecutor(no_card, access=DeviceAccess(provider=OPENVINO.provider, device_ids=(0x8086, 0x56A0)))
    model, x = models.orientation(), np.random.default_rng(0).random((2, 3, 224, 224), np.float32)
    try:
        assert not lent.lends_processor
        device = await executor.benchmark()
        assert (device.kind, device.provider) == ("cpu", OPENVINO.provider)
        assert 0 < device.bandwidth_gbs < 1000
        await executor.load(cid_of(model), model)
        assert executor.sandbox == processor.sandbox == "full"
        found = outputs_of(await executor.run(cid_of(model), batch_of([2], x=x), 10), [2])[0]
        expected = outputs_of(await processor.run(cid_of(model), batch_of([2], x=x), 10), [2])[0]
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5)
        with pytest.raises(DeviceUnfit, match="did not start"):
            await card.benchmark()
    finally:
        for made in (*lent.executors, card):
            await made.close()
        lent.sampler.close()


@pytest.mark.slow
async def test_a_process_for_a_provider_that_is_not_installed_ends_with_the_advice() -> None:
    card = SubprocessExecutor(
        Device("a card", "gpu", "CUDAExecutionProvider", 1 << 30), access=DeviceAccess(provider="CUDAExecutionProvider")
    )
    try:
        with pytest.raises(WorkerDied, match="install onnxruntime-gpu in place of onnxruntime"):
            await card.load(cid_of(models.mlp()), models.mlp())
    finally:
        await card.close()
