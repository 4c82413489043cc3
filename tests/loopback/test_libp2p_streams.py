import logging
import os

import pytest
import trio
from libp2p_hosts import ECHO, echoed, logged, node, wait_until
from process_memory import allocated_bytes

from peerinfer.errors import DialFailed, StreamClosed
from peerinfer.messages import Goodbye
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.network.libp2p_session import OUTBOX_BYTES_MAX
from peerinfer_node.network.libp2p_yamux_stream import WINDOW_BYTES, WINDOW_BYTES_MAX

HOLD = "/peerinfer/test/hold/1"
MIB = 1024 * 1024


@pytest.mark.parametrize("size", [1, 64, 65_519, 65_520, WINDOW_BYTES, WINDOW_BYTES + 1, 9 * MIB + 7])
async def test_bytes_come_back_as_they_were_sent(size):
    a, b = node(listen=()), node()
    async with a.run(), b.run():
        peer = await a.dial(b.addresses()[0])
        data = os.urandom(size)
        assert await echoed(a, peer, data) == data


async def test_a_handler_sees_who_dialled_and_the_dialler_who_answered():
    a, b = node(listen=()), node()
    seen = []

    async def note(stream):
        seen.append(stream.peer)
        await stream.close()

    b.serve(HOLD, note)
    async with a.run(), b.run():
        stream = await a.open_stream(await a.dial(b.addresses()[0]), HOLD)
        assert await stream.read(1) == b""
        assert (seen, stream.peer) == ([a.peer_id], b.peer_id)


async def test_a_finished_side_still_receives():
    a, b = node(listen=()), node()

    async def answer_at_the_end(stream):
        question = b""
        while part := await stream.read(100):
            question += part
        await stream.write(question[::-1])
        await stream.close()

    b.serve(HOLD, answer_at_the_end)
    async with a.run(), b.run():
        stream = await a.open_stream(await a.dial(b.addresses()[0]), HOLD)
        await stream.write(b"abc")
        await stream.close()
        assert await stream.read(100) == b"cba"
        assert await stream.read(100) == b""
        with pytest.raises(StreamClosed):
            await stream.write(b"more")


async def test_a_reset_is_an_error_at_both_ends():
    a, b = node(listen=()), node()
    errors = []

    async def hold(stream):
        try:
            while await stream.read(100):
                pass
        except StreamClosed as error:
            errors.append(error)

    b.serve(HOLD, hold)
    async with a.run(), b.run():
        stream = await a.open_stream(await a.dial(b.addresses()[0]), HOLD)
        await stream.write(b"x")
        await stream.reset()
        for attempt in (stream.read(1), stream.write(b"x")):
            with pytest.raises(StreamClosed):
                await attempt
        await wait_until(lambda: len(errors) == 1)
        assert await echoed(a, b.peer_id) == b"hello", "the connection lives on"


async def test_a_lost_connection_is_an_error_and_not_an_end():
    a, b = node(listen=()), node()

    async def hold(stream):
        await stream.write(b"first")
        await trio.sleep_forever()

    b.serve(HOLD, hold)
    async with a.run():
        async with b.run():
            stream = await a.open_stream(await a.dial(b.addresses()[0]), HOLD)
            await wait_until(lambda: stream._stream._unread_bytes == 5)
        assert await stream.read(100) == b"first", "what had arrived is not lost"
        with pytest.raises(StreamClosed):
            await stream.read(100)


async def test_a_writer_waits_for_a_reader_that_stops_and_little_is_held_meanwhile():
    a, b = node(listen=()), node()
    go_on = trio.Event()
    received = 0

    async def read_late(stream):
        nonlocal received
        await go_on.wait()
        while part := await stream.read(256 * 1024):
            received += len(part)
        await stream.close()

    b.serve(HOLD, read_late)
    async with a.run(), b.run():
        stream = await a.open_stream(await a.dial(b.addresses()[0]), HOLD)
        written = 0
        part = bytes(MIB)
        memory_before = allocated_bytes()

        async def write_64_mib():
            nonlocal written
            for _ in range(64):
                await stream.write(part)
                written += len(part)
            await stream.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_64_mib)
            await wait_until(lambda: stream._stream._send_window == 0)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert written == 0, "the first MiB does not fit the window of a stream that nobody reads"
            assert allocated_bytes() - memory_before < 4 * MIB
            go_on.set()
            assert await stream.read(1) == b""
        assert received == written == 64 * MIB
        # Both ends are in this process: a grown window, what is on its way through the sockets, and Python's slack.
        assert allocated_bytes() - memory_before < 4 * WINDOW_BYTES_MAX + 4 * OUTBOX_BYTES_MAX + 8 * MIB


