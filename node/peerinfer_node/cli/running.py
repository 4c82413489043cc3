"""Carries out `peerinfer run`: submit, follow, write, tell."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence

import trio

from peerinfer.control import Control, JobRequest, Json
from peerinfer.errors import Interrupted, NoSuitablePeer, UsageError
from peerinfer.job_ends import error_of
from peerinfer.units import format_count
from peerinfer_node.cli.following import begin_writing, bring_home, cancel, follow
from peerinfer_node.cli.interrupts import Stop, open_stop
from peerinfer_node.cli.outcome import is_worth_writing, ports_of, summary_line
from peerinfer_node.cli.output import say
from peerinfer_node.cli.place import output_of
from peerinfer_node.cli.progress import LiveLine, items_done
from peerinfer_node.cli.reaching import Reached, explained, reach
from peerinfer_node.cli.report import Report
from peerinfer_node.formats import OutputWriter, open_inputs
from peerinfer_node.formats.images import IMAGE_EXTENSIONS

LEAVE_TIMEOUT_S = 2.0


def run(arguments: argparse.Namespace, request: JobRequest, report: Report) -> int:
    """Returns 0; everything else is raised as the error whose exit code it is."""
    output = output_of(arguments)
    _check_overwrites_nothing(output, [arguments.model, *arguments.inputs])
    return trio.run(_Run(arguments, request, output, report).run)


def _check_overwrites_nothing(output: str, read: Sequence[str]) -> None:
    """The output takes its name at the end: over an input, it would be the end of the user's data."""
    for path in read:
        if os.path.exists(output) and os.path.exists(path) and os.path.samefile(output, path):
            raise UsageError(f"{output} is an input of this run and would be overwritten; name another output")


class _Run:
    def __init__(self, arguments: argparse.Namespace, request: JobRequest, output: str, report: Report) -> None:
        self._arguments = arguments
        self._request = request
        self._output = output
        self._live = LiveLine()
        self._is_submitted = False
        self._keeps = True
        self._report = report

    async def run(self) -> int:
        code: int | None = None
        async with open_stop() as stop, trio.open_nursery() as nursery:

            async def stop_early() -> None:
                await stop.asked.wait()
                # A job that may have been accepted is cancelled by name, lest it run on for nobody.
                if not self._is_submitted:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(stop_early)
            async with reach(self._arguments, self._live.note) as reached:
                code = await self._carry_out(reached, stop)
            nursery.cancel_scope.cancel()
        self._live.clear()
        if code is None:
            raise self._interrupted()
        return code

    async def _carry_out(self, reached: Reached, stop: Stop) -> int:
        control = reached.control
        self._keeps = reached.keeps
        self._live.show_text("reading the model and the inputs")
        self._is_submitted = True
        self._report.begin()
        try:
            job_id = await control.submit(self._request)
        except NoSuitablePeer as error:
            raise await explained(control, error) from None
        try:
            job = await control.job(job_id)
            self._report.job = job
            for warning in job.get("warnings") or ():
                self._live.note(f"warning: {warning}")
            writer = await trio.to_thread.run_sync(_begin, self._request, job, self._output)
        except BaseException:
            await self._cancel_within(control, job_id)
            raise
        try:
            return await self._follow_and_write(control, job_id, writer, stop)
        except trio.Cancelled:
            await self._cancel_within(control, job_id)
            raise
        finally:
            writer.abort()

    async def _follow_and_write(self, control: Control, job_id: str, writer: OutputWriter, stop: Stop) -> int:
        job = await follow(control, job_id, self._live, stop, cancels=True)
        self._report.job = job
        seconds = self._report.seconds
        written = None
        error = error_of(job)
        if is_worth_writing(job):
            written = await bring_home(control, job, writer, self._output, self._live)
        elif stop.asked.is_set():
            error = self._interrupted()
        elif error is not None:
            error = await explained(control, error)
        self._report.print(written=written, error=error)
        if written is not None:
            say(summary_line(job, seconds=seconds, written=written))
        if error is not None:
            raise error
        return 0

    async def _cancel_within(self, control: Control, job_id: str) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + LEAVE_TIMEOUT_S):
            await cancel(control, job_id)

    def _interrupted(self) -> Interrupted:
        job = self._report.job
        if not job:
            return Interrupted("interrupted; nothing was sent")
        done = f"{format_count(items_done(job))} of {format_count(job.get('items') or 0)} items were done"
        if not self._keeps:
            return Interrupted(f"interrupted; {done}, and not kept, because another node uses this home")
        given = [argument for argument in self._arguments.given if argument != "--resume"]
        return Interrupted(
            f"interrupted; {done} and are kept. To go on: {shlex.join(['peerinfer', *given, '--resume'])}"
        )


def _begin(request: JobRequest, job: Json, output: str) -> OutputWriter:
    """Blocks."""
    return begin_writing(job, output, _item_names(request, job, output))


def _item_names(request: JobRequest, job: Json, output: str) -> Sequence[str] | None:
    """Names for the files of an output folder, where the inputs are image files; None where items have no names."""
    if "inputs" not in job:
        return None
    is_folder = output.endswith("/") or not os.path.splitext(output)[1]
    is_images = any(os.path.isdir(path) or path.lower().endswith(IMAGE_EXTENSIONS) for path in request.inputs)
    if not is_folder or not is_images:
        return None
    inputs = open_inputs(
        request.inputs,
        ports_of(job, "inputs"),
        image_size=request.image_size,
        image_layout=request.image_layout,
        image_mean=request.image_mean,
        image_std=request.image_std,
    )
    return inputs.item_names
