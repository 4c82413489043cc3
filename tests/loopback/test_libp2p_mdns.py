import pytest
import trio
from libp2p_hosts import PATIENCE_S, echoed, logged, node
from zeroconf import Zeroconf

from peerinfer.limits import ADDRESSES_PER_PEER_MAX
from peerinfer_node.keys import MemoryKeys
from peerinfer_node.network import libp2p_network
from peerinfer_node.network.libp2p_mdns import addresses_in
from peerinfer_node.ports import AddressFound

PEER = MemoryKeys(b"peer").peer_id


def record(*addresses):
    return {b"dnsaddr%d" % index: address.encode() for index, address in enumerate(addresses)}


@pytest.fixture
def multicast():
    try:
        Zeroconf(interfaces=["127.0.0.1"]).close()
    except OSError as error:
        pytest.skip(f"this machine has no multicast on its loopback interface: {error}")


async def next_found(network, peer):
    with trio.fail_after(PATIENCE_S):
        async for event in network.events():
            if isinstance(event, AddressFound) and event.peer == peer:
                return event
    raise AssertionError("events do not end")


@pytest.mark.slow
async def test_two_nodes_on_one_network_find_each_other_and_what_they_find_can_be_dialled(multicast, capfd):
    a, b = node(mdns=True), node(mdns=True)
    async with a.run(), b.run():
        found = await next_found(a, b.peer_id)
        assert found.addresses == b.addresses()
        assert (await next_found(b, a.peer_id)).addresses == a.addresses()
        assert await echoed(a, await a.dial(found.addresses[0])) == b"hello"
    assert capfd.readouterr() == ("", "")


async def test_a_node_is_ready_before_discovery_is(monkeypatch):
    has_begun = trio.Event()

    async def never_ready(*_):
        has_begun.set()
        await trio.sleep_forever()

    monkeypatch.setattr(libp2p_network, "run_mdns", never_ready)
    a = node(mdns=True)
    with trio.fail_after(PATIENCE_S):
        async with a.run():
            await has_begun.wait()
            assert a.addresses()


async def test_a_machine_without_multicast_is_told_and_goes_on(monkeypatch, caplog):
    async def no_multicast(*_):
        raise OSError("No such device")

    monkeypatch.setattr(libp2p_network, "run_mdns", no_multicast)
    a, b = node(mdns=True), node(listen=())
    async with a.run(), b.run():
        assert await echoed(b, await b.dial(a.addresses()[0])) == b"hello"
    assert logged(caplog) == ["mDNS is off, peers on this network will not be found: No such device"]


def test_a_record_is_read_into_addresses_by_peer():
    other = MemoryKeys(b"other").peer_id
    one, two, three = (
        f"/ip4/10.0.0.1/tcp/1/p2p/{PEER}",
        f"/ip6/fe80::1/tcp/2/p2p/{PEER}",
        f"/ip4/10.0.0.2/tcp/3/p2p/{other}",
    )
    assert addresses_in(record(one, two, three)) == {PEER: (one, two), other: (three,)}


@pytest.mark.parametrize(
    "value",
    [
        "",
        "/ip4/10.0.0.1/tcp/1",
        f"/ip4/10.0.0.1/udp/1/quic-v1/p2p/{PEER}",
        f"/ip4/10.0.0.1/tcp/99999/p2p/{PEER}",
        "/ip4/10.0.0.1/tcp/1/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        f"/ip4/10.0.0.1/tcp/1/p2p/{PEER}/../../etc",
        f"/dns/{'a' * 600}/tcp/1/p2p/{PEER}",
        f"/ip4/10.0.0.1/tcp/1/p2p/{PEER}\n",
        "/p2p-circuit",
    ],
)
def test_a_record_of_a_stranger_is_checked(value):
    assert addresses_in(record(value)) == {}


def test_a_record_cannot_name_more_addresses_than_a_peer_may_have():
    found = addresses_in(record(*(f"/ip4/10.0.0.1/tcp/{port}/p2p/{PEER}" for port in range(1, 60))))
    assert len(found[PEER]) == ADDRESSES_PER_PEER_MAX
    assert addresses_in({b"dnsaddr": b"\xff\xfe", b"other": b"x", b"dnsaddr2": None}) == {}
