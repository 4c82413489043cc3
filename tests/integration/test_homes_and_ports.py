"""What a node needs for itself: a home that nobody else uses, files it can read, a port that is free."""

import socket
import stat

import models
import numpy as np
import pytest
from job_files import assert_same, direct, write_model, write_npz

pytestmark = pytest.mark.slow

ROWS = np.random.default_rng(0).standard_normal((50, 64)).astype(np.float32)


def the_line(process, code=1):
    """What it ended with."""
    assert process.wait(30) == code, process.told()
    (line,) = process.stderr.splitlines()
    assert line.startswith("peerinfer: error: "), line
    return line


@pytest.fixture
def job(tmp_path):
    model = write_model(tmp_path / "mlp.onnx", models.mlp())
    return model, write_npz(tmp_path / "in.npz", x=ROWS)


def test_the_second_node_of_a_home_says_who_uses_it(swarm, job, tmp_path):
    first = swarm.join("me")
    line = the_line(swarm.join("me", wait=False))
    assert f"(pid {first.pid})" in line
    assert str(swarm.home("me")) in line
    assert "PEERINFER_HOME" in line
    # A job without the daemon still runs, in a home of its own.
    run = swarm.run("me", "run", *job, "-o", tmp_path / "out.npz", "--standalone", "--json")
    assert run.code == 0, run.told()
    assert run.json["coordinator"] != first.peer_id
    assert_same(tmp_path / "out.npz", direct(models.mlp(), x=ROWS))
    assert [path.name for path in swarm.home("me").glob("embedded-*")] == []
    assert first.ask("GET", "/node")["state"] == "running"


def test_the_home_of_a_node_that_was_killed_is_free_again(swarm):
    killed = swarm.join("me")
    killed.kill()
    again = swarm.join("me")
    assert again.peer_id == killed.peer_id
    assert swarm.run("me", "status", "--json").json["pid"] == again.pid


def test_a_port_that_is_taken_is_said(swarm):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = the_line(swarm.join("me", listen=f"/ip4/127.0.0.1/tcp/{port}", wait=False))
    assert f"port {port}" in line
    swarm.join("me", listen=f"/ip4/127.0.0.1/tcp/{port}").stop()


def test_a_corrupt_state_is_moved_aside_and_said(swarm, job, tmp_path):
    swarm.join("me").stop()
    state = swarm.home("me") / "state.db"
    content = bytearray(state.read_bytes())
    content[:64] = b"x" * 64
    state.write_bytes(content)
    again = swarm.join("me")
    warnings = [event["event"] for event in again.events() if event["level"] == "warning"]
    assert any("state.db" in warning and "moved to" in warning for warning in warnings), again.told()
    (aside,) = [path for path in swarm.home("me").glob("state.db.corrupt-*") if path.is_file()] or [
        path / "state.db" for path in swarm.home("me").glob("state.db.corrupt-*")
    ]
    assert aside.read_bytes()[:64] == b"x" * 64
    run = swarm.run("me", "run", *job, "-o", tmp_path / "out.npz")
    assert run.code == 0, run.told()


def test_a_run_says_too_that_a_corrupt_state_was_moved_aside(swarm, job, tmp_path):
    swarm.home("me").mkdir()
    (swarm.home("me") / "state.db").write_bytes(b"this is no database" * 1000)
    run = swarm.run("me", "run", *job, "-o", tmp_path / "out.npz", "--standalone")
    assert run.code == 0, run.told()
    assert "moved to" in run.stderr


def test_an_identity_that_others_can_read_is_refused(swarm):
    swarm.join("me").stop()
    key = swarm.home("me") / "identity.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.chmod(0o644)
    line = the_line(swarm.join("me", wait=False))
    assert f"chmod 600 {key}" in line
    key.chmod(0o600)
    swarm.join("me").stop()


def test_an_identity_that_is_no_key_is_refused_and_left_alone(swarm):
    swarm.home("me").mkdir()
    key = swarm.home("me") / "identity.key"
    key.touch(mode=0o600)
    key.write_text("no key")
    assert "holds no Ed25519 private key" in the_line(swarm.join("me", wait=False))
    assert key.read_text() == "no key"


def test_a_home_that_is_a_file_or_nowhere_is_said(swarm):
    swarm.home("me").write_text("a file")
    assert str(swarm.home("me")) in the_line(swarm.join("me", wait=False))
    assert "/proc/nowhere" in the_line(swarm.join("other", "--data-dir", "/proc/nowhere", wait=False))


def test_commands_without_a_daemon_say_how_to_start_one(swarm):
    for command in (["status"], ["peers", "--json"], ["jobs"], ["jobs", "show", "abcdef"], ["pause"], ["leave"]):
        assert "peerinfer join" in the_line(swarm.run("me", *command), code=7)


def test_only_the_owner_may_use_the_control_socket(swarm):
    daemon = swarm.join("me")
    assert stat.S_IMODE((swarm.home("me") / "peerinfer.sock").stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE(swarm.home("me").stat().st_mode) == 0o700
    assert daemon.stop() == 0
    assert not (swarm.home("me") / "peerinfer.sock").exists()


def test_a_daemon_that_is_asked_to_stop_while_it_starts_stops(swarm):
    daemon = swarm.join("me", wait=False)
    assert daemon.stop() in (0, 130, -15)
