"""What both ends of a work stream do alike: greet, tell that they live, notice silence, say why they go."""

from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio
from role_world import SWARM, Side, header_of

from peerinfer.codec import encode
from peerinfer.errors import ProtocolError, StreamClosed
from peerinfer.limits import (
    HELLO_TIMEOUT_S,
    KEEPALIVE_IDLE_S,
    KEEPALIVE_S,
    MIB,
    REASON_CHARS_MAX,
    SILENCE_IDLE_MAX_S,
    SILENCE_MAX_S,
)
from peerinfer.messages import PROTOCOL_REVISION, PROTOCOL_VERSION, Cancel, Goodbye, Hello, KeepAlive, Window
from peerinfer_node.keys import MemoryKeys
from peerinfer_node.memory_blob_store import MemoryBlobStore
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.network.loopback import stream_pair
from peerinfer_node.roles.work_stream import (
    AGENT,
    LINGER_BYTES_MAX,
    LINGER_S,
    Conversation,
    greet,
    hang_up,
    read_blob,
    say_goodbye,
)

HERE, THERE = MemoryKeys(b"here"), MemoryKeys(b"there")


def ends():
    """The stream of the side under test, and the other side in the test's hands."""
    ours, theirs = stream_pair(HERE.peer_id, THERE.peer_id)
    return MessageStream(ours), Side(THERE, theirs)


@asynccontextmanager
async def conversation(handle=None):
    """A conversation under way; `end` is why it ended."""
    stream, other = ends()
    heard = []

    async def note(message, body):
        heard.append(message)

    talk = Conversation(stream, handle or note)
    result = {"heard": heard}

    async def run():
        result["end"] = await talk.run()
        result["ended_s"] = trio.current_time()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield talk, other, result
        nursery.cancel_scope.deadline = trio.current_time() + 300


# --- greeting --------------------------------------------------------------------------------------------------------


async def test_both_sides_say_who_they_are(autojump_clock):
    stream, other = ends()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other.greet)
        assert await greet(stream, swarm=SWARM) == Hello(PROTOCOL_VERSION, "test", SWARM)
    stream, other = ends()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: greet(stream, swarm=SWARM))
        assert await other.hear(Hello) == Hello(PROTOCOL_VERSION, AGENT, SWARM, PROTOCOL_REVISION)
        await other.say(Hello(PROTOCOL_VERSION, "test", SWARM))


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        (header_of(Hello(2, "x", SWARM)), ProtocolError, "speaks protocol version 2, this node speaks 1"),
        (header_of(Hello(1, "x", "other")), ProtocolError, "belongs to swarm 'other', this node to 'lab'"),
        (header_of(Hello(1, "x")), ProtocolError, "belongs to swarm '', this node to 'lab'"),
        (header_of(Goodbye("too busy")), ProtocolError, "said goodbye: too busy"),
        (header_of(KeepAlive()), ProtocolError, "sent KeepAlive where Hello or Goodbye was due"),
        (b"\x03\x00abc", ProtocolError, "not a message"),
        (b"", StreamClosed, "closed the stream instead of greeting"),
        (b"\x7f", StreamClosed, "stopped in the middle"),
    ],
    ids=["version", "swarm", "no swarm", "goodbye", "something else", "garbage", "nothing", "half"],
)
async def test_a_greeting_that_fails_says_why(autojump_clock, said, error, words):
    stream, other = ends()
    if said:
        await other.raw.write(said)
    await other.close()
    with pytest.raises(error, match=words):
        await greet(stream, swarm=SWARM)


async def test_nobody_is_waited_for_longer_than_a_greeting_takes(autojump_clock):
    stream, _ = ends()
    with pytest.raises(StreamClosed, match="did not greet within 10 s"):
        await greet(stream, swarm=SWARM)
    assert trio.current_time() == HELLO_TIMEOUT_S


# --- life --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("busy", "interval_s"), [(True, KEEPALIVE_S), (False, KEEPALIVE_IDLE_S)])
async def test_a_sign_of_life_is_given_often_with_frames_in_flight_and_rarely_without(autojump_clock, busy, interval_s):
    async with conversation() as (talk, other, _):
        talk.set_busy(busy)
        times = []
        for _ in range(4):
            await other.hear(KeepAlive)
            times.append(trio.current_time())
            await other.say(KeepAlive())
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert gaps == pytest.approx([interval_s] * 3)
        await other.close()


@pytest.mark.parametrize(("busy", "limit_s"), [(True, SILENCE_MAX_S), (False, SILENCE_IDLE_MAX_S)])
async def test_silence_ends_it(autojump_clock, busy, limit_s):
    async with conversation() as (talk, _, result):
        talk.set_busy(busy)
    assert "was silent for" in result["end"]
    assert limit_s <= result["ended_s"] <= limit_s + (2 * KEEPALIVE_S if busy else KEEPALIVE_IDLE_S) + 0.1


async def test_silence_counts_from_the_moment_at_which_frames_are_in_flight(autojump_clock):
    async with conversation() as (talk, _, result):
        await trio.sleep(14.0)
        talk.set_busy(True)
    assert result["ended_s"] >= 14.0 + SILENCE_MAX_S


async def test_anything_said_is_a_sign_of_life(autojump_clock):
    async with conversation() as (talk, other, result):
        talk.set_busy(True)
        for _ in range(20):
            await other.say(Window(1))
            await trio.sleep(SILENCE_MAX_S - 1)
        assert "end" not in result
        await other.close()


