"""A node that is not there: implements `Control` over jobs that go on as time passes. For tests of what stands on it."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import trio

from peerinfer.contribution import Contribution
from peerinfer.control import JOB_ENDED, JobRequest, Json, ResultBlock
from peerinfer.errors import InputError, PeerinferError, UnknownJob, UsageError

PEER = "12D3KooWNkwB1AwPiBysGbgepv9Ldv7crtccTJWdER5oVB2mss5S"
OTHER = "12D3KooWRBhwfeP2Y4TCx1SM6s9rUoHhR5STiGwxBhgFRcw3UERE"


@dataclasses.dataclass
class FakeJob:
    request: JobRequest
    items: int
    items_per_task: int
    state: str = "running"
    accepted: int = 0
    failed: dict[int, str] = dataclasses.field(default_factory=dict)
    reason: str = ""
    kind: str = ""

    @property
    def tasks(self) -> int:
        return -(-self.items // self.items_per_task)


class FakeControl:
    """`FakeControl(items=…)` runs every job over so many items, `task_s` seconds per task; output y is the item's number.

    `fails` names tasks that fail for good, `ends` a (state, reason, kind) instead of the ordinary end, `errors` an error
    for a call, by its name. `calls` remembers what was asked.
    """

    def __init__(self, *, items: int = 10, items_per_task: int = 2, task_s: float = 0.0) -> None:
        self.items = items
        self.items_per_task = items_per_task
        self.task_s = task_s
        self.fails: dict[int, str] = {}
        self.ends: tuple[str, str, str] | None = None
        self.warnings: list[str] = []
        self.withheld: set[int] = set()
        self.missing: list[str] = []
        self.unreached: list[Json] = []
        self.errors: dict[str, Exception] = {}
        self.calls: list[tuple[str, Any]] = []
        self.state = "running"
        self.reachability = "unknown"
        self.until_s: float | None = None
        self.limits: list[Json] = []
        self.has_left = trio.Event()
        self.streams_open = 0
        self.held_jobs: dict[str, FakeJob] = {}
        self._changed = trio.Event()

    # --- the node ----------------------------------------------------------------------------------------------------

    async def status(self) -> Json:
        self._note("status")
        return {
            "peer_id": PEER,
            "name": "fake",
            "swarm": "",
            "addresses": [f"/ip4/127.0.0.1/tcp/4001/p2p/{PEER}"],
            "state": self.state,
            "reasons": [{"reason": "paused by its owner", "until": self.until_s}] * (self.state == "paused")
            + self.limits,
            "reachability": self.reachability,
            "unreached": self.unreached,
            "peers": {"alive": 1, "suspect": 0, "relayed": 0},
            "devices": await self.devices(),
            "jobs_coordinated": sum(job.state == "running" for job in self.held_jobs.values()),
            "sandbox": "full",
            "version": "0.1.0",
            "pid": 1,
            "api": "/run/peerinfer.sock",
        }

    async def peers(self) -> list[Json]:
        self._note("peers")
        return [
            {
                "peer_id": OTHER,
                "name": "evil \x1b[31mname\u202e",
                "state": "alive",
                "path": "direct",
                "rtt_ms": 1.25,
                "devices": [{"name": "cpu", "kind": "cpu"}],
                "reputation": {"integrity": None, "reliability": None, "evidence": 0},
                "queue": 0,
                "last_seen_s": 0.5,
            }
        ]

    async def why(self, model: str) -> list[Json]:
        self._note("why", model)
        if not await trio.Path(model).is_file():
            raise InputError(f"there is no model file {model}")
        (peer,) = await self.peers()
        return [{**peer, "eligible": False, "why": "it lends no device"}]

    async def reputation(self, peer: str | None = None) -> list[Json]:
        self._note("reputation", peer)
        given = Contribution(1.0, 2.0, 3, 4, 5.0, 6.0, 7.0).shown()
        standing = {"integrity": 0.9, "reliability": 0.8, "contribution": given, "words": ["passed 40 checks"]}
        return [{"peer_id": peer or "12D3KooWada", **standing}]

    async def forecast(self, request: JobRequest) -> Json:
        self._note("forecast", request)
        return {
            "eligible": [],
            "excluded": [{"reason": "it lends no device", "count": 1, "peers": ["12D3KooW"]}],
            "expected_s": None,
            "interval_s": None,
            "measured": 0,
            "tasks": 1,
            "items_per_task": 1,
            "seconds_per_item": 0.001,
        }

    async def devices(self) -> list[Json]:
        self._note("devices")
        return [
            {
                "selector": "cpu",
                "name": "cpu-0",
                "kind": "cpu",
                "provider": "CPUExecutionProvider",
                "vendor_id": 0,
                "device_id": 0,
                "vram_bytes": 8 << 30,
                "temperature_c": None,
                "power_w": None,
                "busy_ratio": 0.5,
                "benchmark": {"gemm_gflops": 12.5, "bandwidth_gbs": 9.0},
                "certified": True,
                "state": self.state,
                "reasons": [],
            }
        ]

    async def models(self) -> list[Json]:
        self._note("models")
        return [{"cid": "bafkrei" + "a" * 52, "bytes": 1024, "loaded": True}]

    async def pause(self, *, until_s: float | None) -> None:
        self._note("pause", until_s)
        self.state, self.until_s = "paused", until_s

    async def resume(self) -> None:
        self._note("resume")
        self.state, self.until_s = "running", None

    async def finish(self) -> None:
        self._note("finish")
        self.state = "finishing"

    async def leave(self) -> None:
        self._note("leave")
        self.has_left.set()

    # --- jobs --------------------------------------------------------------------------------------------------------

    async def submit(self, request: JobRequest) -> str:
        self._note("submit", request)
        for path in (request.model, *request.inputs):
            if not Path(path).exists():  # noqa: ASYNC240
                raise InputError(f"there is no file {path}; check the path")
        job = f"{len(self.held_jobs) + 1:032x}"
        self.held_jobs[job] = FakeJob(request, self.items, request.batch or self.items_per_task)
        return job

    async def jobs(self) -> list[Json]:
        self._note("jobs")
        return [await self.job(job) for job in self.held_jobs]

    async def job(self, job: str) -> Json:
        self._note("job", job)
        held = self._held(job)
        return {
            "job_id": job,
            "state": held.state,
            "submitter": PEER,
            "coordinator": PEER,
            "term": 1,
            "committee": [PEER],
            "items": held.items,
            "tasks": held.tasks,
            "items_per_task": held.items_per_task,
            "model": held.request.model,
            "inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 3, 8, 8]}],
            "outputs": [{"name": "y", "dtype": "float32", "shape": [-1, 2]}],
            "warnings": self.warnings,
            "accepted": held.accepted,
            "final": held.accepted,
            "failed": [
                {
                    "task": task,
                    "first_item": task * held.items_per_task,
                    "items": min(held.items_per_task, held.items - task * held.items_per_task),
                    "reason": reason,
                }
                for task, reason in held.failed.items()
            ],
            "failed_tasks": len(held.failed),
            "retried": 0,
            "hedged": 0,
            "audited": held.accepted,
            "audits_failed": 0,
            "peers": [{"peer_id": OTHER, "tasks": held.accepted}],
            "blocked": "",
            "verify": held.request.verify,
            "strategy": held.request.strategy,
            "created": 0.0,
            "elapsed_s": 0.5,
            "handovers": [],
            "reason": held.reason,
            "kind": held.kind,
        }

    async def watch(self, job: str) -> AsyncIterator[Json]:
        self._note("watch", job)
        held = self._held(job)
        self.streams_open += 1
        try:
            task = held.accepted + len(held.failed)
            while held.state not in JOB_ENDED:
                yield await self.job(job)
                if task == held.tasks:
                    held.state = "done"
                elif self.ends is not None:
                    held.state, held.reason, held.kind = self.ends
                else:
                    self._changed = trio.Event()
                    with trio.move_on_after(self.task_s) as waiting:
                        await self._changed.wait()
                    if waiting.cancelled_caught:
                        if task in self.fails:
                            held.failed[task] = self.fails[task]
                        else:
                            held.accepted += 1
                        task += 1
            yield await self.job(job)
        finally:
            self.streams_open -= 1

    async def results(self, job: str) -> AsyncIterator[ResultBlock]:
        self._note("results", job)
        held = self._held(job)
        self.streams_open += 1
        try:
            # The last ones first: nobody may rely on the order.
            for task in reversed(range(held.tasks)):
                await trio.lowlevel.checkpoint()
                first = task * held.items_per_task
                count = min(held.items_per_task, held.items - first)
                if task in held.failed or task in self.withheld:
                    continue
                numbers = np.arange(first, first + count, dtype=np.float32)
                yield ResultBlock(first, count, {"y": np.stack([numbers, -numbers], axis=1)})
        finally:
            self.streams_open -= 1

    async def provenance(self, job: str) -> Json:
        self._note("provenance", job)
        return {"job_id": job, "model": {"cid": "bafkrei"}, "receipts": []}

    async def timeline(self, job: str) -> list[Json]:
        self._note("timeline", job)
        self._held(job)
        return [
            {"frame": 1, "peer": OTHER, "tasks": 2, "at_s": 0.0, "queue_s": 0.1, "transfer_s": 0.2, "compute_s": 0.3}
        ]

    async def cancel(self, job: str) -> None:
        self._note("cancel", job)
        held = self._held(job)
        if held.state in JOB_ENDED:
            raise UsageError(f"job {job} has ended already: {held.state}")
        held.state = "cancelled"
        self._changed.set()

    async def prioritise(self, job: str, priority: str) -> None:
        self._note("prioritise", (job, priority))
        self._held(job)

    async def rescue(self, job: str, *, confirmed: bool) -> Json:
        self._note("rescue", (job, confirmed))
        held = self._held(job)
        if not self.missing:
            raise UsageError(f"job {job} needs no rescue: 3 of 3 electors answer, 2 are needed")
        if confirmed:
            held.state, self.missing = "running", []
        plan: Json = {"job_id": job, "generation": int(confirmed), "quorum": 2, "answering": ["a"], "named": 2}
        plan |= {"missing": ["b", "c"], "committee": ["a", "d", "e"], "carried": 2 if confirmed else None}
        return plan | {"state": held.state if confirmed else "paused"}

    # --- inside ------------------------------------------------------------------------------------------------------

    def _note(self, call: str, argument: Any = None) -> None:
        self.calls.append((call, argument))
        if call in self.errors:
            raise self.errors[call]

    def _held(self, job: str) -> FakeJob:
        if job not in self.held_jobs:
            raise UnknownJob(f"there is no job {job[:40]!r}; `peerinfer jobs` lists them")
        return self.held_jobs[job]


def crash() -> Exception:
    """An error that nobody expects, with something in it that no client may see."""
    return RuntimeError("secret detail /home/somebody")


def refusal() -> PeerinferError:
    return InputError("input 'x': expected float32[?, 4], given float64[10, 4]")
