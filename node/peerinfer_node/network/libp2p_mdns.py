"""Finds peers on the local network: libp2p's mDNS discovery (specs/discovery/mdns.md), announced and read here.

Part of the libp2p adapter (see `libp2p_network`). py-libp2p's own class blocks the start for 1.6 s, keeps one list of
handlers for the whole process, and believes whatever a record says. What comes in here is checked and bounded, and is
only a hint: an address says which peer to expect there, and the handshake finds out.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Callable, Sequence
from functools import partial

import trio
from zeroconf import Error as ZeroconfError
from zeroconf import ServiceBrowser, ServiceInfo, ServiceListener, Zeroconf

from peerinfer.ids import PeerId
from peerinfer.limits import ADDRESSES_PER_PEER_MAX
from peerinfer_node.network.libp2p_addresses import parse
from peerinfer_node.network.libp2p_session import shielded

SERVICE = "_p2p._udp.local."
SWARM_FIELD = b"peerinfer-swarm"
"""Says in a private swarm which one, so that the nodes of several on one network do not knock at each other's doors."""

LOOKUP_MS = 3000
RECORDS_MAX = 64
"""Addresses looked at in one announcement."""
NAMES_MAX = 4096
"""Announcements looked up; past this many, only what is gone makes room. Every one of them costs a query."""
CLOSE_TIMEOUT_S = 3.0

Found = Callable[[PeerId, tuple[str, ...]], None]


class _Listener(ServiceListener):  # type: ignore[misc]
    """Runs in zeroconf's thread."""

    def __init__(
        self, own_name: str, own_peer: PeerId, swarm: str, found: Found, token: trio.lowlevel.TrioToken
    ) -> None:
        self._own_name = own_name
        self._own_peer = own_peer
        self._swarm = swarm
        self._found = found
        self._token = token
        self._names: set[str] = set()

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        if name == self._own_name or (name not in self._names and len(self._names) >= NAMES_MAX):
            return
        self._names.add(name)
        try:
            info = zc.get_service_info(type_, name, timeout=LOOKUP_MS)
        except (ZeroconfError, OSError):
            return
        if info is None or (info.properties.get(SWARM_FIELD) or b"") != self._swarm.encode():
            return  # A node of another swarm would not let this one in.
        for peer, addresses in addresses_in(info.properties).items():
            if peer == self._own_peer:
                continue
            try:
                self._token.run_sync_soon(self._found, peer, addresses)
            except trio.RunFinishedError:
                return

    def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        self.add_service(zc, type_, name)

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        self._names.discard(name)


def addresses_in(properties: dict[bytes, bytes | None]) -> dict[PeerId, tuple[str, ...]]:
    """The well-formed addresses of a TXT record, by the peer that each names; the rest is ignored."""
    found: dict[PeerId, list[str]] = {}
    records = [value for key, value in properties.items() if key.startswith(b"dnsaddr") and value]
    for value in records[:RECORDS_MAX]:
        try:
            address = parse(value.decode("ascii"))
        except ValueError:
            continue
        if address.peer is None:
            continue
        known = found.setdefault(address.peer, [])
        if len(known) < ADDRESSES_PER_PEER_MAX and str(address) not in known:
            known.append(str(address))
    return {peer: tuple(addresses) for peer, addresses in found.items()}


async def run_mdns(peer: PeerId, addresses: Sequence[str], swarm: str, found: Found) -> None:
    """Announces `addresses` and calls `found` in trio's thread for every peer of this swarm, until cancelled.

    `swarm` is the public tag of a private swarm, "" for the open one.
    Raises OSError if this machine has no multicast over IPv4.
    """
    hosts = {parse(address).host for address in addresses}
    interfaces = sorted(host for host in hosts if ipaddress.ip_address(host).version == 4)
    if not interfaces:
        raise OSError("it needs an IPv4 address to listen on")
    port = parse(addresses[0]).port
    token = trio.lowlevel.current_trio_token()
    name = f"{secrets.token_hex(16)}.{SERVICE}"
    info = ServiceInfo(
        SERVICE,
        name,
        port=port,
        properties={f"dnsaddr{index or ''}": address for index, address in enumerate(addresses)}
        | ({SWARM_FIELD.decode(): swarm} if swarm else {}),
        server=f"{name.partition('.')[0]}.local.",
        parsed_addresses=sorted(hosts),
    )
    # zeroconf starts threads, waits for them and sleeps between its probes: all of it happens in a thread of ours.
    zeroconf = await trio.to_thread.run_sync(partial(Zeroconf, interfaces=interfaces))
    try:
        listener = _Listener(name, peer, swarm, found, token)
        await trio.to_thread.run_sync(partial(_announce, zeroconf, info, listener))
        await trio.sleep_forever()
    finally:
        with shielded(CLOSE_TIMEOUT_S):
            await trio.to_thread.run_sync(partial(_stop, zeroconf), abandon_on_cancel=True)  # type: ignore[call-arg,unused-ignore]


def _announce(zeroconf: Zeroconf, info: ServiceInfo, listener: _Listener) -> None:
    ServiceBrowser(zeroconf, SERVICE, listener)
    try:
        zeroconf.register_service(info)
    except ZeroconfError as error:
        raise OSError(str(error)) from error


def _stop(zeroconf: Zeroconf) -> None:
    zeroconf.unregister_all_services()
    zeroconf.close()
