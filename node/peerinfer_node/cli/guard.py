"""The door of every command: errors become one line and an exit code, and never a traceback on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from peerinfer.errors import Interrupted, PeerinferError
from peerinfer_node.cli.output import forget_stdout, say


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(given)
    except SystemExit as end:
        # argparse ends the program after --help and after wrong usage.
        return end.code if isinstance(end.code, int) else 2
    except (Exception, KeyboardInterrupt, BaseExceptionGroup) as error:
        return _told(leaf(error), given)


def _dispatch(given: list[str]) -> int:
    from peerinfer_node.cli.parser import build_parser

    parsed = build_parser().parse_args(given)
    parsed.given = given
    code = parsed.command(parsed)
    assert isinstance(code, int)
    return code


def _told(error: BaseException, given: list[str]) -> int:
    if isinstance(error, BrokenPipeError):
        forget_stdout()
        return 0
    if isinstance(error, KeyboardInterrupt):
        say("peerinfer: interrupted")
        return Interrupted.exit_code
    if isinstance(error, PeerinferError):
        say(f"peerinfer: {error}" if isinstance(error, Interrupted) else f"peerinfer: error: {error}")
        return error.exit_code
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
