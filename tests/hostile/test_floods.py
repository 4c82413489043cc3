"""Floods against a real daemon: what each may cost it, measured from outside, while an honest peer goes on with it.

The limits are those of the code; the figures are printed (`pytest -s`).
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from itertools import count

import psutil
import pytest
import trio
from libp2p_hosts import PATIENCE_S, node, raw_session
from process_memory import allocated_bytes
from swarm import Daemon, Swarm, wait_for

from peerinfer.codec import encode
from peerinfer.dialling import ADDRESSES_DIALLED_BURST, ADDRESSES_DIALLED_PER_S
from peerinfer.envelope import seal
from peerinfer.errors import PeerinferError
from peerinfer.ids import PeerId, peer_id_of
from peerinfer.limits import ADDRESSES_PER_PEER_MAX, ADVERT_BYTES_MAX, MEMBERS_MAX, NEWS_PER_MESSAGE_MAX
from peerinfer.member_messages import Adverts, Digest, News
from peerinfer.messages import Advert
from peerinfer.news import known
from peerinfer_node.keys import MemoryKeys
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.network.libp2p_network import HANDSHAKES_MAX, HANDSHAKES_PER_HOST_MAX
from peerinfer_node.roles.members import MEMBERS_PROTOCOL
from peerinfer_node.roles.work_stream import greet

pytestmark = pytest.mark.slow

MIB = 2**20
FLOOD_S = 1.2
ANSWERS_WITHIN_S = 5.0
"""The owner's question, while the flood lasts, on a machine that other tests keep busy."""

NAMES = 100
CONNECTION_KIB_MAX = 160
"""Of memory for each authenticated connection that stays, streams and membership included."""

_seeds = count()


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Daemon]]:
    """Whom the floods are for, and an honest peer of it."""
    with Swarm(tmp_path_factory.mktemp("town")) as swarm:
        victim = swarm.join("victim")
        honest = swarm.join("honest", bootstrap=victim)
        wait_for(lambda: states(victim).get(honest.peer_id) == "alive", timeout_s=20, saying="the honest peer")
        yield victim, honest


def states(daemon: Daemon) -> dict[str, str]:
    return {peer["peer_id"]: peer["state"] for peer in daemon.ask("GET", "/peers")}


def connections_of(daemon: Daemon) -> list[object]:
    """Those that it has accepted and that are open."""
    port = int(daemon.address.split("/")[4])
    found = psutil.Process(daemon.pid).net_connections("tcp")
    return [each for each in found if each.status == "ESTABLISHED" and each.laddr.port == port]


