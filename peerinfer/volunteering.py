"""The volunteer: which frames of which coordinators its devices run, and when they run none.

Coordinators may each have a *window* of frames here. Frames wait (`waiting_frames` says which comes next) and are started
as many at once as there are devices; while one computes, the next has already arrived and the answer to the one before
is still on its way. A paused volunteer closes all windows, stops what runs and hands it back unrun; one that finishes
closes the windows and runs what it has.

Assignments of an older term than the newest that is certified for a job are refused: their coordinator has been
replaced. A term without its certificate is anybody's word. It says nothing about other coordinators' terms, so that
nobody can shut out a job's coordinator by naming a higher one; and it is refused where a certified one is known.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from peerinfer.committees import number_of
from peerinfer.fairness import Priority
from peerinfer.ids import JobId, PeerId
from peerinfer.limits import COORDINATORS_MAX, FRAMES_IN_FLIGHT_PER_DEVICE, WINDOW_FRAMES_MAX
from peerinfer.machine import NEVER, Tick
from peerinfer.messages import Term
from peerinfer.waiting_frames import FrameKey, WaitingFrames

TERMS_REMEMBERED_MAX = 10_000


@dataclass(frozen=True, slots=True)
class CoordinatorJoined:
    peer: PeerId


@dataclass(frozen=True, slots=True)
class CoordinatorLeft:
    peer: PeerId


@dataclass(frozen=True, slots=True)
class FrameOffered:
    key: FrameKey
    job: JobId
    term: Term
    is_certified: bool = False
    """A quorum of the job's committee has granted this term, as was checked."""
    submitter: str = ""
    """Whose job it is, as was checked; else whoever coordinates counts as its submitter."""
    priority: Priority = Priority.NORMAL
    deadline_s: float | None = None
    """On the machine's clock."""
    outlives: bool = False
    """Somebody else may take the job over: what was begun is worth finishing when this coordinator is gone."""


@dataclass(frozen=True, slots=True)
class FrameComputed:
    """Its device is free again. Its answer is yet to be handed over, which a slow coordinator may make a long wait."""

    key: FrameKey


@dataclass(frozen=True, slots=True)
class FrameFinished:
    """Its answer has been handed to the stream, or there is nobody to answer to."""

    key: FrameKey


@dataclass(frozen=True, slots=True)
class FrameCancelled:
    key: FrameKey
    goes_on: bool = False
    """Its job goes on under another coordinator: what runs is finished, and not answered."""


@dataclass(frozen=True, slots=True)
class PauseAsked:
    reason: str
    until_s: float = NEVER
    """On the machine's clock."""


@dataclass(frozen=True, slots=True)
class ResumeAsked:
    pass


@dataclass(frozen=True, slots=True)
class PauseLifted:
    """The pause is over; a volunteer that finishes goes on finishing."""


@dataclass(frozen=True, slots=True)
class FinishAsked:
    pass


@dataclass(frozen=True, slots=True)
class DevicesAllowed:
    """So many of the devices may be used now; the others rest. What ran on them has been handed back already."""

    count: int


Event = (
    CoordinatorJoined
    | CoordinatorLeft
    | FrameOffered
    | FrameComputed
    | FrameFinished
    | FrameCancelled
    | PauseAsked
    | ResumeAsked
    | PauseLifted
    | FinishAsked
    | DevicesAllowed
)


@dataclass(frozen=True, slots=True)
class SetWindow:
    peer: PeerId
    frames: int
    reason: str


@dataclass(frozen=True, slots=True)
class StartFrame:
    key: FrameKey


@dataclass(frozen=True, slots=True)
class StopFrame:
    """Stop the inference; no answer is wanted."""

    key: FrameKey


@dataclass(frozen=True, slots=True)
class RefuseFrame:
    key: FrameKey
    reason: str
    final: bool


@dataclass(frozen=True, slots=True)
class DropFrame:
    """Forget a frame that was never started; no answer is wanted."""

    key: FrameKey


@dataclass(frozen=True, slots=True)
class StateChanged:
    """What the advert and the status say has changed."""

    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """Asked to finish, and nothing runs or waits any more."""


Effect = SetWindow | StartFrame | StopFrame | RefuseFrame | DropFrame | StateChanged | Finished


