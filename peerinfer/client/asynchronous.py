"""A swarm for asynchronous programs.

    async with peerinfer.aio.connect() as swarm:
        job = await swarm.submit("model.onnx", {"x": array}, verify="spot")
        async for item in job.results(): ...
        outputs = await job.result()
        y = await swarm.infer("model.onnx", {"x": one})

Errors are those of `peerinfer.errors`, the same that give the command line its exit codes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import IO, Any

import anyio
import httpx
from numpy.typing import NDArray

from peerinfer.client.daemon import HttpControl, refusal
from peerinfer.client.embedded import node_socket
from peerinfer.client.handed import (
    Inputs,
    Model,
    arrays_of,
    check_job,
    check_timeout,
    check_url,
    model_of,
    not_entered,
    options_of,
    paths_of,
    write_arrays,
)
from peerinfer.client.online import LENGTH, outputs_of, request_of
from peerinfer.client.results import Arrays, Gathered, Item, error_of, whole
from peerinfer.control import JOB_ENDED, PRIORITIES, JobRequest, Json
from peerinfer.errors import DecodeError, InputError, UsageError

PIECE_BYTES = 1 << 18
NEW_SHARE = 0.05
"""Results are fetched again when so many more of a job's tasks are there: each time all of them travel."""


def connect(
    home: str | os.PathLike[str] | None = None,
    *,
    url: str = "",
    token: str = "",
    standalone: bool = False,
    invite: str | None = None,
    bootstrap: str | Sequence[str] = (),
) -> AbstractAsyncContextManager[Swarm]:
    """The daemon of `home` (else of `PEERINFER_HOME`, else the user's), or a node that ends with the context.

    `url` and `token` reach a node over TCP. `standalone` computes on this machine, by a node of its own in a home of its
    own; `invite` and `bootstrap` lead a node that must be started to its swarm.
    """
    addresses = (bootstrap,) if isinstance(bootstrap, str) else bootstrap
    return _Connection(_found(home, url, standalone, invite, addresses), url, token)


class _Connection(AbstractAsyncContextManager["Swarm"]):
    """The swarm is there between entering and leaving."""

    def __init__(self, found: AbstractAsyncContextManager[str], url: str, token: str) -> None:
        self._found = found
        self._url = url
        self._token = token
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Swarm:
        async with AsyncExitStack() as stack:
            socket = await stack.enter_async_context(self._found)
            control = await stack.enter_async_context(HttpControl(socket, url=self._url, token=self._token))
            self._stack = stack.pop_all()
        return Swarm(control)

    async def __aexit__(self, *raised: Any) -> bool | None:
        return await self._stack.__aexit__(*raised)

    def __getattr__(self, name: str) -> Any:
        raise not_entered(name, "async with peerinfer.aio.connect(…) as swarm:")


@asynccontextmanager
async def _found(
    home: str | os.PathLike[str] | None, url: str, standalone: bool, invite: str | None, bootstrap: Sequence[str]
) -> AsyncGenerator[str, None]:
    if standalone and (url or invite is not None or bootstrap):
        other = "url" if url else "bootstrap" if bootstrap else "invite"
        raise UsageError(f"standalone computes on this machine alone, {other} leads to others; choose one of them")
    if url:
        check_url(url)
        yield ""
        return
    if standalone and home is None:
        with tempfile.TemporaryDirectory(prefix="peerinfer-", ignore_cleanup_errors=True) as folder:
            async with node_socket(Path(folder), standalone=True, invite=invite, bootstrap=bootstrap) as socket:
                yield socket
        return
    if home is not None and not isinstance(home, str | os.PathLike):
        raise UsageError("home: give a folder, or nothing for this user's own")
    path = None if home is None else Path(home)
    async with node_socket(path, standalone=standalone, invite=invite, bootstrap=bootstrap) as socket:
        yield socket


