"""One stream as the node sees it, how connections end, and what went wrong, in words.

Part of the libp2p adapter (see `libp2p_network`).
"""

from __future__ import annotations

from typing import Any

from libp2p.protocol_muxer.exceptions import MultiselectClientError
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey

from peerinfer.ids import PeerId
from peerinfer.tensors import Buffer
from peerinfer_node.network.libp2p_keyed import WRONG_KEY
from peerinfer_node.network.libp2p_session import shielded
from peerinfer_node.network.libp2p_yamux_stream import Stream

END_TIMEOUT_S = 2.0
"""For a stream to be closed or reset."""

CLOSE_TIMEOUT_S = 3.0
"""For all connections to say goodbye when the node stops."""

OTHER_SWARM = "it refused this swarm's key: it belongs to another swarm, or is no peerinfer node; check the invite"
NO_KEY = (
    "it refused a node without a swarm's key: it belongs to another swarm, a private one, or is no peerinfer node; "
    "ask a member for an invite, and give that (peerinfer join INVITE, or --swarm INVITE)"
)


class Libp2pStream:
    """The port's `Stream` over one of yamux."""

    def __init__(self, net_stream: Any, peer: PeerId) -> None:
        self._net_stream = net_stream
        self._stream: Stream = net_stream.muxed_stream
        self._peer = peer

    @property
    def peer(self) -> PeerId:
        return self._peer

    async def read(self, bytes_max: int) -> bytes:
        return await self._stream.read(bytes_max)

    async def write(self, data: Buffer) -> None:
        await self._stream.write(data)

    def write_nowait(self, data: Buffer) -> bool:
        return self._stream.write_nowait(data)

    async def close(self) -> None:
        # The library's own stream object holds the place in the resource manager, so it is closed with ours.
        with shielded(END_TIMEOUT_S):
            await self._net_stream.close()

    async def reset(self) -> None:
        with shielded(END_TIMEOUT_S):
            await self._net_stream.reset()


def reason_of(error: BaseException, refusal: str) -> str:
    """The first line of what happened, for a person. `refusal` is what a failed negotiation means."""
    cause: BaseException = error
    while True:
        if isinstance(cause, PeerIDMismatchesPubkey):
            return "another identity answers there"
        if isinstance(cause, MultiselectClientError):
            # No answer is a peer that is full or gone; a "no" is one that speaks something else.
            return "it hung up" if "read failed" in str(cause) else refusal
        if str(cause) == WRONG_KEY or cause.__cause__ is None:
            return str(cause).partition("\n")[0] or type(cause).__name__
        cause = cause.__cause__


async def close_connection(connection: Any) -> None:
    with shielded(CLOSE_TIMEOUT_S):
        await connection.close()


async def reset_stream(net_stream: Any) -> None:
    with shielded(END_TIMEOUT_S):
        await net_stream.reset()
