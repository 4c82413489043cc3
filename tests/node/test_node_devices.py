"""A whole node with an RX 580: its sensors are a fake tree, its computing is a Vulkan driver in software."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import models
import numpy as np
import psutil
import pytest
import trio
from hardware_tree import RX580, lay_out
from models import batch_of
from software_vulkan import ENVIRONMENT, needs_software_vulkan

from peerinfer.config import NodeConfig
from peerinfer.control import JobRequest
from peerinfer.envelope import unseal
from peerinfer.errors import UsageError, WorkerDied
from peerinfer.hangs import HANG_FACTOR, HANG_MIN_S, RUNS_KEPT
from peerinfer.ids import cid_of
from peerinfer.messages import Advert
from peerinfer_node.cli.view import device_lines
from peerinfer_node.devices import probe
from peerinfer_node.devices.card_names import AMD
from peerinfer_node.devices.choice import judge
from peerinfer_node.devices.sysfs import read_cards
from peerinfer_node.devices.vulkan import Adapter, Answer
from peerinfer_node.gateway.metrics import NodeMetrics
from peerinfer_node.gateway.server import open_gateway
from peerinfer_node.home import Home
from peerinfer_node.inference.certified_executor import CertifiedExecutor
from peerinfer_node.inference.subprocess_executor import SubprocessExecutor
from peerinfer_node.log import Log
from peerinfer_node.node import Node
from peerinfer_node.opening import open_node
from peerinfer_node.serving import Serving
from peerinfer_tui.device_view import device_page
from peerinfer_tui.pictures import Snapshot
from peerinfer_tui.snapshot import read_devices, read_node

pytestmark = [pytest.mark.slow, needs_software_vulkan]

RADV = Adapter("AMD Radeon RX 580 Series (RADV POLARIS10)", "discrete", AMD, 0x67DF, "1.3.255", 8 << 30, False)
DEADLINE_S = 60.0


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tree; whoever looks for graphics cards finds those in it."""
    root = lay_out("rx580", tmp_path / "machine")
    found = judge(read_cards(root), Answer((RADV,)), has_provider=True)
    # The card's own device file is not there, so nothing has to be opened but a software driver's.
    cards = [replace(gpu, environment={}, card=replace(gpu.card, render_node="")) for gpu in found if gpu.card]
    monkeypatch.setattr(probe, "find_gpus", lambda: cards)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setitem(os.environ, name, value)
    return root


async def until(condition: Callable[[], Awaitable[bool]], deadline_s: float = DEADLINE_S) -> float:
    """Seconds until it held."""
    started_s = trio.current_time()
    with trio.fail_after(deadline_s):
        while not await condition():  # noqa: ASYNC110  (the control interface has no event for it)
            await trio.sleep(0.02)
    return trio.current_time() - started_s


def card_of(devices: list[dict[str, Any]]) -> dict[str, Any]:
    (card,) = [device for device in devices if device["name"] == "Radeon RX 580"]
    return card


def home_in(folder: Path) -> Home:
    return Home.resolve({"PEERINFER_HOME": str(folder / "home")})


async def test_an_rx580_is_shown_works_rests_when_hot_and_works_again(machine: Path, tmp_path: Path) -> None:
    heat = machine / RX580 / "hwmon" / "hwmon3" / "temp1_input"
    lines: list[str] = []
    async with open_node(
        home_in(tmp_path), NodeConfig(mdns=False, max_temp_c=80), lends=True, networked=False, log=Log(lines.append)
    ) as node:
        await until(lambda: shows(node, temperature_c=54.0))
        card = card_of(await node.control.devices())
        assert (card["vendor_id"], card["device_id"], card["vram_bytes"]) == (0x1002, 0x67DF, 8 << 30)
        assert (card["power_w"], card["busy_ratio"]) == (95.1, 0.11)
        assert (card["max_temp_c"], card["max_power_w"]) == (80, None)
        assert 0 < card["memory_used_bytes"] < 8 << 30
        assert card["certified"], lines
        assert card["benchmark"]["gemm_gflops"] > 0
        assert "images/s" in card["good_for"]
        assert "agrees with the CPU to 1e-" in card["good_for"]
        assert (card["fp16"], card["driver"]) == (False, f"amdgpu, {RADV.name}, Vulkan 1.3.255")
        assert card["state"] == "running"
        shown = {device["selector"]: device["name"] for device in await node.control.devices()}
        # One is found and not used, with the reason; `--device gpu:1` below takes the card that stands here as gpu:1.
        assert {"gpu:0": "HD Graphics 630", "gpu:1": "Radeon RX 580"}.items() <= shown.items()
        assert "gpu:1" in "\n".join(device_lines(await node.control.devices()))
        assert await job_on(node, tmp_path) == {"done"}

        assert (await node.control.status())["energy_j"] > 0

        heat.write_text("95000\n")
        assert await until(lambda: shows(node, state="resting")) < DEADLINE_S / 4
        card = card_of(await node.control.devices())
        assert card["reasons"] == ["hotter than 80 °C; rests until it is below 72 °C"]
        status = await node.control.status()
        assert (status["state"], status["reasons"]) == ("running", [])  # the processor works on
        assert await job_on(node, tmp_path) == {"done"}

        heat.write_text("50000\n")
        await until(lambda: shows(node, state="running"))


