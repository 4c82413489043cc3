"""The window over a real daemon: what happens is seen, and a restart is survived."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from job_files import write_model, write_npz
from swarm import Swarm
from textual.pilot import Pilot

from peerinfer_tui.app import Window

pytestmark = pytest.mark.slow

SEEN_S = 30.0


def screen_text(window: Any) -> str:
    strips = window.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in strips)


async def sees(pilot: Pilot[None], *texts: str) -> None:
    try:
        async with asyncio.timeout(SEEN_S):
            while not all(text in screen_text(pilot.app) for text in texts):
                await pilot.pause(0.05)
    except TimeoutError:
        pytest.fail(f"{texts} did not appear on\n{screen_text(pilot.app)}")


def test_a_job_runs_through_the_window_and_a_daemon_that_is_killed_comes_back(swarm: Swarm, tmp_path: Path) -> None:
    daemon = swarm.join("ada")
    rows = np.linspace(-1, 1, 600, dtype=np.float32).reshape(600, 1)
    model, inputs = write_model(tmp_path / "slow.onnx", models.slow(20)), write_npz(tmp_path / "in.npz", x=rows)

    async def story() -> None:
        window = Window(daemon.ready["api"])
        async with window.run_test(size=(120, 40), notifications=True) as pilot:
            await sees(pilot, "ada", "● running", "none yet")
            request = {"model": str(model), "inputs": [str(inputs)], "batch": 2, "verify": "none"}
            job = await asyncio.to_thread(daemon.ask, "POST", "/jobs", json=request)
            name = job["job_id"][:8]
            await sees(pilot, name, "● running")
            await pilot.press("3")
            await sees(pilot, "priority normal")
            await pilot.press("+")
            await sees(pilot, "priority high")
            await pilot.press("c")
            await sees(pilot, f"Cancel job {name}?")
            await pilot.press("y")
            await sees(pilot, "○ cancelled")
            await asyncio.to_thread(daemon.kill)
            await sees(pilot, "no peerinfer daemon is running here")
            await asyncio.to_thread(swarm.join, "ada")
            await sees(pilot, "ada", "● running", "○ cancelled")
            await pilot.press("5")
            await sees(pilot, "the daemon was started again")

    asyncio.run(story())
