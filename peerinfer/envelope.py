"""Signed statements.

The signature covers `b"peerinfer/1/" + message name + b"\\0" + payload`, so a signature given for one kind of statement
can never pass for another (domain separation). The signer's key is read from its peer id; there is nothing to look up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from peerinfer.codec import decode_as, encode
from peerinfer.errors import DecodeError
from peerinfer.ids import PeerId, public_key_of
from peerinfer.messages import Signed

M = TypeVar("M")

Sign = Callable[[bytes], bytes]
"""Signs bytes with the node's own key; 64 bytes."""


def _covered(cls: type[Any], payload: bytes) -> bytes:
    return b"peerinfer/1/" + cls.__name__.encode() + b"\0" + payload


def seal(message: Any, signer: PeerId, sign: Sign) -> bytes:
    """The bytes of `message` as a `Signed` by `signer`."""
    return encode(signed(message, signer, sign))


def signed(message: Any, signer: PeerId, sign: Sign) -> Signed:
    """The statement itself, for whoever wants its payload as well as its bytes."""
    payload = encode(message)
    return Signed(signer, payload, sign(_covered(type(message), payload)))


def unseal(cls: type[M], data: bytes, *, signer: PeerId | None = None) -> tuple[PeerId, M]:
    """Who signed `data`, and what. Raises `DecodeError` for anything but a good signature over a `cls`.

    With `signer` given, a statement by anybody else is an error too.
    """
    statement = decode_as(Signed, data)
    if signer is not None and statement.signer != signer:
        raise DecodeError(f"signed by {statement.signer[:60]}, not by {signer}")
    author = author_of(cls, statement)
    return author, decode_as(cls, statement.payload)


def author_of(cls: type[Any], statement: Signed) -> PeerId:
    """Who signed a statement that is taken for a `cls`. Raises `DecodeError` unless the signature is good."""
    author = PeerId(statement.signer)
    try:
        key = Ed25519PublicKey.from_public_bytes(public_key_of(author))
        key.verify(statement.signature, _covered(cls, statement.payload))
    except (ValueError, InvalidSignature):
        raise DecodeError(f"the signature of this {cls.__name__} is not {author}'s") from None
    return author
