"""run: a job from the command to the file. This module reads the arguments; `running` does the work."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from peerinfer.control import IMAGE_LAYOUTS, PRIORITIES, STRATEGIES, JobRequest
from peerinfer.errors import UsageError
from peerinfer_node.cli import arguments as take
from peerinfer_node.cli.place import add_place

if TYPE_CHECKING:
    from peerinfer_node.cli.report import Report

_EXAMPLE = "peerinfer run model.onnx images/ -o out.npz"


def add(commands: take.Subcommands) -> None:
    parser = take.add_command(commands, "run", "Run an ONNX model over inputs and write the outputs.", _EXAMPLE)
    parser.usage = "peerinfer run MODEL INPUT... -o OUT [options]"
    parser.add_argument("model", metavar="MODEL", help="an .onnx file")
    parser.add_argument("inputs", metavar="INPUT", nargs="+", help="arrays, tables, images or a folder of images")
    parser.add_argument("-o", "--output", metavar="OUT", help=".npz, .parquet, .jsonl, or a folder ending in /")
    place = parser.add_argument_group("where")
    place.add_argument("--standalone", action="store_true", help="here, without a network and without a daemon")
    place.add_argument(
        "--bootstrap", metavar="ADDR", action="append", help="join the swarm of this peer, without a daemon"
    )
    place.add_argument("--swarm", metavar="INVITE", help="join this private swarm for the job, without a daemon")
    place.add_argument("--device-kind", type=take.one_of("cpu", "gpu"), metavar="KIND", help="cpu or gpu only")
    place.add_argument(
        "--min-vram", type=take.size, metavar="SIZE", default=0, help="devices with this much, like 4GiB"
    )
    add_place(place, config=True)
    how = parser.add_argument_group("how")
    how.add_argument("--batch", type=take.batch, metavar="N|auto", default=None, help="items per task")
    how.add_argument(
        "--priority", type=take.one_of(*PRIORITIES), default="normal", metavar="P", help=", ".join(PRIORITIES)
    )
    how.add_argument(
        "--strategy", type=take.one_of(*STRATEGIES), default="adaptive", metavar="NAME", help=", ".join(STRATEGIES)
    )
    how.add_argument(
        "--timeout", type=take.duration, default=60.0, metavar="TIME", help="wait this long for a peer [60s]"
    )
    how.add_argument("--task-timeout", type=take.duration, metavar="TIME", help="longest time for one task [learned]")
    how.add_argument("--deadline", type=take.duration, metavar="TIME", help="the job fails if it is not done by then")
    how.add_argument("--retries", type=take.whole(0, 100), default=3, metavar="N", help="attempts after the first [3]")
    how.add_argument("--detach", action="store_true", help="return once the job outlives this command; fetch it later")
    how.add_argument("--no-replicate", action="store_true", help="copy no inputs to other nodes")
    how.add_argument("--resume", action="store_true", help="take what an earlier run of the same has computed")
    how.add_argument("--dry-run", action="store_true", help="say what would happen, and send nothing")
    how.add_argument("--json", action="store_true", help="print one JSON object about the job at the end")
    belief = parser.add_argument_group("what to believe")
    belief.add_argument(
        "--verify", type=take.verify, default="spot", metavar="HOW", help="none, spot, quorum:K or adaptive [spot]"
    )
    belief.add_argument(
        "--compare",
        type=take.compare,
        default="allclose",
        metavar="HOW",
        help="exact, allclose, argmax, top-K or cosine; allclose,NAME=exact for an output of its own [allclose]",
    )
    belief.add_argument("--rtol", type=take.tolerance, metavar="X", help="relative tolerance [measured on the model]")
    belief.add_argument("--atol", type=take.tolerance, metavar="X", help="the same, of the largest number [measured]")
    images = parser.add_argument_group("images")
    images.add_argument("--image-size", type=take.image_size, metavar="HxW", help="in pixels [the model's]")
    images.add_argument(
        "--image-layout", type=take.one_of(*IMAGE_LAYOUTS), default="auto", metavar="L", help="nchw or nhwc"
    )
    images.add_argument(
        "--image-mean", type=take.numbers, default=(0.0,), metavar="X,…", help="subtracted, of 0..1 [0]"
    )
    images.add_argument("--image-std", type=take.numbers, default=(1.0,), metavar="X,…", help="divided by [1]")
    parser.set_defaults(command=_run)


def request_from(arguments: argparse.Namespace) -> JobRequest:
    """Raises `UsageError`."""
    paths = [arguments.model, *arguments.inputs]
    if any(not path or "\0" in path for path in paths):
        raise UsageError("a file name is empty")
    if arguments.task_timeout == 0 or arguments.deadline == 0:
        raise UsageError("--task-timeout and --deadline need a time above 0 s")
    return JobRequest(
        model=os.path.abspath(arguments.model),
        inputs=tuple(os.path.abspath(path) for path in arguments.inputs),
        batch=arguments.batch,
        verify=arguments.verify,
        compare=arguments.compare,
        rtol=arguments.rtol,
        atol=arguments.atol,
        priority=arguments.priority,
        strategy=arguments.strategy,
        timeout_s=arguments.timeout,
        task_timeout_s=arguments.task_timeout,
        deadline_s=arguments.deadline,
        retries=arguments.retries,
        resume=arguments.resume,
        detach=arguments.detach,
        replicate=not arguments.no_replicate,
        local_only=arguments.standalone,
        min_vram_bytes=arguments.min_vram,
        device_kind=arguments.device_kind,
        image_size=arguments.image_size,
        image_layout=arguments.image_layout,
        image_mean=arguments.image_mean,
        image_std=arguments.image_std,
    )


def _run(arguments: argparse.Namespace) -> int:
    from peerinfer_node.cli.report import Report

    report = Report(wanted=arguments.json)
    with report.at_the_latest():
        return _reported(arguments, report)


def _reported(arguments: argparse.Namespace, report: Report) -> int:
    if arguments.detach and arguments.no_replicate:
        raise UsageError(
            "--detach needs copies of the inputs elsewhere, --no-replicate refuses them; choose one of them"
        )
    if arguments.detach and arguments.standalone:
        raise UsageError("--standalone ends with this command, --detach goes on after it; choose one of them")
    if arguments.output == "" or (arguments.output is None and not (arguments.dry_run or arguments.detach)):
        raise UsageError("name the output with -o OUT, like -o out.npz")
    if arguments.standalone and (arguments.bootstrap or arguments.swarm):
        other = "--bootstrap" if arguments.bootstrap else "--swarm"
        raise UsageError(f"--standalone uses no network, {other} joins one; choose one of them")
    request = request_from(arguments)
    if arguments.dry_run:
        from peerinfer_node.cli.dry_run import dry_run

        return dry_run(arguments, request, report)
    if arguments.detach:
        from peerinfer_node.cli.detaching import detach

        return detach(arguments, request, report)
    from peerinfer_node.cli.running import run

    return run(arguments, request, report)
