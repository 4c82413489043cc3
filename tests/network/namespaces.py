"""Machines on networks of their own, as Linux network namespaces, made and removed by the test that needs them.

    internet        a bridge, 203.0.113.0/24
    machines        each with one address on it
    homes           machines whose node listens on an address that nobody else can reach, as behind a router that lets
                    nothing in: others see a connection from the public address, and dialling that one back is refused

    behind a NAT    machines on a network of their own, 192.168.N.0/24, whose router translates what goes out and lets in
                    only what answers it (nftables)
    far machines    machines whose packets are delayed, and some of them lost (`far_lines`)

A home needs no packet filter, so it can be made wherever namespaces can.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from far_lines import FarLines

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)


class Internet:
    def __init__(self) -> None:
        self._prefix = f"pi{os.getpid() % 100000}"
        self._names: list[str] = []
        self.hub = self._add("hub")
        ip("-n", self.hub, "link", "add", "br0", "type", "bridge")
        ip("-n", self.hub, "link", "set", "br0", "up")

    def _add(self, name: str) -> str:
        namespace = f"{self._prefix}{name}"
        ip("netns", "add", namespace)
        self._names.append(namespace)
        ip("-n", namespace, "link", "set", "lo", "up")
        return namespace

    def machine(self, name: str, number: int, *, home: bool = False, families: str = "4") -> str:
        """A machine with address 203.0.113.`number`; a home also has 192.168.`number`.2. Returns where to listen.

        With `families` "6" its address is 2001:db8::`number` instead, and with "46" it has both, with a comma between.
        """
        namespace = self._add(name)
        outer, inner = f"{self._prefix}o{number}", f"{self._prefix}i{number}"
        ip("link", "add", outer, "type", "veth", "peer", "name", inner)
        ip("link", "set", outer, "netns", self.hub)
        ip("link", "set", inner, "netns", namespace)
        ip("-n", self.hub, "link", "set", outer, "master", "br0", "up")
        ip("-n", namespace, "link", "set", inner, "name", "eth0")
        listen = []
        if "4" in families:
            ip("-n", namespace, "addr", "add", f"203.0.113.{number}/24", "dev", "eth0")
            listen.append(f"/ip4/203.0.113.{number}/tcp/0")
        if "6" in families:
            ip("-n", namespace, "addr", "add", f"2001:db8::{number}/64", "dev", "eth0", "nodad")
            listen.append(f"/ip6/2001:db8::{number}/tcp/0")
        ip("-n", namespace, "link", "set", "eth0", "up")
        if home:
            ip("-n", namespace, "addr", "add", f"192.168.{number}.2/32", "dev", "lo")
        return f"/ip4/192.168.{number}.2/tcp/0" if home else ",".join(listen)

    def behind_nat(self, name: str, number: int, *, symmetric: bool = False) -> str:
        """A machine 192.168.`number`.2 behind a router that is 203.0.113.`number` outside. Returns where to listen.

        The router keeps the ports of what goes out where it can; a symmetric one gives every connection another. Skips
        the test where nftables is missing or not permitted.
        """
        router = f"{name}r"
        self.machine(router, number)
        at_router, at_home = f"{self._prefix}{router}", self._add(name)
        outer, inner = f"{self._prefix}r{number}", f"{self._prefix}h{number}"
        ip("link", "add", outer, "type", "veth", "peer", "name", inner)
        ip("link", "set", outer, "netns", at_router)
        ip("link", "set", inner, "netns", at_home)
        for namespace, device, last in ((at_router, outer, 1), (at_home, inner, 2)):
            ip("-n", namespace, "addr", "add", f"192.168.{number}.{last}/24", "dev", device)
            ip("-n", namespace, "link", "set", device, "up")
        ip("-n", at_home, "route", "add", "default", "via", f"192.168.{number}.1")
        self.filter(
            router,
            "add table ip home",
            "add chain ip home out { type nat hook postrouting priority 100; }",
            f"add rule ip home out oifname eth0 masquerade{' fully-random' if symmetric else ''}",
            "add chain ip home through { type filter hook forward priority 0; policy drop; }",
            "add rule ip home through ct state established,related accept",
            "add rule ip home through iifname != eth0 accept",
            "add chain ip home in { type filter hook input priority 0; policy drop; }",
            "add rule ip home in ct state established,related accept",
        )
        with self.inside(router), open("/proc/sys/net/ipv4/ip_forward", "w") as forwarding:
            forwarding.write("1")
        return f"/ip4/192.168.{number}.2/tcp/0"

    def filter(self, name: str, *rules: str) -> None:
        """Rules of nftables on a machine. Skips the test, with the reason, where there are none."""
        if shutil.which("nft") is None:
            pytest.skip("there is no `nft` (nftables) here")
        command = ["ip", "netns", "exec", f"{self._prefix}{name}", "nft", "; ".join(rules)]
        done = subprocess.run(command, capture_output=True, timeout=20, check=False)
        if done.returncode:
            pytest.skip(f"nftables is not permitted here: {done.stderr.decode(errors='replace').strip()[:200]}")

    def far_machine(self, name: str, number: int, lines: FarLines) -> str:
        """A machine 203.0.113.`number` that is reached by these lines alone. Returns where to listen.

        Skips the test, with the reason, where TUN devices are not permitted.
        """
        namespace, device = self._add(name), f"{self._prefix}t{number}"
        try:
            lines.open(device, bytes((203, 0, 113, number)))
        except OSError as error:
            pytest.skip(f"TUN devices are not permitted here: {error}")
        ip("link", "set", device, "netns", namespace)
        ip("-n", namespace, "addr", "add", f"203.0.113.{number}/24", "dev", device)
        ip("-n", namespace, "link", "set", device, "up")
        return f"/ip4/203.0.113.{number}/tcp/0"

    def carried(self, name: str) -> int:
        """Bytes that a machine has sent to itself so far, with all that TCP and IP add."""
        command = ["ip", "-n", f"{self._prefix}{name}", "-s", "-j", "link", "show", "lo"]
        told = subprocess.run(command, check=True, capture_output=True, timeout=20).stdout
        return int(json.loads(told)[0]["stats64"]["tx"]["bytes"])

    def cut(self, number: int, *, mend: bool = False) -> None:
        """Pulls the cable of a machine, or puts it back."""
        ip("-n", self.hub, "link", "set", f"{self._prefix}o{number}", "up" if mend else "down")

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """What this thread starts runs on that machine."""
        with open("/proc/thread-self/ns/net") as here, open(f"/run/netns/{self._prefix}{name}") as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(here.fileno())

    def close(self) -> None:
        for name in self._names:
            with contextlib.suppress(subprocess.SubprocessError):
                ip("netns", "del", name)


def _enter(descriptor: int) -> None:
    if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def open_internet() -> Internet:
    """Skips the test, with the reason, where namespaces are not permitted."""
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` (iproute2) here")
    try:
        return Internet()
    except (subprocess.SubprocessError, OSError) as error:
        said = getattr(error, "stderr", b"") or b""
        pytest.skip(f"network namespaces are not permitted here: {said.decode(errors='replace').strip() or error}")