async def test_what_has_to_wait_is_not_written_at_once():
    a, b = node(listen=()), node()
    go_on = trio.Event()
    received = bytearray()

    async def read_late(stream):
        await go_on.wait()
        while part := await stream.read(256 * 1024):
            received.extend(part)
        await stream.close()

    b.serve(HOLD, read_late)
    async with a.run(), b.run():
        stream = await a.open_stream(await a.dial(b.addresses()[0]), HOLD)
        sent = bytearray()
        for size in (1, WINDOW_BYTES + 1, 65_000, 70_000, *(60_000,) * 9):
            data = os.urandom(size)
            if stream.write_nowait(data):
                sent += data
        assert WINDOW_BYTES - 60_000 < len(sent) <= WINDOW_BYTES, "as much as the peer has granted, nothing in parts"
        go_on.set()
        await stream.close()
        assert await stream.read(1) == b""
        assert received == sent
        with pytest.raises(StreamClosed):
            stream.write_nowait(b"late")


async def test_a_cancelled_writer_costs_its_stream_and_nothing_else():
    a, b = node(listen=()), node()

    async def never_read(stream):
        await trio.sleep_forever()

    b.serve(HOLD, never_read)
    async with a.run(), b.run():
        peer = await a.dial(b.addresses()[0])
        for _ in range(5):
            stream = await a.open_stream(peer, HOLD)
            with trio.move_on_after(0.05) as scope:
                await stream.write(bytes(4 * MIB))
            assert scope.cancelled_caught
            await stream.reset()
            data = os.urandom(MIB)
            assert await echoed(a, peer, data) == data


async def test_a_hundred_streams_at_once():
    a, b = node(listen=()), node()
    async with a.run(), b.run():
        peer = await a.dial(b.addresses()[0])
        answers = {}

        async def ask(number):
            data = b"%d " % number * 5000
            answers[number] = await echoed(a, peer, data) == data

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(ask, number)
        assert answers == dict.fromkeys(range(100), True)
        for network in (a, b):
            await wait_until(lambda network=network: network._swarm._resource_manager._current_streams == 0)
            connection = network._swarm.get_connections()[0].muxed_conn
            assert (connection._streams, connection._streams_of_peer) == ({}, 0)


async def test_a_handler_that_raises_is_logged_in_one_line_and_the_node_goes_on(caplog):
    a, b = node(listen=()), node()

    async def fail(stream):
        await stream.read(1)
        raise RuntimeError("a fault of ours")

    b.serve(HOLD, fail)
    async with a.run(), b.run():
        peer = await a.dial(b.addresses()[0])
        with caplog.at_level(logging.INFO, "peerinfer"):
            stream = await a.open_stream(peer, HOLD)
            await stream.write(b"x")
            with pytest.raises(StreamClosed):
                await stream.read(1)
        assert await echoed(a, peer) == b"hello"
    assert logged(caplog) == [f"{HOLD} of {a.peer_id} failed: RuntimeError: a fault of ours"]
    assert all(record.exc_info is None for record in caplog.records)


async def test_a_protocol_that_is_not_served_is_refused_by_its_name():
    a, b = node(listen=()), node()
    async with a.run(), b.run():
        peer = await a.dial(b.addresses()[0])
        with pytest.raises(StreamClosed, match="/no/such/1"):
            await a.open_stream(peer, "/no/such/1")
        assert await echoed(a, peer) == b"hello"


async def test_a_stream_to_somebody_who_is_not_connected_is_refused():
    a, b = node(listen=()), node()
    async with a.run():
        with pytest.raises(DialFailed, match="not connected"):
            await a.open_stream(b.peer_id, ECHO)


async def test_messages_with_bodies_cross_in_both_directions_at_once():
    a, b = node(listen=()), node()

    async def answer(stream):
        messages = MessageStream(stream)
        try:
            while True:
                message, body = await messages.receive()
                await messages.send(message, [body])
        except EOFError:
            await messages.close()

    b.serve(HOLD, answer)
    bodies = [os.urandom(size) for size in (0, 1, 4 * MIB, 8 * MIB, 100)] * 2
    async with a.run(), b.run():
        messages = MessageStream(await a.open_stream(await a.dial(b.addresses()[0]), HOLD))
        async with trio.open_nursery() as nursery:

            async def send():
                for index, body in enumerate(bodies):
                    await messages.send(Goodbye(str(index)), [body])

            nursery.start_soon(send)
            for index, body in enumerate(bodies):
                assert await messages.receive() == (Goodbye(str(index)), body)
