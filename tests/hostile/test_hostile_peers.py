"""What a stranger can do to a node over the network, each with the place where it stops."""

import os
import socket
from functools import partial

import pytest
import trio
import trio.lowlevel
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.secp256k1 import create_new_key_pair as create_new_secp256k1_key_pair
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID
from libp2p_hosts import (
    ACK,
    ANY_PORT,
    DATA,
    ECHO,
    FIN,
    GO_AWAY,
    PATIENCE_S,
    PING,
    RST,
    SYN,
    WINDOW,
    Impersonator,
    echoed,
    hurried,
    logged,
    node,
    raw_peer,
    raw_tcp,
    stock_host,
    wait_until,
)
from multiaddr import Multiaddr
from process_memory import allocated_bytes

from peerinfer.errors import DialFailed, StreamClosed
from peerinfer_node.network import libp2p_network, libp2p_yamux, libp2p_yamux_stream
from peerinfer_node.network.libp2p_session import OUTBOX_BYTES_LIMIT
from peerinfer_node.network.libp2p_swarm import CONNECTIONS_PER_PEER_MAX
from peerinfer_node.network.libp2p_yamux import STREAMS_PER_CONNECTION_MAX
from peerinfer_node.network.libp2p_yamux_stream import WINDOW_BYTES

WHO = "/peerinfer/test/who/1"
HOLD = "/peerinfer/test/hold/1"
MIB = 1024 * 1024


def witness():
    """A node that notes as whom its dialers are shown to it."""
    network = node()
    seen = []

    async def note(stream):
        seen.append(stream.peer)
        await stream.close()

    network.serve(WHO, note)
    return network, seen


async def still_serves(network):
    honest = node(listen=())
    async with honest.run():
        return await echoed(honest, await honest.dial(network.addresses()[0])) == b"hello"


# --- identity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", [None, b"v" * 32])
async def test_a_plaintext_dialer_is_refused_with_its_own_key_and_with_that_of_another(victim):
    network, seen = witness()
    own = create_new_key_pair(b"m" * 32)
    shown = create_new_key_pair(victim) if victim else own
    plaintext = {PLAINTEXT_PROTOCOL_ID: Impersonator(own, shown.public_key)}
    async with network.run(), stock_host(key_pair=own, sec_opt=plaintext, listen=False) as attacker:
        with pytest.raises(Exception, match="unable to connect"):
            with trio.fail_after(PATIENCE_S):
                await attacker.connect(info_from_p2p_addr(Multiaddr(network.addresses()[0])))
        assert (network.connected(), seen) == ([], [])
        assert await still_serves(network)


async def test_a_node_does_not_dial_a_listener_that_only_speaks_plaintext():
    a = node(listen=())
    async with a.run(), stock_host(safe=False) as unsafe:
        # The default host speaks Noise too; take it away.
        transports = unsafe.get_network().upgrader.security_multistream
        for protocol in list(transports.transports):
            if "noise" in str(protocol) or "tls" in str(protocol):
                del transports.transports[protocol]
                transports.multiselect.remove_handler(protocol)
        with pytest.raises(DialFailed):
            await a.dial(str(unsafe.get_addrs()[0]))


async def test_another_identity_at_the_dialled_address_is_refused():
    a, b = node(listen=()), node()
    async with a.run(), b.run():
        expected = node().peer_id
        address = b.addresses()[0].replace(b.peer_id, expected)
        with pytest.raises(DialFailed, match="another identity answers there"):
            await a.dial(address)
        assert a.connected() == []
        assert await echoed(a, await a.dial(b.addresses()[0])) == b"hello"


