"""The demo of failover: five daemons, one detached job, its coordinator killed twice, and the results compared.

The job is real: which type has each file of Python's standard library? The model ships inside a package (magika,
Apache-2.0) and the files are here, so nothing is downloaded. Everything runs through the commands that anyone would
type, as processes with homes of their own under build/demo-failover; this module starts them, kills some of them as
`kill -9` does, tells what happens, and computes the same once more on a node alone.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import trio
from numpy.typing import NDArray

from peerinfer.client.daemon import HttpControl
from peerinfer.committee import ELIGIBLE_AFTER_S, quorum
from peerinfer.control import JOB_ENDED, Json
from peerinfer.errors import PeerinferError
from peerinfer.lease_profile import LAN
from peerinfer_node.cli.guard import leaf

NAMES = ("ada", "bob", "cyd", "dan", "eve")
FOLDER = Path("build/demo-failover")

WORK_S = 36.0
"""How long the swarm should have to compute; so many files are chosen. `--work` says otherwise."""

SAMPLE_ITEMS = 200
ITEMS_MAX = 40_000
ITEMS_PER_TASK = 5
KILL_AT = (0.1, 0.35)
"""Shares of the job at which its coordinator is killed."""

PROMISED_S = LAN.lease_s + 1.0
ROUNDING_MAX = 0.02
"""Scores are between 0 and 1. This model's differ in the third place with the size of the batch."""

GIVEN_UP_S = 20.0
"""A machine that has other things to do takes longer, which is told; after this time something is wrong."""

TRIES_MAX = 4
"""The job's length is guessed from a sample. One that ends before everything was shown is followed by one twice as long."""

ENDS_WITHIN_S = 240.0
"""For each try."""

POLL_S = 0.1
TOLD_EVERY_S = 3.0

HALF_BYTES = 1024
PADDING = 256
"""Magika sees the first and last 1,024 bytes of a file without the blanks around it; this number stands for no byte."""


class Broken(Exception):
    """Something is not as promised. Its text says what."""


class TooShort(Exception):
    """The job ended before everything was shown. Nothing is wrong with that."""


