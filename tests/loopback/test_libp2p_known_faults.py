"""Faults of py-libp2p that the adapter works around. Each test shows one.

When one of these fails, a new release has mended the fault: look whether the work-around named in it can go.
"""

import logging
import socket

import psutil
import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.io.exceptions import IncompleteReadError
from libp2p.io.utils import read_exactly
from libp2p.network.connection import swarm_connection
from libp2p.network.stream.exceptions import StreamReset
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID
from libp2p_hosts import DATA, PATIENCE_S, SYN, WINDOW, Impersonator, RawPeer, raw_session, stock_host, wait_until
from multiaddr import Multiaddr

HOLD = "/peerinfer/test/hold/1"
MIB = 1024 * 1024


async def two_stock_hosts_with_a_stream(a, b, handler):
    b.set_stream_handler(HOLD, handler)
    await a.connect(info_from_p2p_addr(Multiaddr(str(b.get_addrs()[0]))))
    return await a.new_stream(b.get_id(), [HOLD])


async def test_a_default_host_takes_whoever_shows_a_public_key_for_its_owner():
    """Work-around: Noise is the only security that `Libp2pNetwork` offers."""
    own, victim = create_new_key_pair(b"m" * 32), create_new_key_pair(b"v" * 32)
    seen = []

    async def note(stream):
        seen.append(stream.muxed_conn.peer_id)
        await stream.close()

    plaintext = {PLAINTEXT_PROTOCOL_ID: Impersonator(own, victim.public_key)}
    async with stock_host(safe=False) as host, stock_host(key_pair=own, sec_opt=plaintext, listen=False) as attacker:
        host.set_stream_handler(HOLD, note)
        with trio.fail_after(PATIENCE_S):
            await attacker.connect(info_from_p2p_addr(Multiaddr(str(host.get_addrs()[0]))))
            await attacker.new_stream(host.get_id(), [HOLD])
        await wait_until(lambda: bool(seen))
        assert seen == [ID.from_pubkey(victim.public_key)]


async def test_read_exactly_gives_up_after_101_reads_even_if_they_were_enough():
    """Work-around: `framing` and `libp2p_session` loop on their own."""

    class OneByteAtATime:
        async def read(self, n):
            return b"x"

    assert await read_exactly(OneByteAtATime(), 100) == b"x" * 100
    with pytest.raises(IncompleteReadError, match="expected 101 bytes but received 101 bytes"):
        await read_exactly(OneByteAtATime(), 101)


async def test_one_bad_byte_on_a_stream_ends_a_whole_host():
    """Work-around: `Libp2pNetwork._take_stream` lets no exception through."""
    async with trio.open_nursery() as nursery:
        ended = trio.Event()

        async def run_victim(task_status):
            try:
                async with stock_host() as host:
                    task_status.started(host)
                    await host.get_network().manager.wait_finished()
            except* UnicodeDecodeError:
                ended.set()

        victim = await nursery.start(run_victim)
        address = str(victim.get_addrs()[0])
        async with raw_session(address, str(victim.get_id())) as session:
            RawPeer(session).send_frame(DATA, SYN, 1, 24, b"\x13/multistream/1.0.0\n\x03\xff\xfe\n")
            with trio.fail_after(PATIENCE_S):
                await ended.wait()


async def test_a_listening_socket_is_shared_with_any_other_process_instead_of_refused():
    """Work-around: `Libp2pNetwork._bind` opens the sockets."""
    async with stock_host() as first:
        port = int(str(first.get_addrs()[0]).split("/")[4])
        with socket.socket() as second:
            second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            second.bind(("127.0.0.1", port))


async def test_a_host_that_is_left_without_close_keeps_its_listening_socket():
    """Work-around: `Libp2pNetwork.run` owns the sockets."""

    def listening():
        return {c.laddr.port for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN}

    from libp2p import new_host

    before = listening()
    host = new_host()
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        pass
    try:
        assert len(listening() - before) == 1
    finally:
        await host.close()
        for listener in host.get_network().listeners.values():
            await listener.close()


