"""What lies between simulated nodes: links that take time, and the faults that befall them.

Everything that travels is an action to be performed on the other side when its time has come. One task performs them in
the order of (time, number), so that deliveries never depend on the order of trio's tasks. The two directions between
two nodes are two links. A link keeps the order of what travels on it, as a connection over TCP does; a link that is cut
holds what is sent until it is healed, as TCP would send it again, and a connection whose link stays cut for
`CUT_NOTICED_S` breaks.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import trio

from peerinfer.ids import PeerId
from peerinfer_sim.determinism import rng_for
from peerinfer_sim.event_log import EventLog

if TYPE_CHECKING:
    from peerinfer_sim.network import SimNetwork

CUT_NOTICED_S = 30.0
"""A connection breaks when nothing has come through for this long."""

Action = Callable[[], None]


@dataclass(frozen=True, slots=True)
class LinkProfile:
    """How links are drawn."""

    latency_s: float = 0.02
    """Median of one way, over all pairs of nodes."""
    spread: float = 0.5
    """Sigma of its logarithm."""
    jitter: float = 0.2
    """One delivery takes up to this share longer than another."""
    bytes_per_s: float | None = None
    """None: as much as is sent."""
    doubled: float = 0.0
    """Chance of a message to arrive twice. On the discrete floor only: streams do not do that."""


@dataclass(slots=True)
class _Link:
    """One direction between two nodes."""

    latency_s: float
    dice: random.Random
    extra_s: float = 0.0
    free_s: float = 0.0
    """When what was sent before has left the sender."""
    last_s: float = 0.0
    """When what was sent before arrives."""
    is_cut: bool = False
    held: deque[Action] = field(default_factory=deque)


class Internet:
    """The links of one world. `names` are what the log calls the nodes."""

    def __init__(self, seed: int, profile: LinkProfile, log: EventLog) -> None:
        self._seed = seed
        self._profile = profile
        self._links: dict[tuple[PeerId, PeerId], _Link] = {}
        self._due: list[tuple[float, int, Action]] = []
        self._number = 0
        self._sooner = trio.Event()
        self._next_s = float("inf")
        self.log = log
        self.names: dict[PeerId, str] = {}
        self.networks: dict[PeerId, SimNetwork] = {}
        """Those that run."""
        self._left = trio.Event()
        self.messages = 0
        self.message_bytes = 0

    async def run(self) -> None:
        """Performs what is due, until cancelled."""
        while True:
            self._sooner = trio.Event()
            self._next_s = self._due[0][0] if self._due else float("inf")
            with trio.move_on_at(self._next_s):
                await self._sooner.wait()
            now_s = trio.current_time()
            while self._due and self._due[0][0] <= now_s:
                heapq.heappop(self._due)[2]()

    def at(self, time_s: float, action: Action) -> None:
        self._number += 1
        heapq.heappush(self._due, (time_s, self._number, action))
        if time_s < self._next_s:
            self._sooner.set()

    def note(self, peer: PeerId, what: str) -> None:
        self.log.add(trio.current_time(), self.names[peer], what)

    def leave(self, network: SimNetwork) -> None:
        """The node is not on the network any more. May be called twice."""
        if network.is_running:
            del self.networks[network.peer_id]
            network.fall_silent()
            self._left.set()
            self._left = trio.Event()

    async def wait_empty(self) -> None:
        """Returns when no node is left."""
        while self.networks:
            await self._left.wait()

    # --- travel ------------------------------------------------------------------------------------------------------

    def carry(self, source: PeerId, target: PeerId, size: int, action: Action) -> None:
        """Performs `action` when `size` bytes from `source` have reached `target`; never, if one of them is gone."""
        if source not in self.networks:
            return
        self.messages += 1
        self.message_bytes += size
        link = self._link(source, target)
        if link.is_cut:
            link.held.append(lambda: self._send(link, target, size, action))
        else:
            self._send(link, target, size, action)

    async def trip(self, source: PeerId, target: PeerId) -> None:
        """Returns when a few bytes have gone from `source` to `target`."""
        arrived = trio.Event()
        self.carry(source, target, 100, arrived.set)
        await arrived.wait()

    async def round_trip(self, source: PeerId, target: PeerId) -> None:
        """Returns when the machine of `target` could have answered, whether or not its node runs."""
        is_known = target in self.names
        await trio.sleep(self._link(source, target).latency_s + self._link(target, source).latency_s if is_known else 0)

    def _send(self, link: _Link, target: PeerId, size: int, action: Action) -> None:
        now_s = trio.current_time()
        if self._profile.bytes_per_s is not None:
            link.free_s = max(link.free_s, now_s) + size / self._profile.bytes_per_s
        latency_s = link.latency_s * (1 + self._profile.jitter * link.dice.random()) + link.extra_s
        link.last_s = max(link.last_s, max(link.free_s, now_s) + latency_s)
        self.at(link.last_s, lambda: self._arrive(link, target, action))

    def _arrive(self, link: _Link, target: PeerId, action: Action) -> None:
        if target not in self.networks:
            return
        if link.is_cut:
            link.held.append(action)
        else:
            action()

    def _link(self, source: PeerId, target: PeerId) -> _Link:
        link = self._links.get((source, target))
        if link is None:
            here, there = self.names[source], self.names[target]
            pair = rng_for(self._seed, "-".join(sorted((here, there))), "latency")
            latency_s = self._profile.latency_s * pair.lognormvariate(0.0, self._profile.spread)
            link = self._links[source, target] = _Link(latency_s, rng_for(self._seed, f"{here}>{there}", "jitter"))
        return link

    # --- faults ------------------------------------------------------------------------------------------------------

    def cut(self, source: PeerId, target: PeerId) -> None:
        """Nothing gets from `source` to `target` any more; the way back is another link."""
        self._link(source, target).is_cut = True
        self.at(trio.current_time() + CUT_NOTICED_S, lambda: self._notice(source, target))

    def heal(self, source: PeerId, target: PeerId) -> None:
        link = self._link(source, target)
        link.is_cut = False
        while link.held:
            link.held.popleft()()

    def delay(self, source: PeerId, target: PeerId, extra_s: float) -> None:
        """From now on everything from `source` to `target` takes so much longer."""
        self._link(source, target).extra_s = extra_s

    def crash(self, peer: PeerId) -> None:
        """The node's process is gone, without a word; its machine tells whoever was connected."""
        network = self.networks[peer]
        self.note(peer, "crashes")
        self.part(peer, network.connected())
        self.leave(network)

    def _notice(self, source: PeerId, target: PeerId) -> None:
        if self._link(source, target).is_cut:
            self._lose(source, target)
            self._lose(target, source)

    def part(self, peer: PeerId, others: Iterable[PeerId]) -> None:
        """Tells these others that their connections to `peer` have ended."""
        for other in others:
            self.carry(peer, other, 40, partial(self._lose, other, peer))

    def _lose(self, peer: PeerId, other: PeerId) -> None:
        if peer in self.networks:
            self.networks[peer].lose(other)
