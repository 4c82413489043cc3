"""Memory shared with a process that may have been taken over."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from peerinfer_node.inference import arena
from peerinfer_node.inference.arena import HALF_BYTES, Arena

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory of this kind is Linux's")

ATTACKER = """
import ctypes, fcntl, mmap, os, sys
fd = int(sys.argv[1])
size = os.fstat(fd).st_size
libc = ctypes.CDLL(None, use_errno=True)
done = []

def attempt(name, action):
    try:
        action()
    except OSError:
        return
    done.append(name)

def allocate(mode, start, length):
    if libc.fallocate(fd, mode, ctypes.c_long(start), ctypes.c_long(length)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")

attempt("shrink", lambda: os.ftruncate(fd, 0))
attempt("shrink by a page", lambda: os.ftruncate(fd, size - 4096))
attempt("grow", lambda: os.ftruncate(fd, size + 4096))
attempt("grow by writing", lambda: os.pwrite(fd, b"x", size))
attempt("grow by allocating", lambda: allocate(0, 0, size + 4096))
attempt("cut at opening", lambda: os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_TRUNC))
attempt("seal against writing", lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE))
attempt("collapse", lambda: allocate(8, 0, 4096))
attempt("insert", lambda: allocate(32, 0, 4096))
mapped = mmap.mmap(fd, size)
mapped[:3] = b"new"
allocate(3, 4096, 4096)                               # a hole is no way to harm anybody, and must not become one
mapped.madvise(mmap.MADV_REMOVE, size // 2, 1 << 20)
print(",".join(done), end="")
"""


@pytest.fixture
def shared() -> Iterator[Arena]:
    made = arena.made()
    assert made is not None
    yield made
    made.close()


def test_a_process_can_neither_cut_nor_lengthen_nor_seal_what_it_shares_with_the_daemon(shared: Arena) -> None:
    shared.asked[:8192] = b"a" * 8192
    shared.answered[:8192] = b"b" * 8192
    attacker = subprocess.run(
        [sys.executable, "-I", "-c", ATTACKER, str(shared.fd)],
        pass_fds=[shared.fd],
        capture_output=True,
        check=False,
        text=True,
    )
    assert (attacker.stdout, attacker.stderr) == ("", "")
    # A page that is not there any more would end this process with SIGBUS here.
    assert bytes(shared.asked[:4]) == b"newa"
    assert not any(shared.asked[4096:8192])
    assert not any(shared.answered[:8192])
    assert shared.asked[-1] == shared.answered[-1] == 0
    assert os.fstat(shared.fd).st_size == 2 * HALF_BYTES


def test_a_file_of_another_size_or_without_seals_is_not_taken() -> None:
    for size, flags in ((2 * HALF_BYTES, 0), (2 * HALF_BYTES, os.MFD_ALLOW_SEALING), (0, os.MFD_ALLOW_SEALING)):
        fd = os.memfd_create("unsealed", flags)
        os.ftruncate(fd, size)
        with pytest.raises(OSError, match="not sealed"):
            Arena(fd)
        with pytest.raises(OSError, match="descriptor"):
            os.fstat(fd)


def test_a_system_without_such_memory_has_no_arena(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, flags: int) -> int:
        raise OSError(38, "not here")

    monkeypatch.setattr(os, "memfd_create", refuse)
    assert arena.made() is None


def held_bytes(shared: Arena) -> int:
    return os.fstat(shared.fd).st_blocks * 512


def test_all_memory_is_given_back_at_once(shared: Arena) -> None:
    assert held_bytes(shared) == 0
    for half in (shared.asked, shared.answered):
        half[:] = b"x" * HALF_BYTES
    assert held_bytes(shared) == 2 * HALF_BYTES
    shared.give_back()
    assert held_bytes(shared) == 0
    assert bytes(shared.asked[-1:]) == b"\0"


OTHER_SIDE = """
import os, sys
from peerinfer_node.inference.arena import Arena
arena = Arena(int(sys.argv[1]))
for line in sys.stdin:
    print(getattr(arena, line.strip())(), flush=True)
"""


def test_nothing_is_given_back_while_the_other_side_uses_it(shared: Arena) -> None:
    shared.asked[:4] = b"full"
    with subprocess.Popen(
        [sys.executable, "-c", OTHER_SIDE, str(shared.fd)],
        pass_fds=[shared.fd],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None

        def ask(what: str) -> str:
            other.stdin.write(what + "\n")
            other.stdin.flush()
            return other.stdout.readline().strip()

        assert shared.take()
        assert ask("take") == "False"
        ask("give_back")
        assert bytes(shared.asked[:4]) == b"full"
        shared.leave()
        assert ask("take") == "True"
        assert not shared.take()
        ask("leave")
        ask("give_back")
        assert held_bytes(shared) == 0
        assert shared.take()
        other.stdin.close()


def test_a_closed_arena_leaves_no_descriptor() -> None:
    made = arena.made()
    assert made is not None
    fd = made.fd
    made.close()
    with pytest.raises(OSError, match="descriptor"), contextlib.closing(os.fdopen(fd)):
        pass