async def test_the_window_is_not_enforced():
    """Work-around: `libp2p_yamux` ends a connection that exceeds what was granted."""
    held = []

    async def hold(stream):
        held.append(stream.muxed_stream)
        await trio.sleep_forever()

    async with stock_host() as host:
        host.set_stream_handler(HOLD, hold)
        async with raw_session(str(host.get_addrs()[0]), str(host.get_id())) as session:
            peer = RawPeer(session)
            said = b"\x13/multistream/1.0.0\n" + bytes([len(HOLD) + 1]) + HOLD.encode() + b"\n"
            peer.send_frame(DATA, SYN, 1, len(said), said)
            await wait_until(lambda: bool(held))
            part = bytes(60_000)
            for _ in range(50):  # 3 MB where 256 kB are granted
                peer.send_frame(DATA, 0, 1, len(part), part)
                await trio.sleep(0.002)
            await wait_until(lambda: len(held[0].conn.stream_buffers[held[0].stream_id]) == 50 * len(part))


async def test_a_lost_connection_looks_like_a_clean_end():
    """Work-around: `libp2p_yamux` gives an end only when the peer finished the stream."""

    async def hold(stream):
        await trio.sleep_forever()

    async with stock_host(listen=False) as a:
        async with stock_host() as b:
            stream = await two_stock_hosts_with_a_stream(a, b, hold)
            # Somebody cuts the cable.
            for connection in b.get_network().get_connections():
                await connection.muxed_conn.secured_conn.conn.read_writer.read_write_closer.stream.close()
            with pytest.raises(Exception) as caught, trio.fail_after(PATIENCE_S):  # noqa: PT011
                await stream.muxed_stream.read(10)
        assert type(caught.value).__name__ == "MuxedStreamEOF"


@pytest.mark.slow
async def test_a_reader_that_pauses_for_five_seconds_breaks_the_writers_stream():
    """Work-around: `libp2p_yamux` waits for the window for as long as it takes."""

    async def never_read(stream):
        await trio.sleep_forever()

    async with stock_host(listen=False) as a, stock_host() as b:
        stream = await two_stock_hosts_with_a_stream(a, b, never_read)
        started = trio.current_time()
        with pytest.raises(StreamReset), trio.fail_after(PATIENCE_S):
            await stream.write(bytes(32 * MIB))
        assert trio.current_time() - started >= 5


async def test_every_read_sends_a_frame_of_its_own():
    """Work-around: `libp2p_yamux` grants in steps of half a window."""
    frames = []

    async def read_all(stream):
        connection = stream.muxed_conn
        write_frame = connection._write_frame

        async def note(frame):
            frames.append(frame[1])
            await write_frame(frame)

        connection._write_frame = note
        try:
            while True:
                await stream.read(64)
        except Exception:
            await stream.close()

    async with stock_host(listen=False) as a, stock_host() as b:
        stream = await two_stock_hosts_with_a_stream(a, b, read_all)
        await trio.testing.wait_all_tasks_blocked(0.05)
        for _ in range(10):
            await stream.write(b"x" * 64)
            await trio.testing.wait_all_tasks_blocked(0.01)
        await wait_until(lambda: frames.count(WINDOW) >= 10)


async def test_only_one_address_of_a_peer_is_tried_and_a_failure_blocks_it():
    """Work-around: `Libp2pNetwork.dial` takes one address and goes past the swarm's own dialling."""
    async with stock_host(listen=False) as a, stock_host() as b:
        live = Multiaddr(str(b.get_addrs()[0]).partition("/p2p/")[0])
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            dead = Multiaddr(f"/ip4/127.0.0.1/tcp/{reserved.getsockname()[1]}")
            a.get_peerstore().add_addrs(b.get_id(), [dead, live], 120)
            with pytest.raises(Exception, match="unable to connect"):
                await a.get_network().dial_peer(b.get_id())
        a.get_peerstore().clear_addrs(b.get_id())
        a.get_peerstore().add_addrs(b.get_id(), [live], 120)
        with pytest.raises(Exception, match="recently failed"):
            await a.get_network().dial_peer(b.get_id())


async def test_a_wildcard_is_announced_as_such():
    """Work-around: `libp2p_addresses.concrete_hosts`."""
    from libp2p import new_host

    host = new_host()
    async with host.run([Multiaddr("/ip4/0.0.0.0/tcp/0")]):
        try:
            assert "/ip4/0.0.0.0/" in str(host.get_addrs()[0])
        finally:
            await host.close()


def test_a_module_of_the_library_logs_through_the_root_logger():
    """Work-around: `_silence_libp2p` puts the library's own logger in its place."""
    with open(swarm_connection.__file__) as source:
        assert "logging.warning(" in source.read()
    assert swarm_connection.logging is logging.getLogger("libp2p")
