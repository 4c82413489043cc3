"""id and version."""

from __future__ import annotations

import argparse

from peerinfer import __version__
from peerinfer_node.cli.arguments import Subcommands, add_command, add_json
from peerinfer_node.cli.output import show, show_json
from peerinfer_node.cli.place import add_place, home_of


def add(commands: Subcommands) -> None:
    parser = add_command(commands, "id", "Print this node's peer id; makes the identity on first use.", "peerinfer id")
    add_json(parser)
    add_place(parser)
    parser.set_defaults(command=_id)
    parser = add_command(commands, "version", "Print the version.", "peerinfer version --json")
    add_json(parser)
    parser.set_defaults(command=version)


def _id(arguments: argparse.Namespace) -> int:
    from peerinfer_node.identity import load_identity

    home = home_of(arguments)
    peer_id = load_identity(home).peer_id
    if arguments.json:
        show_json({"peer_id": peer_id, "identity": str(home.identity_key)})
    else:
        show([peer_id])
    return 0


def version(arguments: argparse.Namespace) -> int:
    if getattr(arguments, "json", False):
        show_json({"version": __version__})
    else:
        show([f"peerinfer {__version__}"])
    return 0
