"""reputation export and verify: a signed statement of what this node gave, and a check of anybody's."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path

from peerinfer.contribution import (
    STATEMENT_CHARS_MAX,
    contribution_words,
    from_shown,
    read_confirmations,
    read_statement,
    statement_of,
)
from peerinfer.control import Control, Json
from peerinfer.cost import format_flops
from peerinfer.errors import InputError, UsageError
from peerinfer_node.cli.output import show, show_json
from peerinfer_node.cli.place import home_of, with_daemon


def export_statement(arguments: argparse.Namespace) -> int:
    from peerinfer_node.identity import load_identity

    if arguments.file is not None:
        raise UsageError("`reputation export` writes to standard output, or to -o FILE")

    keys = load_identity(home_of(arguments))
    given: list[Json] = []

    async def ask(control: Control) -> None:
        given.extend(await control.reputation(keys.peer_id))

    with_daemon(arguments, ask)
    own: Json = given[0] if given else {}
    found = from_shown(own.get("contribution") or {})
    text = statement_of(found, keys.peer_id, keys.sign, own.get("confirmations") or ())
    if arguments.output is not None:
        try:
            Path(arguments.output).write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write {arguments.output}: {error.strerror}") from None
    if arguments.json:
        show_json(json.loads(text))
    elif arguments.output is None:
        show(text.splitlines())
    return 0


def verify_statement(arguments: argparse.Namespace) -> int:
    """Needs no daemon and no network: the key is read from the peer id."""
    if arguments.file is None or arguments.output is not None:
        raise UsageError("`reputation verify FILE` takes one file")
    try:
        with open(arguments.file, encoding="utf-8") as file:
            text = file.read(STATEMENT_CHARS_MAX + 1)
    except OSError as error:
        raise InputError(f"cannot read {arguments.file}: {error.strerror}") from None
    except UnicodeDecodeError:
        text = ""
    if len(text) > STATEMENT_CHARS_MAX:
        raise InputError(f"{arguments.file} is too large for a statement")
    author, found = read_statement(text)
    confirmed = read_confirmations(text, author)
    if arguments.json:
        by = [{"peer_id": peer, "flops": round(flops)} for peer, flops in confirmed]
        show_json({"peer_id": author, "contribution": found.shown(), "signature": "good", "confirmed_by": by})
    else:
        days = dict.fromkeys(_day(at_s) for at_s in (found.since_s, found.until_s))
        span = f"{'on' if len(days) == 1 else 'from'} {' to '.join(days)}"
        show(
            [
                author,
                f"  says: {contribution_words(found.shown())}, {span}",
                *(f"  {peer} confirms {format_flops(flops)}, by checks of its own" for peer, flops in confirmed),
                "  the signatures are good; it is for you to know who confirms"
                if confirmed
                else "  the signature is good; nobody but its author has counted",
            ]
        )
    return 0


def _day(at_s: float) -> str:
    try:
        return datetime.fromtimestamp(at_s, UTC).date().isoformat()
    except (OverflowError, ValueError, OSError):
        return "an unknown day"
