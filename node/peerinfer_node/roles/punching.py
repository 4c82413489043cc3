"""From a relayed connection to a direct one: two nodes that nobody can dial meet half way.

Over the relayed connection, which is encrypted end to end, each tells the other at which address the world sees it and
from which port it will come. Then both dial each other at the same moment. Of two nodes the one with the smaller peer id
begins. The connection that comes of it is like every other: both prove who they are, and the relay is out of it. Where
it does not work (a router that gives every connection another port) the relay goes on carrying, and it is tried again, ever
more seldom.

Whoever asks could name any address: a node goes only to public ones, or to those in the network in which it is seen itself.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import trio

from peerinfer.errors import DialFailed, PeerinferError, ProtocolError
from peerinfer.ids import PeerId
from peerinfer.member_messages import MeetNow, MeetWanted
from peerinfer.messages import Goodbye
from peerinfer_node.log import Log
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.ports import LocalClock, Network, Stream
from peerinfer_node.roles.work_stream import greet, say_goodbye

PUNCH_PROTOCOL = "/peerinfer/punch/1"
LOOK_EVERY_S = 1.0
MEET_WITHIN_S = 6.0
TALK_WITHIN_S = 20.0
AGAIN_S = 30.0
"""After the first failure; each further one doubles it."""

TRIES_MAX = 6
AT_ONCE_MAX = 4
PEERS_REMEMBERED_MAX = 1024
NEAR_BITS = {4: 16, 6: 48}


class Punching:
    """Tries with every peer that is connected through a relay. `seen_host` is where the world sees this node, or ""."""

    def __init__(
        self, *, network: Network, clock: LocalClock, log: Log, swarm: str, seen_host: Callable[[], str]
    ) -> None:
        self._network = network
        self._clock = clock
        self._log = log
        self._swarm = swarm
        self._seen_host = seen_host
        self._tried: dict[PeerId, tuple[int, float]] = {}
        """How often, and when again."""
        self._under_way: dict[PeerId, None] = {}

    @property
    def text(self) -> str:
        """For people: with how many of those that a relay connects it did not work; "" for none."""
        vain = sum(peer not in self._under_way and self._network.path(peer) == "relay" for peer in self._tried)
        peers = "1 peer" if vain == 1 else f"{vain} peers"
        return f"no way to meet {peers} half way, so the relay goes on carrying" if vain else ""

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(LOOK_EVERY_S)
                if self._seen_host():
                    for peer in self._due():
                        self._under_way[peer] = None
                        nursery.start_soon(self._begin, peer)

    def _due(self) -> list[PeerId]:
        now_s = self._clock.now_s()
        relayed = [peer for peer in self._network.connected() if self._network.path(peer) == "relay"]
        due = [
            peer
            for peer in relayed
            if self._network.peer_id < peer and peer not in self._under_way and now_s >= self._when(peer)
        ]
        return due[: max(AT_ONCE_MAX - len(self._under_way), 0)]

    def _when(self, peer: PeerId) -> float:
        return self._tried.get(peer, (0, 0.0))[1]

    async def _begin(self, peer: PeerId) -> None:
        self._note_vain(peer)  # until it has worked
        try:
            with trio.fail_after(TALK_WITHIN_S):
                await self._ask(peer)
            del self._tried[peer]
            self._log.info("a relayed peer is connected directly now", peer=peer)
        except (PeerinferError, EOFError, trio.TooSlowError) as error:
            self._log.debug("no direct way to a relayed peer", peer=peer, reason=str(error))
        finally:
            del self._under_way[peer]

    async def _ask(self, peer: PeerId) -> None:
        stream = MessageStream(await self._network.open_stream(peer, PUNCH_PROTOCOL))
        try:
            await greet(stream, swarm=self._swarm)
            with self._network.dig(self._seen_host()) as hole:
                asked_s = self._clock.now_s()
                await stream.send(MeetWanted(self._seen_host(), hole.port))
                answer, _ = await stream.receive_as(MeetWanted, Goodbye)
                if isinstance(answer, Goodbye):
                    raise DialFailed(answer.reason)
                self._check_place(answer)
                round_trip_s = self._clock.now_s() - asked_s
                await stream.send(MeetNow())
                await trio.sleep(round_trip_s / 2)
                await self._network.punch(hole, peer, answer.host, answer.port, opens=True, within_s=MEET_WITHIN_S)
        finally:
            await stream.close()

    async def serve(self, raw: Stream) -> None:
        """Meets one peer that asks."""
        stream = MessageStream(raw)
        peer = stream.peer
        if peer in self._under_way or len(self._under_way) >= AT_ONCE_MAX:
            await stream.reset()
            return
        self._under_way[peer] = None
        try:
            with trio.move_on_after(TALK_WITHIN_S):
                await self._answer(stream)
        finally:
            del self._under_way[peer]

    async def _answer(self, stream: MessageStream) -> None:
        peer = stream.peer
        await greet(stream, swarm=self._swarm)
        wanted, _ = await stream.receive_as(MeetWanted)
        try:
            if self._network.path(peer) != "relay":
                raise DialFailed("this peer is not connected through a relay")
            if not self._seen_host():
                raise DialFailed("this peer does not know yet where others see it")
            self._check_place(wanted)
            with self._network.dig(wanted.host) as hole:
                await stream.send(MeetWanted(self._seen_host(), hole.port))
                await stream.receive_as(MeetNow)
                await self._network.punch(hole, peer, wanted.host, wanted.port, opens=False, within_s=MEET_WITHIN_S)
            self._tried.pop(peer, None)
        except DialFailed as error:
            self._note_vain(peer)
            await say_goodbye(stream, str(error))

    def _note_vain(self, peer: PeerId) -> None:
        """A peer with which it never worked is not worth another try before long."""
        times = self._tried.pop(peer, (0, 0.0))[0] + 1
        self._tried[peer] = (times, self._clock.now_s() + AGAIN_S * 2 ** min(times - 1, TRIES_MAX))
        if len(self._tried) > PEERS_REMEMBERED_MAX:
            del self._tried[next(iter(self._tried))]

    def _check_place(self, place: MeetWanted) -> None:
        """Raises `ProtocolError` or `DialFailed` for an address that nobody can be asked to dial."""
        try:
            host, own = ipaddress.ip_address(place.host), ipaddress.ip_address(self._seen_host())
        except ValueError as error:
            raise ProtocolError(f"{place.host[:64]!r} is no IP address") from error
        if host.version != own.version:
            raise DialFailed("the two are seen in networks of different kinds")
        near = ipaddress.ip_network(f"{own}/{NEAR_BITS[own.version]}", strict=False)
        if not place.port or host.is_loopback or host.is_multicast or not (host.is_global or host in near):
            raise DialFailed(f"{place.host} port {place.port} is no place to meet")
