"""Five daemons that elect, and what can be seen of a job from outside: views, journals, takeovers."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from swarm import Daemon, Process, Swarm, wait_for

from peerinfer.committee import ELIGIBLE_AFTER_S
from peerinfer.committees import committees_of
from peerinfer.journal import Chain, entries_of
from peerinfer.manifests import open_manifest
from peerinfer.register import Entry

NAMES = ("ada", "bob", "cyd", "dan", "eve")
POLL_S = 0.03
ENDED = ("done", "failed", "cancelled")
CONNECT_TIMEOUT_S = 60.0


class Five:
    """Daemons with homes of their own that know each other; any of them may be killed and started again."""

    def __init__(self, swarm: Swarm, names: tuple[str, ...] = NAMES) -> None:
        self.swarm = swarm
        self.names = names
        self.daemons: dict[str, Daemon] = {}
        self._eligible_s = 0.0
        """From then on all that run may be elected."""

        self._computing: tuple[str, ...] | None = None
        """Who may compute; None for all."""

        self._stopped: set[str] = set()

    def ensure_up(self, *names: str) -> None:
        """Starts those that do not run; returns when all that run know each other.

        Without names they are all up for long enough to be elected then: `detach` waits for that too.
        """
        down = [name for name in names or self.names if not self.is_up(name)]
        new = list(down)
        running = [daemon for daemon in self.daemons.values() if daemon.code is None]
        if not running:
            first = down.pop(0)
            running = [self._start(first, None)]
        bootstrap = running[0]
        started = [self._start(name, bootstrap) for name in down]
        for daemon in started:
            daemon.wait_ready()
        for name in new:
            self._tell(name)
        if new:
            self._eligible_s = time.monotonic() + ELIGIBLE_AFTER_S + 0.5
        self.wait_connected()
        if not names:
            self._wait_eligible()

    def _wait_eligible(self) -> None:
        wait_for(lambda: time.monotonic() > self._eligible_s)

    def _start(self, name: str, bootstrap: Daemon | None) -> Daemon:
        self.daemons[name] = self.swarm.join(name, bootstrap=bootstrap, wait=bootstrap is None)
        return self.daemons[name]

    def start(self, name: str) -> Daemon:
        """Starts one of them again; it is not ready yet."""
        others = [daemon for other, daemon in self.daemons.items() if other != name and daemon.code is None]
        return self.swarm.join(name, bootstrap=others[0], wait=False)

    def wait_connected(self) -> None:
        running = [daemon for daemon in self.daemons.values() if daemon.code is None]
        wanted = {daemon.peer_id for daemon in running}

        def all_know_all() -> bool:
            return all(
                wanted
                <= {daemon.peer_id}
                | {peer["peer_id"] for peer in daemon.ask("GET", "/peers") if peer["state"] == "alive"}
                for daemon in running
            )

        wait_for(all_know_all, timeout_s=CONNECT_TIMEOUT_S, saying="the daemons to know each other")

    def is_up(self, name: str) -> bool:
        return name in self.daemons and self.daemons[name].code is None

    def name_of(self, peer: str) -> str:
        return next(name for name, daemon in self.daemons.items() if daemon.peer_id == peer)

    def __getitem__(self, name: str) -> Daemon:
        return self.daemons[name]

    def home(self, name: str) -> Path:
        return self.swarm.home(name)

    def kill(self, name: str) -> float:
        """As `kill -9`, its device's process included by the kernel. When that was."""
        at_s = time.monotonic()
        self.daemons[name].kill()
        return at_s

    @contextlib.contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        """It neither computes nor answers meanwhile."""
        daemon = self.daemons[name]
        daemon.send(signal.SIGSTOP)
        self._stopped.add(name)
        try:
            yield
        finally:
            daemon.send(signal.SIGCONT)
            self._stopped.discard(name)
            self._tell(name)

    @contextlib.contextmanager
    def computing(self, *names: str) -> Iterator[None]:
        """Only these compute meanwhile, and nobody else who is started: a job waits, however long things take.

        What a coordinator computes alone is final at once. Of what many compute most is provisional until nearly all is
        computed: others have to compute the same for comparison first.
        """
        before, self._computing = self._computing, names
        self._tell_all()
        try:
            yield
        finally:
            self._computing = before
            self._tell_all()

    def idle(self) -> contextlib.AbstractContextManager[None]:
        """Nobody computes meanwhile."""
        return self.computing()

    def _tell_all(self) -> None:
        for name in self.daemons:
            if self.is_up(name) and name not in self._stopped:
                self._tell(name)

    def _tell(self, name: str) -> None:
        """Whether it may compute. It remembers what it was told before it was killed."""
        if self._computing is None or name in self._computing:
            self.daemons[name].ask("POST", "/node/resume")
        else:
            self.daemons[name].ask("POST", "/node/pause", json={"until_s": None})

    # --- jobs --------------------------------------------------------------------------------------------------------

    def detach(self, name: str, model: Path, inputs: Path, batch: int) -> Job:
        self._wait_eligible()
        # A job fails when nobody computes for as long as its --timeout: while all are idle, say.
        run = self.swarm.run(
            name, "run", model, inputs, "-o", "unused.npz", "--detach", "--json", "--batch", str(batch),
            "--timeout", "10m",
        )  # fmt: skip
        assert run.code == 0, run.told()
        assert run.json["state"] == "running", run.json
        assert len(run.json["committee"]) == 3, run.json
        return Job(self, run.json["job_id"], name, [self.name_of(peer) for peer in run.json["committee"]])


