from __future__ import annotations

from pathlib import Path

import pytest

from peerinfer_node.devices.probe import cpu_device, default_threads


def cpuinfo(root: Path, text: str) -> Path:
    (root / "proc").mkdir()
    (root / "proc" / "cpuinfo").write_text(text)
    return root


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor\t: 0\nmodel name\t: AMD Ryzen  5 1600\nmodel name\t: another\n", "AMD Ryzen 5 1600"),
        (
            "processor\t: 0\nBogoMIPS\t: 108.00\n\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n",
            "Raspberry Pi 4 Model B Rev 1.4",
        ),
        ("processor : 0\nmodel name :\n", "CPU"),
        ("", "CPU"),
        ("model name : " + "x" * 1000, "x" * 256),
    ],
)
def test_a_cpu_is_named_as_the_kernel_names_it(tmp_path: Path, text: str, name: str) -> None:
    assert cpu_device(cpuinfo(tmp_path, text)).name == name


def test_a_machine_without_cpuinfo_has_a_cpu_all_the_same(tmp_path: Path) -> None:
    assert cpu_device(tmp_path).name == "CPU"


def test_the_cpu_of_this_machine_has_memory_and_no_figures_yet() -> None:
    device = cpu_device()
    assert (device.kind, device.provider) == ("cpu", "CPUExecutionProvider")
    assert device.memory_bytes > 1 << 28
    assert (device.gemm_gflops, device.bandwidth_gbs) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("physical", "allowed", "threads"), [(8, 16, 7), (8, 4, 3), (1, 2, 1), (None, 6, 5), (1, 1, 1)]
)
def test_one_physical_core_stays_free(
    monkeypatch: pytest.MonkeyPatch, physical: int | None, allowed: int, threads: int
) -> None:
    monkeypatch.setattr("psutil.cpu_count", lambda logical=True: physical)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(allowed)))
    assert default_threads() == threads
