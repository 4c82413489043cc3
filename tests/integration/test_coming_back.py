"""A detached job and the home that it came from: killed while it hands the job over, gone, and back without a daemon."""

import time

import models
import numpy as np
import onnx
import pytest
from committees import Five
from job_files import write_model, write_npz
from onnx import TensorProto, helper
from swarm import Swarm, lines_of, wait_for

pytestmark = pytest.mark.slow

WIDTH = 65_536
ITEMS = 128
BATCH = 4
TASKS = ITEMS // BATCH
FEW = 8
"""Tasks, where nothing has to happen while their inputs travel."""


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Until "ada" is started again she sends so slowly that nobody can miss how she hands a job over."""
    with Swarm(tmp_path_factory.mktemp("three")) as swarm:
        daemons = Five(swarm, ("ada", "bob", "cyd"))
        settings = daemons.home("ada") / "config.toml"
        settings.parent.mkdir(mode=0o700)
        settings.write_text('max_up = "2MiB/s"\n')
        daemons.ensure_up()
        settings.unlink()
        yield daemons


@pytest.fixture(scope="module")
def negation(tmp_path_factory):
    """A model that computes nothing to speak of, 32 MiB of inputs for it, and its outputs."""
    folder = tmp_path_factory.mktemp("negation")
    shape = ["n", WIDTH]
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "negation",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "negation.onnx")
    rows = np.random.default_rng(1).random((ITEMS, WIDTH), dtype=np.float32)
    np.savez(folder / "rows.npz", x=rows)
    return folder / "negation.onnx", folder / "rows.npz", -rows


def fetch(swarm, name, job, out, *flags):
    fetched = swarm.run(name, "jobs", "fetch", job, "-o", out, *flags)
    assert fetched.code == 0, fetched.told()
    with np.load(out) as found:
        return found["y"]


def test_a_submitter_killed_while_it_hands_a_job_over_does_so_when_it_is_back(three, negation, tmp_path):
    model, inputs, expected = negation
    run = three.swarm.start("ada", "run", model, inputs, "--detach", "--batch", str(BATCH))

    def is_being_copied():
        jobs = three["ada"].ask("GET", "/jobs")
        return next((job["job_id"] for job in jobs if 0 < job["copied_bytes"] < job["copies_bytes"]), None)

    job = wait_for(is_being_copied, timeout_s=60, saying="the copies to begin")
    three.kill("ada")
    assert run.wait() != 0
    assert "daemon" in run.stderr
    assert "Traceback" not in run.stderr
    three.ensure_up("ada")

    def is_done():
        view = three["ada"].ask("GET", f"/jobs/{job}")
        return view if view["state"] == "done" else None

    view = wait_for(is_done, timeout_s=60, saying="the job's end")
    assert view["final"] == view["tasks"] == TASKS
    # Its daemon goes; a command alone brings the results home.
    assert three.swarm.run("ada", "leave").code == 0
    three["ada"].wait()
    np.testing.assert_array_equal(fetch(three.swarm, "ada", job[:8], tmp_path / "out.npz"), expected)
    three.ensure_up()


def test_a_home_without_a_daemon_hands_over_attaches_and_fetches(three, negation, tmp_path):
    model, _, whole = negation
    expected = whole[: FEW * BATCH]
    inputs = write_npz(tmp_path / "rows.npz", x=-expected)
    where = ("--bootstrap", three["bob"].address)
    run = three.swarm.run("me", "run", model, inputs, "--detach", "--batch", str(BATCH), "--json", *where)
    assert run.code == 0, run.told()
    job = run.json["job_id"]
    assert len(run.json["committee"]) == 3
    assert f"come back with: peerinfer jobs fetch {job[:8]} -o OUT --bootstrap" in run.stderr
    attached = three.swarm.run("me", "jobs", "attach", job[:8], "--json", *where)
    assert attached.code == 0, attached.told()
    assert attached.json["state"] == "done"
    assert attached.json["final"] == FEW
    np.testing.assert_array_equal(fetch(three.swarm, "me", job, tmp_path / "out.npz", *where), expected)


def test_a_clock_that_is_an_hour_ahead_does_no_harm_and_one_that_is_behind_is_named(three, tmp_path):
    model = write_model(tmp_path / "linear.onnx", models.identity())
    rows = np.random.default_rng(2).random((8, 4), dtype=np.float32)
    inputs, where = write_npz(tmp_path / "rows.npz", x=rows), ("--bootstrap", three["bob"].address)
    asked = ("run", model, inputs, "--detach", "--batch", "2", "--json", *where)
    run = three.swarm.run("hasty", *asked, clock_off_s=3600.0)
    assert run.code == 0, run.told()
    assert abs(run.json["created"] - time.time() - 3600) < 300
    job = run.json["job_id"]

    def is_done():
        views = [view for name in three.names for view in three[name].ask("GET", "/jobs") if view["job_id"] == job]
        return next((view for view in views if view["state"] == "done"), None)

    assert wait_for(is_done, timeout_s=60, saying="the job's end")["final"] == 4
    run = three.swarm.run("late", *asked, clock_off_s=-7200.0)
    assert run.code not in (0, None), run.told()
    assert "set the clock" in lines_of(run)[-1], run.told()


def test_where_nothing_was_ever_submitted_a_daemon_is_asked_for(three, tmp_path):
    for action in (("attach", "1234"), ("fetch", "1234", "-o", tmp_path / "out.npz")):
        run = three.swarm.run("nobody", "jobs", *action)
        assert run.code == 7, run.told()
        assert "peerinfer join" in run.stderr


def test_inputs_too_large_to_be_copied_are_refused_before_anything_is(three, tmp_path, negation):
    model, _, _ = negation
    huge = tmp_path / "huge.npy"
    # A hole in a file takes no disk, and must not be read.
    header = np.lib.format.open_memmap(huge, mode="w+", dtype=np.float32, shape=(2_100, WIDTH))
    del header
    run = three.swarm.run("ada", "run", model, huge, "--detach", "--batch", str(BATCH))
    assert run.code == 3, run.told()
    assert "inputs copied to a committee" in run.stderr, run.told()
    assert "512" in run.stderr
    assert all(job["tasks"] != 525 for job in three["ada"].ask("GET", "/jobs"))