async def test_a_relay_in_the_middle_sees_only_noise():
    """Somebody who forwards every byte learns nothing and can change nothing."""
    a, b = node(listen=()), node()
    recorded = bytearray()
    async with a.run(), b.run(), trio.open_nursery() as nursery:

        async def forward(source, sink, *, damage):
            try:
                async for data in source:
                    recorded.extend(data)
                    if damage.is_set():
                        data = data[:-1] + bytes([data[-1] ^ 1])
                    await sink.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            await trio.aclose_forcefully(sink)

        damage = trio.Event()

        async def relay(stream):
            async with raw_tcp(b.addresses()[0]) as onward, trio.open_nursery() as both:
                both.start_soon(partial(forward, stream, onward, damage=damage))
                both.start_soon(partial(forward, onward, stream, damage=trio.Event()))

        listeners = await nursery.start(partial(trio.serve_tcp, relay, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        peer = await a.dial(f"/ip4/127.0.0.1/tcp/{port}/p2p/{b.peer_id}")
        secret = b"the secret " * 100
        assert await echoed(a, peer, secret) == secret
        assert b"the secret" not in recorded
        assert b"peerinfer" not in recorded, "nor which protocols are spoken"
        damage.set()
        with pytest.raises((StreamClosed, DialFailed)):
            await echoed(a, peer)
        await wait_until(lambda: not a.connected() and not b.connected())
        nursery.cancel_scope.cancel()


async def test_an_identity_that_is_not_ed25519_gets_no_stream():
    """Its peer id does not hold its key, so nothing that it signs could be checked."""
    network, seen = witness()
    pair = create_new_secp256k1_key_pair()
    async with network.run(), stock_host(key_pair=pair, listen=False) as stranger:
        answer = None
        with trio.move_on_after(5):
            try:
                await stranger.connect(info_from_p2p_addr(Multiaddr(network.addresses()[0])))
                stream = await stranger.new_stream(ID.from_string(network.peer_id), [WHO])
                answer = await stream.read(1)
            except Exception as error:
                answer = error
        assert isinstance(answer, Exception)
        assert (network.connected(), seen) == ([], [])
        assert await still_serves(network)


# --- before the handshake is done ----------------------------------------------------------------------------------


GREETING = b"\x13/multistream/1.0.0\n"


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0" * 1000,
        b"\xff" * 1000,
        b"GET / HTTP/1.1\r\n\r\n",
        GREETING + b"\x03\xff\xfe\n",
        GREETING + b"\x07/noise\n" + b"\xff" * 2000,
        GREETING + b"\x07/noise\n" + b"\0\0",
        os.urandom(100_000),
    ],
    ids=["zeros", "ones", "http", "bad utf-8", "bad noise", "empty noise", "random"],
)
async def test_garbage_instead_of_a_handshake_costs_the_connection_only(garbage, capfd):
    network = node()
    async with network.run():
        with hurried(network, 0.5):
            async with raw_tcp(network.addresses()[0]) as stream:
                with trio.fail_after(PATIENCE_S):
                    try:
                        await stream.send_all(garbage)
                        while await stream.receive_some():
                            pass
                    except trio.BrokenResourceError:
                        pass
            await wait_until(lambda: not network._handshakes)
        assert await still_serves(network)
        assert network._swarm._resource_manager._current_connections <= 1
    assert capfd.readouterr() == ("", "")


async def test_a_connection_that_never_finishes_its_handshake_is_dropped():
    network = node()
    async with network.run():
        with hurried(network, 0.3):
            async with raw_tcp(network.addresses()[0]) as slow:
                with trio.fail_after(PATIENCE_S):
                    try:
                        for byte in GREETING * 100:  # one byte at a time, for ever
                            await slow.send_all(bytes([byte]))
                            await trio.sleep(0.02)
                        raise AssertionError("it was not dropped")
                    except trio.BrokenResourceError:
                        pass
        await wait_until(lambda: not network._handshakes)
        assert await still_serves(network)


async def test_one_host_cannot_take_all_the_places_for_handshakes(monkeypatch):
    monkeypatch.setattr(libp2p_network, "HANDSHAKES_PER_HOST_MAX", 4)
    network = node(handshake_timeout_s=30)
    async with network.run():
        mute = [await trio.open_tcp_stream("127.0.0.1", int(network.addresses()[0].split("/")[4])) for _ in range(10)]
        await wait_until(lambda: network._handshakes.total() == 4)
        with trio.fail_after(PATIENCE_S):
            closed = 0
            for stream in mute[4:]:
                try:
                    while await stream.receive_some():
                        pass
                except trio.BrokenResourceError:
                    pass
                closed += 1
        assert closed == 6
        async with await trio.open_tcp_stream(
            "127.0.0.1", int(network.addresses()[0].split("/")[4]), local_address="127.0.0.2"
        ) as other:
            assert (await other.receive_some()).startswith(GREETING[:1])
        for stream in mute:
            await trio.aclose_forcefully(stream)


