"""A thread of its own for calls that block, one after the other, in the order in which they were asked for.

`trio.to_thread` gives a call to any thread of a pool and wakes the event loop for each. A lane keeps the order, lets
calls that wait together be done together (one transaction for all of them), and wakes the loop once for the lot.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import trio

from peerinfer.errors import StateUnusable

T = TypeVar("T")

BATCH_CALLS_MAX = 256
"""Calls performed together: the first of them waits for the last. A caller waits for its own call, so no more calls can
be queued than there are tasks."""


class Call:
    """One call and what became of it."""

    __slots__ = ("_done", "_token", "error", "value", "work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.value: Any = None
        self.error: BaseException | None = None
        self._done = trio.Event()
        self._token = trio.lowlevel.current_trio_token()

    def perform(self) -> None:
        """Runs the call and keeps its value or its error."""
        try:
            self.value = self.work()
        except BaseException as error:  # it is raised again where the call was made
            self.error = error


class Lane:
    """A thread that performs calls. `together` performs several; by default one after the other."""

    def __init__(self, name: str, together: Callable[[Sequence[Call]], None] | None = None) -> None:
        self._together = together if together is not None else _each
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def call(self, work: Callable[[], T]) -> T:
        """What `work()` returns or raises, from the lane's thread.

        When the waiting is cancelled, the call is performed all the same. Raises `StateUnusable` once closed.
        """
        if self._is_closed:
            raise StateUnusable("the node is stopping; its files are closed")
        call = Call(work)
        self._calls.put(call)
        await call._done.wait()
        if call.error is not None:
            raise call.error
        return cast(T, call.value)

    def close(self) -> None:
        """Performs what was asked for, then ends the thread. May be called twice."""
        if not self._is_closed:
            self._is_closed = True
            self._calls.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_open = True
        while is_open:
            batch: list[Call] = []
            waiting: Call | None = self._calls.get()
            while waiting is not None:
                batch.append(waiting)
                if len(batch) == BATCH_CALLS_MAX:
                    break
                try:
                    waiting = self._calls.get_nowait()
                except queue.Empty:
                    break
            else:
                is_open = False
            if batch:
                self._together(batch)
                _wake(batch)


def _each(calls: Sequence[Call]) -> None:
    for call in calls:
        call.perform()


def _wake(calls: Sequence[Call]) -> None:
    by_loop: dict[trio.lowlevel.TrioToken, list[Call]] = {}
    for call in calls:
        by_loop.setdefault(call._token, []).append(call)
    for token, done in by_loop.items():
        try:
            token.run_sync_soon(_set_done, done)
        except trio.RunFinishedError:
            continue  # the loop ended; nobody waits any more


def _set_done(calls: Sequence[Call]) -> None:
    for call in calls:
        call._done.set()
