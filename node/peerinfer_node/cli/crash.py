"""What nobody expected, kept for whoever looks into it."""

from __future__ import annotations

import os
import platform
import tempfile
import time
import traceback
from pathlib import Path

from peerinfer import __version__
from peerinfer_node.home import Home

CRASHES_MAX = 20
"""Older ones are removed."""


def write_crash(error: BaseException, arguments: list[str]) -> Path | None:
    """Writes the traceback to a file of its own and returns its path; None if nothing can be written anywhere."""
    text = (
        f"peerinfer {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
        f"arguments: {arguments!r}\n\n{''.join(traceback.format_exception(error))}"
    )
    name = f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in (_logs(), Path(tempfile.gettempdir())):
        if folder is None:
            continue
        path = folder / name
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
            _remove_old(folder)
        except OSError:
            continue
        return path
    return None


def _logs() -> Path | None:
    try:
        return Home.resolve(os.environ).logs
    except Exception:
        # Whatever is wrong with the home must not hide the error that is to be kept.
        return None


def _remove_old(folder: Path) -> None:
    for path in sorted(folder.glob("crash-*.txt"))[:-CRASHES_MAX]:
        path.unlink(missing_ok=True)
