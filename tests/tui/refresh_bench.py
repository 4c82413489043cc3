"""What one refresh of the window costs with 1,000 peers and 100 jobs, page by page, in processor time:

python tests/tui/refresh_bench.py
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from typing import Any

from lively_swarm import NOW_S, answers, job

from peerinfer_tui.app import Window
from peerinfer_tui.mirror import Mirror
from peerinfer_tui.page_tabs import PAGES

ROUNDS = 40


PEERS, JOBS = 1000, 100
PEERS_TOLD = 100
"""Peers of which something is told each second: the round trip of every tenth is measured anew, say."""


def messages() -> list[str]:
    """What the daemon tells: everything, and then each second the node, every job and some peers."""
    given = answers(PEERS)
    given["/api/v1/jobs"] = [job(number, "running", accepted=100) for number in range(JOBS)]
    whole = {name: given[f"/api/v1/{name}"] for name in ("node", "devices", "peers", "jobs")}
    found: list[dict[str, Any]] = [{"event": "snapshot", **whole}]
    for second in range(ROUNDS):
        some = [dict(each, rtt_ms=1.0 + second) for each in whole["peers"][second % 10 :: PEERS // PEERS_TOLD]]
        jobs = [job(number, "running", accepted=101 + second) for number in range(JOBS)]
        node = dict(whole["node"], frames_running=second)
        found.append(
            {"event": "changes", "node": node, "peers": {"changed": some, "gone": []}, "jobs": {"changed": jobs}}
        )
    return [json.dumps(each) for each in found]


async def measure() -> None:
    told = messages()
    print(f"{len(told[0]) / 1000:,.0f} kB at first, {len(told[1]) / 1000:,.0f} kB of changes a second")
    with tempfile.TemporaryDirectory() as folder:
        window = Window(f"{folder}/none.sock", refresh_s=3600.0, again_s=3600.0, clock=lambda: NOW_S)
        async with window.run_test(size=(200, 60)) as pilot:
            for number, page in enumerate(PAGES, 1):
                await pilot.press(str(number))
                mirror = Mirror()
                mirror.take(json.loads(told[0]), NOW_S)
                window.logbook.take(mirror.snapshot(NOW_S), NOW_S)
                window.show_page()
                await pilot.pause()
                read_s, show_s, draw_s = [], [], []
                for second, message in enumerate(told[1:], 1):
                    started_s = time.process_time()
                    mirror.take(json.loads(message), NOW_S + second)
                    snapshot = mirror.snapshot(NOW_S + second)
                    read_s.append(time.process_time() - started_s)
                    started_s = time.process_time()
                    window.logbook.take(snapshot, NOW_S + second)
                    window.show_page()
                    show_s.append(time.process_time() - started_s)
                    started_s = time.process_time()
                    await pilot.pause()  # Textual draws what has changed
                    draw_s.append(time.process_time() - started_s)
                parts = [statistics.median(part) * 1000 for part in (read_s, show_s, draw_s)]
                print(
                    f"{page:9} read {parts[0]:5.1f} ms  show {parts[1]:5.1f} ms  draw {parts[2]:5.1f} ms  "
                    f"together {sum(parts):5.1f} ms"
                )


if __name__ == "__main__":
    asyncio.run(measure())
