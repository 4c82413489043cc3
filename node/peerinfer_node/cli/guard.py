"""The door of every command: errors become one line and an exit code, and never a traceback on the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from peerinfer.errors import Interrupted, PeerinferError
from peerinfer_node.cli.output import say


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _dispatch(given)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except SystemExit as end:
        # argparse ends the program after --help and after wrong usage.
        return end.code if isinstance(end.code, int) else 2
    except BrokenPipeError:
        _forget_stdout()
        return 0
    except KeyboardInterrupt:
        say("peerinfer: interrupted")
        return Interrupted.exit_code
    except BaseExceptionGroup as group:
        return _told(leaf(group), given)
    except Exception as error:
        return _told(error, given)


def _dispatch(given: list[str]) -> int:
    from peerinfer_node.cli.parser import build_parser

    parsed = build_parser().parse_args(given)
    parsed.given = given
    code = parsed.command(parsed)
    assert isinstance(code, int)
    return code


def _told(error: BaseException, given: list[str]) -> int:
    if isinstance(error, BrokenPipeError):
        _forget_stdout()
        return 0
    if isinstance(error, KeyboardInterrupt):
        say("peerinfer: interrupted")
        return Interrupted.exit_code
    if isinstance(error, PeerinferError):
        say(f"peerinfer: {error}" if isinstance(error, Interrupted) else f"peerinfer: error: {error}")
        return error.exit_code
    if isinstance(error, OSError) and sys.stdout is not None and _is_about_stdout(error):
        _forget_stdout()
        say(f"peerinfer: error: cannot write to standard output: {error.strerror}")
        return 1
    from peerinfer_node.cli.crash import write_crash

    where = write_crash(error, given)
    kept = f"; the details are in {where}" if where else ""
    say(f"peerinfer: error: unexpected {type(error).__name__}: {error}{kept}")
    return 1


def leaf(group: BaseException) -> BaseException:
    """The error to tell of several: one raised on purpose before any other."""
    leaves: list[BaseException] = []
    waiting: list[BaseException] = [group]
    while waiting:
        error = waiting.pop(0)
        if isinstance(error, BaseExceptionGroup):
            waiting.extend(error.exceptions)
        else:
            leaves.append(error)
    return next((leaf for leaf in leaves if isinstance(leaf, PeerinferError)), leaves[0])


def _is_about_stdout(error: OSError) -> bool:
    try:
        sys.stdout.flush()
    except OSError as same:
        return same.errno == error.errno
    return False


def _forget_stdout() -> None:
    """Python flushes stdout once more at exit, and would complain there."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        sys.stdout = None
