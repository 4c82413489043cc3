"""Real models through the WebGPU provider on a Vulkan driver in software: what a graphics card would run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import models
import numpy as np
import onnxruntime
import pytest
import trio
from models import batch_of, outputs_of
from onnx import TensorProto, helper
from promptness import check_prompt
from software_vulkan import ENVIRONMENT, needs_software_vulkan

from peerinfer.classes import WEBGPU_PROVIDER
from peerinfer.errors import AttemptTimeout, DeviceUnfit, ModelRefused, WorkerDied
from peerinfer.ids import cid_of
from peerinfer_node.devices import vulkan
from peerinfer_node.devices.choice import FoundGpu, judge
from peerinfer_node.devices.probe import cpu_device
from peerinfer_node.inference.device_access import DeviceAccess, gpu_access
from peerinfer_node.inference.subprocess_executor import SubprocessExecutor

pytestmark = [pytest.mark.slow, needs_software_vulkan]

RNG = np.random.default_rng(7)
TOLERANCE = 1e-4
"""Of the largest output: honest devices stay a hundredfold below."""


def software_gpu() -> FoundGpu:
    (found,) = judge([], vulkan.ask(ENVIRONMENT), has_provider=True, allow_software=True)
    return found


@pytest.fixture
async def executor() -> AsyncIterator[SubprocessExecutor]:
    found = software_gpu()
    made = SubprocessExecutor(found.device, threads=1, access=gpu_access(found, ENVIRONMENT))
    try:
        yield made
    finally:
        await made.close()


def on_processor(model: bytes, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, inputs), strict=True))


async def on_card(executor: SubprocessExecutor, model: bytes, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    await executor.load(cid_of(model), model)
    items = [1] * len(next(iter(inputs.values())))
    result = await executor.run(cid_of(model), batch_of(items, **inputs), 60)
    assert result.failures == ()
    tasks = outputs_of(result, items)
    return {name: np.concatenate([tasks[n][name] for n in range(len(items))]) for name in tasks[0]}


def assert_agree(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, reference in wanted.items():
        worst = float(np.abs(found[name].astype(np.float64) - reference).max())
        assert worst <= TOLERANCE * float(np.abs(reference).max()), f"{name} is off by {worst}"


async def test_real_models_agree_with_the_processor(executor: SubprocessExecutor) -> None:
    cases: list[tuple[bytes, dict[str, np.ndarray]]] = [
        (models.mlp(), {"x": RNG.standard_normal((32, 64)).astype(np.float32)}),
        (models.digits(), {"x": models.digits_data()[0][:16]}),
        (models.magika(), {"bytes": RNG.integers(0, 257, (1, 2048)).astype(np.int32)}),
        (models.orientation(), {"x": RNG.random((1, 3, 224, 224), np.float32)}),
    ]
    for model, inputs in cases:
        assert_agree(await on_card(executor, model, **inputs), on_processor(model, **inputs))
    assert executor.sandbox == "full" or "landlock" not in executor.layers


async def test_a_card_is_measured_by_its_own_work(executor: SubprocessExecutor) -> None:
    device = await executor.benchmark()
    assert device.gemm_gflops > 0
    assert device.bandwidth_gbs > 0


# --- layouts -------------------------------------------------------------------------------------------------------

CONVOLUTIONS = [(6, 8, 1), (18, 16, 1), (21, 8, 1), (33, 4, 1), (66, 12, 1), (129, 8, 1), (8, 8, 2), (12, 8, 4)]
"""Input channels, output channels, groups: among them those that the provider's default layout gets wrong."""


