"""Where peers come to ask: each stream is greeted, and its requests are answered in order until it stops."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from peerinfer.errors import PeerinferError
from peerinfer.ids import PeerId
from peerinfer.messages import Goodbye, KeepAlive
from peerinfer_node.log import Log
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.ports import Stream
from peerinfer_node.roles.work_stream import greet

AnswerTo = Callable[[MessageStream, Any, bytes], Awaitable[None]]
"""Answers one request, with its body, on this stream. What it raises as a `PeerinferError` ends the stream."""


class Reception:
    """Of one protocol. A peer has so many streams at once."""

    def __init__(
        self,
        requests: tuple[type[Any], ...],
        answer: AnswerTo,
        *,
        streams_max: int,
        swarm: str,
        log: Log,
        name: str,
        revision: int = 0,
    ) -> None:
        """`revision` is what who asks must know of the protocol."""
        self._kinds = (*requests, KeepAlive, Goodbye)
        self._answer = answer
        self._streams_max = streams_max
        self._swarm = swarm
        self._log = log
        self._name = name
        self._revision = revision
        self._streams: dict[PeerId, int] = {}

    async def serve(self, raw: Stream) -> None:
        """Returns when the other side has stopped asking, however it did."""
        stream = MessageStream(raw)
        peer = stream.peer
        if self._streams.get(peer, 0) >= self._streams_max:
            await stream.reset()
            return
        self._streams[peer] = self._streams.get(peer, 0) + 1
        try:
            await greet(stream, swarm=self._swarm, revision=self._revision)
            while True:
                request, body = await stream.receive_as(*self._kinds)
                if isinstance(request, Goodbye):
                    return
                if not isinstance(request, KeepAlive):
                    await self._answer(stream, request, body)
        except EOFError:
            pass
        except PeerinferError as error:
            self._log.debug(f"{self._name} stream ended", peer=peer, reason=str(error))
        finally:
            self._streams[peer] -= 1
            if not self._streams[peer]:
                del self._streams[peer]
            with trio.CancelScope(shield=True):
                await stream.close()
