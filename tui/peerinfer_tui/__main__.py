"""`python -m peerinfer_tui --socket PATH`: the window on one daemon. `peerinfer tui` fills the path in."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from peerinfer.control import NO_DAEMON
from peerinfer.errors import NoDaemon, PeerinferError, UsageError
from peerinfer_tui.client import Daemon


async def _greet(socket: str) -> None:
    async with Daemon(socket) as daemon:
        await daemon.greet()


def main(arguments: Sequence[str] | None = None) -> int:
    """Shows the window until the user closes it. Returns the exit code: 7 if there was no daemon to begin with."""
    parser = argparse.ArgumentParser(prog="peerinfer tui", description="A dashboard of the running daemon.")
    parser.add_argument("--socket", metavar="PATH", help="the daemon's Unix socket")
    parser.add_argument("--serve", metavar="PORT", help="show it in a browser, on this port of this machine")
    given = parser.parse_args(arguments)
    try:
        port = None if given.serve is None else _port(given.serve)
        if given.socket is None:
            raise NoDaemon(NO_DAEMON)
        asyncio.run(_greet(given.socket))
        if port is not None:
            from peerinfer_tui.serving import serve

            asyncio.run(serve(given.socket, port, _announce))
            return 0
    except PeerinferError as error:
        sys.stderr.write(f"peerinfer: error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    from peerinfer_tui.app import Window

    window = Window(given.socket)
    window.run()
    return window.return_code or 0


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 65535):
        raise UsageError("--serve: give a port from 1 to 65535")
    return int(text)


def _announce(address: str) -> None:
    sys.stdout.write(f"the window is at {address} (Ctrl-C ends it; the daemon goes on)\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