async def test_past_the_limit_of_connections_a_peer_is_told_and_a_freed_place_can_be_taken():
    network = node(connections_max=3)
    others = [node(listen=()) for _ in range(4)]
    async with network.run(), others[0].run(), others[1].run(), others[3].run():
        async with others[2].run():
            for other in others[:3]:
                assert await echoed(other, await other.dial(network.addresses()[0])) == b"hello"
            with pytest.raises(DialFailed):
                await others[3].dial(network.addresses()[0])
            assert len(network.connected()) == 3
        await wait_until(lambda: len(network.connected()) == 2)
        assert await echoed(others[3], await others[3].dial(network.addresses()[0])) == b"hello"


async def test_one_peer_cannot_take_all_the_connections():
    network = node()
    async with network.run(), trio.open_nursery() as nursery:
        opened = 0

        async def connect():
            nonlocal opened
            async with raw_peer(network) as peer:
                opened += 1
                await peer.wait_closed()

        for number in range(1, CONNECTIONS_PER_PEER_MAX + 4):
            nursery.start_soon(connect)
            await wait_until(lambda number=number: opened == number)
        await wait_until(lambda: len(network._swarm.get_connections()) == CONNECTIONS_PER_PEER_MAX)
        assert await still_serves(network)
        nursery.cancel_scope.cancel()


# --- frames --------------------------------------------------------------------------------------------------------


async def test_more_than_the_window_ends_the_connection_before_it_fills_memory():
    network = node()
    held = trio.Event()

    async def hold(stream):
        held.set()
        await trio.sleep_forever()

    network.serve(HOLD, hold)
    async with network.run(), raw_peer(network) as peer:
        said = GREETING + bytes([len(HOLD) + 1]) + HOLD.encode() + b"\n"
        peer.send_frame(DATA, SYN, 1, len(said), said)
        await held.wait()
        sent = 0
        part = bytes(60_000)
        before = allocated_bytes()
        with pytest.raises(Exception, match=r"closed|broke|reads nothing"):  # noqa: PT012
            while sent < 64 * MIB:
                peer.send_frame(DATA, 0, 1, len(part), part)
                sent += len(part)
                await trio.sleep(0.001)
        assert sent < 16 * MIB
        assert allocated_bytes() - before < 16 * MIB
        assert await still_serves(network)


@pytest.mark.parametrize("length", [WINDOW_BYTES + 1, 2**32 - 1])
async def test_a_frame_that_claims_more_than_was_granted_is_refused_at_its_header(length):
    network = node()
    async with network.run(), raw_peer(network) as peer:
        peer.send_frame(DATA, SYN, 1, length)
        await peer.wait_closed()
        assert await still_serves(network)


