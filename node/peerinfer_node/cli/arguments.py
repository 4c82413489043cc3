"""How arguments are read: types that explain themselves, flags that wait for a later version, one line for mistakes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from peerinfer import units
from peerinfer.control import VERIFY
from peerinfer.errors import UsageError
from peerinfer_node.cli.output import say, write_out

T = TypeVar("T")

NOT_AVAILABLE = "is not available in this version of peerinfer"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and takes no abbreviations, which would change meaning with the next flag."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("allow_abbrev", False)
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        line = " ".join(message.split())
        say(f"{self.prog}: error: {line}; see: {self.prog} --help")
        raise SystemExit(2)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        known, left_over = super().parse_known_args(args, namespace)
        if left_over and " " in self.prog:  # argparse would let the top level say it, whose help is of no help here
            self.error(f"unrecognized arguments: {' '.join(left_over)}")
        return known, left_over

    def print_help(self, file: Any = None) -> None:
        # Like any other data: a closed pipe is the guard's business, where argparse would hide it.
        write_out(self.format_help())


def read_as(read: Callable[[str], T]) -> Callable[[str], T]:
    """A type for argparse from a function that raises `UsageError`."""

    def convert(text: str) -> T:
        try:
            return read(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


duration = read_as(units.parse_duration)
size = read_as(units.parse_size)


def whole(low: int, high: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or len(text) > 12 or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return convert


def batch(text: str) -> int | None:
    return None if text == "auto" else whole(1, 1_000_000)(text)


def tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0, like 1e-3")
    return value


def compare(text: str) -> str:
    from peerinfer.comparator_names import parse_compare

    try:
        parse_compare(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def numbers(text: str) -> tuple[float, ...]:
    """`0.5` or `0.485,0.456,0.406`."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not 1 <= len(values) <= 4 or not all(abs(value) < float("inf") for value in values):
        raise argparse.ArgumentTypeError(f"{text!r} is neither one number nor one per channel, like 0.485,0.456,0.406")
    return values


def image_size(text: str) -> tuple[int, int]:
    """`HEIGHTxWIDTH`, or one number for a square."""
    sides = text.lower().split("x")
    if not 1 <= len(sides) <= 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size in pixels, like 224 or 480x640 (height x width)")
    height, width = (whole(1, 16384)(side) for side in (sides[0], sides[-1]))
    return height, width


def verify(text: str) -> str:
    if VERIFY.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no policy; choose none, spot, adaptive or quorum:2 to quorum:9")
    return text


def one_of(*choices: str) -> Callable[[str], str]:
    """Like argparse's `choices`, with a line that is the same in every version of Python."""

    def convert(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(choices)}")
        return text

    return convert


Subcommands = Any
"""What `add_subparsers` returns; argparse does not export its type."""


def add_command(
    commands: Subcommands, name: str, summary: str, example: str, *, prog: str = "peerinfer"
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, prog=f"{prog} {name}", help=summary, description=summary, epilog=f"example: {example}"
    )
    return parser


def add_json(parser: argparse.ArgumentParser, *, watch: bool = False, nested: bool = False) -> None:
    """`nested`: the command above takes the same flags, and what was said there must not be taken back here."""
    default = argparse.SUPPRESS if nested else False
    parser.add_argument("--json", action="store_true", default=default, help="print JSON")
    if watch:
        parser.add_argument("--watch", action="store_true", default=default, help="again and again, until Ctrl-C")
