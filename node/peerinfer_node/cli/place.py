"""Which home a command is about, and the daemon that runs there."""

from __future__ import annotations

import argparse
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from peerinfer.control import Control
from peerinfer.errors import InputError, StateUnusable
from peerinfer_node.home import Home

if TYPE_CHECKING:
    from peerinfer_node.config_file import Resolved


T = TypeVar("T")


class TakesArguments(Protocol):
    """A parser, or a group of its help."""

    def add_argument(self, *names: str, **options: Any) -> Any: ...


def add_place(parser: TakesArguments, *, config: bool = False, nested: bool = False) -> None:
    """`nested`: the command above takes the same flags, and what was said there must not be taken back here."""
    default = argparse.SUPPRESS if nested else None
    parser.add_argument(
        "--data-dir", metavar="DIR", default=default, help="keep this node's files there (or PEERINFER_HOME)"
    )
    if config:
        parser.add_argument("--config", metavar="FILE", help="read this file instead of config.toml")


def home_of(arguments: argparse.Namespace) -> Home:
    return Home.resolve(os.environ, arguments.data_dir)


def resolved(arguments: argparse.Namespace, home: Home, flags: Mapping[str, object]) -> Resolved:
    """The configuration: `flags` before the environment before the file before the defaults. Raises `UsageError`."""
    from peerinfer_node.config_file import config_path, resolve

    path, must_exist = config_path(os.environ, home.config_file, arguments.config)
    return resolve(flags, os.environ, path, must_exist=must_exist)


def output_of(arguments: argparse.Namespace) -> str:
    """Where `-o` leads, a folder with a slash at its end, if something can be written there.

    Raises `UsageError`, and `InputError` where the disk refuses: nothing was sent yet, which is what the user must know
    about exit codes.
    """
    from peerinfer_node.formats import check_writable

    output: str = os.path.abspath(arguments.output) + ("/" if arguments.output.endswith("/") else "")
    try:
        check_writable(output)
    except StateUnusable as error:
        raise InputError(str(error)) from None
    return output


def with_daemon(arguments: argparse.Namespace, act: Callable[[Control], Awaitable[T]]) -> T:
    """Runs `act` with the daemon of this home. Raises `NoDaemon` if there is none."""
    import trio

    from peerinfer.client.daemon import HttpControl

    async def connected() -> T:
        async with HttpControl(home_of(arguments).socket) as control:
            return await act(control)

    return trio.run(connected)
