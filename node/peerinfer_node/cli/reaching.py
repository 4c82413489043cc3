"""Finds the node that a job goes to: the daemon of this home, or one that lives as long as the command."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from peerinfer.client.daemon import HttpControl
from peerinfer.config import NodeConfig
from peerinfer.control import Control
from peerinfer.errors import HomeInUse, NoDaemon, NoSuitablePeer, PeerinferError
from peerinfer_node.cli.guard import leaf
from peerinfer_node.cli.output import say
from peerinfer_node.cli.place import home_of, resolved
from peerinfer_node.home import Home
from peerinfer_node.log import Log
from peerinfer_node.swarm_file import settle

WARNINGS_SHOWN_MAX = 4

_PREFIX = "embedded-"


@dataclass(frozen=True, slots=True)
class Reached:
    control: Control
    is_daemon: bool
    keeps: bool
    """What is computed outlives the command, so that `--resume` finds it."""


@asynccontextmanager
async def reach(arguments: argparse.Namespace, note: Callable[[str], None] = say) -> AsyncGenerator[Reached, None]:
    """`note` shows what a node of this command warns of while it runs."""
    home = home_of(arguments)
    if not (arguments.standalone or arguments.bootstrap or arguments.swarm):
        async with HttpControl(home.socket) as control:
            if await _answers(control):
                if arguments.config is not None:
                    say("note: the running daemon keeps its own configuration; --config is for a node of this command")
                yield Reached(control, is_daemon=True, keeps=True)
                return
    flags = {"bootstrap": arguments.bootstrap, "swarm": arguments.swarm}
    config = settle(home, resolved(arguments, home, flags).config, wall_s=time.time(), keeps=False)
    async with embedded(home, config, lends=False, networked=not arguments.standalone, note=note) as reached:
        yield reached


@asynccontextmanager
async def revisit(
    arguments: argparse.Namespace,
) -> AsyncGenerator[tuple[Control, Callable[[str], Awaitable[None]]], None]:
    """The daemon of this home, or a node of its identity that lives as long as the command.

    With it comes what to call with a job's id before anything is asked about that job: such a node then learns how it
    stands. Raises `NoDaemon` where neither is: nothing was ever submitted from this home.
    """
    home = home_of(arguments)
    async with HttpControl(home.socket) as control:
        if await _answers(control) or not home.state_db.exists():
            await control.status()

            async def knows(job: str) -> None:
                pass

            yield control, knows
            return
    flags = {"bootstrap": arguments.bootstrap, "swarm": arguments.swarm}
    config = settle(home, resolved(arguments, home, flags).config, wall_s=time.time(), keeps=False)
    from peerinfer_node.opening import open_node

    say("no daemon runs here; looking for the job in the swarm")
    log = Log(say, level="error")
    async with open_node(home, config, lends=False, networked=True, log=log) as node:
        yield node.control, node.jobs.revisit


@asynccontextmanager
async def embedded(
    home: Home,
    config: NodeConfig,
    *,
    lends: bool,
    networked: bool,
    measures_anew: bool = False,
    note: Callable[[str], None] = say,
) -> AsyncGenerator[Reached, None]:
    """A node that ends with the context; in a home of its own where another node holds `home`."""
    from peerinfer_node.opening import open_node
    from peerinfer_node.roles.acquaintances import ALONE, NOT_REACHED

    # What it warns of is for the user: that state.db was damaged and moved aside. Once it is open, what becomes of the job
    # is told otherwise; that a peer refuses its key, nobody else says.
    warnings: deque[str] = deque(maxlen=WARNINGS_SHOWN_MAX)
    is_open = False

    def warn(line: str) -> None:
        if not is_open:
            warnings.append(line)
        elif line.startswith((f"warning: {NOT_REACHED}", f"warning: {ALONE}")):
            note(line)

    log = Log(warn, level="warning")
    async with AsyncExitStack() as stack:
        keeps = True
        opened = partial(
            open_node, config=config, lends=lends, networked=networked, measures_anew=measures_anew, log=log
        )
        try:
            node = await stack.enter_async_context(opened(home))
        except (HomeInUse, ExceptionGroup) as error:
            if not isinstance(leaf(error), HomeInUse):
                raise
            keeps = False
            own = stack.enter_context(_temporary_home(home))
            node = await stack.enter_async_context(opened(own))
        for warning in warnings:
            note(warning)
        is_open = True
        yield Reached(node.control, is_daemon=False, keeps=keeps)


async def _answers(control: HttpControl) -> bool:
    try:
        await control.status()
    except NoDaemon:
        return False
    return True


async def explained(control: Control, error: PeerinferError) -> PeerinferError:
    """Where nobody fit was found, with what kept the node from those that it was told to ask."""
    if not isinstance(error, NoSuitablePeer):
        return error
    try:
        unreached = (await control.status()).get("unreached") or ()
    except PeerinferError:
        return error
    reasons = [f"{each.get('address')} was not reached: {each.get('reason')}" for each in unreached]
    return type(error)("; ".join([str(error), *reasons]))


@contextmanager
def _temporary_home(home: Home) -> Iterator[Home]:
    """A home of this command's own, beside the blobs of the one that is in use; removed afterwards."""
    home.cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    _remove_left_over(home.cache)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=home.cache))
    try:
        yield Home.resolve(os.environ, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_left_over(folder: Path) -> None:
    """Removes the homes of commands that were killed."""
    for path in folder.glob(f"{_PREFIX}*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(path, ignore_errors=True)