class Watch:
    """What a process takes, looked at many times each second."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._over = threading.Event()
        self.before = self.most = allocated_bytes(self._daemon.pid)
        self.connections = 0
        self.answer_s = 0.0

    def look(self) -> None:
        while not self._over.wait(0.05):
            self.most = max(self.most, allocated_bytes(self._daemon.pid))
            self.connections = max(self.connections, len(connections_of(self._daemon)))

    def ask(self) -> None:
        while not self._over.wait(0.05):
            asked_s = time.monotonic()
            self._daemon.ask("GET", "/node")
            self.answer_s = max(self.answer_s, time.monotonic() - asked_s)

    @property
    def grown(self) -> int:
        return self.most - self.before

    @contextmanager
    def running(self) -> Iterator[Watch]:
        threads = [threading.Thread(target=watch) for watch in (self.look, self.ask)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._over.set()
            for thread in threads:
                thread.join()


def flooded(town: tuple[Daemon, Daemon], flood: Callable[[Daemon, Watch], Awaitable[object]]) -> Watch:
    """What the flood cost. The honest peer is never lost by it; who was slow to answer may be suspected for a moment."""
    victim, honest = town
    with Watch(victim).running() as watch:
        trio.run(flood, victim, watch)
        for one, other in ((victim, honest), (honest, victim)):
            assert states(one)[other.peer_id] in ("alive", "suspect")
    for one, other in ((victim, honest), (honest, victim)):
        wait_for(lambda a=one, b=other: states(a)[b.peer_id] == "alive", timeout_s=60, saying="one to answer the other")
    print(
        f"{watch.grown / MIB:.1f} MiB more, {watch.connections} connections at most, "
        f"answered its owner within {watch.answer_s:.2f} s"
    )
    assert watch.answer_s < ANSWERS_WITHIN_S
    return watch


async def knock(victim: Daemon, host: str) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", int(victim.address.split("/")[4]), local_address=host)


async def hold_silently(victim: Daemon, *, hosts: int, each: int, says: bytes = b"") -> None:
    """Until it is cancelled, or the victim has closed them all."""

    async def hold(host: str) -> None:
        with suppress(OSError, trio.BrokenResourceError):
            async with await knock(victim, host) as stream:
                for byte in says:
                    await stream.send_all(bytes([byte]))
                    await trio.sleep(0.1)
                while await stream.receive_some():
                    pass

    async with trio.open_nursery() as nursery:
        for number in range(hosts * each):
            nursery.start_soon(hold, f"127.0.2.{1 + number % hosts}")


def test_a_thousand_silent_connections_hold_no_more_than_the_places_for_handshakes(town) -> None:
    async def flood(victim: Daemon, watch: Watch) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(hold_silently, victim, hosts=50, each=20))
            await trio.sleep(FLOOD_S)
            with trio.move_on_after(PATIENCE_S):
                while watch.connections <= HANDSHAKES_MAX / 4:  # noqa: ASYNC110  (another thread looks)
                    await trio.sleep(0.05)
            nursery.cancel_scope.cancel()

    watch = flooded(town, flood)
    assert HANDSHAKES_MAX / 4 < watch.connections <= HANDSHAKES_MAX + 20
    assert watch.grown < 16 * MIB


def test_one_host_that_says_a_byte_now_and_then_holds_its_own_share(town) -> None:
    async def flood(victim: Daemon, _: Watch) -> None:
        with trio.move_on_after(FLOOD_S):
            await hold_silently(victim, hosts=1, each=300, says=b"\x13/multistream/1.0.0\n")

    watch = flooded(town, flood)
    assert watch.connections <= HANDSHAKES_PER_HOST_MAX + 20
    assert watch.grown < 8 * MIB


def test_while_all_places_are_held_in_silence_a_newcomer_gets_in(town) -> None:
    async def come_in(victim: Daemon, _: Watch) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(hold_silently, victim, hosts=50, each=20))
            await trio.sleep(FLOOD_S / 2)
            newcomer = node(listen=())
            async with newcomer.run():
                assert await newcomer.dial(victim.address) == victim.peer_id
                with trio.fail_after(PATIENCE_S):
                    stream = await newcomer.open_stream(PeerId(victim.peer_id), MEMBERS_PROTOCOL)
                    await greet(MessageStream(stream), swarm="")
            nursery.cancel_scope.cancel()

    flooded(town, come_in)


async def crowd_in(victim: Daemon, watch: Watch, names: int) -> None:
    """As many peers with names of their own, each on a connection that stays."""
    async with AsyncExitStack() as stack:
        for _ in range(names):
            seed = b"crowd %26d" % next(_seeds)
            await stack.enter_async_context(raw_session(victim.address, victim.peer_id, seed))
        await trio.sleep(FLOOD_S)
        with trio.move_on_after(PATIENCE_S):
            while watch.connections <= names / 2:  # noqa: ASYNC110  (another thread looks)
                await trio.sleep(0.05)


def test_a_crowd_of_names_costs_so_much_each_and_is_gone_when_it_goes(town) -> None:
    watch = flooded(town, partial(crowd_in, names=NAMES))
    print(f"{watch.grown / watch.connections / 1024:.0f} KiB for each connection")
    assert watch.connections > NAMES / 2
    assert watch.grown < CONNECTION_KIB_MAX * 1024 * NAMES
    wait_for(lambda: len(connections_of(town[0])) < 20, timeout_s=20, saying="the crowd to be gone")


async def tell(victim: Daemon, *messages: bytes, again: bool = True) -> int:
    """Says all this to the victim's membership, over and over; returns how many bytes it took."""
    said = 0
    network = node(listen=())
    async with network.run():
        await network.dial(victim.address)
        stream = await network.open_stream(PeerId(victim.peer_id), MEMBERS_PROTOCOL)
        await greet(MessageStream(stream), swarm="")
        with trio.move_on_after(FLOOD_S):
            try:
                while True:
                    for message in messages:
                        await stream.write(message)
                        said += len(message)
                    if not again:
                        await trio.sleep_forever()
            except PeerinferError:
                pass  # It had enough.
    return said


