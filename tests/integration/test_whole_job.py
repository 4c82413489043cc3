"""The main job from end to end, over real processes: a researcher, volunteers, and what comes back."""

import json

import models
import numpy as np
import pytest
from job_files import assert_adds_up, assert_same, direct, write_crops, write_model, write_npz
from swarm import wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def volunteers(shared):
    first = shared.join("ada")
    return first, shared.join("bob", bootstrap=first)


@pytest.fixture(scope="module")
def digits_files(tmp_path_factory):
    """Model, inputs, and what should come out."""
    folder = tmp_path_factory.mktemp("digits")
    pixels, _ = models.digits_data()
    model = write_model(folder / "digits.onnx", models.digits())
    return model, write_npz(folder / "digits.npz", x=pixels), direct(models.digits(), x=pixels)


def test_three_processes_run_a_real_image_model_over_a_thousand_photographs(shared, volunteers, tmp_path):
    seen = write_crops(tmp_path / "crops", 1000)
    model = write_model(tmp_path / "orientation.onnx", models.orientation())
    out = tmp_path / "out.npz"
    ada, bob = volunteers
    run = shared.start(
        "researcher", "run", model, tmp_path / "crops", "-o", out, "--json",
        "--bootstrap", ada.address, "--bootstrap", bob.address,
    )  # fmt: skip
    expected = direct(models.orientation(), x=seen)
    assert run.wait() == 0, run.told()
    summary = run.json
    assert summary["state"] == "done"
    assert_adds_up(summary, items=1000)
    assert {peer["peer_id"] for peer in summary["peers"]} == {ada.peer_id, bob.peer_id}
    assert summary["verified"] > 0
    assert summary["items_per_second"] == pytest.approx(1000 / summary["seconds"], rel=0.01)
    assert summary["output"] == str(out)
    assert_same(out, expected)
    provenance = json.loads((tmp_path / "out.npz.provenance.json").read_text())
    assert provenance["job_id"] == summary["job_id"]
    assert provenance["inputs"]["items"] == 1000
    assert {receipt["peer"] for receipt in provenance["receipts"]} == {ada.peer_id, bob.peer_id}
    assert len(run.stdout.splitlines()) == 1, "data alone goes to stdout"


def test_a_folder_of_images_gives_a_folder_with_a_file_of_the_same_name_for_each(shared, volunteers, tmp_path):
    seen = write_crops(tmp_path / "crops", 12)
    model = write_model(tmp_path / "orientation.onnx", models.orientation())
    run = shared.run(
        "researcher", "run", model, tmp_path / "crops", "-o", f"{tmp_path}/answers/",
        "--bootstrap", volunteers[0].address,
    )  # fmt: skip
    assert run.code == 0, run.told()
    written = sorted(path.name for path in (tmp_path / "answers").iterdir())
    assert [name.partition(".")[0] for name in written] == [f"{number:04}" for number in range(12)]
    (name,) = direct(models.orientation(), x=seen[:1])
    with np.load(tmp_path / "answers" / written[7]) as found:
        np.testing.assert_allclose(
            found[name].ravel(), direct(models.orientation(), x=seen[7:8])[name].ravel(), rtol=1e-4, atol=1e-5
        )


def test_peers_on_one_network_find_each_other_without_an_address(swarm, digits_files, tmp_path):
    model, inputs, expected = digits_files
    volunteer = swarm.join("ada", mdns=True, listen="/ip4/0.0.0.0/tcp/0")
    run = swarm.run("me", "run", model, inputs, "-o", tmp_path / "out.npz", "--json", PEERINFER_MDNS="true")
    assert run.code == 0, run.told()
    assert volunteer.peer_id in {peer["peer_id"] for peer in run.json["peers"]}
    assert_same(tmp_path / "out.npz", expected)


def test_a_job_goes_through_the_daemon_of_this_home_where_there_is_one(shared, volunteers, digits_files, tmp_path):
    model, inputs, expected = digits_files
    ada, _ = volunteers
    run = shared.run("ada", "run", model, inputs, "-o", tmp_path / "out.npz", "--json")
    assert run.code == 0, run.told()
    assert run.json["coordinator"] == ada.peer_id
    assert_adds_up(run.json, items=len(expected["y"]))
    assert_same(tmp_path / "out.npz", expected)
    listed = shared.run("ada", "jobs", "--json").json
    assert run.json["job_id"] in [job["job_id"] for job in listed]


def test_jobs_are_shown_followed_fetched_and_cancelled_by_the_first_characters_of_their_id(
    shared, volunteers, digits_files, tmp_path
):
    model, inputs, expected = digits_files
    ada, _ = volunteers
    job = ada.submit(model, inputs)
    attached = shared.run("ada", "jobs", "attach", job[:8], "--json")
    assert attached.code == 0, attached.told()
    assert (attached.json["state"], attached.json["job_id"]) == ("done", job)
    shown = shared.run("ada", "jobs", "show", job[:8], "--json").json
    assert shown["final"] == shown["accepted"] == shown["tasks"]
    assert (shown["items"], shown["failed"], shown["coordinator"]) == (len(expected["y"]), [], ada.peer_id)
    fetched = shared.run("ada", "jobs", "fetch", job, "-o", tmp_path / "fetched.npz")
    assert fetched.code == 0, fetched.told()
    assert_same(tmp_path / "fetched.npz", expected)
    unknown = shared.run("ada", "jobs", "show", "ffffffff")
    assert unknown.code == 2
    assert unknown.stderr.startswith("peerinfer: error: there is no job 'ffffffff'")


def test_a_cancelled_job_stops_at_once_and_keeps_what_is_done(shared, volunteers, tmp_path):
    slow = write_model(tmp_path / "slow.onnx", models.slow(10))
    inputs = write_npz(tmp_path / "in.npz", x=np.ones((4000, 1), np.float32))
    ada, _ = volunteers
    job = ada.submit(slow, inputs, batch=2)
    ada.wait_job(job, 0.001)
    cancelled = shared.run("ada", "jobs", "cancel", job, "--json")
    assert cancelled.code == 0, cancelled.told()
    assert cancelled.json["state"] == "cancelled"
    assert 0 < cancelled.json["accepted"] < cancelled.json["tasks"]
    again = shared.run("ada", "jobs", "cancel", job)
    assert again.code == 2
    assert "has ended already" in again.stderr
    unfetched = shared.run("ada", "jobs", "fetch", job, "-o", tmp_path / "out.npz")
    assert unfetched.code == 1
    assert not (tmp_path / "out.npz").exists()
    wait_for(lambda: ada.ask("GET", "/devices")[0]["state"] == "running", saying="the device to be free again")


def test_what_a_node_sees_is_one_json_document_each(shared, volunteers):
    ada, bob = volunteers
    status = shared.run("bob", "status", "--json").json
    assert (status["peer_id"], status["name"], status["state"]) == (bob.peer_id, "bob", "running")
    assert status["addresses"] == [bob.address]
    assert status["pid"] == bob.pid
    peers = shared.run("bob", "peers", "--json").json
    assert [peer["name"] for peer in peers if peer["peer_id"] == ada.peer_id] == ["ada"]
    (device,) = shared.run("bob", "devices", "--json").json
    assert device["kind"] == "cpu"
    assert device["benchmark"]["gemm_gflops"] > 0
    assert isinstance(shared.run("bob", "models", "--json").json, list)
