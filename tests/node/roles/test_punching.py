"""Meeting half way: whom a node meets, where, and what becomes of it when it does not work. Real streams, no routers."""

import socket
from contextlib import contextmanager
from itertools import count

import pytest
import trio
from libp2p_hosts import wait_until

from peerinfer.errors import DialFailed
from peerinfer.member_messages import MeetNow, MeetWanted
from peerinfer.messages import Goodbye
from peerinfer_node.clock import SystemClock
from peerinfer_node.keys import MemoryKeys
from peerinfer_node.log import Log
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.network.libp2p_network import Libp2pNetwork
from peerinfer_node.network.libp2p_relay import RelayLimits
from peerinfer_node.network.libp2p_sockets import dig
from peerinfer_node.roles import punching
from peerinfer_node.roles.punching import PUNCH_PROTOCOL, Punching
from peerinfer_node.roles.work_stream import greet

_seeds = count()
HERE = "192.0.2.1"
"""A place that is not on this machine: what is dialled there goes to 127.0.0.1 instead."""


class Peer:
    def __init__(self, *, relays=False, listen=(), seen_host=HERE):
        keys = MemoryKeys(b"punch %d" % next(_seeds))
        self.network = Libp2pNetwork(keys, listen, mdns=False, relay=RelayLimits() if relays else None)
        self.role = Punching(
            network=self.network, clock=SystemClock(), log=Log(), swarm="", seen_host=lambda: seen_host
        )
        self.network.serve(PUNCH_PROTOCOL, self.role.serve)
        self.peer_id = self.network.peer_id


class HereHole:
    """A hole whose other side is on this machine. Without routers in between, nobody can be dialled who does not listen."""

    def __init__(self, host):
        self._hole = dig(host)
        self.port = self._hole.port

    async def meet(self, host, port, within_s):
        if self.port > port:
            return await self._hole.meet("127.0.0.1", port, within_s)
        (listener,) = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        with trio.move_on_after(within_s):
            return await listener.accept()
        raise DialFailed("did not meet")

    def close(self):
        self._hole.close()


@pytest.fixture(autouse=True)
def met_here(monkeypatch):
    @contextmanager
    def dig_here(self, host):
        hole = HereHole(host)
        try:
            yield hole
        finally:
            hole.close()

    monkeypatch.setattr(Libp2pNetwork, "dig", dig_here)


@pytest.fixture
async def relayed():
    """Two peers that are connected through a relay."""
    relay, one, other = Peer(relays=True, listen=("/ip4/127.0.0.1/tcp/0",)), Peer(), Peer()
    async with relay.network.run(), one.network.run(), other.network.run():
        await one.network.dial(relay.network.addresses()[0])
        await other.network.dial(f"{relay.network.addresses()[0]}/p2p-circuit/p2p/{one.peer_id}")
        await wait_until(lambda: one.network.path(other.peer_id) == "relay")
        yield tuple(sorted((one, other), key=lambda peer: peer.peer_id))


async def ask(asker, asked):
    stream = MessageStream(await asker.network.open_stream(asked.peer_id, PUNCH_PROTOCOL))
    await greet(stream, swarm="")
    return stream


async def test_two_relayed_peers_dial_each_other_and_leave_the_relay(relayed):
    first, second = relayed
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.role.run)
        nursery.start_soon(second.role.run)
        for here, there in ((first, second), (second, first)):
            await wait_until(lambda a=here, b=there: a.network.path(b.peer_id) == "direct")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "224.0.0.1", "169.254.1.1", "2001:db8::1"])
async def test_a_node_cannot_be_sent_to_dial_just_any_place(relayed, host):
    first, second = relayed
    stream = await ask(first, second)
    await stream.send(MeetWanted(host, 80))
    answer, _ = await stream.receive_as(Goodbye, MeetWanted)
    assert isinstance(answer, Goodbye)
    assert "place to meet" in answer.reason or "different kinds" in answer.reason


async def test_who_is_reached_directly_is_not_met(relayed):
    first, _ = relayed
    third = Peer(listen=("/ip4/127.0.0.1/tcp/0",))
    async with third.network.run():
        await first.network.dial(third.network.addresses()[0])
        stream = await ask(first, third)
        await stream.send(MeetWanted(HERE, 80))
        answer, _ = await stream.receive_as(Goodbye, MeetWanted)
        assert "not connected through a relay" in answer.reason


async def test_nobody_comes_and_the_relay_goes_on(relayed, monkeypatch):
    monkeypatch.setattr(punching, "MEET_WITHIN_S", 0.3)
    first, second = relayed
    stream = await ask(first, second)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    await stream.send(MeetWanted(HERE, port))
    answer, _ = await stream.receive_as(MeetWanted)
    await stream.send(MeetNow())
    answer, _ = await stream.receive_as(Goodbye)
    assert "did not meet" in answer.reason
    assert first.network.path(second.peer_id) == second.network.path(first.peer_id) == "relay"


async def test_a_failure_is_tried_again_ever_more_seldom(relayed, monkeypatch):
    first, second = relayed
    monkeypatch.setattr(punching, "AGAIN_S", 100.0)  # much longer than the tries themselves
    waits = []
    for _ in range(3):
        before_s = first.role._clock.now_s()
        first.role._under_way[second.peer_id] = None
        second.role._under_way[first.peer_id] = None  # so that it refuses
        await first.role._begin(second.peer_id)
        waits.append(first.role._when(second.peer_id) - before_s)
    assert waits == sorted(waits)
    assert first.role._tried[second.peer_id][0] == 3
