"""Sessions on an execution provider: one small interface over the ways in which ONNX Runtime takes them.

A provider that cannot be had is an error here, never a silent change to the processor: whoever was promised a graphics
card gets one or a reason. Single operators that a provider lacks do run on the processor; that is ONNX Runtime's design.

Nothing here imports onnxruntime: the worker process hands it in.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from peerinfer.classes import CPU_PROVIDER, WEBGPU_PROVIDER
from peerinfer.errors import DeviceUnfit
from peerinfer_node.devices.native import NATIVES, OPENVINO
from peerinfer_node.inference.halves import CAST_NAMES

WEBGPU_OPTIONS = {"preferredLayout": "NCHW", "forceCpuNodeNames": "\n".join(CAST_NAMES)}
"""The default, NHWC, computes some convolutions wrongly (provider 0.4.0): those whose input channels are no multiple of
four, and many grouped ones. Tests show both that NCHW is right and that NHWC is still wrong."""

OPENVINO_CARD = {"device_type": "GPU"}
"""Without it OpenVINO computes on the processor, and whoever asked for a card would be told that it is one."""

MakeSession = Callable[[bytes, Any], Any]
"""A session for a model's bytes with these `SessionOptions`."""


def is_card(provider: str, device_ids: tuple[int, int]) -> bool:
    """Or is it the processor that computes?"""
    return provider != CPU_PROVIDER and (provider != OPENVINO.provider or device_ids != (0, 0))


def session_maker(
    onnxruntime: Any, provider: str, device_ids: tuple[int, int] = (0, 0), threads: int = 1
) -> MakeSession:
    """`device_ids` are a card's; without, a provider that can do without one computes on the processor.

    Raises `DeviceUnfit` if this installation has no such provider, or the provider no device.
    """
    if provider == CPU_PROVIDER:
        return lambda data, options: onnxruntime.InferenceSession(data, options, providers=[CPU_PROVIDER])
    if provider == WEBGPU_PROVIDER:
        return _webgpu(onnxruntime, device_ids)
    if provider not in onnxruntime.get_available_providers():
        package = next(
            (native.package for native in NATIVES if native.provider == provider), "the package that brings it"
        )
        raise DeviceUnfit(f"this ONNX Runtime has no {provider}: install {package} in place of onnxruntime")
    options: dict[str, str] = {}
    if provider == OPENVINO.provider:
        on_processor = {"device_type": "CPU", "num_of_threads": str(threads)}
        options = OPENVINO_CARD if is_card(provider, device_ids) else on_processor
    return _built_in(onnxruntime, provider, options)


def _webgpu(onnxruntime: Any, device_ids: tuple[int, int]) -> MakeSession:
    try:
        plugin = importlib.import_module("onnxruntime_ep_webgpu")
    except ImportError:
        raise DeviceUnfit("the WebGPU provider is not installed; run: pip install 'peerinfer[gpu]'") from None
    name = plugin.get_ep_name()
    onnxruntime.register_execution_provider_library("webgpu", plugin.get_library_path())
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]
    if not devices:
        raise DeviceUnfit("the WebGPU provider found no graphics card")
    devices.sort(key=lambda device: (device.device.vendor_id, device.device.device_id) != device_ids)

    def make(data: bytes, options: Any) -> Any:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        options.add_provider_for_devices(devices[:1], WEBGPU_OPTIONS)
        try:
            session = onnxruntime.InferenceSession(data, options)
        except Exception as error:
            if _NO_ADAPTER in str(error):
                raise DeviceUnfit(f"Vulkan gave the WebGPU provider no graphics card: {_end_of(error)}") from None
            raise
        if not any(part.ep_name == name for part in session.get_provider_graph_assignment_info()):
            raise DeviceUnfit("no part of the model can run on the graphics card")
        return session

    return make


_NO_ADAPTER = "Failed to get a WebGPU adapter"


def _end_of(error: Exception) -> str:
    return str(error).rpartition(_NO_ADAPTER)[2].strip(" :.")


def _built_in(onnxruntime: Any, provider: str, provider_options: dict[str, str]) -> MakeSession:
    is_makers = any(native.provider == provider for native in NATIVES)

    def make(data: bytes, options: Any) -> Any:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        session = onnxruntime.InferenceSession(data, options, providers=[(provider, provider_options), CPU_PROVIDER])
        session.disable_fallback()
        if provider not in session.get_providers():  # Python's wrapper prints an excuse and goes on without it.
            raise DeviceUnfit(f"{provider} did not start; its drivers or libraries are missing")
        if is_makers and not any(part.ep_name == provider for part in session.get_provider_graph_assignment_info()):
            raise DeviceUnfit(f"{provider} can run no part of the model")
        return session

    return make
