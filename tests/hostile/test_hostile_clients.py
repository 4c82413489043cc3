"""Clients of the HTTP door that mean it no good, all at once, against a real daemon: each has its status, it stays small.

The figures go into the report of the test run (`record_property`) and to stdout (`-s`).
"""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from process_memory import allocated_bytes
from swarm import Daemon, Swarm, wait_for

from peerinfer_node.gateway.server import KEEP_ALIVE_S, TCP_CONNECTIONS_MAX

pytestmark = pytest.mark.slow

IDLE = 2000
SLOW = 100
GROWTH_MIB_MAX = 128
"""One body may be held up to its 64 MiB; connections and their buffers take some more."""

Record = Callable[[str, object], None]


class Door:
    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.port = int(str(daemon.ready["http"]).rpartition(":")[2])
        self.token = Path(daemon.ready["token_file"]).read_text().strip()
        self.process = psutil.Process(daemon.pid)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def head(self, method: str, path: str, *fields: str, host: str = "localhost", token: str | None = None) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {token or self.token}", *fields]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def status(self, request: bytes) -> int:
        """What a whole request is answered with; 0 if the connection is closed without a word."""
        with self.connect() as stream:
            stream.settimeout(60)
            with contextlib.suppress(ConnectionError):
                stream.sendall(request)
            with contextlib.suppress(ConnectionError):
                answer = stream.recv(65536)
                return int(answer.split(b" ", 2)[1]) if answer else 0
        return 0

    def lives(self) -> bool:
        """Its owner is answered at its own socket whatever goes on at this door."""
        transport = httpx.HTTPTransport(uds=self.daemon.ready["api"])
        with httpx.Client(transport=transport, base_url="http://x", timeout=60) as http:
            return http.get("/api/v1/node").status_code == 200

    @property
    def allocated_mib(self) -> float:
        return float(allocated_bytes(self.daemon.pid)) / (1 << 20)


@pytest.fixture(scope="module")
def door(shared: Swarm) -> Iterator[Door]:
    found = Door(shared.join("ada", "--api", "127.0.0.1:0"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 3 * IDLE)), hard))
    yield found
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found.lives()


def test_idle_connections_slow_bodies_and_gigabytes_together_leave_the_daemon_small(
    door: Door, record_property: Record
) -> None:
    before, files = door.allocated_mib, door.process.num_fds()
    peak = before
    with contextlib.ExitStack() as open_ones:
        slow = [open_ones.enter_context(door.connect()) for _ in range(SLOW)]
        for stream in slow:  # eight megabytes are promised, and a byte comes now and then
            stream.sendall(door.head("POST", "/api/v1/jobs", "Content-Length: 8000000") + b"{")
        for _ in range(IDLE):
            with contextlib.suppress(OSError):
                open_ones.enter_context(door.connect())
        told = set()
        for _ in range(5):
            told.add(door.status(door.head("GET", "/api/v1/node")))
            for stream in slow:
                with contextlib.suppress(OSError):
                    stream.sendall(b" ")
            peak = max(peak, door.allocated_mib)
            assert door.lives()
            time.sleep(0.1)  # the byte now and then
        assert door.process.num_fds() - files <= TCP_CONNECTIONS_MAX + 64
        # On a busy machine the first of them may have been closed for their silence before the last round.
        assert told & {0, 503}, "beyond the limit one is told to come back"
    wait_for(
        lambda: door.status(door.head("GET", "/api/v1/node")) == 200, timeout_s=KEEP_ALIVE_S + 60, saying="room again"
    )
    announced = door.status(door.head("POST", "/api/v1/jobs", "Content-Length: 1000000000"))
    assert announced == 413
    with door.connect() as stream:  # the same without an announcement, as fast as it is taken
        stream.sendall(door.head("POST", "/v2/models/x/infer", "Transfer-Encoding: chunked"))
        chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 1000:
                stream.sendall(chunk)
                sent += 1
                peak = max(peak, door.allocated_mib)
        assert sent < 200, "a gigabyte was taken"
    assert door.lives()
    wait_for(lambda: door.process.num_fds() <= files + 16, timeout_s=KEEP_ALIVE_S + 60, saying="the files to be closed")
    record_property("growth_mib", round(peak - before, 1))
    print(
        f"{before:.0f} MiB before, {peak:.0f} MiB at most with {IDLE} idle and {SLOW} slow connections and a gigabyte"
    )
    assert peak - before < GROWTH_MIB_MAX


def test_floods_of_websockets_are_turned_away_and_leave_nothing(door: Door, record_property: Record) -> None:
    before, files = door.allocated_mib, door.process.num_fds()
    upgrade = (
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: " + "A" * 22 + "==",
    )
    frame = bytes([0x81, 0xFE, 0xFF, 0xFF]) + bytes(4) + b"x" * 0xFFFF  # 64 KiB of text, masked by zeros
    answers: dict[bytes, int] = {}
    with contextlib.ExitStack() as open_ones:
        for _ in range(300):
            with contextlib.suppress(OSError):
                stream = open_ones.enter_context(door.connect())
                stream.sendall(door.head("GET", "/api/v1/events", *upgrade))
                status = stream.recv(12)[9:12]
                answers[status] = answers.get(status, 0) + 1
                stream.settimeout(0.05)
                for _ in range(4):
                    stream.sendall(frame)  # nobody reads them there but to count
        peak = door.allocated_mib
        assert door.lives()
    assert answers.get(b"101", 0) > 0
    assert set(answers) <= {b"101", b"503", b""}, answers
    wait_for(lambda: door.process.num_fds() <= files + 16, timeout_s=60, saying="the sockets to be closed")
    record_property("growth_mib", round(peak - before, 1))
    print(f"{before:.0f} MiB before, {peak:.0f} MiB with a flood of messages; {answers}")
    assert peak - before < GROWTH_MIB_MAX


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/v2/models/../../../etc/passwd",
        "/v2/models/..%2f..%2fetc%2fpasswd/infer",
        "/api/v1/blobs/../../../identity.key",
        "/api/v1/jobs/%2e%2e%2fnode",
        "/docs/../../../../etc/passwd",
        "//etc/passwd",
        "/v2/repository/models/..%5c..%5cx/load",
    ],
)
def test_paths_that_lead_elsewhere_lead_nowhere(door: Door, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        assert door.status(door.head(method, path, "Content-Length: 0")) in (400, 404, 405)


def test_what_has_no_right_to_ask_is_told_so(door: Door) -> None:
    assert door.status(door.head("GET", "/api/v1/node")) == 200
    assert door.status(door.head("GET", "/api/v1/node", token="x" * 43)) == 401
    for host in ("evil.example", "evil.example:80", f"127.0.0.1.evil.example:{door.port}", "[::1].evil"):
        assert door.status(door.head("GET", "/api/v1/node", host=host)) in (400, 403, 421)
    for nonsense in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"\x00" * 4096, b"GET / HTTP/9.9\r\n\r\n"):
        assert door.status(nonsense) in (0, 400, 403, 505)
    huge = b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n"
    assert door.status(huge) in (0, 400, 413, 431)
