"""The volunteer's promises: its window is its own, its owner's word counts at once, old terms are over."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from wire_strategies import SAME_EVERY_TIME

from peerinfer.fairness import Priority
from peerinfer.ids import JobId, PeerId
from peerinfer.limits import COORDINATORS_MAX, FRAMES_IN_FLIGHT_PER_DEVICE, TERM_ROUND_MAX
from peerinfer.machine import NEVER, Tick
from peerinfer.messages import Term
from peerinfer.volunteering import (
    TERMS_REMEMBERED_MAX,
    CoordinatorJoined,
    CoordinatorLeft,
    DevicesAllowed,
    DropFrame,
    FinishAsked,
    Finished,
    FrameCancelled,
    FrameComputed,
    FrameFinished,
    FrameOffered,
    PauseAsked,
    PauseLifted,
    RefuseFrame,
    ResumeAsked,
    SetWindow,
    StartFrame,
    StateChanged,
    StopFrame,
    Volunteering,
)

ADA, BEN, CAL = PeerId("ada"), PeerId("ben"), PeerId("cal")
JOB = JobId("1" * 32)
TERM = Term(1, ADA)


def offer(peer, number, *, job=JOB, term=TERM, is_certified=True):
    return FrameOffered((peer, number), job, term, is_certified)


class Bench:
    def __init__(self, devices=1):
        self.machine = Volunteering(devices)
        self.now_s = 0.0

    def tell(self, *events):
        effects = []
        for event in events:
            effects += self.machine.handle(event, self.now_s)
            self.machine.check()
            assert self.machine.deadline_s > self.now_s
        return effects


def kinds(effects, kind):
    return [effect for effect in effects if type(effect) is kind]


def test_a_coordinator_is_told_its_window_when_it_joins():
    assert Bench(3).tell(CoordinatorJoined(ADA)) == [SetWindow(ADA, 3 * FRAMES_IN_FLIGHT_PER_DEVICE, "")]


def test_a_frame_starts_when_a_device_is_free():
    bench = Bench()
    bench.tell(CoordinatorJoined(ADA))
    assert bench.tell(offer(ADA, 1), offer(ADA, 2)) == [StartFrame((ADA, 1))]
    assert bench.tell(FrameComputed((ADA, 1))) == [StartFrame((ADA, 2))]


def shares(bench, submitters, seconds, *, frames=400):
    """Seconds of the device that each coordinator's frames get, while all keep their windows full."""
    numbers = dict.fromkeys(submitters, 0)
    got = dict.fromkeys(submitters, 0.0)
    started = []

    def keep_full(peer):
        while bench.machine._held_for(peer) < FRAMES_IN_FLIGHT_PER_DEVICE:
            numbers[peer] += 1
            offered = offer(peer, numbers[peer], job=JobId(peer * 8), term=Term(1, peer))
            started.extend(kinds(bench.tell(replace(offered, submitter=submitters[peer])), StartFrame))

    for peer in submitters:
        bench.tell(CoordinatorJoined(peer))
    for _ in range(frames):
        for peer in submitters:
            keep_full(peer)
        key = started.pop(0).key
        bench.now_s += seconds[key[0]]
        got[key[0]] += seconds[key[0]]
        started.extend(kinds(bench.tell(FrameComputed(key), FrameFinished(key)), StartFrame))
    return got


def test_coordinators_share_the_device_by_time_and_not_by_frames():
    got = shares(Bench(), {ADA: "", BEN: ""}, {ADA: 0.02, BEN: 0.4}, frames=2000)
    assert got[ADA] == pytest.approx(got[BEN], rel=0.2)


def test_a_submitter_with_two_coordinators_gets_one_share():
    got = shares(Bench(), {ADA: "eve", BEN: "eve", CAL: "zoe"}, {ADA: 0.2, BEN: 0.2, CAL: 0.2})
    assert got[ADA] + got[BEN] == pytest.approx(got[CAL], rel=0.2)


def test_urgent_work_goes_first_within_the_share_of_its_submitter():
    bench = Bench()
    bench.tell(CoordinatorJoined(ADA), CoordinatorJoined(BEN), offer(ADA, 1))
    bench.tell(replace(offer(ADA, 2), priority=Priority.LOW), replace(offer(BEN, 1), priority=Priority.URGENT))
    assert bench.tell(FrameComputed((ADA, 1))) == [StartFrame((BEN, 1))]