async def test_streams_past_the_limit_are_reset_and_the_others_go_on():
    network = node()
    async with network.run(), raw_peer(network) as peer:
        for number in range(STREAMS_PER_CONNECTION_MAX + 5):
            peer.send_frame(WINDOW, SYN, 2 * number + 1, 0)
        resets = []
        with trio.fail_after(PATIENCE_S):
            while len(resets) < 5:
                kind, flags, stream_id, *_ = await peer.receive_frame()
                if kind == WINDOW and flags & RST:
                    resets.append((stream_id - 1) // 2)
        assert resets == [STREAMS_PER_CONNECTION_MAX + extra for extra in range(5)]
        assert await still_serves(network)


async def test_streams_that_are_opened_and_reset_without_end_hold_no_place():
    network = node()
    async with network.run(), raw_peer(network) as peer:
        for number in range(20 * STREAMS_PER_CONNECTION_MAX):
            peer.send_frame(WINDOW, SYN, 2 * number + 1, 0)
            peer.send_frame(WINDOW, RST, 2 * number + 1, 0)
            if number % 50 == 0:
                await trio.sleep(0.001)
        with trio.fail_after(PATIENCE_S):
            peer.send_frame(PING, SYN, 0, 7)
            while (await peer.receive_frame())[:4] != (PING, ACK, 0, 7):
                pass
        connection = network._swarm.get_connections()[0].muxed_conn
        await wait_until(lambda: connection._streams_of_peer == 0)
        await wait_until(lambda: network._swarm._resource_manager._current_streams == 0)
        assert await still_serves(network)


async def test_a_peer_that_makes_us_answer_and_reads_nothing_is_cut_off():
    network = node()
    async with network.run(), raw_peer(network) as peer:
        before = allocated_bytes()
        sent = 0
        with pytest.raises(Exception, match=r"closed|broke|reads nothing"), trio.fail_after(PATIENCE_S):  # noqa: PT012
            while True:
                peer.session.send_nowait(
                    b"".join(b"\0\2\0\1" + bytes(4) + sent.to_bytes(4, "big") for _ in range(5000))
                )
                sent += 1
                await trio.sleep(0.001)
        assert allocated_bytes() - before < 4 * OUTBOX_BYTES_LIMIT + 16 * MIB
        assert await still_serves(network)


@pytest.mark.parametrize(
    "frame",
    [
        (WINDOW, SYN, 2, 0),
        (WINDOW, SYN, 0, 0),
        (GO_AWAY, 0, 0, 0),
        (9, 0, 0, 0),
    ],
    ids=["an id of ours", "id zero", "goodbye", "no such kind"],
)
async def test_a_frame_that_yamux_does_not_allow_ends_the_connection(frame):
    network = node()
    async with network.run(), raw_peer(network) as peer:
        peer.send_frame(*frame)
        await peer.wait_closed()
        assert await still_serves(network)


async def test_frames_for_streams_that_do_not_exist_are_passed_over():
    network = node()
    async with network.run(), raw_peer(network) as peer:
        for frame in (
            (DATA, 0, 77, 5, b"stray"),
            (WINDOW, FIN, 99, 0),
            (WINDOW, RST, 101, 0),
            (WINDOW, 0, 103, 2**32 - 1),
        ):
            peer.send_frame(*frame)
        peer.send_frame(PING, SYN, 0, 7)
        with trio.fail_after(PATIENCE_S):
            assert (await peer.receive_frame())[:4] == (PING, ACK, 0, 7)


@pytest.mark.parametrize("bytes_at_once", [1, 5, 11, 13, 1000])
async def test_frames_may_be_cut_anywhere(bytes_at_once):
    network = node()
    async with network.run(), raw_peer(network) as peer:
        wire = b"".join(bytes([0, PING, 0, SYN, 0, 0, 0, 0]) + number.to_bytes(4, "big") for number in range(50))
        for start in range(0, len(wire), bytes_at_once):
            peer.session.send_nowait(wire[start : start + bytes_at_once])
        with trio.fail_after(PATIENCE_S):
            for number in range(50):
                assert (await peer.receive_frame())[:4] == (PING, ACK, 0, number)


async def test_random_frames_never_reach_further_than_their_connection(capfd, caplog):
    network = node()
    async with network.run():
        for _ in range(30):
            async with raw_peer(network) as peer:
                try:
                    for _ in range(20):
                        kind, flags, stream_id, length = (
                            os.urandom(1)[0] % 4,
                            os.urandom(1)[0] % 16,
                            1,
                            os.urandom(1)[0],
                        )
                        peer.send_frame(kind, flags, stream_id, length, os.urandom(length) if kind == DATA else b"")
                        await trio.lowlevel.checkpoint()
                except Exception as error:
                    assert type(error).__name__ == "ConnectionClosedError"  # noqa: PT017
        assert await still_serves(network)
    assert logged(caplog) == []
    assert capfd.readouterr() == ("", "")


async def test_past_the_limit_of_streams_one_is_refused_at_once_and_a_freed_place_can_be_taken():
    network, dialler = node(streams_max=2), node(listen=())
    async with network.run(), dialler.run():
        peer = await dialler.dial(network.addresses()[0])
        held = [await dialler.open_stream(peer, ECHO) for _ in range(2)]
        with pytest.raises(StreamClosed), trio.fail_after(libp2p_network.OPEN_STREAM_TIMEOUT_S / 2):
            await dialler.open_stream(peer, ECHO)
        await held.pop().close()
        await wait_until(lambda: network._swarm._resource_manager._current_streams == 1)
        assert await echoed(dialler, peer) == b"hello"


async def test_a_peer_that_falls_silent_is_dropped_and_one_that_is_idle_is_kept(monkeypatch):
    monkeypatch.setattr(libp2p_yamux, "KEEPALIVE_S", 0.1)
    monkeypatch.setattr(libp2p_yamux, "SILENCE_MAX_S", 1.0)
    network, idle = node(), node(listen=())
    async with network.run(), idle.run():
        await idle.dial(network.addresses()[0])
        async with raw_peer(network) as mute:
            await wait_until(lambda: len(network.connected()) == 2)
            await mute.wait_closed()
        await wait_until(lambda: network.connected() == [idle.peer_id])
        assert await echoed(idle, network.peer_id) == b"hello"


async def test_a_stream_that_the_peer_never_finishes_is_reset_in_the_end(monkeypatch):
    monkeypatch.setattr(libp2p_yamux, "KEEPALIVE_S", 0.05)
    monkeypatch.setattr(libp2p_yamux_stream, "LINGER_S", 0.1)
    network, _ = witness()
    async with network.run(), raw_peer(network) as peer:
        said = GREETING + bytes([len(WHO) + 1]) + WHO.encode() + b"\n"
        peer.send_frame(DATA, SYN, 1, len(said), said)
        ends = []
        with trio.fail_after(PATIENCE_S):
            while len(ends) < 2:
                kind, flags, *_ = await peer.receive_frame()
                if kind == WINDOW and flags & (FIN | RST):
                    ends.append(flags & (FIN | RST))
        assert ends == [FIN, RST]
        assert network._swarm.get_connections()[0].muxed_conn._streams == {}


async def test_a_window_full_of_tiny_frames_takes_little_more_than_the_window():
    network = node()
    held = trio.Event()

    async def hold(stream):
        held.set()
        await trio.sleep_forever()

    network.serve(HOLD, hold)
    async with network.run(), raw_peer(network) as peer:
        said = GREETING + bytes([len(HOLD) + 1]) + HOLD.encode() + b"\n"
        peer.send_frame(DATA, SYN, 1, len(said), said)
        await held.wait()
        tiny = (bytes([0, DATA, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2]) + b"ab") * 4000
        for _ in range(10):
            peer.session.send_nowait(tiny)
            await trio.lowlevel.checkpoint()
        stream = network._swarm.get_connections()[0].muxed_conn._streams[1]
        await wait_until(lambda: stream._unread_bytes == 80_000)
        assert len(stream._unread) < 100


# --- negotiation on a stream ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        b"\x03\xff\xfe\n",
        GREETING + b"\x03\xff\xfe\n",
        b"\xff" * 20,
        GREETING + b"\x03ls\n" * 2000,
        GREETING + b"\x04/no\n" * 3,
        b"",
    ],
    ids=["bad utf-8", "bad utf-8 later", "a length without end", "many questions", "unknown", "nothing"],
)
async def test_a_stream_that_negotiates_nonsense_is_reset_and_the_node_lives(said, monkeypatch, capfd):
    network = node()
    async with network.run(), raw_peer(network) as peer:
        peer.send_frame(DATA, SYN, 1, len(said), said)
        with monkeypatch.context() as hurried, trio.fail_after(PATIENCE_S):
            hurried.setattr(libp2p_network, "NEGOTIATE_TIMEOUT_S", 0.3)
            while True:
                kind, flags, *_ = await peer.receive_frame()
                if kind == WINDOW and flags & RST:
                    break
        assert len(network._swarm.get_connections()) == 1
        assert await still_serves(network)
    assert capfd.readouterr() == ("", "")


async def test_a_mute_listener_does_not_hold_a_dialler():
    a = node(listen=(), dial_timeout_s=0.3)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        async with a.run():
            with pytest.raises(DialFailed, match="no answer"):
                await a.dial(f"{ANY_PORT[:-1]}{mute.getsockname()[1]}/p2p/{node().peer_id}")
