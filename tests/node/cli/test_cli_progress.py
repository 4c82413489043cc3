"""The line that tells how a job goes."""

from __future__ import annotations

import io
import re

import pytest

from peerinfer_node.cli.progress import LiveLine, Progress, Speed, items_done, progress_of, render_line

HALF = Progress("running", 500, 1000, 52.0, 3, 9.6)


def job(**fields: object) -> dict[str, object]:
    return {"state": "running", "items": 1000, "tasks": 10, "accepted": 5, "peers": [{}, {}], **fields}


def test_a_wide_line_says_everything() -> None:
    line = render_line(HALF, width=100)
    assert line == "[██████████··········] 50%  500/1,000 items  52/s  3 peers  9.6s left"


def test_without_a_terminal_there_is_no_bar() -> None:
    assert render_line(HALF, width=10_000, plain=True) == "50%  500/1,000 items  52/s  3 peers  9.6s left"


@pytest.mark.parametrize("width", range(1, 120))
@pytest.mark.parametrize("colour", [False, True])
def test_no_line_is_wider_than_the_terminal(width: int, colour: bool) -> None:
    for progress in (HALF, Progress("queued", 0, 0, 0.0, 0, None, waiting="no peer has 64 GiB\n" * 9)):
        line = re.sub(r"\x1b\[[0-9;]*m", "", render_line(progress, width=width, colour=colour))
        assert len(line) <= max(width - 1, 1)
        assert "\n" not in line


def test_what_matters_least_goes_first() -> None:
    widths = [render_line(HALF, width=width, plain=True) for width in (60, 40, 30, 26)]
    assert widths == [
        "50%  500/1,000 items  52/s  3 peers  9.6s left",
        "50%  500/1,000 items  52/s  3 peers",
        "50%  500/1,000 items  52/s",
        "50%  500/1,000 items",
    ]


def test_a_job_that_waits_says_why_and_a_full_bar_is_full() -> None:
    assert render_line(Progress("running", 0, 10, 0.0, 0, None, waiting="no peer is there"), width=80, plain=True) == (
        "0%  0/10 items  no peer is there"
    )
    assert "[████████████████████] 100%" in render_line(Progress("running", 10, 10, 5.0, 1, 0.0), width=80)


def test_ninety_nine_and_a_half_percent_is_not_yet_all() -> None:
    assert render_line(Progress("running", 999, 1000, 1.0, 1, 1.0), width=80, plain=True).startswith("99%")


@pytest.mark.parametrize(
    ("fields", "done"),
    [
        ({}, 500),
        ({"accepted": 10}, 1000),
        ({"accepted": 0}, 0),
        ({"items": 7, "tasks": 4, "accepted": 3}, 6),
        ({"items": 7, "tasks": 4, "accepted": 4}, 7),
        ({"tasks": 0}, 0),
        ({"accepted": "many"}, 0),
        ({"items": None, "tasks": None, "accepted": None}, 0),
    ],
)
def test_items_are_counted_from_tasks(fields: dict[str, object], done: int) -> None:
    assert items_done(job(**fields)) == done


def test_the_speed_is_that_of_the_last_seconds() -> None:
    speed = Speed()
    assert speed.seen(0.0, 0) == 0.0
    assert speed.seen(1.0, 100) == 100.0
    for second in range(2, 60):
        rate = speed.seen(float(second), 100 + second)
    assert rate == pytest.approx(1.0)


def test_a_stalled_job_has_no_speed_and_no_end() -> None:
    speed = Speed()
    for second in range(100):
        progress = progress_of(job(blocked="every peer rests"), speed, float(second))
    assert progress.items_per_s == 0.0
    assert progress.eta_s is None
    assert "every peer rests" in render_line(progress, width=80)


def test_a_picture_with_strange_fields_gives_a_line_all_the_same() -> None:
    for strange in (None, "x", -1, [], {}, 1.5):
        fields = dict.fromkeys(("state", "items", "tasks", "accepted", "peers", "failed_tasks", "blocked"), strange)
        assert render_line(progress_of(fields, Speed(), 0.0), width=40)


class Terminal(io.StringIO):
    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_line_written_over_and_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    terminal = Terminal()
    live = LiveLine(terminal)
    live.show(HALF)
    live.clear()
    live.clear()
    text = terminal.getvalue()
    assert text.startswith("\r[\x1b[32m█")
    assert text.endswith("\x1b[K\r\x1b[K")
    assert "\n" not in text


def test_no_colour_means_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    LiveLine(terminal).show(HALF)
    assert "\x1b[3" not in terminal.getvalue()


def test_a_line_that_has_not_changed_is_not_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    live = LiveLine(terminal)
    for _ in range(1000):
        live.show(HALF)
    assert terminal.getvalue().count("\r") == 1


def test_elsewhere_lines_are_few_and_plain(capsys: pytest.CaptureFixture[str]) -> None:
    live = LiveLine()
    for done in range(500, 900):
        live.show(Progress("running", done, 1000, 52.0, 3, 9.6))
    assert capsys.readouterr().err == "50%  500/1,000 items  52/s  3 peers  9.6s left\n"


def test_a_terminal_that_goes_away_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    live = LiveLine(terminal)
    terminal.close()
    live.show_text("x")
    live.clear()