def test_among_equals_the_earliest_deadline_goes_first():
    bench = Bench()
    bench.tell(CoordinatorJoined(ADA), CoordinatorJoined(BEN), CoordinatorJoined(CAL), offer(ADA, 1))
    bench.tell(replace(offer(BEN, 1), deadline_s=900.0), replace(offer(CAL, 1), deadline_s=60.0))
    assert bench.tell(FrameComputed((ADA, 1))) == [StartFrame((CAL, 1))]


def test_an_owner_who_wants_it_is_served_before_all_others():
    bench = Bench()
    bench.machine = Volunteering(1, first=BEN)
    got = shares(bench, {ADA: "", BEN: ""}, {ADA: 0.2, BEN: 0.2}, frames=50)
    assert got[ADA] <= 0.2 + 1e-9


def test_an_answer_on_its_way_holds_no_device_but_its_place_in_the_window():
    bench = Bench()
    bench.tell(CoordinatorJoined(ADA), offer(ADA, 1), offer(ADA, 2), FrameComputed((ADA, 1)))
    assert bench.tell(offer(ADA, 3)) == [RefuseFrame((ADA, 3), "more frames than the window allows", final=False)]
    assert bench.tell(FrameFinished((ADA, 1)), offer(ADA, 3)) == []
    assert bench.tell(FrameComputed((ADA, 2))) == [StartFrame((ADA, 3))]


def test_the_window_is_kept_even_if_the_coordinator_ignores_it():
    bench = Bench()
    bench.tell(CoordinatorJoined(ADA))
    effects = bench.tell(*(offer(ADA, number) for number in range(10)))
    assert [effect.key[1] for effect in kinds(effects, RefuseFrame)] == list(range(2, 10))
    assert not any(effect.final for effect in kinds(effects, RefuseFrame))


def test_coordinators_take_turns():
    bench = Bench()
    bench.tell(CoordinatorJoined(ADA), CoordinatorJoined(BEN))
    started = kinds(bench.tell(offer(ADA, 1), offer(ADA, 2), offer(BEN, 1), offer(BEN, 2)), StartFrame)
    for _ in range(3):
        bench.now_s += 0.1
        started += kinds(bench.tell(FrameComputed(started[-1].key), FrameFinished(started[-1].key)), StartFrame)
    assert [effect.key[0] for effect in started] in ([ADA, BEN, ADA, BEN], [ADA, BEN, BEN, ADA])


def test_a_coordinator_too_many_is_told_to_try_later():
    bench = Bench()
    for number in range(COORDINATORS_MAX):
        bench.tell(CoordinatorJoined(PeerId(str(number))))
    (window,) = bench.tell(CoordinatorJoined(ADA))
    assert (window.frames, window.reason) == (0, f"serves {COORDINATORS_MAX} coordinators already; try later")
    (refused,) = bench.tell(offer(ADA, 1))
    assert not refused.final


def test_an_older_term_is_refused_for_good():
    bench = Bench(4)
    bench.tell(CoordinatorJoined(ADA), CoordinatorJoined(BEN), offer(ADA, 1, term=Term(5, ADA)))
    (refused,) = kinds(bench.tell(offer(BEN, 1, term=Term(4, BEN))), RefuseFrame)
    assert refused.final
    assert refused.reason == "term 4 is over: the job is coordinated in term 5"
    assert kinds(bench.tell(offer(BEN, 2, term=Term(6, BEN))), StartFrame) == [StartFrame((BEN, 2))]
    assert kinds(bench.tell(offer(ADA, 2, term=Term(5, ADA))), RefuseFrame)[0].final


def test_terms_of_one_round_are_ordered_by_candidate():
    bench = Bench(4)
    bench.tell(CoordinatorJoined(ADA), CoordinatorJoined(BEN), offer(BEN, 1, term=Term(1, BEN)))
    assert kinds(bench.tell(offer(ADA, 1, term=Term(1, ADA))), RefuseFrame)[0].final


