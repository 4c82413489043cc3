"""Carries out `peerinfer run --detach`: submit, wait until the job outlives this command, say how to come back."""

from __future__ import annotations

import argparse

import trio

from peerinfer.control import JobRequest, Json
from peerinfer_node.cli.output import say, show_json
from peerinfer_node.cli.reaching import reach


def detach(arguments: argparse.Namespace, request: JobRequest) -> int:
    """Returns 0 once the job is durable on a quorum, or, with a committee of one, on the daemon that took it."""

    async def submit() -> Json:
        async with reach(arguments) as reached:
            say("handing the job over")
            job_id = await reached.control.submit(request)
            return await reached.control.job(job_id)

    job = trio.run(submit)
    if arguments.json:
        show_json(job)
    committee = len(job.get("committee") or ())
    outlives = "its electors hold copies" if committee > 1 else "it goes on as long as the daemon here runs"
    say(f"job {job['job_id']} is detached; {outlives}. Come back with: peerinfer jobs fetch {job['job_id'][:8]} -o OUT")
    return 0
