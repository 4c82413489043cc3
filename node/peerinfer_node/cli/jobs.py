"""jobs: the life of jobs after they were submitted."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from string import hexdigits
from typing import Any

from peerinfer.control import JOB_ENDED, PRIORITIES, Control, Json
from peerinfer.errors import Interrupted, JobFailed, UnknownJob, UsageError
from peerinfer.ids import is_job_id
from peerinfer.job_ends import check_own, count_of, error_of, failed_items, failed_tasks, ranges_text
from peerinfer.units import format_count, format_duration
from peerinfer_node.cli import arguments as take
from peerinfer_node.cli.arguments import Subcommands, add_command, add_json
from peerinfer_node.cli.outcome import is_worth_writing, level_text
from peerinfer_node.cli.output import say, show_json, table
from peerinfer_node.cli.place import add_place, output_of, with_daemon
from peerinfer_node.cli.view import look

PREFIX_CHARS_MIN = 4

_PROG = "peerinfer jobs"


def add(commands: Subcommands) -> None:
    parser = add_command(commands, "jobs", "List jobs, or look after one of them.", "peerinfer jobs show 3f2a")
    parser.epilog = "actions: show ID, attach ID, cancel ID, priority ID LEVEL,\nfetch ID -o OUT, rescue ID\n" + str(
        parser.epilog
    )
    add_json(parser, watch=True)
    add_place(parser)
    parser.set_defaults(command=_list)
    actions = parser.add_subparsers(metavar="ACTION", parser_class=type(parser))
    show = add_command(actions, "show", "How one job stands.", "peerinfer jobs show 3f2a --json", prog=_PROG)
    attach = add_command(
        actions, "attach", "Follow a job until it has ended.", "peerinfer jobs attach 3f2a", prog=_PROG
    )
    cancel = add_command(
        actions, "cancel", "Stop a job; what is done is kept.", "peerinfer jobs cancel 3f2a", prog=_PROG
    )
    priority = add_command(
        actions,
        "priority",
        f"Change a running job's priority: {', '.join(PRIORITIES)}.",
        "peerinfer jobs priority 3f2a high",
        prog=_PROG,
    )
    fetch = add_command(actions, "fetch", "Write a job's outputs.", "peerinfer jobs fetch 3f2a -o out.npz", prog=_PROG)
    rescue = add_command(
        actions,
        "rescue",
        "Go on without electors that are gone for good.",
        "peerinfer jobs rescue 3f2a --yes",
        prog=_PROG,
    )
    rescue.add_argument("--yes", action="store_true", help="do not ask first")
    for returns in (attach, fetch):
        returns.add_argument(
            "--bootstrap", metavar="ADDR", action="append", help="where no daemon runs: reach the swarm by this peer"
        )
        returns.add_argument("--swarm", metavar="INVITE", help="where no daemon runs: reach this private swarm")
        returns.add_argument("--config", metavar="FILE", help="where no daemon runs: read this file")
    fetch.add_argument(
        "-o", "--output", metavar="OUT", required=True, help=".npz, .parquet, .jsonl, or a folder ending in /"
    )
    show.add_argument("--timeline", action="store_true", help="its last frames, and what each spent in which stage")
    for action, command in (
        (show, _show),
        (attach, _attach),
        (cancel, _cancel),
        (priority, _prioritise),
        (fetch, _fetch),
        (rescue, _rescue),
    ):
        action.add_argument(
            "job", metavar="ID", help=f"a job's id, or its first {PREFIX_CHARS_MIN} characters and more"
        )
        add_json(action, watch=action is show, nested=True)
        add_place(action, nested=True)
        action.set_defaults(command=command)
    priority.add_argument("level", metavar="LEVEL", type=take.one_of(*PRIORITIES), help=", ".join(PRIORITIES))


Act = Callable[[Control, Callable[[str], Awaitable[None]]], Awaitable[None]]


def _with_home(arguments: argparse.Namespace, act: Act) -> None:
    """Runs `act` with the daemon of this home, or with a node that comes back to its jobs."""
    import trio

    from peerinfer_node.cli.reaching import revisit

    async def reached() -> None:
        async with revisit(arguments) as (control, come_back_to):
            await act(control, come_back_to)

    trio.run(reached)


async def find(control: Control, text: str) -> str:
    """The id of the job that `text` begins. Raises `UsageError` if none or several do."""
    text = text.lower()
    if is_job_id(text):
        return text
    if len(text) < PREFIX_CHARS_MIN:
        raise UsageError(f"{text!r} is too short for a job's id; give {PREFIX_CHARS_MIN} characters or more")
    found = [str(job.get("job_id")) for job in await control.jobs() if str(job.get("job_id")).startswith(text)]
    if not found and all(character in hexdigits for character in text):
        with suppress(UsageError):  # One that this node elects for is in no list unless it coordinates it.
            found = [str((await control.job(text)).get("job_id"))]
    if not found:
        raise UnknownJob(f"there is no job {text[:40]!r}; `peerinfer jobs` lists them")
    if len(found) > 1:
        raise UsageError(f"{len(found)} jobs begin with {text!r}; give more of the id")
    return found[0]


def _list(arguments: argparse.Namespace) -> int:
    return look(arguments, lambda control: control.jobs(), list_lines)


def _show(arguments: argparse.Namespace) -> int:
    async def ask_timeline(control: Control) -> list[Json]:
        return await control.timeline(await find(control, arguments.job))

    if arguments.timeline:
        return look(arguments, ask_timeline, timeline_lines)

    async def ask(control: Control) -> Json:
        return await control.job(await find(control, arguments.job))

    return look(arguments, ask, job_lines)


def _cancel(arguments: argparse.Namespace) -> int:
    def said(job: Json) -> str:
        return f"is {job.get('reason') or 'cancelled'}; run it again with --resume to go on from what is done"

    return _change(arguments, lambda control, job: control.cancel(job), said)


def _prioritise(arguments: argparse.Namespace) -> int:
    level = arguments.level
    return _change(
        arguments, lambda control, job: control.prioritise(job, level), lambda job: f"has priority {level} now"
    )


def _change(
    arguments: argparse.Namespace, act: Callable[[Control, str], Awaitable[None]], said: Callable[[Json], str]
) -> int:
    """Does it to the job, and shows the job or what is said of it."""

    async def change(control: Control) -> None:
        job = await find(control, arguments.job)
        await act(control, job)
        shown = await control.job(job)
        if arguments.json:
            show_json(shown)
        else:
            say(f"job {job} {said(shown)}")

    with_daemon(arguments, change)
    return 0


def _rescue(arguments: argparse.Namespace) -> int:
    async def plan(control: Control) -> None:
        job = await find(control, arguments.job)
        plans.append(await control.rescue(job, confirmed=False))

    async def begin(control: Control) -> None:
        done = await control.rescue(plans[0]["job_id"], confirmed=True)
        if arguments.json:
            show_json(done)
        else:
            say(
                f"job {done['job_id']} goes on in generation {done['generation']}, "
                f"{format_count(count_of(done, 'carried'), 'result')} carried over"
            )

    plans: list[Json] = []
    with_daemon(arguments, plan)
    for line in rescue_lines(plans[0]):
        say(line)
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise UsageError("nobody can be asked here; add --yes to name the new committee")
        if input("Name the new committee? [y/N] ").strip().lower() not in ("y", "yes"):
            raise Interrupted("nothing was changed")
    with_daemon(arguments, begin)
    return 0


def _attach(arguments: argparse.Namespace) -> int:
    async def attach(control: Control, come_back_to: Callable[[str], Awaitable[None]]) -> None:
        from peerinfer_node.cli.following import follow
        from peerinfer_node.cli.interrupts import open_stop
        from peerinfer_node.cli.progress import LiveLine

        job = await find(control, arguments.job)
        await come_back_to(job)
        last: Json = {}
        async with open_stop() as stop:
            last = await follow(control, job, LiveLine(), stop, cancels=False)
            if stop.asked.is_set():
                raise Interrupted(f"detached; job {job} goes on. Come back with: peerinfer jobs attach {job}")
        _tell(arguments, last)
        if is_worth_writing(last) and last.get("own") is False:
            say(f"job {job} is done; its outputs are its submitter's, {last.get('submitter')}")
        elif is_worth_writing(last):
            say(f"job {job} is done; write its outputs with: peerinfer jobs fetch {job} -o OUT")
        _raise_error_of(last)

    _with_home(arguments, attach)
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    if not arguments.output:
        raise UsageError("name the output with -o OUT, like -o out.npz")

    async def fetch(control: Control, come_back_to: Callable[[str], Awaitable[None]]) -> None:
        import trio

        from peerinfer_node.cli.following import begin_writing, bring_home
        from peerinfer_node.cli.progress import LiveLine

        job_id = await find(control, arguments.job)
        await come_back_to(job_id)
        job = await control.job(job_id)
        check_own(job)
        if job.get("state") not in JOB_ENDED:
            raise UsageError(f"the job is {job.get('state')}; wait for it with: peerinfer jobs attach {arguments.job}")
        if not is_worth_writing(job):
            raise error_of(job) or JobFailed("the job has no outputs")
        writer = await trio.to_thread.run_sync(begin_writing, job, output, None)
        try:
            written = await bring_home(control, job, writer, output, LiveLine())
        finally:
            writer.abort()
        if arguments.json:
            show_json({"job_id": job["job_id"], "output": output, "provenance": written.provenance})
        else:
            say(f"{format_count(count_of(job, 'items'), 'item')}: {output}")
        _raise_error_of(job)

    output = output_of(arguments)
    _with_home(arguments, fetch)
    return 0


def _tell(arguments: argparse.Namespace, job: Json) -> None:
    if arguments.json:
        show_json(job)


def _raise_error_of(job: Json) -> None:
    error = error_of(job)
    if error is not None:
        raise error


# --- answers as lines ----------------------------------------------------------------------------------------------


def list_lines(jobs: list[Json]) -> list[str]:
    if not jobs:
        return ["no jobs"]
    rows = [
        (
            str(job.get("job_id"))[:12],
            job.get("state"),
            f"{format_count(count_of(job, 'accepted'))}/{format_count(count_of(job, 'tasks'))}",
            format_count(count_of(job, "items")),
            format_count(count_of(job, "failed_tasks")),
            _duration(job.get("elapsed_s")),
            _whose_model(job),
        )
        for job in jobs
    ]
    return table(("JOB", "STATE", "TASKS", "ITEMS", "FAILED", "TIME", "MODEL"), rows)


def _whose_model(job: Json) -> str:
    """Of jobs that this node coordinates for another, whose they are: their files have no names here."""
    if job.get("own") is False:
        return f"coordinated for {str(job.get('submitter'))[-8:]}"
    return os.path.basename(str(job.get("model") or ""))


def rescue_lines(plan: Json) -> list[str]:
    """What is lost, what is kept, and who would elect."""
    missing, committee = plan.get("missing") or (), plan.get("committee") or ()
    answering = len(plan.get("answering") or ())
    return [
        f"{answering} of {answering + len(missing)} electors answer, {plan.get('quorum')} are needed; missing:",
        *(f"  {peer}" for peer in missing),
        f"a journal that is left names {format_count(count_of(plan, 'named'), 'result')}; "
        "those whose outputs are still at hand are carried over, all others are computed again",
        "what the old committee accepts from here on, should it come back, counts nowhere",
        "the new committee:",
        *(f"  {peer}" for peer in committee),
    ]


def timeline_lines(frames: list[Json]) -> list[str]:
    if not frames:
        return ["no frames of this job are remembered here; its coordinator knows them"]
    rows = [
        (
            _milliseconds(frame.get("at_s")),
            "check" if frame.get("frame") is None else str(frame.get("frame")),
            frame.get("tasks"),
            *(_milliseconds(frame.get(f"{stage}_s")) for stage in ("queue", "transfer", "compute", "verify")),
            str(frame.get("peer") or "this node")[-10:],
        )
        for frame in frames
    ]
    return table(("AT", "FRAME", "TASKS", "QUEUE", "TRANSFER", "COMPUTE", "VERIFY", "PEER"), rows)


def _milliseconds(seconds: Any) -> str | None:
    return f"{seconds * 1000:.1f} ms" if type(seconds) in (int, float) else None


def job_lines(job: Json) -> list[str]:
    failed = failed_tasks(job)
    rows: list[tuple[str, Any]] = [
        ("job", job.get("job_id")),
        ("state", job.get("state")),
        ("why", job.get("reason") or job.get("blocked")),
        ("model", job.get("model")),
        ("submitter", f"{job.get('submitter')}{', another node' if job.get('own') is False else ''}"),
        ("coordinator", job.get("coordinator")),
        ("term", _term(job)),
        ("committee", ", ".join(str(peer) for peer in job.get("committee") or ())),
        ("lease", _duration(job.get("lease_s"))),
        ("items", format_count(count_of(job, "items"))),
        ("tasks", format_count(count_of(job, "tasks"))),
        ("accepted", format_count(count_of(job, "accepted"))),
        ("final", format_count(count_of(job, "final"))),
        ("results", f"none here any more: {job['results_gone']}" if job.get("results_gone") else None),
        ("failed", f"items {ranges_text(failed_items(failed))}: {failed[0].reason}" if failed else None),
        ("verify", job.get("verify")),
        ("verified", level_text(job)),
        ("strategy", job.get("strategy")),
        ("priority", job.get("priority")),
        ("deadline", _duration(job.get("deadline_s"))),
        ("time", _duration(job.get("elapsed_s"))),
        *(("handover", _handover(each)) for each in job.get("handovers") or ()),
    ]
    return [f"{name:<12} {value}" for name, value in rows if value not in (None, "")]


def _handover(each: Json) -> str:
    at_s = each.get("at")
    when = time.strftime("%H:%M:%S", time.localtime(at_s)) if isinstance(at_s, (int, float)) else "?"
    return f"{when} term {_term(each)} to {str(each.get('coordinator'))[-8:]}: {each.get('why')}"


def _term(each: Json) -> str | None:
    """Terms are counted anew after every rescue."""
    term, generation = each.get("term"), each.get("generation")
    return None if term is None else f"{term} of generation {generation}" if generation else str(term)


def _duration(value: Any) -> str | None:
    return format_duration(value) if type(value) in (int, float) and 0 <= value < 1e11 else None
