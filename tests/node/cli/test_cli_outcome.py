"""What became of a job, as text, as JSON and as an exit code."""

from __future__ import annotations

from typing import Any

import pytest

from peerinfer.errors import DecodeError, JobFailed, NoSuitablePeer, PartialFailure, PeerinferError, VerificationFailed
from peerinfer.job_ends import RANGES_SHOWN_MAX, error_of, failed_items, failed_tasks, ranges_text
from peerinfer_node.cli.outcome import (
    Written,
    is_worth_writing,
    level_text,
    missing_items,
    ports_of,
    summary_json,
    summary_line,
)


def job(**fields: Any) -> dict[str, Any]:
    return {
        "job_id": "a",
        "state": "done",
        "items": 10,
        "tasks": 5,
        "accepted": 5,
        "failed": [],
        "failed_tasks": 0,
        **fields,
    }


FAILED = [
    {"task": 3, "first_item": 6, "items": 2, "reason": "NaN"},
    {"task": 0, "first_item": 0, "items": 2, "reason": "boom"},
]


@pytest.mark.parametrize(
    ("picture", "kind", "code", "worth"),
    [
        (job(), None, 0, True),
        (job(failed=FAILED, failed_tasks=2), PartialFailure, 5, True),
        (job(failed=FAILED, failed_tasks=5), JobFailed, 1, False),
        (job(state="cancelled"), JobFailed, 1, False),
        (job(state="failed", kind="NoSuitablePeer", reason="nobody"), NoSuitablePeer, 4, False),
        (job(state="failed", kind="VerificationFailed", reason="lies"), VerificationFailed, 6, False),
        (job(state="failed", kind="JobFailed", reason="late"), JobFailed, 1, False),
        (job(state="failed", kind="LimitExceeded", reason="too much"), PeerinferError, 1, False),
        (job(state="failed", kind="FromTheFuture", reason="?"), JobFailed, 1, False),
        (job(state="failed"), JobFailed, 1, False),
    ],
)
def test_every_end_has_its_exit_code(
    picture: dict[str, Any], kind: type[PeerinferError] | None, code: int, worth: bool
) -> None:
    error = error_of(picture)
    assert (0 if error is None else error.exit_code) == code
    assert kind is None or isinstance(error, kind)
    assert is_worth_writing(picture) is worth
    if picture.get("reason"):
        assert str(error) == picture["reason"]


def test_a_partial_failure_lists_the_failed_items_and_the_first_reason() -> None:
    assert str(error_of(job(failed=FAILED, failed_tasks=2))) == (
        "2 tasks of 5 failed: boom; the failed items are 0-1, 6-7"
    )


def test_a_list_that_the_node_cut_says_how_much_is_not_on_it() -> None:
    line = str(error_of(job(tasks=5000, failed=FAILED, failed_tasks=1500)))
    assert line.startswith("1,500 tasks of 5,000 failed")
    assert line.endswith("0-1, 6-7 and those of 1,498 tasks more")


@pytest.mark.parametrize("failed", [[1, 2], [{"task": 1}], ["x"], [{"task": "a", "first_item": 0, "items": 1}]])
def test_a_list_of_failures_of_an_unknown_kind_is_one_error(failed: list[Any]) -> None:
    with pytest.raises(DecodeError, match="same version"):
        failed_tasks(job(failed=failed))


def test_failed_items_follow_from_failed_tasks_in_order() -> None:
    assert failed_items(failed_tasks(job(failed=FAILED))) == [0, 1, 6, 7]


@pytest.mark.parametrize(
    ("came", "missing"),
    [
        ([], [0, 1, 2, 3, 4]),
        ([(0, 5)], []),
        ([(3, 2), (0, 2)], [2]),
        ([(0, 2), (0, 2), (1, 2)], [3, 4]),
        ([(4, 1)], [0, 1, 2, 3]),
    ],
)
def test_missing_items_are_those_in_no_stretch(came: list[tuple[int, int]], missing: list[int]) -> None:
    assert missing_items(came, 5) == missing


def test_many_ranges_are_counted_and_not_listed() -> None:
    text = ranges_text(range(0, 200, 2))
    assert text.count(",") == RANGES_SHOWN_MAX - 1
    assert text.endswith(f" and {100 - RANGES_SHOWN_MAX} more")
    assert ranges_text([]) == ""