@dataclass(slots=True)
class Node:
    """One daemon and its home."""

    name: str
    home: Path
    process: subprocess.Popen[bytes] | None = None
    ready: Json = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("PEERINFER_")}
        return own | {"PEERINFER_HOME": str(self.home)}

    def start(self, bootstrap: str | None) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "peerinfer_node", "join", "--name", self.name, "--no-mdns"]
        command += ["--listen", "/ip4/127.0.0.1/tcp/0", "--cpu-threads", "1"]
        command += ["--bootstrap", bootstrap] if bootstrap else []
        with self._said.open("wb") as out, (self.home / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603
                [*command, "--log-format", "json"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                env=self.environment,
            )

    @property
    def _said(self) -> Path:
        return self.home / "ready.json"

    async def wait_ready(self) -> None:
        assert self.process is not None
        while not (text := self._said.read_text()).endswith("\n"):
            if self.process.poll() is not None:
                raise Broken(f"{self.name} ended instead of getting ready; see {self.home / 'log.txt'}")
            await trio.sleep(POLL_S)
        self.ready = json.loads(text.splitlines()[-1])

    @property
    def is_up(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def is_ready(self) -> bool:
        return self.is_up and self._said.read_text().endswith("\n")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    async def job(self, job: str) -> Json | None:
        """The job as this node sees it, or None if it says nothing of it now."""
        if not self.is_ready:
            return None
        try:
            with trio.move_on_after(4.0):
                async with HttpControl(self.home / "peerinfer.sock") as control:
                    return await control.job(job)
        except PeerinferError:
            return None
        return None


def main() -> int:
    """0 if everything was as promised; 1 if not; 3 where the package with the model is missing."""
    parser = argparse.ArgumentParser(prog="demo-failover", description="Kill a job's coordinator twice.")
    parser.add_argument("--work", type=float, default=WORK_S, metavar="SECONDS", help="how much there is to compute")
    work_s = parser.parse_args().work
    spec = importlib.util.find_spec("magika")
    if spec is None or spec.origin is None:
        print("the demo needs the package magika: run it with `make demo-failover`", file=sys.stderr)
        return 3
    model = Path(spec.origin).parent / "models/standard_v3_3/model.onnx"
    folder = FOLDER.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    nodes = [Node(name, folder / name) for name in NAMES]
    problem: BaseException | None = None
    try:
        trio.run(_demo, _Stage(nodes, folder, model, work_s))
    except* (Broken, PeerinferError) as problems:
        problem = leaf(problems)
    finally:
        _end(nodes)
    if problem is not None:
        print(f"\nnot as promised: {problem}", file=sys.stderr)
        return 1
    return 0


@dataclass(slots=True)
class _Stage:
    nodes: list[Node]
    folder: Path
    model: Path
    work_s: float
    began_s: float = field(default_factory=time.monotonic)

    def say(self, line: str) -> None:
        print(f"{time.monotonic() - self.began_s:6.1f} s  {line}", flush=True)

    def name_of(self, peer: str) -> str:
        return next((node.name for node in self.nodes if node.ready.get("peer_id") == peer), peer[-8:])

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    async def command(self, home: Path, *arguments: str) -> Json:
        """What `peerinfer ARGUMENTS --json` prints, run in `home`."""
        environment = Node("", home).environment
        command = [sys.executable, "-m", "peerinfer_node", *arguments, "--json"]
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, env=environment, check=False)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise Broken(f"peerinfer {arguments[0]} ended with code {done.returncode}: {''.join(said)}")
        found: Json = json.loads(done.stdout.splitlines()[-1])
        return found


async def _demo(stage: _Stage) -> None:
    files = _standard_library()
    count = await _choose_count(stage, files)
    await _start(stage)
    for _ in range(TRIES_MAX):
        was_shown = False
        with trio.move_on_after(ENDS_WITHIN_S) as limit:
            try:
                await _show(stage, _as_seen([files[number % len(files)] for number in range(count)]))
                was_shown = True
            except* TooShort:
                stage.say("the job was done before its coordinator could be killed twice: again, with more to do")
        if was_shown:
            return
        if limit.cancelled_caught:
            raise Broken(f"it did not end within {ENDS_WITHIN_S:g} s")
        count = min(2 * count, ITEMS_MAX)
        await _start(stage)
    raise Broken(f"{TRIES_MAX} jobs ended before everything was shown; give them more --work")


async def _show(stage: _Stage, items: NDArray[np.int32]) -> None:
    inputs = stage.folder / "files.npz"
    np.savez(inputs, bytes=items)
    job = await _submit(stage, inputs)
    await _Watcher(stage, job).watch()
    await _compare(stage, job, inputs)


async def _choose_count(stage: _Stage, files: list[Path]) -> int:
    """As many files as keep the swarm busy for `WORK_S`: measured with some of them, on one thread."""
    sample = stage.folder / "sample.npz"
    np.savez(sample, bytes=_as_seen(files[:SAMPLE_ITEMS]))
    measure = stage.folder / "alone"
    model, out = str(stage.model), str(stage.folder / "sample-out.npz")
    summary = await stage.command(measure, "run", model, str(sample), "-o", out, "--standalone")
    per_s = SAMPLE_ITEMS / max(summary["seconds"], 0.01)
    wanted = int(per_s * stage.work_s)
    count = max(min(wanted, ITEMS_MAX), 5 * SAMPLE_ITEMS)
    stage.say(f"this machine looks at {per_s:.0f} files per second; the job is to tell the types of {count}")
    return count


def _standard_library() -> list[Path]:
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = ("__pycache__", "site-packages")
    found = [path for path in sorted(root.rglob("*")) if path.is_file() and not set(skipped) & set(path.parts)]
    return [path for path in found if path.stat().st_size > 16]


def _as_seen(files: list[Path]) -> NDArray[np.int32]:
    """int32[files, 2048]"""
    seen = np.full((len(files), 2 * HALF_BYTES), PADDING, np.int32)
    for number, path in enumerate(files):
        with path.open("rb") as file:
            first = file.read(HALF_BYTES).lstrip()
            file.seek(max(path.stat().st_size - HALF_BYTES, 0))
            last = file.read(HALF_BYTES).rstrip()
        seen[number, : len(first)] = np.frombuffer(first, np.uint8)
        seen[number, 2 * HALF_BYTES - len(last) :] = np.frombuffer(last, np.uint8)
    return seen


async def _start(stage: _Stage) -> None:
    """Returns when all daemons run, know each other, and have been there for long enough to elect."""
    up = [node for node in stage.nodes if node.is_up]
    down = [node for node in stage.nodes if not node.is_up]
    if not up:
        up = [down.pop(0)]
        up[0].start(None)
    await up[0].wait_ready()
    for node in down:
        node.start(up[0].ready["addresses"][0])
    for node in stage.nodes:
        await node.wait_ready()
    async with HttpControl(up[0].home / "peerinfer.sock") as control:
        await _wait_for(lambda: _knows(control, len(stage.nodes) - 1))
    await trio.sleep(ELIGIBLE_AFTER_S + 0.5)
    stage.say(f"five daemons run and know each other: {', '.join(node.name for node in stage.nodes)}")


async def _knows(control: HttpControl, peers: int) -> bool:
    alive = [peer for peer in await control.peers() if peer["state"] == "alive"]
    return len(alive) >= peers


async def _wait_for(is_so: Callable[[], Awaitable[bool]]) -> None:
    while True:
        if await is_so():
            return
        await trio.sleep(POLL_S)


async def _submit(stage: _Stage, inputs: Path) -> Json:
    submitter = stage.nodes[0]
    out = str(stage.folder / "unused.npz")
    flags = ("--detach", "--batch", str(ITEMS_PER_TASK))
    job = await stage.command(submitter.home, "run", str(stage.model), str(inputs), "-o", out, *flags)
    committee = [stage.name_of(peer) for peer in job["committee"]]
    if len(committee) < 3:
        raise Broken(f"the committee is {committee}, three electors are needed")
    stage.say(f"{submitter.name} submits job {job['job_id'][:8]}: {job['items']} items in {job['tasks']} tasks")
    stage.say(f"its committee is {', '.join(committee)}; they hold copies, so {submitter.name} may go")
    return job


class _Watcher:
    """Follows the job, kills its coordinators, and tells."""

    def __init__(self, stage: _Stage, job: Json) -> None:
        self._stage = stage
        self._job = str(job["job_id"])
        self._tasks = int(job["tasks"])
        self._candidates = list(dict.fromkeys([stage.nodes[0].name, *map(stage.name_of, job["committee"])]))
        self._told_s = 0.0
        self._term = 0
        self._final = 0

    async def watch(self) -> None:
        """Returns when the job is done."""
        async with trio.open_nursery() as nursery:
            for share in KILL_AT:
                view = await self._until(functools.partial(self._may_lose_one, share))
                victim = self._stage.node(self._stage.name_of(view["coordinator"]))
                await self._kill(victim, view)
                nursery.start_soon(self._restart, victim)
        view = await self._until(lambda view: view["state"] in JOB_ENDED, may_end=True)
        if view["state"] != "done" or view["failed_tasks"]:
            raise Broken(f"the job is {view['state']}, {view['failed_tasks']} tasks failed: {view['reason']}")
        self._stage.say(f"the job is done: {view['final']} of {self._tasks} tasks are final")

    def _may_lose_one(self, share: float, view: Json) -> bool:
        """True if so much is done, and a quorum of the committee is left without the coordinator."""
        rest = [peer for peer in view["committee"] if peer != view["coordinator"]]
        up = sum(self._stage.node(self._stage.name_of(peer)).is_ready for peer in rest)
        return (
            view["state"] == "running"
            and view["final"] >= share * self._tasks
            and up >= quorum(len(view["committee"]), 0)
        )

    async def _kill(self, victim: Node, before: Json) -> None:
        stage = self._stage
        killed_s, killed_at_s = time.monotonic(), time.time()
        victim.kill()
        stage.say(
            f"kill -9 {victim.name}, which coordinates in term {before['term']}: {before['final']} tasks are final"
        )
        view = await self._until(lambda view: view["term"] > before["term"])
        takeover_s = view["handovers"][-1]["at"] - killed_at_s
        if view["final"] < before["final"]:
            raise Broken(f"{before['final']} tasks were final, now {view['final']} are")
        first = view["final"]
        await self._until(lambda view: view["final"] > first)
        stage.say(
            f"lost nothing: {first} tasks were final at the hand-over, {takeover_s:.1f} s after the kill; "
            f"the next one is final {time.monotonic() - killed_s:.1f} s after it"
        )
        if takeover_s > GIVEN_UP_S:
            raise Broken(f"the hand-over took {takeover_s:.1f} s; {PROMISED_S:g} s are promised")
        if takeover_s > PROMISED_S:
            stage.say(f"that is more than the {PROMISED_S:g} s promised: this machine has other things to do")

    async def _restart(self, victim: Node) -> None:
        other = next(node for node in self._stage.nodes if node.is_ready)
        victim.start(other.ready["addresses"][0])
        await victim.wait_ready()
        self._stage.say(f"{victim.name} is back, and follows")

    async def _until(self, is_enough: Callable[[Json], bool], *, may_end: bool = False) -> Json:
        while True:
            view = await self._view()
            if view is not None:
                self._tell(view)
                if is_enough(view):
                    return view
                if view["state"] in JOB_ENDED and not may_end:
                    if view["state"] == "done":
                        raise TooShort
                    raise Broken(f"the job is {view['state']}: {view['reason']}")
            await trio.sleep(POLL_S)

    async def _view(self) -> Json | None:
        """What the candidate says that knows most."""
        views: list[Json] = []

        async def ask(node: Node) -> None:
            view = await node.job(self._job)
            if view is not None and view["coordinator"]:
                views.append(view)

        async with trio.open_nursery() as nursery:
            for name in self._candidates:
                nursery.start_soon(ask, self._stage.node(name))
        return max(views, key=lambda view: (view["term"], view["state"] in JOB_ENDED, view["final"]), default=None)

    def _tell(self, view: Json) -> None:
        stage, now_s = self._stage, time.monotonic()
        if view["term"] > self._term and view["handovers"]:
            last = view["handovers"][-1]
            why = last["why"]
            for node in stage.nodes:
                why = why.replace(node.ready["peer_id"], node.name)
            when = time.strftime("%H:%M:%S", time.localtime(last["at"]))
            stage.say(f"term {last['term']}: {stage.name_of(last['coordinator'])} coordinates, since {when}: {why}")
            self._term = view["term"]
        if view["final"] > self._final and now_s - self._told_s > TOLD_EVERY_S:
            self._told_s, self._final = now_s, view["final"]
            stage.say(f"{view['final'] / self._tasks:5.0%}  {view['final']} of {self._tasks} tasks are final")


async def _compare(stage: _Stage, job: Json, inputs: Path) -> None:
    submitter, identity = stage.nodes[0], str(job["job_id"])
    fetched, alone = stage.folder / "fetched.npz", stage.folder / "alone.npz"

    async def knows_the_end() -> bool:
        view = await submitter.job(identity)
        return view is not None and view["state"] == "done"

    await _wait_for(knows_the_end)
    await stage.command(submitter.home, "jobs", "fetch", identity, "-o", str(fetched))
    stage.say(f"{submitter.name} has fetched the results; a node alone computes the same for comparison")
    await stage.command(stage.folder / "alone", "run", str(stage.model), str(inputs), "-o", str(alone), "--standalone")
    found, expected = (np.load(path)["target_label"] for path in (fetched, alone))
    apart = float(np.abs(found - expected).max())
    same = int((found.argmax(1) == expected.argmax(1)).sum())
    if found.shape != expected.shape or apart > ROUNDING_MAX:
        raise Broken(f"the results differ by up to {apart:.3f}")
    stage.say(f"equal: {same} of {len(found)} files have the same type, found by the swarm and by the node alone")
    stage.say(f"their scores differ by {apart:.4f} at most: batches of other sizes round otherwise")


def _end(nodes: list[Node]) -> None:
    running = [node for node in nodes if node.is_up]
    for node in running:
        assert node.process is not None
        node.process.terminate()
    for node in running:
        assert node.process is not None
        try:
            node.process.wait(10)
        except subprocess.TimeoutExpired:
            node.kill()


if __name__ == "__main__":
    sys.exit(main())
