"""The keys, explained."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.events import Key
from textual.screen import ModalScreen
from textual.widgets import Static

TEXT = """\
 p        pause: stop lending this node's devices at once
 r        resume: lend them again
 tab      go to the next table; arrows scroll in it
 ?        this page; any key closes it
 q        close the window (the daemon goes on)

 Marks    ● well   ▲ look at it   ✕ broken or gone   ✓ done   ○ at rest
 items/s  the daemon's figure, or the mean since the job began
 left     at that speed, for the items still open

 The window shows; `peerinfer --help` lists what acts."""


class HelpScreen(ModalScreen[None]):
    def compose(self) -> ComposeResult:
        page = Static(TEXT, markup=False, id="help")
        page.border_title = "keys"
        yield page

    def on_key(self, event: Key) -> None:
        event.stop()
        event.prevent_default()
        self.dismiss()
