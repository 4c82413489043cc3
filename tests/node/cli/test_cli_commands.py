"""Commands that ask a daemon, against one that is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import models
import pytest
from fake_control import OTHER, PEER, FakeControl, FakeJob, crash, refusal

from peerinfer.control import JobRequest, Json
from peerinfer.errors import HomeInUse
from peerinfer_node.cli import main
from peerinfer_node.cli.guard import leaf
from peerinfer_node.cli.jobs import job_lines, list_lines
from peerinfer_node.cli.output import printable, short, table
from peerinfer_node.cli.switch import until_s
from peerinfer_node.cli.view import status_lines
from peerinfer_node.home import Home


def answer(capsys: pytest.CaptureFixture[str], line: str, code: int = 0) -> str:
    assert main(line.split()) == code
    return capsys.readouterr().out


@pytest.fixture
def job(fake: FakeControl, files: Path) -> str:
    name = "3f" * 16
    fake.held_jobs[name] = FakeJob(JobRequest(str(files / "model.onnx"), (str(files / "in.npz"),)), 10, 2)
    return name


@pytest.mark.parametrize(
    "line",
    [
        *("status", "peers", "devices --json", "models", "jobs", "pause", "resume", "finish", "leave"),
        *("jobs show 1234", "jobs attach 1234", "jobs cancel 1234", "jobs fetch 1234 -o o.npz", "peers --why m.onnx"),
        "jobs rescue 1234 --yes",
    ],
)
def test_without_a_daemon_the_code_is_7_and_one_line_says_how_to_start_one(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 7
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "peerinfer: error: no peerinfer daemon is running here; start one with: peerinfer join\n"


def test_status_has_the_promised_fields(fake: FakeControl, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(answer(capsys, "status --json"))
    promised = [
        "peer_id",
        "name",
        "swarm",
        "addresses",
        "state",
        "reasons",
        "reachability",
        "peers",
        "devices",
        "jobs_coordinated",
        "sandbox",
        "version",
        "pid",
        "api",
    ]
    assert set(promised) <= set(found)
    assert set(found["peers"]) == {"alive", "suspect", "relayed"}


def test_reputation_is_said_in_words(fake: FakeControl, capsys: pytest.CaptureFixture[str]) -> None:
    assert "passed 40 checks" in answer(capsys, "reputation 12D3KooWada")
    (peer,) = json.loads(answer(capsys, "reputation --json"))
    assert {"peer_id", "integrity", "reliability", "words"} <= set(peer)


def test_lists_have_the_promised_fields(fake: FakeControl, job: str, capsys: pytest.CaptureFixture[str]) -> None:
    (peer,) = json.loads(answer(capsys, "peers --json"))
    assert {"peer_id", "name", "state", "path", "rtt_ms", "devices", "reputation", "queue", "last_seen_s"} <= set(peer)
    (device,) = json.loads(answer(capsys, "devices --json"))
    promised = [
        "selector",
        "name",
        "kind",
        "provider",
        "vendor_id",
        "device_id",
        "vram_bytes",
        "temperature_c",
        "power_w",
        "busy_ratio",
        "benchmark",
        "certified",
        "state",
        "reasons",
    ]
    assert set(promised) <= set(device)
    shown = json.loads(answer(capsys, "jobs show 3f3f --json"))
    promised = [
        "job_id",
        "state",
        "submitter",
        "coordinator",
        "term",
        "committee",
        "items",
        "tasks",
        "accepted",
        "final",
        "failed",
        "verify",
        "strategy",
        "created",
        "elapsed_s",
        "handovers",
    ]
    assert set(promised) <= set(shown)
    assert json.loads(answer(capsys, "jobs --json")) == [shown]
    assert json.loads(answer(capsys, "models --json"))[0]["loaded"] is True


@pytest.mark.parametrize("line", ["status", "peers", "devices", "models", "jobs", "jobs show 3f3f"])
def test_people_get_lines_without_control_characters(
    fake: FakeControl, job: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = answer(capsys, line)
    assert text.strip()
    assert all(character.isprintable() for character in text.replace("\n", ""))


def test_status_shows_why_the_node_rests(fake: FakeControl, capsys: pytest.CaptureFixture[str]) -> None:
    answer(capsys, "pause --for 2h")
    text = answer(capsys, "status")
    assert "paused by its owner until 20" in text
    assert main(["resume"]) == 0
    assert capsys.readouterr().err == "lending again\n"
    assert "paused" not in answer(capsys, "status")
    assert json.loads(answer(capsys, "pause --json"))["state"] == "paused"
    assert json.loads(answer(capsys, "resume --json"))["state"] == "running"


def test_status_says_why_one_device_rests_and_a_pause_ends_at_its_minute() -> None:
    at_s = datetime(2026, 11, 29, 7, 0).timestamp()
    hot = {"reason": "hotter than 80 °C", "until": None, "name": "temperature"}
    card = {"name": "RX 580", "kind": "gpu", "state": "resting", "reasons": ["hotter than 80 °C"], "rests": [hot]}
    paused = {"name": "CPU", "kind": "cpu", "state": "paused", "reasons": ["paused by its owner"]}
    pause = {"reason": "paused by its owner", "until": at_s - 0.0004, "name": "paused"}  # two clocks never quite agree
    lines = status_lines({"devices": [card, paused], "reasons": [pause]})
    assert "device        RX 580, gpu, resting: hotter than 80 °C" in lines
    assert "device        CPU, cpu, paused" in lines
    assert " because      paused by its owner until 2026-11-29 07:00" in lines


def test_resuming_says_what_keeps_the_devices_at_rest_all_the_same(
    fake: FakeControl, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.limits = [{"name": "schedule", "reason": "outside the hours to lend in (22:00-08:00)", "until": None}]
    assert main(["resume"]) == 0
    words = "the pause is over; the devices still rest: outside the hours to lend in (22:00-08:00)\n"
    assert capsys.readouterr().err == words


def test_why_names_the_reason_and_gives_the_node_an_absolute_path(
    fake: FakeControl, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["peers", "--why", "model.onnx"]) == 3, "it holds no model"
    assert "model.onnx: not an ONNX model" in capsys.readouterr().err
    (files / "model.onnx").write_bytes(models.mlp())
    assert "it lends no device" in answer(capsys, "peers --why model.onnx")
    assert ("why", str(files / "model.onnx")) in fake.calls
    assert main(["peers", "--why", "nothing.onnx"]) == 3, "as run says of it"


@pytest.mark.parametrize(
    "command",
    [
        "run model.onnx in.npz -o {out}",
        "run model.onnx in.npz -o {out} --dry-run",
        f"jobs fetch {'0' * 32} -o {{out}}",
        "reputation export -o {out}",
    ],
)
def test_a_place_where_nothing_can_be_written_has_one_code_whoever_finds_it(
    fake: FakeControl, files: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main(command.format(out="/no/such/folder/out.npz").split()) == 3
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert "/no/such/folder" in err


def test_a_statement_is_one_line_of_json_where_that_is_asked_for(
    fake: FakeControl, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reputation", "export", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    (files / "statement.json").write_text(line)
    assert main(["reputation", "verify", "statement.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["peer_id"] == json.loads(line)["peer_id"]
    assert main(["reputation", "export", "-o", "other.json", "--json"]) == 0
    assert capsys.readouterr().out == f"{line}\n"
    assert json.loads((files / "other.json").read_text()) == json.loads(line)


def test_nothing_there_is_said(fake: FakeControl, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "jobs") == "no jobs\n"
    assert answer(capsys, "jobs --json") == "[]\n"


def test_a_job_that_is_coordinated_for_somebody_else_says_so() -> None:
    theirs = {
        "job_id": "3f" * 16,
        "own": False,
        "submitter": OTHER,
        "model": "bafk" * 15,
        "coordinator": PEER,
        "term": 2,
    }
    assert f"coordinated for {OTHER[-8:]}" in list_lines([theirs])[1]
    assert f"submitter    {OTHER}, another node" in job_lines(theirs)
    own = theirs | {"own": True, "submitter": PEER, "model": "/home/ada/digits.onnx"}
    assert list_lines([own])[1].endswith("digits.onnx")
    assert f"submitter    {PEER}" in job_lines(own)


def test_a_job_that_is_in_no_list_is_found_by_the_beginning_of_its_id_where_it_is_known(
    fake: FakeControl, job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that this node elects for."""

    async def none() -> list[Json]:
        return []

    monkeypatch.setattr(fake, "jobs", none)
    monkeypatch.setattr(fake, "_held", lambda text: fake.held_jobs[job])
    assert json.loads(answer(capsys, f"jobs show {job} --json"))["job_id"] == job
    assert json.loads(answer(capsys, "jobs show 3f3f --json"))["state"]
    assert main(["jobs", "show", "../../etc/passwd"]) == 2


