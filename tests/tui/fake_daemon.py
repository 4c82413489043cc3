"""A daemon's control API in this process: HTTP/1.1 over a Unix socket, with answers that a test may change."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

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
    """Serves `answers` (path to JSON value) at `path` while its context is open; may be opened again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers = picture()
        self.posted: list[str] = []
        self.bodies: list[Any] = []
        """What came with the requests in `posted`; None for none."""
        self.asked: list[str] = []
        self.refusal: str | None = None
        """When set, what everything but GET is refused with."""
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> FakeDaemon:
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        self._writers.clear()
        self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                method, path, _ = request.decode().split(" ", 2)
                length = re.search(rb"(?i)content-length: *([0-9]+)", request)
                body = await reader.readexactly(int(length[1])) if length else b""
                status, answer = self._answer(method, path, json.loads(body) if body else None)
                said = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(said)}\r\n\r\n".encode() + said)
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    def _answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        self.asked.append(path)
        if method != "GET":
            self.posted.append(path if method == "POST" else f"{method} {path}")
            self.bodies.append(body)
            return (409, {"error": self.refusal}) if self.refusal is not None else (200, {})
        if path in self.answers:
            return (200, self.answers[path])
        job = path.removeprefix("/api/v1/jobs/")
        found = [each for each in self.answers["/api/v1/jobs"] if each["job_id"] == job]
        return (200, found[0]) if found else (404, {"error": "no such page"})
