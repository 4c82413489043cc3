"""Every bad model, input and output through the real command: its exit code, and one line that says what to do."""

import os
import struct
import subprocess
from contextlib import contextmanager

import models
import numpy as np
import pytest
from job_files import assert_same, direct, write_model, write_npz
from onnx import TensorProto, helper
from PIL import Image
from swarm import wait_for

from peerinfer_node.cli import main

pytestmark = pytest.mark.slow

GOOD = np.ones((3, 64), np.float32)


@pytest.fixture(scope="module")
def me(shared):
    return shared.join("me")


@pytest.fixture
def refused(shared, me, tmp_path, monkeypatch, capsys):
    """Runs a job through the daemon, and gives the one line of its end. Nothing may be left at the output.

    The command starts in this process where a process of its own would only cost the time that it takes to start.
    """
    monkeypatch.setenv("PEERINFER_HOME", str(shared.home("me")))

    def run(model, *inputs, code=3, out="out.npz", as_process=False):
        before = len(me.ask("GET", "/jobs"))
        path = write_model(tmp_path / "model.onnx", model) if isinstance(model, bytes) else model
        output = tmp_path / out
        words = ["run", path, *inputs, "-o", output]
        if as_process:
            run = shared.run("me", *words)
            ended, stdout, stderr = run.code, run.stdout, run.stderr
        else:
            capsys.readouterr()
            ended = main([str(word) for word in words])
            stdout, stderr = capsys.readouterr()
        assert ended == code, stderr
        (line,) = [line for line in stderr.splitlines() if line.startswith("peerinfer")]
        assert line.startswith("peerinfer: error: ")
        assert line == stderr.splitlines()[-1]
        assert stdout == ""
        assert not output.is_file()
        assert len(me.ask("GET", "/jobs")) == before, "it was accepted as a job"
        return line

    return run


# --- models --------------------------------------------------------------------------------------------------------


def external_data():
    """A model whose weights lie in another file."""
    made = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[64, 10], data_location=TensorProto.EXTERNAL)
    made.external_data.add(key="location", value="weights.bin")
    return models.model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [models.port("x", TensorProto.FLOAT, ["n", 64])],
        [models.port("y", TensorProto.FLOAT, ["n", 10])],
        [made],
    )


def with_operator(operator, domain=""):
    return models.model(
        [helper.make_node(operator, ["x"], ["y"], domain=domain)],
        [models.port("x", TensorProto.FLOAT, ["n", 64])],
        [models.port("y", TensorProto.FLOAT, ["n", 64])],
        domains=[domain] if domain else [],
    )


