"""The commands and their options."""

from __future__ import annotations

import sys
from collections.abc import Container
from typing import Any

from peerinfer_node.cli import (
    bench,
    configuration,
    doctor,
    identity,
    jobs,
    join,
    run,
    serve,
    swarm,
    switch,
    view,
    window,
)
from peerinfer_node.cli.arguments import Parser

_HELP = """\
usage: peerinfer COMMAND [options]
Lend computers to AI inference and use them, peer to peer.

  join        lend this machine's devices; join INVITE enters a private swarm
  run         run an ONNX model over inputs, on the swarm or here
  serve       HTTP for online inference, by a node that lends nothing
  jobs        list jobs; show, attach, cancel, fetch or rescue one
  status      what this node does now
  peers       who is there; --why MODEL: who may run it, and why not
  reputation  what this node has seen of its peers, in words
  devices     what this machine can compute with
  models      which models this node holds
  pause       stop lending, for a while or until resume
  resume      lend again
  finish      finish running tasks, take no more
  leave       finish running tasks and end the daemon
  swarm       create a private swarm, print an invite to it
  bench       measure this machine
  doctor      find out what is wrong here, and what to do
  config      path, show, get or set what this node is configured to do
  id          print this node's peer id
  version     print the version
{window}
peerinfer COMMAND --help says more. Try: peerinfer run m.onnx in.npz -o out.npz
"""


class _TopLevel(Parser):
    known: Container[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # argparse would list every command, those of later versions included.
        first = next(iter(args or ()), "-")
        if not first.startswith("-") and first not in self.known:
            self.error(f"there is no command {first[:40]!r}")
        return super().parse_known_args(args, namespace)

    def format_help(self) -> str:
        return _HELP.format(window="  tui         a dashboard of the running daemon" if window.is_available() else "")


def build_parser() -> Parser:
    """The whole command line. The chosen command is `parsed.command`, a function from the arguments to the exit code."""
    parser = _TopLevel(prog="peerinfer")
    parser.add_argument("--version", action="store_true")
    parser.set_defaults(command=_no_command)
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=Parser)
    for family in (join, run, serve, jobs, view, switch, swarm, bench, doctor, configuration, identity, window):
        family.add(commands)
    parser.known = commands.choices
    return parser


def _no_command(arguments: Any) -> int:
    if arguments.version:
        return identity.version(arguments)
    sys.stderr.write(build_parser().format_help())
    return 2