def test_a_term_without_a_certificate_shuts_nobody_out():
    bench = Bench(4)
    bench.tell(CoordinatorJoined(ADA), CoordinatorJoined(BEN))
    huge = Term(TERM_ROUND_MAX, BEN)
    assert bench.tell(offer(BEN, 1, term=huge, is_certified=False)) == [StartFrame((BEN, 1))]
    assert bench.tell(offer(ADA, 1, term=Term(1, ADA))) == [StartFrame((ADA, 1))]
    (refused,) = kinds(bench.tell(offer(BEN, 2, term=huge, is_certified=False)), RefuseFrame)
    assert refused.final
    assert refused.reason.endswith("has no certificate, and the job is coordinated in term 1")
    assert bench.tell(offer(ADA, 2, term=Term(1, ADA))) == [StartFrame((ADA, 2))]


def test_whoever_holds_a_certified_term_needs_no_certificate_for_a_higher_one():
    bench = Bench(4)
    bench.tell(CoordinatorJoined(ADA), CoordinatorJoined(BEN), offer(ADA, 1, term=Term(3, ADA)))
    assert bench.tell(offer(ADA, 2, term=Term(5, ADA), is_certified=False)) == [StartFrame((ADA, 2))]
    # It is still anybody's word: another's certificate for a term between them counts.
    assert bench.tell(offer(BEN, 1, term=Term(4, BEN))) == [StartFrame((BEN, 1))]


def test_terms_of_one_job_say_nothing_of_another():
    bench = Bench(4)
    bench.tell(CoordinatorJoined(ADA), offer(ADA, 1, term=Term(5, ADA)))
    assert bench.tell(offer(ADA, 2, job=JobId("2" * 32), term=Term(1, ADA))) == [StartFrame((ADA, 2))]


def test_a_frame_that_was_refused_does_not_raise_the_term():
    bench = Bench()
    bench.tell(CoordinatorJoined(ADA), CoordinatorJoined(BEN), PauseAsked("a meeting"))
    bench.tell(offer(BEN, 1, term=Term(99, BEN)), ResumeAsked())
    assert bench.tell(offer(ADA, 1)) == [StartFrame((ADA, 1))]


def test_only_so_many_terms_are_remembered():
    bench = Bench()
    bench.tell(CoordinatorJoined(ADA))
    for number in range(TERMS_REMEMBERED_MAX + 10):
        bench.tell(offer(ADA, number, job=JobId(f"{number:032x}")), FrameFinished((ADA, number)))
    assert len(bench.machine._terms) == TERMS_REMEMBERED_MAX


def test_a_paused_volunteer_hands_running_frames_back():
    bench = Bench()
    bench.tell(CoordinatorJoined(ADA), offer(ADA, 1), offer(ADA, 2))
    effects = bench.tell(PauseAsked("the owner plays a game"))
    assert kinds(effects, StopFrame) == [StopFrame((ADA, 1))]
    assert {(effect.key[1], effect.reason) for effect in kinds(effects, RefuseFrame)} == {
        (1, "the owner plays a game"),
        (2, "the owner plays a game"),
    }
    assert kinds(effects, SetWindow) == [SetWindow(ADA, 0, "the owner plays a game")]
    assert kinds(effects, StateChanged) == [StateChanged("paused", "the owner plays a game")]


def test_an_answer_on_its_way_is_not_taken_back_by_a_pause():
    bench = Bench()
    bench.tell(CoordinatorJoined(ADA), offer(ADA, 1), FrameComputed((ADA, 1)))
    effects = bench.tell(PauseAsked("now"))
    assert kinds(effects, StopFrame) == kinds(effects, RefuseFrame) == []


def test_a_paused_volunteer_refuses_what_comes_and_tells_newcomers():
    bench = Bench()
    bench.tell(PauseAsked("now"))
    assert bench.tell(CoordinatorJoined(ADA)) == [SetWindow(ADA, 0, "now")]
    assert bench.tell(offer(ADA, 1)) == [RefuseFrame((ADA, 1), "now", final=False)]


@pytest.mark.parametrize("event", [ResumeAsked(), PauseLifted()])
def test_a_pause_ends_when_it_is_said_so(event):
    bench = Bench()
    bench.tell(CoordinatorJoined(ADA), PauseAsked("now"))
    assert SetWindow(ADA, 2, "") in bench.tell(event)
    assert bench.machine.state == "running"


def test_a_pause_ends_at_its_time():
    bench = Bench()
    bench.tell(CoordinatorJoined(ADA), PauseAsked("lunch", until_s=60.0))
    assert bench.machine.deadline_s == 60.0
    bench.now_s = 59.9
    assert bench.tell(Tick()) == []
    bench.now_s = 60.0
    assert SetWindow(ADA, 2, "") in bench.tell(Tick())
    assert bench.machine.deadline_s == NEVER


