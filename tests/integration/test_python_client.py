"""`peerinfer.connect()` and `peerinfer.aio`: with a daemon, with a node of their own, and when things go wrong."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper
from swarm import Daemon, Swarm, wait_for

import peerinfer
import peerinfer.aio
from peerinfer.errors import InputError, JobFailed, ModelRefused, NoDaemon, NoSuitablePeer, UnknownJob, UsageError

pytestmark = pytest.mark.slow

DOCS = Path(__file__).resolve().parents[2] / "docs"
ROWS = np.random.default_rng(3).random((40, 4), dtype=np.float32)


def layer() -> bytes:
    """x[n,4] -> y[n,3]."""
    weights = numpy_helper.from_array(np.random.default_rng(1).random((4, 3), dtype=np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 4), ("y", 3)))
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weights])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = made.SerializeToString()
    return content


def named_file() -> bytes:
    """The same with a name that numpy.savez cannot write."""
    made = onnx.ModelProto.FromString(layer())
    made.graph.input[0].name = made.graph.node[0].input[0] = "file"
    content: bytes = made.SerializeToString()
    return content


def wanted(rows: Any = ROWS) -> Any:
    return onnxruntime.InferenceSession(layer(), providers=["CPUExecutionProvider"]).run(None, {"x": rows})[0]


@pytest.fixture(scope="module")
def daemon(shared: Swarm) -> Iterator[Daemon]:
    found = shared.join("ada", "--api", "127.0.0.1:0")
    yield found
    assert found.ask("GET", "/node")["state"] == "running"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(layer())
    return path


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / "PYTHON.md").read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("number", range(len(examples())))
def test_the_examples_of_the_page_run(tmp_path: Path, model: Path, number: int) -> None:
    (tmp_path / "example.py").write_text(examples()[number], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "example.py"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


def test_a_job_and_a_call_through_the_daemon_give_onnxruntimes_numbers(
    daemon: Daemon, model: Path, tmp_path: Path
) -> None:
    with peerinfer.connect(daemon.home) as swarm:
        assert swarm.status()["pid"] == daemon.pid
        job = swarm.submit(model, {"x": ROWS}, verify="none", batch=4)
        found = {item.index: item.outputs["y"] for item in job.results()}
        np.testing.assert_allclose(np.stack([found[index] for index in range(len(ROWS))]), wanted(), rtol=1e-5)
        np.testing.assert_allclose(job.result()["y"], wanted(), rtol=1e-5)
        assert job.show()["state"] == "done"
        assert swarm.job(job.id).wait()["state"] == "done"
        assert job.id in {each["job_id"] for each in swarm.jobs()}
        np.testing.assert_allclose(swarm.infer(model, {"x": ROWS[:3]})["y"], wanted(ROWS[:3]), rtol=1e-5)
        np.testing.assert_allclose(swarm.infer(layer(), {"x": ROWS[:3]})["y"], wanted(ROWS[:3]), rtol=1e-5)
        np.save(tmp_path / "rows.npy", ROWS)
        by_file = swarm.submit(layer(), tmp_path / "rows.npy", verify="none")
        np.testing.assert_allclose(by_file.result()["y"], wanted(), rtol=1e-5)
        uploads = daemon.home / "uploads"
        assert not [entry for entry in uploads.iterdir() if entry.is_dir()], "what was uploaded for a job stays behind"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_same_under_every_framework_with_calls_at_once(daemon: Daemon, model: Path, backend: str) -> None:
    async def main() -> None:
        answers: dict[int, Any] = {}
        async with peerinfer.aio.connect(daemon.home) as swarm, anyio.create_task_group() as group:

            async def ask(number: int) -> None:
                answers[number] = (await swarm.infer(model, {"x": ROWS[number : number + 1]}))["y"][0]

            for number in range(len(ROWS)):
                group.start_soon(ask, number)
            job = await swarm.submit(model, {"x": ROWS}, verify="none")
            np.testing.assert_allclose((await job.result())["y"], wanted(), rtol=1e-5)
        found = np.stack([answers[number] for number in range(len(ROWS))])
        np.testing.assert_allclose(found, wanted(), rtol=1e-4, atol=1e-6)

    anyio.run(main, backend=backend)


def test_a_node_is_reached_over_tcp_with_its_token(daemon: Daemon, model: Path) -> None:
    token = Path(daemon.ready["token_file"]).read_text().strip()
    with peerinfer.connect(url=daemon.ready["http"], token=token) as swarm:
        np.testing.assert_allclose(swarm.submit(layer(), {"x": ROWS}, verify="none").result()["y"], wanted(), rtol=1e-5)
    with peerinfer.connect(url=daemon.ready["http"], token="wrong") as swarm, pytest.raises(UsageError, match="token"):
        swarm.status()
    with peerinfer.connect(url="http://127.0.0.1:9", token="x") as swarm, pytest.raises(NoDaemon):
        swarm.status()


def test_what_goes_wrong_is_raised_as_what_it_is(daemon: Daemon, model: Path, tmp_path: Path) -> None:
    with peerinfer.connect(daemon.home) as swarm:
        with pytest.raises(InputError, match="inputs"):
            swarm.submit(model, {"z": ROWS})
        with pytest.raises(InputError):
            swarm.infer(model, {"x": ROWS.astype(np.float64)})
        with pytest.raises(InputError, match="cannot read"):
            swarm.infer(tmp_path / "nothing.onnx", {"x": ROWS})
        with pytest.raises(ModelRefused):
            swarm.infer(b"no model", {"x": ROWS})
        with pytest.raises(UsageError, match="verify"):
            swarm.submit(model, {"x": ROWS}, verify="maybe")
        with pytest.raises(UsageError, match="unknown field"):
            swarm.submit(model, {"x": ROWS}, colour="red")
        with pytest.raises(UnknownJob):
            swarm.job("0" * 32)
        np.testing.assert_allclose(
            swarm.submit(named_file(), {"file": ROWS}, batch=np.int64(8)).result()["y"], wanted(), rtol=1e-5
        )
        with pytest.raises(InputError, match="not carried"):
            swarm.infer(model, {"x": np.array(["2026-01-01"], dtype="datetime64[D]")})
        with pytest.raises(InputError, match=r"the model takes x: float32.* given string"):
            swarm.infer(model, {"x": np.array(["a"])})
        with pytest.raises(ModelRefused, match=r"^model\.onnx: not an ONNX model"):
            swarm.submit(b"junk", {"x": ROWS})
        job = swarm.submit(model, {"x": np.tile(ROWS, (200, 1))}, verify="none", batch=1)
        assert swarm.job(job.id[:8]).id == job.id
        job.cancel()
        assert job.wait()["state"] in ("cancelled", "done")
        if job.show()["state"] == "cancelled":
            with pytest.raises(JobFailed, match="cancel"):
                job.result()


def test_without_anybody_who_computes_a_call_says_so(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEERINFER_MDNS", "false")
    with peerinfer.connect(tmp_path / "home") as swarm, pytest.raises(NoSuitablePeer) as raised:
        swarm.infer(model, {"x": ROWS[:1]}, timeout_s=0.5)
    assert raised.value.exit_code == 4


def test_a_node_that_was_started_ends_with_a_program_that_is_killed(tmp_path: Path) -> None:
    code = "import peerinfer, time\nwith peerinfer.connect(standalone=True) as swarm:\n"
    code += "    print(swarm.status()['pid'], flush=True)\n    time.sleep(999)"
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environ)
    assert program.stdout is not None
    pid = int(program.stdout.readline())
    assert psutil.pid_exists(pid)
    program.send_signal(signal.SIGKILL)
    program.wait()
    program.stdout.close()
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, timeout_s=60)
