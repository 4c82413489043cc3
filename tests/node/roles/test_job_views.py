"""What is shown of a job where nobody coordinates it: the journal alone."""

import pytest
from lease_setting import Setting, term

from peerinfer.assignment import JobPicture
from peerinfer.control import Json
from peerinfer.ids import JobId
from peerinfer.journal import Chain
from peerinfer.splitting import Split
from peerinfer_node.roles.job_views import EARLIER_TERM, FAILED_SHOWN_MAX, told_checks, totals, totals_in
from peerinfer_node.roles.live_job import in_journal

SPLIT = Split(59, 2)
"""30 tasks, the last one of a single item."""


def test_what_a_journal_names_is_accepted_and_final_and_the_numbers_add_up() -> None:
    chain = Setting(tasks=30).written((term(1, 0), [range(1, 8), range(20, 30)]))  # of these, every fifth failed
    shown = totals_in(chain, SPLIT, None)
    assert (shown["accepted"], shown["final"], shown["failed_tasks"]) == (14, 14, 3)
    assert (shown["open"], shown["assigned"]) == (30 - 17, 0)
    assert shown["peers"] == [{"peer_id": "worker", "tasks": 14}]
    assert [failed["task"] for failed in shown["failed"]] == [5, 20, 25]
    assert shown["failed"][0] == {"task": 5, "first_item": 10, "items": 2, "reason": EARLIER_TERM}


def test_a_journal_that_nothing_is_known_of_leaves_every_task_open() -> None:
    shown = totals_in(Chain(), SPLIT, None)
    assert (shown["open"], shown["accepted"], shown["final"], shown["failed"]) == (30, 0, 0, [])


def test_whoever_coordinated_before_still_says_why_a_task_failed() -> None:
    chain = Setting(tasks=30).written((term(1, 0), [range(11)]))
    seen = JobPicture(JobId("job"), 30, 20, 0, 0, 8, {5: "model: it divides by zero"}, 0, 0, 0, {}, "")
    reasons = {failed["task"]: failed["reason"] for failed in totals_in(chain, SPLIT, seen)["failed"]}
    assert reasons == {0: EARLIER_TERM, 5: "model: it divides by zero", 10: EARLIER_TERM}


def test_checks_are_told_of_those_tasks_alone_that_this_node_judged() -> None:
    chain = Setting(tasks=30).written((term(1, 0), [range(1, 5), range(6, 10)]))
    seen = JobPicture(
        JobId("job"), 30, 20, 0, 2, 7, {}, 0, 1, 0, {}, "", verify="spot", grounds={"window": 6}, earlier=3
    )
    live = totals(seen, SPLIT)["verification"]
    assert (live["grounds"], live["tasks"], live["unknown"]) == ({"window": 6}, 6, 3)
    told = totals_in(chain, SPLIT, seen)["verification"]
    assert (told["audits"], told["tasks"], told["unknown"]) == (1, 4, 4), "two of six are not in the journal"
    assert totals_in(chain, SPLIT, None)["verification"] == {"tasks": 0, "unknown": 8}
    assert totals_in(Chain(), SPLIT, None)["verification"] == {}


LEVEL: Json = {
    "policy": "spot",
    "audits": 3,
    "audits_failed": 0,
    "copies": 1,
    "grounds": {"window": 9},
    "error_bound": 0.002,
    "tasks": 9,
    "unknown": 21,
}


def test_what_another_node_says_of_checks_is_taken_as_it_would_be_told_here() -> None:
    said: Json = {"audited": 3, "audits_failed": 0, "verification": LEVEL}
    assert told_checks({**said, "state": "done", "verification": {**LEVEL, "more": "x"}}) == said


@pytest.mark.parametrize(
    "wrong",
    [
        {"audits": -1},
        {"tasks": True},
        {"unknown": 1 << 53},
        {"policy": ["spot"]},
        {"copies": "1"},
        {"grounds": {"window": 0.5}},
        {"grounds": []},
        {"error_bound": float("nan")},
        {"error_bound": float("inf")},
        {"error_bound": -0.1},
        {"error_bound": True},
    ],
)
def test_what_it_says_of_checks_in_another_form_is_not_taken(wrong: Json) -> None:
    assert told_checks({"audited": 3, "audits_failed": 0, "verification": {**LEVEL, **wrong}}) == {}
    assert told_checks({"audited": "3", "audits_failed": 0, "verification": LEVEL}) == {}
    assert told_checks({"audited": 3, "audits_failed": 0, "verification": "spot"}) == {}


def test_of_very_many_failed_tasks_the_first_are_listed_and_all_are_counted() -> None:
    tasks = 5 * FAILED_SHOWN_MAX + 6
    chain = Setting(tasks=tasks).written((term(1, 0), [range(0, tasks, 5)]))
    shown = totals_in(chain, Split(tasks, 1), None)
    assert shown["failed_tasks"] == FAILED_SHOWN_MAX + 2
    assert [failed["task"] for failed in shown["failed"]] == list(range(0, 5 * FAILED_SHOWN_MAX, 5))
    assert shown["peers"] == []


def test_tasks_of_a_journal_are_those_of_its_entries() -> None:
    chain = Setting(tasks=5000).written((term(1, 0), [range(7, 40), range(1023, 1026)]), (term(2, 1), [[4999], [0]]))
    entries = list(chain.register.entries())
    final, failed = in_journal(chain)
    assert list(final) == [entry.task for entry in entries if entry.worker]
    assert failed == {entry.task: EARLIER_TERM for entry in entries if not entry.worker}
    assert in_journal(Chain()) == ({}, {})