def test_a_volunteer_that_finishes_still_finishes_when_its_pause_ends():
    bench = Bench()
    bench.tell(CoordinatorJoined(ADA), PauseAsked("lunch", until_s=60.0), FinishAsked())
    bench.now_s = 60.0
    effects = bench.tell(Tick())
    assert all(window.frames == 0 for window in kinds(effects, SetWindow))
    assert bench.machine.state == "finishing"


def test_a_volunteer_that_finishes_runs_what_it_has_and_says_when_it_is_done():
    bench = Bench()
    bench.tell(CoordinatorJoined(ADA), offer(ADA, 1), offer(ADA, 2))
    assert kinds(bench.tell(FinishAsked()), SetWindow)[0].frames == 0
    assert bench.tell(offer(ADA, 3))[0].key == (ADA, 3)
    assert bench.tell(FrameComputed((ADA, 1)), FrameFinished((ADA, 1))) == [StartFrame((ADA, 2))]
    assert bench.tell(FrameComputed((ADA, 2))) == [], "its answer is still on its way"
    assert bench.tell(FrameFinished((ADA, 2))) == [Finished()]


def test_one_that_has_nothing_is_finished_at_once_and_again_when_asked_again():
    bench = Bench()
    assert Finished() in bench.tell(FinishAsked())
    assert Finished() not in bench.tell(Tick())
    assert Finished() in bench.tell(FinishAsked())


def test_one_that_finished_takes_work_again_when_it_resumes():
    bench = Bench()
    bench.tell(CoordinatorJoined(ADA), FinishAsked())
    assert SetWindow(ADA, 2, "") in bench.tell(ResumeAsked())


def test_a_cancelled_frame_is_stopped_or_forgotten():
    bench = Bench()
    bench.tell(CoordinatorJoined(ADA), offer(ADA, 1), offer(ADA, 2))
    assert bench.tell(FrameCancelled((ADA, 2))) == [DropFrame((ADA, 2))]
    assert bench.tell(FrameCancelled((ADA, 1))) == [StopFrame((ADA, 1))]
    assert bench.tell(FrameCancelled((ADA, 9)), FrameCancelled((BEN, 1))) == []


def test_a_coordinator_that_left_leaves_nothing_behind():
    bench = Bench()
    bench.tell(CoordinatorJoined(ADA), offer(ADA, 1), offer(ADA, 2))
    assert bench.tell(CoordinatorLeft(ADA)) == [DropFrame((ADA, 2)), StopFrame((ADA, 1))]
    bench.tell(FrameComputed((ADA, 1)), FrameFinished((ADA, 1)))
    picture = bench.machine.snapshot()
    assert (picture.coordinators, picture.waiting, picture.running) == (0, 0, 0)


def test_devices_that_rest_make_the_window_smaller():
    bench = Bench(2)
    bench.tell(CoordinatorJoined(ADA), *(offer(ADA, number) for number in range(4)))
    effects = bench.tell(FrameFinished((ADA, 0)), DevicesAllowed(1))
    assert kinds(effects, SetWindow) == [SetWindow(ADA, 2, "")]
    assert [effect.key for effect in kinds(effects, RefuseFrame)] == [(ADA, 3)]


def test_what_waits_for_devices_that_all_rest_is_handed_back():
    bench = Bench()
    bench.tell(CoordinatorJoined(ADA), offer(ADA, 1), offer(ADA, 2))
    effects = bench.tell(DevicesAllowed(0))
    assert [effect.key for effect in kinds(effects, RefuseFrame)] == [(ADA, 2)]
    assert kinds(effects, SetWindow)[0].frames == 0
    effects = bench.tell(FrameFinished((ADA, 1)), DevicesAllowed(1))
    assert kinds(effects, SetWindow)[0].frames == 2


def test_one_that_lends_nothing_says_so_and_takes_nothing():
    bench = Bench(0)
    assert bench.tell(CoordinatorJoined(ADA)) == [SetWindow(ADA, 0, "lends no device")]
    assert bench.tell(offer(ADA, 1)) == [RefuseFrame((ADA, 1), "lends no device", final=False)]
    assert bench.tell(PauseAsked("x")) == []
    assert bench.machine.state == "idle"


