"""Under which addresses this machine is reached."""

from __future__ import annotations

import ipaddress
import socket

import psutil


def concrete_hosts(host: str) -> list[str]:
    """The addresses under which others reach a socket that listens on `host`.

    For the wildcard these are the machine's own, loopback only if there is no other; link-local IPv6 needs a zone that
    means nothing elsewhere, and is left out.
    """
    ip = ipaddress.ip_address(host)
    if not ip.is_unspecified:
        return [host]
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    reachable: list[str] = []
    loopback: list[str] = []
    states = psutil.net_if_stats()
    for name, addresses in psutil.net_if_addrs().items():
        if name in states and not states[name].isup:
            continue
        for entry in addresses:
            if entry.family != family or "%" in entry.address:
                continue
            found = ipaddress.ip_address(entry.address)
            if found.is_loopback:
                loopback.append(str(found))
            elif not found.is_link_local:
                reachable.append(str(found))
    return reachable or loopback
