"""HTTP in front of a daemon: what the gateway adds to a request, how many it takes, and what readers of events cost.

A real `peerinfer join` on one core, that computes what it is asked itself; clients on bare sockets in this process, on the
other cores. What the gateway adds is each request's time less what the daemon says it took without HTTP (`Server-Timing`).
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import psutil
import trio
import workload
from harness import Measurement, percentile
from trio_websocket import open_websocket_url

sys.path.append(str(Path(__file__).resolve().parents[1]))

from swarm import Swarm

CLIENTS = 16
READERS = 100


async def run(quick: bool) -> list[Measurement]:
    with tempfile.TemporaryDirectory(prefix="peerinfer-bench-") as folder, Swarm(Path(folder)) as swarm:
        models = Path(folder) / "models"
        models.mkdir()
        (models / "mlp.onnx").write_bytes(workload.model())
        daemon = swarm.join("ada", "--api", "127.0.0.1:0", "--models", models)
        port = int(str(daemon.ready["http"]).rpartition(":")[2])
        token = Path(daemon.ready["token_file"]).read_text().strip()  # noqa: ASYNC240
        process = psutil.Process(daemon.pid)
        request = _request(token)
        _pin(process)
        one = await _Client.connect(port)
        for _ in range(50):
            await one.ask(request)
        times = [await one.ask(request) for _ in range(300 if quick else 1500)]
        answered, spent, cpu_s = await _many(port, request, process, 2.0 if quick else 5.0)
        readers = await _readers(daemon.ready["http"], token, process, 5.0 if quick else 15.0)
    return [
        Measurement("gateway_overhead_p50", percentile([whole - own for whole, own in times], 50), "ms", budget=3.0),
        Measurement("gateway_request_p50", percentile([whole for whole, _ in times], 50), "ms"),
        Measurement("gateway_requests", answered / spent, "requests/s", "higher", budget=300),
        Measurement("gateway_requests_per_core", answered / cpu_s, "requests/s", "higher", budget=300),
        Measurement("gateway_100_readers", readers, "% of a core", budget=5.0),
    ]


def _pin(process: psutil.Process) -> None:
    """The daemon and its device's process share one core, and whoever asks has the others."""
    cores = process.cpu_affinity()
    for each in (process, *process.children(recursive=True)):
        each.cpu_affinity(cores[:1])
    if len(cores) > 1:
        psutil.Process().cpu_affinity(cores[1:])


def _request(token: str) -> bytes:
    rows = workload.inputs(1)
    given = {"name": workload.INPUT_NAME, "shape": list(rows.shape), "datatype": "FP32"}
    text = json.dumps({
        "inputs": [{**given, "parameters": {"binary_data_size": rows.nbytes}}], "parameters": {"binary_data_output": True}
    }).encode()  # fmt: skip
    head = (
        f"POST /v2/models/mlp/infer HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        f"Inference-Header-Content-Length: {len(text)}\r\nContent-Length: {len(text) + rows.nbytes}\r\n\r\n"
    )
    return head.encode() + text + rows.tobytes()


class _Client:
    """One connection that is kept open."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._unread = b""

    @classmethod
    async def connect(cls, port: int) -> _Client:
        return cls(await trio.open_tcp_stream("127.0.0.1", port))

    async def ask(self, request: bytes) -> tuple[float, float]:
        """Milliseconds of the whole request, and what the daemon took of them without HTTP."""
        started = perf_counter()
        await self._stream.send_all(request)
        while b"\r\n\r\n" not in self._unread:
            self._unread += await self._received()
        head, _, rest = self._unread.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise ValueError(f"the gateway refused: {head[:200]!r} {rest[:200]!r}; the measurement is void")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        length = int(fields[b"content-length"])
        while len(rest) < length:
            rest += await self._received()
        self._unread = rest[length:]
        return (perf_counter() - started) * 1e3, float(fields[b"server-timing"].rpartition(b"=")[2])

    async def _received(self) -> bytes:
        data = bytes(await self._stream.receive_some(65536))
        if not data:
            raise ValueError("the gateway closed a connection; the measurement is void")
        return data


async def _many(port: int, request: bytes, process: psutil.Process, seconds: float) -> tuple[int, float, float]:
    """Requests that were answered, in how many seconds, and the daemon's processor seconds for them."""
    answered = 0
    clients = [await _Client.connect(port) for _ in range(CLIENTS)]
    before, started = process.cpu_times(), perf_counter()

    async def go_on(client: _Client) -> None:
        nonlocal answered
        while perf_counter() - started < seconds:
            await client.ask(request)
            answered += 1

    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(go_on, client)
    spent, after = perf_counter() - started, process.cpu_times()
    return answered, spent, after.user + after.system - before.user - before.system


async def _readers(url: str, token: str, process: psutil.Process, seconds: float) -> float:
    """Percent of a core that the daemon spends on readers of events, while nothing but time changes its picture."""
    headers = [("Authorization", f"Bearer {token}")]
    ready = 0

    async def read() -> None:
        nonlocal ready
        async with open_websocket_url(f"{url.replace('http', 'ws')}/api/v1/events", extra_headers=headers) as socket:
            await socket.get_message()
            ready += 1
            while True:
                await socket.get_message()

    async with trio.open_nursery() as nursery:
        for _ in range(READERS):
            nursery.start_soon(read)
        with trio.fail_after(60):
            while ready < READERS:  # noqa: ASYNC110  (there is no event)
                await trio.sleep(0.05)
        await trio.sleep(2.0)
        before, started = process.cpu_times(), perf_counter()
        await trio.sleep(seconds)
        after, spent = process.cpu_times(), perf_counter() - started
        nursery.cancel_scope.cancel()
    return 100 * (after.user + after.system - before.user - before.system) / spent