class Histories(RuleBasedStateMachine):
    """Any history: each frame must come to exactly one end, and the windows that were told must be kept by this side."""

    @initialize(devices=st.integers(0, 3))
    def begin(self, devices):
        self.machine = Volunteering(devices)
        self.devices = self.allowed = devices
        self.now_s = 0.0
        self.waiting, self.running, self.answering = set(), set(), set()
        self.stopping = set()
        self.windows = {}
        self.next_number = 0

    def tell(self, event):
        for effect in self.machine.handle(event, self.now_s):
            match effect:
                case StartFrame(key):
                    assert key in self.waiting
                    self.waiting.discard(key)
                    self.running.add(key)
                case StopFrame(key):
                    assert key in self.running
                    self.stopping.add(key)
                case RefuseFrame(key, _, _):
                    assert key in self.waiting | self.running
                    self.waiting.discard(key)
                case DropFrame(key):
                    assert key in self.waiting
                    self.waiting.discard(key)
                case SetWindow(peer, frames, reason):
                    assert 0 <= frames <= self.devices * FRAMES_IN_FLIGHT_PER_DEVICE
                    assert frames or reason or not self.allowed
                    self.windows[peer] = frames
                case Finished():
                    assert not self.waiting | self.running | self.answering
        self.machine.check()
        assert self.machine.deadline_s > self.now_s
        assert len(self.running) <= self.devices
        picture = self.machine.snapshot()
        assert (picture.waiting, picture.running) == (len(self.waiting), len(self.running))
        if self.waiting:
            assert len(self.running) >= self.allowed, "a frame waits for a device that has nothing to do"

    @rule(peer=st.sampled_from([ADA, BEN, CAL]), joins=st.booleans())
    def come_or_go(self, peer, joins):
        if joins != (peer in self.windows):
            if not joins:
                del self.windows[peer]
            self.tell(CoordinatorJoined(peer) if joins else CoordinatorLeft(peer))

    @rule(
        peer=st.sampled_from([ADA, BEN, CAL]),
        round=st.integers(1, 3),
        job=st.sampled_from("12"),
        is_certified=st.booleans(),
    )
    def offer(self, peer, round, job, is_certified):  # noqa: A002 - as the term calls it
        self.next_number += 1
        key = (peer, self.next_number)
        self.waiting.add(key)
        self.tell(FrameOffered(key, JobId(job * 32), Term(round, peer), is_certified))

    @rule(data=st.data())
    def compute(self, data):
        if self.running:
            key = data.draw(st.sampled_from(sorted(self.running)))
            self.running.discard(key)
            self.answering.add(key)
            self.tell(FrameComputed(key))

    @rule(data=st.data())
    def finish_frame(self, data):
        """Its answer has been handed over, or it was stopped before there was one."""
        ended = self.answering | (self.running & self.stopping)
        if ended:
            key = data.draw(st.sampled_from(sorted(ended)))
            self.answering.discard(key)
            self.running.discard(key)
            self.tell(FrameFinished(key))

    @rule(data=st.data(), known=st.booleans())
    def cancel(self, data, known):
        keys = sorted(self.waiting | self.running | self.answering)
        self.tell(FrameCancelled(data.draw(st.sampled_from(keys)) if known and keys else (ADA, 10**6)))

    @rule(event=st.sampled_from([ResumeAsked(), FinishAsked(), PauseLifted(), PauseAsked("now"), Tick()]))
    def say(self, event):
        self.tell(event)

    @rule(seconds=st.sampled_from([1.0, 10.0]))
    def pause_for(self, seconds):
        self.tell(PauseAsked("a while", self.now_s + seconds))

    @rule(count=st.integers(0, 3))
    def allow(self, count):
        """The role has stopped what ran on devices that rest now."""
        self.allowed = min(count, self.devices)
        for key in sorted(self.running)[self.allowed :]:
            self.running.discard(key)
            self.tell(FrameFinished(key))
        self.tell(DevicesAllowed(count))

    @rule(seconds=st.sampled_from([0.5, 5.0, 50.0]))
    def wait(self, seconds):
        self.now_s += seconds
        self.tell(Tick())


TestAnyHistory = Histories.TestCase
TestAnyHistory.settings = settings(SAME_EVERY_TIME, max_examples=80, stateful_step_count=50)
