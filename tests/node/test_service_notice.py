"""What systemd is told."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import trio

from peerinfer_node.service_notice import FEEDS_PER_TIMEOUT, ServiceNotice


@pytest.fixture
def manager(tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


def heard(manager: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(manager.recv(4096).decode())
        except BlockingIOError:
            return found


def test_states_are_told_in_lines(manager: socket.socket) -> None:
    ServiceNotice({"NOTIFY_SOCKET": manager.getsockname()}).tell(READY="1", STATUS="lends\nCPU  and GPU")
    assert heard(manager) == ["READY=1\nSTATUS=lends CPU and GPU"]


def test_an_abstract_socket_is_reached_too() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        name = f"peerinfer-test-{os.getpid()}"
        listening.bind(f"\0{name}")
        listening.setblocking(False)
        ServiceNotice({"NOTIFY_SOCKET": f"@{name}"}).tell(STOPPING="1")
        assert heard(listening) == ["STOPPING=1"]


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/no/such/socket"}])
def test_nobody_who_listens_is_no_error(environ: dict[str, str]) -> None:
    ServiceNotice(environ).tell(READY="1")


async def test_the_watchdog_is_fed_in_time(manager: socket.socket, autojump_clock: trio.testing.MockClock) -> None:
    notice = ServiceNotice({"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "30000000"})
    with trio.move_on_after(30.0 - 1e-3):
        await notice.feed_watchdog()
    assert heard(manager) == ["WATCHDOG=1"] * FEEDS_PER_TIMEOUT


@pytest.mark.parametrize("text", ["", "0", "soon", "-5", "１"])
async def test_without_a_watchdog_nothing_is_fed(manager: socket.socket, text: str) -> None:
    await ServiceNotice({"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": text}).feed_watchdog()
    assert heard(manager) == []
