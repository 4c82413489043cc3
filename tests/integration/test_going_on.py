"""Interrupted jobs go on: after Ctrl-C, after kill -9 of the command, after kill -9 of the daemon that coordinates."""

import json
import shlex
import signal

import models
import numpy as np
import pytest
from job_files import SLOW_ATOL, assert_same, write_model, write_npz
from swarm import wait_for

from peerinfer.envelope import unseal
from peerinfer.messages import Receipt

pytestmark = pytest.mark.slow

ITEMS = 120
BATCH = 2
TASKS = ITEMS // BATCH


@pytest.fixture(scope="module")
def slow_job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slow")
    rows = np.linspace(-1, 1, ITEMS, dtype=np.float32).reshape(ITEMS, 1)
    model = write_model(folder / "slow.onnx", models.slow(20))
    return model, write_npz(folder / "rows.npz", x=rows), {"y": rows}


@pytest.fixture(scope="module")
def volunteer(shared):
    return shared.join("ada")


def signed_tasks(provenance):
    """The tasks that workers signed for, each with the job for which it was computed."""
    found = []
    for receipt in json.loads(provenance.read_text())["receipts"]:
        signer, statement = unseal(Receipt, bytes.fromhex(receipt["signed"]))
        assert signer == receipt["peer"]
        found += [(statement.job, task) for task in statement.tasks]
    return found


def computed_tasks(provenance):
    """The tasks that were computed for this job and not taken over from an earlier one."""
    job = json.loads(provenance.read_text())["job_id"]
    return [task for of_job, task in signed_tasks(provenance) if of_job == job]


def assert_only_the_rest_was_computed(run, out, done_before, expected):
    assert run.code == 0, run.told()
    summary = run.json
    assert summary["items"] == ITEMS
    assert summary["accepted"] == summary["tasks"] == TASKS
    computed = computed_tasks(out.with_name("out.npz.provenance.json"))
    assert 0 < len(computed) <= TASKS - done_before, "something was computed twice, or nothing at all"
    assert_same(out, expected, atol=SLOW_ATOL)


def start(swarm, volunteer, slow_job, out, *flags):
    model, inputs, _ = slow_job
    return swarm.start(
        "me", "run", model, inputs, "-o", out, "--batch", str(BATCH), "--bootstrap", volunteer.address, "--json",
        *flags, terminal=True,
    )  # fmt: skip


