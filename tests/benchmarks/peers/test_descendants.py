from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

# A child that starts a grandchild in a session of its own, deaf to SIGTERM, and ends at once.
DETACHING = """
import subprocess, sys
deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
command = [sys.executable, "-c", deaf]
started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
started.stdout.readline()
print(started.pid)
"""

ENDING = """
import subprocess, sys
import descendants
descendants._TERMINATE_S = 0.2
descendants.adopt_orphans()
print(subprocess.run([sys.executable, "-c", sys.argv[1]], capture_output=True, check=True).stdout.decode().strip())
print(descendants.end_descendants())
print(descendants.end_descendants())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands orphans to an ancestor")
def test_a_process_that_detached_itself_and_is_deaf_is_ended_too() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ENDING, DETACHING],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    pid, first, second = (int(line) for line in ended.stdout.split())
    assert (first, second) == (1, 0)
    assert not Path(f"/proc/{pid}").exists()
