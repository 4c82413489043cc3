import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p_hosts import ANY_PORT, PATIENCE_S, echoed, node, raw_tcp, stock_host, wait_until
from multiaddr import Multiaddr
from zeroconf import Zeroconf

from peerinfer.errors import DialFailed
from peerinfer.invites import PrivateSwarm
from peerinfer_node.keys import MemoryKeys
from peerinfer_node.network.libp2p_network import DIAL_TIMEOUT_S, Libp2pNetwork
from peerinfer_node.ports import AddressFound

LAB = PrivateSwarm("lab", b"k" * 32)
OTHER = PrivateSwarm("lab", b"o" * 32)


async def test_members_of_a_private_swarm_talk():
    a, b = node(swarm=LAB), node(swarm=LAB)
    async with a.run(), b.run():
        assert await echoed(a, await a.dial(b.addresses()[0]), b"x" * 300_000) == b"x" * 300_000


@pytest.mark.parametrize(
    ("mine", "theirs", "hint"),
    [
        (LAB, OTHER, "swarm keys differ; check the invite"),
        (LAB, None, "refused this swarm's key"),
        (None, LAB, "give that"),
    ],
    ids=["another key", "a key and none", "none and a key"],
)
async def test_who_has_another_key_is_refused_at_once_and_plainly(mine, theirs, hint):
    a, b = node(swarm=mine, listen=()), node(swarm=theirs)
    async with a.run(), b.run():
        started = trio.current_time()
        with pytest.raises(DialFailed, match=hint) as caught:
            await a.dial(b.addresses()[0])
        assert trio.current_time() - started < DIAL_TIMEOUT_S / 2, "a wrong key must not look like a hang"
        assert "\n" not in str(caught.value)
        await wait_until(lambda: not b._handshakes)
        assert (a.connected(), b.connected()) == ([], [])


async def test_another_identity_is_still_told_apart_from_a_wrong_key():
    a, b = node(swarm=LAB, listen=()), node(swarm=LAB)
    async with a.run(), b.run():
        wrong = b.addresses()[0].rpartition("/")[0] + f"/{node().peer_id}"
        with pytest.raises(DialFailed, match="another identity"):
            await a.dial(wrong)


async def test_a_stranger_learns_no_identity_from_a_member():
    b = node(swarm=LAB)
    async with b.run(), raw_tcp(b.addresses()[0]) as stream:
        # multistream-select, then a first Noise message made without the key: 32 bytes of a point, 16 of a tag.
        line = b"/multistream/1.0.0\n", b"/peerinfer/noise-psk/1\n"
        await stream.send_all(b"".join(bytes([len(part)]) + part for part in line))
        await stream.send_all((48).to_bytes(2, "big") + bytes(48))
        received = bytearray()
        with trio.fail_after(PATIENCE_S):
            try:
                while data := await stream.receive_some():
                    received += data
            except trio.BrokenResourceError:
                pass
        assert bytes(received) == b"".join(bytes([len(part)]) + part for part in line)


async def test_a_stock_host_of_py_libp2p_does_not_get_in():
    b = node(swarm=LAB)
    async with b.run(), stock_host(key_pair=create_new_key_pair(b"s" * 32)) as host:
        from libp2p.peer.peerinfo import info_from_p2p_addr

        with trio.move_on_after(5), pytest.raises(Exception):  # noqa: B017, PT011  (whatever the library raises)
            await host.connect(info_from_p2p_addr(Multiaddr(b.addresses()[0])))
        assert b.connected() == []


async def test_a_wished_port_is_taken_if_it_is_free():
    async with (first := node()).run():
        taken = int(first.addresses()[0].split("/")[4])
        second = Libp2pNetwork(MemoryKeys(b"second"), (ANY_PORT,), mdns=False, port_wished=taken)
        async with second.run():
            assert f"/tcp/{taken}/" not in second.addresses()[0]
    third = Libp2pNetwork(MemoryKeys(b"third"), (ANY_PORT,), mdns=False, port_wished=taken)
    async with third.run():
        assert f"/tcp/{taken}/" in third.addresses()[0]


@pytest.mark.slow
async def test_several_swarms_on_one_network_do_not_knock_at_each_others_doors():
    try:
        Zeroconf(interfaces=["127.0.0.1"]).close()
    except OSError as error:
        pytest.skip(f"this machine has no multicast on its loopback interface: {error}")
    swarms = {"lab": LAB, "lab again": LAB, "other": OTHER, "open": None, "open again": None}
    nodes = {name: node(mdns=True, swarm=swarm) for name, swarm in swarms.items()}
    found = {name: set() for name in nodes}

    async def watch(name):
        async for event in nodes[name].events():
            if isinstance(event, AddressFound):
                found[name] |= {other for other, network in nodes.items() if network.peer_id == event.peer}

    async with trio.open_nursery() as nursery:
        for network in nodes.values():
            await nursery.start(_run, network)
        for name in nodes:
            nursery.start_soon(watch, name)
        await wait_until(lambda: all(found[name] for name in nodes if name != "other"))
        await trio.sleep(1)  # time for what must not happen
        assert found == {
            "lab": {"lab again"},
            "lab again": {"lab"},
            "other": set(),
            "open": {"open again"},
            "open again": {"open"},
        }
        nursery.cancel_scope.cancel()


async def _run(network, task_status=trio.TASK_STATUS_IGNORED):
    async with network.run():
        task_status.started()
        await trio.sleep_forever()
