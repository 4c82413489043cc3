"""The window itself: follows the daemon, hands what it learnt to the page that is seen, takes keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import ClassVar

from textual.app import App
from textual.binding import Binding

from peerinfer.errors import PeerinferError
from peerinfer_tui.client import Daemon
from peerinfer_tui.confirm import Confirm
from peerinfer_tui.events_page import EventsPage
from peerinfer_tui.help import HelpScreen
from peerinfer_tui.jobs_page import JobsPage
from peerinfer_tui.logbook import Logbook
from peerinfer_tui.news import CancelWanted, DaemonLost, PriorityWanted, SnapshotTaken
from peerinfer_tui.node_page import NodePage
from peerinfer_tui.overview import Overview
from peerinfer_tui.page import Page
from peerinfer_tui.page_tabs import PAGES
from peerinfer_tui.peers_page import PeersPage
from peerinfer_tui.words import short_job

REFRESH_S = 1.0
"""The page is brought up to date so often even where nothing is told: curves go on, and jobs grow older."""

AGAIN_S = 1.0
"""A daemon that went away is looked for so often."""

HOUR_S = 3600.0


class Window(App[None]):
    """The dashboard of the daemon behind one Unix socket."""

    CSS_PATH = "window.tcss"
    TITLE = "peerinfer"
    ENABLE_COMMAND_PALETTE = False
    MODES: ClassVar = {
        "overview": Overview,
        "peers": PeersPage,
        "jobs": JobsPage,
        "node": NodePage,
        "events": EventsPage,
    }
    DEFAULT_MODE = "overview"
    BINDINGS: ClassVar = [
        *(Binding(str(number), f"page('{mode}')", show=False) for number, mode in enumerate(PAGES, 1)),
        Binding("p", "pause", "pause"),
        Binding("r", "resume", "resume"),
        Binding("t", "theme", "light/dark", show=False),
        Binding("question_mark", "help", "help", key_display="?"),
        Binding("q", "quit", "quit"),
    ]

    def __init__(
        self,
        socket: str,
        *,
        refresh_s: float = REFRESH_S,
        again_s: float = AGAIN_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self._daemon = Daemon(socket, clock=clock)
        self._refresh_s = refresh_s
        self._again_s = again_s
        self._clock = clock
        self.logbook = Logbook()

    def on_mount(self) -> None:
        self.run_worker(self._watch(), name="watch")

    async def _watch(self) -> None:
        async with self._daemon:
            while True:
                try:
                    async with aclosing(self._daemon.follow(self._refresh_s)) as snapshots:
                        async for snapshot in snapshots:
                            self.post_message(SnapshotTaken(snapshot))
                except PeerinferError as error:
                    self.post_message(DaemonLost(str(error)))
                await asyncio.sleep(self._again_s)

    # --- what background work and pages tell -------------------------------------------------------------------------

    def on_snapshot_taken(self, message: SnapshotTaken) -> None:
        before = self.logbook.snapshot
        self.logbook.take(message.snapshot, self._clock())
        if before is None or before.node.state != message.snapshot.node.state:
            self.refresh_bindings()
        self.show_page()

    def on_daemon_lost(self, message: DaemonLost) -> None:
        self.logbook.lose(message.reason, self._clock())
        self.show_page()

    def on_cancel_wanted(self, message: CancelWanted) -> None:
        name = short_job(message.job)

        def answered(is_sure: bool | None) -> None:
            if is_sure:
                self._ask(lambda: self._daemon.cancel(message.job), f"job {name} is cancelled")

        self.push_screen(Confirm(f"Cancel job {name}? What is computed so far can still be fetched."), answered)

    def on_priority_wanted(self, message: PriorityWanted) -> None:
        name = short_job(message.job)
        self._ask(
            lambda: self._daemon.prioritise(message.job, message.priority),
            f"job {name} has priority {message.priority} now",
        )

    def show_page(self) -> None:
        """The page may lie under a question or the help."""
        for screen in self.screen_stack:
            if isinstance(screen, Page) and screen.is_mounted:
                screen.show(self.logbook)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Of pause and resume the key is offered that changes something."""
        picture = self.logbook.snapshot
        state = "" if picture is None else picture.node.state
        return not ((action == "pause" and state == "paused") or (action == "resume" and state == "running"))

    # --- keys --------------------------------------------------------------------------------------------------------

    async def action_page(self, mode: str) -> None:
        if mode != self.current_mode and not self.screen.is_modal:
            await self.switch_mode(mode)
            self.show_page()

    def action_pause(self) -> None:
        self._ask(self._daemon.pause, "paused: this node lends nothing until you press r")

    def action_pause_hour(self) -> None:
        until_s = self._clock() + HOUR_S
        self._ask(lambda: self._daemon.pause(until_s), "paused for an hour; r lends again")

    def action_resume(self) -> None:
        self._ask(self._daemon.resume, "lending again")

    def action_finish(self) -> None:
        self._ask(self._daemon.finish, "finishing what runs; no more work is taken until you press r")

    def action_theme(self) -> None:
        self.theme = "textual-light" if self.current_theme.dark else "textual-dark"
        self.show_page()

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
