"""serve: HTTP for online inference on the swarm, by a node that lends nothing. This module reads the arguments."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

from peerinfer.control import Control, Json
from peerinfer.errors import HomeInUse, NoDaemon
from peerinfer_node.cli.arguments import Subcommands, add_command
from peerinfer_node.cli.join import FLAGS
from peerinfer_node.cli.output import say, show, show_json
from peerinfer_node.cli.place import add_place, home_of, resolved, with_daemon

DEFAULT_API = "127.0.0.1:7741"

_FLAGS = ("name", "listen", "bootstrap", "cpu_threads", "max_cache", "api", "models", "log_format", "log_level")
_REPEATED = ("listen", "bootstrap")


def add(commands: Subcommands) -> None:
    parser = add_command(
        commands,
        "serve",
        "Serve HTTP for online inference, by a node that lends nothing, until Ctrl-C.",
        "peerinfer serve --models ~/models --api 127.0.0.1:7741",
    )
    parser.usage = "peerinfer serve [INVITE] [options]"
    parser.add_argument("invite", metavar="INVITE", nargs="?", help="be of this private swarm")
    for key in _FLAGS:
        value, text = FLAGS[key]
        if key == "api":
            text = f"serve HTTP there; without, at {DEFAULT_API}"
        action = "append" if key in _REPEATED else "store"
        parser.add_argument("--" + key.replace("_", "-"), dest=key, metavar=value, action=action, help=text)
    parser.add_argument("--no-mdns", dest="mdns", action="store_false", default=None, help="no peers from the LAN")
    parser.add_argument("--standalone", action="store_true", help="no network: compute on this machine")
    parser.add_argument("--ends-with-stdin", action="store_true", help=argparse.SUPPRESS)
    add_place(parser, config=True)
    parser.set_defaults(command=_serve)


def _serve(arguments: argparse.Namespace) -> int:
    if arguments.invite is not None:
        from peerinfer.invites import parse_invite

        parse_invite(arguments.invite)
    home = home_of(arguments)
    if not arguments.standalone and _is_served_already(arguments):
        return 0
    flags = {key: getattr(arguments, key) for key in (*_FLAGS, "mdns")}
    config = resolved(arguments, home, {**flags, "swarm": arguments.invite}).config
    if config.api is None:
        config = replace(config, api=DEFAULT_API)
    from peerinfer_node.cli.joining import join
    from peerinfer_node.swarm_file import settle

    if arguments.standalone:
        config = replace(config, listen=(), bootstrap=(), mdns=False, swarm="")
    else:
        config = settle(home, config, wall_s=time.time(), keeps=False)
    return join(home, config, lends=False, ends_with_stdin=arguments.ends_with_stdin)


def _is_served_already(arguments: argparse.Namespace) -> bool:
    """Says where, if a daemon of this home serves HTTP. Raises `HomeInUse` if one runs that does not."""
    found: Json = {}

    async def ask(control: Control) -> None:
        found.update(await control.status())

    try:
        with_daemon(arguments, ask)
    except NoDaemon:
        return False
    if not found.get("http") and not arguments.ends_with_stdin:
        raise HomeInUse(
            f"a daemon runs here already (process {found.get('pid')}) and serves no HTTP on TCP: start it again with "
            f"`peerinfer join --api {arguments.api or DEFAULT_API}`, or give this node a home of its own with --data-dir"
        )
    say(f"a daemon runs here already (process {found.get('pid')}) and serves HTTP; nothing was started")
    ready = {name: found.get(name) for name in ("peer_id", "addresses", "api", "http", "token_file")}
    if arguments.log_format == "json":
        show_json({"event": "ready", **ready})
    else:
        show([f"http       {found['http']}, with the token in {found.get('token_file')}", f"ready {found['peer_id']}"])
    return True
