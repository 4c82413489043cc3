"""A swarm for ordinary programs: `asynchronous`, run by an event loop in a thread of its own.

with peerinfer.connect() as swarm:
    job = swarm.submit("model.onnx", {"x": array}, verify="spot")
    for item in job.results(): ...
    outputs = job.result()
    y = swarm.infer("model.onnx", {"x": one})
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal
from numpy.typing import NDArray

from peerinfer.client import asynchronous
from peerinfer.client.handed import Inputs, Model, not_entered
from peerinfer.client.results import Arrays, Item
from peerinfer.control import Json
from peerinfer.errors import UsageError

T = TypeVar("T")


def connect(
    home: str | os.PathLike[str] | None = None,
    *,
    url: str = "",
    token: str = "",
    standalone: bool = False,
    invite: str | None = None,
    bootstrap: str | Sequence[str] = (),
) -> AbstractContextManager[Swarm]:
    """As `peerinfer.aio.connect`."""
    return _Connection(
        asynchronous.connect(home, url=url, token=token, standalone=standalone, invite=invite, bootstrap=bootstrap)
    )


class _Connection(AbstractContextManager["Swarm"]):
    """The swarm is there between entering and leaving."""

    def __init__(self, opened: AbstractAsyncContextManager[asynchronous.Swarm]) -> None:
        self._opened = opened
        self._stack = ExitStack()

    def __enter__(self) -> Swarm:
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal())
            swarm = stack.enter_context(portal.wrap_async_context_manager(self._opened))
            self._stack = stack.pop_all()
        return Swarm(_Calls(portal), swarm)

    def __exit__(self, *raised: Any) -> bool | None:
        return self._stack.__exit__(*raised)

    def __getattr__(self, name: str) -> Any:
        raise not_entered(name, "with peerinfer.connect(…) as swarm:")


class _Calls:
    """Runs coroutines in the loop, as long as it is there."""

    def __init__(self, portal: BlockingPortal) -> None:
        self._portal = portal

    def __call__(self, function: Callable[..., Awaitable[T]], *given: Any) -> T:
        try:
            return self._portal.call(function, *given)
        except RuntimeError as error:
            if "portal is not running" not in str(error):
                raise
            raise UsageError("this swarm is closed; use it inside its `with` block") from None


class Swarm:
    """As `peerinfer.aio.Swarm`; may be used by several threads at once."""

    def __init__(self, call: _Calls, swarm: asynchronous.Swarm) -> None:
        self._call = call
        self._swarm = swarm

    def submit(self, model: Model, inputs: Inputs, **options: Any) -> Job:
        return Job(self._call, self._call(lambda: self._swarm.submit(model, inputs, **options)))

    def infer(
        self,
        model: Model,
        inputs: Mapping[str, NDArray[Any]],
        *,
        timeout_s: float = 30.0,
        priority: str = "normal",
        verify: str = "none",
    ) -> Arrays:
        return self._call(
            lambda: self._swarm.infer(model, inputs, timeout_s=timeout_s, priority=priority, verify=verify)
        )

    def jobs(self) -> list[Json]:
        return self._call(self._swarm.jobs)

    def job(self, job_id: str) -> Job:
        return Job(self._call, self._call(self._swarm.job, job_id))

    def status(self) -> Json:
        return self._call(self._swarm.status)

    def peers(self) -> list[Json]:
        return self._call(self._swarm.peers)


class Job:
    """As `peerinfer.aio.Job`."""

    def __init__(self, call: _Calls, job: asynchronous.Job) -> None:
        self._call = call
        self._job = job

    @property
    def id(self) -> str:
        return self._job.id

    def show(self) -> Json:
        return self._call(self._job.show)

    def results(self) -> Iterator[Item]:
        items: Any = self._job.results()
        try:
            while True:
                try:
                    item: Item = self._call(items.__anext__)
                except StopAsyncIteration:
                    return
                yield item
        finally:
            self._call(items.aclose)

    def wait(self) -> Json:
        return self._call(self._job.wait)

    def result(self) -> Arrays:
        return self._call(self._job.result)

    def cancel(self) -> None:
        self._call(self._job.cancel)

    def prioritise(self, priority: str) -> None:
        self._call(self._job.prioritise, priority)
