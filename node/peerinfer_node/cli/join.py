"""join: a node that lends its devices. This module reads the arguments; `joining` does the work."""

from __future__ import annotations

import argparse
import os
import time

from peerinfer_node.cli.arguments import Subcommands, add_command
from peerinfer_node.cli.place import add_place, home_of, resolved

FLAGS = {
    "name": ("NAME", "what people see beside the peer id"),
    "listen": ("ADDR", "accept peers there, like /ip4/0.0.0.0/tcp/4001"),
    "bootstrap": ("ADDR", "dial this peer first; may be repeated"),
    "device": ("DEVICE", "auto, cpu, openvino, or a graphics card by its number like gpu:0; may be repeated"),
    "cpu_threads": ("N", "threads of one inference"),
    "max_cache": ("SIZE", "disk for models and inputs of others"),
    "max_up": ("RATE", "send no faster than this to all peers together, like 2MB/s or 10Mbit/s"),
    "max_down": ("RATE", "receive no faster than this"),
    "max_daily": ("SIZE", "send and receive no more than this on one day, like 5GiB"),
    "max_vram": ("SIZE", "memory of a graphics card to lend"),
    "max_temp": ("C", "a device that is hotter rests until it has cooled"),
    "max_power": ("W", "a graphics card that takes more rests"),
    "schedule": ("HOURS", "lend only then, like 22:00-08:00 or mon-fri 22:00-08:00; may be repeated"),
    "exclusive": ("PROGRAM", "lend nothing while this program runs; may be repeated"),
    "api": ("HOST:PORT", "serve HTTP there too, like 127.0.0.1:7741; without, on this home's Unix socket alone"),
    "models": ("DIR", "serve the models in this folder online, by their names"),
    "log_format": ("text|json", "how to log"),
    "log_level": ("LEVEL", "debug, info, warning or error"),
}
"""Settings that `join` takes as flags, by their key, with the name of the value and a line of help."""

SWITCHES = {
    "idle_only": "lend only while nobody uses this machine",
    "on_battery": "lend also while the machine runs on its battery",
    "allow_unsandboxed": "run other people's models also where there is no sandbox for them",
    "own_jobs_first": "serve this node's own jobs before others'",
    "relay": "carry connections for peers that cannot be dialled",
}

_REPEATED = ("listen", "bootstrap", "device", "schedule", "exclusive")


def add(commands: Subcommands) -> None:
    example = "peerinfer join --bootstrap /ip4/192.0.2.7/tcp/4001/p2p/12D3Koo…"
    parser = add_command(commands, "join", "Run a node that lends this machine's devices, until Ctrl-C.", example)
    parser.usage = "peerinfer join [INVITE] [options]"
    parser.add_argument(
        "invite", metavar="INVITE", nargs="?", help="enter this private swarm; its home stays in it afterwards"
    )
    for key, (value, text) in FLAGS.items():
        flag = "--" + key.replace("_", "-")
        action = "append" if key in _REPEATED else "store"
        parser.add_argument(flag, dest=key, metavar=value, action=action, help=text)
    for key, text in SWITCHES.items():
        parser.add_argument("--" + key.replace("_", "-"), dest=key, action="store_true", default=None, help=text)
    parser.add_argument(
        "--no-mdns",
        dest="mdns",
        action="store_false",
        default=None,
        help="neither look for peers on the LAN nor be found",
    )
    parser.add_argument(
        "--service",
        choices=("install", "remove"),
        help="do all this as a systemd service of this user, from now on; or no more",
    )
    add_place(parser, config=True)
    parser.set_defaults(command=_join)


def _join(arguments: argparse.Namespace) -> int:
    if arguments.service == "remove":
        from peerinfer_node.cli import service

        service.remove(os.environ)
        return 0
    if arguments.invite is not None:
        from peerinfer.invites import parse_invite

        parse_invite(arguments.invite)
    home = home_of(arguments)
    flags = {key: getattr(arguments, key) for key in (*FLAGS, *SWITCHES, "mdns")}
    config = resolved(arguments, home, {**flags, "swarm": arguments.invite}).config
    from peerinfer_node.cli.joining import join
    from peerinfer_node.swarm_file import settle

    config = settle(home, config, wall_s=time.time(), keeps=True)
    if arguments.service == "install":
        from peerinfer_node.cli import service

        service.install(_given(arguments), os.environ)
        return 0
    return join(home, config)


def _given(arguments: argparse.Namespace) -> list[str]:
    """The flags that were given, as a unit repeats them. Not the invite: the home has kept it."""
    words: list[str] = []
    for key in (*FLAGS, *SWITCHES):
        value, flag = getattr(arguments, key), "--" + key.replace("_", "-")
        if value is True:
            words.append(flag)
        elif value is not None:
            for each in value if isinstance(value, list) else [value]:
                words += [flag, str(each)]
    if arguments.mdns is False:
        words.append("--no-mdns")
    for flag, folder in (("--data-dir", arguments.data_dir), ("--config", arguments.config)):
        if folder is not None:
            words += [flag, os.path.abspath(folder)]
    return words
