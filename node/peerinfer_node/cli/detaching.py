"""Carries out `peerinfer run --detach`: submit, wait until the job outlives this command, say how to come back."""

from __future__ import annotations

import argparse

import trio

from peerinfer.control import JobRequest, Json
from peerinfer_node.cli.output import say, show_json
from peerinfer_node.cli.reaching import reach


def detach(arguments: argparse.Namespace, request: JobRequest) -> int:
    """Returns 0 once the job is durable on a quorum, or, with a committee of one, on the daemon that took it."""

    async def submit() -> tuple[Json, bool]:
        async with reach(arguments) as reached:
            say("handing the job over, with copies of its inputs")
            job_id = await reached.control.submit(request)
            return await reached.control.job(job_id), reached.is_daemon

    job, is_daemon = trio.run(submit)
    if arguments.json:
        show_json(job)
    committee = len(job.get("committee") or ())
    outlives = "its electors hold copies" if committee > 1 else "it goes on as long as the daemon here runs"
    # Results come to a daemon of this identity; what was told to this command's own node is told to it again.
    first = "" if is_daemon else "a daemon here (peerinfer join, with the same swarm or --bootstrap), then "
    say(f"job {job['job_id']} is detached; {outlives}")
    say(f"come back with: {first}peerinfer jobs fetch {job['job_id'][:8]} -o OUT")
    return 0