def test_ctrl_c_ends_a_run_cleanly_and_the_command_that_it_prints_does_only_the_rest(
    swarm, volunteer, slow_job, tmp_path
):
    out = tmp_path / "out.npz"
    run = start(swarm, volunteer, slow_job, out)
    run.wait_progress(0.3)
    done_items, _ = run.progress
    run.send(signal.SIGINT)
    assert run.wait(60) == 130, run.told()
    assert not out.exists()
    said = run.stderr.replace("\r", "\n").splitlines()
    assert "Traceback" not in run.stderr
    (last,) = [line for line in said if "interrupted" in line]
    assert f"of {ITEMS} items were done and are kept" in last
    command = shlex.split(last.partition("To go on: ")[2].replace("\x1b[K", ""))
    assert command[0] == "peerinfer"
    assert command[-1] == "--resume"
    assert run.json["state"] == "cancelled"
    assert_only_the_rest_was_computed(swarm.run("me", *command[1:]), out, done_items // BATCH, slow_job[2])


def test_a_run_that_was_killed_goes_on_where_it_was(swarm, volunteer, slow_job, tmp_path):
    out = tmp_path / "out.npz"
    run = start(swarm, volunteer, slow_job, out)
    run.wait_progress(0.3)
    done_items, _ = run.progress
    run.kill()
    again = start(swarm, volunteer, slow_job, out, "--resume")
    again.wait()
    assert_only_the_rest_was_computed(again, out, done_items // BATCH, slow_job[2])
    # Once more: nothing is left to be computed.
    third = start(swarm, volunteer, slow_job, out, "--resume")
    assert third.wait() == 0, third.told()
    provenance = tmp_path / "out.npz.provenance.json"
    assert computed_tasks(provenance) == []
    signed = signed_tasks(provenance)
    assert {task for _, task in signed} == set(range(TASKS)), "some result that was taken over has lost its receipt"
    assert len({job for job, _ in signed}) == 2
    assert_same(out, slow_job[2], atol=SLOW_ATOL)


def test_the_second_ctrl_c_stops_at_once(swarm, volunteer, slow_job, tmp_path):
    run = start(swarm, volunteer, slow_job, tmp_path / "out.npz")
    run.wait_progress(0.1)
    run.send(signal.SIGINT)
    run.send(signal.SIGINT)
    assert run.wait(30) == 130, run.told()
    assert not (tmp_path / "out.npz").exists()


def test_a_daemon_killed_while_it_coordinates_goes_on_with_the_job_when_it_is_back(
    swarm, volunteer, slow_job, tmp_path
):
    model, inputs, expected = slow_job
    out = tmp_path / "out.npz"
    daemon = swarm.join("me", bootstrap=volunteer)
    run = swarm.start("me", "run", model, inputs, "-o", out, "--batch", str(BATCH))
    job = wait_for(lambda: daemon.ask("GET", "/jobs"))[0]["job_id"]
    done = daemon.wait_job(job, 0.3)["accepted"]
    daemon.kill()
    assert run.wait(60) == 1, run.told()
    (line,) = [line for line in run.stderr.splitlines() if "error" in line]
    assert line.startswith("peerinfer: error: the daemon ended; the job goes on when it is started again")
    assert f"peerinfer jobs attach {job}" in line
    assert not out.exists()
    again = swarm.join("me", bootstrap=volunteer)
    assert again.peer_id == daemon.peer_id
    attached = swarm.run("me", "jobs", "attach", job, "--json")
    assert attached.code == 0, attached.told()
    assert (attached.json["state"], attached.json["accepted"], attached.json["tasks"]) == ("done", TASKS, TASKS)
    fetched = swarm.run("me", "jobs", "fetch", job, "-o", out)
    assert fetched.code == 0, fetched.told()
    assert_same(out, expected, atol=SLOW_ATOL)
    computed = computed_tasks(tmp_path / "out.npz.provenance.json")
    assert len(set(computed)) == TASKS
    assert len(computed) < 2 * TASKS - done, "what was done before the kill was done again"


def test_a_run_that_is_killed_leaves_the_job_to_the_daemon(swarm, volunteer, slow_job, tmp_path):
    model, inputs, expected = slow_job
    daemon = swarm.join("me", bootstrap=volunteer)
    run = swarm.start("me", "run", model, inputs, "-o", tmp_path / "out.npz", "--batch", str(BATCH))
    job = wait_for(lambda: daemon.ask("GET", "/jobs"))[0]["job_id"]
    daemon.wait_job(job, 0.1)
    run.kill()
    attached = swarm.run("me", "jobs", "attach", job)
    assert attached.code == 0, attached.told()
    assert swarm.run("me", "jobs", "fetch", job, "-o", tmp_path / "out.npz").code == 0
    assert_same(tmp_path / "out.npz", expected, atol=SLOW_ATOL)


def test_ctrl_c_on_attach_lets_the_job_go_on(swarm, volunteer, slow_job):
    model, inputs, _ = slow_job
    daemon = swarm.join("me", bootstrap=volunteer)
    for each in (daemon, volunteer):  # so that the job is not done before anybody is attached to it
        each.ask("POST", "/node/pause")
    job = daemon.submit(model, inputs, batch=BATCH)
    attached = swarm.start("me", "jobs", "attach", job, terminal=True)
    attached.wait_progress(0.0)
    attached.send(signal.SIGINT)
    assert attached.wait(30) == 130, attached.told()
    assert f"job {job} goes on" in attached.stderr
    assert daemon.job(job)["state"] == "running"
    for each in (daemon, volunteer):
        each.ask("POST", "/node/resume")
    daemon.wait_job(job, 0.1)
