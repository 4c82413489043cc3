"""The network of a node that has none: a job runs on its own devices."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager

import trio

from peerinfer.errors import DialFailed
from peerinfer.ids import PeerId
from peerinfer_node.ports import Hole, NetworkEvent, Stream, StreamHandler


class OfflineNetwork:
    """Implements `Network`: no addresses, no peers, no events."""

    def __init__(self, peer_id: PeerId) -> None:
        self._peer_id = peer_id

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    def addresses(self) -> tuple[str, ...]:
        return ()

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        del protocol, handler

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        yield

    async def dial(self, address: str) -> PeerId:
        raise DialFailed(f"{address} is not dialled: this node runs without a network")

    async def answers_at(self, address: str) -> bool:
        del address
        return False

    def remote_host(self, peer: PeerId) -> str:
        del peer
        return ""

    def dig(self, host: str) -> AbstractContextManager[Hole]:
        raise DialFailed(f"{host} is not met: this node runs without a network")

    async def punch(self, hole: Hole, peer: PeerId, host: str, port: int, *, opens: bool, within_s: float) -> None:
        raise DialFailed(f"{peer} is not met: this node runs without a network")

    async def open_stream(self, peer: PeerId, protocol: str) -> Stream:
        raise DialFailed(f"{peer} cannot be reached for {protocol}: this node runs without a network")

    async def disconnect(self, peer: PeerId) -> None:
        del peer

    def connected(self) -> list[PeerId]:
        return []

    def path(self, peer: PeerId) -> str:
        return "local" if peer == self._peer_id else ""

    def streams(self, peer: PeerId) -> int:
        del peer
        return 0

    async def events(self) -> AsyncIterator[NetworkEvent]:
        await trio.sleep_forever()
        return
        yield
