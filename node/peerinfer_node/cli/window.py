"""tui: the dashboard, which is a program of its own."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys

from peerinfer.errors import UsageError
from peerinfer_node.cli.arguments import NOT_AVAILABLE, Subcommands, add_command
from peerinfer_node.cli.place import add_place, home_of

_PACKAGE = "peerinfer_tui"


def is_available() -> bool:
    return importlib.util.find_spec(f"{_PACKAGE}") is not None


def add(commands: Subcommands) -> None:
    parser = add_command(commands, "tui", "A dashboard of the running daemon.", "peerinfer tui")
    parser.add_argument("--serve", metavar="PORT", help="show it in a browser, at this port of this machine")
    add_place(parser)
    parser.set_defaults(command=_tui)


def _tui(arguments: argparse.Namespace) -> int:
    if not is_available():
        raise UsageError(f"peerinfer tui {NOT_AVAILABLE}")
    if arguments.serve is None and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "the dashboard needs a terminal (its stderr too); see it in a browser with --serve PORT, or lines with: "
            "peerinfer status --watch"
        )
    command = [sys.executable, "-m", _PACKAGE, "--socket", str(home_of(arguments).socket)]
    if arguments.serve is not None:
        command.append(f"--serve={arguments.serve}")
    # The window takes the place of this process: the terminal, its signals and the exit code are its own.
    os.execv(sys.executable, command)  # noqa: S606
