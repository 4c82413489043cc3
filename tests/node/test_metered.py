"""The owner's rates and daily quota, over streams in this process and a clock that jumps: figures are exact."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from peerinfer.ids import PeerId
from peerinfer.limits import BODY_BYTES_MAX, KIB, MIB
from peerinfer.messages import BlobChunk, KeepAlive
from peerinfer.rate import BURST_S, Rate
from peerinfer_node.log import Log
from peerinfer_node.memory_store import MemoryStore
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.network.loopback import stream_pair
from peerinfer_node.network.metered import MeteredNetwork, MeteredStream
from peerinfer_node.ports import Stream
from peerinfer_node.traffic import Traffic, kept

A, B = PeerId("a"), PeerId("b")
CID = "b" * 52


async def carried(here: Stream, there: Stream, count: int) -> float:
    """Seconds that so many bytes take from here to there."""
    started_s = trio.current_time()

    async def read() -> None:
        left = count
        while left:
            left -= len(await there.read(256 * KIB))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await here.write(bytes(count))
    return trio.current_time() - started_s


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_ten_megabytes_at_a_megabyte_a_second_take_ten_seconds(
    autojump_clock: trio.testing.MockClock, direction: str
) -> None:
    here, there = stream_pair(A, B)
    rate = Rate(MIB)
    sender = MeteredStream(here, rate if direction == "up" else None, None, lambda count: None)
    receiver = MeteredStream(there, None, rate if direction == "down" else None, lambda count: None)
    assert await carried(sender, receiver, 10 * MIB) == pytest.approx(10 - BURST_S, rel=0.01)


async def test_all_streams_share_one_rate(autojump_clock: trio.testing.MockClock) -> None:
    rate, taken_s = Rate(MIB), []

    async def one() -> None:
        here, there = stream_pair(A, B)
        taken_s.append(await carried(MeteredStream(here, rate, None, lambda count: None), there, 2 * MIB))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(one)
    assert max(taken_s) == pytest.approx(10 - BURST_S, rel=0.01)
    assert min(taken_s) > 9  # they take turns


async def test_the_largest_message_passes_at_the_lowest_rate_though_it_takes_longer_than_a_silent_peer_may(
    autojump_clock: trio.testing.MockClock,
) -> None:
    here, there = stream_pair(A, B)
    slow = Rate(300_000)
    sender = MessageStream(MeteredStream(here, slow, None, lambda count: None))
    receiver = MessageStream(there)
    started_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.send, BlobChunk(CID, 0), (bytes(BODY_BYTES_MAX),))
        nursery.start_soon(sender.send, BlobChunk(CID, 1), (bytes(BODY_BYTES_MAX),))
        found = [await receiver.receive() for _ in range(2)]
    assert {message.index for message, _ in found} == {0, 1}
    assert {len(body) for _, body in found} == {BODY_BYTES_MAX}
    assert trio.current_time() - started_s == pytest.approx(2 * BODY_BYTES_MAX / 300_000, rel=0.02)


class _Wires:
    """As much of a network as is asked here."""

    peer_id = A

    def __init__(self) -> None:
        self.ends: list[Stream] = []

    async def open_stream(self, peer: PeerId, protocol: str) -> Stream:
        here, there = stream_pair(A, peer)
        self.ends.append(there)
        return here


async def test_what_keeps_leases_alive_is_counted_and_never_held_up(autojump_clock: trio.testing.MockClock) -> None:
    counted: list[int] = []
    wires, up = _Wires(), Rate(300_000)
    network = MeteredNetwork(wires, up=up, down=None, bulk=("/bulk",), count=counted.append)  # type: ignore[arg-type]
    bulk = await network.open_stream(B, "/bulk")
    await bulk.write(bytes(900_000))
    assert trio.current_time() > 2
    lease = MessageStream(await network.open_stream(B, "/lease"))
    before_s = trio.current_time()
    await lease.send(KeepAlive())
    assert trio.current_time() == before_s
    assert sum(counted) == 900_000 + lease.bytes_out


async def test_todays_traffic_outlives_the_node_and_not_the_day(autojump_clock: trio.testing.MockClock) -> None:
    store, today = MemoryStore(), ["2026-11-28"]
    first = Traffic(store, Log(), lambda: today[0])
    async with kept(first):
        first.count(700)
        await trio.sleep(60)
        first.count(7)
    again = Traffic(store, Log(), lambda: today[0])
    await again.restore()
    assert again.bytes_today == 707
    today[0] = "2026-11-29"
    assert again.bytes_today == 0
    tomorrow = Traffic(store, Log(), lambda: today[0])
    await tomorrow.restore()
    assert tomorrow.bytes_today == 0


@pytest.mark.parametrize("stored", ["", "{}", "[1]", '["2026-11-28", "much"]', '["2026-11-28", -4]', "nonsense"])
async def test_what_is_stored_and_not_ours_counts_as_nothing(stored: str) -> None:
    store = MemoryStore()
    await store.set_setting("traffic_today", stored)
    traffic = Traffic(store, Log(), lambda: "2026-11-28")
    await traffic.restore()
    assert traffic.bytes_today == 0
