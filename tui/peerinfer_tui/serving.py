"""The window in a browser: textual-serve runs one window for each page that is opened, on this machine alone.

Whoever opens the page may press every key, so it is served on the loopback address only. A page of another site in
the same browser could still reach that address: requests and WebSockets that come from elsewhere are refused.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress

from aiohttp import web
from textual_serve import server as textual_server

from peerinfer.errors import UsageError

HOST = "127.0.0.1"
WINDOWS_MAX = 16
"""Open at once. Each is a process of its own."""

_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self' ws://127.0.0.1:* ws://localhost:*; frame-ancestors 'none'; base-uri 'none'"
)
"""Nothing is fetched from elsewhere, and nobody else frames the page."""

_FOREIGN = re.compile(r"<link[^>]*https://[^>]*>")
"""textual-serve's page asks a font service of the internet for the font that its own package ships."""

_OWN = (
    "<style>@font-face { font-family: 'Roboto Mono'; font-weight: 100 700; "
    "src: url('/static/fonts/RobotoMono-VariableFont_wght.ttf'); }</style>"
    "<script>new MutationObserver((_, observer) => {"
    " const keys = document.querySelector('.xterm-helper-textarea');"
    " if (keys && document.body.classList.contains('-first-byte')) { observer.disconnect(); keys.focus(); }"
    "}).observe(document, {attributes: true, childList: true, subtree: true});</script>"
)
"""That font, and keys that work before the first click."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WindowServer(textual_server.Server):
    """textual-serve's server, silent, with a guard before it and a page that fetches nothing from elsewhere."""

    def __init__(self, socket: str, port: int) -> None:
        command = [sys.executable, "-m", "peerinfer_tui", "--socket", socket]
        super().__init__(shlex.join(command), host=HOST, port=port, title="peerinfer")
        self._open = 0

    async def make_app(self) -> web.Application:
        app = await self._make_app()
        app.middlewares.append(self._guard)
        return app

    async def on_startup(self, app: web.Application) -> None:
        """Says nothing: whoever started this has said where it is."""

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        own = {f"{name}:{self.port}" for name in (HOST, "localhost")}
        if (
            request.host not in own
            or request.headers.get("Origin", f"http://{request.host}") != f"http://{request.host}"
        ):
            raise web.HTTPForbidden(text="open this page by its own address\n")
        if request.path != "/ws":
            response = await handler(request)
            if request.path == "/" and isinstance(response, web.Response) and response.text is not None:
                response.text = _FOREIGN.sub(lambda _: _OWN, response.text)
            response.headers["Content-Security-Policy"] = _POLICY
            return response
        if self._open >= WINDOWS_MAX:
            raise web.HTTPServiceUnavailable(text=f"{WINDOWS_MAX} windows are open already; close one\n")
        self._open += 1
        try:
            return await handler(request)
        finally:
            self._open -= 1


async def serve(socket: str, port: int, ready: Callable[[str], None]) -> None:
    """Serves until SIGTERM, or until cancelled. `ready` is told the address once somebody may open it.

    Raises `UsageError` if the port cannot be had.
    """
    server = WindowServer(socket, port)
    runner = web.AppRunner(await server.make_app(), shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, HOST, port).start()
        except OSError as error:
            raise UsageError(f"cannot serve on {HOST}:{port}: {error.strerror}; choose another port") from None
        stopped = asyncio.Event()
        with suppress(NotImplementedError):  # on Windows, where the process simply ends
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        ready(f"http://{HOST}:{port}/")
        await stopped.wait()
    finally:
        await runner.cleanup()
