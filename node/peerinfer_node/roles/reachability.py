"""How others see this node: whether they can dial it, and by which relays they reach it if they cannot.

A node cannot find out by itself whether a router lets connections in. It asks some of its neighbours to dial it back, at
the address that they see it at and the ports where it listens. Where a neighbour succeeds, that address is announced: it
is the one that a router forwards, if there is one. Where one fails, this node also announces itself by two relays among
its neighbours; so it does where it is on IPv4 alone and some peer on IPv6 alone, or the other way round. On request it
dials others back, and nobody else: only the address that the asker is connected from.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable
from dataclasses import dataclass

import trio

from peerinfer.addresses import CIRCUIT, families, is_public
from peerinfer.errors import PeerinferError
from peerinfer.ids import PeerId
from peerinfer.limits import ADDRESSES_PER_PEER_MAX, DIAL_BACK_PORTS_MAX
from peerinfer.member_messages import DialBackWanted, DialedBack
from peerinfer.messages import Goodbye
from peerinfer_node.log import Log
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.ports import LocalClock, Network, Stream
from peerinfer_node.roles.members import MembersRole
from peerinfer_node.roles.work_stream import greet, say_goodbye

REACH_PROTOCOL = "/peerinfer/reach/1"
PEERS_ASKED = 4
LOOK_EVERY_S = 3.0
ASK_AGAIN_S = 300.0
"""A router's rules change seldom; a dial back costs both sides a handshake."""

ASK_TIMEOUT_S = 25.0
RELAYS_USED = 2
"""One may go at any time."""

SERVED_MAX = 8
SERVED_AGAIN_S = 10.0
"""The same peer is dialled back this often at most."""

ASKERS_REMEMBERED_MAX = 1024


@dataclass(frozen=True, slots=True)
class _Answer:
    at_s: float
    host: str
    ports: tuple[int, ...]


