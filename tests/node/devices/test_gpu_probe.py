from __future__ import annotations

import json
import os
import stat
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hardware_tree import RX580, lay_out
from software_vulkan import ENVIRONMENT, needs_software_vulkan

from peerinfer.classes import WEBGPU_PROVIDER
from peerinfer_node.devices import nvidia, vulkan
from peerinfer_node.devices.card_names import AMD, INTEL, NVIDIA, card_name, family
from peerinfer_node.devices.choice import judge
from peerinfer_node.devices.native import installed_providers, native_for
from peerinfer_node.devices.probe import find_gpus
from peerinfer_node.devices.sysfs import Card, Readings, read_cards, read_sensors
from peerinfer_node.devices.vulkan import Adapter, Answer, answer_from
from peerinfer_node.inference.device_access import gpu_access

GIB = 1 << 30
RADV = Adapter("AMD Radeon RX 580 Series (RADV POLARIS10)", "discrete", AMD, 0x67DF, "1.3.255", 8 * GIB, False)
IRIS = Adapter("Intel(R) HD Graphics 630 (KBL GT2)", "integrated", INTEL, 0x5912, "1.3.255", 12 * GIB, True)
LAVAPIPE = Adapter("llvmpipe (LLVM 15.0.6, 256 bits)", "cpu", 0x10005, 0, "1.3.255", 16 * GIB, True)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    return lay_out("rx580", tmp_path)


def the_rx580(machine: Path) -> Card:
    return read_cards(machine)[1]


# --- what the kernel shows -----------------------------------------------------------------------------------------


def test_the_cards_of_a_machine_are_read_from_its_files(machine: Path) -> None:
    intel, amd = read_cards(machine)
    assert (amd.vendor_id, amd.device_id, amd.revision) == (0x1002, 0x67DF, 0xE7)
    assert (amd.address, amd.driver, amd.render_node) == ("0000:01:00.0", "amdgpu", "/dev/dri/renderD129")
    assert (amd.memory_bytes, amd.may_use) == (8 * GIB, True)
    assert (intel.driver, intel.render_node, intel.memory_bytes) == ("i915", "/dev/dri/renderD128", 0)


def test_the_sensors_of_an_rx580_are_read_in_units_that_people_use(machine: Path) -> None:
    assert read_sensors(the_rx580(machine)) == Readings(54.0, 95.1, 0.11, 512 << 20, 1200)
    assert read_sensors(read_cards(machine)[0]) == Readings()


def test_newer_chips_name_their_power_otherwise(machine: Path) -> None:
    hwmon = machine / RX580 / "hwmon" / "hwmon3"
    (hwmon / "power1_average").rename(hwmon / "power1_input")
    assert read_sensors(the_rx580(machine)).power_w == 95.1


def test_a_card_that_fell_off_the_bus_says_nothing_and_harms_nothing(machine: Path) -> None:
    card = the_rx580(machine)
    (machine / RX580 / "gpu_busy_percent").write_text("garbage\n")
    assert read_sensors(card).busy_ratio is None
    assert read_sensors(replace(card, folder=str(machine / "gone"))) == Readings()


def test_a_machine_without_graphics_has_no_cards(tmp_path: Path) -> None:
    assert read_cards(tmp_path) == []
    assert find_gpus(tmp_path, {}) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_device_file_that_may_not_be_opened_is_noticed(machine: Path) -> None:
    (machine / "dev" / "dri" / "renderD129").chmod(0)
    assert not the_rx580(machine).may_use


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "name"),
    [
        ((AMD, 0x67DF, 0xE7), "Radeon RX 580"),
        ((AMD, 0x67DF, 0xEF), "Radeon RX 570"),
        ((AMD, 0x67DF, 0x99), "Radeon RX 470 / 480 / 570 / 580 / 590"),
        ((AMD, 0x6FDF, 0xEF), "Radeon RX 580 2048SP"),
        ((NVIDIA, 0x1C03, 0xA1), "GeForce GTX 1060 6GB"),
        ((0x1234, 0x1111, 0), ""),
    ],
)
def test_cards_are_called_what_people_call_them(ids: tuple[int, int, int], name: str) -> None:
    assert card_name(*ids) == name


