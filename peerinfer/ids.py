"""Names that can be checked: peer ids, job ids, content ids.

A *peer id* is libp2p's: the base58 form of an identity multihash over the protobuf of an Ed25519 public key, so the key
can be read back from the id (libp2p specs, peer-ids). A *cid* is CIDv1, codec raw, SHA-256, in base32 (multiformats).
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import NewType

PeerId = NewType("PeerId", str)
JobId = NewType("JobId", str)
Cid = NewType("Cid", str)

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS = {character: value for value, character in enumerate(_ALPHABET)}
_ED25519_PREFIX = bytes.fromhex(
    "002408011220"
)  # identity multihash of 36 bytes: protobuf {type: Ed25519, data: 32 bytes}
_CID_PREFIX = bytes.fromhex("01551220")  # CIDv1, raw, sha2-256, 32 bytes
_CID_CHARS = 59
_JOB_ID = re.compile(r"[0-9a-f]{32}")


def base58_encode(data: bytes) -> str:
    number = int.from_bytes(data, "big")
    digits: list[str] = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_ALPHABET[digit])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return _ALPHABET[0] * zeros + "".join(reversed(digits))


def base58_decode(text: str) -> bytes:
    """Raises ValueError on a character outside the alphabet."""
    number = 0
    for character in text:
        if character not in _DIGITS:
            raise ValueError(f"not base58: {character!r}")
        number = number * 58 + _DIGITS[character]
    zeros = len(text) - len(text.lstrip(_ALPHABET[0]))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")


def peer_id_of(public_key: bytes) -> PeerId:
    """The peer id of a raw Ed25519 public key (32 bytes)."""
    if len(public_key) != 32:
        raise ValueError(f"an Ed25519 public key has 32 bytes, not {len(public_key)}")
    return PeerId(base58_encode(_ED25519_PREFIX + public_key))


def public_key_of(peer_id: PeerId) -> bytes:
    """The raw Ed25519 public key inside a peer id. Raises ValueError if there is none."""
    if not 40 <= len(peer_id) <= 60:
        raise ValueError("not an Ed25519 peer id: wrong length")
    raw = base58_decode(peer_id)
    if len(raw) != 38 or not raw.startswith(_ED25519_PREFIX):
        raise ValueError("not an Ed25519 peer id")
    return raw[len(_ED25519_PREFIX) :]


def cid_of(block: bytes) -> Cid:
    """The content id of one block of bytes."""
    return cid_from_digest(hashlib.sha256(block).digest())


def cid_from_digest(digest: bytes) -> Cid:
    return Cid("b" + base64.b32encode(_CID_PREFIX + digest).decode().lower().rstrip("="))


def digest_of_cid(cid: str) -> bytes:
    """The SHA-256 digest that a cid names. Raises ValueError if `cid` is not one of ours."""
    if len(cid) != _CID_CHARS or cid[0] != "b":
        raise ValueError("not a CIDv1 in base32")
    text = cid[1:].upper()
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError as error:
        raise ValueError("not base32") from error
    if not raw.startswith(_CID_PREFIX) or len(raw) != len(_CID_PREFIX) + 32 or cid_from_digest(raw[4:]) != cid:
        raise ValueError("not a raw SHA-256 CID")
    return raw[len(_CID_PREFIX) :]


def job_id_of(manifest: bytes) -> JobId:
    """The id of a job: the first 16 bytes of its manifest's SHA-256, in hexadecimal."""
    return JobId(hashlib.sha256(manifest).hexdigest()[:32])


def is_job_id(text: str) -> bool:
    return _JOB_ID.fullmatch(text) is not None
