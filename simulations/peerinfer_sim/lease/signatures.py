"""Signatures that cost nothing, for ten thousand runs: a keyed hash instead of Ed25519, and every check made once.

Nobody in these runs forges a signature; what the real ones withstand is tested with real ones. Whoever holds a public
key could sign here, so a liar is only ever given the one that is its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from unittest.mock import patch

from cryptography.exceptions import InvalidSignature

from peerinfer import committee, committees, envelope, journal, journal_base, lease_certificate, manifests, tenure
from peerinfer.ids import PeerId, peer_id_of, public_key_of

_KEPT = 4096


class _Key:
    """Stands in for an Ed25519 public key."""

    def __init__(self, public_key: bytes) -> None:
        self._public_key = public_key

    @classmethod
    def from_public_bytes(cls, public_key: bytes) -> _Key:
        return cls(public_key)

    def verify(self, signature: bytes, data: bytes) -> None:
        if signature != _signature(self._public_key, data):
            raise InvalidSignature


def _signature(public_key: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(data, key=public_key, digest_size=64).digest()


def identity(number: int) -> tuple[PeerId, Callable[[bytes], bytes]]:
    """A peer id, and what signs for it while `cheap` is in force."""
    public_key = hashlib.sha256(b"node %d" % number).digest()
    return peer_id_of(public_key), lambda data: _signature(public_key, data)


@contextmanager
def cheap() -> Iterator[None]:
    with ExitStack() as stack:
        keys = lru_cache(_KEPT)(public_key_of)
        stack.enter_context(patch.object(envelope, "Ed25519PublicKey", _Key))
        stack.enter_context(patch.object(envelope, "public_key_of", keys))
        stack.enter_context(patch.object(committee, "public_key_of", keys))
        unseal = lru_cache(_KEPT)(envelope.unseal)
        for module in (committees, journal_base, lease_certificate, manifests, tenure):
            stack.enter_context(patch.object(module, "unseal", unseal))
        stack.enter_context(patch.object(journal, "_opened", lru_cache(_KEPT)(journal._opened)))
        yield
