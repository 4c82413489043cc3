"""The one driver of machines: wait for an event or the deadline, ask the machine, perform its effects in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

import trio

from peerinfer.machine import Machine, Tick

E = TypeVar("E")
F = TypeVar("F")

EVENTS_WAITING_MAX = 100_000
"""Every source of events is itself bounded (windows, streams, requests); beyond this something is broken."""

EVENTS_OF_PEERS_MAX = 1000
"""While more events wait, nothing more is read from peers: they can talk faster than a disk takes results."""


WAIT_MIN_S = 1e-6
"""A lease's clock is not trio's: what it lacks of a deadline may be too little for the other one to move at all."""


class Clock(Protocol):
    """Whichever clock the machine's times are of."""

    def now_s(self) -> float: ...


class Reading:
    """One face of a node's clock."""

    def __init__(self, read: Callable[[], float]) -> None:
        self._read = read

    def now_s(self) -> float:
        return self._read()


class Driver(Generic[E, F]):
    """Runs one machine. `post` may be called from anywhere in the event loop, also while an effect is performed."""

    def __init__(
        self,
        machine: Machine[E, F],
        clock: Clock,
        perform: Callable[[F], Awaitable[None]],
        perform_nowait: Callable[[F], bool] | None = None,
    ) -> None:
        """`perform_nowait` performs an effect that need not wait and returns True, or leaves it to `perform`.

        With it an event is handled where it is posted, if the driver has nothing else to do: a task less that has to be
        woken between a message and its answer.
        """
        self._machine = machine
        self._clock = clock
        self._perform = perform
        self._perform_nowait = perform_nowait
        self._due: deque[F] = deque()
        """Effects that are left to `run`."""
        self._is_idle = False
        self._rest = trio.CancelScope()
        """Until the next event or the deadline."""
        self._events: deque[E | Tick] = deque()
        self._posted = trio.Event()
        self._has_room = trio.Event()

    def post(self, event: E) -> None:
        if len(self._events) >= EVENTS_WAITING_MAX:
            raise RuntimeError(f"{len(self._events)} events wait for {type(self._machine).__name__}")
        self._events.append(event)
        if self._is_idle and self._perform_nowait is not None:
            self._handle_here(self._perform_nowait)
        else:
            self._posted.set()

    def _handle_here(self, perform_nowait: Callable[[F], bool]) -> None:
        """Events that are posted meanwhile wait for their turn in the loop, as they do in `run`."""
        self._is_idle = False
        try:
            while self._events:
                self._due += self._machine.handle(self._events.popleft(), self._clock.now_s())
                while self._due:
                    if not perform_nowait(self._due[0]):
                        return
                    self._due.popleft()
        finally:
            self._is_idle = not self._due and not self._events
            if not self._is_idle:
                self._posted.set()
        self._rest.deadline = trio.current_time() + self._wait_s()

    def _wait_s(self) -> float:
        wait_s = self._machine.deadline_s - self._clock.now_s()
        return max(wait_s, WAIT_MIN_S) if wait_s > 0 else 0.0

    async def wait_room(self) -> None:
        """Returns when few enough events wait that a peer may cause more. Not to be called while performing."""
        while len(self._events) >= EVENTS_OF_PEERS_MAX:
            await self._has_room.wait()

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            if not self._events and not self._due:
                self._posted = trio.Event()
                with trio.move_on_after(self._wait_s()) as self._rest:
                    self._is_idle = True
                    try:
                        await self._posted.wait()
                    finally:
                        self._is_idle = False
                if not self._events and not self._due:
                    self._events.append(Tick())
            while self._due:
                await self._perform(self._due.popleft())
            while self._events:
                event = self._events.popleft()
                if len(self._events) < EVENTS_OF_PEERS_MAX:
                    self._has_room.set()
                    self._has_room = trio.Event()
                for effect in self._machine.handle(event, self._clock.now_s()):
                    await self._perform(effect)
