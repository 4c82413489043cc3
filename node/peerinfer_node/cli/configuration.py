"""config: where it is, what it says, and how to change it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from peerinfer.errors import UsageError
from peerinfer_node.cli.arguments import Subcommands, add_command, add_json
from peerinfer_node.cli.output import say, show, show_json, table
from peerinfer_node.cli.place import add_place, home_of, resolved


def add(commands: Subcommands) -> None:
    example = "peerinfer config set max_cache 50GiB"
    parser = add_command(commands, "config", "Show and change what this node is configured to do.", example)
    parser.set_defaults(command=lambda _: _no_action())
    actions = parser.add_subparsers(metavar="ACTION", parser_class=type(parser))
    path = add_command(actions, "path", "Print where config.toml is.", "peerinfer config path", prog="peerinfer config")
    show_all = add_command(
        actions,
        "show",
        "Every setting, and where its value comes from.",
        "peerinfer config show",
        prog="peerinfer config",
    )
    get = add_command(actions, "get", "Print one setting.", "peerinfer config get name", prog="peerinfer config")
    get.add_argument("key", metavar="KEY")
    change = add_command(actions, "set", "Write one setting to config.toml.", example, prog="peerinfer config")
    change.add_argument("key", metavar="KEY")
    value = change.add_mutually_exclusive_group(required=True)
    value.add_argument("value", metavar="VALUE", nargs="?", help="several: separate them by commas")
    value.add_argument("--unset", action="store_true", help="go back to the default")
    for action, command in ((path, _path), (show_all, _show), (get, _get), (change, _set)):
        if action is not change:
            add_json(action)
        add_place(action, config=True)
        action.set_defaults(command=command)


def _no_action() -> int:
    raise UsageError("say what to do: peerinfer config path, show, get KEY or set KEY VALUE")


def _file(arguments: argparse.Namespace) -> Path:
    from peerinfer_node.config_file import config_path

    return config_path(os.environ, home_of(arguments).config_file, arguments.config)[0]


def _path(arguments: argparse.Namespace) -> int:
    path = _file(arguments)
    if arguments.json:
        show_json({"path": str(path), "exists": path.exists()})
    else:
        show([str(path)])
    return 0


def _show(arguments: argparse.Namespace) -> int:
    shown = resolved(arguments, home_of(arguments), {}).show()
    if arguments.json:
        show_json({setting.key: {"value": setting.value, "source": setting.source} for setting in shown})
    else:
        show(table(("SETTING", "VALUE", "FROM"), [(each.key, each.value, each.source) for each in shown]))
    return 0


def _get(arguments: argparse.Namespace) -> int:
    setting = resolved(arguments, home_of(arguments), {}).get(arguments.key)
    if arguments.json:
        show_json({"key": setting.key, "value": setting.value, "source": setting.source})
    else:
        show([setting.value])
    return 0


def _set(arguments: argparse.Namespace) -> int:
    from peerinfer_node.config_file import set_value

    path = _file(arguments)
    still = set_value(path, arguments.key, None if arguments.unset else arguments.value)
    say(f"written to {path}; a node that runs takes it over when it starts again")
    if still:
        say(f"warning: another mistake is left: {still}")
    return 0
