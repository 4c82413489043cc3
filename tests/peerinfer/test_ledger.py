"""Every task is in one state; what fails goes elsewhere; what kills its worker travels alone."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from wire_strategies import SAME_EVERY_TIME

from peerinfer.ids import PeerId
from peerinfer.ledger import Ledger, TaskState

ADA, BEN, CAL = PeerId("ada"), PeerId("ben"), PeerId("cal")
PEERS = (ADA, BEN, CAL)


def ledger_of(tasks, *, retries=3, final=(), failed=()):
    return Ledger(tasks, retries=retries, final=final, failed=failed)


def states(ledger):
    return [ledger.state(task).name.lower() for task in range(ledger.tasks)]


def test_tasks_are_given_out_in_order():
    ledger = ledger_of(5)
    assert ledger.take(3, ADA, [ADA]) == [0, 1, 2]
    assert ledger.take(3, BEN, [ADA, BEN]) == [3, 4]
    assert ledger.take(3, ADA, [ADA]) == []
    assert states(ledger) == ["assigned"] * 5


def test_what_is_done_already_is_not_given_out():
    ledger = ledger_of(4, final=[1, 3])
    assert ledger.take(9, ADA, [ADA]) == [0, 2]
    assert ledger.count(TaskState.FINAL) == 2


def test_what_failed_for_good_before_stays_failed_with_its_reason():
    ledger = ledger_of(3, failed=[(1, "model: no")])
    assert ledger.failed() == {1: "model: no"}
    assert ledger.take(9, ADA, [ADA]) == [0, 2]


def test_a_result_counts_once():
    ledger = ledger_of(2)
    ledger.take(1, ADA, [ADA])
    assert ledger.answered([0, 1]) == [0]
    assert ledger.answered([0]) == []
    assert states(ledger) == ["provisional", "open"]


def test_a_result_that_was_not_due_does_not_count():
    ledger = ledger_of(1)
    assert not ledger.answered([0])
    assert states(ledger) == ["open"]


def test_a_task_that_failed_on_one_peer_goes_to_another():
    ledger = ledger_of(2)
    ledger.take(2, ADA, PEERS)
    for task in (0, 1):
        assert ledger.failed_at(task, ADA, "model: no", crashed=False, retry_at_s=1.0)
    ledger.wake(1.0)
    assert ledger.take(2, ADA, [ADA, BEN]) == []
    assert sorted(ledger.take(2, BEN, [ADA, BEN])) == [0, 1]


def test_a_task_that_failed_everywhere_may_go_to_anybody():
    ledger = ledger_of(1)
    for peer in (ADA, BEN):
        assert ledger.take(1, peer, [ADA, BEN]) == [0]
        ledger.failed_at(0, peer, "no", crashed=False, retry_at_s=0.0)
        ledger.wake(0.0)
    assert ledger.take(1, ADA, [ADA, BEN]) == [0]


def test_passing_over_a_task_keeps_the_order_of_the_others():
    ledger = ledger_of(4)
    assert ledger.take(1, ADA, PEERS) == [0]
    ledger.failed_at(0, ADA, "no", crashed=False, retry_at_s=0.0)
    ledger.wake(0.0)
    assert ledger.take(2, ADA, PEERS) == [1, 2]
    assert ledger.take(2, BEN, PEERS) == [0, 3]


def test_a_failed_task_waits_before_it_is_tried_again():
    ledger = ledger_of(1)
    ledger.take(1, ADA, [ADA])
    ledger.failed_at(0, ADA, "no", crashed=False, retry_at_s=5.0)
    assert ledger.next_delayed_s == 5.0
    ledger.wake(4.9)
    assert ledger.waiting == 0
    ledger.wake(5.0)
    assert ledger.waiting == 1
    assert ledger.next_delayed_s is None


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_task_fails_for_good_after_its_retries_and_says_why(retries):
    ledger = ledger_of(2, retries=retries)
    for attempt in range(retries + 1):
        assert ledger.attempt_number(0) == attempt
        assert ledger.take(1, ADA, [ADA]) == [0]
        again = ledger.failed_at(0, ADA, f"failure {attempt}", crashed=False, retry_at_s=0.0)
        assert again == (attempt < retries)
        ledger.wake(0.0)
    assert ledger.failed() == {0: f"failure {retries}"}
    assert not ledger.all_answered


def test_a_task_that_crashed_a_worker_travels_alone():
    ledger = ledger_of(4)
    ledger.take(2, ADA, [ADA])
    for task in (0, 1):
        ledger.failed_at(task, ADA, "crash", crashed=True, retry_at_s=0.0)
    ledger.wake(0.0)
    taken = [ledger.take(9, BEN, PEERS) for _ in range(4)]
    assert sorted(taken) == [[], [0], [1], [2, 3]]


def test_a_crashed_task_behind_others_does_not_join_them():
    ledger = ledger_of(3)
    ledger.take(1, ADA, [ADA])
    ledger.failed_at(0, ADA, "crash", crashed=True, retry_at_s=9.0)
    assert ledger.take(1, BEN, [BEN]) == [1]
    ledger.wake(9.0)
    ledger.give_back([1])
    assert ledger.take(9, BEN, [BEN]) == [1]
    assert ledger.take(9, BEN, [BEN]) == [0]
    assert ledger.take(9, BEN, [BEN]) == [2]


def test_a_lost_task_goes_to_the_front_and_is_no_failure():
    ledger = ledger_of(3, retries=0)
    ledger.take(1, ADA, [ADA])
    ledger.lost(0, ADA, "vanished", losses_max=2)
    assert ledger.take(1, BEN, PEERS) == [0]
    assert ledger.attempt_number(0) == 1


def test_a_task_that_is_lost_too_often_fails():
    ledger = ledger_of(1)
    for loss in range(3):
        assert ledger.take(1, ADA, [ADA]) == [0], loss
        ledger.lost(0, ADA, "vanished", losses_max=2)
    assert ledger.failed() == {0: "vanished"}


def test_what_is_given_back_bears_no_mark():
    ledger = ledger_of(3)
    assert ledger.take(2, ADA, [ADA, BEN]) == [0, 1]
    ledger.give_back([0, 1])
    assert ledger.attempt_number(0) == 0
    assert ledger.take(2, ADA, [ADA, BEN]) == [0, 1]


def test_a_voided_result_is_computed_again_by_somebody_else():
    ledger = ledger_of(1)
    ledger.take(1, ADA, PEERS)
    ledger.answered([0])
    assert states(ledger) == ["provisional"]
    ledger.void(0, ADA, "wrong")
    assert ledger.take(1, ADA, [ADA, BEN]) == []
    assert ledger.take(1, BEN, [ADA, BEN]) == [0]


def test_results_of_an_earlier_job_are_adopted_once():
    ledger = ledger_of(4)
    assert ledger.adopt([1, 3, 3]) == [1, 3]
    assert ledger.adopt([1]) == []
    assert states(ledger) == ["open", "provisional", "open", "provisional"]
    assert ledger.take(9, ADA, [ADA]) == [0, 2]


def test_adopting_many_results_takes_no_longer_for_each():
    """One by one out of a queue, every second of 200,000 tasks would take minutes."""
    ledger = ledger_of(200_000)
    assert len(ledger.adopt(range(1, 200_000, 2))) == 100_000
    ledger.check()


def test_tasks_can_be_added():
    ledger = ledger_of(0)
    assert ledger.all_answered
    assert ledger.add(2) == range(2)
    assert ledger.add(1) == range(2, 3)
    assert not ledger.all_answered
    assert ledger.take(9, ADA, [ADA]) == [0, 1, 2]


def test_the_check_notices_a_task_that_nobody_holds():
    ledger = ledger_of(2)
    ledger._open.popleft()
    with pytest.raises(AssertionError, match="2 tasks are open, 1 wait"):
        ledger.check()


def test_the_check_notices_a_wrong_count():
    ledger = ledger_of(2)
    ledger._state[0] = TaskState.FINAL
    with pytest.raises(AssertionError, match="counts"):
        ledger.check()


class LedgerMachine(RuleBasedStateMachine):
    """Compared with a plain list of states, which is what the ledger is for."""

    @initialize(tasks=st.integers(0, 12), retries=st.integers(0, 2), final=st.sets(st.integers(0, 11), max_size=4))
    def begin(self, tasks, retries, final):
        final = sorted(task for task in final if task < tasks)
        self.ledger = ledger_of(tasks, retries=retries, final=final)
        self.model = ["final" if task in final else "open" for task in range(tasks)]
        self.now_s = 0.0

    def some(self, state, data):
        return data.draw(st.sampled_from([task for task, other in enumerate(self.model) if other == state]))

    def has(self, state):
        return hasattr(self, "model") and state in self.model

    @rule(count=st.integers(1, 5), peer=st.sampled_from(PEERS), others=st.sets(st.sampled_from(PEERS)))
    def take(self, count, peer, others):
        eligible = sorted({peer, *others})
        taken = self.ledger.take(count, peer, eligible)
        assert len(taken) <= count
        assert len(set(taken)) == len(taken)
        for task in taken:
            assert self.model[task] == "open"
            self.model[task] = "assigned"
        if not taken and self.ledger.waiting:
            assert eligible != [peer], "a task waits, and the only worker there is does not get it"

    @precondition(lambda self: self.has("assigned"))
    @rule(data=st.data())
    def answer(self, data):
        task = self.some("assigned", data)
        assert self.ledger.answered([task]) == [task]
        self.model[task] = "provisional"

    @rule(data=st.data())
    def answer_what_was_not_asked(self, data):
        others = [task for task, state in enumerate(self.model) if state != "assigned"]
        if others:
            assert not self.ledger.answered([data.draw(st.sampled_from(others))])

    @precondition(lambda self: self.has("assigned"))
    @rule(data=st.data(), peer=st.sampled_from(PEERS), crashed=st.booleans(), wait_s=st.floats(0, 5))
    def fail(self, data, peer, crashed, wait_s):
        task = self.some("assigned", data)
        again = self.ledger.failed_at(task, peer, "failed", crashed=crashed, retry_at_s=self.now_s + wait_s)
        self.model[task] = "open" if again else "failed"

    @precondition(lambda self: self.has("assigned"))
    @rule(data=st.data(), peer=st.sampled_from(PEERS))
    def lose(self, data, peer):
        task = self.some("assigned", data)
        self.ledger.lost(task, peer, "lost", losses_max=2)
        self.model[task] = self.ledger.state(task).name.lower()
        assert self.model[task] in ("open", "failed")

    @precondition(lambda self: self.has("assigned"))
    @rule(data=st.data())
    def give_back(self, data):
        task = self.some("assigned", data)
        self.ledger.give_back([task])
        self.model[task] = "open"

    @precondition(lambda self: self.has("provisional"))
    @rule(data=st.data(), peer=st.sampled_from(PEERS), void=st.booleans())
    def judge(self, data, peer, void):
        task = self.some("provisional", data)
        if void:
            self.ledger.void(task, peer, "wrong")
        else:
            assert self.ledger.finalise([task]) == 1
        self.model[task] = "open" if void else "final"

    @rule(tasks=st.lists(st.integers(0, 11), max_size=4))
    def adopt(self, tasks):
        known = [task for task in tasks if task < len(self.model)]
        adopted = self.ledger.adopt(known)
        assert adopted == [task for task in dict.fromkeys(known) if self.model[task] == "open"]
        for task in adopted:
            self.model[task] = "provisional"

    @rule(count=st.integers(0, 3))
    def add(self, count):
        assert list(self.ledger.add(count)) == list(range(len(self.model), len(self.model) + count))
        self.model += ["open"] * count

    @rule(seconds=st.floats(0, 6))
    def wait(self, seconds):
        self.now_s += seconds
        self.ledger.wake(self.now_s)
        assert self.ledger.next_delayed_s is None or self.ledger.next_delayed_s > self.now_s

    @invariant()
    def agrees(self):
        if not hasattr(self, "model"):
            return
        self.ledger.check()
        assert states(self.ledger) == self.model
        assert sorted(self.ledger.failed()) == [task for task, state in enumerate(self.model) if state == "failed"]
        assert self.ledger.all_answered == (not {"open", "assigned"} & set(self.model))
        assert self.ledger.waiting <= self.model.count("open")


TestAnyHistory = LedgerMachine.TestCase
TestAnyHistory.settings = settings(SAME_EVERY_TIME, max_examples=60, stateful_step_count=40)