async def test_an_rx580_is_that_card_for_the_command_line_for_others_and_in_the_window(
    machine: Path, tmp_path: Path
) -> None:
    home = home_in(tmp_path)
    config = NodeConfig(mdns=False, listen=("/ip4/127.0.0.1/tcp/0",))
    async with (
        open_node(home, config, lends=True, networked=True, log=Log(lambda line: None)) as node,
        open_gateway(node.control, home.socket, lambda line: None),
    ):
        await until(lambda: shows(node, temperature_c=54.0))

        def started(folder: str, *arguments: str) -> dict[str, Any]:
            others = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
            return {
                "command": [sys.executable, "-m", "peerinfer_node", *arguments],
                "env": {**others, "PEERINFER_HOME": str(tmp_path / folder)},
            }

        async def asked(*arguments: str, folder: str = "home") -> bytes:
            return bytes((await trio.run_process(**started(folder, *arguments), capture_stdout=True)).stdout)

        devices = json.loads(await asked("devices", "--json"))
        card = card_of(devices)
        assert (card["kind"], card["vendor_id"], card["device_id"]) == ("gpu", 0x1002, 0x67DF)
        assert (card["vram_bytes"], card["temperature_c"], card["power_w"]) == (8 << 30, 54.0, 95.1)
        text = (await asked("devices")).decode()
        assert "Radeon RX 580: fp32 (fp16 models are widened)" in text
        assert "HD Graphics 630" in text

        _, advert = unseal(Advert, node.advertiser.advert())
        assert [(device.name, device.memory_bytes) for device in advert.devices if device.kind == "gpu"] == [
            ("Radeon RX 580", 8 << 30)
        ]

        async def other_sees() -> bool:
            seen = json.loads(await asked("peers", "--json", folder="other"))
            cards = [device for peer in seen for device in peer["devices"] if device["kind"] == "gpu"]
            return [card["name"] for card in cards] == ["Radeon RX 580"]

        joining = ("join", "--no-mdns", "--device", "cpu", "--listen", "/ip4/127.0.0.1/tcp/0")
        async with trio.open_nursery() as nursery:
            other = started("other", *joining, "--bootstrap", node.ready()["addresses"][0])
            process = await nursery.start(partial(trio.run_process, **other, stdout=subprocess.PIPE, check=False))
            assert process.stdout is not None
            heard = b""
            with trio.fail_after(DEADLINE_S):
                while b"\nready" not in heard:
                    said = await process.stdout.receive_some()
                    assert said, heard
                    heard += said
            await until(other_sees)
            process.kill()

        page = device_page(Snapshot(read_node(await node.control.status()), read_devices(devices)), 100, 0.0)
        text = "\n".join("".join(words for words, _ in line) for line in page)
        assert "Radeon RX 580" in text
        assert "54 °C" in text


