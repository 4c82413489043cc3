"""What a bare py-libp2p stream carries between two processes: the floor under our own figures.

Noise alone and Yamux alone, as our node speaks; no messages of ours, no checks, no inference. The other process is this
file with the argument `serve`; it ends when its standard input does, so it never outlives us.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from statistics import median
from subprocess import PIPE
from time import perf_counter
from typing import Any

import trio
from harness import Measurement, percentile
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.config import ConnectionConfig
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

RTT_P50 = "bare_stream_rtt_p50"
RTT_P99 = "bare_stream_rtt_p99"
MB_PER_S = "bare_stream_1mb"
"""Names of the three measurements, for those who take them as baselines."""

_ECHO = TProtocol("/peerinfer-bench/echo/1")
_SINK = TProtocol("/peerinfer-bench/sink/1")
_ECHO_BYTES = 64
_MESSAGE_BYTES = 1_000_000
_ACK_BYTES = 8
_MESSAGES_IN_FLIGHT = 2
"""As many as our node keeps in flight for a device."""

_READ_BYTES = 256 * 1024
_CLOSE_TIMEOUT_S = 5.0
_START_TIMEOUT_S = 60.0
_REPETITIONS = 3
_THIS_FILE = str(Path(__file__).resolve())


@asynccontextmanager
async def _host(*listen: str) -> AsyncIterator[Any]:
    """A running host with the settings of our node. py-libp2p's own default would accept plaintext."""
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    key = create_new_key_pair()
    host = new_host(
        key_pair=key,
        sec_opt={NOISE_ID: NoiseTransport(key, noise_privkey=create_noise_key_pair().private_key)},
        muxer_opt={TProtocol(YAMUX_ID): Yamux},
        connection_config=ConnectionConfig(min_connections=0, low_watermark=0, max_connections_per_peer=1),
    )
    async with host.run([Multiaddr(address) for address in listen]):
        try:
            yield host
        finally:
            # Leaving run() alone would leak sockets and tasks.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_TIMEOUT_S):
                await host.close()


async def _read_exactly(stream: Any, count: int) -> bool:
    """Reads and drops `count` bytes; False if the stream ended at once."""
    missing = count
    while missing:
        data = await stream.read(min(missing, _READ_BYTES))
        if not data:
            if missing == count:
                return False
            raise EOFError(f"the stream ended {missing} bytes early")
        missing -= len(data)
    return True


# --- the other process ---------------------------------------------------------------------------------------------


async def _echo(stream: Any) -> None:
    while await _read_exactly(stream, _ECHO_BYTES):
        await stream.write(bytes(_ECHO_BYTES))


async def _sink(stream: Any) -> None:
    while await _read_exactly(stream, _MESSAGE_BYTES):
        await stream.write(bytes(_ACK_BYTES))


async def _serve() -> None:
    async with _host("/ip4/127.0.0.1/tcp/0") as host:
        host.set_stream_handler(_ECHO, _echo)
        host.set_stream_handler(_SINK, _sink)
        print(host.get_addrs()[0], flush=True)
        stdin = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
        while await stdin.receive_some():
            pass


# --- this process --------------------------------------------------------------------------------------------------


async def _first_line(stdout: trio.abc.ReceiveStream) -> str:
    line = b""
    with trio.fail_after(_START_TIMEOUT_S):
        while not line.endswith(b"\n"):
            data = await stdout.receive_some()
            if not data:
                raise RuntimeError("the other process ended before it was ready")
            line += data
    return line.decode().strip()


async def _round_trips_ms(stream: Any, rounds: int) -> list[float]:
    times = []
    for _ in range(rounds):
        started = perf_counter()
        await stream.write(bytes(_ECHO_BYTES))
        await _read_exactly(stream, _ECHO_BYTES)
        times.append((perf_counter() - started) * 1e3)
    return times


async def _mb_per_s(stream: Any, messages: int) -> float:
    """Megabytes per second of `messages` messages one way, a few in flight, each acknowledged."""
    message = os.urandom(_MESSAGE_BYTES)
    credit = trio.Semaphore(_MESSAGES_IN_FLIGHT)

    async def take_acks() -> None:
        for _ in range(messages):
            await _read_exactly(stream, _ACK_BYTES)
            credit.release()

    started = perf_counter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_acks)
        for _ in range(messages):
            await credit.acquire()
            await stream.write(message)
    return messages * _MESSAGE_BYTES / 1e6 / (perf_counter() - started)


@asynccontextmanager
async def _connected() -> AsyncIterator[Any]:
    """Opens a stream of a protocol to the other process; both are there for as long as this is open."""
    async with trio.open_nursery() as nursery:
        command = [sys.executable, _THIS_FILE, "serve"]
        process = await nursery.start(partial(trio.run_process, command, stdin=PIPE, stdout=PIPE))
        address = Multiaddr(await _first_line(process.stdout))
        async with _host() as host:
            info = info_from_p2p_addr(address)
            await host.connect(info)
            yield partial(host.new_stream, info.peer_id)
        await process.stdin.aclose()


@asynccontextmanager
async def round_trips() -> AsyncIterator[Callable[[int], Awaitable[list[float]]]]:
    """Times so many round trips of 64 bytes, in milliseconds, whenever it is called: between rounds of something else,
    so that both have the same minute of the same machine."""
    async with _connected() as opened:
        stream = await opened([_ECHO])
        await _round_trips_ms(stream, 20)
        yield partial(_round_trips_ms, stream)


async def run(rounds: int) -> dict[str, float]:
    """Measures `rounds` round trips of 64 bytes and `rounds` / 20 messages of 1 MB, after a warm-up.

    Gives `RTT_P50` and `RTT_P99` in milliseconds and `MB_PER_S` in megabytes per second (median of three).
    """
    async with _connected() as opened:
        echo = await opened([_ECHO])
        await _round_trips_ms(echo, max(20, rounds // 10))
        times = await _round_trips_ms(echo, rounds)
        sink = await opened([_SINK])
        messages = max(5, rounds // 20)
        await _mb_per_s(sink, 5)
        rates = [await _mb_per_s(sink, messages) for _ in range(_REPETITIONS)]
    return {RTT_P50: percentile(times, 50), RTT_P99: percentile(times, 99), MB_PER_S: median(rates)}


async def measurements(quick: bool) -> list[Measurement]:
    found = await run(200 if quick else 1000)
    return [
        Measurement(RTT_P50, found[RTT_P50], "ms"),
        Measurement(RTT_P99, found[RTT_P99], "ms", baseline=RTT_P50),
        Measurement(MB_PER_S, found[MB_PER_S], "MB/s", "higher"),
    ]


if __name__ == "__main__":
    if sys.argv[1:] != ["serve"]:
        sys.exit("run tests/benchmarks/run.py bare_stream; `serve` is for the other end of that benchmark")
    trio.run(_serve)
