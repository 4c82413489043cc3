"""A daemon's control API in this process: HTTP and events over a Unix socket, with answers that a test may change."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
from pathlib import Path
from typing import Any

from aiohttp import web

LOOK_S = 0.02
"""Changes of the answers are told so soon."""

PEER = "12D3KooWAlder1111111111111111111111111111AAAAbbbb"
OTHER = "12D3KooWBirch1111111111111111111111111111CCCCdddd"


def picture() -> dict[str, Any]:
    """What a small, healthy node would say."""
    return {
        "/api/v1/node": {
            "peer_id": PEER,
            "name": "alder",
            "swarm": "",
            "state": "running",
            "reasons": [],
            "reachability": "direct",
            "peers": {"alive": 1, "suspect": 0, "relayed": 0},
            "sandbox": "full",
            "version": "0.1.0",
            "pid": 4711,
        },
        "/api/v1/devices": [
            {
                "name": "cpu",
                "kind": "cpu",
                "provider": "CPUExecutionProvider",
                "vram_bytes": 16 << 30,
                "temperature_c": 54.0,
                "power_w": None,
                "busy_ratio": 0.4,
                "benchmark": {"gemm_gflops": 210.0, "bandwidth_gbs": 20.0},
                "certified": True,
                "state": "running",
                "reasons": [],
            }
        ],
        "/api/v1/peers": [
            {
                "peer_id": OTHER,
                "name": "birch",
                "state": "alive",
                "path": "direct",
                "rtt_ms": 1.4,
                "devices": ["cpu"],
                "queue": 2,
                "last_seen_s": 0.3,
            }
        ],
        "/api/v1/jobs": [
            {
                "job_id": "0123456789abcdef0123456789abcdef",
                "state": "running",
                "coordinator": PEER,
                "items": 1000,
                "tasks": 100,
                "accepted": 40,
                "failed": [],
                "elapsed_s": 4.0,
            }
        ],
    }


class FakeDaemon:
    """Serves `answers` (path to JSON value) at `path` while its context is open; may be opened again.

    Its events tell of every change of `answers`; an answer that is bytes goes out as it is, in the place of a message.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers = picture()
        self.log: list[dict[str, Any]] = []
        self.posted: list[str] = []
        self.bodies: list[Any] = []
        """What came with the requests in `posted`; None for none."""
        self.asked: list[str] = []
        self.refusal: str | None = None
        """When set, what everything but GET is refused with."""
        self.readers = 0
        self._runner: web.AppRunner | None = None
        self._ended = asyncio.Event()

    async def __aenter__(self) -> FakeDaemon:
        app = web.Application()
        app.router.add_get("/api/v1/events", self._events)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._ended = asyncio.Event()
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self.path)).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        self._ended.set()
        await self._runner.cleanup()
        self.path.unlink(missing_ok=True)

    async def _events(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.readers += 1
        told: dict[str, Any] | None = None
        try:
            while not self._ended.is_set() and not socket.closed:
                strange = next((each for each in self.answers.values() if isinstance(each, bytes)), None)
                if strange is not None:
                    await socket.send_str(strange.decode("latin-1"))
                    break
                now = {"log": list(self.log)} | {
                    name: copy.deepcopy(self.answers[f"/api/v1/{name}"])
                    for name in ("node", "devices", "peers", "jobs")
                }
                message = {"event": "snapshot", **now} if told is None else _changes(told, now)
                if message is not None:
                    await socket.send_str(json.dumps(message))
                told = now
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ended.wait(), LOOK_S)
            await socket.close(code=1001, message=b"the node ends")
        finally:
            self.readers -= 1
        return socket

    async def _answer(self, request: web.Request) -> web.Response:
        method, path = request.method, request.path
        self.asked.append(path)
        if method != "GET":
            body = await request.read()
            self.posted.append(path if method == "POST" else f"{method} {path}")
            self.bodies.append(json.loads(body) if body else None)
            if self.refusal is not None:
                return web.json_response({"error": self.refusal}, status=409)
            return web.json_response({})
        if path in self.answers:
            return web.json_response(self.answers[path])
        job = path.removeprefix("/api/v1/jobs/")
        found = [each for each in self.answers["/api/v1/jobs"] if each["job_id"] == job]
        return web.json_response(found[0]) if found else web.json_response({"error": "no such page"}, status=404)


def _changes(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any] | None:
    found: dict[str, Any] = {name: now[name] for name in ("node", "devices") if now[name] != before[name]}
    for name, key in (("peers", "peer_id"), ("jobs", "job_id")):
        held = {each[key]: each for each in before[name]}
        changed = [each for each in now[name] if held.get(each[key]) != each]
        gone = [each for each in held if each not in {one[key] for one in now[name]}]
        if changed or gone:
            found[name] = {"changed": changed, "gone": gone}
    lines = now["log"][len(before["log"]) :]
    if lines:
        found["log"] = lines
    return {"event": "changes", **found} if found else None
