"""A network of loopback streams for tests: who is there, and what happens at the other end, is up to the test."""

from __future__ import annotations

import trio
from role_world import Side

from peerinfer.errors import DialFailed
from peerinfer.ids import PeerId
from peerinfer_node.keys import MemoryKeys
from peerinfer_node.network.loopback import LoopbackStream, stream_pair
from peerinfer_node.ports import StreamHandler


class Wires:
    """What `ports.Network` offers to whoever opens streams. A peer answers by its handler, or by the test's hand."""

    def __init__(self, nursery: trio.Nursery, own: PeerId) -> None:
        self.peer_id = own
        self.opened: list[PeerId] = []
        self._nursery = nursery
        self._handlers: dict[PeerId, StreamHandler] = {}
        self._by_hand: dict[PeerId, tuple[MemoryKeys, trio.MemorySendChannel[Side]]] = {}
        self._streams: list[LoopbackStream] = []

    def connect(self, peer: PeerId, handler: StreamHandler) -> None:
        """Streams to the peer are served by `handler`."""
        self._handlers[peer] = handler

    def by_hand(self, keys: MemoryKeys) -> trio.MemoryReceiveChannel[Side]:
        """Streams to this peer come out here, for the test to answer; nothing has been said on them."""
        sender, receiver = trio.open_memory_channel[Side](100)
        self._by_hand[keys.peer_id] = (keys, sender)
        return receiver

    def lose(self, peer: PeerId) -> None:
        """The peer cannot be reached any more."""
        self._handlers.pop(peer, None)
        self._by_hand.pop(peer, None)

    async def break_streams(self) -> None:
        """Every stream that is open now breaks."""
        for stream in self._streams:
            await stream.reset()
        self._streams.clear()

    async def open_stream(self, peer: PeerId, protocol: str) -> LoopbackStream:
        self.opened.append(peer)
        ours, theirs = stream_pair(self.peer_id, peer)
        if peer in self._handlers:
            self._nursery.start_soon(self._handlers[peer], theirs)
        elif peer in self._by_hand:
            keys, sender = self._by_hand[peer]
            sender.send_nowait(Side(keys, theirs))
        else:
            raise DialFailed(f"{peer} does not answer")
        self._streams.append(ours)
        return ours
