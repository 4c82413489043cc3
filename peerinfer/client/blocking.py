"""A swarm for ordinary programs: `asynchronous`, run by an event loop in a thread of its own.

with peerinfer.connect() as swarm:
    job = swarm.submit("model.onnx", {"x": array}, verify="spot")
    for item in job.results(): ...
    outputs = job.result()
    y = swarm.infer("model.onnx", {"x": one})
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal
from numpy.typing import NDArray

from peerinfer.client import asynchronous
from peerinfer.client.asynchronous import Inputs, Model
from peerinfer.client.results import Arrays, Item
from peerinfer.control import Json


@contextmanager
def connect(
    home: str | os.PathLike[str] | None = None,
    *,
    url: str = "",
    token: str = "",
    standalone: bool = False,
    invite: str | None = None,
    bootstrap: Sequence[str] = (),
) -> Iterator[Swarm]:
    """As `peerinfer.aio.connect`."""
    with start_blocking_portal() as portal:
        opened = asynchronous.connect(
            home, url=url, token=token, standalone=standalone, invite=invite, bootstrap=bootstrap
        )
        with portal.wrap_async_context_manager(opened) as swarm:
            yield Swarm(portal, swarm)


class Swarm:
    """As `peerinfer.aio.Swarm`; may be used by several threads at once."""

    def __init__(self, portal: BlockingPortal, swarm: asynchronous.Swarm) -> None:
        self._portal = portal
        self._swarm = swarm

    def submit(self, model: Model, inputs: Inputs, **options: Any) -> Job:
        return Job(self._portal, self._portal.call(lambda: self._swarm.submit(model, inputs, **options)))

    def infer(
        self,
        model: Model,
        inputs: Mapping[str, NDArray[Any]],
        *,
        timeout_s: float = 30.0,
        priority: str = "normal",
        verify: str = "none",
    ) -> Arrays:
        return self._portal.call(
            lambda: self._swarm.infer(model, inputs, timeout_s=timeout_s, priority=priority, verify=verify)
        )

    def jobs(self) -> list[Json]:
        return self._portal.call(self._swarm.jobs)

    def job(self, job_id: str) -> Job:
        return Job(self._portal, self._portal.call(self._swarm.job, job_id))

    def status(self) -> Json:
        return self._portal.call(self._swarm.status)

    def peers(self) -> list[Json]:
        return self._portal.call(self._swarm.peers)


class Job:
    """As `peerinfer.aio.Job`."""

    def __init__(self, portal: BlockingPortal, job: asynchronous.Job) -> None:
        self._portal = portal
        self._job = job

    @property
    def id(self) -> str:
        return self._job.id

    def show(self) -> Json:
        return self._portal.call(self._job.show)

    def results(self) -> Iterator[Item]:
        items: Any = self._job.results()
        try:
            while True:
                try:
                    item: Item = self._portal.call(items.__anext__)
                except StopAsyncIteration:
                    return
                yield item
        finally:
            self._portal.call(items.aclose)

    def wait(self) -> Json:
        return self._portal.call(self._job.wait)

    def result(self) -> Arrays:
        return self._portal.call(self._job.result)

    def cancel(self) -> None:
        self._portal.call(self._job.cancel)

    def prioritise(self, priority: str) -> None:
        self._portal.call(self._job.prioritise, priority)
