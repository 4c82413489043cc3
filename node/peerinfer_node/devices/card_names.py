"""Graphics cards by their PCI ids: what they are called, and what they are good for.

The old cards that volunteers still have, Polaris first. Names are those of the PCI id repository and of libdrm, which
tells cards with one id apart by their revision. An id that is not here is no obstacle: Vulkan knows the card's name.
"""

from __future__ import annotations

from dataclasses import dataclass

AMD, INTEL, NVIDIA = 0x1002, 0x8086, 0x10DE
VENDORS = {AMD: "AMD", INTEL: "Intel", NVIDIA: "NVIDIA"}


@dataclass(frozen=True, slots=True)
class Family:
    """Cards that compute in the same way."""

    name: str
    good_for: str
    has_fp16: bool
    """Computes half precision at all. Without, such models are widened to fp32 or refused."""


_NO_FP16 = "fp32 models that fit its memory; half precision is widened to fp32"
_FP16 = "fp32 and fp16 models that fit its memory"
_SHARED = "small models: it shares the processor's memory"

_SOUTHERN = Family("GCN 1", "small fp32 models; needs the amdgpu driver instead of radeon", has_fp16=False)
_SEA = Family("GCN 2", "fp32 models; needs the amdgpu driver instead of radeon", has_fp16=False)
_VOLCANIC = Family("GCN 3", _NO_FP16, has_fp16=False)
_POLARIS = Family("Polaris", _NO_FP16, has_fp16=False)
_VEGA = Family("Vega", _FP16, has_fp16=True)
_RDNA = Family("RDNA", _FP16, has_fp16=True)
_RDNA2 = Family("RDNA 2", _FP16, has_fp16=True)
_AMD_SHARED = Family("Radeon Vega, integrated", _SHARED, has_fp16=True)
_MAXWELL = Family("Maxwell", _NO_FP16, has_fp16=False)
_PASCAL = Family("Pascal", _NO_FP16, has_fp16=False)
_TURING = Family("Turing", _FP16, has_fp16=True)
_INTEL_SHARED = Family("Intel, integrated", _SHARED, has_fp16=True)
_ARC = Family("Arc", _FP16, has_fp16=True)

