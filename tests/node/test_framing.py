"""Messages with bodies over a byte stream: whole or not at all, within their limits, however the bytes come."""

import tracemalloc

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from peerinfer.codec import encode
from peerinfer.errors import DecodeError, ProtocolError, StreamClosed
from peerinfer.ids import PeerId
from peerinfer.limits import BODY_BYTES_MAX, HEADER_BYTES_MAX, MIB, WRITE_TIMEOUT_S
from peerinfer.messages import BlobChunk, Goodbye, JobDone, KeepAlive, Window
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.network.loopback import stream_pair

HERE, THERE = PeerId("here"), PeerId("there")
CHUNK = BlobChunk("b" * 59, 7)


class Script:
    """A stream whose incoming bytes come in the pieces that a test lays down; what is written is kept."""

    def __init__(self, *pieces):
        self.peer = THERE
        self.pieces = list(pieces)
        self.written = bytearray()
        self.is_reset = False

    async def read(self, bytes_max):
        await trio.lowlevel.checkpoint()
        if not self.pieces:
            return b""
        piece = self.pieces.pop(0)
        if len(piece) > bytes_max:
            self.pieces.insert(0, piece[bytes_max:])
        return piece[:bytes_max]

    async def write(self, data):
        await trio.lowlevel.checkpoint()
        self.written += data

    def write_nowait(self, data):
        return False

    async def close(self):
        pass

    async def reset(self):
        self.is_reset = True


class Trickle(Script):
    """Takes a hundred bytes a second."""

    async def write(self, data):
        for start in range(0, len(data), 100):
            self.written += data[start : start + 100]
            await trio.sleep(1.0)


def pair():
    ours, theirs = stream_pair(HERE, THERE)
    return MessageStream(ours), MessageStream(theirs)


async def framed(message, body=b""):
    stream = Script()
    await MessageStream(stream).send(message, [body] if body else ())
    return bytes(stream.written)


# --- there and back ------------------------------------------------------------------------------------------------


async def test_a_message_and_its_body_arrive():
    ours, theirs = pair()
    await ours.send(CHUNK, [b"some ", bytearray(b"bytes"), memoryview(b" more")])
    assert await theirs.receive() == (CHUNK, b"some bytes more")
    assert ours.bytes_out == theirs.bytes_in


async def test_messages_arrive_in_their_order_and_without_bodies_where_there_are_none():
    ours, theirs = pair()
    for number in range(3):
        await ours.send(Window(number))
    await ours.send(KeepAlive())
    assert [await theirs.receive() for _ in range(4)] == [
        (Window(0), b""),
        (Window(1), b""),
        (Window(2), b""),
        (KeepAlive(), b""),
    ]


async def test_bodies_of_wider_numbers_are_counted_in_bytes():
    ours, theirs = pair()
    await ours.send(CHUNK, [memoryview(bytearray(16)).cast("d")])
    assert (await theirs.receive())[1] == bytes(16)


async def test_writers_never_interleave():
    ours, theirs = pair()
    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(ours.send, Window(number), [bytes([number]) * 700_000])
        got = {}
        for _ in range(4):
            message, body = await theirs.receive()
            got[message.frames] = set(body)
    assert got == {number: {number} for number in range(4)}


def test_however_the_bytes_are_cut_the_messages_are_the_same():
    @settings(derandomize=True, deadline=None)
    @given(st.lists(st.integers(1, 40), max_size=60), st.lists(st.binary(max_size=30), min_size=1, max_size=4))
    def cut(sizes, bodies):
        async def main():
            data = b"".join([await framed(Window(number % 60), body) for number, body in enumerate(bodies)])
            pieces = []
            for size in sizes:
                pieces.append(data[:size])
                data = data[size:]
            stream = MessageStream(Script(*[piece for piece in pieces if piece], *([data] if data else [])))
            for number, body in enumerate(bodies):
                assert await stream.receive() == (Window(number % 60), body)
            with pytest.raises(EOFError):
                await stream.receive()

        trio.run(main)

    cut()


async def test_the_largest_body_passes_and_one_byte_more_does_not():
    ours, theirs = pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.send, CHUNK, [bytes(BODY_BYTES_MAX)])
        _, body = await theirs.receive()
        assert len(body) == BODY_BYTES_MAX
    with pytest.raises(ValueError, match="passes the limit"):
        await ours.send(CHUNK, [bytes(BODY_BYTES_MAX), b"x"])
    assert ours.bytes_out == theirs.bytes_in, "nothing of it may be sent"


async def test_a_message_too_large_for_a_header_is_refused_before_anything_is_sent():
    stream = Script()
    with pytest.raises(ValueError, match="Goodbye takes"):
        await MessageStream(stream).send(Goodbye("x" * HEADER_BYTES_MAX))
    assert stream.written == b""
    assert not stream.is_reset


# --- ends ------------------------------------------------------------------------------------------------------------


async def test_a_clean_end_is_no_error():
    with pytest.raises(EOFError):
        await MessageStream(Script()).receive()


async def test_an_end_in_the_middle_of_a_message_is_one():
    data = await framed(CHUNK, b"body")
    for cut in range(1, len(data)):
        with pytest.raises(StreamClosed, match="stopped in the middle"):
            await MessageStream(Script(data[:cut])).receive()


async def test_a_message_of_another_kind_is_an_error_where_one_is_due():
    stream = MessageStream(Script(await framed(JobDone("job"))))
    with pytest.raises(ProtocolError, match="there sent JobDone where Window or KeepAlive was due"):
        await stream.receive_as(Window, KeepAlive)


