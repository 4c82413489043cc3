"""swarm: private swarms. create makes one, invite prints the string that lets a machine in, show says which this is."""

from __future__ import annotations

import argparse
import secrets
import time

from peerinfer.errors import NoDaemon, UsageError
from peerinfer_node.cli.arguments import Subcommands, add_command, add_json, duration
from peerinfer_node.cli.output import say, show, show_json
from peerinfer_node.cli.place import add_place, home_of, resolved

EXPIRES_DEFAULT_S = 30 * 86400.0
MEMBERS_IN_INVITE = 4
"""Members beside this node that an invite names, so that it still works when this one is off."""


def add(commands: Subcommands) -> None:
    example = "peerinfer swarm create lab"
    parser = add_command(commands, "swarm", "Private swarms: only who has an invite gets in.", example)
    parser.set_defaults(command=lambda _: _no_action())
    actions = parser.add_subparsers(metavar="ACTION", parser_class=type(parser))
    prog = "peerinfer swarm"
    create = add_command(actions, "create", "Make a swarm and print an invite to it.", example, prog=prog)
    create.add_argument("name", metavar="NAME", help="letters, digits, dots, dashes, underscores")
    invite = add_command(actions, "invite", "Print an invite to the swarm of this home.", f"{prog} invite", prog=prog)
    shown = add_command(actions, "show", "Which swarm this home belongs to.", f"{prog} show", prog=prog)
    for action in (create, invite):
        action.add_argument(
            "--address",
            metavar="ADDR",
            action="append",
            help="also dial this node there, like /dns4/lab.example.org/tcp/4001",
        )
        action.add_argument(
            "--expires", type=duration, metavar="TIME", default=EXPIRES_DEFAULT_S, help="0 never [30 days]"
        )
    for action, command in ((create, _create), (invite, _invite), (shown, _show)):
        add_json(action)
        add_place(action, config=True)
        action.set_defaults(command=command)


def _no_action() -> int:
    raise UsageError("say what to do: peerinfer swarm create NAME, invite or show")


def _create(arguments: argparse.Namespace) -> int:
    from peerinfer.ids import peer_id_of
    from peerinfer.invites import KEY_BYTES, Invite, PrivateSwarm
    from peerinfer_node.swarm_file import read_swarm, swarm_path, write_swarm

    for address in arguments.address or ():
        _given_address(address, peer_id_of(bytes(32)))  # whoever this node will be
    home = home_of(arguments)
    swarm = PrivateSwarm(arguments.name, secrets.token_bytes(KEY_BYTES))
    home.prepare()
    with home.lock():
        own = read_swarm(home)
        if own is not None:
            raise UsageError(
                f"this home belongs to swarm {own.swarm.name}; peerinfer swarm invite lets others in, and another "
                f"PEERINFER_HOME makes room for another swarm (this one: {swarm_path(home)})"
            )
        write_swarm(home, Invite(swarm))
    say(f"swarm {swarm.name} is made; run peerinfer join here, and on every other machine peerinfer join with this:")
    code = _invite(arguments)
    say("it leads to this machine; when others are in, peerinfer swarm invite makes one that works without it")
    return code


def _invite(arguments: argparse.Namespace) -> int:
    from peerinfer.addresses import peer_of
    from peerinfer.invites import Invite, format_invite
    from peerinfer_node.identity import load_identity
    from peerinfer_node.swarm_file import read_swarm

    home = home_of(arguments)
    own = read_swarm(home)
    if own is None:
        raise UsageError("this home is in no private swarm; make one with: peerinfer swarm create NAME")
    peer_id = load_identity(home).peer_id
    given = [_given_address(address, peer_id) for address in arguments.address or ()]
    live = _live_addresses(arguments)
    addresses = [*given, *(live if live is not None else _own_addresses(arguments, peer_id)), *own.bootstrap]
    expires_at_s = int(time.time() + arguments.expires) if arguments.expires else 0
    invite = Invite(own.swarm, tuple(dict.fromkeys(addresses)), expires_at_s)
    text = format_invite(invite)
    members = len({peer_of(address) for address in invite.bootstrap})
    if arguments.json:
        show_json({"swarm": own.swarm.name, "invite": text, "members": members, "expires_at_s": expires_at_s or None})
    else:
        show([text])
    if not addresses:
        say("note: this node listens nowhere, so the invite names nobody to dial; it works on one local network only")
    return 0


def _given_address(text: str, peer_id: str) -> str:
    """Where a person says that this node, or another one, is dialled. Raises `UsageError`."""
    from peerinfer.addresses import is_dialable

    address = text if "/p2p/" in text else f"{text}/p2p/{peer_id}"
    if not is_dialable(address):
        raise UsageError(
            f"--address: {text[:128]!r} is no address that can be dialled; write it like /dns4/lab.example.org/tcp/4001, "
            "or /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW… for another peer"
        )
    return address


def _live_addresses(arguments: argparse.Namespace) -> list[str] | None:
    """Where the running node and a few members can be dialled; None if there is none."""
    import trio

    from peerinfer.client.daemon import HttpControl

    async def ask() -> list[str]:
        async with HttpControl(home_of(arguments).socket) as control:
            addresses = [str(address) for address in (await control.status())["addresses"]]
            members = [peer for peer in await control.peers() if peer["state"] == "alive" and peer["addresses"]]
            for member in sorted(members, key=lambda peer: str(peer["peer_id"]))[:MEMBERS_IN_INVITE]:
                addresses += [str(address) for address in member["addresses"][:2]]
            return addresses

    try:
        return trio.run(ask)
    except NoDaemon:
        return None


def _own_addresses(arguments: argparse.Namespace, peer_id: str) -> list[str]:
    """Where this node will listen when it starts."""
    from peerinfer_node.listening import concrete_hosts
    from peerinfer_node.swarm_file import choose_port

    home = home_of(arguments)
    found = []
    for listen in resolved(arguments, home, {}).config.listen:
        _, kind, host, _, port = listen.split("/")
        number = int(port) or choose_port(home)
        found += [f"/{kind}/{each}/tcp/{number}/p2p/{peer_id}" for each in concrete_hosts(host)]
    return found


def _show(arguments: argparse.Namespace) -> int:
    from peerinfer_node.swarm_file import read_swarm, swarm_path

    home = home_of(arguments)
    own = read_swarm(home)
    name = own.swarm.name if own else ""
    if arguments.json:
        bootstrap = list(own.bootstrap) if own else []
        show_json({"swarm": name, "is_private": own is not None, "bootstrap": bootstrap, "file": str(swarm_path(home))})
    elif own is None:
        show(["the open swarm: no private one was created or joined in this home"])
    else:
        show([f"swarm      {name}", f"file       {swarm_path(home)}"])
        show(f"bootstrap  {address}" for address in own.bootstrap)
    return 0
