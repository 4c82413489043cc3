"""Tells peers who is there and hears it from them, over one small stream each way; dials what the machine wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from peerinfer.codec import decode_as
from peerinfer.envelope import unseal
from peerinfer.errors import DecodeError, NetworkError, PeerinferError, ProtocolError
from peerinfer.ids import PeerId
from peerinfer.membership import (
    AddressSeen,
    AdvertSeen,
    Connected,
    Dial,
    DialFailed,
    Disconnected,
    Effect,
    Event,
    Membership,
    OwnAdvert,
    PeerChanged,
    RttMeasured,
    Tell,
)
from peerinfer.messages import Advert, Adverts, Goodbye, KeepAlive, Signed
from peerinfer_node.driver import Driver
from peerinfer_node.log import Log
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.ports import AddressFound, LocalClock, Network, PeerConnected, PeerDisconnected, Stream
from peerinfer_node.roles.work_stream import greet, say_goodbye

MEMBERS_PROTOCOL = "/peerinfer/members/1"
TELL_TIMEOUT_S = 15.0


class MembersRole:
    """Runs the membership machine over a network."""

    def __init__(
        self,
        *,
        machine: Membership,
        network: Network,
        clock: LocalClock,
        log: Log,
        swarm: str,
        on_change: Callable[[PeerId], None],
    ) -> None:
        self.machine = machine
        self._network = network
        self._clock = clock
        self._log = log
        self._swarm = swarm
        self._on_change = on_change
        self._streams: dict[PeerId, MessageStream] = {}
        self._locks: dict[PeerId, trio.Lock] = {}
        self._serving: dict[PeerId, int] = {}
        self._driver: Driver[Event, Effect] = Driver(machine, clock, self._perform)
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._watch_network)
            await self._driver.run()

    def advertise(self, signed: bytes) -> None:
        """Makes this the node's own advert."""
        self._driver.post(OwnAdvert(signed))

    def hear(self, data: bytes) -> None:
        """Takes a signed advert from wherever. Raises `DecodeError` if it is forged or malformed."""
        known = self.machine.member(PeerId(decode_as(Signed, data).signer))
        if known is not None and known.signed == data:
            return  # Most adverts come several times; their signature is checked once.
        peer, advert = unseal(Advert, data)
        self._driver.post(AdvertSeen(peer, advert, data, self._clock.wall_s()))

    def found(self, peer: PeerId, addresses: Sequence[str]) -> None:
        self._driver.post(AddressSeen(peer, tuple(addresses)))

    async def serve(self, raw: Stream) -> None:
        """Hears what one peer tells, until it stops."""
        stream = MessageStream(raw)
        peer = stream.peer
        if self._serving.get(peer, 0) >= 2:
            await stream.reset()
            return
        self._serving[peer] = self._serving.get(peer, 0) + 1
        try:
            await greet(stream, swarm=self._swarm)
            while True:
                message, _ = await stream.receive_as(Adverts, KeepAlive, Goodbye)
                if isinstance(message, Goodbye):
                    return
                for data in message.adverts if isinstance(message, Adverts) else ():
                    self.hear(data)
        except EOFError:
            pass
        except ProtocolError as error:
            self._log.info("peer broke the members protocol", peer=peer, reason=str(error))
            await say_goodbye(stream, str(error))
        except PeerinferError as error:
            self._log.debug("members stream ended", peer=peer, reason=str(error))
        finally:
            self._serving[peer] -= 1
            if not self._serving[peer]:
                del self._serving[peer]
            with trio.CancelScope(shield=True):
                await stream.close()

    async def _watch_network(self) -> None:
        async for event in self._network.events():
            match event:
                case PeerConnected(peer):
                    self._driver.post(Connected(peer, self._network.path(peer)))
                case PeerDisconnected(peer):
                    self._streams.pop(peer, None)
                    self._locks.pop(peer, None)
                    self._driver.post(Disconnected(peer))
                case AddressFound(peer, addresses):
                    self._driver.post(AddressSeen(peer, addresses))

    async def _perform(self, effect: Effect) -> None:
        assert self._nursery is not None
        match effect:
            case Dial(peer, addresses):
                self._nursery.start_soon(self._dial, peer, addresses)
            case Tell(peer, adverts):
                self._nursery.start_soon(self._tell, peer, adverts)
            case PeerChanged(peer):
                self._on_change(peer)

    async def _dial(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        for address in addresses:
            try:
                await self._network.dial(address)
                return
            except PeerinferError as error:
                self._log.debug("dial failed", peer=peer, address=address, reason=str(error))
        self._driver.post(DialFailed(peer))

    async def _tell(self, peer: PeerId, adverts: tuple[bytes, ...]) -> None:
        lock = self._locks.setdefault(peer, trio.Lock())
        async with lock:
            with trio.move_on_after(TELL_TIMEOUT_S):
                try:
                    stream = self._streams.get(peer)
                    if stream is None:
                        stream = self._streams[peer] = await self._open(peer)
                    await stream.send(Adverts(adverts))
                except (NetworkError, ProtocolError, DecodeError) as error:
                    self._streams.pop(peer, None)
                    self._log.debug("peer could not be told", peer=peer, reason=str(error))

    async def _open(self, peer: PeerId) -> MessageStream:
        stream = MessageStream(await self._network.open_stream(peer, MEMBERS_PROTOCOL))
        started_s = self._clock.now_s()
        try:
            await greet(stream, swarm=self._swarm)
        except PeerinferError as error:
            self._log.warning("peer cannot be used", peer=peer, reason=str(error))
            raise
        self._driver.post(RttMeasured(peer, self._clock.now_s() - started_s))
        return stream
