"""Models by name: what the HTTP gateway serves online, from a folder, from blobs, or uploaded with the request to load.

A folder holds NAME.onnx, NAME/model.onnx, or NAME/VERSION/model.onnx as Triton lays it out. Its models are opened when
they are first asked for; what was unloaded stays so until it is loaded again. A model that lies in this node's blobs is
served under its cid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import trio

from peerinfer.errors import InputError, LimitExceeded, UnknownModel, UsageError
from peerinfer.fairness import Priority
from peerinfer.ids import Cid, digest_of_cid
from peerinfer.limits import MODEL_BYTES_MAX
from peerinfer.messages import Execution
from peerinfer_node.online import Online
from peerinfer_node.ports import BlobStore, InThread, ModelInterface
from peerinfer_node.roles.answers import Rows
from peerinfer_node.roles.online_job import Times

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
VERSION = re.compile(r"[0-9]{1,9}")

REQUESTS_AT_ONCE_MAX = 128
"""Requests that are under way; further ones are asked to come back. Workers have enough to fill their frames with."""

FIRST_VERSION = "1"
TOKENIZER_FILE = "tokenizer.json"


@dataclass(slots=True)
class Statistics:
    """Of one model since it was loaded."""

    succeeded: int = 0
    succeeded_ns: int = 0
    queued_ns: int = 0
    """Of those that succeeded: until their inputs were on their way to a worker."""
    failed: int = 0
    failed_ns: int = 0
    items: int = 0
    last_at_ms: int = 0
    """Wall clock."""


@dataclass(slots=True)
class ServedModel:
    name: str
    version: str
    cid: Cid
    interface: ModelInterface
    tokenizer: Path | None = None
    """The file beside it that turns text into its inputs."""
    statistics: Statistics = field(default_factory=Statistics)


class Serving:
    """Opens models by their names, and answers requests to them. `folder` need not exist."""

    def __init__(self, *, online: Online, blobs: BlobStore, in_thread: InThread, folder: Path) -> None:
        self._online = online
        self._blobs = blobs
        self._in_thread = in_thread
        self._folder = folder
        self._served: dict[tuple[str, str], ServedModel] = {}
        self._unloaded: set[str] = set()
        self._ours: set[Cid] = set()
        """Models that were opened here; nobody else's are closed here."""
        self._opening = trio.Lock()
        self.under_way = 0
        """Requests without an answer."""

    # --- names -----------------------------------------------------------------------------------------------------

    async def model(self, name: str, version: str = "") -> ServedModel:
        """The model, opened if it was not. Raises `UnknownModel`, `ModelRefused`, `InputError`, `LimitExceeded`."""
        found = self._newest(name, version)
        if found is not None:
            return found
        async with self._opening:
            found = self._newest(name, version)
            if found is None:
                if name in self._unloaded:
                    raise UnknownModel(f"the model {name} is unloaded; load it first")
                found = await self._open(name, version)
            return found

    async def load(self, name: str, *, cid: str = "", data: bytes = b"") -> ServedModel:
        """Opens a model anew: from the bytes given, from a blob, or from the folder."""
        if NAME.fullmatch(name) is None:
            raise UsageError("a model's name has letters, digits, dots, dashes and underscores, at most 128 of them")
        async with self._opening:
            before = [key for key in self._served if key[0] == name]
            if data:
                opened = await self._serve(name, FIRST_VERSION, data)
            elif cid:
                opened = await self._serve(name, FIRST_VERSION, await self._blob(cid))
            else:
                opened = await self._open(name, "")
            for key in before:
                if key != (opened.name, opened.version):
                    del self._served[key]
            self._unloaded.discard(name)
            await self._close_unnamed()
            return opened

    async def unload(self, name: str) -> None:
        """Raises `UnknownModel`. Its requests that are under way fail."""
        async with self._opening:
            keys = [key for key in self._served if key[0] == name]
            if not keys and name not in await self._in_thread(self._in_folder):
                raise UnknownModel(_unknown(name, ""))
            for key in keys:
                del self._served[key]
            self._unloaded.add(name)
            await self._close_unnamed()

    async def index(self) -> list[dict[str, str]]:
        """Every model that is served or could be."""
        names = dict.fromkeys([*await self._in_thread(self._in_folder), *(name for name, _ in self._served)])
        found = []
        for name in names:
            versions = [version for served, version in self._served if served == name]
            found += [{"name": name, "version": version, "state": "READY", "reason": ""} for version in versions]
            if not versions:
                reason = "unloaded" if name in self._unloaded else "not asked for yet"
                found.append({"name": name, "version": "", "state": "UNAVAILABLE", "reason": reason})
        return found

    def served(self) -> list[ServedModel]:
        return list(self._served.values())

    def _newest(self, name: str, version: str) -> ServedModel | None:
        if version:
            return self._served.get((name, version))
        versions = [key for key in self._served if key[0] == name]
        return self._served[max(versions, key=lambda key: int(key[1]))] if versions else None

    # --- requests --------------------------------------------------------------------------------------------------

    async def infer(
        self,
        model: ServedModel,
        inputs: Rows,
        *,
        timeout_s: float,
        priority: Priority,
        verify: str = "none",
        times: Times | None = None,
    ) -> Rows:
        """As `Online.infer`; counted. Raises `LimitExceeded` beyond `REQUESTS_AT_ONCE_MAX`."""
        if self.under_way >= REQUESTS_AT_ONCE_MAX:
            raise LimitExceeded(
                "requests at once", current=self.under_way, attempted=1, limit=REQUESTS_AT_ONCE_MAX, unit="requests"
            )
        self.under_way += 1
        times = times or Times()
        started_s, count, is_done = trio.current_time(), model.statistics, False
        try:
            outputs = await self._online.infer(
                model.cid, inputs, timeout_s=timeout_s, priority=priority, verify=verify, times=times
            )
            is_done = True
            return outputs
        finally:
            self.under_way -= 1
            spent_ns = int((trio.current_time() - started_s) * 1e9)
            if is_done:
                count.succeeded, count.succeeded_ns = count.succeeded + 1, count.succeeded_ns + spent_ns
                count.queued_ns += min(spent_ns, int(times.queued_s * 1e9))
                count.items += max((len(array) for array in inputs.values() if array.ndim), default=1)
            else:
                count.failed, count.failed_ns = count.failed + 1, count.failed_ns + spent_ns

    def executions(self, model: ServedModel) -> list[Execution]:
        """In which batches its requests ran on workers, since it was opened."""
        return self._online.executions(model.cid)

    # --- opening ---------------------------------------------------------------------------------------------------

    async def _open(self, name: str, version: str) -> ServedModel:
        if not NAME.fullmatch(name) or (version and not VERSION.fullmatch(version)):
            raise UnknownModel(_unknown(name, version))
        found = (await self._in_thread(self._in_folder)).get(name, {})
        if found:
            chosen = version or max(found, key=int)
            if chosen not in found:
                raise UnknownModel(_unknown(name, version))
            path = found[chosen]
            data = await self._in_thread(lambda: _read(path))
            return await self._serve(name, chosen, data, path.parent / TOKENIZER_FILE)
        if version in ("", FIRST_VERSION) and _is_cid(name) and await self._blobs.has(Cid(name)):
            return await self._serve(name, FIRST_VERSION, await self._blob(name))
        raise UnknownModel(_unknown(name, version))

    async def _serve(self, name: str, version: str, data: bytes, tokenizer: Path | None = None) -> ServedModel:
        cid = await self._online.open(data)
        self._ours.add(cid)
        if tokenizer is not None and not await self._in_thread(tokenizer.is_file):
            tokenizer = None
        model = ServedModel(name, version, cid, self._online.interface(cid), tokenizer)
        self._served[name, version] = model
        return model

    async def _blob(self, cid: str) -> bytes:
        if not _is_cid(cid) or not await self._blobs.has(Cid(cid)):
            raise UnknownModel(f"there is no blob {cid[:80]!r} here; upload it first")
        return await self._blobs.read(Cid(cid))

    async def _close_unnamed(self) -> None:
        """Closes models that no name leads to any more."""
        wanted = {model.cid for model in self._served.values()}
        for cid in self._online.opened():
            if cid not in wanted and cid in self._ours:
                self._ours.discard(cid)
                await self._online.close(cid)

    def _in_folder(self) -> Mapping[str, Mapping[str, Path]]:
        """The files of the folder by name and version."""
        found: dict[str, dict[str, Path]] = {}
        try:
            for entry in sorted(self._folder.iterdir()):
                if entry.suffix == ".onnx" and entry.is_file():
                    found.setdefault(entry.stem, {})[FIRST_VERSION] = entry
                elif entry.is_dir():
                    paths = {FIRST_VERSION: entry / "model.onnx"}
                    paths |= {
                        each.name: each / "model.onnx" for each in entry.iterdir() if VERSION.fullmatch(each.name)
                    }
                    for version, path in paths.items():
                        if path.is_file():
                            found.setdefault(entry.name, {})[version] = path
        except OSError:
            pass  # There is no folder, or it may not be read: then nothing is in it.
        return {name: versions for name, versions in found.items() if NAME.fullmatch(name)}


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MODEL_BYTES_MAX + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > MODEL_BYTES_MAX:
        raise InputError(f"{path} is larger than the {MODEL_BYTES_MAX} bytes that a model file can have")
    return data


def _is_cid(text: str) -> bool:
    try:
        digest_of_cid(Cid(text))
    except (ValueError, IndexError):
        return False
    return True


def _unknown(name: str, version: str) -> str:
    which = f" in version {version[:20]!r}" if version else ""
    return f"there is no model {name[:128]!r}{which} here"