def test_the_json_has_every_promised_field_and_its_totals_add_up() -> None:
    picture = job(
        accepted=3,
        failed=FAILED,
        failed_tasks=2,
        verification={"audits": 1},
        retried=4,
        peers=[{"peer_id": "p", "tasks": 3}],
    )
    summary = summary_json(
        picture,
        seconds=2.0,
        written=Written("/o.npz", "/o.npz.provenance.json", [0, 1, 6, 7]),
        error=error_of(picture),
    )
    promised = [
        "job_id",
        "state",
        "items",
        "tasks",
        "accepted",
        "failed",
        "retried",
        "hedged",
        "verified",
        "seconds",
        "items_per_second",
        "peers",
        "coordinator",
        "term",
        "output",
        "provenance",
    ]
    assert set(promised) <= set(summary)
    assert summary["accepted"] + summary["failed"] == summary["tasks"] == 5
    assert summary["failed_items"] == [0, 1, 6, 7]
    assert summary["items_per_second"] == 3.0
    assert (summary["verified"], summary["retried"], summary["kind"]) == (1, 4, "PartialFailure")


def test_the_json_of_a_job_without_output_says_none() -> None:
    summary = summary_json(
        job(state="failed", kind="NoSuitablePeer", reason="nobody"),
        seconds=0.0,
        written=None,
        error=NoSuitablePeer("nobody"),
    )
    assert (summary["output"], summary["provenance"], summary["error"]) == (None, None, "nobody")
    assert summary["items_per_second"] == 0.0


def test_the_summary_line_is_for_people() -> None:
    picture = job(items=20_000, peers=[{}, {}], verification={"audits": 1, "copies": 1, "error_bound": 0.002})
    line = summary_line(picture, seconds=2.0, written=Written("/o.npz", "/p", []))
    level = "2 checks of 5 tasks, at most 1 in 500 expected to be wrong"
    assert line == f"20,000 items in 2s (10,000/s) by 2 peers, {level}: /o.npz"


@pytest.mark.parametrize(
    ("bound", "said"), [(1e-9, "1 in 1,000,000,000"), (9.9e-10, "1 in a billion"), (3.7e-12, "1 in a billion")]
)
def test_bounds_beyond_belief_are_not_put_in_figures(bound: float, said: str) -> None:
    picture = job(verification={"audits": 2000, "copies": 0, "error_bound": bound})
    assert level_text(picture) == f"2,000 checks of 5 tasks, at most {said} expected to be wrong"


LATER = {"audits": 170, "copies": 4, "error_bound": 1 / 4098, "grounds": {"own": 1644, "window": 3174}}


def test_checks_and_their_bound_are_said_of_the_tasks_that_they_cover() -> None:
    at_most = "174 checks of 4,818 tasks, at most 1 in 4,098 of them expected to be wrong"
    before = "how 5,182 tasks were checked is not known here"
    level = {**LATER, "tasks": 4818, "unknown": 5182}
    assert level_text(job(tasks=10_000, verification=level)) == f"{at_most}; {before}"
    assert level_text(job(tasks=10_000, verification={**level, "unknown": 0})) == at_most, "it goes on"
    assert level_text(job(tasks=10_000, verification=LATER)) == at_most, (
        "of a coordinator that does not say of how many"
    )
    whole = "174 checks of 4,818 tasks, at most 1 in 4,098 expected to be wrong"
    assert level_text(job(tasks=4818, verification={**level, "unknown": 0})) == whole


def test_where_nothing_is_known_of_checks_that_is_said() -> None:
    assert level_text(job(verification={"tasks": 0, "unknown": 4})) == "how 4 tasks were checked is not known here"
    assert level_text(job(verification={"tasks": 0, "unknown": 1})) == "how 1 task was checked is not known here"
    assert level_text(job(verify="none", verification={"tasks": 0, "unknown": 4})) == "", "nobody asked for checks"
    assert level_text(job(verification={})) == ""


def test_results_that_nobody_could_verify_are_an_error_of_their_own() -> None:
    failed = [{"task": 1, "first_item": 4, "items": 4, "reason": "unverified: no check could be had"}]
    error = error_of(job(state="done", failed=failed, failed_tasks=1))
    assert type(error).__name__ == "VerificationFailed"
    assert VerificationFailed.exit_code == 6
    assert "items 4-7" in str(error)


@pytest.mark.parametrize("outputs", [None, 5, [{}], ["y"], [{"name": "y", "dtype": "float32"}]])
def test_ports_of_an_unknown_form_are_one_error(outputs: Any) -> None:
    with pytest.raises(DecodeError):
        ports_of(job(outputs=outputs), "outputs")
