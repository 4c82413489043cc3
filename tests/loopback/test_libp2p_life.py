import gc
import logging
import socket

import psutil
import pytest
import trio
from libp2p_hosts import ANY_PORT, ECHO, PATIENCE_S, echoed, node, raw_tcp, wait_until
from promptness import check_prompt

from peerinfer.errors import DialFailed, StateUnusable, UsageError
from peerinfer_node.network.libp2p_network import DIAL_TIMEOUT_S
from peerinfer_node.network.libp2p_stream import CLOSE_TIMEOUT_S
from peerinfer_node.ports import PeerConnected, PeerDisconnected


def port_of(network):
    return int(network.addresses()[0].split("/")[4])


@pytest.fixture
def collected():
    """What other tests left to the garbage collector does not go while sockets are counted."""
    gc.collect()


def open_sockets():
    return sorted(str(connection.laddr) for connection in psutil.Process().net_connections("tcp"))


class TaskCount(trio.abc.Instrument):
    def __init__(self):
        self.alive = set()

    def task_spawned(self, task):
        self.alive.add(task.name)

    def task_exited(self, task):
        self.alive.discard(task.name)


@pytest.mark.usefixtures("collected")
async def test_a_node_stops_without_leaving_a_socket_a_task_or_a_line(capfd):
    before, sockets = TaskCount(), open_sockets()
    tasks = trio.lowlevel.current_statistics().tasks_living
    trio.lowlevel.add_instrument(before)
    for _ in range(2):
        a, b, c = node(), node(), node(listen=())
        async with a.run(), b.run(), c.run():
            await a.dial(b.addresses()[0])
            await b.dial(a.addresses()[0])
            peer = await c.dial(a.addresses()[0])
            await c.open_stream(peer, ECHO)  # left open on purpose
            async with raw_tcp(a.addresses()[0]):
                assert await echoed(c, peer) == b"hello"
    trio.lowlevel.remove_instrument(before)
    assert open_sockets() == sockets
    assert trio.lowlevel.current_statistics().tasks_living == tasks, before.alive
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("collected")
async def test_a_node_that_is_cancelled_stops_as_cleanly(capfd):
    sockets, tasks = open_sockets(), trio.lowlevel.current_statistics().tasks_living
    a, b = node(), node()
    async with b.run():
        with trio.CancelScope() as scope:
            async with a.run():
                await a.dial(b.addresses()[0])
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        await wait_until(lambda: not b.connected())
        assert a.addresses() == ()
    assert (open_sockets(), trio.lowlevel.current_statistics().tasks_living) == (sockets, tasks)
    assert capfd.readouterr() == ("", "")


async def test_what_the_body_raises_comes_out_as_it_was():
    with pytest.raises(ZeroDivisionError):
        async with node().run():
            raise ZeroDivisionError
    with pytest.RaisesGroup(ValueError, KeyError):
        async with node().run():
            raise ExceptionGroup("of the body", [ValueError(), KeyError()])


async def test_thirty_connections_close_at_once_and_not_one_after_the_other():
    async def closed_after():
        hub = node()
        async with trio.open_nursery() as nursery:
            leave = trio.Event()

            async def run(network):
                async with network.run():
                    await network.dial(hub.addresses()[0])
                    await leave.wait()

            async with hub.run():
                for _ in range(30):
                    nursery.start_soon(run, node(listen=()))
                await wait_until(lambda: len(hub.connected()) == 30)
                started = trio.current_time()
            took_s = trio.current_time() - started
            leave.set()
        return took_s

    await check_prompt(closed_after, CLOSE_TIMEOUT_S / 3)  # the library takes 100 ms for each


async def test_libp2p_logs_nothing_and_leaves_the_root_logger_alone(capfd):
    handlers = list(logging.getLogger().handlers)
    a = node()
    async with a.run(), raw_tcp(a.addresses()[0]) as stream:
        await stream.send_all(b"\xff" * 100)
        logging.getLogger("libp2p.anything").critical("must not be seen")
    assert logging.getLogger().handlers == handlers
    assert capfd.readouterr() == ("", "")


# --- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("collected")
async def test_a_taken_port_is_said_in_one_line_and_nothing_stays_open():
    a = node()
    async with a.run():
        sockets = open_sockets()
        b = node(listen=(ANY_PORT, f"/ip4/127.0.0.1/tcp/{port_of(a)}"))
        with pytest.raises(StateUnusable) as caught:
            async with b.run():
                pass
        assert str(caught.value).startswith(f"cannot listen on port {port_of(a)} of 127.0.0.1: ")
        assert "\n" not in str(caught.value)
        assert open_sockets() == sockets


async def test_a_port_is_free_again_right_after_the_node_stopped():
    a, b = node(), node(listen=())
    async with b.run():
        async with a.run():
            port = port_of(a)
            await b.dial(a.addresses()[0])
        again = node(listen=(f"/ip4/127.0.0.1/tcp/{port}",))
        async with again.run():
            assert await echoed(b, await b.dial(again.addresses()[0])) == b"hello"


