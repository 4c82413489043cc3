"""The window in a browser: a page on the loopback address, and one window behind each WebSocket."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from fake_daemon import FakeDaemon

from peerinfer_tui import serving
from peerinfer_tui.__main__ import main
from peerinfer_tui.serving import HOST, serve

DEADLINE_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def served(folder: Path, story: Callable[[aiohttp.ClientSession, str], Awaitable[None]]) -> None:
    """Tells `story` with a client and the page's address."""

    async def tell() -> None:
        async with asyncio.timeout(DEADLINE_S), FakeDaemon(folder / "node.sock") as daemon:
            ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            serving_task = asyncio.create_task(serve(str(daemon.path), free_port(), ready.set_result))
            try:
                async with aiohttp.ClientSession() as client:
                    await story(client, await ready)
            finally:
                serving_task.cancel()
                await asyncio.gather(serving_task, return_exceptions=True)

    asyncio.run(tell())


def test_the_page_and_all_that_it_needs_come_from_this_machine(tmp_path: Path) -> None:
    async def story(client: aiohttp.ClientSession, address: str) -> None:
        async with client.get(address) as answer:
            page = await answer.text()
            assert answer.status == 200
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        wanted = re.findall(r"(?:src|href)=\"([^\"]+)\"|url\(['\"]?([^'\")]+)", page)
        links = [one or other for one, other in wanted]
        assert {"textual.js", "xterm.css"} <= {link.rsplit("/", 1)[-1] for link in links}
        for link in links:
            local = link.removeprefix(address.rstrip("/"))
            assert local.startswith("/static/"), link
            async with client.get(f"{address.rstrip('/')}{local}") as answer:
                assert answer.status == 200, link

    served(tmp_path, story)


async def wait_for_words(window: aiohttp.ClientWebSocketResponse, *wanted: str) -> None:
    seen = ""
    async for message in window:
        if message.type == aiohttp.WSMsgType.BINARY:
            seen += message.data.decode(errors="replace")
        if all(word in seen for word in wanted):
            return
    pytest.fail(f"the window has closed after {seen[-500:]!r}")


@pytest.mark.slow
def test_the_command_serves_a_window_that_takes_keys_and_ends_with_it(tmp_path: Path) -> None:
    async def tell() -> None:
        async with asyncio.timeout(DEADLINE_S), FakeDaemon(tmp_path / "node.sock") as daemon:
            command = [sys.executable, "-m", "peerinfer_tui", "--socket", str(daemon.path), f"--serve={free_port()}"]
            server = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            assert server.stdout is not None
            said = (await server.stdout.readline()).decode()
            address = re.findall(r"http://127\.0\.0\.1:\d+/", said)[0]
            async with (
                aiohttp.ClientSession() as client,
                client.ws_connect(f"{address}ws?width=80&height=24") as window,
            ):
                await wait_for_words(window, "alder", "Overview")
                await window.send_json(["stdin", "4"])
                await wait_for_words(window, "utilisation")
                server.terminate()
                assert await server.wait() == 0

    asyncio.run(tell())


def test_other_pages_of_the_browser_cannot_reach_it(tmp_path: Path) -> None:
    async def story(client: aiohttp.ClientSession, address: str) -> None:
        for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
            for path in ("", "ws", "static/js/textual.js"):
                async with client.get(f"{address}{path}", headers=headers) as answer:
                    assert answer.status == 403
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await client.ws_connect(f"{address}ws", origin="http://evil.example")

    served(tmp_path, story)


def test_so_many_windows_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "WINDOWS_MAX", 0)

    async def story(client: aiohttp.ClientSession, address: str) -> None:
        with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
            await client.ws_connect(f"{address}ws")

    served(tmp_path, story)


def test_it_is_served_on_the_loopback_address_alone(tmp_path: Path) -> None:
    async def story(client: aiohttp.ClientSession, address: str) -> None:
        assert address.startswith("http://127.0.0.1:")

    served(tmp_path, story)
    assert HOST == "127.0.0.1"


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "", "１"])
def test_a_port_that_is_none_is_refused_in_one_line(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", "/nowhere", f"--serve={port}"]) == 2
    assert capsys.readouterr().err == "peerinfer: error: --serve: give a port from 1 to 65535\n"


def test_a_port_that_is_taken_is_refused_in_one_line(tmp_path: Path) -> None:
    async def tell() -> None:
        with socket.socket() as taken:
            taken.bind((HOST, 0))
            taken.listen()
            await serve(str(tmp_path / "none.sock"), taken.getsockname()[1], lambda _: None)

    with pytest.raises(Exception, match="choose another port"):
        asyncio.run(tell())


def test_the_window_itself_does_without_the_browsers_library() -> None:
    import subprocess

    code = "import sys, peerinfer_tui.__main__, peerinfer_tui.app; sys.exit('textual_serve' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