async def test_a_peer_that_takes_nothing_is_lost(autojump_clock):
    ours, _ = pair()
    await ours.send(CHUNK, [bytes(MIB)])
    before_s = trio.current_time()
    with pytest.raises(StreamClosed, match="took nothing for"):
        await ours.send(CHUNK, [b"x"])
    assert trio.current_time() - before_s == pytest.approx(WRITE_TIMEOUT_S)
    with pytest.raises(StreamClosed):
        await ours.receive()


async def test_a_send_that_is_cancelled_in_the_middle_ends_the_stream(autojump_clock):
    """What came after half a message would be read as the rest of it."""
    stream = Trickle()
    with trio.move_on_after(2.5):
        await MessageStream(stream).send(CHUNK, [bytes(1000)])
    assert 0 < len(stream.written) < 1000
    assert stream.is_reset


async def test_a_send_that_is_cancelled_while_it_waits_for_another_harms_nothing(autojump_clock):
    stream = Trickle()
    messages = MessageStream(stream)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(messages.send, CHUNK, [bytes(1000)])
        await trio.sleep(1)
        with trio.move_on_after(2):
            await messages.send(KeepAlive())
        await trio.sleep(20)
        await messages.send(KeepAlive())
    assert not stream.is_reset
    reader = MessageStream(Script(bytes(stream.written)))
    assert (await reader.receive())[0] == CHUNK
    assert (await reader.receive())[0] == KeepAlive()


async def test_a_message_is_sent_at_once_or_left_whole_for_later():
    ours, theirs = pair()
    assert ours.send_nowait(CHUNK, [bytes(MIB)]) is False, "it is cut into slices, which take turns"
    large = bytes(MIB - 200)
    assert ours.send_nowait(CHUNK, [large])
    assert ours.bytes_out > len(large)
    assert ours.send_nowait(CHUNK, [large])
    assert not ours.send_nowait(KeepAlive()), "the other side does not read"
    for _ in range(2):
        assert (await theirs.receive()) == (CHUNK, large)
    assert ours.send_nowait(KeepAlive())
    assert (await theirs.receive())[0] == KeepAlive()
    await theirs.reset()
    with pytest.raises(StreamClosed):
        ours.send_nowait(KeepAlive())


async def test_nothing_is_sent_at_once_into_the_middle_of_a_message_that_is_being_sent(autojump_clock):
    stream = Trickle()
    messages = MessageStream(stream)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(messages.send, CHUNK, [bytes(1000)])
        await trio.sleep(1)
        stream.write_nowait = lambda data: pytest.fail("written between the halves of a message")
        assert not messages.send_nowait(KeepAlive())


# --- hostile lengths -----------------------------------------------------------------------------------------------


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


@pytest.mark.parametrize("header_bytes", [HEADER_BYTES_MAX + 1, 1 << 32, 1 << 60])
async def test_a_header_too_large_is_refused_on_the_word_of_its_length(header_bytes):
    with pytest.raises(DecodeError, match="header"):
        await MessageStream(Script(varint(header_bytes) + b"\0")).receive()


@pytest.mark.parametrize("body_bytes", [BODY_BYTES_MAX + 1, 1 << 40])
async def test_a_body_too_large_is_refused_on_the_word_of_its_length(body_bytes):
    with pytest.raises(DecodeError, match="body"):
        await MessageStream(Script(b"\x02" + varint(body_bytes))).receive()


@pytest.mark.parametrize("data", [b"\x80" * 100, b"\x02" + b"\x80" * 100])
async def test_a_length_that_does_not_end_is_refused(data):
    with pytest.raises(DecodeError, match="does not end"):
        await MessageStream(Script(data)).receive()


async def test_a_claim_alone_costs_nothing():
    stream = MessageStream(Script(varint(2) + varint(BODY_BYTES_MAX) + encode(KeepAlive()), b"x"))
    tracemalloc.start()
    try:
        with pytest.raises(StreamClosed):
            await stream.receive()
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


async def test_a_body_that_comes_in_crumbs_costs_what_it_weighs():
    crumbs = [b"ab"] * 4000
    stream = MessageStream(Script(varint(2) + varint(8000) + encode(KeepAlive()), *crumbs))
    tracemalloc.start()
    try:
        _, body = await stream.receive()
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024
    finally:
        tracemalloc.stop()
    assert body == b"ab" * 4000


async def test_an_empty_header_is_an_error():
    with pytest.raises(DecodeError):
        await MessageStream(Script(b"\0\0")).receive()


async def receive_all(stream):
    while True:
        await stream.receive()


def test_any_bytes_give_messages_or_one_of_three_errors():
    @settings(derandomize=True, deadline=None)
    @given(st.lists(st.binary(min_size=1, max_size=50), max_size=5))
    def read(pieces):
        async def main():
            with pytest.raises((EOFError, StreamClosed, DecodeError)):
                await receive_all(MessageStream(Script(*pieces)))

        trio.run(main)

    read()


async def test_draining_forgets_what_comes_until_the_end_or_enough():
    stream = Script(b"x" * 1000, b"y" * 1000)
    await MessageStream(stream).drain(10_000)
    assert stream.pieces == []
    stream = Script(*[b"x" * 1000] * 100)
    await MessageStream(stream).drain(5000)
    assert len(stream.pieces) == 95
