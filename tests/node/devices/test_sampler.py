from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import psutil
import pytest
from hardware_tree import RX580, lay_out

from peerinfer_node.devices.sampler import Sampler, Source, input_idle_s, on_battery, own_use
from peerinfer_node.devices.sysfs import read_cards

ADDRESS = "0000:01:00.0"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    return lay_out("rx580", tmp_path)


def supply(root: Path, name: str, **facts: object) -> None:
    folder = root / "sys" / "class" / "power_supply" / name
    folder.mkdir(parents=True)
    for key, value in facts.items():
        (folder / key).write_text(f"{value}\n")


def descriptor(root: Path, pid: int, number: int, text: str) -> None:
    folder = root / "proc" / str(pid) / "fdinfo"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / str(number)).write_text(text)


def drm(busy_ns: int, vram_kib: int, client: int = 7, address: str = ADDRESS) -> str:
    return (
        f"pos:\t0\ndrm-driver:\tamdgpu\ndrm-pdev:\t{address}\ndrm-client-id:\t{client}\n"
        f"drm-memory-vram:\t{vram_kib} KiB\ndrm-engine-gfx:\t5 ns\ndrm-engine-compute:\t{busy_ns} ns\n"
    )


def test_a_card_is_sampled_with_all_its_sensors(machine: Path) -> None:
    sampler = Sampler([Source("cpu"), Source("gpu", read_cards(machine)[1])], root=machine)
    sample = sampler.sample()
    assert sample is not None
    processor, card = sample.devices
    assert (card.temperature_c, card.power_w, card.busy_ratio) == (54.0, 95.1, 0.11)
    assert card.memory_used_bytes == 512 << 20
    assert card.foreign_busy_ratio == pytest.approx(0.11)
    assert processor.foreign_busy_ratio is not None
    assert 0 <= processor.foreign_busy_ratio <= 1
    assert 0 <= sample.minute_of_week < 7 * 1440


def test_the_heat_of_the_processor_is_found_among_the_sensors(machine: Path) -> None:
    for number, (name, value) in enumerate([("acpitz", 20000), ("k10temp", 61500)]):
        folder = machine / "sys" / "class" / "hwmon" / f"hwmon{number}"
        folder.mkdir(parents=True)
        (folder / "name").write_text(name + "\n")
        (folder / "temp1_input").write_text(f"{value}\n")
    sample = Sampler([Source("cpu")], root=machine).sample()
    assert sample is not None
    assert sample.devices[0].temperature_c == 61.5


def test_our_own_work_on_a_card_is_not_somebody_elses(machine: Path) -> None:
    descriptor(machine, 4242, 3, drm(0, 0))
    sampler = Sampler([Source("gpu", read_cards(machine)[1], lambda: 4242)], root=machine)
    (machine / RX580 / "gpu_busy_percent").write_text("100\n")
    sampler.sample()
    sampler._at_s -= 1.0
    descriptor(machine, 4242, 3, drm(10**9, 2048))
    sample = sampler.sample()
    assert sample is not None
    assert sample.devices[0].foreign_busy_ratio == pytest.approx(0.0, abs=0.1)
    assert sample.devices[0].own_memory_bytes == 2 << 20
    sampler._at_s -= 1.0
    sample = sampler.sample()
    assert sample is not None
    assert sample.devices[0].foreign_busy_ratio == pytest.approx(1.0, abs=0.1)


def test_descriptors_of_one_client_count_once_and_other_cards_not_at_all(machine: Path) -> None:
    descriptor(machine, 1, 3, drm(10, 100))
    descriptor(machine, 1, 4, drm(10, 100))
    descriptor(machine, 1, 5, drm(20, 200, client=8))
    descriptor(machine, 1, 6, drm(99, 999, client=9, address="0000:02:00.0"))
    descriptor(machine, 1, 7, "pos:\t0\nflags:\t02\n")
    found = own_use(machine, 1, ADDRESS)
    assert found is not None
    assert found.memory_bytes == 300 * 1024
    assert own_use(machine, 2, ADDRESS) is None


def test_a_laptop_without_its_plug_runs_on_its_battery(tmp_path: Path) -> None:
    assert on_battery(tmp_path) is None
    supply(tmp_path, "hidpp_battery_0", type="Battery", scope="Device")
    assert on_battery(tmp_path) is None
    supply(tmp_path, "BAT0", type="Battery")
    assert on_battery(tmp_path) is True
    supply(tmp_path, "AC", type="Mains", online=1)
    assert on_battery(tmp_path) is False


def test_somebody_at_a_terminal_is_noticed(tmp_path: Path) -> None:
    assert input_idle_s(tmp_path, 1000.0) is None
    (tmp_path / "dev" / "pts").mkdir(parents=True)
    for name, read_at_s in (("pts/0", 400), ("pts/ptmx", 999), ("tty1", 700), ("ttyS0", 999)):
        (tmp_path / "dev" / name).write_text("")
        os.utime(tmp_path / "dev" / name, (read_at_s, 990))
    assert input_idle_s(tmp_path, 1000.0) == 300.0


def test_only_the_programs_that_were_named_are_looked_for(machine: Path) -> None:
    own = psutil.Process().name()
    sample = Sampler([], exclusive=[own, "no such program"], root=machine).sample()
    assert sample is not None
    assert sample.programs == (own,)


def test_a_sensor_that_hangs_holds_one_thread_and_no_more(machine: Path) -> None:
    card = machine / RX580 / "gpu_busy_percent"
    card.unlink()
    os.mkfifo(card)  # reading waits for a writer that does not come
    sampler = Sampler([Source("gpu", read_cards(machine)[1])], root=machine)
    thread = threading.Thread(target=sampler.sample)
    thread.start()
    deadline_s = time.monotonic() + 60
    while not sampler._busy.locked():
        assert time.monotonic() < deadline_s
    assert sampler.sample() is None
    card.write_text("5\n")
    thread.join(60)
    assert not thread.is_alive()