class Swarm:
    """A node, and through it the swarm."""

    def __init__(self, control: HttpControl) -> None:
        self.control = control
        """Everything that the command line can ask of a node."""
        self._models: dict[tuple[str, int, int], str] = {}

    async def submit(self, model: Model, inputs: Inputs, **options: Any) -> Job:
        """Starts a job; `options` are the fields of `peerinfer.control.JobRequest`, like `verify` and `batch`.

        Arrays are sent to the node; paths must be readable for it. Nothing was started if this raises.
        """
        given = model_of(model)
        is_arrays = isinstance(inputs, Mapping)
        arrays, paths = arrays_of(inputs) if is_arrays else {}, [] if is_arrays else paths_of(inputs)
        uploaded: list[str] = []
        try:
            if isinstance(given, bytes):
                path = await self._upload_bytes("model.onnx", given)
                uploaded.append(path)
            else:
                path = given
            if arrays:
                uploaded.append(await self._upload_arrays(arrays))
                paths = [uploaded[-1]]
            request = JobRequest.from_mapping({"model": path, "inputs": paths, **options_of(options)})
            return Job(self, await self.control.submit(request), uploaded)
        except BaseException as error:
            with anyio.move_on_after(5, shield=True):
                for path in uploaded:
                    await self.remove_upload(path)
            # What was uploaded lay under a path that says nothing to the caller.
            for path in uploaded:
                error.args = tuple(str(said).replace(path, os.path.basename(path)) for said in error.args)
            raise

    async def infer(
        self,
        model: Model,
        inputs: Mapping[str, NDArray[Any]],
        *,
        timeout_s: float = 30.0,
        priority: str = "normal",
        verify: str = "none",
    ) -> Arrays:
        """One online request: what the model makes of these inputs. A model's bytes are sent once."""
        arrays = arrays_of(inputs)
        check_timeout(timeout_s)
        asked = {"timeout": round(timeout_s * 1e6), "priority": priority, "verify": verify}
        body, headers = request_of(arrays, asked)
        path = f"/v2/models/{await self._cid(model)}/infer"
        answer = await self._ask("POST", path, content=body, headers=headers, timeout=timeout_s + 60)
        return outputs_of(answer.content, answer.headers.get(LENGTH))

    async def jobs(self) -> list[Json]:
        return await self.control.jobs()

    async def job(self, job_id: str) -> Job:
        """A job that was submitted before, by its id or the beginning of it. Raises `UnknownJob`."""
        check_job(job_id)
        shown = await self.control.job(job_id)
        return Job(self, str(shown.get("job_id") or job_id), [])

    async def status(self) -> Json:
        return await self.control.status()

    async def peers(self) -> list[Json]:
        return await self.control.peers()

    async def remove_upload(self, path: str) -> None:
        await self._ask("DELETE", "/api/v1/uploads", params={"path": path})

    # --- bytes on their way ----------------------------------------------------------------------------------------

    async def _cid(self, model: Model) -> str:
        path = model_of(model)
        if isinstance(path, bytes):
            return await self._put_blob(path)
        try:
            found = os.stat(path)
            key = (path, found.st_mtime_ns, found.st_size)
            if key not in self._models:
                self._models[key] = await self._put_blob(await anyio.Path(path).read_bytes())
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from None
        return self._models[key]

    async def _put_blob(self, data: bytes) -> str:
        return str((await self._ask("POST", "/api/v1/blobs", content=data, timeout=None)).json()["cid"])

    async def _upload_bytes(self, name: str, data: bytes) -> str:
        answer = await self._ask("POST", "/api/v1/uploads", params={"name": name}, content=data, timeout=None)
        return str(answer.json()["path"])

    async def _upload_arrays(self, arrays: Arrays) -> str:
        with tempfile.TemporaryFile() as file:
            await anyio.to_thread.run_sync(write_arrays, file, arrays)
            size = file.tell()
            file.seek(0)
            headers = {"Content-Length": str(size)}
            options = {"content": _pieces(file), "headers": headers, "timeout": None}
            answer = await self._ask("POST", "/api/v1/uploads", params={"name": "inputs.npz"}, **options)
        return str(answer.json()["path"])

    async def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = await self.control.http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise self.control.translated(error) from None
        if not answer.is_success:
            raise refusal(answer)
        return answer


class Job:
    """A job of the node. It goes on whether or not anybody waits for it."""

    def __init__(self, swarm: Swarm, job_id: str, uploaded: list[str]) -> None:
        self.id = job_id
        self._swarm = swarm
        self._uploaded = uploaded

    async def show(self) -> Json:
        """How it stands: the fields of `peerinfer jobs show --json`."""
        return await self._swarm.control.job(self.id)

    async def results(self) -> AsyncIterator[Item]:
        """Items as they are accepted, each once, in any order. Raises at the end what `result` raises."""
        gathered, had, last = Gathered(), 0, {}
        control = self._swarm.control
        async with aclosing(control.watch(self.id)) as pictures:
            async for picture in pictures:
                last = picture
                accepted = picture.get("accepted") or 0
                if accepted - had > NEW_SHARE * (picture.get("tasks") or 0) or picture.get("state") in JOB_ENDED:
                    had = accepted
                    async with aclosing(control.results(self.id)) as blocks:
                        async for block in blocks:
                            for item in gathered.items(block):
                                yield item
        await self._over(last)

    async def wait(self) -> Json:
        """The job when it has ended. Raises nothing if it failed."""
        last: Json = {}
        async with aclosing(self._swarm.control.watch(self.id)) as pictures:
            async for picture in pictures:
                last = picture
        return last

    async def result(self) -> Arrays:
        """All outputs by name, in the order of the inputs, when the job has ended.

        Raises what kept it from being done: `PartialFailure`, `NoSuitablePeer`, `VerificationFailed`, `JobFailed`.
        """
        last = await self.wait()
        await self._over(last)
        async with aclosing(self._swarm.control.results(self.id)) as blocks:
            held = [block async for block in blocks]
        items = last.get("items")
        if type(items) is not int:
            raise DecodeError("the node does not say how many items the job has; is it the same version?")
        return whole(held, items)

    async def cancel(self) -> None:
        await self._swarm.control.cancel(self.id)

    async def prioritise(self, priority: str) -> None:
        """urgent, high, normal or low, from now on; whoever coordinates goes by it when this returns."""
        if priority not in PRIORITIES:
            raise UsageError(f"priority: choose {', '.join(PRIORITIES)}")
        await self._swarm.control.prioritise(self.id, priority)

    async def _over(self, last: Json) -> None:
        while self._uploaded:
            await self._swarm.remove_upload(self._uploaded.pop())
        error = error_of(last)
        if error is not None:
            raise error


async def _pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    while piece := await anyio.to_thread.run_sync(file.read, PIECE_BYTES):
        yield piece