def test_polaris_is_known_to_compute_no_half_precision() -> None:
    polaris = family(AMD, 0x67DF)
    assert polaris is not None
    assert not polaris.has_fp16
    assert "fp32" in polaris.good_for


# --- the decision --------------------------------------------------------------------------------------------------


def test_an_rx580_with_its_driver_is_usable(machine: Path) -> None:
    intel, amd = judge(read_cards(machine), Answer((RADV, IRIS)), has_provider=True)
    assert amd.is_usable
    assert amd.device.name == "Radeon RX 580"
    assert (amd.device.kind, amd.device.provider, amd.device.memory_bytes) == ("gpu", WEBGPU_PROVIDER, 8 * GIB)
    assert (amd.device.vendor_id, amd.device.device_id) == (0x1002, 0x67DF)
    assert amd.environment == {"MESA_VK_DEVICE_SELECT": "1002:67df!"}
    assert amd.has_fp16 is False
    assert "Polaris" in amd.good_for
    assert intel.device.name == "HD Graphics 630"
    assert intel.device.memory_bytes == 12 * GIB


@pytest.mark.parametrize(
    ("change", "answer", "provider", "reason", "advice"),
    [
        ({}, Answer((RADV,)), False, "WebGPU provider is not installed", "pip install 'peerinfer[gpu]'"),
        ({}, Answer(()), True, "no Vulkan driver offers it (kernel driver: amdgpu)", "mesa-vulkan-drivers"),
        ({}, Answer((LAVAPIPE,)), True, "no Vulkan driver offers it", "mesa-vulkan-drivers"),
        ({}, Answer(problem="a Vulkan driver crashed (SIGSEGV)", advice="update"), True, "crashed (SIGSEGV)", "update"),
        ({"may_use": False}, Answer((RADV,)), True, "you may not open /dev/dri/renderD129", "usermod -aG render"),
        ({"driver": "radeon"}, Answer((RADV,)), True, "radeon has no Vulkan", "amdgpu.cik_support=1"),
        ({"driver": ""}, Answer((RADV,)), True, "no driver has taken it", "install the driver"),
        ({"driver": "vfio-pci", "render_node": ""}, Answer(()), True, "virtual machines", ""),
        ({"memory_bytes": 512 << 20}, Answer((RADV,)), True, "512 MiB of memory, too little", ""),
    ],
)
def test_what_keeps_a_card_from_use_is_said_with_what_helps(
    machine: Path, change: dict[str, object], answer: Answer, provider: bool, reason: str, advice: str
) -> None:
    (found,) = judge([replace(the_rx580(machine), **change)], answer, has_provider=provider)
    assert not found.is_usable
    assert reason in found.obstacles[0].reason
    assert advice in found.obstacles[0].advice
    assert found.device.name == "Radeon RX 580"


def test_two_equal_cards_need_two_adapters(machine: Path) -> None:
    cards = [the_rx580(machine), replace(the_rx580(machine), address="0000:02:00.0")]
    assert [found.is_usable for found in judge(cards, Answer((RADV,)), has_provider=True)] == [True, False]
    assert [found.is_usable for found in judge(cards, Answer((RADV, RADV)), has_provider=True)] == [True, True]


def test_every_card_has_the_number_that_the_setting_knows_it_by(machine: Path) -> None:
    found = judge(read_cards(machine), Answer((LAVAPIPE, LAVAPIPE, RADV)), has_provider=True, allow_software=True)
    assert [gpu.device.selector for gpu in found] == ["gpu:0", "gpu:1", "gpu:2", "gpu:3"]


