"""The window against a daemon of this process. Textual runs on asyncio, so every test brings its own loop."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fake_daemon import OTHER, FakeDaemon
from textual.app import App
from textual.pilot import Pilot

from peerinfer.control import NO_DAEMON
from peerinfer_tui.__main__ import main
from peerinfer_tui.app import Window
from peerinfer_tui.live_table import LiveTable
from peerinfer_tui.page_tabs import PageTab

POLL_S = 0.1
DEADLINE_S = 60.0
SIZES = [(80, 24), (120, 40), (200, 60)]


def screen_text(window: App[Any]) -> str:
    strips = window.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in strips)


async def wait_until(pilot: Pilot[None], condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await pilot.pause(0.02)


async def wait_for_text(pilot: Pilot[None], text: str) -> None:
    try:
        await wait_until(pilot, lambda: text in screen_text(pilot.app))
    except TimeoutError:
        pytest.fail(f"{text!r} did not appear on\n{screen_text(pilot.app)}")


def in_window(
    path: Path, story: Callable[[FakeDaemon, Pilot[None]], Coroutine[Any, Any, None]], size: tuple[int, int] = (80, 24)
) -> None:
    """Tells `story` with a window that has seen its first snapshot."""

    async def tell() -> None:
        async with FakeDaemon(path / "node.sock") as daemon:
            window = Window(str(daemon.path), refresh_s=POLL_S, again_s=POLL_S)
            async with window.run_test(size=size, notifications=True) as pilot:
                await wait_for_text(pilot, "alder")
                await story(daemon, pilot)

    asyncio.run(tell())


@pytest.mark.parametrize("size", SIZES)
def test_the_overview_shows_node_swarm_and_jobs(tmp_path: Path, size: tuple[int, int]) -> None:
    async def story(daemon: FakeDaemon, pilot: Pilot[None]) -> None:
        for text in (
            "alder",
            "● running",
            "● 1 alive",
            "nothing needs attention",
            "01234567",
            "40 %",
            "this node",
            "quit",
        ):
            await wait_for_text(pilot, text)
        lines = screen_text(pilot.app).split("\n")
        assert len(lines) == size[1]

    in_window(tmp_path, story, size)


def test_the_screen_follows_the_daemon(tmp_path: Path) -> None:
    async def story(daemon: FakeDaemon, pilot: Pilot[None]) -> None:
        daemon.answers["/api/v1/jobs"][0].update(state="done", accepted=100)
        daemon.answers["/api/v1/peers"].append({"peer_id": "x" * 20, "name": "cedar", "state": "alive"})
        await wait_for_text(pilot, "none yet, 1 job ended")
        await pilot.press("3")
        await wait_for_text(pilot, "✓ done")
        await wait_for_text(pilot, "100 %")
        await pilot.press("5")
        await wait_for_text(pilot, "cedar joined")

    in_window(tmp_path, story)


def test_the_cursor_stays_on_its_peer_when_rows_come_and_go(tmp_path: Path) -> None:
    async def story(daemon: FakeDaemon, pilot: Pilot[None]) -> None:
        daemon.answers["/api/v1/peers"] += [{"peer_id": f"{n}", "name": n, "state": "alive"} for n in "pqrs"]
        await pilot.press("2")
        table = pilot.app.screen.query_one("#peers", LiveTable)
        await wait_until(pilot, lambda: len(table.keys) == 5)
        await pilot.press("down", "down")
        assert table.key == "q"
        daemon.answers["/api/v1/peers"].append({"peer_id": "a", "name": "a", "state": "alive"})
        await wait_until(pilot, lambda: len(table.keys) == 6)
        assert (table.key, table.cursor_row) == ("q", 3)
        daemon.answers["/api/v1/peers"].pop(3)  # the one under the cursor
        await wait_until(pilot, lambda: len(table.keys) == 5)
        assert table.cursor_row == 3

    in_window(tmp_path, story)


def test_p_pauses_and_r_resumes(tmp_path: Path) -> None:
    async def story(daemon: FakeDaemon, pilot: Pilot[None]) -> None:
        await pilot.press("p")
        assert "p pause" in screen_text(pilot.app)
        assert "r resume" not in screen_text(pilot.app)
        await wait_until(pilot, lambda: daemon.posted == ["/api/v1/node/pause"])
        daemon.answers["/api/v1/node"]["state"] = "paused"
        await wait_for_text(pilot, "r resume")
        assert "p pause" not in screen_text(pilot.app)
        await pilot.press("r")
        await wait_until(pilot, lambda: daemon.posted[1:] == ["/api/v1/node/resume"])

    in_window(tmp_path, story)


def test_a_refusal_is_shown_in_the_daemons_words(tmp_path: Path) -> None:
    async def story(daemon: FakeDaemon, pilot: Pilot[None]) -> None:
        daemon.refusal = "the node is [leaving]"
        await pilot.press("p")
        await wait_for_text(pilot, "the node is [leaving]")

    in_window(tmp_path, story)


def test_the_window_survives_a_restart_of_the_daemon(tmp_path: Path) -> None:
    async def story(daemon: FakeDaemon, pilot: Pilot[None]) -> None:
        await daemon.__aexit__()
        await wait_for_text(pilot, "no peerinfer daemon is running here")
        await wait_for_text(pilot, "01234567")  # what was last known stays, marked as old
        assert pilot.app.screen.has_class("-stale")
        daemon.answers["/api/v1/node"].update(pid=4712, name="alder again")
        async with daemon:
            await wait_for_text(pilot, "alder again")
            await pilot.press("5")
            await wait_for_text(pilot, "started again")
            await wait_for_text(pilot, "does not answer")
            assert not pilot.app.screen.has_class("-stale")
        async with daemon:
            await wait_for_text(pilot, "alder again")

    in_window(tmp_path, story)


def test_garbage_from_the_socket_does_not_end_the_window(tmp_path: Path) -> None:
    async def story(daemon: FakeDaemon, pilot: Pilot[None]) -> None:
        await pilot.press("2")
        daemon.answers["/api/v1/peers"] = b"\xff not JSON"
        await wait_for_text(pilot, "says something that is not JSON")
        daemon.answers["/api/v1/peers"] = [{"peer_id": OTHER, "name": "\x1b[31mbirch[/b]", "state": "alive"}]
        await wait_for_text(pilot, "[31mbirch[/b]")
        assert "\x1b" not in screen_text(pilot.app)

    in_window(tmp_path, story)


def test_every_page_is_one_key_or_one_click_away(tmp_path: Path) -> None:
    async def story(daemon: FakeDaemon, pilot: Pilot[None]) -> None:
        for key, page in zip("23451", ("peers", "jobs", "node", "events", "overview"), strict=True):
            await pilot.press(key)
            await wait_until(pilot, lambda page=page: pilot.app.current_mode == page)
            await wait_for_text(pilot, "alder")
        await pilot.click(PageTab, offset=(2, 0))  # the first of them
        tab = list(pilot.app.screen.query(PageTab))[3]
        await pilot.click(tab)
        await wait_for_text(pilot, "54 °C")

    in_window(tmp_path, story)


def test_a_table_is_filtered_and_sorted_by_keys_and_by_mouse(tmp_path: Path) -> None:
    async def story(daemon: FakeDaemon, pilot: Pilot[None]) -> None:
        daemon.answers["/api/v1/peers"] += [
            {"peer_id": f"id-{n}", "name": n, "state": "alive", "rtt_ms": rtt}
            for n, rtt in (("ash", 30.0), ("beech", 0.5), ("cedar", 9.0))
        ]
        await pilot.press("2")
        table = pilot.app.screen.query_one("#peers", LiveTable)
        await wait_until(pilot, lambda: len(table.keys) == 4)
        await pilot.press("slash", *"birch")
        await wait_until(pilot, lambda: table.keys == [OTHER])
        await pilot.press("enter", "1", "2")  # keys are keys again, and the filter stays
        assert table.keys == [OTHER]
        await pilot.press("slash", "escape")
        await wait_until(pilot, lambda: len(table.keys) == 4)
        assert pilot.app.focused is table
        await pilot.press("s", "s", "s", "s")  # peer, state, path, rtt
        assert table.keys == ["id-beech", OTHER, "id-cedar", "id-ash"]
        await pilot.press("S")
        assert table.keys[0] == "id-ash"
        await pilot.click(table, offset=(3, 1))  # the title of the first column
        assert table.keys == ["id-ash", "id-beech", OTHER, "id-cedar"]
        await pilot.click(table, offset=(3, 4))
        assert table.key == OTHER

    in_window(tmp_path, story)


def test_a_job_is_cancelled_after_a_question_only(tmp_path: Path) -> None:
    async def story(daemon: FakeDaemon, pilot: Pilot[None]) -> None:
        job = daemon.answers["/api/v1/jobs"][0]["job_id"]
        await pilot.press("3")
        await pilot.press("c")
        await wait_for_text(pilot, "Cancel job 01234567?")
        await pilot.press("n")
        await pilot.press("c")
        await wait_for_text(pilot, "Cancel job 01234567?")
        assert daemon.posted == []
        await pilot.press("y")
        await wait_until(pilot, lambda: daemon.posted == [f"DELETE /api/v1/jobs/{job}"])
        daemon.answers["/api/v1/jobs"][0]["state"] = "cancelled"
        await wait_for_text(pilot, "○ cancelled")
        await pilot.press("c")
        await wait_for_text(pilot, "has ended already")

    in_window(tmp_path, story)


def test_plus_and_minus_change_the_priority_of_a_running_job(tmp_path: Path) -> None:
    async def story(daemon: FakeDaemon, pilot: Pilot[None]) -> None:
        (job,) = daemon.answers["/api/v1/jobs"]
        job["priority"] = "normal"
        await pilot.press("3")
        await wait_for_text(pilot, "priority normal")
        await pilot.press("+")
        path = f"/api/v1/jobs/{job['job_id']}/priority"
        await wait_until(pilot, lambda: daemon.posted == [path])
        assert daemon.bodies == [{"priority": "high"}]
        await wait_for_text(pilot, "has priority high now")
        job["priority"] = "low"
        await wait_for_text(pilot, "priority low")
        await pilot.press("-")
        await wait_for_text(pilot, "already")
        await pilot.press("+")
        await wait_until(pilot, lambda: len(daemon.posted) == 2)
        assert daemon.bodies[1] == {"priority": "normal"}
        job["state"] = "done"
        await wait_for_text(pilot, "✓ done")
        await pilot.press("+")
        await wait_for_text(pilot, "has ended already")
        assert len(daemon.posted) == 2

    in_window(tmp_path, story)


def test_the_daemons_own_log_stands_among_the_events_and_can_be_filtered(tmp_path: Path) -> None:
    async def story(daemon: FakeDaemon, pilot: Pilot[None]) -> None:
        daemon.log.append(
            {"number": 1, "time": 1.8e9, "level": "warning", "event": "lease lost", "job": "0123", "x": "\x1b[2J"}
        )
        await pilot.press("5")
        await wait_for_text(pilot, "lease lost  job=0123")
        assert "\x1b" not in screen_text(pilot.app)
        await daemon.__aexit__()
        await wait_for_text(pilot, "no peerinfer daemon is running here")
        async with daemon:  # the same process as far as anybody knows: its last lines come again and are known
            await wait_for_text(pilot, "the daemon answers again")
            daemon.log.append({"number": 2, "level": "info", "event": "lease won"})
            await wait_for_text(pilot, "lease won")
            assert screen_text(pilot.app).count("lease lost") == 1
            await pilot.press("slash", *"log won")
            await wait_until(pilot, lambda: len(pilot.app.screen.query_one("#events", LiveTable).keys) == 1)

    in_window(tmp_path, story)


def test_the_window_follows_the_events_and_asks_for_nothing_else(tmp_path: Path) -> None:
    async def story(daemon: FakeDaemon, pilot: Pilot[None]) -> None:
        assert daemon.readers == 1
        for number in range(3):
            daemon.answers["/api/v1/jobs"][0]["accepted"] = 50 + number
            await wait_for_text(pilot, f"{50 + number} %")
        assert daemon.asked == []

    in_window(tmp_path, story)


def test_an_attached_job_has_the_page(tmp_path: Path) -> None:
    async def story(daemon: FakeDaemon, pilot: Pilot[None]) -> None:
        await pilot.press("3", "enter")
        await wait_for_text(pilot, "attached, escape goes back")
        assert not pilot.app.screen.query_one("#jobs").display
        await pilot.press("escape")
        assert pilot.app.screen.query_one("#jobs").display

    in_window(tmp_path, story)


def test_the_owner_pauses_for_an_hour_and_finishes(tmp_path: Path) -> None:
    async def story(daemon: FakeDaemon, pilot: Pilot[None]) -> None:
        await pilot.press("4", "h")
        await wait_until(pilot, lambda: daemon.posted == ["/api/v1/node/pause"])
        assert 3500 < daemon.bodies[0]["until_s"] - time.time() < 3700
        await pilot.press("f")
        await wait_until(pilot, lambda: daemon.posted[1:] == ["/api/v1/node/finish"])

    in_window(tmp_path, story)


def test_light_and_dark_are_one_key_apart(tmp_path: Path) -> None:
    async def story(daemon: FakeDaemon, pilot: Pilot[None]) -> None:
        assert pilot.app.current_theme.dark
        await pilot.press("t")
        assert not pilot.app.current_theme.dark
        await wait_for_text(pilot, "alder")
        await pilot.press("t")
        assert pilot.app.current_theme.dark

    in_window(tmp_path, story)


def test_help_opens_and_any_key_closes_it(tmp_path: Path) -> None:
    async def story(daemon: FakeDaemon, pilot: Pilot[None]) -> None:
        await pilot.press("question_mark")
        await wait_for_text(pilot, "stop lending this node's devices")
        daemon.answers["/api/v1/node"]["name"] = "hazel"  # the screen below goes on meanwhile
        await pilot.press("q")
        await wait_for_text(pilot, "hazel")
        assert pilot.app.is_running

    in_window(tmp_path, story)


def test_q_closes_the_window(tmp_path: Path) -> None:
    async def story(daemon: FakeDaemon, pilot: Pilot[None]) -> None:
        await pilot.press("q")
        await wait_until(pilot, lambda: not pilot.app.is_running)

    in_window(tmp_path, story)


def is_laid_out(window: App[Any], names: tuple[str, str], size: tuple[int, int], *, beside: bool) -> bool:
    one, other = (window.screen.query_one(name).region for name in names)
    return (one.y == other.y) == beside and 0 < other.right <= size[0] and other.bottom < size[1]


def test_the_layout_follows_the_terminal(tmp_path: Path) -> None:
    async def story(daemon: FakeDaemon, pilot: Pilot[None]) -> None:
        for size in [*SIZES, (80, 24)]:
            await pilot.resize_terminal(*size)
            for key, names in (
                ("1", ("#swarm", "#contribution")),
                ("2", ("#peers", "#peer")),
                ("3", ("#jobs", "#job")),
            ):
                await pilot.press(key)
                await wait_until(pilot, lambda names=names: len(pilot.app.screen.query(",".join(names))) == 2)
                is_so = partial(is_laid_out, pilot.app, names, size, beside=key == "1" or size[0] >= 130)
                await wait_until(pilot, is_so)

    in_window(tmp_path, story)


def test_without_a_daemon_the_command_says_so_and_exits_with_7(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([]) == 7
    words = capsys.readouterr().err
    assert words == f"peerinfer: error: {NO_DAEMON}\n"  # as every other command says it
    assert main(["--socket", str(tmp_path / "none.sock")]) == 7
    assert capsys.readouterr().err == words


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "peerinfer_tui", "--socket", str(tmp_path / "none.sock")]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"}, timeout=60
    )
    assert done.returncode == 7
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
