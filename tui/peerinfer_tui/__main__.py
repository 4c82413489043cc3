"""`python -m peerinfer_tui --socket PATH`: the window on one daemon. `peerinfer tui` fills the path in."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from peerinfer.errors import NoDaemon, PeerinferError
from peerinfer_tui.app import Window
from peerinfer_tui.client import Daemon


async def _greet(socket: str) -> None:
    async with Daemon(socket) as daemon:
        await daemon.snapshot()


def main(arguments: Sequence[str] | None = None) -> int:
    """Shows the window until the user closes it. Returns the exit code: 7 if there was no daemon to begin with."""
    parser = argparse.ArgumentParser(prog="peerinfer tui", description="A dashboard of the running daemon.")
    parser.add_argument("--socket", metavar="PATH", help="the daemon's Unix socket")
    socket: str | None = parser.parse_args(arguments).socket
    try:
        if socket is None:
            raise NoDaemon("no daemon: start one with `peerinfer join`, then open the window with `peerinfer tui`")
        asyncio.run(_greet(socket))
    except PeerinferError as error:
        sys.stderr.write(f"peerinfer: {error}\n")
        return error.exit_code
    window = Window(socket)
    window.run()
    return window.return_code or 0


if __name__ == "__main__":
    sys.exit(main())