def test_a_card_that_is_not_in_the_table_has_vulkans_name(machine: Path) -> None:
    card = replace(the_rx580(machine), device_id=0x7550)
    (found,) = judge(
        [card], Answer((replace(RADV, device_id=0x7550, name="AMD Radeon RX 9070 XT"),)), has_provider=True
    )
    assert found.device.name == "AMD Radeon RX 9070 XT"
    assert judge([card], Answer(()), has_provider=True)[0].device.name == "AMD card 1002:7550"


def test_a_driver_in_software_is_no_card_unless_it_is_asked_for() -> None:
    assert judge([], Answer((LAVAPIPE,)), has_provider=True) == []
    (found,) = judge([], Answer((LAVAPIPE,)), has_provider=True, allow_software=True)
    assert found.is_usable
    assert found.environment == {}


def test_nvidias_tool_brings_name_and_memory(machine: Path) -> None:
    (figures,) = nvidia.cards_from("00000000:01:00.0, Quadro P400, 2048, 100, 41, [N/A], 7, 30\nnonsense\n")
    card = replace(the_rx580(machine), vendor_id=NVIDIA, device_id=0x1CB3, driver="nvidia", memory_bytes=0)
    (found,) = judge([card], Answer(()), has_provider=True, nvidia=[figures])
    assert (found.device.name, found.device.memory_bytes) == ("Quadro P400", 2 * GIB)
    assert figures.readings == Readings(41.0, None, 0.07, 100 << 20)
    assert "nvidia-vulkan-icd" in found.obstacles[0].advice