async def test_so_are_the_bytes_of_a_message_that_is_not_whole_yet(autojump_clock):
    async with conversation() as (talk, other, result):
        talk.set_busy(True)
        header = encode(Window(1))
        await other.raw.write(bytes([len(header), 100]) + header)
        for _ in range(100):
            await trio.sleep(1.0)
            await other.raw.write(b"x")
        assert "end" not in result
        await other.close()
    assert result["heard"] == [Window(1)]
    assert result["end"] == "closed the stream"


async def test_while_this_side_is_late_the_other_is_not_silent(autojump_clock):
    async def be_slow(message, body):
        await trio.sleep(10 * SILENCE_MAX_S)

    async with conversation(be_slow) as (talk, other, result):
        talk.set_busy(True)
        await other.say(Window(1))
        await other.say(Window(2))
        await trio.sleep(19 * SILENCE_MAX_S)
        assert "end" not in result
        await other.close()
    assert result["end"] == "closed the stream"


# --- endings -----------------------------------------------------------------------------------------------------------


async def test_a_goodbye_ends_it_with_its_reason(autojump_clock):
    async with conversation() as (_, other, result):
        await other.say(Goodbye("no work for now"))
    assert result["end"] == "said goodbye: no work for now"


async def test_a_clean_end_is_named(autojump_clock):
    async with conversation() as (_, other, result):
        await other.close()
    assert result["end"] == "closed the stream"


async def test_a_broken_stream_is_named(autojump_clock):
    async with conversation() as (_, other, result):
        await other.raw.reset()
    assert "was reset" in result["end"]


async def test_garbage_is_answered_with_a_goodbye(autojump_clock):
    async with conversation() as (_, other, result):
        await other.raw.write(b"\x03\x00abc")
        reason = await other.hear_end()
    assert reason == result["end"]
    assert reason.startswith("not a message")


@pytest.mark.parametrize("busy", [True, False])
async def test_what_the_handler_objects_to_is_answered_with_a_goodbye_even_amid_a_sign_of_life(autojump_clock, busy):
    async def object_to_it(message, body):
        talk.set_busy(busy)
        raise ProtocolError("that was not allowed")

    for _ in range(5):
        async with conversation(object_to_it) as (talk, other, result):
            await trio.sleep(KEEPALIVE_IDLE_S)
            await other.say(Cancel(1, "x"))
            assert await other.hear_end() == "that was not allowed"
        assert result["end"] == "that was not allowed"


async def test_an_error_of_our_own_comes_out():
    async def fail(message, body):
        raise ZeroDivisionError

    stream, other = ends()
    await other.say(Window(1))
    with pytest.RaisesGroup(ZeroDivisionError):
        await Conversation(stream, fail).run()


async def test_signs_of_life_are_not_handed_on(autojump_clock):
    async with conversation() as (_, other, result):
        for _ in range(3):
            await other.say(KeepAlive())
        await other.say(Window(1))
        await other.close()
    assert result["heard"] == [Window(1)]


async def test_a_goodbye_is_cut_to_its_limit(autojump_clock):
    stream, other = ends()
    await say_goodbye(stream, "x" * 10_000)
    assert await other.hear_end() == "x" * REASON_CHARS_MAX


async def test_a_goodbye_to_somebody_who_is_gone_or_reads_nothing_takes_no_time(autojump_clock):
    stream, other = ends()
    await other.raw.reset()
    await say_goodbye(stream, "bye")
    raw, _ = stream_pair(HERE.peer_id, THERE.peer_id)
    await raw.write(bytes(2 * MIB))  # more than the other side may leave unread
    await say_goodbye(MessageStream(raw), "bye")
    assert trio.current_time() <= 1.0


async def test_hanging_up_lets_the_other_side_read_why(autojump_clock):
    stream, other = ends()
    await say_goodbye(stream, "why")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hang_up, stream)
        assert await other.hear_end() == "why"
        await other.close()
    assert trio.current_time() < LINGER_S


async def test_hanging_up_waits_for_nobody_for_long(autojump_clock):
    stream, _ = ends()
    await hang_up(stream)
    assert trio.current_time() == pytest.approx(LINGER_S)
    stream, other = ends()
    await other.raw.write(bytes(LINGER_BYTES_MAX + 1))
    before_s = trio.current_time()
    await hang_up(stream)
    assert trio.current_time() == before_s
    with pytest.raises(StreamClosed):
        await other.raw.write(b"x")


# --- large bodies --------------------------------------------------------------------------------------------------------


async def test_a_blob_is_read_up_to_the_size_that_was_announced():
    blobs = MemoryBlobStore()
    cid = await blobs.put(bytes(1000))
    assert await read_blob(blobs, cid, bytes_max=1000, what="the inputs") == bytes(1000)
    assert await read_blob(blobs, cid, bytes_max=5000, what="the inputs") == bytes(1000)
    with pytest.raises(ProtocolError, match="the inputs have 1000 bytes, 999 were announced"):
        await read_blob(blobs, cid, bytes_max=999, what="the inputs")


async def test_a_blob_that_had_to_go_is_missed():
    with pytest.raises(KeyError):
        await read_blob(MemoryBlobStore(), "b" * 59, bytes_max=1, what="the inputs")
