"""A fake node behind the gateway's TCP door, for the tests of what stands at it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

sys.path.insert(0, str(Path(__file__).parents[1]))

from fake_control import FakeControl

from peerinfer_node.gateway.server import TcpDoor, open_gateway
from peerinfer_node.log import Log

TOKEN = "t" * 43


class Door:
    def __init__(self, fake: FakeControl, url: str, socket: Path) -> None:
        self.fake = fake
        self.url = url
        self.socket = socket
        self.log = Log()
        self.notes: list[str] = []

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def ask(self, method: str, path: str, *, token: str | None = TOKEN, **options: Any) -> httpx.Response:
        headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **options.pop("headers", {})}
        async with httpx.AsyncClient(base_url=self.url, timeout=60, trust_env=False) as http:
            return await http.request(method, path, headers=headers, **options)

    async def answers(
        self, status: int, method: str = "GET", path: str = "/api/v1/node", **options: Any
    ) -> httpx.Response:
        """The first answer of this status; what is to happen before it takes its time."""
        while True:
            answer = await self.ask(method, path, **options)
            if answer.status_code == status:
                return answer
            await trio.sleep(0.01)

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    @asynccontextmanager
    async def events(self, *, token: str = TOKEN, **options: Any) -> AsyncIterator[WebSocketConnection]:
        headers = [("Authorization", f"Bearer {token}")]
        url = self.url.replace("http", "ws") + "/api/v1/events"
        # Who was cut off need not be waited for: the other side will not say goodbye.
        options = {"max_message_size": 1 << 27, "disconnect_timeout": 2, **options}
        async with open_websocket_url(url, extra_headers=headers, **options) as socket:
            yield socket


async def read_to_end(socket: WebSocketConnection) -> tuple[list[str], int | None, str]:
    """Everything that still comes, and how it was closed: code (None: cut off) and reason."""
    found = []
    try:
        while True:
            found.append(await socket.get_message())
    except ConnectionClosed as closed:
        reason = closed.reason
        return found, reason and reason.code, str(reason and reason.reason)


@asynccontextmanager
async def open_door(folder: Path, fake: FakeControl | None = None, *, host: str = "127.0.0.1") -> AsyncIterator[Door]:
    door = Door(fake or FakeControl(), "", folder / "p.sock")
    with trio.fail_after(120):
        tcp = TcpDoor(host, 0, TOKEN)
        async with open_gateway(door.fake, door.socket, door.notes.append, tcp=tcp, log=door.log) as url:
            door.url = url.replace("0.0.0.0", "127.0.0.1")
            yield door


async def eventually(check: Any) -> None:
    with trio.fail_after(60):
        while not check():  # noqa: ASYNC110  # what is waited for has no event
            await trio.sleep(0.01)
