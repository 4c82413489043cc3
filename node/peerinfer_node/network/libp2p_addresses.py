"""Multiaddrs in text: which ones we listen on, dial and announce.

Part of the libp2p adapter (see `libp2p_network`). Only TCP over IPv4, IPv6 or a DNS name; anything else is not ours.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from peerinfer.errors import DialFailed, UsageError
from peerinfer.ids import PeerId, public_key_of

ADDRESS_CHARS_MAX = 512
_ADDRESS = re.compile(
    r"/(?P<kind>ip4|ip6|dns|dns4|dns6)/(?P<host>[^/]{1,253})/tcp/(?P<port>\d{1,5})(/p2p/(?P<peer>\w+))?"
)
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_.-]{1,253}")


@dataclass(frozen=True, slots=True)
class Address:
    kind: str
    host: str
    port: int
    peer: PeerId | None

    def __str__(self) -> str:
        suffix = f"/p2p/{self.peer}" if self.peer else ""
        return f"/{self.kind}/{self.host}/tcp/{self.port}{suffix}"


def parse(text: str) -> Address:
    """Raises ValueError, in words that follow "ADDRESS: "."""
    match = _ADDRESS.fullmatch(text) if len(text) <= ADDRESS_CHARS_MAX else None
    if match is None:
        raise ValueError("not of the form /ip4/HOST/tcp/PORT[/p2p/PEER] (ip6, dns, dns4 and dns6 too)")
    kind, host, port, peer = match["kind"], match["host"], int(match["port"]), match["peer"]
    if port > 65535:
        raise ValueError(f"there is no port {port}")
    if kind in ("ip4", "ip6"):
        ip = ipaddress.IPv4Address(host) if kind == "ip4" else ipaddress.IPv6Address(host)
        host = str(ip)
    elif not _HOST_NAME.fullmatch(host):
        raise ValueError("not a host name")
    if peer is not None:
        public_key_of(PeerId(peer))
    return Address(kind, host, port, None if peer is None else PeerId(peer))


def parse_listen(text: str) -> Address:
    """Raises `UsageError`."""
    try:
        address = parse(text)
    except ValueError as error:
        raise UsageError(f"cannot listen on {text}: {error}") from error
    if address.kind not in ("ip4", "ip6"):
        raise UsageError(f"cannot listen on {text}: give an IP address instead of a name")
    return address


def parse_dialable(text: str) -> tuple[Address, PeerId]:
    """Raises `DialFailed`. The text may come from a stranger."""
    try:
        address = parse(text)
    except ValueError as error:
        raise DialFailed(f"cannot dial {text[:ADDRESS_CHARS_MAX]}: {error}") from error
    if address.peer is None:
        raise DialFailed(f"cannot dial {text}: it does not say which peer to expect (…/p2p/PEER)")
    if address.kind in ("ip4", "ip6"):
        ip = ipaddress.ip_address(address.host)
        if ip.is_unspecified or ip.is_multicast:
            raise DialFailed(f"cannot dial {text}: nobody in particular has this address")
    if address.port == 0:
        raise DialFailed(f"cannot dial {text}: port 0 is no port")
    return address, address.peer


def subnet_of(host: str) -> str:
    """The network that a public address belongs to (/24 of IPv4, /48 of IPv6); "" for an address of a private one.

    Whoever can have one address of it can have many; on a private network that is nobody's attack.
    """
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return ""
    if not ip.is_global:
        return ""
    return str(ipaddress.ip_network(f"{host}/{24 if ip.version == 4 else 48}", strict=False))
