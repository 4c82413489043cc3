"""The keys, explained."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.events import Click, Key
from textual.screen import ModalScreen
from textual.widgets import Static

TEXT = """\
 1 2 3 4 5   overview, peers, jobs, my node, events (or click the tabs)
 up down     move; page up, page down, home and end leap; tab goes on
 /           filter the table; enter keeps it, escape clears it
 s   S       sort by the next column; the other way (or click a title)
 enter a     jobs: attach to the one under the cursor; escape goes back
 c           jobs: cancel the one under the cursor, after a question
 +   -       jobs: raise or lower the priority of the one under the cursor
 p   r       stop lending this node's devices at once; lend them again
 h   f       my node: pause for an hour; finish what runs, take no more
 t           light or dark
 ?           this page; any key closes it
 q           close the window (the daemon goes on)

 Marks    ● well   ▲ look at it   ✕ broken or gone   ✓ done   ○ at rest
 items/s  the daemon's figure, or the mean since the job began
 left     at that speed, for the items still open
 rep.     how often a peer's checked results were right
 GFLOP/s  as a peer measured its own devices"""


class HelpScreen(ModalScreen[None]):
    def compose(self) -> ComposeResult:
        page = Static(TEXT, markup=False, id="help")
        page.border_title = "keys"
        yield page

    def on_key(self, event: Key) -> None:
        event.stop()
        event.prevent_default()
        self.dismiss()

    def on_click(self, event: Click) -> None:
        self.dismiss()
