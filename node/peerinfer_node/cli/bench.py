"""bench: what this machine's devices can do."""

from __future__ import annotations

import argparse

from peerinfer.control import Json
from peerinfer_node.cli.arguments import Subcommands, add_command, add_json
from peerinfer_node.cli.output import say, show, show_json
from peerinfer_node.cli.place import add_place, home_of, resolved

MEASURE_TIMEOUT_S = 30.0
_POLL_S = 0.1


def add(commands: Subcommands) -> None:
    parser = add_command(
        commands, "bench", "Measure this machine's devices; takes a few seconds.", "peerinfer bench --json"
    )
    add_json(parser)
    add_place(parser, config=True)
    parser.set_defaults(command=_bench)


def _bench(arguments: argparse.Namespace) -> int:
    import trio

    from peerinfer_node.cli.reaching import embedded
    from peerinfer_node.cli.view import device_lines

    home = home_of(arguments)
    config = resolved(arguments, home, {}).config

    async def measure() -> list[Json]:
        async with embedded(home, config, lends=True, networked=False) as node:
            with trio.move_on_after(MEASURE_TIMEOUT_S):
                # The control interface has no event for it.
                while not all(_is_measured(device) for device in await node.control.devices()):  # noqa: ASYNC110
                    await trio.sleep(_POLL_S)
            return await node.control.devices()

    say("measuring, best while nothing else runs")
    devices = trio.run(measure)
    if arguments.json:
        show_json(devices)
    else:
        show(device_lines(devices))
    return 0


def _is_measured(device: Json) -> bool:
    return device.get("state") == "refused" or bool((device.get("benchmark") or {}).get("gemm_gflops"))
