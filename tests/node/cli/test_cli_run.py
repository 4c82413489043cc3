"""`peerinfer run` with a daemon that is not there: what is written, what is said, and every exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import trio
from fake_control import OTHER, FakeControl, refusal
from PIL import Image

from peerinfer.control import JobRequest, Json
from peerinfer.errors import NoSuitablePeer, StateUnusable
from peerinfer_node.cli import main
from peerinfer_node.cli.following import CANCEL_TIMEOUT_S

RUN = ["run", "model.onnx", "in.npz", "-o", "out.npz"]


def submitted(fake: FakeControl) -> list[JobRequest]:
    return [argument for call, argument in fake.calls if call == "submit"]


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_outputs_come_in_input_order_with_their_provenance(
    fake: FakeControl, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.items, fake.items_per_task = 11, 3
    assert main(RUN) == 0
    np.testing.assert_array_equal(np.load("out.npz")["y"], np.stack([np.arange(11), -np.arange(11)], axis=1))
    assert json.loads(Path("out.npz.provenance.json").read_text())["job_id"] == f"{1:032x}"
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("11 items in ")
    assert left_in(files) == ["in.npz", "model.onnx", "out.npz", "out.npz.provenance.json"]


def test_json_is_one_object_whose_totals_add_up(
    fake: FakeControl, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["state"], summary["items"], summary["tasks"], summary["accepted"]) == ("done", 10, 5, 5)
    assert summary["output"] == str(files / "out.npz")
    assert summary["provenance"] == str(files / "out.npz.provenance.json")


@pytest.mark.parametrize("output", ["out.jsonl", "out.parquet", "folder/"])
def test_every_kind_of_output_is_written(fake: FakeControl, files: Path, output: str) -> None:
    assert main(["run", "model.onnx", "in.npz", "-o", output]) == 0
    if output == "out.jsonl":
        lines = [json.loads(line) for line in Path(output).read_text().splitlines()]
        assert [line["y"][0] for line in lines] == list(range(10))
    elif output == "folder/":
        assert len(left_in(files / "folder")) == 10
    assert (files / (output.rstrip("/") + ".provenance.json")).exists()


def test_outputs_of_images_are_named_after_the_images(fake: FakeControl, files: Path) -> None:
    fake.items = 3
    (files / "images").mkdir()
    for name in ("bee", "ant", "cat"):
        Image.new("RGB", (8, 8)).save(files / "images" / f"{name}.png")
    assert main(["run", "model.onnx", "images", "-o", "out/"]) == 0
    assert left_in(files / "out") == ["ant.npz", "bee.npz", "cat.npz"]


def test_warnings_of_the_node_are_shown(fake: FakeControl, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake.warnings = ["input 'x': 1 number is NaN\x1b[31m"]
    assert main(RUN) == 0
    assert "warning: input 'x': 1 number is NaN?[31m\n" in capsys.readouterr().err


def test_some_failed_tasks_give_5_the_rest_and_the_list(
    fake: FakeControl, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.fails = {1: "the model divides by zero", 4: "later"}
    assert main([*RUN, "--json"]) == 5
    out, err = capsys.readouterr()
    summary = json.loads(out)
    assert summary["accepted"] + summary["failed"] == summary["tasks"]
    assert summary["failed_items"] == [2, 3, 8, 9]
    assert err.splitlines()[-1] == (
        "peerinfer: error: 2 tasks of 5 failed: the model divides by zero; the failed items are 2-3, 8-9"
    )
    written = np.load("out.npz")
    assert np.isnan(written["y"][[2, 3, 8, 9]]).all()
    assert not np.isnan(written["y"][[0, 1, 4, 5, 6, 7]]).any()


def test_if_all_tasks_failed_nothing_is_written(fake: FakeControl, files: Path) -> None:
    fake.fails = dict.fromkeys(range(5), "boom")
    assert main(RUN) == 1
    assert left_in(files) == ["in.npz", "model.onnx"]


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (("failed", "no suitable peer within 60 s: 3 peers lend no GPU", "NoSuitablePeer"), 4),
        (("failed", "every peer lies", "VerificationFailed"), 6),
        (("failed", "not done within its deadline of 1 s", "JobFailed"), 1),
        (("cancelled", "", ""), 1),
    ],
)
def test_a_job_without_result_writes_nothing_and_has_its_code(
    fake: FakeControl, files: Path, end: tuple[str, str, str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.ends = end
    assert main([*RUN, "--json"]) == code
    out, err = capsys.readouterr()
    assert json.loads(out)["state"] == end[0]
    assert json.loads(out)["output"] is None
    assert end[1] in err
    assert left_in(files) == ["in.npz", "model.onnx"]


def test_what_the_node_refuses_is_the_commands_error_and_nothing_is_written(
    fake: FakeControl, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.errors["submit"] = refusal()
    assert main(RUN) == 3
    assert capsys.readouterr().out == ""
    fake.errors["submit"] = NoSuitablePeer("nobody")
    assert main(RUN) == 4
    assert left_in(files) == ["in.npz", "model.onnx"]


@pytest.mark.parametrize(
    ("refused", "more", "code", "kind"),
    [
        (refusal(), [], 3, "InputError"),
        (NoSuitablePeer("nobody"), [], 4, "NoSuitablePeer"),
        (RuntimeError("a fault of ours"), [], 1, "PeerinferError"),
        (refusal(), ["--detach"], 3, "InputError"),
        (refusal(), ["--batch", "1", "--standalone", "--bootstrap", "/x"], 2, "UsageError"),
        (refusal(), ["--dry-run"], 3, "ModelRefused"),
        (refusal(), ["-o", "none/out.npz"], 3, "InputError"),
    ],
)
def test_a_run_that_ends_before_there_is_a_job_prints_one_object_too(
    fake: FakeControl,
    files: Path,
    capsys: pytest.CaptureFixture[str],
    refused: Exception,
    more: list[str],
    code: int,
    kind: str,
) -> None:
    fake.errors["submit"] = refused
    assert main([*RUN, *more, "--json"]) == code
    out, err = capsys.readouterr()
    summary = json.loads(out)
    assert (summary["job_id"], summary["state"], summary["kind"], summary["output"]) == (None, "failed", kind, None)
    assert err.splitlines()[-1] == f"peerinfer: error: {summary['error']}"


def test_if_nobody_fit_was_found_it_is_said_who_could_not_be_asked(
    fake: FakeControl, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.unreached = [{"address": "/ip4/192.0.2.9/tcp/4001", "reason": "it refused the key"}]
    said = "nobody; /ip4/192.0.2.9/tcp/4001 was not reached: it refused the key"
    fake.ends = ("failed", "nobody", "NoSuitablePeer")
    assert main([*RUN, "--json"]) == 4
    out, err = capsys.readouterr()
    assert json.loads(out)["error"] == said
    assert err.splitlines()[-1] == f"peerinfer: error: {said}"
    fake.errors["submit"] = NoSuitablePeer("nobody")
    assert main([*RUN, "--detach"]) == 4
    assert capsys.readouterr().err.splitlines()[-1] == f"peerinfer: error: {said}"
    main(["status"])
    assert "not reached   /ip4/192.0.2.9/tcp/4001: it refused the key\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("output", "code"),
    [("out.csv", 2), ("model.onnx/out.npz", 3), ("/proc/out.npz", 3), ("in.npz/", 2), ("no/such/folder/o.npz", 3)],
)
def test_an_output_that_cannot_be_written_is_said_before_anything_is_sent(
    fake: FakeControl, files: Path, output: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "model.onnx", "in.npz", "-o", output]) == code
    assert submitted(fake) == []
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("output", ["in.npz", "./in.npz", "link.npz"])
def test_an_output_never_takes_the_place_of_an_input(
    fake: FakeControl, files: Path, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    (files / "link.npz").symlink_to("in.npz")
    before = (files / "in.npz").read_bytes()
    assert main(["run", "model.onnx", "in.npz", "-o", output]) == 2
    assert "would be overwritten; name another output" in capsys.readouterr().err
    assert (files / "in.npz").read_bytes() == before
    assert not submitted(fake)


def test_results_that_the_node_lost_are_an_error_and_no_short_file(
    fake: FakeControl, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.withheld = {2}
    assert main(RUN) == 1
    assert "no longer holds the results of 2 of 10 items" in capsys.readouterr().err
    assert left_in(files) == ["in.npz", "model.onnx"]


def test_results_that_break_off_leave_nothing(
    fake: FakeControl, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.errors["results"] = StateUnusable("the record at 0 is not whole")
    assert main([*RUN, "--json"]) == 1
    summary = json.loads(capsys.readouterr().out)
    assert (summary["job_id"], summary["output"]) == (f"{1:032x}", None)
    assert (summary["kind"], summary["error"]) == ("StateUnusable", "the record at 0 is not whole")
    assert left_in(files) == ["in.npz", "model.onnx"]


def test_results_can_be_fetched_later(fake: FakeControl, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(RUN) == 0
    assert main(["jobs", "fetch", f"{1:032x}", "-o", "again.npz", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output"] == str(files / "again.npz")
    np.testing.assert_array_equal(np.load("again.npz")["y"], np.load("out.npz")["y"])


def test_a_job_that_still_runs_cannot_be_fetched(
    fake: FakeControl, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.ends = ("cancelled", "", "")
    main(RUN)
    fake.held_jobs[f"{1:032x}"].state = "running"
    assert main(["jobs", "fetch", f"{1:032x}", "-o", "again.npz"]) == 2
    assert "the job is running; wait for it with: peerinfer jobs attach" in capsys.readouterr().err
    assert not Path("again.npz").exists()


@pytest.mark.parametrize("state", ["done", "running"])
def test_a_job_of_others_is_followed_here_but_fetched_where_it_was_submitted(
    fake: FakeControl, files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    assert main(RUN) == 0
    job, shown = f"{1:032x}", fake.job

    async def elected_for(text: str) -> Json:
        return {**await shown(text), "own": False, "submitter": OTHER}

    monkeypatch.setattr(fake, "job", elected_for)
    capsys.readouterr()
    assert main(["jobs", "attach", job]) == 0
    said = capsys.readouterr().err
    assert f"is done; its outputs are its submitter's, {OTHER}" in said
    assert "fetch" not in said
    fake.held_jobs[job].state = state
    assert main(["jobs", "fetch", job, "-o", "again.npz"]) == 2
    assert f"job {job} is not this node's own: its results are fetched where it was submitted, by {OTHER}" in (
        capsys.readouterr().err
    )
    assert not Path("again.npz").exists()


def test_a_daemon_is_not_asked_for_a_standalone_run(fake: FakeControl, files: Path) -> None:
    assert main([*RUN, "--standalone"]) == 3
    assert submitted(fake) == []


# --- Ctrl-C -------------------------------------------------------------------------------------------------------------


def start(*more: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "peerinfer_node", *RUN, *more],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ},
    )


def wait_for(check: object) -> None:
    assert callable(check)
    deadline_s = time.monotonic() + 60
    while not check():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_once_cancels_the_job_and_says_how_to_go_on(fake: FakeControl, files: Path, number: int) -> None:
    fake.task_s = 0.05
    fake.items = 100_000
    child = start("--batch", "2", "--json", cwd=files)
    wait_for(lambda: any(job.accepted for job in fake.held_jobs.values()))
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert fake.held_jobs[f"{1:032x}"].state == "cancelled"
    assert (json.loads(out)["state"], json.loads(out)["kind"]) == ("cancelled", "Interrupted")
    assert err.splitlines()[-1].endswith(
        "are kept. To go on: peerinfer run model.onnx in.npz -o out.npz --batch 2 --json --resume"
    )
    assert "Traceback" not in err
    assert left_in(files) == ["in.npz", "model.onnx"]


@pytest.mark.slow
def test_twice_stops_at_once_though_the_node_does_not_answer(fake: FakeControl, files: Path) -> None:
    fake.task_s = 3600
    was_asked = threading.Event()

    async def never(job: str) -> None:
        was_asked.set()
        await trio.sleep_forever()

    fake.cancel = never  # type: ignore[method-assign]
    child = start(cwd=files)
    wait_for(lambda: ("watch", f"{1:032x}") in fake.calls)
    child.send_signal(signal.SIGINT)
    assert was_asked.wait(60)  # two signals that arrive together count as one
    started_s = time.monotonic()
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert time.monotonic() - started_s < 0.8 * CANCEL_TIMEOUT_S
    assert "Traceback" not in err
    assert left_in(files) == ["in.npz", "model.onnx"]
