"""The window itself: asks once a second, hands pictures down, takes keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import ClassVar

from textual.app import App
from textual.binding import Binding

from peerinfer.errors import PeerinferError
from peerinfer_tui.client import Daemon
from peerinfer_tui.help import HelpScreen
from peerinfer_tui.news import DaemonLost, SnapshotTaken
from peerinfer_tui.overview import Overview

POLL_S = 1.0


class Window(App[None]):
    """The dashboard of the daemon behind one Unix socket."""

    CSS_PATH = "window.tcss"
    TITLE = "peerinfer"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar = [
        Binding("p", "pause", "pause"),
        Binding("r", "resume", "resume"),
        Binding("question_mark", "help", "help", key_display="?"),
        Binding("q", "quit", "quit"),
    ]

    def __init__(self, socket: str, *, poll_s: float = POLL_S, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._daemon = Daemon(socket)
        self._poll_s = poll_s
        self._clock = clock
        self._overview = Overview()

    def on_mount(self) -> None:
        self.push_screen(self._overview)
        self.run_worker(self._watch(), name="watch")

    async def _watch(self) -> None:
        async with self._daemon:
            while True:
                try:
                    snapshot = await self._daemon.snapshot()
                except PeerinferError as error:
                    self.post_message(DaemonLost(str(error)))
                else:
                    self.post_message(SnapshotTaken(snapshot))
                await asyncio.sleep(self._poll_s)

    def on_snapshot_taken(self, message: SnapshotTaken) -> None:
        now_s = self._clock()
        self._overview.show(message.snapshot, now_s, time.strftime("%H:%M:%S", time.localtime(now_s)))

    def on_daemon_lost(self, message: DaemonLost) -> None:
        self._overview.show_lost(message.reason)

    def action_pause(self) -> None:
        self._ask(self._daemon.pause, "paused: this node lends nothing until you press r")

    def action_resume(self) -> None:
        self._ask(self._daemon.resume, "lending again")

    def action_help(self) -> None:
        self.push_screen(HelpScreen())

    def _ask(self, request: Callable[[], Awaitable[None]], done: str) -> None:
        async def ask() -> None:
            try:
                await request()
            except PeerinferError as error:
                self.notify(str(error), severity="error", markup=False)
            else:
                self.notify(done, markup=False)

        self.run_worker(ask(), group="requests", exclusive=True)
