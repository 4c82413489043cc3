"""What a process has allocated."""

from __future__ import annotations

import os
from pathlib import Path


def allocated_bytes(pid: int | None = None) -> int:
    """Of this process, or of another one; without the pages of files.

    The system takes pages of libraries away, and gives them back, as it likes: all that is resident would seem to grow.
    """
    status = Path(f"/proc/{pid or os.getpid()}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem", "VmSwap")) * 1024
