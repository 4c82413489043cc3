"""Commands with a real node: a standalone run, and a daemon from `join` to its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import trio

from peerinfer.config import NodeConfig
from peerinfer.control import JobRequest
from peerinfer.errors import NoSuitablePeer
from peerinfer_node.cli import main
from peerinfer_node.home import Home
from peerinfer_node.opening import open_node

pytestmark = pytest.mark.slow

JOIN = [sys.executable, "-m", "peerinfer_node", "join", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(models.mlp())
    np.save(folder / "in.npy", np.random.default_rng(0).standard_normal((300, 64)).astype(np.float32))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def joined(home: Home) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    child = subprocess.Popen(
        [*JOIN, "--log-format", "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert child.stdout is not None
    ready = child.stdout.readline()
    assert ready, child.communicate()
    yield child, json.loads(ready)
    if child.poll() is None:
        child.kill()
        child.communicate(timeout=60)


def test_a_standalone_run_computes_what_onnxruntime_computes(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "model.onnx", "in.npy", "-o", "out.npz", "--standalone", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["state"] == "done"
    assert summary["tasks"] == summary["accepted"] + summary["failed"]
    program = (
        "import numpy as np, onnxruntime as o; x = np.load('in.npy');"
        "y = o.InferenceSession('model.onnx', providers=['CPUExecutionProvider']).run(None, {'x': x})[0];"
        "np.testing.assert_allclose(np.load('out.npz')['y'], y, rtol=1e-5, atol=1e-6)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "model.onnx", "in.npy", "--dry-run", "--standalone", "--batch", "7", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["items"], plan["tasks"]) == (300, 43)
    assert plan["inputs"] == [{"name": "x", "dtype": "float32", "shape": [-1, 64]}]
    assert (len(plan["eligible"]), plan["excluded"]) == (1, [])
    low_s, high_s = plan["interval_s"]
    assert 0 < low_s < plan["expected_s"] < high_s < 60
    assert sorted(os.listdir(work)) == ["in.npy", "model.onnx"]
    assert main(["run", "model.onnx", "in.npy", "--dry-run", "--standalone", "--min-vram", "64TiB"]) == 0
    said = capsys.readouterr().out
    assert "peers    0 of 1 may run it" in said
    assert "1 peer: has too little device memory" in said


def test_a_run_of_which_every_task_failed_has_failed_and_says_why_once(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "model.onnx").write_bytes(models.poisonable())
    np.save(work / "in.npy", np.full((20, 1), 99))
    words = ["run", "model.onnx", "in.npy", "-o", "out.npz", "--standalone", "--json", "--retries", "0"]
    assert main(words) == 1
    out, err = capsys.readouterr()
    summary = json.loads(out)
    assert (summary["state"], summary["failed"], summary["kind"]) == ("failed", 20, "JobFailed")
    assert [line for line in err.splitlines() if "items" not in line] == [
        "reading the model and the inputs",
        f"peerinfer: error: {summary['error']}",
    ]
    assert summary["error"].startswith("all 20 tasks failed: model: Gather: indices element out of data bounds")


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (["--device-kind", "gpu"], "computes with no GPU"),
        (["--min-vram", "64TiB"], "has 64 TiB of memory, the largest"),
    ],
)
def test_a_standalone_run_waits_for_no_device_that_this_machine_lacks(
    work: Path, wish: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "model.onnx", "in.npy", "-o", "out.npz", "--standalone", "--timeout", "1h", *wish]) == 4
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("wish", [{"device_kind": "gpu"}, {"min_vram_bytes": 64 << 40}])
def test_a_node_that_meets_no_peers_waits_for_no_device_either(work: Path, wish: dict[str, Any]) -> None:
    """As Python's `connect(standalone=True)` starts one."""

    async def submit() -> None:
        home = Home.resolve({}, work / "alone")
        async with open_node(home, NodeConfig(), lends=False, networked=False) as node:
            request = JobRequest(str(work / "model.onnx"), (str(work / "in.npy"),), **wish)
            with pytest.raises(NoSuitablePeer, match="nobody else is asked"):
                await node.control.submit(request)

    trio.run(submit)