def test_nvidias_tool_may_be_missing_or_broken(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    assert nvidia.query(str(tool)) == []
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n")
    tool.chmod(stat.S_IRWXU)
    assert nvidia.query(str(tool)) == []


SMI = """#!/bin/sh
case "$*" in *--loop-ms=500*) ;; *) exit 9;; esac
while [ -e "{folder}/lives" ]; do
    echo "00000000:01:00.0, Quadro P400, 2048, 100, $(cat "{folder}/heat"), [N/A], 7, 30"
    sleep 0.05
done
"""


def test_nvidias_tool_is_left_running_and_a_card_that_gets_hot_is_seen_at_once(tmp_path: Path) -> None:
    tool, heat, lives = tmp_path / "nvidia-smi", tmp_path / "heat", tmp_path / "lives"
    tool.write_text(SMI.format(folder=tmp_path))
    tool.chmod(stat.S_IRWXU)
    heat.write_text("41")
    lives.touch()
    watch, now_s = nvidia.Watch(str(tool)), 1000.0

    def wait_for(wanted: float | None) -> None:
        until_s = time.monotonic() + 60
        while (found := watch.readings(now_s).get("0000:01:00.0")) is None or found.temperature_c != wanted:
            if found is None and wanted is None:
                return
            assert time.monotonic() < until_s
            time.sleep(0.01)

    try:
        wait_for(41.0)
        heat.write_text("95")
        wait_for(95.0)
        lives.unlink()  # its driver fell over
        wait_for(None)
        lives.touch()
        assert watch.readings(now_s + nvidia.STARTED_EVERY_S - 1) == {}
        now_s += nvidia.STARTED_EVERY_S
        wait_for(95.0)
    finally:
        watch.close()
    assert watch.readings(now_s + 1) == {}


def test_a_tool_of_nvidias_that_keeps_silent_is_given_up(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexec sleep 600\n")
    tool.chmod(stat.S_IRWXU)
    watch = nvidia.Watch(str(tool))
    assert watch.readings(0.0) == {}
    child = watch._child
    assert child is not None
    assert watch.readings(nvidia.SILENT_S) == {}
    assert child.poll() is None
    watch.readings(nvidia.SILENT_S + 0.1)
    assert child.poll() is not None
    assert nvidia.Watch(str(tmp_path / "none")).readings(0.0) == {}


# --- asking Vulkan -------------------------------------------------------------------------------------------------


@needs_software_vulkan
def test_vulkan_is_asked_through_its_loader() -> None:
    (adapter,) = vulkan.ask(ENVIRONMENT).adapters
    assert adapter.kind == "cpu"
    assert "SwiftShader" in adapter.name
    assert adapter.memory_bytes > 0
    assert adapter.api.startswith("1.")


def fake_python(folder: Path, script: str) -> Path:
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(stat.S_IRWXU)
    return program


@pytest.mark.parametrize(
    ("script", "timeout_s", "problem"),
    [
        ("kill -SEGV $$", 60.0, "a Vulkan driver crashed (SIGSEGV)"),
        ("exec sleep 600", 0.3, "did not answer within 0.3 s"),
        ("echo driver chatter; exit 3", 60.0, "ended the question (status 3)"),
    ],
)
def test_a_driver_that_crashes_hangs_or_chatters_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, timeout_s: float, problem: str
) -> None:
    monkeypatch.setattr(sys, "executable", str(fake_python(tmp_path, script)))
    answer = vulkan.ask(timeout_s=timeout_s)
    assert answer.adapters == ()
    assert problem in answer.problem


def test_what_drivers_print_is_bounded_and_printable() -> None:
    fields = {"name": "x\x1b[31m" * 200, "kind": "toaster", "vendor_id": 1, "device_id": -1, "api": "9" * 99,
              "memory_bytes": 1 << 90, "has_fp16": "yes"}  # fmt: skip
    (adapter,) = answer_from(json.dumps({"adapters": [fields]}).encode(), 0).adapters
    assert "\x1b" not in adapter.name
    assert len(adapter.name) == 256
    assert (adapter.kind, adapter.memory_bytes, adapter.has_fp16) == ("other", 1 << 50, False)
    assert answer_from(b'{"adapters": [{}]}', 0).problem
    assert answer_from(b"[]", 0).problem


@pytest.mark.parametrize(
    ("vendor", "installed", "provider"),
    [
        (NVIDIA, {"CUDAExecutionProvider", "CPUExecutionProvider"}, "CUDAExecutionProvider"),
        (AMD, {"MIGraphXExecutionProvider"}, "MIGraphXExecutionProvider"),
        (INTEL, {"OpenVINOExecutionProvider"}, "OpenVINOExecutionProvider"),
        (AMD, {"DmlExecutionProvider", "CUDAExecutionProvider"}, "DmlExecutionProvider"),
        (AMD, {"CUDAExecutionProvider"}, None),
        (0x1234, {"CUDAExecutionProvider", "DmlExecutionProvider"}, None),
    ],
)
def test_each_makers_own_provider_is_known(vendor: int, installed: set[str], provider: str | None) -> None:
    found = native_for(vendor, installed)
    assert (found.provider if found else None) == provider


def test_a_makers_provider_serves_a_card_that_webgpu_cannot_reach_and_no_other(machine: Path) -> None:
    card = replace(the_rx580(machine), may_use=True)
    installed = {"MIGraphXExecutionProvider"}
    (without,) = judge([card], Answer(()), has_provider=False, providers=installed)
    assert without.is_usable
    assert without.device.provider == "MIGraphXExecutionProvider"
    assert gpu_access(without, {}).provider == "MIGraphXExecutionProvider"
    (within,) = judge([card], Answer((RADV,)), has_provider=True, providers=installed)
    assert within.device.provider == WEBGPU_PROVIDER


def test_what_no_provider_can_mend_stays_an_obstacle(machine: Path) -> None:
    installed = {"MIGraphXExecutionProvider"}
    (closed,) = judge([replace(the_rx580(machine), may_use=False)], Answer(()), has_provider=False, providers=installed)
    assert [obstacle.reason for obstacle in closed.obstacles] == ["you may not open /dev/dri/renderD129"]
    (bare,) = judge([replace(the_rx580(machine), driver="")], Answer(()), has_provider=True, providers=installed)
    assert not bare.is_usable


def test_this_onnxruntime_is_asked_in_a_child_process() -> None:
    assert "CPUExecutionProvider" in installed_providers()
