from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from peerinfer.errors import HomeInUse, StateUnusable, UsageError
from peerinfer_node.home import SOCKET_PATH_BYTES_MAX, Home

XDG = {
    "HOME": "/home/ada",
    "XDG_CONFIG_HOME": "/c",
    "XDG_DATA_HOME": "/d",
    "XDG_CACHE_HOME": "/k",
    "XDG_STATE_HOME": "/s",
    "XDG_RUNTIME_DIR": "/run/user/7",
}


def test_files_live_where_the_xdg_variables_say() -> None:
    home = Home.resolve(XDG)
    assert str(home.config_file) == "/c/peerinfer/config.toml"
    assert str(home.identity_key) == "/d/peerinfer/identity.key"
    assert str(home.state_db) == "/d/peerinfer/state.db"
    assert str(home.jobs) == "/d/peerinfer/jobs"
    assert str(home.blobs) == "/k/peerinfer/blobs"
    assert str(home.logs) == "/s/peerinfer/logs"
    assert str(home.socket) == "/run/user/7/peerinfer.sock"


@pytest.mark.parametrize("bad", ["", "relative/path"])
def test_unset_and_relative_xdg_variables_give_the_defaults(bad: str) -> None:
    home = Home.resolve(dict.fromkeys(XDG, bad) | {"HOME": "/home/ada"})
    assert str(home.config_file) == "/home/ada/.config/peerinfer/config.toml"
    assert str(home.data) == "/home/ada/.local/share/peerinfer"
    assert str(home.cache) == "/home/ada/.cache/peerinfer"
    assert str(home.state) == "/home/ada/.local/state/peerinfer"
    assert str(home.socket) == "/home/ada/.local/state/peerinfer/peerinfer.sock"


def test_peerinfer_home_puts_all_under_one_folder_and_the_data_dir_goes_before_it() -> None:
    environ = XDG | {"PEERINFER_HOME": "/one"}
    for home, root in ((Home.resolve(environ), "/one"), (Home.resolve(environ, "/two"), "/two")):
        for path in (home.config_file, home.data, home.cache, home.state, home.socket, home.blobs, home.logs):
            assert str(path) == root or str(path).startswith(root + "/")
    assert Home.resolve(XDG | {"PEERINFER_HOME": "~/p"}).data == Path("/home/ada/p")
    assert Home.resolve(XDG | {"PEERINFER_HOME": ""}) == Home.resolve(XDG)
    assert Home.resolve(XDG, "here").data == Path.cwd() / "here"


@pytest.mark.parametrize("name", ["", " ", "a\0b"])
def test_an_unusable_data_dir_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError):
        Home.resolve(XDG, name)


def test_a_long_path_gives_a_short_socket_that_is_found_again(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    environ = {"HOME": "/home/ada", "PEERINFER_HOME": str(deep), "TMPDIR": str(tmp_path / "t")}
    found = Home.resolve(environ).socket
    assert len(os.fsencode(found)) <= SOCKET_PATH_BYTES_MAX
    assert found == Home.resolve({**environ, "PEERINFER_HOME": f"{deep}/../{deep.name}"}).socket
    assert found != Home.resolve({**environ, "PEERINFER_HOME": str(deep) + "y"}).socket
    with_runtime = Home.resolve({**environ, "XDG_RUNTIME_DIR": "/run/user/7"}).socket
    assert with_runtime.parent == Path("/run/user/7")
    assert with_runtime.name == f"peerinfer-{found.stem}.sock"


def test_every_socket_path_can_be_bound(tmp_path: Path) -> None:
    root = str(tmp_path / "h")
    for length in range(len(root) + 1, len(root) + 130, 7):
        environ = {"HOME": "/x", "PEERINFER_HOME": root.ljust(length, "h"), "TMPDIR": str(tmp_path / "t")}
        home = Home.resolve(environ)
        home.prepare()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(home.socket))
        home.socket.unlink()


def test_folders_are_made_for_their_owner_only(tmp_path: Path) -> None:
    home = Home.resolve({"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)})
    before = os.umask(0)
    try:
        home.prepare()
        home.prepare()
    finally:
        os.umask(before)
    folders = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert {home.data, home.jobs, home.blobs, home.logs, home.config_file.parent} <= set(folders)
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Home.resolve({}, tmp_path).prepare()
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_a_data_folder_that_everybody_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(StateUnusable, match="chmod o-w"):
        Home.resolve({}, tmp_path).prepare()


def test_a_file_in_the_way_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateUnusable, match="PEERINFER_HOME") as caught:
        Home.resolve({}, tmp_path / "file" / "home").prepare()
    assert "\n" not in str(caught.value)


def test_a_socket_folder_that_somebody_else_could_have_made_is_refused(tmp_path: Path) -> None:
    home = Home.resolve({"TMPDIR": str(tmp_path)}, tmp_path / ("x" * 100))
    assert home.socket.parent.parent == tmp_path
    home.prepare()
    home.socket.parent.chmod(0o755)
    with pytest.raises(StateUnusable, match="not private"):
        home.prepare()
    home.socket.parent.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    home.socket.parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateUnusable, match="not private"):
        home.prepare()


def test_a_second_node_on_the_same_home_is_told_who_holds_it(tmp_path: Path) -> None:
    home = Home.resolve({}, tmp_path)
    home.prepare()
    with home.lock():
        with pytest.raises(HomeInUse) as caught, home.lock():
            pass
        assert str(caught.value) == (
            f"another peerinfer node (pid {os.getpid()}) uses {tmp_path}; "
            "stop it or give this one its own PEERINFER_HOME"
        )
        other = Home.resolve({}, tmp_path / "other")
        other.prepare()
        with other.lock():
            pass
    with home.lock():
        pass
    assert home.pid_file.read_text() == ""


def test_the_lock_is_given_back_when_the_node_fails(tmp_path: Path) -> None:
    home = Home.resolve({}, tmp_path)
    home.prepare()
    with pytest.raises(RuntimeError, match="boom"), home.lock():
        raise RuntimeError("boom")
    with home.lock():
        pass


HOLDER = """
import subprocess, sys
from peerinfer_node.home import Home
home = Home.resolve({}, sys.argv[1])
with home.lock():
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=subprocess.DEVNULL)
    print(worker.pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_node_killed_with_9_leaves_no_lock_behind_even_while_its_worker_lives(tmp_path: Path) -> None:
    home = Home.resolve({}, tmp_path)
    home.prepare()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    worker = int(holder.stdout.readline())
    try:
        with pytest.raises(HomeInUse, match=f"pid {holder.pid}"), home.lock():
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with home.lock():
            assert home.pid_file.read_text() == f"{os.getpid()}\n"
    finally:
        os.kill(worker, signal.SIGKILL)
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()


def test_a_home_that_is_a_file_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    with pytest.raises(StateUnusable, match="is not a folder; choose another with PEERINFER_HOME or --data-dir"):
        Home.resolve({"PEERINFER_HOME": str(file)})
    assert file.read_text() == "not a folder"
    with pytest.raises(StateUnusable, match="File name too long; choose another with PEERINFER_HOME or --data-dir"):
        Home.resolve({"PEERINFER_HOME": str(tmp_path / ("a" * 256))})