@pytest.mark.parametrize("flags", [["--dry-run"], ["-o", "out.npz"]])
def test_bad_models_and_inputs_have_code_3_and_one_line(
    work: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(work / "narrow.npy", np.zeros((3, 63), np.float32))
    (work / "cut.onnx").write_bytes(models.mlp()[:-100])
    for model, given in (
        ("model.onnx", "narrow.npy"),
        ("cut.onnx", "in.npy"),
        ("none.onnx", "in.npy"),
        ("model.onnx", "x.npz"),
    ):
        assert main(["run", model, given, "--standalone", *flags]) == 3
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("peerinfer: error:")]
        assert len(errors) == 1
    assert not (work / "out.npz").exists()


def test_bench_tells_how_fast_the_devices_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "daemon" not in err, "they are kept"
    (device,) = json.loads(out)
    assert device["benchmark"]["gemm_gflops"] > 0
    assert device["selector"] == "cpu"


def test_bench_beside_a_running_daemon_says_that_it_keeps_nothing(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    home.prepare()
    with home.lock():
        assert main(["bench", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)
    assert "this home's daemon runs, and goes by its own figures" in err


def test_bench_tells_how_fast_a_model_is_by_the_items_joined(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "model.onnx"]) == 0
    out = capsys.readouterr().out
    assert "ROWS" in out
    assert "chosen" in out
    assert main(["bench", "model.onnx", "--json"]) == 0
    (device,) = json.loads(capsys.readouterr().out)
    assert {run["rows"] for run in device["runs"]} >= {1, 2, 4}
    assert device["best_rows"] in {run["rows"] for run in device["runs"]}
    assert all(run["items_per_second"] > 0 for run in device["runs"])


def test_bench_of_what_is_no_model_says_so_in_one_line(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "cut.onnx").write_bytes(models.mlp()[:-100])
    for name, reason in (("cut.onnx", "cut.onnx: not an ONNX model"), ("none.onnx", "cannot read none.onnx")):
        assert main(["bench", name]) == 3
        *_, error = capsys.readouterr().err.splitlines()
        assert error.startswith(f"peerinfer: error: {reason}")


def test_a_daemon_from_ready_to_leave(
    home: Home, joined: tuple[subprocess.Popen[str], dict[str, Any]], work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    child, ready = joined
    assert ready["event"] == "ready"
    assert ready["addresses"][0].endswith(f"/p2p/{ready['peer_id']}")
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["peer_id"] == ready["peer_id"]
    assert main(["id"]) == 0
    assert capsys.readouterr().out.strip() == ready["peer_id"]

    assert main(["run", "model.onnx", "in.npy", "-o", "out.npz", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["coordinator"] == ready["peer_id"]
    assert main(["jobs", "fetch", summary["job_id"][:8], "-o", "again.npz"]) == 0
    np.testing.assert_array_equal(np.load("again.npz")["y"], np.load("out.npz")["y"])

    # A run of its own finds the home in use, and takes another.
    assert main(["run", "model.onnx", "in.npy", "-o", "own.npz", "--standalone"]) == 0
    assert list(home.cache.glob("embedded-*")) == []

    assert main(["leave"]) == 0
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0
    assert out == ""
    assert "Traceback" not in err
    assert all(json.loads(line)["event"] for line in err.splitlines())
    assert not home.socket.exists()


def test_a_second_node_of_the_same_home_says_so(joined: tuple[subprocess.Popen[str], dict[str, Any]]) -> None:
    second = subprocess.run(JOIN, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert len(second.stderr.splitlines()) == 1
    assert f"pid {joined[0].pid}" in second.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_daemon_cleanly(
    home: Home, joined: tuple[subprocess.Popen[str], dict[str, Any]], number: int
) -> None:
    child, _ = joined
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert "Traceback" not in err
    assert not home.socket.exists()


def test_in_text_the_last_line_begins_with_ready(home: Home) -> None:
    child = subprocess.Popen(JOIN, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    lines = []
    for line in child.stdout:
        lines.append(line)
        if line.startswith("ready "):
            break
    child.terminate()
    child.communicate(timeout=60)
    assert child.returncode == 0
    _, peer_id, address = lines[-1].split()
    assert address.endswith(f"/p2p/{peer_id}")
    assert any(line.startswith("sandbox") for line in lines)
