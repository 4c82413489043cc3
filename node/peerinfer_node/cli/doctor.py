"""doctor: what is wrong here, and what to do about it. The checks are in `checkup`."""

from __future__ import annotations

import argparse

from peerinfer_node.cli.arguments import Subcommands, add_command, add_json
from peerinfer_node.cli.output import show, show_json
from peerinfer_node.cli.place import add_place, home_of


def add(commands: Subcommands) -> None:
    parser = add_command(commands, "doctor", "Find out what is wrong here, and what to do.", "peerinfer doctor")
    add_json(parser)
    add_place(parser)
    parser.set_defaults(command=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from peerinfer_node.cli.checkup import examine

    findings = examine(home_of(arguments))
    if arguments.json:
        show_json([{"check": f.check, "state": f.state, "found": f.found, "advice": f.advice} for f in findings])
    else:
        show(
            f"{finding.state:<4}  {finding.check:<12} {finding.found}"
            + (f"; {finding.advice}" if finding.advice else "")
            for finding in findings
        )
    return 1 if any(finding.state == "fail" for finding in findings) else 0
