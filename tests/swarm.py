"""Nodes and commands as real processes: started in homes of their own, watched, and gone at the end of the test.

    with Swarm(tmp_path) as swarm:
        volunteer = swarm.join("ada")
        run = swarm.run("me", "model.onnx", "in.npz", "-o", "out.npz", "--bootstrap", volunteer.address, "--json")

What a process says goes to files, so that it never waits for a reader; on a terminal (`terminal=True`) stderr is a
pseudo-terminal that a thread reads. Whoever waits does so with a deadline. When a swarm is left, everything that still
runs is asked to stop and then killed, and what every process said is searched for tracebacks.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx
import psutil

from peerinfer_node.store import SqliteStore

T = TypeVar("T")

PEERINFER = str(Path(sys.executable).with_name("peerinfer"))
ANY_PORT = "/ip4/127.0.0.1/tcp/0"

READY_TIMEOUT_S = 120.0
COMMAND_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.01

# A test run that is killed takes its processes with it: the kernel sees to it (PR_SET_PDEATHSIG), across exec.
_TIED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"

_THEN = "\nimport runpy, sys\ndel sys.argv[0]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
"""After a prelude: what `peerinfer` is otherwise."""

_WRONG_CLOCK = "import time\nright = time.time\ntime.time = lambda: right() + {}"
"""The wall clock alone: what is measured goes by others."""

_UNCLEAN = re.compile(
    r"Traceback \(most recent|^\s+File \"|Exception Group|Exception ignored|never awaited|ResourceWarning"
    r"|RuntimeWarning|unexpected \w*(?:Error|Exception)|Segmentation fault|libp2p\.",
    re.MULTILINE,
)
"""What a user must never see."""

_PROGRESS = re.compile(r"([\d,]+)/([\d,]+) items")


def wait_for(what: Callable[[], T], *, timeout_s: float = COMMAND_TIMEOUT_S, saying: str | Callable[[], str] = "") -> T:
    """The first true answer. Raises AssertionError after `timeout_s`; what is called to say why is called then."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        if found := what():
            return found
        if time.monotonic() > deadline_s:
            raise AssertionError(f"waited {timeout_s:g} s for {saying() if callable(saying) else saying or what}")
        time.sleep(POLL_S)


