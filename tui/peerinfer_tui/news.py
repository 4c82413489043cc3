"""What background work and pages tell the window. Only handlers of these messages touch widgets."""

from __future__ import annotations

from textual.message import Message

from peerinfer_tui.pictures import Snapshot


class SnapshotTaken(Message):
    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self.snapshot = snapshot


class DaemonLost(Message):
    """Nobody answers, or the answer is an error; `reason` is one line that says what to do."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason


class PriorityWanted(Message):
    def __init__(self, job: str, priority: str) -> None:
        super().__init__()
        self.job = job
        self.priority = priority


class CancelWanted(Message):
    def __init__(self, job: str) -> None:
        super().__init__()
        self.job = job
