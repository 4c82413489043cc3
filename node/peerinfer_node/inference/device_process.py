"""One process of a device, from its start to its burial: spawning it, talking to it, and saying what it died of."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import trio

from peerinfer.errors import WorkerDied
from peerinfer.tensors import Buffer
from peerinfer_node.inference import arena, pipe

BURIAL_TIMEOUT_S = 5.0
"""A killed process ends at once unless it hangs in the kernel; then it is left behind."""

_STDERR_BYTES_MAX = 64 * 1024
_POLL_S = 0.002
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_ENVIRONMENT = {
    "PATH": os.defpath,
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",  # each thread's own arena would reserve 64 MiB of the address space lent
}


class DeviceProcess:
    """A running worker process. One exchange at a time; the caller sees to that.

    It is started in the calling thread, which must outlive it: the kernel kills it when that thread ends.
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Spawns it, which takes a few milliseconds. Raises `WorkerDied` if the system cannot.

        It gets this environment beside a few fixed variables, and nothing of the daemon's own.
        """
        self._resources = contextlib.ExitStack()
        self._last_words = b""
        self._is_between_messages = True
        try:
            with contextlib.ExitStack() as only_here:
                self._popen = self._spawn(arguments, environment, only_here)
        except OSError as error:
            self._resources.close()
            raise WorkerDied(f"the worker process could not be started: {error.strerror}") from error

    def _spawn(
        self, arguments: Sequence[str], environment: Mapping[str, str], only_here: contextlib.ExitStack
    ) -> subprocess.Popen[bytes]:
        """Our ends of the connections go to `_resources`, the process's own ends to `only_here`."""
        self._directory = tempfile.mkdtemp(prefix="peerinfer-worker-")
        self._resources.callback(shutil.rmtree, self._directory, ignore_errors=True)
        self._data, data = (self._resources.enter_context(end) for end in socket.socketpair())
        self._control, control = (self._resources.enter_context(end) for end in socket.socketpair())
        for end in (data, control):
            only_here.callback(end.close)
        self._stderr, stderr = os.pipe()
        self._resources.callback(os.close, self._stderr)
        only_here.callback(os.close, stderr)
        for end in (self._data, data):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, pipe.SOCKET_BUFFER_BYTES)
        self._data.setblocking(False)
        self._control.setblocking(False)
        os.set_blocking(self._stderr, False)
        self._arena = arena.made()
        inherited = [data.fileno(), control.fileno()]
        if self._arena is not None:
            self._resources.callback(self._arena.close)
            inherited.append(self._arena.fd)
        command = [sys.executable, "-I", "-B", "-m", "peerinfer_node.inference.worker_process"]
        command += [f"--fd={data.fileno()}", f"--control-fd={control.fileno()}", f"--parent={os.getpid()}", *arguments]
        command += [f"--arena-fd={self._arena.fd}"] if self._arena is not None else []
        return subprocess.Popen(  # noqa: S603  (our own module)
            command,
            cwd=self._directory,
            env={**environment, **_ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=inherited,
            start_new_session=True,  # Ctrl-C in the terminal is for the daemon; a kill reaches all that it started
        )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def is_alive(self) -> bool:
        return self._popen.poll() is None

    @property
    def is_between_messages(self) -> bool:
        """False if a message was cut off on its way in or out: nothing more can be said to this process."""
        return self._is_between_messages

    async def send(self, message: pipe.Request, body: Iterable[Buffer]) -> None:
        """Raises OSError if the process is gone."""
        self._read_stderr()
        while self._arena is not None and not self._arena.take():  # noqa: ASYNC110  (the process gives its pages back)
            await trio.sleep(_POLL_S)
        outgoing = pipe.Outgoing(message, body, self._arena.asked if self._arena is not None else None)
        self._is_between_messages = False
        while True:
            try:
                if outgoing.send_some(self._data):
                    break
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._data.fileno())
        self._is_between_messages = True

    async def receive(self) -> tuple[Any, memoryview]:
        """The next message and its body. Raises EOFError or OSError if the process is gone, `DecodeError` on nonsense."""
        await trio.lowlevel.wait_readable(self._data.fileno())
        self._is_between_messages = False
        prefix = memoryview(bytearray(pipe.PREFIX_BYTES))
        await self._receive_into(prefix)
        shared = self._arena.answered if self._arena is not None else memoryview(b"")
        header_bytes, body_bytes, is_shared = pipe.lengths_of(prefix, shared.nbytes)
        header = memoryview(bytearray(header_bytes))
        if is_shared:
            await self._receive_into(header)
            body = memoryview(bytes(shared[:body_bytes]))  # a copy: the process can still write where it lay
        else:
            body = pipe.room_for(body_bytes)
            await self._receive_into(header, body)
        self._is_between_messages = True
        if self._arena is not None:
            self._arena.leave()
        return pipe.decode(header), body

    async def _receive_into(self, *targets: memoryview) -> None:
        incoming = pipe.Incoming(*targets)
        while True:
            try:
                if incoming.receive_some(self._data):
                    return
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._data.fileno())

    def stop(self, request: int) -> None:
        """Asks to stop this request. Raises OSError if the process is gone."""
        self._control.send(pipe.stop_bytes(request))

    def settle(self) -> None:
        """To be called once it is ready: drops ONNX Runtime's warnings at import, and the folder that it stands in.

        A process whose folder is gone finds no file by a relative name and can make none; and nothing is left on disk
        if the daemon is killed.
        """
        self._read_stderr()
        self._last_words = b""
        with contextlib.suppress(OSError):
            os.rmdir(self._directory)

    def kill(self) -> None:
        """Ends it and all that it may have started. The process is still to be buried."""
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._popen.pid, signal.SIGKILL)

    async def bury(self, *, grace_s: float = 0.0) -> str:
        """Waits `grace_s` for its own end, then kills it, and gives everything back. Returns how it ended, in one line.

        Not to be cancelled; bounded by the grace and `BURIAL_TIMEOUT_S`.
        """
        with trio.CancelScope(shield=True):
            await self._wait_dead(grace_s)
            ended_by_itself = not self.is_alive
            self.kill()
            await self._wait_dead(BURIAL_TIMEOUT_S)
        self._read_stderr()
        self._resources.close()
        return self._obituary(ended_by_itself)

    async def _wait_dead(self, timeout_s: float) -> None:
        with trio.move_on_after(timeout_s):
            while self.is_alive:  # noqa: ASYNC110  (the end of a process is no trio event)
                await trio.sleep(_POLL_S)

    def _obituary(self, ended_by_itself: bool) -> str:
        lines = [line for line in self._last_words.decode(errors="replace").splitlines() if line.strip()]
        words = pipe.shortened(_COLOURS.sub("", lines[-1])) if lines else ""
        status = self._popen.returncode
        if not ended_by_itself or status is None:
            how = "was killed"
        elif status >= 0:
            how = f"ended with status {status}"
        else:
            how = f"died of {signal.Signals(-status).name}"
            if -status == signal.SIGKILL and not words:
                words = "killed from outside, or the machine ran out of memory"
        return pipe.shortened(f"the worker process {how}: {words}" if words else f"the worker process {how}")

    def _read_stderr(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._stderr, _STDERR_BYTES_MAX):
                self._last_words = (self._last_words + data)[-_STDERR_BYTES_MAX:]