def framed(message: object) -> bytes:
    """As it goes over a stream: two lengths, of header and of body, and the message."""
    data = encode(message)
    return varint(len(data)) + varint(0) + data


def varint(number: int) -> bytes:
    said = bytearray()
    while number > 127:
        said.append(number & 127 | 128)
        number >>= 7
    return bytes([*said, number])


def stranger() -> PeerId:
    return peer_id_of(struct.pack(">QQQQ", 7, 7, 7, next(_seeds)))


def test_gossip_about_nobody_that_never_ends_takes_no_memory(town) -> None:
    told = [News(tuple(known(stranger(), 1, 1, "alive") for _ in range(NEWS_PER_MESSAGE_MAX))) for _ in range(500)]
    told += [Digest(tuple(known(stranger(), 1, 1, "dead") for _ in range(NEWS_PER_MESSAGE_MAX))) for _ in range(500)]
    watch = flooded(town, lambda victim, _: tell(victim, *map(framed, told)))
    assert watch.grown < 32 * MIB


@pytest.mark.parametrize(
    "said",
    [
        varint(2**62) + varint(0) + b"x" * 1000,
        varint(100) + varint(2**62) + b"x" * 1000,
        varint(2**30) + b"x" * 65536,
        framed(Adverts((b"x" * 200_000,))),
    ],
    ids=["a header of exabytes", "a body of exabytes", "a header of a gigabyte", "an advert of 200 kB"],
)
def test_a_message_larger_than_its_limit_costs_its_stream_at_once(town, said) -> None:
    watch = flooded(town, lambda victim, _: tell(victim, said))
    assert watch.grown < 8 * MIB


def advert_of(keys: MemoryKeys, addresses: tuple[str, ...]) -> bytes:
    advert = Advert(1, 1, time.time(), "n", "a", addresses, "running", (), (), (), "full")
    signed = seal(advert, keys.peer_id, keys.sign)
    assert len(signed) <= ADVERT_BYTES_MAX
    return signed


def test_addresses_of_a_bystander_in_a_thousand_adverts_bring_it_a_bounded_number_of_knocks(town) -> None:
    knocks = 0

    async def spam(victim: Daemon, _: Watch) -> None:
        nonlocal knocks

        async def count_knock(stream: trio.SocketStream) -> None:
            nonlocal knocks
            knocks += 1

        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, count_knock, 0))
            port = listeners[0].socket.getsockname()[1]
            adverts = []
            for _ in range(1000):
                keys = MemoryKeys(b"nobody %d" % next(_seeds))
                hosts = range(1, ADDRESSES_PER_PEER_MAX + 1)
                adverts.append(advert_of(keys, tuple(f"/ip4/127.0.3.{n}/tcp/{port}/p2p/{keys.peer_id}" for n in hosts)))
            told = [framed(Adverts(tuple(adverts[start : start + 50]))) for start in range(0, 1000, 50)]
            await tell(victim, *told, again=False)
            with trio.move_on_after(PATIENCE_S):
                while not knocks:  # noqa: ASYNC110  (on a busy machine it is still reading)
                    await trio.sleep(0.05)
            nursery.cancel_scope.cancel()

    started_s = time.monotonic()
    watch = flooded(town, spam)
    took_s = time.monotonic() - started_s
    print(f"{knocks} knocks at the bystander's door")
    of_one = ADDRESSES_DIALLED_BURST + ADDRESSES_DIALLED_PER_S * took_s + ADDRESSES_PER_PEER_MAX
    assert 0 < knocks <= 2 * of_one, "the honest peer hears of them, too"
    assert watch.grown < 32 * MIB
    assert len(states(town[0])) <= MEMBERS_MAX