BAD_MODELS = {
    "text": (b"this is no model\n" * 100, "ONNX"),
    "empty": (b"", "is empty; give an ONNX file"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(1000), "ONNX"),
    "truncated": (models.mlp()[: len(models.mlp()) // 2], "ONNX"),
    "truncated at a large tensor": (models.orientation()[:3_000_000], "ONNX"),
    "external data": (external_data(), "another file"),
    "unknown operator": (with_operator("NoSuchOperator"), "NoSuchOperator"),
    "unknown domain": (with_operator("Relu", "com.example"), "com.example"),
    "endless loop": (models.looping(2**62), "Loop"),
}


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_a_bad_model_is_refused_before_anything_is_sent(kind, refused, tmp_path):
    model, said = BAD_MODELS[kind]
    line = refused(model, write_npz(tmp_path / "in.npz", x=GOOD), as_process=True)
    assert said in line
    assert ".onnx" in line, "it does not say which file"


def test_a_model_that_is_not_there_or_is_a_folder_is_said(refused, tmp_path):
    inputs = write_npz(tmp_path / "in.npz", x=GOOD)
    assert "none.onnx" in refused(tmp_path / "none.onnx", inputs)
    assert str(tmp_path) in refused(tmp_path, inputs)


# --- inputs --------------------------------------------------------------------------------------------------------


BAD_ARRAYS = {
    "missing": (models.two_inputs(), {"a": np.ones((3, 3), "f4"), "scale": np.float32(1)}, ["missing", "'b'"]),
    "extra": (models.mlp(), {"x": GOOD, "z": GOOD}, ["extra", "'z'"]),
    "another name": (models.mlp(), {"y": GOOD}, ["'x'", "float32[?, 64]"]),
    "wrong dtype": (models.mlp(), {"x": GOOD.astype("i8")}, ["'x'", "float32[?, 64]", "int64[3, 64]", "astype"]),
    "text": (models.mlp(), {"x": np.full((3, 64), "one")}, ["'x'", "float32[?, 64]"]),
    "wrong rank": (models.mlp(), {"x": GOOD[0]}, ["'x'", "float32[?, 64]", "float32[64]"]),
    "fixed dimension": (models.mlp(), {"x": GOOD[:, :63]}, ["'x'", "float32[?, 64]", "float32[3, 63]", "axis 1"]),
    "no items": (models.mlp(), {"x": GOOD[:0]}, ["'x'", "no items"]),
    "an empty axis": (
        models.identity(shape=("n", "m")), {"x": np.ones((3, 0), "f4")}, ["'x'", "float32[3, 0]", "axis 1"],
    ),
    "not as many": (
        models.two_inputs(),
        {"a": np.ones((3, 3), "f4"), "b": np.ones((4, 3), "f4"), "scale": np.float32(1)},
        ["'b'", "3 items", "4"],
    ),
    "nothing": (models.mlp(), {}, ["in.npz holds no arrays"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_ARRAYS)
def test_inputs_that_do_not_fit_are_refused_by_name_with_what_was_expected_and_given(kind, refused, tmp_path):
    model, arrays, said = BAD_ARRAYS[kind]
    line = refused(model, write_npz(tmp_path / "in.npz", **arrays))
    assert all(part in line for part in said), line


TEN_GB = 10_000_000_000
TEN_GB_TENSOR = b'{"x":{"dtype":"F32","shape":[39062500,64],"data_offsets":[0,%d]}}' % TEN_GB


def npy_header(shape):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()


BAD_FILES = {
    "npy that claims 10 GB": ("in.npy", npy_header((TEN_GB // 256, 64)) + bytes(512)),
    "npy that claims more than there are bytes in the world": ("in.npy", npy_header((2**62, 64)) + bytes(512)),
    "safetensors with a header of 10 GB": ("in.safetensors", struct.pack("<Q", TEN_GB) + b"{}"),
    "safetensors that claims 10 GB": ("in.safetensors", struct.pack("<Q", len(TEN_GB_TENSOR)) + TEN_GB_TENSOR),
    "npz that is no archive": ("in.npz", b"PK\x03\x04" + bytes(100)),
    "truncated parquet": ("in.parquet", b"PAR1" + bytes(100)),
    "jsonl that is no JSON": ("in.jsonl", b'{"x": [1, 2'),
    "an empty file": ("in.npy", b""),
    "an unknown kind": ("in.xyz", b"123"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_file_that_claims_what_it_does_not_hold_is_refused_by_name(kind, refused, tmp_path):
    name, content = BAD_FILES[kind]
    (tmp_path / name).write_bytes(content)
    assert name in refused(models.mlp(), tmp_path / name)


def test_an_npz_whose_member_claims_10_gb_is_refused(refused, tmp_path):
    path = tmp_path / "in.npz"
    np.savez_compressed(path, x=np.zeros((4, 64), np.float32))
    content = bytearray(path.read_bytes())
    central = content.rindex(b"PK\x01\x02")
    struct.pack_into("<I", content, central + 24, 0xFFFFFFF0)
    path.write_bytes(content)
    assert "in.npz" in refused(models.mlp(), path)


def test_pictures_that_cannot_be_read_are_refused_by_name(refused, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    model = models.identity(shape=("n", 3, 8, 8))
    assert "pictures" in refused(model, folder)
    Image.new("RGB", (8, 8)).save(folder / "good.png")
    (folder / "bad.png").write_bytes((folder / "good.png").read_bytes()[:40])
    assert "bad.png" in refused(model, folder)


def test_inputs_that_are_not_there_are_said(refused, tmp_path):
    assert "nowhere.npz" in refused(models.mlp(), tmp_path / "nowhere.npz")


def test_nan_and_infinity_run_with_a_warning(shared, me, tmp_path):
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    rows[1, 2], rows[2, 0] = np.nan, np.inf
    model = write_model(tmp_path / "same.onnx", models.identity())
    run = shared.run("me", "run", model, write_npz(tmp_path / "in.npz", x=rows), "-o", tmp_path / "out.npz")
    assert run.code == 0, run.told()
    (warning,) = [line for line in run.stderr.splitlines() if line.startswith("warning: ")]
    assert "'x'" in warning
    assert_same(tmp_path / "out.npz", {"y": rows})


# --- outputs -------------------------------------------------------------------------------------------------------


def test_an_output_that_cannot_be_written_is_said_before_anything_is_computed(refused, tmp_path):
    inputs = write_npz(tmp_path / "in.npz", x=GOOD)
    (tmp_path / "file").write_bytes(b"")
    for out in ("missing/out.npz", "file/out.npz", "/proc/out.npz", "/dev/full/out.npz"):
        assert out.rpartition("/")[0] in refused(models.mlp(), inputs, out=out)
    (tmp_path / "taken.npz").mkdir()
    assert "taken.npz is a folder" in refused(models.mlp(), inputs, out="taken.npz", code=2)
    assert ".npz, .parquet, .jsonl" in refused(models.mlp(), inputs, out="out.xyz", code=2)


@contextmanager
def small_disk(path, size):
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", path],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@pytest.mark.parametrize(
    ("name", "size"), [("out.npz", "128k"), ("out.parquet", "128k"), ("out.jsonl", "1m"), ("answers/", "1m")]
)
def test_a_disk_that_fills_up_while_the_output_is_written_leaves_no_half_of_it(name, size, shared, me, tmp_path):
    """The larger disk has room for the numbers, so that it is full in the middle of the text or of the files."""
    model = write_model(tmp_path / "same.onnx", models.identity())
    rows = np.random.default_rng(0).standard_normal((20_000, 4)).astype(np.float32)
    inputs = write_npz(tmp_path / "in.npz", x=rows)
    with small_disk(tmp_path / "small", size) as disk:
        run = shared.run("me", "run", model, inputs, "-o", f"{disk}/{name}")
        assert run.code == 1, run.told()
        (line,) = [line for line in run.stderr.splitlines() if "error" in line]
        assert line.startswith("peerinfer: error: ")
        assert "the disk is full" in line or "No space left on device" in line
        assert os.listdir(disk) == []
        job = me.ask("GET", "/jobs")[0]["job_id"]
    # The results are not lost with it.
    fetched = shared.run("me", "jobs", "fetch", job, "-o", tmp_path / "out.npz")
    assert fetched.code == 0, fetched.told()
    assert_same(tmp_path / "out.npz", {"y": rows})


def test_a_disk_that_fills_up_under_the_nodes_own_files_ends_the_job_and_not_the_node(swarm, tmp_path):
    model = write_model(tmp_path / "same.onnx", models.identity())
    rows = np.random.default_rng(0).standard_normal((400_000, 4)).astype(np.float32)
    inputs = write_npz(tmp_path / "in.npz", x=rows)
    small = write_npz(tmp_path / "small.npz", x=rows[:10])
    with small_disk(swarm.home("me"), "4m"):
        daemon = swarm.join("me")
        run = swarm.run("me", "run", model, inputs, "-o", tmp_path / "out.npz")
        assert run.code == 1, run.told()
        (line,) = [line for line in run.stderr.splitlines() if "error" in line]
        assert line.startswith("peerinfer: error: ")
        # Whatever was to be written first: results, the job's state, or what the elector promised.
        assert f"the disk that holds {daemon.home}/" in line
        assert "is full; free some space" in line
        assert not (tmp_path / "out.npz").exists()
        assert daemon.ask("GET", "/jobs")[0]["state"] == "failed"
        assert daemon.ask("GET", "/node")["state"] == "running"
        # What little room is left may hold the small job and its seat, or may not; that is said, and waited for by nobody.
        again = swarm.run("me", "run", model, small, "-o", tmp_path / "out.npz")
        if again.code != 0:
            assert again.code == 1, again.told() + daemon.told()
            assert "is full; free some space" in again.stderr, again.told() + daemon.told()
        assert daemon.ask("GET", "/node")["state"] == "running"
        daemon.stop()


# --- jobs that cannot be done, wholly or at all --------------------------------------------------------------------


def test_items_that_fail_for_good_fail_alone_and_the_rest_is_written(shared, me, tmp_path):
    rows = np.arange(20, dtype=np.int64).reshape(20, 1) % 10
    rows[3], rows[7] = 11, -99
    model = write_model(tmp_path / "table.onnx", models.poisonable())
    inputs = write_npz(tmp_path / "in.npz", x=rows)
    run = shared.run("me", "run", model, inputs, "-o", tmp_path / "out.npz", "--batch", "1", "--retries", "1", "--json")
    assert run.code == 5, run.told()
    (line,) = [line for line in run.stderr.splitlines() if "error" in line]
    assert line.startswith("peerinfer: error: 2 ")
    assert "3, 7" in line
    assert "indices element out of data bounds" in line
    summary = run.json
    assert (summary["state"], summary["failed"], summary["failed_items"]) == ("done", 2, [3, 7])
    assert summary["accepted"] == 18
    assert summary["retried"] >= 2
    with np.load(tmp_path / "out.npz") as found:
        assert np.flatnonzero(found["__failed__"]).tolist() == [3, 7]
        assert np.isnan(found["y"][[3, 7]]).all()
        good = np.delete(np.arange(20), [3, 7])
        np.testing.assert_array_equal(found["y"][good], direct(models.poisonable(), x=rows[good])["y"])


def test_a_job_whose_every_item_fails_fails(shared, me, tmp_path):
    model = write_model(tmp_path / "table.onnx", models.poisonable())
    inputs = write_npz(tmp_path / "in.npz", x=np.full((4, 1), 99, np.int64))
    run = shared.run("me", "run", model, inputs, "-o", tmp_path / "out.npz", "--batch", "1", "--retries", "0")
    assert run.code == 1, run.told()
    (line,) = [line for line in run.stderr.splitlines() if "error" in line]
    assert line.startswith("peerinfer: error: all 4 tasks failed: ")
    assert not (tmp_path / "out.npz").exists()


def test_without_a_suitable_peer_the_job_ends_and_says_what_ruled_out_how_many(shared, me, tmp_path):
    model = write_model(tmp_path / "mlp.onnx", models.mlp())
    inputs = write_npz(tmp_path / "in.npz", x=GOOD)

    def start(*flags, home="researcher", within="2s"):
        return shared.start(home, "run", model, inputs, "-o", tmp_path / "out.npz", "--timeout", within, *flags)

    def why(run):
        assert run.wait() == 4, run.told()
        (line,) = [line for line in run.stderr.splitlines() if "error" in line]
        said, _, reason = line.partition(" s: ")
        assert said.startswith("peerinfer: error: no suitable peer within ")
        assert not (tmp_path / "out.npz").exists()
        return reason

    asked = [
        # It has to hear first what its peer lends.
        start("--bootstrap", me.address, "--device-kind", "gpu", within="20s"),
        start("--device-kind", "gpu", home="me"),
        start("--min-vram", "1TiB", home="me"),
        start(home="newcomer"),
    ]
    assert [why(run) for run in asked] == [
        "1 peer: has no GPU to lend",
        "1 peer: has no GPU to lend",
        "1 peer: has too little device memory",
        "no peer that lends a device is connected",
    ]
    assert shared.run("me", "pause").code == 0
    try:
        assert "paused by its owner" in why(start(home="me"))
    finally:
        assert shared.run("me", "resume").code == 0


def test_a_bootstrap_peer_that_is_not_there_is_no_suitable_peer(shared, me, tmp_path):
    model = write_model(tmp_path / "mlp.onnx", models.mlp())
    inputs = write_npz(tmp_path / "in.npz", x=GOOD)
    nobody = f"/ip4/127.0.0.1/tcp/1/p2p/{me.peer_id}"
    run = shared.run(
        "stranger", "run", model, inputs, "-o", tmp_path / "out.npz", "--timeout", "1s", "--bootstrap", nobody
    )
    assert run.code == 4, run.told()
    wait_for(lambda: me.ask("GET", "/node")["state"] == "running")
