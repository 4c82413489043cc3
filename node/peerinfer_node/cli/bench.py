"""bench: what this machine's devices can do, in general or with one model."""

from __future__ import annotations

import argparse
from pathlib import Path

from peerinfer.control import Json
from peerinfer_node.cli.arguments import Subcommands, add_command, add_json
from peerinfer_node.cli.output import say, show, show_json, table
from peerinfer_node.cli.place import add_place, home_of, resolved

NOT_KEPT = (
    "note: this home's daemon runs, and goes by its own figures; run bench while it is stopped to have these kept"
)


def add(commands: Subcommands) -> None:
    parser = add_command(
        commands, "bench", "Measure this machine's devices; takes a few seconds.", "peerinfer bench model.onnx"
    )
    parser.usage = "peerinfer bench [MODEL] [options]"
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="measure this model instead: its speed by the items joined in one run"
    )
    add_json(parser)
    add_place(parser, config=True)
    parser.set_defaults(command=_bench)


def _bench(arguments: argparse.Namespace) -> int:
    import trio

    from peerinfer_node.cli.model_bench import measure_model
    from peerinfer_node.cli.reaching import embedded
    from peerinfer_node.cli.view import device_lines

    home = home_of(arguments)
    config = resolved(arguments, home, {}).config

    async def measure() -> list[Json]:
        """A node measures its devices before it is open, and keeps the figures for the daemons that come.

        Beside a running daemon they cannot be kept: what is known of this home is the daemon's.
        """
        async with embedded(home, config, lends=True, networked=False, measures_anew=True) as node:
            if not node.keeps:
                say(NOT_KEPT)
            return await node.control.devices()

    say("measuring, best while nothing else runs")
    if arguments.model is not None:
        found = trio.run(measure_model, Path(arguments.model), config)
        lines = [line for answer in found for line in model_lines(answer)]
    else:
        found = trio.run(measure)
        lines = device_lines(found)
    if arguments.json:
        show_json(found)
    else:
        show(lines)
    return 1 if arguments.model is not None and all("problem" in answer for answer in found) else 0


def model_lines(answer: Json) -> list[str]:
    """One device's figures for a model."""
    name = f"{answer['device']} ({answer['provider']})"
    if "problem" in answer:
        return [f"{name}: {answer['problem']}"]
    rows = [
        (
            str(run["rows"]),
            f"{run['run_s'] * 1e3:.3g} ms",
            f"{run['items_per_second']:,.{0 if run['items_per_second'] >= 100 else 1}f}",
            "chosen" if run["rows"] == answer["best_rows"] else "",
        )
        for run in answer["runs"]
    ]
    lines = [f"{name}: loaded in {answer['load_s']:.2f} s", *table(["ROWS", "RUN", "ITEMS/S", ""], rows)]
    return lines + [f"{rows} rows did not fit into its memory" for rows in answer.get("did_not_fit", ())]