_CARDS: dict[tuple[int, int], tuple[str, Family]] = {
    (AMD, 0x6798): ("Radeon HD 7970 / R9 280X", _SOUTHERN),
    (AMD, 0x679A): ("Radeon HD 7950 / R9 280", _SOUTHERN),
    (AMD, 0x6810): ("Radeon R9 270X / R7 370", _SOUTHERN),
    (AMD, 0x6811): ("Radeon R9 270 / R7 370", _SOUTHERN),
    (AMD, 0x6818): ("Radeon HD 7870", _SOUTHERN),
    (AMD, 0x6819): ("Radeon HD 7850", _SOUTHERN),
    (AMD, 0x67B0): ("Radeon R9 290X / 390X", _SEA),
    (AMD, 0x67B1): ("Radeon R9 290 / 390", _SEA),
    (AMD, 0x6658): ("Radeon R7 260X / 360", _SEA),
    (AMD, 0x6938): ("Radeon R9 380X", _VOLCANIC),
    (AMD, 0x6939): ("Radeon R9 285 / 380", _VOLCANIC),
    (AMD, 0x7300): ("Radeon R9 Fury / Nano", _VOLCANIC),
    (AMD, 0x67DF): ("Radeon RX 470 / 480 / 570 / 580 / 590", _POLARIS),
    (AMD, 0x6FDF): ("Radeon RX 580 2048SP", _POLARIS),
    (AMD, 0x67C4): ("Radeon Pro WX 7100", _POLARIS),
    (AMD, 0x67C7): ("Radeon Pro WX 5100", _POLARIS),
    (AMD, 0x67E3): ("Radeon Pro WX 4100", _POLARIS),
    (AMD, 0x67EF): ("Radeon RX 460 / 560", _POLARIS),
    (AMD, 0x67FF): ("Radeon RX 550 / 560", _POLARIS),
    (AMD, 0x699F): ("Radeon RX 540 / 550", _POLARIS),
    (AMD, 0x6995): ("Radeon Pro WX 2100", _POLARIS),
    (AMD, 0x687F): ("Radeon RX Vega 56 / 64", _VEGA),
    (AMD, 0x66AF): ("Radeon VII", _VEGA),
    (AMD, 0x731F): ("Radeon RX 5600 / 5700", _RDNA),
    (AMD, 0x7340): ("Radeon RX 5500", _RDNA),
    (AMD, 0x73BF): ("Radeon RX 6800 / 6900", _RDNA2),
    (AMD, 0x73DF): ("Radeon RX 6700", _RDNA2),
    (AMD, 0x73FF): ("Radeon RX 6600", _RDNA2),
    (AMD, 0x743F): ("Radeon RX 6400 / 6500", _RDNA2),
    (AMD, 0x15DD): ("Radeon Vega (Ryzen 2000G)", _AMD_SHARED),
    (AMD, 0x15D8): ("Radeon Vega (Ryzen 3000G)", _AMD_SHARED),
    (AMD, 0x1636): ("Radeon Vega (Ryzen 4000)", _AMD_SHARED),
    (AMD, 0x1638): ("Radeon Vega (Ryzen 5000)", _AMD_SHARED),
    (NVIDIA, 0x1380): ("GeForce GTX 750 Ti", _MAXWELL),
    (NVIDIA, 0x1381): ("GeForce GTX 750", _MAXWELL),
    (NVIDIA, 0x1401): ("GeForce GTX 960", _MAXWELL),
    (NVIDIA, 0x13C2): ("GeForce GTX 970", _MAXWELL),
    (NVIDIA, 0x13C0): ("GeForce GTX 980", _MAXWELL),
    (NVIDIA, 0x17C8): ("GeForce GTX 980 Ti", _MAXWELL),
    (NVIDIA, 0x1C81): ("GeForce GTX 1050", _PASCAL),
    (NVIDIA, 0x1C82): ("GeForce GTX 1050 Ti", _PASCAL),
    (NVIDIA, 0x1C02): ("GeForce GTX 1060 3GB", _PASCAL),
    (NVIDIA, 0x1C03): ("GeForce GTX 1060 6GB", _PASCAL),
    (NVIDIA, 0x1B81): ("GeForce GTX 1070", _PASCAL),
    (NVIDIA, 0x1B82): ("GeForce GTX 1070 Ti", _PASCAL),
    (NVIDIA, 0x1B80): ("GeForce GTX 1080", _PASCAL),
    (NVIDIA, 0x1B06): ("GeForce GTX 1080 Ti", _PASCAL),
    (NVIDIA, 0x1F82): ("GeForce GTX 1650", _TURING),
    (NVIDIA, 0x2184): ("GeForce GTX 1660", _TURING),
    (NVIDIA, 0x21C4): ("GeForce GTX 1660 SUPER", _TURING),
    (NVIDIA, 0x1F08): ("GeForce RTX 2060", _TURING),
    (NVIDIA, 0x1F02): ("GeForce RTX 2070", _TURING),
    (INTEL, 0x1912): ("HD Graphics 530", _INTEL_SHARED),
    (INTEL, 0x5912): ("HD Graphics 630", _INTEL_SHARED),
    (INTEL, 0x5916): ("HD Graphics 620", _INTEL_SHARED),
    (INTEL, 0x3E92): ("UHD Graphics 630", _INTEL_SHARED),
    (INTEL, 0x9A49): ("Iris Xe Graphics", _INTEL_SHARED),
    (INTEL, 0x56A0): ("Arc A770", _ARC),
    (INTEL, 0x56A1): ("Arc A750", _ARC),
    (INTEL, 0x56A5): ("Arc A380", _ARC),
}

_BY_REVISION: dict[tuple[int, int], dict[int, str]] = {
    (AMD, 0x67DF): {
        **dict.fromkeys((0xC1, 0xC3, 0xE7), "Radeon RX 580"),
        **dict.fromkeys((0xC2, 0xC6, 0xEF), "Radeon RX 570"),
        **dict.fromkeys((0xC4, 0xC7), "Radeon RX 480"),
        **dict.fromkeys((0xC5, 0xCF, 0xD7, 0xE0, 0xFF), "Radeon RX 470"),
        0xE1: "Radeon RX 590",
    },
    (AMD, 0x67EF): {0xC0: "Radeon RX 460", 0xC1: "Radeon RX 460", 0xC5: "Radeon RX 460", 0xCF: "Radeon RX 460"},
    (AMD, 0x67FF): {0xCF: "Radeon RX 560", 0xEF: "Radeon RX 560", 0xFF: "Radeon RX 550"},
}


def card_name(vendor_id: int, device_id: int, revision: int = -1) -> str:
    """What people call the card, as exactly as the ids allow; "" if it is not in the table."""
    by_revision = _BY_REVISION.get((vendor_id, device_id), {})
    if revision in by_revision:
        return by_revision[revision]
    known = _CARDS.get((vendor_id, device_id))
    return known[0] if known else ""


def family(vendor_id: int, device_id: int) -> Family | None:
    known = _CARDS.get((vendor_id, device_id))
    return known[1] if known else None
