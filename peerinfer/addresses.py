"""Addresses of peers in text: which ones make sense, and how near they are. Pure; the adapter parses them for itself.

/ip4/192.0.2.7/tcp/4001/p2p/<peer>                                     straight to the peer
/ip4/192.0.2.9/tcp/4001/p2p/<relay>/p2p-circuit/p2p/<peer>             through a relay
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from peerinfer.ids import PeerId, public_key_of

CIRCUIT = "/p2p-circuit/p2p/"
"""Between the relay's address and the peer that it leads to."""

_FAMILIES_OF_NAMES = {"dns": {"ip4", "ip6"}, "dns4": {"ip4"}, "dns6": {"ip6"}}
ADDRESS_CHARS_MAX = 256
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")


def is_ip(kind: str, text: str) -> bool:
    try:
        return {"ip4": 4, "ip6": 6}.get(kind) == ipaddress.ip_address(text).version
    except ValueError:
        return False


def is_port(kind: str, text: str, low: int) -> bool:
    return kind == "tcp" and re.fullmatch(r"[0-9]{1,5}", text) is not None and low <= int(text) <= 65535


def is_dialable(address: str) -> bool:
    """Whether this is the address of a peer, straight or through a relay."""
    if len(address) > ADDRESS_CHARS_MAX:
        return False
    first, circuit, last = address.partition(CIRCUIT)
    if circuit and not _is_peer(last):
        return False
    parts = first.split("/")
    is_place = len(parts) == 7 and not parts[0] and is_port(parts[3], parts[4], 1) and parts[5] == "p2p"
    return is_place and (is_ip(parts[1], parts[2]) or _is_name(parts[1], parts[2])) and _is_peer(parts[6])


def peer_of(address: str) -> PeerId:
    """The peer that a dialable address leads to."""
    return PeerId(address.rpartition("/")[2])


def relay_of(address: str) -> tuple[str, PeerId] | None:
    """The address of the relay and the peer behind it, if the address goes through one."""
    first, circuit, last = address.partition(CIRCUIT)
    return (first, PeerId(last)) if circuit else None


def is_public(address: str) -> bool:
    """Whether it might be reached from anywhere: a name, or an IP address that is not private to some network."""
    parts = address.split("/")
    if len(parts) < 3 or parts[1] not in ("ip4", "ip6"):
        return True
    try:
        return ipaddress.ip_address(parts[2]).is_global
    except ValueError:
        return False


def families(addresses: Iterable[str]) -> frozenset[str]:
    """The kinds of networks, "ip4" and "ip6", in which these lead straight to a peer; a name may lead into either.

    Whatever the text: what makes no sense leads nowhere.
    """
    found: set[str] = set()
    for address in addresses:
        _, kind, host = (*address.split("/", 3), "", "", "")[:3]
        if CIRCUIT in address:
            continue
        if is_ip(kind, host) and not ipaddress.ip_address(host).is_loopback:
            found.add(kind)
        elif _is_name(kind, host):
            found |= _FAMILIES_OF_NAMES[kind]
    return frozenset(found)


def _is_name(kind: str, text: str) -> bool:
    return kind in ("dns", "dns4", "dns6") and _HOST.fullmatch(text) is not None


def _is_peer(text: str) -> bool:
    try:
        public_key_of(PeerId(text))
    except ValueError:
        return False
    return True
