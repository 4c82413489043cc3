"""Our sessions and muxer against py-libp2p's own: the wire is theirs."""

import os

import pytest
import trio
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p_hosts import ECHO, PATIENCE_S, echoed, node, stock_host, wait_until
from multiaddr import Multiaddr

SIZES = [1, 1000, 300_000, 3_000_000]


async def stock_echo(stream):
    try:
        while True:
            await stream.write(await stream.read(65536))
    except Exception:
        await stream.close()


@pytest.mark.parametrize("size", SIZES)
async def test_we_dial_a_host_of_the_library(size):
    a, data = node(listen=()), os.urandom(size)
    async with stock_host() as stock, a.run():
        stock.set_stream_handler(ECHO, stock_echo)
        peer = await a.dial(str(stock.get_addrs()[0]))
        assert peer == str(stock.get_id())
        assert await echoed(a, peer, data) == data


@pytest.mark.parametrize("size", SIZES)
async def test_a_host_of_the_library_dials_us(size):
    a, data = node(), os.urandom(size)
    async with a.run(), stock_host(listen=False) as stock, trio.open_nursery() as nursery:
        await stock.connect(info_from_p2p_addr(Multiaddr(a.addresses()[0])))
        stream = await stock.new_stream(ID.from_string(a.peer_id), [ECHO])

        async def send():
            await stream.write(data)
            await stream.close_write()

        nursery.start_soon(send)
        received = bytearray()
        with trio.fail_after(PATIENCE_S):
            while len(received) < size:
                received += await stream.read(65536)
        assert received == data


async def test_a_host_of_the_library_that_goes_away_is_noticed():
    a = node()
    async with a.run():
        async with stock_host(listen=False) as stock:
            await stock.connect(info_from_p2p_addr(Multiaddr(a.addresses()[0])))
            await wait_until(lambda: a.connected() == [str(stock.get_id())])
        await wait_until(lambda: a.connected() == [])