class Process:
    """One `peerinfer` process and what it says."""

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        home: Path,
        said: Path,
        terminal: bool = False,
        environ: dict[str, str] | None = None,
        prelude: str = "",
    ) -> None:
        """What it says goes to the files `said`.out and `said`.err. `prelude`: Python that it runs first."""
        launched = [sys.executable, "-c", prelude + _THEN, PEERINFER] if prelude else [PEERINFER]
        self.arguments = [str(argument) for argument in arguments]
        self.home = home
        self._out, self._err = said.with_suffix(".out"), said.with_suffix(".err")
        self._did_not_stop = False
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PEERINFER_")}
        # Strangers on this network are no part of a test, unless it asks for them.
        own = {"PEERINFER_HOME": str(home), "PEERINFER_MDNS": "false", "TERM": "xterm"}
        environment = inherited | own | (environ or {})
        with self._out.open("wb") as out, self._err.open("wb") as err, contextlib.ExitStack() as ends:
            stderr = err.fileno()
            if terminal:
                ours, stderr = pty.openpty()
                ends.callback(os.close, stderr)
                threading.Thread(target=self._listen, args=(ours,), daemon=True).start()
            self._popen = subprocess.Popen(
                [sys.executable, "-S", "-c", _TIED, *launched, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=stderr,
                env=environment,
                cwd=said.parent,
                start_new_session=True,
            )

    def _listen(self, terminal: int) -> None:
        with self._err.open("ab", buffering=0) as err, contextlib.suppress(OSError):
            while data := os.read(terminal, 65536):  # raises when the other end is closed
                err.write(data)
        os.close(terminal)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def stdout(self) -> str:
        return self._out.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return self._err.read_text(errors="replace")

    @property
    def json(self) -> Any:
        """The last line of stdout, which must be JSON."""
        return json.loads(self.stdout.splitlines()[-1])

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs, negative after a signal."""
        return self._popen.poll()

    @property
    def worker_pid(self) -> int | None:
        """The process of its device; None while there is none."""
        children = psutil.Process(self.pid).children()
        return children[0].pid if children else None

    @property
    def progress(self) -> tuple[int, int]:
        """Items done and items in all, as the live line said last; zeros before it did."""
        found = _PROGRESS.findall(self.stderr)
        return tuple(int(number.replace(",", "")) for number in found[-1]) if found else (0, 0)  # type: ignore[return-value]

    def wait(self, timeout_s: float = COMMAND_TIMEOUT_S) -> int:
        """The exit code."""
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self} still runs after {timeout_s:g} s\n{self.told()}") from None

    def wait_progress(self, share: float, timeout_s: float = COMMAND_TIMEOUT_S) -> None:
        """Returns when at least `share` of the items are done and the process is still at it."""

        def is_far_enough() -> bool:
            done, items = self.progress
            assert self.code is None, f"{self} ended too early\n{self.told()}"
            return items > 0 and done >= share * items

        wait_for(is_far_enough, timeout_s=timeout_s, saying=f"{share:.0%} of {self}")
        done, items = self.progress
        assert done < items, "it was done before anything could happen in the middle of it"

    def send(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def kill(self) -> None:
        """As `kill -9` does it."""
        self._popen.kill()
        self._popen.wait()

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Asks it to stop, as `systemctl stop` would, and returns the exit code."""
        self.send(signal.SIGTERM)
        return self.wait(timeout_s)

    def end(self) -> None:
        """Makes sure that it is gone; says nothing."""
        if self.code is None:
            self.send(signal.SIGCONT)
            self.send(signal.SIGTERM)
            try:
                self._popen.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._did_not_stop = True
                self.kill()

    def check_clean(self) -> None:
        """Raises AssertionError if it showed the user what only a developer should see, or did not stop when asked."""
        assert not self._did_not_stop, f"{self} did not stop within {STOP_TIMEOUT_S:g} s\n{self.told()}"
        found = _UNCLEAN.search(self.stderr) or _UNCLEAN.search(self.stdout)
        crashes = sorted((self.home / "logs").glob("crash-*.txt"))
        details = "".join(crash.read_text() for crash in crashes)
        assert found is None, f"{self} said {found and found.group()!r}\n{self.told()}\n{details}"
        assert not crashes, f"{self} left {crashes[0].name}\n{details}"

    def told(self) -> str:
        return (
            f"--- {self}: exit code {self.code}\n--- stdout\n{self.stdout[-4000:]}\n--- stderr\n{self.stderr[-8000:]}"
        )

    def __str__(self) -> str:
        return f"peerinfer {' '.join(self.arguments)} (pid {self.pid})"


class Daemon(Process):
    """A node: `peerinfer join`."""

    ready: dict[str, Any]

    def wait_ready(self) -> None:
        def found() -> bool:
            assert self.code is None, f"it ended instead of getting ready\n{self.told()}"
            return self.stdout.endswith("\n")

        wait_for(found, timeout_s=READY_TIMEOUT_S, saying=f"{self} to be ready")
        self.ready = self.json
        assert self.ready["event"] == "ready"
        if not _figures:
            with contextlib.suppress(sqlite3.Error):  # the next daemon will do
                _figures.update(_settings(self.home, "figures/%"))

    @property
    def peer_id(self) -> str:
        return str(self.ready["peer_id"])

    @property
    def address(self) -> str:
        """Where other nodes dial it."""
        return str(self.ready["addresses"][0])

    def events(self) -> list[dict[str, Any]]:
        """What it has logged."""
        lines = self.stderr.splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """What the control API answers, as JSON. Raises httpx.HTTPStatusError for a refusal."""
        with httpx.Client(transport=httpx.HTTPTransport(uds=self.ready["api"]), timeout=60) as client:
            answer = client.request(method, f"http://peerinfer/api/v1{path}", **options)
            answer.raise_for_status()
            return answer.json() if answer.content else None

    def job(self, job: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", f"/jobs/{job}")
        return found

    def submit(self, model: Path, *inputs: Path, **more: Any) -> str:
        """The id of a job that this daemon coordinates."""
        request = {"model": str(model), "inputs": [str(path) for path in inputs], **more}
        return str(self.ask("POST", "/jobs", json=request)["job_id"])

    def wait_job(self, job: str, share: float) -> dict[str, Any]:
        """The job when at least `share` of its tasks are accepted; it must not have ended before."""

        def picture() -> dict[str, Any] | None:
            now = self.job(job)
            assert now["state"] == "running", f"the job is {now['state']}: {now['reason']}\n{self.told()}"
            return now if now["tasks"] and now["accepted"] >= share * now["tasks"] else None

        found = wait_for(picture, saying=f"{share:.0%} of job {job}")
        assert found is not None
        return found


_figures: dict[str, str] = {}
"""What the processor was measured at by the first daemon of this test run: measuring is half of what a start costs."""


def _settings(home: Path, like: str) -> dict[str, str]:
    with contextlib.closing(sqlite3.connect(home / "state.db")) as database:
        return dict(database.execute("SELECT key, value FROM settings WHERE key LIKE ?", (like,)))


def _lend_figures(home: Path) -> None:
    """A new home begins with them, as if a daemon had run in it before."""
    if not _figures or home.exists():
        return
    home.mkdir(mode=0o700, parents=True)
    with SqliteStore.open(home / "state.db"):
        pass
    with contextlib.closing(sqlite3.connect(home / "state.db")) as database, database:
        database.executemany("INSERT INTO settings (key, value) VALUES (?, ?)", _figures.items())


class Swarm:
    """The processes of one test, each node in a folder of its own under `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.processes: list[Process] = []
        self.prelude = ""
        """Python that daemons run first: where a test does not wait for a time as long as the real one."""

    def home(self, name: str) -> Path:
        return self.root / name

    def join(
        self, name: str, *flags: str | Path, bootstrap: str | Daemon | None = None, listen: str = ANY_PORT,
        mdns: bool = False, wait: bool = True, environ: dict[str, str] | None = None,
    ) -> Daemon:  # fmt: skip
        """A volunteer on one thread, ready unless `wait` is false."""
        arguments: list[str | Path] = ["join", "--name", name, "--listen", listen, "--log-format", "json"]
        arguments += ["--cpu-threads", "1"] if "--cpu-threads" not in flags else []
        if mdns:
            environ = {"PEERINFER_MDNS": "true"} | (environ or {})
        _lend_figures(self.home(name))
        if bootstrap is not None:
            arguments += ["--bootstrap", bootstrap if isinstance(bootstrap, str) else bootstrap.address]
        daemon = Daemon(
            [*arguments, *flags], home=self.home(name), said=self._said(name), environ=environ, prelude=self.prelude
        )
        self.processes.append(daemon)
        if wait:
            daemon.wait_ready()
        return daemon

    def start(
        self, name: str, *arguments: str | Path, terminal: bool = False, clock_off_s: float = 0.0, **environ: str
    ) -> Process:
        """A command in the home of `name`."""
        process = Process(
            arguments,
            home=self.home(name),
            said=self._said(name),
            terminal=terminal,
            environ=environ or None,
            prelude=_WRONG_CLOCK.format(clock_off_s) if clock_off_s else "",
        )
        self.processes.append(process)
        return process

    def run(
        self,
        name: str,
        *arguments: str | Path,
        timeout_s: float = COMMAND_TIMEOUT_S,
        clock_off_s: float = 0.0,
        **environ: str,
    ) -> Process:
        """A command in the home of `name`, after its end."""
        process = self.start(name, *arguments, clock_off_s=clock_off_s, **environ)
        process.wait(timeout_s)
        return process

    def _said(self, name: str) -> Path:
        self.root.mkdir(parents=True, exist_ok=True)
        return self.root / f"{len(self.processes):03}-{name}"

    def __enter__(self) -> Swarm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ending = [threading.Thread(target=process.end) for process in reversed(self.processes)]
        for thread in ending:
            thread.start()
        for thread in ending:
            thread.join()
        if error is None:
            for process in self.processes:
                process.check_clean()
            return
        for process in self.processes:
            print(process.told())


def lines_of(process: Process) -> list[str]:
    """What it said to the person at the terminal, without progress and narration."""
    return [line for line in process.stderr.splitlines() if line.startswith(("peerinfer", "warning"))]


@contextlib.contextmanager
def suspended(pid: int) -> Iterator[None]:
    """The process stands still, as a laptop that was closed does."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