async def test_a_wildcard_announces_addresses_that_can_be_dialled():
    a, b = node(listen=("/ip4/0.0.0.0/tcp/0",)), node(listen=())
    async with a.run(), b.run():
        assert a.addresses()
        for address in a.addresses():
            host = address.split("/")[2]
            assert host != "0.0.0.0"
            assert await b.dial(address) == a.peer_id
            await b.disconnect(a.peer_id)
    own = {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
    if any(
        entry.family == socket.AF_INET and entry.address != "127.0.0.1" for entry in own if hasattr(entry, "family")
    ):
        assert "/ip4/127.0.0.1/" not in str(a.addresses())


@pytest.mark.parametrize(
    "address",
    ["", "4001", "/ip4/1.2.3.4/udp/1/quic-v1", "/ip4/300.1.1.1/tcp/1", "/ip4/1.1.1.1/tcp/70000", "/dns/a/tcp/1"],
)
def test_an_address_that_cannot_be_listened_on_is_a_mistake_in_usage(address):
    with pytest.raises(UsageError, match="cannot listen"):
        node(listen=(address,))


async def test_a_dead_address_fails_quickly_and_a_live_one_after_it_works():
    a, b = node(listen=()), node()
    async with a.run(), b.run():
        with socket.socket() as dead:
            dead.bind(("127.0.0.1", 0))
            address = f"/ip4/127.0.0.1/tcp/{dead.getsockname()[1]}/p2p/{b.peer_id}"
            started = trio.current_time()
            with pytest.raises(DialFailed, match="refused"):
                await a.dial(address)
            assert trio.current_time() - started < DIAL_TIMEOUT_S / 2
        assert await a.dial(b.addresses()[0]) == b.peer_id
        assert await echoed(a, b.peer_id) == b"hello"


async def test_an_address_where_nobody_answers_is_given_up_after_the_dials_own_timeout():
    a = node(listen=(), dial_timeout_s=0.2)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        async with a.run():
            with pytest.raises(DialFailed, match=r"no answer within 0\.2 s"):
                await a.dial(f"/ip4/127.0.0.1/tcp/{mute.getsockname()[1]}/p2p/{node().peer_id}")
            assert a._swarm._resource_manager._current_connections == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "224.0.0.1"])
async def test_an_address_of_nobody_is_not_dialled(host):
    a = node(listen=())
    async with a.run():
        with pytest.raises(DialFailed):
            await a.dial(f"/ip4/{host}/tcp/1/p2p/{node().peer_id}")


async def test_an_address_without_a_peer_and_the_nodes_own_are_not_dialled():
    a = node()
    async with a.run():
        for address in (a.addresses()[0], a.addresses()[0].partition("/p2p/")[0]):
            with pytest.raises(DialFailed):
                await a.dial(address)


async def test_a_node_may_listen_on_ipv6_and_ipv4_at_once():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    a, b = node(listen=("/ip6/::1/tcp/0", ANY_PORT)), node(listen=())
    async with a.run(), b.run():
        assert [address.split("/")[1] for address in a.addresses()] == ["ip6", "ip4"]
        for address in a.addresses():
            assert await b.dial(address) == a.peer_id
            assert await echoed(b, a.peer_id) == b"hello"
            await b.disconnect(a.peer_id)


async def test_a_name_is_resolved():
    a, b = node(listen=()), node()
    async with a.run(), b.run():
        address = f"/dns4/localhost/tcp/{port_of(b)}/p2p/{b.peer_id}"
        assert await a.dial(address) == b.peer_id


# --- events --------------------------------------------------------------------------------------------------------


async def test_coming_and_going_is_told_once_however_many_connections_there_are():
    a, b = node(), node()
    async with a.run():
        async with b.run():
            async with trio.open_nursery() as nursery:  # both dial at once
                nursery.start_soon(a.dial, b.addresses()[0])
                nursery.start_soon(b.dial, a.addresses()[0])
            await a.dial(b.addresses()[0])
            assert (a.connected(), a.path(b.peer_id), a.path(a.peer_id)) == ([b.peer_id], "direct", "local")
        with trio.fail_after(PATIENCE_S):
            events = a.events()
            assert [await anext(events), await anext(events)] == [PeerConnected(b.peer_id), PeerDisconnected(b.peer_id)]
        assert a.connected() == []


async def test_disconnecting_is_seen_at_both_ends_and_can_be_taken_back():
    a, b = node(listen=()), node()
    async with a.run(), b.run():
        await a.dial(b.addresses()[0])
        await a.disconnect(b.peer_id)
        await wait_until(lambda: a.connected() == b.connected() == [])
        assert await echoed(a, await a.dial(b.addresses()[0])) == b"hello"


async def test_the_oldest_events_make_room_for_new_ones():
    a = node(listen=())
    for number in range(1500):
        a._note_found(str(number), ())
    with trio.fail_after(PATIENCE_S):
        assert (await anext(a.events())).peer == "476"
