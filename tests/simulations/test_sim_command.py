"""The command: the seed first, a table, and after a violation the way to see it again, last."""

from __future__ import annotations

from pathlib import Path

import pytest

from peerinfer.errors import UsageError
from peerinfer_sim import scenario
from peerinfer_sim.__main__ import main
from peerinfer_sim.event_log import brief

QUICK = """
about = "Two nodes, a few items."
floor = "whole"
[[nodes]]
name = "submitter"
lends = false
[[nodes]]
name = "volunteer"
count = 2
[job]
items = 40
submit_at_s = 2.0
ends_within_s = {ends_within_s}
"""


@pytest.fixture
def write(tmp_path: Path):
    def put(text: str) -> str:
        path = tmp_path / "quick.toml"
        path.write_text(text)
        return str(path)

    return put


def test_a_run_prints_its_seed_first_and_a_table(write, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log = tmp_path / "events.log"
    assert main([write(QUICK.format(ends_within_s=60)), "--seed", "5", "--runs", "2", "--log", str(log)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "seed 5"
    assert lines[1].split()[:3] == ["scenario", "seed", "nodes"]
    assert [line.split()[:6] for line in lines[2:]] == [
        ["quick", "5", "3", "1", "40", "40"],
        ["quick", "6", "3", "1", "40", "40"],
    ]
    assert "Coordination JobAccepted" in log.read_text()


def test_a_violation_ends_with_the_command_that_shows_it_again(write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([write(QUICK.format(ends_within_s=0.1)), "--seed", "5", "--items", "30"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "seed 5"
    assert lines[-2].startswith("violation: the job has not ended within 0.1 s")
    assert lines[-1].startswith("to see it again: python -m peerinfer_sim ")
    assert lines[-1].endswith("quick.toml --seed 5 --items 30")


def test_an_unknown_scenario_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nowhere", "--seed", "1"]) == 2
    assert capsys.readouterr().err.startswith("there is no scenario nowhere; there are calm, ")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (('floor = "whole"', 'floor = "third"'), "there is no floor 'third'"),
        (("items = 40", "itms = 40"), "Job has no 'itms'"),
        (("items = 40", ""), "items"),
        (('name = "volunteer"', 'name = "submitter"'), "two groups have one name"),
        (("[job]", '[[faults]]\nkind = "flood"\ngroup = "volunteer"\ncount = 1\nbetween_s = [0, 1]\n[job]'), "'flood'"),
        (
            ("[job]", '[[faults]]\nkind = "crash"\ngroup = "volunteer"\ncount = 3\nbetween_s = [0, 1]\n[job]'),
            "too many",
        ),
        (("[job]", "[job"), "Expected"),
    ],
)
def test_a_scenario_that_says_nonsense_is_refused(change: tuple[str, str], problem: str, write) -> None:
    path = write(QUICK.format(ends_within_s=60).replace(*change))
    with pytest.raises(UsageError, match=r"quick\.toml: .*" + problem):
        scenario.load(path)


def test_faults_follow_from_the_seed_alone() -> None:
    one = scenario.load("deaths")
    drawn = {seed: one.draw_faults(scenario.random.Random(seed)) for seed in (1, 2)}
    assert drawn[1] == one.draw_faults(scenario.random.Random(1))
    assert drawn[1] != drawn[2]
    assert len(drawn[1]) == 19
    assert [fault.at_s for fault in drawn[1]] == sorted(fault.at_s for fault in drawn[1])


def test_a_value_in_brief_differs_where_the_value_does() -> None:
    many = list(range(1000))
    assert brief(many) == brief(tuple(many))
    assert brief(many) != brief([*many[:500], 0, *many[501:]])
    assert len(brief(many)) < 40
    assert brief(b"abc") != brief(b"abd")
