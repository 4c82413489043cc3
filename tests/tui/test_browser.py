"""The window and the page of routes in a real browser, headless. Skipped where there is none."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from swarm import Swarm
from test_serving import free_port

from peerinfer_tui.serving import serve

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-port=0",
)  # fmt: skip
SEEN_S = 60.0

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")]


class Tab:
    """One page, by the browser's own protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self.requests: list[str] = []
        self.errors: list[str] = []

    async def call(self, method: str, **params: Any) -> Any:
        self._number += 1
        number = self._number
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json(timeout=SEEN_S)
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("method") in ("Runtime.exceptionThrown", "Network.loadingFailed"):
                self.errors.append(str(message["params"])[:300])
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    async def open(self, url: str) -> None:
        for domain in ("Network", "Runtime", "Page"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=url)

    async def value(self, expression: str) -> Any:
        return (await self.call("Runtime.evaluate", expression=expression))["result"].get("value")

    async def wait(self, expression: str) -> None:
        async with asyncio.timeout(SEEN_S):
            while not await self.value(expression):  # noqa: ASYNC110  (it has no event for this)
                await asyncio.sleep(0.1)

    async def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, text=key if kind == "keyDown" else "", key=key)

    async def picture(self) -> bytes:
        return base64.b64decode((await self.call("Page.captureScreenshot"))["data"])

    async def wait_other_picture(self, than: bytes) -> bytes:
        """What is seen when it has changed, and then stayed."""
        async with asyncio.timeout(SEEN_S):
            last = than
            while True:
                await asyncio.sleep(0.5)
                now = await self.picture()
                if now == last and now != than:
                    return now
                last = now


@contextlib.asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Tab]:
    profile = folder / "profile"
    process = subprocess.Popen(  # noqa: ASYNC220  (asyncio's own outlives the loop that it belongs to)
        [CHROMIUM, *QUIET, f"--user-data-dir={profile}", "--window-size=1300,900", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        told = profile / "DevToolsActivePort"
        async with asyncio.timeout(SEEN_S):
            while not told.exists() or len(told.read_text().splitlines()) < 2:  # noqa: ASYNC110  (nor for this)
                await asyncio.sleep(0.1)
        port = told.read_text().splitlines()[0]
        async with aiohttp.ClientSession() as http:
            async with http.get(f"http://127.0.0.1:{port}/json/list") as answer:
                pages = [each for each in await answer.json(content_type=None) if each["type"] == "page"]
            async with http.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Tab(socket)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_the_window_is_seen_and_takes_keys_in_a_browser(swarm: Swarm, tmp_path: Path) -> None:
    daemon = swarm.join("ada")

    async def story() -> None:
        address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        served = asyncio.create_task(serve(daemon.ready["api"], free_port(), address.set_result))
        async with browser(tmp_path) as tab:
            await tab.open(await address)
            await tab.wait("document.body && document.body.classList.contains('-first-byte')")
            overview = await tab.wait_other_picture(b"")
            await tab.press("2")
            peers = await tab.wait_other_picture(overview)
            await tab.press("?")
            keys = await tab.wait_other_picture(peers)
            for name, seen in (("overview", overview), ("peers", peers), ("help", keys)):
                (tmp_path / f"{name}.png").write_bytes(seen)
            assert len({hashlib.sha256(seen).digest() for seen in (overview, peers, keys)}) == 3
            elsewhere = [
                url for url in tab.requests if not url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "data:"))
            ]
            assert elsewhere == [], "the page asks the world for nothing"
            assert tab.errors == []
        served.cancel()
        await asyncio.gather(served, return_exceptions=True)

    asyncio.run(story())


def test_the_page_of_routes_is_whole_without_the_world(swarm: Swarm, tmp_path: Path) -> None:
    daemon = swarm.join("ada", "--api", "127.0.0.1:0")

    async def story() -> None:
        async with browser(tmp_path) as tab:
            await tab.open(f"{daemon.ready['http']}/docs")
            await tab.wait("document.querySelectorAll('tr').length > 20")
            text = await tab.value("document.body.innerText")
            for route in ("/api/v1/jobs/{job}/priority", "/v2/models/{model}/infer", "/v1/embeddings", "/metrics"):
                assert route in text
            await tab.call("Runtime.evaluate", expression="document.querySelector('a').click()")
            await tab.wait("document.body.innerText.includes('\"openapi\"')")
            assert {url.split("/")[2] for url in tab.requests} == {daemon.ready["http"].split("//")[1]}

    asyncio.run(story())
