from __future__ import annotations

from dataclasses import replace

import pytest

from peerinfer.classes import CPU_PROVIDER, WEBGPU_PROVIDER
from peerinfer_node.devices.fit import fit_words
from peerinfer_node.ports import Device

CARD = Device(
    "Radeon RX 580",
    "gpu",
    WEBGPU_PROVIDER,
    8 << 30,
    gemm_gflops=3000.0,
    conv_images_s=900.0,
    resnet50_images_s=41.3,
    agreement=4e-7,
    has_fp16=False,
)
CPU = Device("Xeon", "cpu", CPU_PROVIDER, 8 << 30, gemm_gflops=90.0, conv_images_s=4000.0, resnet50_images_s=9.96)


@pytest.mark.parametrize(
    ("device", "words"),
    [
        (CARD, "fp32 (fp16 models are widened), 41 images/s ResNet-50, agrees with the CPU to 1e-6"),
        (
            replace(CARD, has_fp16=True, agreement=0.0),
            "fp32 and fp16, 41 images/s ResNet-50, agrees with the CPU to the last bit",
        ),
        (CPU, "fp32, 10.0 images/s ResNet-50"),
        (
            replace(CPU, resnet50_images_s=0.0, conv_images_s=3.2),
            "fp32, 3.2 images/s of a small convolution network, too slow for ResNet-50",
        ),
        (Device("Xeon", "cpu", CPU_PROVIDER, 8 << 30), ""),
    ],
)
def test_what_a_device_is_good_for_is_said_in_words(device: Device, words: str) -> None:
    assert fit_words(device) == words
