"""A job that runs: shown while it goes on, cancelled when the user asks, its results brought home when it has ended."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from peerinfer.control import JOB_ENDED, Control, Json
from peerinfer.errors import JobFailed, PeerinferError
from peerinfer.job_ends import count_of, failed_items, failed_tasks
from peerinfer_node.cli.interrupts import Stop
from peerinfer_node.cli.outcome import Written, missing_items, ports_of
from peerinfer_node.cli.progress import LiveLine, Speed, progress_of
from peerinfer_node.formats import OutputWriter, open_writer, write_provenance

CANCEL_TIMEOUT_S = 10.0
"""For a cancelled job to come to rest."""


@asynccontextmanager
async def closing(source: Any) -> AsyncIterator[Any]:
    """Closes an asynchronous generator where it is left."""
    try:
        yield source
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                await close()


async def follow(control: Control, job: str, live: LiveLine, stop: Stop, *, cancels: bool) -> Json:
    """Shows the job until it has ended, or until the user asks to stop; returns its last picture.

    With `cancels`, stopping cancels the job first and waits `CANCEL_TIMEOUT_S` for its end.
    """
    last = await control.job(job)
    speed = Speed()
    async with trio.open_nursery() as nursery:

        async def stop_when_asked() -> None:
            await stop.asked.wait()
            if cancels:
                live.note("stopping cleanly; Ctrl-C again stops at once")
                with trio.move_on_after(CANCEL_TIMEOUT_S):
                    await cancel(control, job)
                    await trio.sleep_forever()
            nursery.cancel_scope.cancel()

        nursery.start_soon(stop_when_asked)
        async with closing(control.watch(job)) as pictures:
            async for picture in pictures:
                last = picture
                live.show(progress_of(picture, speed, time.monotonic()))
                if picture.get("state") in JOB_ENDED:
                    break
        nursery.cancel_scope.cancel()
    live.clear()
    return last


async def cancel(control: Control, job: str) -> None:
    """Cancels a job, which may have ended by itself meanwhile or with its node."""
    try:
        await control.cancel(job)
    except PeerinferError:
        return


def begin_writing(job: Json, output: str, item_names: Sequence[str] | None) -> OutputWriter:
    """Blocks. Raises as `open_writer`."""
    return open_writer(output, ports_of(job, "outputs"), count_of(job, "items"), item_names=item_names)


async def bring_home(control: Control, job: Json, writer: OutputWriter, output: str, live: LiveLine) -> Written:
    """Writes the results of an ended job and their provenance.

    Raises `JobFailed` if results are missing that should be there, `StateUnusable` if they cannot be written.
    """
    job_id, items = str(job["job_id"]), count_of(job, "items")
    came: list[tuple[int, int]] = []
    async with closing(control.results(job_id)) as blocks:
        async for block in blocks:
            await trio.to_thread.run_sync(writer.add, block.first_item, block.items, block.rows)
            came.append((block.first_item, block.items))
    missing = missing_items(came, items)
    expected = failed_items(failed_tasks(job))
    # A long list of failed tasks is cut by the node, which still counts them.
    is_cut = count_of(job, "failed_tasks") > len(job.get("failed") or ())
    if missing != expected and not is_cut:
        lost = len(set(missing) - set(expected))
        raise JobFailed(
            f"the node no longer holds the results of {lost} of {items} items; run the job again with --resume"
        )
    live.show_text(f"writing {os.path.basename(output.rstrip('/'))}")
    # From here on the file appears whole or not at all, and takes no longer than copying it.
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(writer.finish, missing)
    live.clear()
    for warning in writer.warnings:
        live.note(f"warning: {warning}")
    document = await control.provenance(job_id)
    return Written(output, await trio.to_thread.run_sync(write_provenance, output, document), missing)
