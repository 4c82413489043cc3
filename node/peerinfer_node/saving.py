"""What is written down now and then, by whoever counts or learns something, and what a full disk means for it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable

import trio

from peerinfer.errors import StateUnusable
from peerinfer_node.log import Log
from peerinfer_node.ports import Keys

_PURPOSE = b"peerinfer: codes of the rows of reputation"


async def save_every(seconds: float, save: Callable[[], Awaitable[object]]) -> None:
    while True:
        await trio.sleep(seconds)
        await save()


async def was_saved(what: str, write: Callable[[], Awaitable[None]], log: Log) -> bool:
    """Writes it down if that can be done now. A full disk is no reason to stop: whoever asked tries again later."""
    try:
        await write()
    except StateUnusable as error:
        log.warning(f"{what} could not be written down", reason=str(error))
        return False
    return True


class OwnMark:
    """A code beside what this node writes down, which only its key can make.

    So nothing is gone on with that was edited by hand, or carried from another node's file into this one.
    """

    def __init__(self, keys: Keys) -> None:
        # Ed25519 signs the same bytes in the same way every time, so this is the same secret after a restart.
        self._secret = hashlib.sha256(keys.sign(_PURPOSE)).digest()

    def of(self, data: bytes) -> bytes:
        return hmac.digest(self._secret, data, "sha256")[:16]

    def is_on(self, data: bytes, mark: bytes) -> bool:
        return hmac.compare_digest(self.of(data), mark)
