"""Many hostile peers, or one with many identities."""

import pytest
import trio
from libp2p_hosts import node, wait_until

from peerinfer.errors import DialFailed
from peerinfer_node.network import libp2p_network
from peerinfer_node.network.libp2p_addresses import subnet_of


@pytest.mark.parametrize(
    ("host", "subnet"),
    [
        ("8.8.8.8", "8.8.8.0/24"),
        ("2001:4860:4860:1::8888", "2001:4860:4860::/48"),
        ("192.168.1.7", ""),
        ("10.1.2.3", ""),
        ("127.0.0.1", ""),
        ("fe80::1%eth0", ""),
        ("", ""),
    ],
)
def test_public_addresses_are_counted_by_their_network(host, subnet):
    assert subnet_of(host) == subnet


async def test_one_network_cannot_take_all_the_connections(monkeypatch):
    monkeypatch.setattr(libp2p_network, "CONNECTIONS_PER_SUBNET_MAX", 3)
    monkeypatch.setattr(libp2p_network, "subnet_of", lambda host: "8.8.8.0/24")
    victim = node()
    peers = [node(listen=()) for _ in range(5)]
    async with trio.open_nursery() as nursery, victim.run():

        async def run(network, task_status=trio.TASK_STATUS_IGNORED):
            async with network.run():
                task_status.started()
                await trio.sleep_forever()

        for peer in peers:
            await nursery.start(run, peer)
        for peer in peers[:3]:
            await peer.dial(victim.addresses()[0])
        started = trio.current_time()
        with pytest.raises(DialFailed, match=r"hung up|closed"):
            await peers[3].dial(victim.addresses()[0])
        assert trio.current_time() - started < libp2p_network.DIAL_TIMEOUT_S / 2, "refused early, before any handshake"
        await peers[0].disconnect(victim.peer_id)
        await wait_until(lambda: len(victim.connected()) == 2 and victim._accepted["8.8.8.0/24"] == 2)
        await peers[4].dial(victim.addresses()[0])
        nursery.cancel_scope.cancel()