class Job:
    """A detached job as those see it who may coordinate it."""

    def __init__(self, five: Five, job_id: str, submitter: str, committee: list[str]) -> None:
        self.five = five
        self.id = job_id
        self.submitter = submitter
        self.committee = committee

    @property
    def candidates(self) -> list[str]:
        return list(dict.fromkeys([self.submitter, *self.committee]))

    def seen_by(self, name: str, timeout_s: float = 5.0) -> dict[str, Any] | None:
        """What the daemon says of the job, or None if it says nothing now."""
        daemon = self.five[name]
        transport = httpx.HTTPTransport(uds=daemon.ready["api"])
        try:
            with httpx.Client(transport=transport, timeout=timeout_s) as client:
                answer = client.get(f"http://peerinfer/api/v1/jobs/{self.id}")
                return answer.json() if answer.status_code == 200 else None  # type: ignore[no-any-return]
        except httpx.HTTPError:
            return None

    def seen(self, *, but: tuple[str, ...] = ()) -> dict[str, Any]:
        """What the candidate says that knows most: the highest term, then the most final tasks."""
        found = [
            view
            for name in self.candidates
            if name not in but and self.five.is_up(name) and (view := self.seen_by(name)) is not None
        ]
        # An election in progress leaves nobody with a view of the whole.
        known = [view for view in found if view["coordinator"]]
        return max(known, key=_progress, default={"state": "unknown", "term": 0, "final": 0, "coordinator": ""})

    @property
    def coordinator(self) -> str:
        """The name of the daemon that coordinates now."""
        view = wait_for(self._led, timeout_s=30, saying="a coordinator")
        assert view is not None
        return self.five.name_of(view["coordinator"])

    def _led(self) -> dict[str, Any] | None:
        view = self.seen()
        assert view["state"] not in ENDED, f"the job is {view['state']} already: {view}"
        return view if view["state"] == "running" and view["coordinator"] else None

    def wait_final(self, count: int, *, but: tuple[str, ...] = (), timeout_s: float = 60) -> dict[str, Any]:
        """The first view with at least `count` final tasks; the job must not have ended."""

        def far_enough() -> dict[str, Any] | None:
            view = self.seen(but=but)
            assert view["state"] not in ENDED, f"the job is {view['state']} already: {view}"
            return view if view["final"] >= count else None

        found = wait_for(far_enough, timeout_s=timeout_s, saying=lambda: f"{count} final tasks: {self.seen(but=but)}")
        assert found is not None
        return found

    def wait_more(self, count: int, *, but: tuple[str, ...] = ()) -> dict[str, Any]:
        """The first view with more than `count` final tasks, up to all of them."""

        def is_further() -> dict[str, Any] | None:
            view = self.seen(but=but)
            return view if view["final"] > count else None

        found = wait_for(is_further, saying=lambda: f"more than {count} final tasks: {self.seen(but=but)}")
        assert found is not None
        return found

    def wait_term(self, above: int, *, but: tuple[str, ...] = (), timeout_s: float = 30) -> dict[str, Any]:
        """The first view of a term higher than `above`."""

        def taken_over() -> dict[str, Any] | None:
            view = self.seen(but=but)
            return view if view["term"] > above and view["state"] in ("running", *ENDED) else None

        found = wait_for(taken_over, timeout_s=timeout_s, saying=f"a term above {above}")
        assert found is not None
        return found

    def wait_ended(self, *, but: tuple[str, ...] = (), timeout_s: float = 120) -> dict[str, Any]:
        def ended() -> dict[str, Any] | None:
            view = self.seen(but=but)
            return view if view["state"] in ENDED else None

        found = wait_for(ended, timeout_s=timeout_s, saying=lambda: f"the end: {self.seen(but=but)}")
        assert found is not None
        return found

    def fetch(self, name: str, out: Path) -> Process:
        fetched = self.five.swarm.run(name, "jobs", "fetch", self.id, "-o", out)
        assert fetched.code == 0, fetched.told()
        return fetched

    # --- journals ----------------------------------------------------------------------------------------------------

    def journal(self, name: str) -> Chain:
        """What the elector has on its disk. Raises ProtocolError if any batch is not sound."""
        database = self.five.home(name) / "seats.db"
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as connection:
            query = "SELECT manifest, epochs FROM seats WHERE job = ?"
            manifest, epochs = connection.execute(query, (self.id,)).fetchone()
            batches = [
                signed
                for (signed,) in connection.execute(
                    "SELECT signed FROM batches WHERE job = ? ORDER BY sequence", (self.id,)
                )
            ]
        chain = Chain()
        job, opened = open_manifest(manifest)
        changes = [bytes.fromhex(each) for each in json.loads(epochs)[0]] if epochs else []
        committees, _ = committees_of(job, opened, changes)
        if batches:
            last = Chain()
            for batch in batches:
                last.take(batch)
            chain.extend(job, opened, last.last_term, batches, committees=committees)
        return chain

    def left_on_disks(self) -> list[str]:
        """What the job still takes beside the journals: pins anywhere, results at other nodes than its submitter."""
        found = []
        for name in self.five.names:
            home = self.five.home(name)
            found += [f"{name}: pin {path.name}" for path in (home / "blobs" / "pins").iterdir()]
            spool = home / "jobs" / f"{self.id}.spool"
            if name != self.submitter and spool.exists():
                found.append(f"{name}: {spool.stat().st_size} bytes of results")
        return found

    def check_journals(self, *, tasks: int, state: str = "done") -> list[Entry]:
        """Every task is accepted once, a quorum holds the same whole journal, nobody holds another. Returns its entries."""
        chains = {name: self.journal(name) for name in self.committee}
        longest = max(chains.values(), key=len)
        complete = [name for name, chain in chains.items() if chain.ended and chain.end == longest.end]
        assert longest.ended == state, f"the journal ends with {longest.ended!r}"
        assert len(complete) >= 2, f"only {complete} hold the journal up to its end"
        entries: list[Entry] = []
        for sequence in range(longest.end):
            entries += entries_of(longest.batch(sequence))
        written = [entry.task for entry in entries]
        assert len(written) == len(set(written)), "a task was accepted twice"
        for name, chain in chains.items():
            for mine in chain.register.entries():
                assert longest.register.get(mine.task) == mine, f"{name} holds another result of task {mine.task}"
        if state == "done":
            assert sorted(written) == list(range(tasks)), f"{tasks - len(written)} tasks are not in the journal"
        terms = [term.round for term, _ in longest.handovers()]
        assert terms == sorted(set(terms)), f"terms {terms}"
        return entries


def _progress(view: dict[str, Any]) -> tuple[bool, int, int]:
    return (view["state"] in ENDED, view["term"], view["final"])
