"""The process's end of the pipe: it waits, since it has nothing else to do, and reads what the daemon sends into place."""

from __future__ import annotations

import select
import socket
from typing import Any

from peerinfer.limits import MIB
from peerinfer_node.inference import pipe
from peerinfer_node.inference.arena import Arena


class DaemonEnd:
    def __init__(self, data: socket.socket, arena: Arena | None) -> None:
        self._data = data
        self._arena = arena
        self._asked = arena.asked if arena is not None else memoryview(b"")
        self._poll = select.poll()
        self._poll.register(data, select.POLLIN)

    def is_asked_within(self, seconds: float) -> bool:
        return bool(self._poll.poll(1000 * seconds))

    def give_back(self) -> None:
        """Returns memory that nothing lies in. To be called between two requests."""
        if self._arena is not None:
            self._arena.give_back()

    def send(self, outgoing: pipe.Outgoing) -> None:
        """Raises OSError when the daemon is gone."""
        while not outgoing.send_some(self._data):
            pass

    def receive(self) -> tuple[Any, memoryview | None]:
        """The next request, and its body, which is None if it did not fit into memory. A body in the arena is not copied:
        it stays what it is until the request is answered.

        Raises EOFError or OSError when the daemon is gone.
        """
        prefix = memoryview(bytearray(pipe.PREFIX_BYTES))
        self._receive_into(prefix)
        header_bytes, body_bytes, is_shared = pipe.lengths_of(prefix, self._asked.nbytes)
        header = memoryview(bytearray(header_bytes))
        if is_shared:
            self._receive_into(header)
            return pipe.decode(header), self._asked[:body_bytes]
        try:
            body = pipe.room_for(body_bytes)
        except (MemoryError, OSError):
            self._receive_into(header)
            self._skip(body_bytes)
            return pipe.decode(header), None
        self._receive_into(header, body)
        return pipe.decode(header), body

    def _skip(self, size_bytes: int) -> None:
        scratch = memoryview(bytearray(MIB))
        for start in range(0, size_bytes, MIB):
            self._receive_into(scratch[: size_bytes - start])

    def _receive_into(self, *targets: memoryview) -> None:
        incoming = pipe.Incoming(*targets)
        while not incoming.receive_some(self._data, socket.MSG_WAITALL):
            pass
