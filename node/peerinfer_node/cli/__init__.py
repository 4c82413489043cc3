"""The command line. Heavy imports happen inside the commands, so that `peerinfer --help` answers at once."""

from peerinfer_node.cli.guard import main

__all__ = ["main"]