def convolution(channels_in: int, channels_out: int, groups: int) -> bytes:
    rng = np.random.default_rng(channels_in)
    weights = rng.standard_normal((channels_out, channels_in // groups, 3, 3)).astype(np.float32)
    return models.model(
        [helper.make_node("Conv", ["x", "w"], ["y"], group=groups, pads=[1, 1, 1, 1])],
        [models.port("x", TensorProto.FLOAT, ["n", channels_in, 9, 9])],
        [models.port("y", TensorProto.FLOAT, ["n", channels_out, 9, 9])],
        [models.constant("w", weights)],
    )


async def test_the_layout_that_we_use_computes_every_convolution_rightly(executor: SubprocessExecutor) -> None:
    for channels_in, channels_out, groups in CONVOLUTIONS:
        model = convolution(channels_in, channels_out, groups)
        x = RNG.standard_normal((1, channels_in, 9, 9)).astype(np.float32)
        assert_agree(await on_card(executor, model, x=x), on_processor(model, x=x))


WRONG_LAYOUT = r"""
import sys
import numpy, onnxruntime, onnxruntime_ep_webgpu
onnxruntime.set_default_logger_severity(4)
onnxruntime.register_execution_provider_library("webgpu", onnxruntime_ep_webgpu.get_library_path())
devices = [d for d in onnxruntime.get_ep_devices() if d.ep_name == onnxruntime_ep_webgpu.get_ep_name()]
for path in sys.argv[1:]:
    options = onnxruntime.SessionOptions()
    options.add_provider_for_devices(devices[:1], {"preferredLayout": "NHWC"})
    session = onnxruntime.InferenceSession(path, options)
    x = numpy.load(path + ".npy")
    numpy.save(path + ".out.npy", session.run(None, {"x": x})[0])
"""


def test_the_providers_default_layout_is_still_wrong(tmp_path: Path) -> None:
    """When this fails, the provider has been mended: NCHW may then be a matter of speed only."""
    paths = []
    for position, shape in enumerate(CONVOLUTIONS):
        path = tmp_path / f"{position}.onnx"
        path.write_bytes(convolution(*shape))
        np.save(f"{path}.npy", RNG.standard_normal((1, shape[0], 9, 9)).astype(np.float32))
        paths.append(str(path))
    command = [sys.executable, "-I", "-B", "-c", WRONG_LAYOUT, *paths]
    subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, timeout=120)
    wrong = 0
    for path in paths:
        (reference,) = on_processor(Path(path).read_bytes(), x=np.load(path + ".npy")).values()
        wrong += bool(np.abs(np.load(path + ".out.npy") - reference).max() > 0.1 * np.abs(reference).max())
    assert wrong


# --- half precision ------------------------------------------------------------------------------------------------


def half_mlp() -> bytes:
    """x f16[n,8] -> y f16[n,4] and wide f32[n,4], with half-precision weights, constants and casts inside."""
    rng = np.random.default_rng(3)
    return models.model(
        [
            helper.make_node("Constant", [], ["one"], value=models.constant("one", np.array(1, np.float16))),
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("Add", ["a", "one"], ["b"]),
            helper.make_node("Relu", ["b"], ["y"]),
            helper.make_node("Cast", ["y"], ["c"], to=TensorProto.FLOAT),
            helper.make_node("Cast", ["c"], ["d"], to=TensorProto.FLOAT16),
            helper.make_node("Mul", ["d", "one"], ["e"]),
            helper.make_node("Cast", ["e"], ["wide"], to=TensorProto.FLOAT),
        ],
        [models.port("x", TensorProto.FLOAT16, ["n", 8])],
        [models.port("y", TensorProto.FLOAT16, ["n", 4]), models.port("wide", TensorProto.FLOAT, ["n", 4])],
        [models.constant("w", rng.standard_normal((8, 4)).astype(np.float16))],
    )


async def test_half_precision_is_widened_where_the_card_computes_none(executor: SubprocessExecutor) -> None:
    model, x = half_mlp(), RNG.standard_normal((5, 8)).astype(np.float16)
    found, wanted = await on_card(executor, model, x=x), on_processor(model, x=x)
    assert found["y"].dtype == np.float16
    assert found["wide"].dtype == np.float32
    for name, reference in wanted.items():
        np.testing.assert_allclose(found[name], reference, rtol=5e-3, atol=5e-3)


async def test_unwidened_half_precision_does_not_run_here() -> None:
    """Otherwise the test above would show nothing."""
    found = software_gpu()
    access = gpu_access(found, ENVIRONMENT)
    bare = DeviceAccess(access.provider, access.environment, access.readable, access.device_files)
    executor = SubprocessExecutor(found.device, threads=1, access=bare)
    model = half_mlp()
    try:
        with pytest.raises((ModelRefused, AssertionError)):
            await on_card(executor, model, x=RNG.standard_normal((5, 8)).astype(np.float16))
    finally:
        await executor.close()


# --- no silent fallback, no waiting --------------------------------------------------------------------------------


async def test_without_a_driver_the_worker_says_so_and_does_not_use_the_processor() -> None:
    found = software_gpu()
    surroundings = {name: value for name, value in ENVIRONMENT.items() if name != "VK_DRIVER_FILES"}
    executor = SubprocessExecutor(found.device, threads=1, access=gpu_access(found, surroundings))
    try:
        with pytest.raises((ModelRefused, DeviceUnfit, WorkerDied), match=r"adapter|graphics card"):
            await executor.load(cid_of(models.mlp()), models.mlp())
        with pytest.raises(DeviceUnfit, match=r"adapter|graphics card"):
            await executor.benchmark()
    finally:
        await executor.close()


async def test_without_a_card_the_worker_does_not_start() -> None:
    executor = SubprocessExecutor(cpu_device(), threads=1, access=DeviceAccess(provider=WEBGPU_PROVIDER))
    try:
        with pytest.raises(WorkerDied, match="the WebGPU provider found no graphics card"):
            await executor.load(cid_of(models.mlp()), models.mlp())
    finally:
        await executor.close()


async def test_a_provider_that_is_not_installed_is_named() -> None:
    executor = SubprocessExecutor(cpu_device(), threads=1, access=DeviceAccess(provider="MIGraphXExecutionProvider"))
    try:
        with pytest.raises(WorkerDied, match="has no MIGraphXExecutionProvider"):
            await executor.benchmark()
    finally:
        await executor.close()


async def test_a_run_that_nobody_wants_any_more_is_over_within_a_second(executor: SubprocessExecutor) -> None:
    """The provider cannot be stopped in the middle, so the process is killed; the next one works."""
    model = models.orientation()
    x = RNG.random((256, 3, 224, 224), np.float32)

    async def over_after() -> float:
        await executor.load(cid_of(model), model)
        started = trio.current_time()
        with pytest.raises(AttemptTimeout):
            await executor.run(cid_of(model), batch_of([256], x=x), 0.5)
        return trio.current_time() - started

    await check_prompt(over_after, 1.5)
    small = RNG.standard_normal((2, 64)).astype(np.float32)
    assert_agree(await on_card(executor, models.mlp(), x=small), on_processor(models.mlp(), x=small))


async def test_a_released_card_has_no_process_left_and_starts_again(executor: SubprocessExecutor) -> None:
    model, x = models.mlp(), RNG.standard_normal((2, 64)).astype(np.float32)

    async def released_after() -> float:
        await on_card(executor, model, x=x)
        process = executor._process
        assert process is not None
        started = trio.current_time()
        await executor.release()
        assert not process.is_alive
        return trio.current_time() - started

    await check_prompt(released_after, 1.0)
    assert not await executor.holds(cid_of(model))
    assert_agree(await on_card(executor, model, x=x), on_processor(model, x=x))
