"""What one refresh of the window costs with 1,000 peers and 100 jobs, page by page. Run it on a quiet machine:

python tests/tui/refresh_bench.py
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time

from lively_swarm import NOW_S, answers, job

from peerinfer_tui.app import Window
from peerinfer_tui.page_tabs import PAGES
from peerinfer_tui.snapshot import read_snapshot

ROUNDS = 40


def replies(second: int) -> list[bytes]:
    given = answers(1000)
    for each in given["/api/v1/peers"]:
        each["last_seen_s"] = round(each["last_seen_s"] + second % 5, 1)
    given["/api/v1/jobs"] = [job(number, "running", accepted=100 + second) for number in range(100)]
    return [json.dumps(given[f"/api/v1/{name}"]).encode() for name in ("node", "devices", "peers", "jobs")]


async def measure() -> None:
    given = [replies(second) for second in range(ROUNDS)]
    print(f"{sum(map(len, given[0])) / 1000:,.0f} kB of JSON a refresh")
    with tempfile.TemporaryDirectory() as folder:
        window = Window(f"{folder}/none.sock", poll_s=3600.0, clock=lambda: NOW_S)
        async with window.run_test(size=(200, 60)) as pilot:
            for number, page in enumerate(PAGES, 1):
                await pilot.press(str(number))
                read_s, show_s, draw_s = [], [], []
                for second in range(ROUNDS):
                    started_s = time.perf_counter()
                    snapshot = read_snapshot(*map(json.loads, given[second]))
                    read_s.append(time.perf_counter() - started_s)
                    started_s = time.perf_counter()
                    window.logbook.take(snapshot, NOW_S + second)
                    window.show_page()
                    show_s.append(time.perf_counter() - started_s)
                    started_s = time.perf_counter()
                    window.screen._compositor.render_strips()
                    draw_s.append(time.perf_counter() - started_s)
                    await pilot.pause()
                parts = [statistics.median(part) * 1000 for part in (read_s, show_s, draw_s)]
                print(f"{page:9} read {parts[0]:5.1f} ms  show {parts[1]:5.1f} ms  draw {parts[2]:5.1f} ms  "
                      f"together {sum(parts):5.1f} ms")  # fmt: skip


if __name__ == "__main__":
    asyncio.run(measure())
