"""What a device is good for, in one line of words, from what was found and measured of it."""

from __future__ import annotations

import math

from peerinfer_node.ports import Device

_FEW = 10.0


def fit_words(device: Device) -> str:
    """Like "fp32, 41 images/s ResNet-50, agrees with the CPU to 1e-06"; "" for a device that was not measured."""
    if not device.gemm_gflops:
        return ""
    parts = ["fp32 and fp16" if device.has_fp16 else "fp32"]
    if device.kind == "gpu" and device.has_fp16 is False:
        parts = ["fp32 (fp16 models are widened)"]
    if device.resnet50_images_s:
        parts.append(f"{_figure(device.resnet50_images_s)} images/s ResNet-50")
    elif device.conv_images_s:
        parts.append(f"{_figure(device.conv_images_s)} images/s of a small convolution network, too slow for ResNet-50")
    if device.agreement is not None:
        parts.append(f"agrees with the CPU to {_power(device.agreement)}")
    return ", ".join(parts)


def _figure(value: float) -> str:
    return f"{value:.1f}" if value < _FEW else f"{value:,.0f}"


def _power(distance: float) -> str:
    """The next power of ten above."""
    if distance <= 0:
        return "the last bit"
    return f"1e{math.ceil(math.log10(distance)):d}"
