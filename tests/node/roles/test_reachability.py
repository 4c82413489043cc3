"""Three real networks on loopback, each with the two roles that reachability needs."""

from __future__ import annotations

import random
import socket
from contextlib import asynccontextmanager
from itertools import count

import pytest
import trio

from peerinfer.envelope import seal
from peerinfer.errors import NetworkError
from peerinfer.member_messages import DialBackWanted, DialedBack
from peerinfer.membership import Membership
from peerinfer.messages import Advert
from peerinfer_node.clock import SystemClock
from peerinfer_node.keys import MemoryKeys
from peerinfer_node.log import Log
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.network.libp2p_network import Libp2pNetwork
from peerinfer_node.network.libp2p_relay import RelayLimits
from peerinfer_node.roles import reachability
from peerinfer_node.roles.members import MEMBERS_PROTOCOL, MembersRole
from peerinfer_node.roles.reachability import REACH_PROTOCOL, Reachability
from peerinfer_node.roles.work_stream import greet

ANY_PORT = "/ip4/127.0.0.1/tcp/0"
_seeds = count()


class Peer:
    def __init__(self, listen=(ANY_PORT,), *, relays=False):
        self.keys = MemoryKeys(b"reach %d" % next(_seeds))
        self.relays = relays
        self.network = Libp2pNetwork(self.keys, listen, mdns=False, relay=RelayLimits() if relays else None)
        clock, log, rng = SystemClock(), Log(), random.Random(1)
        machine = Membership(self.keys.peer_id, random.Random(2))
        self.members = MembersRole(
            machine=machine,
            rng=random.Random(3),
            network=self.network,
            clock=clock,
            log=log,
            swarm="",
            on_change=lambda peer: None,
        )
        self.reach = Reachability(network=self.network, members=self.members, clock=clock, log=log, swarm="", rng=rng)
        self.changes = 0
        self.reach.on_change = self.changed
        self.sequence = 0
        self.network.serve(MEMBERS_PROTOCOL, self.members.serve)
        self.network.serve(REACH_PROTOCOL, self.reach.serve)

    def changed(self):
        self.changes += 1
        self.advertise()

    def advertise(self):
        self.sequence += 1
        advert = Advert(
            1, self.sequence, 0.0, "", "t", self.reach.addresses(), "running", (), (), (), "none", relays=self.relays
        )
        self.members.advertise(seal(advert, self.keys.peer_id, self.keys.sign))

    @asynccontextmanager
    async def run(self):
        async with trio.open_nursery() as nursery, self.network.run():
            nursery.start_soon(self.members.run)
            nursery.start_soon(self.reach.run)
            self.advertise()
            yield self
            nursery.cancel_scope.cancel()


async def wait_for(condition, timeout_s=60):
    with trio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110  (polling real sockets)
            await trio.sleep(0.02)


async def test_who_can_be_dialled_is_told_so(monkeypatch):
    monkeypatch.setattr(reachability, "LOOK_EVERY_S", 0.05)
    a, b = Peer(), Peer()
    async with a.run(), b.run():
        assert a.reach.text == "unknown: there was nobody to ask yet"
        await a.network.dial(b.network.addresses()[0])
        await wait_for(lambda: a.reach.text == "1 peer can dial you directly")
        await wait_for(lambda: b.reach.text == "1 peer can dial you directly")
        assert a.reach.addresses() == a.network.addresses()


async def test_a_node_that_is_seen_at_several_addresses_announces_them_all(monkeypatch):
    """Of both kinds, each where somebody has reached it."""
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")
    monkeypatch.setattr(reachability, "LOOK_EVERY_S", 0.05)
    home = Peer((ANY_PORT, "/ip6/::1/tcp/0"))
    old, new = Peer((ANY_PORT,)), Peer(("/ip6/::1/tcp/0",))
    async with home.run(), old.run(), new.run():
        for other in (old, new):
            await home.network.dial(other.network.addresses()[0])
        await wait_for(lambda: home.reach.text == "2 peers can dial you directly")
        assert set(home.reach.addresses()) == set(home.network.addresses())
        assert {address.split("/")[1] for address in home.reach.addresses()} == {"ip4", "ip6"}
        for other in (old, new):
            await wait_for(lambda o=other: addresses_known(o, home) == set(home.reach.addresses()))


