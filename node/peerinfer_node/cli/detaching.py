"""Carries out `peerinfer run --detach`: submit, wait until the job outlives this command, say how to come back."""

from __future__ import annotations

import argparse
import shlex

import trio

from peerinfer.control import Control, JobRequest, Json
from peerinfer.errors import PeerinferError
from peerinfer.job_ends import count_of
from peerinfer.units import format_size
from peerinfer_node.cli.output import say
from peerinfer_node.cli.progress import LiveLine
from peerinfer_node.cli.reaching import explained, reach
from peerinfer_node.cli.report import Report

LOOK_AGAIN_S = 0.5


def detach(arguments: argparse.Namespace, request: JobRequest, report: Report) -> int:
    """Returns 0 once the job is durable on a quorum, or, with a committee of one, on the daemon that took it."""

    async def submit() -> tuple[Json, bool]:
        async with reach(arguments) as reached:
            say("handing the job over, with copies of its inputs")
            before = [str(job.get("job_id")) for job in await reached.control.jobs()]
            live = LiveLine()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_show_copies, reached.control, before, live)
                try:
                    job_id = await reached.control.submit(request)
                except PeerinferError as error:
                    raise await explained(reached.control, error) from None
                nursery.cancel_scope.cancel()
            live.clear()
            return await reached.control.job(job_id), reached.is_daemon

    job, is_daemon = trio.run(submit)
    report.print_instead(job)
    committee = len(job.get("committee") or ())
    outlives = "its electors hold copies" if committee > 1 else "it goes on as long as the daemon here runs"
    words = ["peerinfer", "jobs", "fetch", job["job_id"][:8], "-o", "OUT"]
    if not is_daemon:
        words += [word for address in arguments.bootstrap or () for word in ("--bootstrap", address)]
        words += ["--swarm", arguments.swarm] if arguments.swarm else []
    say(f"job {job['job_id']} is detached; {outlives}")
    say(f"come back with: {shlex.join(words)}")
    return 0


async def _show_copies(control: Control, before: list[str], live: LiveLine) -> None:
    """How much of the copies is there, of the job that was not there before."""
    live.show_text("reading the model and the inputs")
    while True:
        await trio.sleep(LOOK_AGAIN_S)
        try:
            jobs = [job for job in await control.jobs() if job.get("job_id") not in before]
        except PeerinferError:
            return  # Whoever submits says it.
        for job in jobs:
            whole = count_of(job, "copies_bytes")
            if whole:
                done = count_of(job, "copied_bytes")
                live.show_text(f"copied {format_size(done)} of {format_size(whole)} to the job's electors")
            else:
                live.show_text(f"job {str(job.get('job_id'))[:8]}: sealing copies of the inputs")