class Lateness:
    """How late this busy machine was in waking us up, added up."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def watch(self) -> None:
        while True:
            wanted_s = trio.current_time() + 0.02
            await trio.sleep_until(wanted_s)
            self.seconds += trio.current_time() - wanted_s


STOPS_WITHIN_S = 1.0


async def test_a_paused_card_and_one_that_gets_hot_stop_and_give_their_memory_back_within_a_second(
    machine: Path, tmp_path: Path
) -> None:
    config = NodeConfig(mdns=False, max_temp_c=80)
    model, heat = models.slow(300), machine / RX580 / "hwmon" / "hwmon3" / "temp1_input"
    async with open_node(home_in(tmp_path), config, lends=True, networked=False, log=Log(lambda line: None)) as node:
        card = next(executor for executor in node.worker.executors if executor.device.kind == "gpu")
        assert isinstance(card, CertifiedExecutor)
        inside = card._card
        assert isinstance(inside, SubprocessExecutor)

        async def work() -> None:
            with pytest.raises(WorkerDied):
                await inside.run(cid_of(model), batch_of([1], x=np.ones((1, 1), np.float32)), 60)

        async def stopped_after(stop: Callable[[], Awaitable[None]]) -> float:
            """Seconds until the process of the card is gone, and with it all memory on the card."""
            await inside.load(cid_of(model), model)
            pid = inside.pid
            assert pid is not None

            async def is_free() -> bool:
                return not psutil.pid_exists(pid)

            lateness = Lateness()
            async with trio.open_nursery() as nursery, trio.open_nursery() as working:
                working.start_soon(work)
                await trio.sleep(0.2)
                nursery.start_soon(lateness.watch)
                await stop()
                free_s = await until(is_free)
                nursery.cancel_scope.cancel()
            print(f"stopped after {free_s:.3f} s, {lateness.seconds:.3f} s of it the machine's own lateness")
            return free_s - lateness.seconds

        async def get_hot() -> None:
            heat.write_text("95000\n")

        assert await stopped_after(lambda: node.control.pause(until_s=None)) < STOPS_WITHIN_S
        await node.control.resume()
        await until(lambda: shows(node, state="running"))
        assert await stopped_after(get_hot) < STOPS_WITHIN_S
        assert await shows(node, state="resting")


async def test_a_driver_that_hangs_is_killed_and_told_of_also_where_nobody_waits_for_it(
    machine: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    config = NodeConfig(mdns=False, device=("gpu:1",))
    async with open_node(home_in(tmp_path), config, lends=True, networked=False, log=Log(lines.append)) as node:
        (executor,) = node.worker.executors
        assert isinstance(executor, CertifiedExecutor)
        model = models.mlp()
        batch = batch_of([1] * 8, x=np.zeros((8, 64), np.float32))
        await executor.load(cid_of(model), model)
        for _ in range(RUNS_KEPT):
            await executor.run(cid_of(model), batch, 60)
        card = executor._card
        assert isinstance(card, SubprocessExecutor)
        assert card.pid is not None
        os.kill(card.pid, signal.SIGSTOP)
        with trio.move_on_after(HANG_MIN_S + HANG_FACTOR * (card._times.longest_s(cid_of(model), 8, 2048) or 0)):
            await executor.run(cid_of(model), batch, 60)
        shown = card_of(await node.control.devices())
        assert (shown["losses"], shown["last_loss"][:8]) == (1, "it hung:")
        assert "Radeon RX 580: lost 1 time in the last minutes; the last: it hung" in "\n".join(device_lines([shown]))
        assert any("device hung" in line for line in lines)
        assert await job_on(node, tmp_path) == {"done"}


async def shows(node: Node, **fields: object) -> bool:
    card = card_of(await node.control.devices())
    return all(card[name] == value for name, value in fields.items())


async def job_on(node: Node, folder: Path) -> set[str]:
    (folder / "m.onnx").write_bytes(models.mlp())
    np.savez(folder / "in.npz", x=np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32))
    job = await node.control.submit(JobRequest(str(folder / "m.onnx"), (str(folder / "in.npz"),), batch=8))
    states = set()
    with trio.fail_after(DEADLINE_S):
        async for seen in node.control.watch(job):
            states = {str(seen["state"])}
    return states


async def test_a_pause_and_a_limit_are_told_with_their_names_and_resume_lifts_one_only(
    machine: Path, tmp_path: Path
) -> None:
    config = NodeConfig(mdns=False, device=("gpu:1",), max_temp_c=80)
    async with open_node(home_in(tmp_path), config, lends=True, networked=False, log=Log(lambda line: None)) as node:
        assert [executor.device.name for executor in node.worker.executors] == ["Radeon RX 580"]
        until_s = node.ports.clock.wall_s() + 3600
        await node.control.pause(until_s=until_s)
        await until(lambda: is_in(node, "paused"))
        (reason,) = (await node.control.status())["reasons"]
        (rest,) = (await node.control.devices())[0]["rests"]
        assert (rest["name"], rest["until"]) == ("paused", pytest.approx(until_s, abs=1))
        assert exported(node, "peerinfer_device_rests") == {"paused": 1}
        assert exported(node, "peerinfer_device_rests_until_timestamp_seconds") == {
            "paused": pytest.approx(until_s, abs=1)
        }
        assert (reason["name"], reason["reason"]) == ("paused", "paused by its owner")
        assert reason["until"] == pytest.approx(until_s, abs=1)
        (machine / RX580 / "hwmon" / "hwmon3" / "temp1_input").write_text("95000\n")
        await until(lambda: has_reasons(node, ["paused", "temperature"]))
        assert exported(node, "peerinfer_device_rests") == {"paused": 1, "temperature": 1}
        assert exported(node, "peerinfer_device_rests_until_timestamp_seconds").keys() == {"paused"}
        await node.control.resume()
        await until(lambda: has_reasons(node, ["temperature"]))
        assert await is_in(node, "paused")


def exported(node: Node, name: str) -> dict[str, float]:
    """A metric's values by their reason."""
    serving = Serving(online=node.online, blobs=node.ports.blobs, in_thread=node.ports.in_thread, folder=Path("/none"))
    families = [family for family in NodeMetrics(node, serving).collect() if family.name == name]
    return {sample.labels["reason"]: sample.value for family in families for sample in family.samples}


async def is_in(node: Node, state: str) -> bool:
    return bool((await node.control.status())["state"] == state)


async def has_reasons(node: Node, names: list[str]) -> bool:
    return [reason.get("name") for reason in (await node.control.status())["reasons"]] == names


async def test_a_card_that_is_asked_for_and_not_there_is_an_error_in_one_line(machine: Path, tmp_path: Path) -> None:
    for device, words in (
        ("gpu:7", "there is no gpu:7; 2 graphics cards were found"),
        ("gpu:0", "cannot be used"),
        ("openvino", "OpenVINO is not installed; run: pip uninstall onnxruntime; pip install onnxruntime-openvino"),
    ):
        with pytest.raises(UsageError, match=words):
            async with open_node(
                home_in(tmp_path), NodeConfig(mdns=False, device=(device,)), lends=True, networked=False, log=Log(print)
            ):
                pass
