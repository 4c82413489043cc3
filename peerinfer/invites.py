"""Private swarms: a name and a key, and the one string that lets a machine in.

    peerinfer1:<base58 of an `InviteContents` message and the first 4 bytes of its SHA-256>

Base58 has no character that ends a double click, and none that looks like another. The checksum finds what was cut or
mistyped. Whoever holds the key is in: an invite's expiry keeps an old string from working by accident, it takes nothing
back from somebody who wants to keep the key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass

from peerinfer.addresses import is_dialable, peer_of
from peerinfer.codec import decode_as, encode
from peerinfer.errors import DecodeError, UsageError
from peerinfer.ids import base58_decode, base58_encode, peer_id_of, public_key_of
from peerinfer.limits import INVITE_CHARS_MAX, INVITE_PEERS_MAX
from peerinfer.member_messages import InviteContents, InvitedPeer
from peerinfer.units import format_duration

PREFIX = "peerinfer1:"
KEY_BYTES = 32
SWARM_NAME_CHARS_MAX = 32
_CHECKSUM_BYTES = 4
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{SWARM_NAME_CHARS_MAX - 1}}}")


@dataclass(frozen=True, slots=True)
class PrivateSwarm:
    """What its members share."""

    name: str
    key: bytes

    def __post_init__(self) -> None:
        check_name(self.name)
        if len(self.key) != KEY_BYTES:
            raise UsageError(f"the key of a swarm has {KEY_BYTES} bytes, not {len(self.key)}")

    @property
    def tag(self) -> str:
        """What members show in public to find each other. It tells others that two nodes belong together, no more."""
        return hmac.digest(self.key, b"peerinfer discovery", "sha256")[:8].hex()

    def __repr__(self) -> str:
        return f"PrivateSwarm({self.name!r})"  # a key must not end up in a log


@dataclass(frozen=True, slots=True)
class Invite:
    swarm: PrivateSwarm
    bootstrap: tuple[str, ...] = ()
    """Dialable addresses of members."""
    expires_at_s: int = 0
    """Wall clock, seconds since 1970; 0 never."""

    def check_in_time(self, wall_s: float) -> None:
        """Raises `UsageError` once the invite has expired."""
        if self.expires_at_s and wall_s >= self.expires_at_s:
            ago = format_duration(max(wall_s - self.expires_at_s, 1.0))
            raise UsageError(
                f"this invite to swarm {self.swarm.name} expired {ago} ago; ask a member for a new one (peerinfer swarm "
                "invite), or set this machine's clock if it is wrong"
            )


def check_name(name: str) -> None:
    """Raises `UsageError`."""
    if _NAME.fullmatch(name) is None:
        raise UsageError(
            f"{name[:64]!r} is no name for a swarm; use letters, digits, dots, dashes and underscores, "
            f"at most {SWARM_NAME_CHARS_MAX}"
        )


def format_invite(invite: Invite) -> str:
    """Raises `UsageError` for an address that nobody could dial."""
    places: dict[str, list[str]] = {}
    for address in dict.fromkeys(invite.bootstrap):
        if not is_dialable(address):
            raise UsageError(f"{address[:128]!r} is not the address of a peer, and cannot stand in an invite")
        peer = peer_of(address)
        if peer in places or len(places) < INVITE_PEERS_MAX:
            places.setdefault(peer, []).append(address.removesuffix(f"/p2p/{peer}"))
    peers = tuple(InvitedPeer(public_key_of(peer_of(f"/{peer}")), tuple(found)) for peer, found in places.items())
    payload = encode(InviteContents(invite.swarm.name, invite.swarm.key, invite.expires_at_s, peers))
    return PREFIX + base58_encode(payload + _checksum(payload))


def parse_invite(text: str) -> Invite:
    """What an invite says. Line breaks and spaces inside are ignored. Raises `UsageError` for anything else."""
    packed = "".join(text.split())
    if not packed.startswith(PREFIX):
        if re.match(r"peerinfer\d+:", packed):
            raise UsageError("this invite was made by a newer version of peerinfer; upgrade this one")
        raise UsageError(f"not an invite: an invite begins with {PREFIX}, as peerinfer swarm invite prints it")
    if len(packed) > INVITE_CHARS_MAX:
        raise UsageError(f"not an invite: it is longer than {INVITE_CHARS_MAX} characters")
    try:
        data = base58_decode(packed.removeprefix(PREFIX))
        payload, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
        if checksum != _checksum(payload):
            raise ValueError
    except ValueError:
        raise UsageError("the invite is damaged: a character is missing or wrong; copy all of it again") from None
    try:
        contents = decode_as(InviteContents, payload)
    except DecodeError:
        raise UsageError(
            "this invite says something that this version does not understand; upgrade peerinfer"
        ) from None
    bootstrap = _addresses(contents.peers)
    if not all(map(is_dialable, bootstrap)):
        raise UsageError("this invite names an address that nobody can dial; ask for a new one")
    return Invite(PrivateSwarm(contents.name, contents.key), bootstrap, contents.expires_at_s)


def _addresses(peers: Sequence[InvitedPeer]) -> tuple[str, ...]:
    return tuple(f"{address}/p2p/{peer_id_of(peer.key)}" for peer in peers for address in peer.addresses)


def _checksum(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest()[:_CHECKSUM_BYTES]