def addresses_known(of, peer):
    member = of.members.machine.member(peer.keys.peer_id)
    return set(member.advert.addresses) if member and member.advert else set()


async def test_addresses_seen_from_outside_are_announced_before_the_own(monkeypatch):
    """As behind a router that forwards the port: the world sees another address than the node's own."""
    monkeypatch.setattr(reachability, "LOOK_EVERY_S", 0.05)
    home, others = Peer(), [Peer(), Peer()]
    outside = iter(("198.51.100.7", "2001:db8::7"))
    for other, host in zip(others, outside, strict=True):
        monkeypatch.setattr(other.network, "remote_host", lambda peer, host=host: host)

        async def answers_at(address):
            return True

        monkeypatch.setattr(other.network, "answers_at", answers_at)
    async with home.run(), others[0].run(), others[1].run():
        for other in others:
            await home.network.dial(other.network.addresses()[0])
        port = home.network.addresses()[0].split("/")[4]
        wanted = {f"/ip4/198.51.100.7/tcp/{port}", f"/ip6/2001:db8::7/tcp/{port}"}
        await wait_for(lambda: len(home.reach.addresses()) == 3)
        assert {address.partition("/p2p/")[0] for address in home.reach.addresses()[:2]} == wanted
        assert home.reach.addresses()[2] == home.network.addresses()[0]


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
        return True
    except OSError:
        return False


async def test_who_cannot_be_dialled_is_reached_by_a_relay(monkeypatch):
    monkeypatch.setattr(reachability, "LOOK_EVERY_S", 0.05)
    relay, home, guest = Peer(relays=True), Peer(), Peer(())
    real = relay.network.answers_at

    async def firewalled(address):
        return home.keys.peer_id not in address and await real(address)

    monkeypatch.setattr(relay.network, "answers_at", firewalled)
    async with relay.run(), home.run(), guest.run():
        await home.network.dial(relay.network.addresses()[0])
        await wait_for(lambda: home.reach.text == "0 peers can dial you directly, 1 by relay")
        circuit = f"{relay.network.addresses()[0]}/p2p-circuit/p2p/{home.keys.peer_id}"
        assert home.reach.addresses() == (*home.network.addresses(), circuit)
        assert home.changes
        # A node that listens nowhere announces its relay at once, and others dial it there.
        await guest.network.dial(relay.network.addresses()[0])
        await wait_for(lambda: "by relay (1)" in guest.reach.text)
        await wait_for(lambda: home.network.path(guest.keys.peer_id) != "")
        await relay.network.disconnect(home.keys.peer_id)
        await wait_for(lambda: "by relay" not in home.reach.text or relay.keys.peer_id in home.network.connected())


async def test_a_node_dials_nobody_back_but_the_asker_and_not_again_and_again():
    a, b = Peer(()), Peer()
    async with trio.open_nursery() as nursery, a.network.run(), b.network.run():
        del nursery
        await a.network.dial(b.network.addresses()[0])
        tried = []

        async def answers_at(address):
            tried.append(address)
            return False

        b.network.answers_at = answers_at
        stream = MessageStream(await a.network.open_stream(b.keys.peer_id, REACH_PROTOCOL))
        await greet(stream, swarm="")
        await stream.send(DialBackWanted((4001, 0, 4001, 9)))
        answer, _ = await stream.receive_as(DialedBack)
        assert answer == DialedBack("127.0.0.1", ())
        assert tried == [f"/ip4/127.0.0.1/tcp/{port}/p2p/{a.keys.peer_id}" for port in (4001, 9)]
        with trio.fail_after(60), pytest.raises(NetworkError):
            await _greeted(a, b)


async def _greeted(here, there):
    await greet(MessageStream(await here.network.open_stream(there.keys.peer_id, REACH_PROTOCOL)), swarm="")


def test_a_relay_with_both_kinds_of_addresses_is_announced_with_one_of_each():
    private, public, new = "/ip4/192.168.1.1/tcp/1", "/ip4/1.1.1.1/tcp/1", "/ip6/2001:db8::1/tcp/1"
    assert set(reachability._one_of_each_family([private, public, new])) == {public, new}
    assert reachability._one_of_each_family([private]) == (private,)