@dataclass(frozen=True, slots=True)
class VolunteerPicture:
    state: str
    reason: str
    until_s: float
    coordinators: int
    waiting: int
    running: int


class Volunteering:
    """The machine. `devices` is how many frames run at once; 0 lends nothing. `first` is a submitter that goes first."""

    def __init__(self, devices: int, *, first: str = "") -> None:
        self._devices = devices
        self._allowed = devices
        self._coordinators: dict[PeerId, None] = {}
        self._waiting = WaitingFrames(first)
        self._running: dict[FrameKey, None] = {}
        self._outliving: dict[FrameKey, None] = {}
        """Frames here that go on without their coordinator."""
        self._left_alone: dict[FrameKey, None] = {}
        """Those that run, and whose coordinator is gone."""
        self._answering: dict[FrameKey, None] = {}
        self._terms: OrderedDict[JobId, Term] = OrderedDict()
        """The newest that is certified."""
        self._paused: PauseAsked | None = None
        self._finishing = False
        self._finished = False
        self._effects: list[Effect] = []

    @property
    def deadline_s(self) -> float:
        return NEVER if self._paused is None else self._paused.until_s

    @property
    def state(self) -> str:
        if not self._devices:
            return "idle"
        if self._finishing:
            return "finishing"
        return "paused" if self._paused else "running"

    @property
    def reason(self) -> str:
        if not self._devices:
            return "lends no device"
        if self._finishing:
            return "finishes what it has and takes no more"
        return self._paused.reason if self._paused else ""

    def handle(self, event: Event | Tick, now_s: float) -> list[Effect]:
        match event:
            case CoordinatorJoined(peer):
                self._join(peer)
            case CoordinatorLeft(peer):
                self._leave(peer)
            case FrameOffered():
                self._offer(event, now_s)
            case FrameComputed(key):
                if key in self._running:
                    del self._running[key]
                    self._answering[key] = None
                    self._waiting.ended(key, now_s)
            case FrameFinished(key):
                if key in self._running:
                    del self._running[key]
                    self._waiting.ended(key, now_s)
                for among in (self._answering, self._outliving, self._left_alone):
                    among.pop(key, None)
            case FrameCancelled(key, goes_on):
                self._cancel(key, goes_on=goes_on)
            case PauseAsked():
                self._pause(event)
            case ResumeAsked():
                self._resume()
            case PauseLifted():
                if self._paused is not None:
                    self._paused = None
                    self._announce()
            case FinishAsked():
                self._finishing = True
                self._finished = False  # whoever asks again waits for an answer of its own
                self._announce()
            case DevicesAllowed(count):
                self._allow(count)
            case Tick():
                if self._paused is not None and now_s >= self._paused.until_s:
                    self._paused = None  # and if it was asked to finish meanwhile, it still does
                    self._announce()
        self._start(now_s)
        if self._finishing and not self._finished and not self._held():
            self._finished = True
            self._effects.append(Finished())
        effects, self._effects = self._effects, []
        return effects

    def _window(self) -> int:
        return min(self._allowed * FRAMES_IN_FLIGHT_PER_DEVICE, WINDOW_FRAMES_MAX) if self.state == "running" else 0

    def _join(self, peer: PeerId) -> None:
        if len(self._coordinators) >= COORDINATORS_MAX and peer not in self._coordinators:
            reason = f"serves {COORDINATORS_MAX} coordinators already; try later"
            self._effects.append(SetWindow(peer, 0, reason))
            return
        self._coordinators[peer] = None
        self._effects.append(SetWindow(peer, self._window(), self.reason))

    def _leave(self, peer: PeerId) -> None:
        self._coordinators.pop(peer, None)
        for key in self._waiting.held(peer):
            self._remove(key)
            self._effects.append(DropFrame(key))
        for key in [key for key in self._running if key[0] == peer]:
            if key in self._outliving:
                self._left_alone[key] = None
            else:
                self._effects.append(StopFrame(key))

    def _offer(self, offered: FrameOffered, now_s: float) -> None:
        key, job, term = offered.key, offered.job, offered.term
        newest = self._terms.get(job)
        if key[0] not in self._coordinators:
            reason = f"serves {COORDINATORS_MAX} coordinators already; try later"
            self._effects.append(RefuseFrame(key, reason, final=False))
        elif newest is not None and term.order < newest.order:
            reason = f"term {number_of(term)} is over: the job is coordinated in term {number_of(newest)}"
            self._effects.append(RefuseFrame(key, reason, final=True))
        elif newest is not None and not offered.is_certified and term.candidate != newest.candidate:
            reason = (
                f"term {number_of(term)} has no certificate, and the job is coordinated in term {number_of(newest)}"
            )
            self._effects.append(RefuseFrame(key, reason, final=True))
        elif self.state != "running":
            self._effects.append(RefuseFrame(key, self.reason, final=False))
        elif self._held_for(key[0]) >= self._window():
            self._effects.append(RefuseFrame(key, "more frames than the window allows", final=False))
        else:
            if offered.is_certified:
                self._terms[job] = term
                self._terms.move_to_end(job)
                if len(self._terms) > TERMS_REMEMBERED_MAX:
                    self._terms.popitem(last=False)
            if offered.outlives:
                self._outliving[key] = None
            submitter = offered.submitter or key[0]
            self._waiting.add(key, job, submitter, now_s, priority=offered.priority, deadline_s=offered.deadline_s)

    def _remove(self, key: FrameKey) -> bool:
        """It does not wait any more; False if it did not."""
        if not self._waiting.remove(key):
            return False
        self._outliving.pop(key, None)
        return True

    def _cancel(self, key: FrameKey, *, goes_on: bool) -> None:
        if self._remove(key):
            self._effects.append(DropFrame(key))
        elif key in self._running and goes_on and key in self._outliving:
            self._left_alone[key] = None
        elif key in self._running:
            self._effects.append(StopFrame(key))

    def _pause(self, pause: PauseAsked) -> None:
        if not self._devices:
            return
        self._paused = pause
        for key in self._waiting.held():
            self._remove(key)
            self._effects.append(RefuseFrame(key, pause.reason, final=False))
        for key in self._running:
            self._effects += [StopFrame(key), RefuseFrame(key, pause.reason, final=False)]
        self._announce()

    def _allow(self, count: int) -> None:
        if count == self._allowed:
            return
        self._allowed = min(count, self._devices)
        for peer in self._coordinators:
            for key in reversed(self._waiting.held(peer)):
                if self._held_for(peer) > self._window():
                    self._remove(key)
                    self._effects.append(RefuseFrame(key, "its device has to rest", final=False))
        self._announce()

    def _resume(self) -> None:
        if self._paused is None and not self._finishing:
            return
        self._paused = None
        self._finishing = self._finished = False
        self._announce()

    def _announce(self) -> None:
        for peer in self._coordinators:
            self._effects.append(SetWindow(peer, self._window(), self.reason))
        self._effects.append(StateChanged(self.state, self.reason))

    def _start(self, now_s: float) -> None:
        while len(self._running) < self._allowed and self._waiting:
            key = self._waiting.start_next(now_s)
            if key is None:
                return
            self._running[key] = None
            self._effects.append(StartFrame(key))

    def _held(self) -> int:
        return len(self._waiting) + len(self._running) + len(self._answering)

    def _held_for(self, peer: PeerId) -> int:
        return self._waiting.of(peer) + sum(
            1
            for frames in (self._running, self._answering)
            for key in frames
            if key[0] == peer and key not in self._left_alone
        )

    def snapshot(self) -> VolunteerPicture:
        return VolunteerPicture(
            self.state, self.reason, self.deadline_s, len(self._coordinators), len(self._waiting), len(self._running)
        )

    def check(self) -> None:
        self._waiting.check()
        assert len(self._coordinators) <= COORDINATORS_MAX, f"{len(self._coordinators)} coordinators"
        assert len(self._running) <= self._devices, f"{len(self._running)} frames run on {self._devices} devices"
        assert not self._running.keys() & self._answering.keys(), "a frame runs and is answered"
        here = [*self._waiting.held(), *self._running, *self._answering]
        assert self._outliving.keys() <= set(here), "a frame is remembered that is not here any more"
        assert self._left_alone.keys() <= self._outliving.keys(), "a frame goes on that was to be stopped"
        for peer in self._coordinators:
            held = self._held_for(peer)
            limit = self._devices * FRAMES_IN_FLIGHT_PER_DEVICE
            assert held <= limit, f"{peer} has {held} frames here, the window is {limit}"
        if self._paused:
            assert not self._waiting, "frames wait at a paused volunteer"
