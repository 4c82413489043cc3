"""TCP sockets: those that listen, those that dial, and those that meet half way.

Part of the libp2p adapter (see `libp2p_network`). Two nodes behind routers that let nothing in can still connect when both
dial at the same moment, each from a port that the other dials: each router takes what comes in for the answer to what
went out (TCP simultaneous open). That needs routers that keep the port of what goes out, as most at home do.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress

import trio

from peerinfer.errors import DialFailed, StateUnusable
from peerinfer.ids import PeerId
from peerinfer_node.listening import concrete_hosts
from peerinfer_node.network.libp2p_addresses import Address

ATTEMPT_TIMEOUT_S = 1.5
"""Longer than TCP takes to send its first packet again."""

ATTEMPT_AGAIN_S = 0.05
"""A router may answer the first packet with a refusal before the other side has dialled."""


_LISTEN_BACKLOG = 128


async def open_listeners(
    wanted: Sequence[Address], port_wished: int | None, peer: PeerId
) -> tuple[list[trio.SocketListener], tuple[str, ...]]:
    """The listening sockets, for this process alone, and the addresses at which `peer` is dialled then.

    Raises `StateUnusable` if one cannot be had.
    """
    listeners: list[trio.SocketListener] = []
    addresses: list[str] = []
    try:
        for each in wanted:
            try:
                opened = await _open(each, port_wished)
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                advice = "stop what uses it, or choose another with --listen"
                if error.errno == errno.EADDRNOTAVAIL:
                    advice = "this machine has no such address; --listen /ip4/0.0.0.0/tcp/4001 takes all that it has"
                elif error.errno == errno.EACCES:
                    advice = "ports below 1024 are for the administrator; choose a higher one with --listen"
                raise StateUnusable(f"cannot listen on port {each.port} of {each.host}: {reason}; {advice}") from error
            listeners.extend(opened)
            for listener in opened:
                port = listener.socket.getsockname()[1]
                addresses += [str(Address(each.kind, host, port, peer)) for host in concrete_hosts(each.host)]
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners, tuple(dict.fromkeys(addresses))


async def _open(wanted: Address, port_wished: int | None) -> Sequence[trio.SocketListener]:
    if wanted.port == 0 and port_wished is not None:
        with suppress(OSError):  # it is taken
            return await trio.open_tcp_listeners(port_wished, host=wanted.host, backlog=_LISTEN_BACKLOG)
    return await trio.open_tcp_listeners(wanted.port, host=wanted.host, backlog=_LISTEN_BACKLOG)


async def connect(host: str, port: int) -> trio.SocketStream:
    """Raises `DialFailed`."""
    try:
        return await trio.open_tcp_stream(host, port)
    except OSError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        reason = getattr(cause, "strerror", None) or str(cause)
        if isinstance(cause, OSError) and cause.errno and not isinstance(cause, trio.socket.gaierror):
            reason = os.strerror(cause.errno)  # trio says address and port again
        raise DialFailed(f"cannot dial {host} port {port}: {reason.lower()}") from error


class Hole:
    """A port of this machine from which to meet somebody."""

    def __init__(self, family: int) -> None:
        self._family = family
        self._keeper = self._bound(0)
        self.port: int = self._keeper.getsockname()[1]

    def _bound(self, port: int) -> trio.socket.SocketType:
        opened = trio.socket.socket(self._family, trio.socket.SOCK_STREAM)
        opened.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
        # trio's bind is async for the sake of names; this is none.
        opened._sock.bind(("", port))  # type: ignore[attr-defined]
        return opened

    async def meet(self, host: str, port: int, within_s: float) -> trio.SocketStream:
        """Dials from this port until somebody there dials this one. Raises `DialFailed`."""
        with trio.move_on_after(within_s):
            while True:
                opened = self._bound(self.port)
                try:
                    with trio.move_on_after(ATTEMPT_TIMEOUT_S):
                        await opened.connect((host, port))
                        return trio.SocketStream(opened)
                except OSError:
                    pass
                opened.close()
                await trio.sleep(ATTEMPT_AGAIN_S)
        raise DialFailed(f"did not meet {host} port {port} within {within_s:g} s")

    def close(self) -> None:
        self._keeper.close()


def dig(host: str) -> Hole:
    """A port from which to meet somebody at this IP address. Raises `DialFailed`."""
    try:
        return Hole(trio.socket.AF_INET6 if ":" in host else trio.socket.AF_INET)
    except OSError as error:
        raise DialFailed(f"no port to meet {host} from: {error}") from error
