from contextlib import suppress
from dataclasses import replace

import pytest
import trio
from libp2p_hosts import echoed, node, wait_until

from peerinfer.errors import DialFailed, StreamClosed
from peerinfer.invites import PrivateSwarm
from peerinfer_node.network.libp2p_relay import RelayLimits

LAB = PrivateSwarm("lab", b"k" * 32)


def circuit(relay, peer):
    return f"{relay.addresses()[0]}/p2p-circuit/p2p/{peer.peer_id}"


def carried_by(relay):
    """What it does for others."""
    return relay._handlers["/peerinfer/relay/1"].__self__


@pytest.mark.parametrize("swarm", [None, LAB], ids=["open", "private"])
async def test_two_nodes_that_nobody_can_dial_talk_through_a_relay_end_to_end(swarm):
    relay = node(relay=RelayLimits(), swarm=swarm)
    ada, bob = node(listen=(), swarm=swarm), node(listen=(), swarm=swarm)
    async with relay.run(), ada.run(), bob.run():
        await ada.dial(relay.addresses()[0])
        assert await bob.dial(circuit(relay, ada)) == ada.peer_id, "it dials the relay by itself"
        assert (bob.path(ada.peer_id), bob.path(relay.peer_id)) == ("relay", "direct")
        await wait_until(lambda: ada.path(bob.peer_id) == "relay")
        data = bytes(range(256)) * 4096
        assert await echoed(bob, ada.peer_id, data) == data
        assert await echoed(ada, bob.peer_id) == b"hello"
        await bob.disconnect(ada.peer_id)
        await wait_until(lambda: ada.path(bob.peer_id) == "" and not ada._connections_to(bob.peer_id))


async def test_a_relay_that_goes_takes_the_connection_with_it():
    ada, bob = node(listen=()), node(listen=())
    async with ada.run(), bob.run():
        relay = node(relay=RelayLimits())
        async with relay.run():
            await ada.dial(relay.addresses()[0])
            await bob.dial(circuit(relay, ada))
        await wait_until(lambda: ada.connected() == bob.connected() == [])


async def test_a_direct_connection_takes_over_from_a_relayed_one():
    relay, ada, bob = node(relay=RelayLimits()), node(), node(listen=())
    async with relay.run(), ada.run(), bob.run():
        await ada.dial(relay.addresses()[0])
        await bob.dial(circuit(relay, ada))
        await bob.dial(ada.addresses()[0])
        await wait_until(lambda: bob.path(ada.peer_id) == "direct" and len(bob._connections_to(ada.peer_id)) == 1)
        assert await echoed(bob, ada.peer_id) == b"hello"


async def test_a_relay_refuses_plainly():
    relay, other, ada = node(relay=RelayLimits()), node(), node(listen=())
    async with relay.run(), other.run(), ada.run():
        with pytest.raises(DialFailed, match="it is not connected here"):
            await ada.dial(circuit(relay, node()))
        with pytest.raises(DialFailed, match="it does not relay"):
            await ada.dial(circuit(other, node()))
        with pytest.raises(DialFailed, match="it is this node"):
            await ada.dial(circuit(relay, ada))


async def test_another_identity_behind_a_relay_is_found_out():
    relay, ada, eve, bob = node(relay=RelayLimits()), node(listen=()), node(listen=()), node(listen=())
    async with relay.run(), ada.run(), eve.run(), bob.run():
        await ada.dial(relay.addresses()[0])
        await eve.dial(relay.addresses()[0])
        lying = carried_by(relay)
        honest = lying._open_stream
        lying._open_stream = lambda peer, protocol: honest(eve.peer_id, protocol)
        with pytest.raises(DialFailed, match="another identity"):
            await bob.dial(circuit(relay, ada))
        assert ada.peer_id not in bob.connected()


async def test_a_relay_keeps_its_quotas():
    relay = node(relay=RelayLimits(connections_max=2, connections_per_peer_max=1))
    peers = [node(listen=()) for _ in range(6)]
    async with trio.open_nursery() as nursery, relay.run():
        for peer in peers:
            await nursery.start(_run, peer)
            await peer.dial(relay.addresses()[0])
        await peers[0].dial(circuit(relay, peers[1]))
        with pytest.raises(DialFailed, match="1 connections of one of you"):
            await peers[2].dial(circuit(relay, peers[1]))
        await peers[2].dial(circuit(relay, peers[3]))
        with pytest.raises(DialFailed, match="carries 2 connections"):
            await peers[4].dial(circuit(relay, peers[5]))
        await peers[0].disconnect(peers[1].peer_id)
        await wait_until(lambda: carried_by(relay).connections == 1)
        await peers[4].dial(circuit(relay, peers[5]))
        nursery.cancel_scope.cancel()


async def test_a_relay_keeps_its_rate_and_closes_what_is_idle():
    limits = RelayLimits(bytes_per_s=400_000)
    relay = node(relay=limits)
    ada, bob = node(listen=()), node(listen=())
    async with relay.run(), ada.run(), bob.run():
        await ada.dial(relay.addresses()[0])
        await bob.dial(circuit(relay, ada))
        started = trio.current_time()
        await echoed(bob, ada.peer_id, bytes(200_000))
        assert trio.current_time() - started > 0.6, "200 kB there and back at 400 kB/s"
        carried_by(relay)._limits = replace(limits, idle_s=0.3)
        with suppress(DialFailed, StreamClosed):  # The shorter time begins with it, and may be over before its answer.
            await echoed(bob, ada.peer_id)
        await wait_until(lambda: ada.peer_id not in bob.connected())
        assert relay.peer_id in bob.connected()


async def test_whether_a_peer_answers_at_an_address_is_found_out_without_a_connection_left():
    ada, bob, eve = node(), node(), node()
    async with ada.run(), bob.run(), eve.run():
        address = bob.addresses()[0]
        assert await ada.answers_at(address)
        assert not await ada.answers_at(address.replace(bob.peer_id, eve.peer_id))
        assert not await ada.answers_at(f"/ip4/127.0.0.1/tcp/9/p2p/{bob.peer_id}")
        assert ada.connected() == []
        await wait_until(lambda: not bob._handshakes and bob.connected() == [])
        await ada.dial(address)
        assert (ada.remote_host(bob.peer_id), ada.remote_host(eve.peer_id)) == ("127.0.0.1", "")


async def _run(network, task_status=trio.TASK_STATUS_IGNORED):
    async with network.run():
        task_status.started()
        await trio.sleep_forever()
