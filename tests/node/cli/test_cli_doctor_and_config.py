"""doctor finds what is wrong; config shows and changes settings."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest
from fake_control import FakeControl
from hardware_tree import lay_out

from peerinfer.classes import CPU_PROVIDER, WEBGPU_PROVIDER
from peerinfer_node.cli import checkup, main
from peerinfer_node.cli.checkup import check_config
from peerinfer_node.devices import probe
from peerinfer_node.devices.choice import judge
from peerinfer_node.devices.figures import keep_figures
from peerinfer_node.devices.sysfs import read_cards
from peerinfer_node.devices.vulkan import Adapter, Answer
from peerinfer_node.home import Home
from peerinfer_node.ports import Device
from peerinfer_node.store import SqliteStore


def test_doctor_looks_at_everything_and_advises_on_what_is_not_well(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json"])
    findings = json.loads(capsys.readouterr().out)
    assert [finding["check"] for finding in findings] == [
        *(
            "config",
            "python",
            "onnxruntime",
            "graphics",
            "measured",
            "processors",
            "memory",
            "disk",
            "clock",
            "landlock",
            "seccomp",
            "identity",
            "daemon",
            "reachability",
        ),
    ]
    assert {finding["state"] for finding in findings} <= {"ok", "warn", "fail"}
    assert all(finding["advice"] for finding in findings if finding["state"] != "ok")
    assert code == (1 if any(finding["state"] == "fail" for finding in findings) else 0)


@pytest.mark.parametrize(
    ("text", "state", "said"),
    [
        ("max_cache = [broken", "fail", "is not TOML"),
        ('max_cache = "much"', "fail", "max_cache"),
        ("[foo]", "fail", "no setting 'foo'"),
        ('name = "desk"', "ok", "1 setting of "),
        (None, "ok", "0 settings of "),
    ],
)
def test_doctor_reads_the_configuration_as_a_start_would(home: Home, text: str | None, state: str, said: str) -> None:
    if text is not None:
        home.config_file.parent.mkdir(parents=True, exist_ok=True)
        home.config_file.write_text(text)
    finding = check_config(home.config_file)
    assert (finding.check, finding.state) == ("config", state)
    assert said in finding.found
    assert str(home.config_file) in (finding.advice or finding.found)


def test_doctor_tells_people_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 14
    assert all(line.split()[0] in ("ok", "warn", "fail") for line in lines)


def test_doctor_says_of_every_card_what_it_is_good_for_or_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = read_cards(lay_out("rx580", tmp_path))
    radv = Adapter("RADV POLARIS10", "discrete", 0x1002, 0x67DF, "1.3.255", 8 << 30, False)
    for answer, state in ((Answer((radv,)), "ok"), (Answer(problem="no driver", advice="install one"), "warn")):
        found = judge(cards, answer, has_provider=True)
        monkeypatch.setattr(probe, "find_gpus", lambda found=found: found)
        other, card = checkup.check_graphics()
        assert (other.state, card.state) == (state, state)
        assert other.found.startswith("gpu:0 HD Graphics 630 cannot be used: ")
        assert card.found.startswith("gpu:1 Radeon RX 580")
        assert ("8 GiB, good for fp32" in card.found) == (state == "ok")
        assert other.advice
        assert bool(card.advice) == (state == "warn")


def test_doctor_says_all_that_keeps_a_card_from_use_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = read_cards(lay_out("rx580", tmp_path))
    found = judge(cards, Answer(()), has_provider=False)
    monkeypatch.setattr(probe, "find_gpus", lambda: found)
    finding = checkup.check_graphics()[-1]
    words = "the WebGPU provider is not installed, and no Vulkan driver offers it (kernel driver: amdgpu)"
    assert f"Radeon RX 580 cannot be used: {words}" in finding.found
    assert (
        finding.advice.count("pip install 'peerinfer[gpu]'") == finding.advice.count("Debian: mesa-vulkan-driver") == 1
    )


async def test_doctor_says_what_the_devices_were_good_for_when_they_were_measured(home: Home) -> None:
    assert "nothing yet" in checkup.check_figures(home.state_db).found
    home.data.mkdir(parents=True, exist_ok=True)
    card = Device("RX 580", "gpu", WEBGPU_PROVIDER, 8 << 30, gemm_gflops=4000, resnet50_images_s=41, agreement=9e-5)
    with SqliteStore.open(home.state_db) as store:
        await keep_figures(store, [card, Device("CPU", "cpu", CPU_PROVIDER, 0)], 1.8e9)
        found = checkup.check_figures(home.state_db).found
        assert found.startswith("RX 580: fp32, 41 images/s ResNet-50, agrees with the CPU to 1e-4 (on 2027-01-1")
        await keep_figures(store, [Device("CPU", "cpu", CPU_PROVIDER, 0)], 1.9e9)  # nothing was measured: the old stays
        assert checkup.check_figures(home.state_db).found == found
        await store.set_setting("devices/figures", "[1]")
        assert "nothing yet" in checkup.check_figures(home.state_db).found
    home.state_db.write_bytes(b"no database")
    assert "nothing yet" in checkup.check_figures(home.state_db).found


def test_an_identity_that_others_may_read_fails_with_the_remedy(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["id"]) == 0
    home.identity_key.chmod(0o644)
    assert main(["doctor"]) == 1
    assert f"run: chmod 600 {home.identity_key}" in capsys.readouterr().out
    home.identity_key.chmod(0o600)
    assert checkup.check_identity(home.identity_key).state == "ok"


def test_a_daemon_that_runs_is_asked_once(home: Home, fake: FakeControl) -> None:
    daemon, reachability = checkup.check_daemon(home.socket)
    assert (daemon.state, daemon.found) == ("ok", f"answers at {home.socket}")
    assert (reachability.check, reachability.found) == ("reachability", "unknown")
    assert [call for call, _ in fake.calls if call != "devices"] == ["status"]


def test_a_daemon_that_was_killed_or_never_ran_is_seen(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(tmp_path / "stale.sock"))
    (tmp_path / "file.sock").write_text("no socket")
    for name, state, advice in (
        ("stale.sock", "warn", "the last one was killed; start one: peerinfer join"),
        ("none.sock", "ok", "start one: peerinfer join"),
        ("file.sock", "fail", "remove the file, then: peerinfer join"),
    ):
        daemon, reachability = checkup.check_daemon(tmp_path / name)
        assert (daemon.state, daemon.advice) == (state, advice)
        assert reachability.found == "only a running daemon learns how others see it"


def test_a_daemon_that_takes_connections_and_says_nothing_does_not_keep_the_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkup, "DAEMON_TIMEOUT_S", 0.05)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "mute.sock"))
        mute.listen()
        daemon, _ = checkup.check_daemon(tmp_path / "mute.sock")
    assert (daemon.state, daemon.found) == ("fail", f"no answer at {tmp_path / 'mute.sock'} within 0.05 s")


@pytest.mark.parametrize(
    ("found", "state", "advice"),
    [
        ("3 peers can dial you directly, 1 by relay", "ok", ""),
        ("0 peers can dial you directly, 1 by relay", "ok", "for a direct way forward TCP port 4001 of your router"),
        ("10 peers can dial you directly, 2 not at all", "ok", ""),
        ("listens nowhere, so it is reached by relay (1)", "ok", "work goes by relay, in small frames"),
        ("unknown: there was nobody to ask yet", "ok", "--bootstrap"),
        ("0 peers can dial you directly, 2 not at all", "warn", "forward TCP port 4001 of your router"),
        ("0 peers can dial you directly, 2 not at all", "warn", "peerinfer join --relay"),
    ],
)
def test_how_others_see_the_running_daemon_and_what_to_do_if_none_can_dial_it(
    home: Home, fake: FakeControl, found: str, state: str, advice: str
) -> None:
    fake.reachability = found
    _, finding = checkup.check_daemon(home.socket)
    assert (finding.state, finding.found) == (state, found)
    assert advice in finding.advice
    assert bool(finding.advice) == bool(advice)


@pytest.mark.parametrize(("wall_s", "state"), [(0.0, "fail"), (1.8e9, "ok"), (9e9, "fail")])
def test_a_clock_from_another_age_is_noticed(wall_s: float, state: str) -> None:
    assert checkup.check_clock(wall_s).state == state


def test_an_onnxruntime_that_does_not_start_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'ImportError: libfoo.so' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    finding = checkup.check_onnxruntime()
    assert (finding.state, finding.found) == ("fail", "cannot be imported: ImportError: libfoo.so")


def test_a_check_that_breaks_does_not_stop_the_others(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def faints() -> checkup.Finding:
        raise RuntimeError("no /proc here")

    monkeypatch.setattr(checkup, "check_memory", faints)
    findings = checkup.examine(home)
    assert len(findings) == 14
    assert "no /proc here" in next(finding.found for finding in findings if finding.check == "memory")


def test_settings_are_written_read_shown_and_unset(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "path"]) == 0
    assert capsys.readouterr().out.strip() == str(home.config_file)
    assert main(["config", "set", "name", "my node"]) == 0
    capsys.readouterr()
    assert main(["config", "get", "name"]) == 0
    assert capsys.readouterr().out == "my node\n"
    assert main(["config", "show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["name"] == {"value": "my node", "source": str(home.config_file)}
    assert shown["mdns"] == {"value": "true", "source": "default"}
    assert main(["config", "set", "name", "--unset"]) == 0
    capsys.readouterr()
    assert main(["config", "get", "name", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["value"] == ""


def test_the_environment_goes_before_the_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["config", "set", "name", "from the file"])
    monkeypatch.setenv("PEERINFER_NAME", "from the environment")
    capsys.readouterr()
    assert main(["config", "get", "name"]) == 0
    assert capsys.readouterr().out == "from the environment\n"


def test_a_home_may_be_named_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    assert main(["id", "--data-dir", str(other)]) == 0
    first = capsys.readouterr().out
    assert (other / "identity.key").stat().st_mode & 0o777 == 0o600
    assert main(["id", "--data-dir", str(other)]) == 0
    assert capsys.readouterr().out == first
    assert main(["id"]) == 0
    assert capsys.readouterr().out != first


def test_the_window_is_a_program_of_its_own(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def replaced(_: str, arguments: list[str]) -> None:
        seen.append(arguments)
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", replaced)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["tui"]) == 0
    assert seen == [[sys.executable, "-m", "peerinfer_tui", "--socket", str(home.socket)]]
