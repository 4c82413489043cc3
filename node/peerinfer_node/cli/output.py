"""What the command line writes: data on stdout, everything said to a person on stderr.

Names and reasons may come from strangers, so no text reaches the terminal with a control character in it.
"""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from peerinfer.errors import StateUnusable

CELL_CHARS_MAX = 48

_INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def printable(value: Any) -> str:
    """One line, without control characters and without characters that turn the direction of writing."""
    return "".join(
        " " if character in "\n\r\t" else "?" if unicodedata.category(character) in _INVISIBLE else character
        for character in str(value)
    )


def say(line: str) -> None:
    """A line for the person at the terminal."""
    # A closed stderr must not take the result down with it.
    if sys.stderr is not None:
        try:
            print(printable(line), file=sys.stderr, flush=True)
        except (OSError, ValueError):
            return


def show(lines: Iterable[str]) -> None:
    """Data, as text. Raises as `write_out`."""
    write_out("".join(f"{printable(line)}\n" for line in lines))


def show_json(value: Any) -> None:
    """Data, as one JSON document on one line. Raises as `write_out`."""
    write_out(json.dumps(value, default=str) + "\n")


def write_out(text: str) -> None:
    """Raises BrokenPipeError when nobody reads any more, `StateUnusable` when stdout cannot be written to."""
    try:
        if sys.stdout is not None:
            sys.stdout.write(text)
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        forget_stdout()
        raise StateUnusable(f"cannot write to standard output: {error.strerror}") from None


def forget_stdout() -> None:
    """Python flushes stdout once more at exit, and would complain there."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        sys.stdout = None


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Columns aligned to the left, two spaces apart; cells longer than `CELL_CHARS_MAX` are cut, except in the last."""
    cells = [[_cell(value, column == len(headers) - 1) for column, value in enumerate(row)] for row in rows]
    widths = [max(len(row[column]) for row in [list(headers), *cells]) for column in range(len(headers))]
    lines = [list(headers), *cells]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _cell(value: Any, is_last: bool) -> str:
    text = "-" if value is None or value == "" else printable(value)
    return text if is_last or len(text) <= CELL_CHARS_MAX else text[: CELL_CHARS_MAX - 1] + "…"


def short(peer_or_job: Any) -> str:
    """The end of a peer id: its first characters are the same for everybody."""
    text = str(peer_or_job or "")
    return text if len(text) <= 12 else "…" + text[-10:]
