"""Ends every process that a trial left behind, those that had detached themselves too, and no other.

Linux hands orphans to the nearest ancestor that asked for them. We ask, so whatever a trial starts stays below us.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_TERMINATE_S = 5.0
_KILL_S = 5.0


def adopt_orphans() -> None:
    """Raises OSError where the kernel cannot do it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot adopt orphaned processes")


def end_descendants() -> int:
    """Asks all processes below this one to end, then kills what remains; returns how many there were.

    Call it when no child is needed any more: it also reaps them.
    """
    found = len(_descendants())
    for number, patience_s in ((signal.SIGTERM, _TERMINATE_S), (signal.SIGKILL, _KILL_S)):
        deadline_s = time.monotonic() + patience_s
        asked: set[int] = set()
        while (remaining := _descendants()) and time.monotonic() < deadline_s:
            for pid in remaining:
                if pid not in asked:
                    asked.add(pid)
                    _signal(pid, number)
            _reap()
            time.sleep(0.05)
    _reap()
    return found


def _descendants() -> list[int]:
    """Pids of the living processes below this one."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # pid (name) state parent …; the name may hold spaces and parentheses.
            state, parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            parents[int(entry.name)] = int(parent)
    below = {os.getpid()}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in below} - below
        below |= more
        grown = bool(more)
    return sorted(below - {os.getpid()})


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return
