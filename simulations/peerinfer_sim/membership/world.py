"""A discrete simulation of membership: a heap of timed events, the real machines, and a network that loses messages.

A connection exists or not; a message on it arrives once, after a latency, or is lost (the real ones travel in TCP, where
loss is delay: this is the harsher world). A node may *crash* (its connections break, as those of a killed process do) or
*vanish* (nothing is heard any more, as of a machine without power).
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from peerinfer.codec import encode
from peerinfer.ids import PeerId, peer_id_of
from peerinfer.machine import NEVER, Tick
from peerinfer.member_messages import Adverts
from peerinfer.membership import Membership
from peerinfer.membership_events import (
    AddressSeen,
    AdvertSeen,
    Connected,
    Dial,
    DialFailed,
    Disconnected,
    Drop,
    Effect,
    Event,
    Heard,
    OwnAdvert,
    Refute,
    Send,
)
from peerinfer.messages import Advert, DeviceAdvert
from peerinfer.news import MESSAGE_BYTES

ADVERT_EVERY_S = 300.0
SIGNATURE_BYTES = 140
"""What `Signed` adds to an advert: the signer, the signature and the framing."""

_DEVICE = DeviceAdvert("Some Processor @ 3.20GHz", "cpu", "CPUExecutionProvider", 16 << 30, 100.0, 20.0)


@dataclass
class Node:
    peer: PeerId
    machine: Membership
    is_up: bool = True
    sequence: int = 0
    advert: tuple[Advert, bytes] = field(init=False)
    """Its newest, and as it is signed."""
    connected: dict[PeerId, None] = field(default_factory=dict)
    wakes_s: float = NEVER
    bytes_sent: int = 0
    bytes_received: int = 0
    messages: Counter[str] = field(default_factory=Counter)


class World:
    """`loss` is the probability that one message on its way is lost; `latency_s` is one way."""

    def __init__(
        self, seed: int, *, loss: float = 0.0, latency_s: float = 0.002, members_max: int | None = None
    ) -> None:
        self.rng = random.Random(seed)
        self.loss = loss
        self.latency_s = latency_s
        self.now_s = 0.0
        self.nodes: dict[PeerId, Node] = {}
        self.deaths: list[tuple[float, PeerId, PeerId]] = []
        """(when, by whom, of whom): every time that a node came to believe another one dead."""
        self.cut: Callable[[PeerId, PeerId], bool] = lambda a, b: False
        """Whether nothing passes between two nodes now."""
        self._adverts: dict[bytes, tuple[PeerId, Advert]] = {}
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._members: dict[str, Any] = {} if members_max is None else {"members_max": members_max}

    # --- nodes -------------------------------------------------------------------------------------------------------

    def join(self, *bootstrap: PeerId) -> Node:
        """A new node, which dials `bootstrap`."""
        peer = peer_id_of(self.rng.randbytes(32))
        node = Node(peer, Membership(peer, random.Random(self.rng.random()), **self._members))
        self.nodes[peer] = node
        self.advertise(node)
        self.at(self.now_s + ADVERT_EVERY_S * self.rng.random(), lambda: self._refresh(node))
        for other in bootstrap:
            self.post(node, AddressSeen(other, (f"/to/{other}",)))
        return node

    def advertise(self, node: Node, state: str = "running") -> None:
        node.sequence += 1
        node.advert = self.make_advert(node.peer, node.sequence, state)
        self.post(node, OwnAdvert(*node.advert))

    def make_advert(self, peer: PeerId, sequence: int, state: str = "running") -> tuple[Advert, bytes]:
        address = f"/ip4/192.0.2.100/tcp/40001/p2p/{peer}"
        advert = Advert(1, sequence, self.now_s, "", "peerinfer/0", (address,), state, (), (_DEVICE,), (), "full")
        signed = encode(advert) + self.rng.randbytes(SIGNATURE_BYTES)
        self._adverts[signed] = (peer, advert)
        return advert, signed

    def _refresh(self, node: Node) -> None:
        if node.is_up:
            self.advertise(node)
            self.at(self.now_s + ADVERT_EVERY_S * (0.8 + 0.4 * self.rng.random()), lambda: self._refresh(node))

    def vanish(self, node: Node) -> None:
        node.is_up = False

    def crash(self, node: Node) -> None:
        node.is_up = False
        for other in list(node.connected):
            self._disconnect(node, self.nodes[other])

    # --- time --------------------------------------------------------------------------------------------------------

    def at(self, when_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when_s, next(self._order), what))

    def run(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self._heap and self._heap[0][0] <= end_s:
            self.now_s, _, what = heapq.heappop(self._heap)
            what()
        self.now_s = end_s

    def run_until(self, condition: Callable[[], bool], timeout_s: float, step_s: float = 0.1) -> float:
        """How long it took. Raises AssertionError after `timeout_s`."""
        start_s = self.now_s
        while not condition():
            assert self.now_s - start_s < timeout_s, f"not within {timeout_s:g} s"
            self.run(step_s)
        return self.now_s - start_s

    def reset_counts(self) -> None:
        for node in self.nodes.values():
            node.bytes_sent = node.bytes_received = 0
            node.messages.clear()

    # --- events and effects ------------------------------------------------------------------------------------------

    def post(self, node: Node, event: Event | Tick) -> None:
        if not node.is_up:
            return
        for effect in node.machine.handle(event, self.now_s):
            self._perform(node, effect)
        if node.machine.deadline_s < node.wakes_s:
            node.wakes_s = node.machine.deadline_s
            self.at(max(node.wakes_s, self.now_s), lambda: self._wake(node))

    def _wake(self, node: Node) -> None:
        if self.now_s < node.wakes_s or not node.is_up:
            return
        node.wakes_s = NEVER
        if self.now_s >= node.machine.deadline_s:
            self.post(node, Tick())
        elif node.machine.deadline_s < NEVER:
            node.wakes_s = node.machine.deadline_s
            self.at(node.wakes_s, lambda: self._wake(node))

    def _perform(self, node: Node, effect: Effect) -> None:
        match effect:
            case Send(peer, message):
                size_bytes = len(encode(message)) + MESSAGE_BYTES
                node.bytes_sent += size_bytes
                node.messages[type(message).__name__] += 1
                if peer in node.connected and not self._is_lost(node.peer, peer):
                    self._later(lambda: self._arrive(node.peer, peer, message, size_bytes))
            case Dial(peer):
                self._later(lambda: self._dialled(node, peer), 3)
            case Drop(peer):
                if peer in self.nodes:
                    self._disconnect(node, self.nodes[peer])
            case Refute():
                self.advertise(node)
            case _:
                member = node.machine.member(effect.peer)
                if member is not None and member.state == "dead":
                    self.deaths.append((self.now_s, node.peer, effect.peer))

    def _is_lost(self, here: PeerId, there: PeerId) -> bool:
        return self.cut(here, there) or self.rng.random() < self.loss

    def _later(self, what: Callable[[], None], trips: float = 1.0) -> None:
        self.at(self.now_s + self.latency_s * trips * self.rng.uniform(0.8, 1.5), what)

    def _arrive(self, sender: PeerId, peer: PeerId, message: object, size_bytes: int) -> None:
        node = self.nodes[peer]
        if not node.is_up or sender not in node.connected:
            return
        node.bytes_received += size_bytes
        if isinstance(message, Adverts):
            for signed in message.adverts:
                author, advert = self._adverts[signed]
                self.post(node, AdvertSeen(author, advert, signed, self.now_s))
        else:
            self.post(node, Heard(sender, message))  # type: ignore[arg-type]  # the rest of what a machine sends

    def _dialled(self, node: Node, peer: PeerId) -> None:
        other = self.nodes.get(peer)
        if other is None or not other.is_up or not node.is_up or self.cut(node.peer, peer):
            self.at(self.now_s + (0.0 if other and not other.is_up else 1.0), lambda: self.post(node, DialFailed(peer)))
            return
        self.connect(node, other)

    def connect(self, node: Node, other: Node) -> None:
        for here, there in ((node, other), (other, node)):
            if there is not here and there.peer not in here.connected:
                here.connected[there.peer] = None
                self.post(here, Connected(there.peer, "direct"))

    def _disconnect(self, node: Node, other: Node) -> None:
        for here, there in ((node, other), (other, node)):
            if there.peer in here.connected:
                del here.connected[there.peer]
                self._later(lambda here=here, there=there: self._lost(here, there.peer))  # type: ignore[misc]

    def _lost(self, node: Node, peer: PeerId) -> None:
        if peer not in node.connected:
            self.post(node, Disconnected(peer))