def test_a_job_is_found_by_the_beginning_of_its_id(
    fake: FakeControl, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert json.loads(answer(capsys, "jobs show 3f3f --json"))["job_id"] == job
    assert json.loads(answer(capsys, f"jobs show {job} --json"))["job_id"] == job
    assert main(["jobs", "show", "3f"]) == 2
    for unknown in ("abcd", "../../etc/passwd", "00" * 16):
        capsys.readouterr()
        assert main(["jobs", "show", unknown]) == 2
        assert f"there is no job '{unknown}'; `peerinfer jobs` lists them" in capsys.readouterr().err


def test_attach_follows_a_job_to_its_end(fake: FakeControl, job: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "attach", "3f3f", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["state"] == "done"
    assert "peerinfer jobs fetch" in err


def test_attach_ends_with_the_jobs_own_code(fake: FakeControl, job: str) -> None:
    fake.ends = ("failed", "no suitable peer within 60 s", "NoSuitablePeer")
    assert main(["jobs", "attach", "3f3f"]) == 4


def test_cancel_stops_a_job_and_a_second_one_says_that_it_has_ended(
    fake: FakeControl, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["jobs", "cancel", "3f3f"]) == 0
    assert fake.held_jobs[job].state == "cancelled"
    assert main(["jobs", "cancel", "3f3f"]) == 2
    assert "has ended already" in capsys.readouterr().err


def test_rescue_is_refused_while_a_quorum_answers(
    fake: FakeControl, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["jobs", "rescue", "3f3f", "--yes"]) == 2
    assert "needs no rescue: 3 of 3 electors answer, 2 are needed" in capsys.readouterr().err


def test_rescue_says_what_is_lost_and_asks_somebody_who_can_answer(
    fake: FakeControl, job: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.missing = ["b", "c"]
    assert main(["jobs", "rescue", "3f3f"]) == 2
    said = capsys.readouterr().err
    assert "1 of 3 electors answer, 2 are needed; missing:" in said
    assert "add --yes to name the new committee" in said
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert main(["jobs", "rescue", "3f3f"]) == 130
    assert ("rescue", (job, True)) not in fake.calls
    assert "nothing was changed" in capsys.readouterr().err
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert main(["jobs", "rescue", "3f3f"]) == 0
    assert "goes on in generation 1, 2 results carried over" in capsys.readouterr().err


def test_rescue_answers_programs_with_one_object(
    fake: FakeControl, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.missing = ["b", "c"]
    assert main(["jobs", "rescue", "3f3f", "--yes", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["job_id"] == job
    assert (found["generation"], found["missing"], found["carried"]) == (1, ["b", "c"], 2)


def test_an_error_of_the_daemon_is_the_commands_error(fake: FakeControl, capsys: pytest.CaptureFixture[str]) -> None:
    fake.errors["status"] = refusal()
    assert main(["status"]) == 3
    assert capsys.readouterr().err == f"peerinfer: error: {refusal()}\n"
    fake.errors["status"] = crash()
    assert main(["status"]) == 1
    assert "its log says why" in capsys.readouterr().err


def test_leave_ends_the_daemon(fake: FakeControl, home: Home) -> None:
    assert main(["leave"]) == 0
    deadline_s = time.monotonic() + 60
    while home.socket.exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert main(["status"]) == 7


@pytest.mark.parametrize(
    ("for_s", "clock", "now_clock", "lasts_s"),
    [(90.0, None, (12, 0), 90.0), (None, 18 * 60, (12, 0), 6 * 3600.0), (None, 8 * 60, (12, 0), 20 * 3600.0)],
)
def test_a_pause_ends_when_it_should(
    for_s: float | None, clock: int | None, now_clock: tuple[int, int], lasts_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    now_s = 1_800_000_000.0 - 1_800_000_000.0 % 86400 + now_clock[0] * 3600 + now_clock[1] * 60
    end_s = until_s(for_s, clock, now_s)
    assert end_s is not None
    assert end_s - now_s == lasts_s
    assert until_s(None, None, now_s) is None


# --- the door -----------------------------------------------------------------------------------------------------------


def test_what_nobody_expected_is_one_line_and_a_file(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(_: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("peerinfer_node.cli.identity.home_of", breaks)
    assert main(["id"]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "unexpected RuntimeError: two lines" in err
    (crash_file,) = home.logs.glob("crash-*.txt")
    assert str(crash_file) in err
    assert "Traceback" in crash_file.read_text()
    assert crash_file.stat().st_mode & 0o077 == 0


def test_only_the_newest_crashes_are_kept(home: Home) -> None:
    from peerinfer_node.cli.crash import CRASHES_MAX, write_crash

    home.logs.mkdir()
    for number in range(30):
        (home.logs / f"crash-20200101-0000{number:02}-1.txt").write_text("old")
    assert write_crash(RuntimeError("new"), []) is not None
    kept = sorted(path.name for path in home.logs.glob("crash-*.txt"))
    assert len(kept) == CRASHES_MAX
    assert not kept[-1].startswith("crash-2020")


def test_ctrl_c_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("peerinfer_node.cli.identity.home_of", interrupted)
    assert main(["id"]) == 130
    assert capsys.readouterr().err == "peerinfer: interrupted\n"


def test_of_several_errors_the_one_raised_on_purpose_is_told() -> None:
    group = BaseExceptionGroup("", [RuntimeError(), ExceptionGroup("", [ValueError(), HomeInUse("mine")])])
    assert isinstance(leaf(group), HomeInUse)
    assert isinstance(leaf(BaseExceptionGroup("", [RuntimeError()])), RuntimeError)


def peerinfer(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-m", "peerinfer_node", *arguments], stderr=subprocess.PIPE, **options
    )


def test_a_reader_that_stops_reading_is_no_error(fake: FakeControl) -> None:
    read, write = os.pipe()
    child = peerinfer("status", stdout=write)
    os.close(write)
    os.close(read)
    _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (0, b"")


def test_a_full_disk_behind_stdout_is_one_line(fake: FakeControl) -> None:
    with open("/dev/full", "wb") as full:
        child = peerinfer("status", stdout=full)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert err.decode().strip() == "peerinfer: error: cannot write to standard output: No space left on device"


def test_exit_codes_reach_the_shell() -> None:
    for arguments, code in ((["status"], 7), (["nonsense"], 2), (["version"], 0)):
        child = peerinfer(*arguments, stdout=subprocess.PIPE)
        _, err = child.communicate(timeout=60)
        assert child.returncode == code
        assert b"Traceback" not in err


# --- words --------------------------------------------------------------------------------------------------------------


def test_nothing_invisible_is_printed() -> None:
    assert printable("a\x1b[31m\u202eb\u200b\ud800\n\tc") == "a?[31m?b??  c"


def test_columns_are_aligned_and_long_cells_cut() -> None:
    lines = table(("A", "B"), [("x" * 100, "y" * 100), (None, "z")])
    assert lines[0].index("B") == lines[1].index("y") == lines[2].index("z")
    assert len(lines[1]) < 160
    assert short(PEER) != short(OTHER)
