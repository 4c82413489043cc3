"""The simulated internet keeps the promises of the Network port, and breaks them only where it was told to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from peerinfer.errors import DialFailed, StreamClosed
from peerinfer_node.keys import MemoryKeys
from peerinfer_node.ports import PeerConnected, PeerDisconnected, Stream
from peerinfer_sim import determinism
from peerinfer_sim.event_log import EventLog
from peerinfer_sim.internet import CUT_NOTICED_S, Internet, LinkProfile
from peerinfer_sim.network import DIAL_TIMEOUT_S, UNREAD_BYTES_MAX, SimNetwork

ECHO = "/echo/1"
LATENCY_S = 0.1


async def echo(stream: Stream) -> None:
    while data := await stream.read(1000):
        await stream.write(data)


class Town:
    """Two nodes, both of which echo."""

    def __init__(self, **links: float) -> None:
        profile = LinkProfile(**{"latency_s": LATENCY_S, "spread": 0.0, "jitter": 0.0, **links})
        self.internet = Internet(1, profile, EventLog())
        self.a, self.b = (
            SimNetwork(self.internet, MemoryKeys(name.encode()).peer_id, name, number, finds_neighbours=False)
            for number, name in enumerate(("a", "b"))
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.internet.run)
            async with AsyncExitStack() as stack:
                for network in (self.a, self.b):
                    network.serve(ECHO, echo)
                    await stack.enter_async_context(network.run())
                yield
            nursery.cancel_scope.cancel()

    async def connect(self) -> None:
        await self.a.dial(self.b.addresses()[0])

    def cut(self, *, one_way: bool = False) -> None:
        self.internet.cut(self.a.peer_id, self.b.peer_id)
        if not one_way:
            self.internet.cut(self.b.peer_id, self.a.peer_id)

    def heal(self) -> None:
        self.internet.heal(self.a.peer_id, self.b.peer_id)
        self.internet.heal(self.b.peer_id, self.a.peer_id)


def in_town(test: Callable[[Town], Awaitable[None]], **links: float) -> None:
    """Runs the test under the virtual clock, in a town where the two are connected."""

    async def main() -> None:
        town = Town(**links)
        async with town.open():
            await town.connect()
            await test(town)

    determinism.run(main, 1)


def test_what_is_written_arrives_after_the_latency_in_order() -> None:
    async def test(town: Town) -> None:
        stream = await town.a.open_stream(town.b.peer_id, ECHO)
        started_s = trio.current_time()
        await stream.write(b"\1\1\1one")
        await stream.write(b"\1\1\1two")
        heard = b""
        while len(heard) < 12:
            heard += await stream.read(1000)
        assert heard == b"\1\1\1one\1\1\1two"
        assert trio.current_time() - started_s == pytest.approx(2 * LATENCY_S)

    in_town(test)


def test_bandwidth_delays_what_is_large() -> None:
    async def test(town: Town) -> None:
        stream = await town.a.open_stream(town.b.peer_id, ECHO)
        started_s = trio.current_time()
        await stream.write(bytes(1000))
        await stream.read(1000)
        assert trio.current_time() - started_s == pytest.approx(2 * (LATENCY_S + 10.0))

    in_town(test, bytes_per_s=100.0)


def test_a_finished_stream_ends_politely() -> None:
    async def test(town: Town) -> None:
        stream = await town.a.open_stream(town.b.peer_id, ECHO)
        await stream.write(b"\1\1\1bye")
        await stream.close()
        assert await stream.read(1000) == b"\1\1\1bye"
        assert await stream.read(1000) == b""
        with pytest.raises(StreamClosed):
            await stream.write(b"\1\1\1more")

    in_town(test)


def test_a_reset_stream_breaks_on_both_sides() -> None:
    async def test(town: Town) -> None:
        ended = trio.Event()

        async def wait(stream: Stream) -> None:
            with pytest.raises(StreamClosed):
                await stream.read(1)
            ended.set()

        town.b.serve("/wait/1", wait)
        stream = await town.a.open_stream(town.b.peer_id, "/wait/1")
        await stream.reset()
        with pytest.raises(StreamClosed):
            await stream.read(1)
        await ended.wait()

    in_town(test)


def test_a_writer_waits_for_a_reader_that_does_not_read() -> None:
    async def test(town: Town) -> None:
        async def ignore(stream: Stream) -> None:
            await trio.sleep(1000)
            await stream.read(UNREAD_BYTES_MAX)
            await trio.sleep_forever()

        town.b.serve("/ignore/1", ignore)
        stream = await town.a.open_stream(town.b.peer_id, "/ignore/1")
        await stream.write(bytes(UNREAD_BYTES_MAX + 1))
        with trio.move_on_after(900) as scope:
            await stream.write(bytes(1))
        assert scope.cancelled_caught
        await stream.write(bytes(1))

    in_town(test)


def test_what_nobody_speaks_is_refused() -> None:
    async def test(town: Town) -> None:
        with pytest.raises(StreamClosed, match="does not speak"):
            await town.a.open_stream(town.b.peer_id, "/other/1")

    in_town(test)


def test_nobody_answers_where_nobody_is() -> None:
    async def test(town: Town) -> None:
        stranger = MemoryKeys(b"stranger").peer_id
        with pytest.raises(DialFailed, match="not connected"):
            await town.a.open_stream(stranger, ECHO)
        with pytest.raises(DialFailed, match="nothing listens"):
            await town.a.dial(f"/ip4/10.0.0.9/tcp/4001/p2p/{stranger}")
        with pytest.raises(DialFailed, match="not an address of this world"):
            await town.a.dial("/dns4/example/tcp/1")

    in_town(test)


def test_a_cut_holds_what_is_sent_until_it_is_healed() -> None:
    async def test(town: Town) -> None:
        stream = await town.a.open_stream(town.b.peer_id, ECHO)
        town.cut(one_way=True)
        await stream.write(b"\1\1\1hold")
        with trio.move_on_after(5.0) as scope:
            await stream.read(1000)
        assert scope.cancelled_caught
        town.heal()
        started_s = trio.current_time()
        assert await stream.read(1000) == b"\1\1\1hold"
        assert trio.current_time() - started_s == pytest.approx(2 * LATENCY_S)

    in_town(test)


def test_a_cut_one_way_lets_the_other_way_pass() -> None:
    async def test(town: Town) -> None:
        stream = await town.a.open_stream(town.b.peer_id, ECHO)
        await stream.write(b"\1\1\1last")
        await trio.sleep(LATENCY_S * 1.5)
        town.cut(one_way=True)
        assert await stream.read(1000) == b"\1\1\1last"

    in_town(test)


def test_a_long_cut_breaks_the_connection_and_nobody_can_be_dialled() -> None:
    async def test(town: Town) -> None:
        stream = await town.a.open_stream(town.b.peer_id, ECHO)
        started_s = trio.current_time()
        town.cut()
        with pytest.raises(StreamClosed):
            await stream.read(1)
        assert trio.current_time() - started_s == pytest.approx(CUT_NOTICED_S)
        assert town.a.connected() == town.b.connected() == []
        with pytest.raises(DialFailed, match=f"within {DIAL_TIMEOUT_S:g} s"):
            await town.connect()
        town.heal()
        await town.connect()
        assert town.a.connected() == [town.b.peer_id]

    in_town(test)


def test_a_crash_is_heard_of_and_leaves_nobody_to_dial() -> None:
    async def test(town: Town) -> None:
        stream = await town.a.open_stream(town.b.peer_id, ECHO)
        town.internet.crash(town.b.peer_id)
        with pytest.raises(StreamClosed):
            await stream.read(1)
        events = town.a.events()
        assert [await anext(events), await anext(events)] == [
            PeerConnected(town.b.peer_id),
            PeerDisconnected(town.b.peer_id),
        ]
        with pytest.raises(DialFailed, match="nothing listens"):
            await town.connect()

    in_town(test)


def test_a_delay_is_added_to_every_delivery() -> None:
    async def test(town: Town) -> None:
        stream = await town.a.open_stream(town.b.peer_id, ECHO)
        town.internet.delay(town.a.peer_id, town.b.peer_id, 2.0)
        started_s = trio.current_time()
        await stream.write(b"\1\1\1slow")
        await stream.read(1000)
        assert trio.current_time() - started_s == pytest.approx(2 * LATENCY_S + 2.0)

    in_town(test)
