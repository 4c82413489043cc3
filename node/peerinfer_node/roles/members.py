"""Runs the membership machine over a network: one small stream each way between neighbours, and dials.

What the machine sends may be lost, so nothing here waits for anybody: each neighbour has a line with a short queue, and
what does not fit is dropped. A line opens its stream when there is something to say and gives up when the peer does.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import trio

from peerinfer.addresses import CIRCUIT
from peerinfer.codec import decode_as
from peerinfer.envelope import unseal
from peerinfer.errors import DialFailed as NotReached
from peerinfer.errors import NetworkError, PeerinferError, ProtocolError
from peerinfer.ids import PeerId
from peerinfer.limits import (
    ADVERTS_HEARD_BURST,
    ADVERTS_HEARD_IN_ALL_BURST,
    ADVERTS_HEARD_IN_ALL_PER_S,
    ADVERTS_HEARD_PER_S,
)
from peerinfer.member_messages import Adverts, AdvertsWanted, Digest, News, Probe, ProbeAnswer
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
    MemberMessage,
    OwnAdvert,
    PeerChanged,
    Refute,
    RttMeasured,
    Send,
)
from peerinfer.messages import Advert, Goodbye, Hello, KeepAlive, Signed
from peerinfer.news import Budget
from peerinfer.searching import Searching
from peerinfer.spread_messages import (
    Found,
    Page,
    PageWanted,
    Released,
    Search,
    Statements,
    StatementsHeld,
    StatementsWanted,
)
from peerinfer.spreading import Spreading
from peerinfer.units import format_duration
from peerinfer_node.driver import Driver
from peerinfer_node.log import Log
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.ports import AddressFound, LocalClock, Network, PeerConnected, PeerDisconnected, Stream
from peerinfer_node.roles.searches import SearchesRole
from peerinfer_node.roles.statements import StatementsRole
from peerinfer_node.roles.work_stream import greet, say_goodbye

MEMBERS_PROTOCOL = "/peerinfer/members/1"
CLOCK_LOOK_S = 5.0
LINE_MESSAGES_MAX = 64
"""Waiting for one neighbour. One that takes nothing is found out by its probes; it need not hear old news afterwards."""

DIAL_STAGGER_S = 0.4
"""Between the first moments of two addresses of one peer (RFC 8305 has 0.25 s, without a handshake in it)."""

OPEN_AGAIN_S = 1.0
OPENS_MAX = 3
"""A line whose stream could not be opened so often in a row stays silent until the peer connects anew."""

STREAMS_PER_PEER_MAX = 2
"""A peer that lost its stream may open the next before the end of the first is seen."""

MEMBERS_STREAMS = 2
"""Of a connection on which there is nothing else: one each way."""

REVISION_OF = {
    StatementsHeld: 1, StatementsWanted: 1, Statements: 1, Search: 1, Found: 1, Released: 1, PageWanted: 3, Page: 3,
}  # fmt: skip
"""Which revision of the protocol brought a message: older peers would take it for a violation."""


class MembersRole:
    """The machine, its lines to neighbours, and their lines to this node."""

    def __init__(
        self,
        *,
        machine: Membership,
        rng: random.Random,
        network: Network,
        clock: LocalClock,
        log: Log,
        swarm: str,
        on_change: Callable[[PeerId], None],
    ) -> None:
        self.machine = machine
        self.on_refute: Callable[[], None] = lambda: None
        """Called when this node must show that it lives, by a new advert."""
        self._network = network
        self._clock = clock
        self._log = log
        self._swarm = swarm
        self._on_change = on_change
        self._lines: dict[PeerId, _Line] = {}
        self._serving: dict[PeerId, int] = {}
        self._allowed_in_all = Budget(ADVERTS_HEARD_IN_ALL_PER_S, ADVERTS_HEARD_IN_ALL_BURST)
        self._driver: Driver[Event, Effect] = Driver(machine, clock, self._perform)
        self._nursery: trio.Nursery | None = None
        self.statements = StatementsRole(machine=Spreading(rng), clock=clock, log=log, send=self._send)
        self.searches = SearchesRole(
            machine=Searching(rng, machine.members, machine.own_member),
            clock=clock,
            log=log,
            send=self._send,
            learn=self.hear,
        )

    @property
    def clock_words(self) -> str:
        """What is wrong with this machine's clock, as far as peers let one know; else ""."""
        ahead_s = self.machine.ahead_s
        if ahead_s is None:
            return ""
        now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self._clock.wall_s()))
        return f"the clock here says {now}, and every peer is {format_duration(ahead_s)} ahead of it: set the clock"

    async def watch_clock(self) -> None:
        while not self.clock_words:  # noqa: ASYNC110
            await trio.sleep(CLOCK_LOOK_S)
        self._log.warning(self.clock_words)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._watch_network)
            nursery.start_soon(self.statements.run)
            nursery.start_soon(self.searches.run)
            await self._driver.run()

    def advertise(self, signed: bytes) -> None:
        """Makes this the node's own advert."""
        self._driver.post(OwnAdvert(unseal(Advert, signed)[1], signed))

    def hear(self, data: bytes) -> None:
        """Takes a signed advert from wherever. Raises `DecodeError` if it is forged or malformed."""
        peer, advert = unseal(Advert, data)
        self._driver.post(AdvertSeen(peer, advert, data, self._clock.wall_s()))

    def found(self, peer: PeerId, addresses: Sequence[str]) -> None:
        self._driver.post(AddressSeen(peer, tuple(addresses)))

    async def reach(self, peer: PeerId) -> None:
        """Returns when the peer is connected. Raises `DialFailed` if none of its addresses leads to it."""
        if peer in self._network.connected():
            return
        member = self.machine.member(peer)
        await self._dial_any(peer, member.addresses if member else ())

    # --- what peers tell ---------------------------------------------------------------------------------------------

    async def serve(self, raw: Stream) -> None:
        """Hears what one peer tells, until it stops."""
        stream = MessageStream(raw)
        peer = stream.peer
        if self._serving.get(peer, 0) >= STREAMS_PER_PEER_MAX:
            await stream.reset()
            return
        self._serving[peer] = self._serving.get(peer, 0) + 1
        greeted = False
        try:
            await greet(stream, swarm=self._swarm)
            greeted = True
            await self._listen(stream)
        except EOFError:
            pass
        except ProtocolError as error:
            self._log.info("peer broke the members protocol", peer=peer, reason=str(error))
            if greeted:  # `greet` says its own goodbye, and a second one would cut it off.
                await say_goodbye(stream, str(error))
        except PeerinferError as error:
            self._log.debug("members stream ended", peer=peer, reason=str(error))
        finally:
            self._serving[peer] -= 1
            if not self._serving[peer]:
                del self._serving[peer]
            with trio.CancelScope(shield=True):
                await stream.close()

    async def _listen(self, stream: MessageStream) -> None:
        allowed = Budget(ADVERTS_HEARD_PER_S, ADVERTS_HEARD_BURST)
        while True:
            message, _ = await stream.receive_as(
                Adverts, AdvertsWanted, Digest, News, Probe, ProbeAnswer, KeepAlive, Goodbye, *REVISION_OF
            )
            match message:
                case Goodbye():
                    return
                case Adverts(adverts):
                    self._hear_all(adverts, stream.peer, allowed)
                case AdvertsWanted() | Digest() | News() | Probe() | ProbeAnswer() | Released() | PageWanted() | Page():
                    self._driver.post(Heard(stream.peer, message))
                case StatementsHeld() | StatementsWanted() | Statements():
                    await self.statements.hear(stream.peer, message)
                case Search() | Found():
                    await self.searches.hear(stream.peer, message)
            # One read may bring ten thousand small messages, and signatures are checked where everything else waits.
            await trio.lowlevel.checkpoint()
            await self._driver.wait_room()

    def _hear_all(self, adverts: Sequence[bytes], peer: PeerId, allowed: Budget) -> None:
        """Raises `DecodeError` for a forged or malformed one: its sender passed it on unchecked."""
        for data in adverts:
            about = PeerId(decode_as(Signed, data).signer)
            member = self.machine.member(about)
            if member is not None and member.signed == data:
                continue
            now_s = self._clock.now_s()
            if not allowed.take(1, now_s) or (about != peer and not self._allowed_in_all.take(1, now_s)):
                self._log.debug("peer tells too much", peer=peer)
                return
            self.hear(data)

    async def _watch_network(self) -> None:
        async for event in self._network.events():
            match event:
                case PeerConnected(peer):
                    self._driver.post(Connected(peer, self._network.path(peer)))
                    self.statements.met(peer)
                    self.searches.met(peer)
                case PeerDisconnected(peer):
                    line = self._lines.pop(peer, None)
                    if line is not None:
                        line.close()
                    self._driver.post(Disconnected(peer))
                    self.statements.gone(peer)
                    self.searches.gone(peer)
                case AddressFound(peer, addresses):
                    self._driver.post(AddressSeen(peer, addresses))

    # --- what the machine wants --------------------------------------------------------------------------------------

    async def _perform(self, effect: Effect) -> None:
        assert self._nursery is not None
        match effect:
            case Dial(peer, addresses):
                self._nursery.start_soon(self._dial, peer, addresses)
            case Send(peer, message):
                self._send(peer, message)
            case Drop(peer):
                self._nursery.start_soon(self._network.disconnect, peer)
            case Refute():
                self.on_refute()
            case PeerChanged(peer):
                self._on_change(peer)

    def _send(self, peer: PeerId, message: MemberMessage) -> None:
        assert self._nursery is not None
        line = self._lines.get(peer)
        if line is None:
            line = self._lines[peer] = _Line(self, peer)
            self._nursery.start_soon(line.run)
        line.send(message)

    async def _dial(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        try:
            await self._dial_any(peer, addresses)
        except NotReached:
            self._driver.post(DialFailed(peer))

    async def _dial_any(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """Dials all, one a moment after the other, relays last, until one answers. Raises `DialFailed`."""
        ordered = sorted(addresses, key=lambda address: CIRCUIT in address)
        error: PeerinferError = NotReached(f"no address of {peer} is known")

        async def try_one(address: str, failed: trio.Event) -> None:
            nonlocal error
            try:
                await self._network.dial(address)
                nursery.cancel_scope.cancel()
            except PeerinferError as reason:
                self._log.debug("dial failed", peer=peer, address=address, reason=str(reason))
                error = reason
                failed.set()

        async with trio.open_nursery() as nursery:
            for address in ordered:
                failed = trio.Event()
                nursery.start_soon(try_one, address, failed)
                # An address of another network often swallows what is sent there.
                with trio.move_on_after(DIAL_STAGGER_S):
                    await failed.wait()
        if peer not in self._network.connected():
            raise error

    async def open(self, peer: PeerId) -> tuple[MessageStream, Hello]:
        """A greeted stream to a neighbour, and its greeting. For its line."""
        stream = MessageStream(await self._network.open_stream(peer, MEMBERS_PROTOCOL))
        started_s = self._clock.now_s()
        try:
            hello = await greet(stream, swarm=self._swarm)
        except PeerinferError as error:
            self._log.info("peer cannot be used", peer=peer, reason=str(error))
            await stream.reset()
            raise
        self._driver.post(RttMeasured(peer, self._clock.now_s() - started_s))
        return stream, hello

    def note_silent(self, peer: PeerId, reason: str) -> None:
        self._log.debug("peer could not be told", peer=peer, reason=reason)


class _Line:
    """What this node tells one neighbour, in order."""

    def __init__(self, role: MembersRole, peer: PeerId) -> None:
        self._role = role
        self._peer = peer
        self._sender, self._waiting = trio.open_memory_channel[MemberMessage](LINE_MESSAGES_MAX)

    def send(self, message: MemberMessage) -> None:
        try:
            self._sender.send_nowait(message)
        except (trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
            return

    def close(self) -> None:
        self._sender.close()
        self._waiting.close()

    async def run(self) -> None:
        stream: MessageStream | None = None
        revision = failures = 0
        try:
            async for message in self._waiting:
                try:
                    if stream is None:
                        stream, hello = await self._role.open(self._peer)
                        revision = hello.revision
                    if REVISION_OF.get(type(message), 0) <= revision:
                        await stream.send(message)
                    failures = 0
                except (NetworkError, ProtocolError) as error:
                    self._role.note_silent(self._peer, str(error))
                    stream = None
                    failures += 1
                    if failures >= OPENS_MAX or isinstance(error, ProtocolError):
                        return
                    await trio.sleep(OPEN_AGAIN_S)
        except trio.ClosedResourceError:
            pass
        finally:
            self._waiting.close()
            if stream is not None:
                with trio.CancelScope(shield=True):
                    await stream.close()
