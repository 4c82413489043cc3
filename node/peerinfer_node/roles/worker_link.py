"""A coordinator's stream to one worker, and what is known of it while it lasts."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from peerinfer.assignment import SendFrame
from peerinfer.errors import ProtocolError
from peerinfer.ids import JobId, PeerId
from peerinfer.known_answers import OFFERS_MAX
from peerinfer.messages import Frame, JobDone
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.roles.work_stream import Conversation

OFFERS_PER_STREAM_MAX = 64 * OFFERS_MAX
"""An honest worker offers what it keeps once for each job that comes to this node, and when it comes back."""

WINDOWS_AT_ONCE_MAX = 100
WINDOWS_PER_S_MAX = 5.0
"""A window changes when an owner pauses or resumes. Six bytes that make the machine look at all jobs and workers again
are worth sending a million times to somebody who wants to hold us up."""


@dataclass(slots=True)
class WorkerLink:
    stream: MessageStream
    conversation: Conversation
    outbox: trio.MemorySendChannel[SendFrame | JobDone]
    """One after the other: no frame of a job may follow its end."""
    scope: trio.CancelScope
    revision: int
    """Of the protocol, as the worker speaks it."""
    briefed: set[JobId] = field(default_factory=set)
    ordered: set[int] = field(default_factory=set)
    """Frames in the outbox that have not been cancelled since."""
    unsent: int = 0
    """Messages in the outbox, the one that is being sent included."""
    sent: dict[int, Frame] = field(default_factory=dict)
    digests: dict[int, bytes] = field(default_factory=dict)
    """Of the inputs of those whose receipts must name them."""
    joined_s: float = field(default_factory=trio.current_time)
    windows: int = 0
    offers: int = 0
    end: str = "this node stops"

    @property
    def peer(self) -> PeerId:
        return self.stream.peer

    def queue(self, order: SendFrame | JobDone) -> None:
        self.unsent += 1
        self.outbox.send_nowait(order)

    def break_off(self, reason: str) -> None:
        """Ends the stream without another word."""
        self.end = reason
        self.scope.cancel()

    def note_sent(self, frame: Frame, inputs_digest: bytes | None) -> None:
        self.ordered.discard(frame.frame)
        self.sent[frame.frame] = frame
        if inputs_digest is not None:
            self.digests[frame.frame] = inputs_digest
        self._settle()

    def forget(self, number: int) -> bool:
        """A frame that is over without an answer; False if it was never sent, or was over before."""
        self.digests.pop(number, None)
        found = self.sent.pop(number, None) is not None
        self._settle()
        return found

    def answered(self, number: int) -> tuple[Frame | None, bytes | None]:
        """The frame, and the digest of its inputs where the receipt must name it; no frame if none is waited for."""
        found = self.sent.pop(number, None), self.digests.pop(number, None)
        self._settle()
        return found

    def _settle(self) -> None:
        self.conversation.set_busy(bool(self.sent))

    # --- what an honest worker says seldom -----------------------------------------------------------------------------

    def count_window(self) -> None:
        """Raises `ProtocolError` when there are too many."""
        self.windows += 1
        if self.windows > WINDOWS_AT_ONCE_MAX + WINDOWS_PER_S_MAX * (trio.current_time() - self.joined_s):
            raise ProtocolError(f"{self.peer} changes its window all the time")

    def count_offer(self) -> None:
        """Raises `ProtocolError` when there are too many."""
        self.offers += 1
        if self.offers > OFFERS_PER_STREAM_MAX:
            raise ProtocolError(f"{self.peer} offers results all the time")
