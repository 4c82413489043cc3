"""The sandbox from inside: a small program locks itself in and then tries to get out."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from peerinfer_node.inference import sandbox
from peerinfer_node.inference.sandbox import Layers

PROBES = r"""
import ctypes, json, os, signal, socket, sys
import peerinfer, peerinfer_node
from peerinfer_node.inference import sandbox

facts = json.loads(sys.argv[1])
def refuse():
    raise OSError

if facts["without"] == "seccomp":
    sandbox._filter_calls = lambda is_for_device: refuse()
if facts["without"] == "landlock":
    sandbox._landlock = lambda readable, device_files: 0
opening = sandbox.Opening(*map(tuple, facts["opening"]))
layers = sandbox.lock_in([peerinfer, peerinfer_node], memory_bytes=2 << 30, opening=opening)
escapes = []
for device in facts["opening"][1]:
    os.close(os.open(device, os.O_RDWR))

def probe(name, action):
    try:
        action()
    except (OSError, MemoryError, ValueError):
        return
    escapes.append(name)

def forked():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)

def read(path):
    with open(path, "rb") as file:
        file.read(1)

def write(path):
    with open(path, "ab") as file:
        file.write(b"x")

def system_call(number, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")

def unix_socket(name):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(name)

probe("read /etc/passwd", lambda: read("/etc/passwd"))
probe("read a file of the user", lambda: read(facts["secret"]))
probe("list a folder", lambda: os.listdir(facts["folder"]))
probe("read the parent's environment", lambda: read(f"/proc/{os.getppid()}/environ"))
probe("write a file of the user", lambda: write(facts["secret"]))
probe("make a file", lambda: write(facts["folder"] + "/new"))
probe("make a file here", lambda: write("new"))
probe("make a folder", lambda: os.mkdir(facts["folder"] + "/folder"))
probe("remove a file", lambda: os.unlink(facts["spare"]))
probe("rename a file", lambda: os.rename(facts["spare"], facts["spare"] + "2"))
probe("truncate a file", lambda: os.truncate(facts["spare"], 0))
probe("change a mode", lambda: os.chmod(facts["secret"], 0o777))
probe("change an owner", lambda: os.chown(facts["secret"], os.getuid(), os.getgid()))
probe("change a time", lambda: os.utime(facts["secret"]))
probe("set an attribute", lambda: os.setxattr(facts["secret"], "user.x", b"x"))
probe("link a file", lambda: os.symlink(facts["secret"], facts["folder"] + "/link"))
probe("execute", lambda: os.execv("/bin/true", ["true"]))
probe("fork", forked)
probe("tcp", lambda: socket.create_connection(("127.0.0.1", facts["port"]), 1))
probe("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
probe("unix socket", lambda: unix_socket(facts["socket"]))
probe("abstract socket", lambda: unix_socket("\0" + facts["abstract"]))
probe("signal the parent", lambda: os.kill(os.getppid(), 0))
probe("limit the parent", lambda: __import__("resource").prlimit(os.getppid(), __import__("resource").RLIMIT_CORE))
probe("slow the parent down", lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 5))
probe("new user namespace", lambda: os.unshare(0x10000000) if hasattr(os, "unshare") else system_call(272, 0x10000000))
probe("more memory", lambda: bytearray(3 << 30))
probe("raise a limit", lambda: __import__("resource").setrlimit(__import__("resource").RLIMIT_NOFILE, (4096, 4096)))
probe("core dump", lambda: __import__("resource").setrlimit(__import__("resource").RLIMIT_CORE, (1, 1)))
probe("call of a newer kernel", lambda: system_call(463, 0, 0, 0, 0))

import threading
import numpy
thread = threading.Thread(target=lambda: probe("read from a thread", lambda: read("/etc/passwd")))
thread.start()
thread.join()
os.kill(os.getpid(), 0)
sys.stdout.write(json.dumps({"escapes": escapes, "level": layers.level, "layers": str(layers)}))
"""


def probed(folder: Path, without: str = "", device_files: Sequence[str] = ()) -> dict[str, Any]:
    """Runs the probes in a process of their own. `without` names a layer that fails."""
    secret, spare, inner = folder / "secret.txt", folder / "spare.txt", folder / "inner"
    secret.write_text("secret")
    spare.write_text("spare")
    inner.mkdir(exist_ok=True)
    abstract = f"peerinfer-probe-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX) as hidden,
    ):
        unix.bind(str(folder / f"s{without}"))
        unix.listen()
        hidden.bind("\0" + abstract)
        hidden.listen()
        facts = {
            "secret": str(secret),
            "spare": str(spare),
            "folder": str(inner),
            "port": tcp.getsockname()[1],
            "socket": str(folder / f"s{without}"),
            "abstract": abstract,
            "without": without,
            "opening": [["/sys/class"] if device_files else [], list(device_files)],
        }
        command = [sys.executable, "-I", "-B", "-c", PROBES, json.dumps(facts)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=inner)
    assert done.returncode == 0, done.stderr
    assert secret.read_text() == "secret"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def has_landlock() -> bool:
    return sandbox._tried(lambda: sandbox._syscall(444, None, 0, 1))


@pytest.mark.slow
@pytest.mark.parametrize("device_files", [[], ["/dev/zero"]], ids=["for the processor", "for a graphics card"])
def test_nothing_gets_out_of_the_full_sandbox(tmp_path: Path, device_files: list[str]) -> None:
    """A worker for a card may open its device file for writing, and that alone."""
    found = probed(tmp_path, device_files=device_files)
    if not has_landlock():
        pytest.skip("this kernel has no Landlock")
    assert found["level"] == "full"
    assert found["escapes"] == []


@pytest.mark.slow
def test_without_landlock_files_can_be_read_and_that_is_said(tmp_path: Path) -> None:
    found = probed(tmp_path, "landlock")
    assert found["level"] == "partial"
    assert "landlock" not in found["layers"]
    assert "read /etc/passwd" in found["escapes"]
    readings = {
        "read /etc/passwd",
        "read from a thread",
        "read a file of the user",
        "list a folder",
        "read the parent's environment",
    }
    assert set(found["escapes"]) <= readings


@pytest.mark.slow
def test_without_seccomp_processes_can_be_started_and_that_is_said(tmp_path: Path) -> None:
    if not has_landlock():
        pytest.skip("this kernel has no Landlock")
    found = probed(tmp_path, "seccomp")
    assert found["level"] == "partial"
    assert "seccomp" not in found["layers"]
    assert "fork" in found["escapes"]
    assert not {"read /etc/passwd", "make a file", "tcp"} & set(found["escapes"])


@pytest.mark.parametrize(
    ("layers", "level"),
    [
        (Layers(True, True, 7, True), "full"),
        (Layers(True, True, 1, True), "full"),
        (Layers(True, True, 0, True), "partial"),
        (Layers(True, True, 3, False), "partial"),
        (Layers(True, False, 3, True), "partial"),
        (Layers(True, True, 0, False), "none"),
        (Layers(False, False, 0, False), "none"),
    ],
)
def test_the_level_is_full_only_with_every_layer(layers: Layers, level: str) -> None:
    assert layers.level == level


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_fits_the_kernel_and_every_jump_stays_inside(machine: str) -> None:
    program = sandbox._filter(machine, 1234, sandbox._OPENS_FOR_WRITING)
    assert len(program) < 4096
    for position, (code, then, otherwise, _) in enumerate(program):
        if code in (sandbox._JUMP_EQUAL, sandbox._JUMP_GREATER_EQUAL, sandbox._JUMP_ANY_BIT):
            assert position + 1 + max(then, otherwise) < len(program)
    assert program[-1] == (sandbox._RETURN, 0, 0, sandbox._ALLOW)


def judged(machine: str, process: int, number: int, *arguments: int, arch: int | None = None) -> int:
    """What the filter says, by a plain interpreter of its six instructions."""
    data = {0: number, 4: sandbox._AUDIT_ARCH[machine] if arch is None else arch}
    data |= {16 + 8 * index: argument & 0xFFFFFFFF for index, argument in enumerate((*arguments, 0, 0, 0, 0))}
    program = sandbox._filter(machine, process, sandbox._OPENS_FOR_WRITING)
    position = accumulator = 0
    while True:
        code, then, otherwise, value = program[position]
        position += 1
        if code == sandbox._LOAD:
            accumulator = data[value]
        elif code == sandbox._RETURN:
            return value
        else:
            holds = {
                sandbox._JUMP_EQUAL: accumulator == value,
                sandbox._JUMP_GREATER_EQUAL: accumulator >= value,
                sandbox._JUMP_ANY_BIT: bool(accumulator & value),
            }[code]
            position += then if holds else otherwise


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_judges_as_it_should(machine: str) -> None:
    numbers = sandbox._numbers(sandbox._JUDGED, machine) | sandbox._numbers(sandbox._DENIED, machine)
    allow, deny, absent = sandbox._ALLOW, sandbox._DENY, sandbox._NO_SUCH_CALL

    def judge(name: str, *arguments: int) -> int:
        return judged(machine, 77, numbers[name], *arguments)

    for name in sandbox._numbers(sandbox._DENIED, machine):
        assert judge(name) == deny, name
    assert judge("clone", 0x10000) == allow
    assert judge("clone", 0x11) == deny
    assert judge("clone3") == judge("openat2") == absent
    assert (judge("kill", 77), judge("kill", 1), judge("kill", -1)) == (allow, deny, deny)
    assert (judge("tgkill", 77, 78), judge("tgkill", 78, 77)) == (allow, deny)
    assert (judge("prlimit64", 0), judge("prlimit64", 77), judge("prlimit64", 1)) == (allow, allow, deny)
    assert judge("openat", 0, 0, os.O_RDONLY | os.O_CLOEXEC) == allow
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_TMPFILE):
        assert judge("openat", 0, 0, flags) == deny
    assert judged(machine, 77, 463) == judged(machine, 77, 0x40000000 + 1) == absent
    assert judged(machine, 77, 0) == allow
    assert judged(machine, 77, 0, arch=0x40000003) == sandbox._KILL_PROCESS
