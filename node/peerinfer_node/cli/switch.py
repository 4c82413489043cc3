"""pause, resume, finish, leave: the volunteer's hand on the switch."""

from __future__ import annotations

import argparse
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from peerinfer.control import Control, Json
from peerinfer.errors import UsageError
from peerinfer.units import format_duration, parse_clock
from peerinfer_node.cli.arguments import Subcommands, add_command, add_json, duration, read_as
from peerinfer_node.cli.output import say, show_json
from peerinfer_node.cli.place import add_place, with_daemon
from peerinfer_node.cli.view import reason_line


def add(commands: Subcommands) -> None:
    pause = add_command(
        commands, "pause", "Stop lending at once, for a while or until resume.", "peerinfer pause --for 2h"
    )
    until = pause.add_mutually_exclusive_group()
    until.add_argument("--for", dest="for_s", metavar="TIME", type=duration, help="like 2h or 90min")
    until.add_argument("--until", dest="clock", metavar="HH:MM", type=read_as(parse_clock), help="a time of day")
    resume = add_command(commands, "resume", "Lend again.", "peerinfer resume")
    finish = add_command(commands, "finish", "Finish running tasks, take no more.", "peerinfer finish")
    for parser, command in ((pause, _pause), (resume, _resume), (finish, _finish)):
        add_json(parser)
        _place(parser, command)
    _place(add_command(commands, "leave", "Finish running tasks and end the daemon.", "peerinfer leave"), _leave)


def _place(parser: argparse.ArgumentParser, command: object) -> None:
    add_place(parser)
    parser.set_defaults(command=command)


def until_s(for_s: float | None, clock: int | None, now_s: float) -> float | None:
    """The wall clock at which a pause ends; None without an end. A time of day that has passed means tomorrow's."""
    if for_s is not None:
        if for_s <= 0:
            raise UsageError("--for: give a time above 0 s")
        return now_s + for_s
    if clock is None:
        return None
    now = datetime.fromtimestamp(now_s)
    end = now.replace(hour=clock // 60, minute=clock % 60, second=0, microsecond=0)
    if end <= now:
        end += timedelta(days=1)
    return end.timestamp()


def _done(arguments: argparse.Namespace, act: Callable[[Control], Awaitable[None]]) -> bool:
    """Does it; with --json, true after showing the node's status."""

    async def ask(control: Control) -> None:
        await act(control)
        if arguments.json:
            show_json(await control.status())

    with_daemon(arguments, ask)
    return bool(arguments.json)


def _pause(arguments: argparse.Namespace) -> int:
    now_s = time.time()
    end_s = until_s(arguments.for_s, arguments.clock, now_s)

    if _done(arguments, lambda control: control.pause(until_s=end_s)):
        return 0
    if end_s is None:
        say("paused; lend again with: peerinfer resume")
    else:
        end = datetime.fromtimestamp(end_s)
        say(f"paused until {end:%Y-%m-%d %H:%M} (for {format_duration(end_s - now_s)}); sooner with: peerinfer resume")
    return 0


def _resume(arguments: argparse.Namespace) -> int:
    async def resume(control: Control) -> Json:
        await control.resume()
        return await control.status()

    status = with_daemon(arguments, resume)
    if arguments.json:
        show_json(status)
        return 0
    # The pause itself may not have gone from the picture yet.
    reasons = status.get("reasons") or ()
    resting = [reason_line(reason) for reason in reasons if reason.get("name") not in (None, "paused")]
    say(f"the pause is over; the devices still rest: {'; '.join(resting)}" if resting else "lending again")
    return 0


def _finish(arguments: argparse.Namespace) -> int:
    if not _done(arguments, lambda control: control.finish()):
        say("finishing what runs and taking no more; lend again with: peerinfer resume")
    return 0


def _leave(arguments: argparse.Namespace) -> int:
    with_daemon(arguments, lambda control: control.leave())
    say("the daemon finishes what runs, says goodbye and ends")
    return 0
