"""Providers of a card's maker. No machine of ours has one, so their way is gone with one that all builds bring."""

from __future__ import annotations

from types import SimpleNamespace

import models
import numpy as np
import onnxruntime
import pytest
from models import batch_of, outputs_of

from peerinfer.errors import DeviceUnfit, WorkerDied
from peerinfer.ids import cid_of
from peerinfer_node.clock import SystemClock
from peerinfer_node.devices.native import NATIVES
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


@pytest.mark.parametrize("native", NATIVES, ids=lambda native: native.provider)
def test_a_makers_provider_that_is_missing_is_refused_with_the_package_to_install(native: object) -> None:
    with pytest.raises(DeviceUnfit, match=f"install {native.package}"):  # type: ignore[attr-defined]
        session_maker(onnxruntime, native.provider)  # type: ignore[attr-defined]


@pytest.mark.parametrize("native", NATIVES, ids=lambda native: native.provider)
def test_a_makers_provider_that_falls_back_to_the_processor_is_refused(native: object) -> None:
    """What Python's wrapper does when CUDA's libraries are not there: it prints a line and goes on without."""
    provider = native.provider  # type: ignore[attr-defined]
    asked = []

    def session(data: bytes, options: object, providers: list[str]) -> SimpleNamespace:
        asked.append(providers)
        return SimpleNamespace(disable_fallback=lambda: None, get_providers=lambda: ["CPUExecutionProvider"])

    pretending = SimpleNamespace(get_available_providers=lambda: [provider], InferenceSession=session)
    make = session_maker(pretending, provider)
    with pytest.raises(DeviceUnfit, match="did not start; its drivers or libraries are missing"):
        make(b"", None)
    assert asked == [[provider, "CPUExecutionProvider"]]


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
async def test_a_process_for_a_provider_that_is_not_installed_ends_with_the_advice() -> None:
    card = SubprocessExecutor(
        Device("a card", "gpu", "CUDAExecutionProvider", 1 << 30), access=DeviceAccess(provider="CUDAExecutionProvider")
    )
    try:
        with pytest.raises(WorkerDied, match="install onnxruntime-gpu in place of onnxruntime"):
            await card.load(cid_of(models.mlp()), models.mlp())
    finally:
        await card.close()