class Reachability:
    """Finds out, answers the same question for others, and knows which addresses to announce."""

    def __init__(
        self, *, network: Network, members: MembersRole, clock: LocalClock, log: Log, swarm: str, rng: random.Random
    ) -> None:
        self.on_change: Callable[[], None] = lambda: None
        """Called when other addresses are to be announced."""
        self._network = network
        self._members = members
        self._clock = clock
        self._log = log
        self._swarm = swarm
        self._rng = rng
        self._answers: dict[PeerId, _Answer] = {}
        self._relays: dict[PeerId, tuple[str, ...]] = {}
        """Of each relay that is used, an address on IPv4 and one on IPv6, if it has both."""
        self._announced: tuple[str, ...] = ()
        self._serving = 0
        self._served_s: dict[PeerId, float] = {}

    # --- what is known -----------------------------------------------------------------------------------------------

    def addresses(self) -> tuple[str, ...]:
        """To be announced: seen by others first, then this node's own, then by relays."""
        own = self._network.peer_id
        seen = [
            f"/{_kind(answer.host)}/{answer.host}/tcp/{port}/p2p/{own}"
            for answer in self._answers.values()
            for port in answer.ports
        ]
        direct = list(dict.fromkeys((*seen, *self._network.addresses())))
        relayed = [f"{address}{CIRCUIT}{own}" for relay in self._relays.values() for address in relay]
        return tuple((direct[: ADDRESSES_PER_PEER_MAX - len(relayed)] + relayed)[:ADDRESSES_PER_PEER_MAX])

    def seen_host(self) -> str:
        """The IP address at which most of the peers asked see this node, "" before anybody was."""
        hosts = [answer.host for answer in self._answers.values()]
        return max(hosts, key=hosts.count, default="")

    @property
    def text(self) -> str:
        """For people."""
        direct = sum(bool(answer.ports) for answer in self._answers.values())
        others = len(self._answers) - direct
        if not self._network.addresses():
            by = f"by relay ({len(self._relays)})" if self._relays else "by nobody"
            return f"listens nowhere, so it is reached {by}"
        if not self._answers:
            return "unknown: there was nobody to ask yet"
        rest = "" if not others else f", {others} by relay" if self._relays else f", {others} not at all"
        return f"{direct} {'peer' if direct == 1 else 'peers'} can dial you directly{rest}"

    # --- asking ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        while True:
            await trio.sleep(LOOK_EVERY_S)
            await self._ask_due()
            self._choose_relays()
            announced = self.addresses()
            if announced != self._announced:
                self._announced = announced
                self.on_change()

    async def _ask_due(self) -> None:
        now_s = self._clock.now_s()
        direct = [peer for peer in self._network.connected() if self._network.path(peer) == "direct"]
        self._answers = {peer: answer for peer, answer in self._answers.items() if peer in direct}
        ports = tuple(dict.fromkeys(int(address.split("/")[4]) for address in self._network.addresses()))
        if not ports:
            return
        due = [peer for peer, answer in self._answers.items() if now_s >= answer.at_s + ASK_AGAIN_S]
        new = [peer for peer in direct if peer not in self._answers]
        missing = max(PEERS_ASKED - len(self._answers), 0)
        due += self._rng.sample(new, min(len(new), missing))
        async with trio.open_nursery() as nursery:
            for peer in due:
                nursery.start_soon(self._ask, peer, ports[:DIAL_BACK_PORTS_MAX])

    async def _ask(self, peer: PeerId, ports: tuple[int, ...]) -> None:
        with trio.move_on_after(ASK_TIMEOUT_S):
            try:
                stream = MessageStream(await self._network.open_stream(peer, REACH_PROTOCOL))
                try:
                    await greet(stream, swarm=self._swarm)
                    await stream.send(DialBackWanted(ports))
                    answer, _ = await stream.receive_as(DialedBack, Goodbye)
                finally:
                    await stream.close()
                if isinstance(answer, DialedBack):
                    host = str(ipaddress.ip_address(answer.host))
                    good = tuple(port for port in answer.ports if port in ports)
                    self._answers[peer] = _Answer(self._clock.now_s(), host, good)
            except (PeerinferError, EOFError, ValueError) as error:
                self._log.debug("peer did not say whether it can dial this node", peer=peer, reason=str(error))

    def _choose_relays(self) -> None:
        is_undialled = not self._network.addresses() or any(not answer.ports for answer in self._answers.values())
        wanted = is_undialled or self._is_on_another_network()
        usable = {}
        for peer in self._network.connected() if wanted else []:
            member = self._members.machine.member(peer)
            if member and member.advert and member.advert.relays and self._network.path(peer) == "direct":
                straight = [address for address in member.advert.addresses if CIRCUIT not in address]
                if straight:
                    usable[peer] = _one_of_each_family(straight)
        kept = {peer: usable[peer] for peer in self._relays if peer in usable}
        more = [peer for peer in usable if peer not in kept]
        self._rng.shuffle(more)
        for peer in more[: RELAYS_USED - len(kept)]:
            kept[peer] = usable[peer]
        self._relays = kept

    def _is_on_another_network(self) -> bool:
        """Whether some peer's direct addresses are all of the kind of network that this node is not on."""
        own = families(self.addresses())
        for member in self._members.machine.members():
            theirs = families(member.advert.addresses) if member.advert and member.state == "alive" else own
            if own and theirs and not own & theirs:
                return True
        return False

    # --- answering ---------------------------------------------------------------------------------------------------

    async def serve(self, raw: Stream) -> None:
        """Dials one asker back."""
        stream = MessageStream(raw)
        now_s = self._clock.now_s()
        if self._serving >= SERVED_MAX or now_s < self._served_s.get(stream.peer, 0.0):
            await stream.reset()
            return
        self._served_s = {peer: until_s for peer, until_s in self._served_s.items() if until_s > now_s}
        if len(self._served_s) < ASKERS_REMEMBERED_MAX:
            self._served_s[stream.peer] = now_s + SERVED_AGAIN_S
        self._serving += 1
        try:
            await greet(stream, swarm=self._swarm)
            wanted, _ = await stream.receive_as(DialBackWanted)
            host = self._network.remote_host(stream.peer)
            if not host:
                await say_goodbye(stream, "this peer is connected by a relay, so it sees no address of yours")
                return
            good = []
            for port in dict.fromkeys(wanted.ports):
                if port and await self._network.answers_at(f"/{_kind(host)}/{host}/tcp/{port}/p2p/{stream.peer}"):
                    good.append(port)
            await stream.send(DialedBack(host, tuple(good)))
        finally:
            self._serving -= 1


def _one_of_each_family(straight: list[str]) -> tuple[str, ...]:
    """The first public address of each, or the first."""
    ordered = sorted(straight, key=lambda address: not is_public(address))
    chosen = {families([address]): address for address in reversed(ordered)}
    return tuple(address for address in ordered if chosen[families([address])] == address)


def _kind(host: str) -> str:
    return "ip6" if ":" in host else "ip4"
