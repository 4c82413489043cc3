"""Bytes in and out: blobs by their cids, and files that a job is to read where the daemon cannot read its submitter's.

POST   /api/v1/blobs                bytes -> 201 {"cid", "bytes"}
GET    /api/v1/blobs/CID            the bytes
POST   /api/v1/uploads?name=in.npz  bytes -> 201 {"path"}, to be named in a job
    DELETE /api/v1/uploads?path=…       removes it
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import AsyncGenerator
from http import HTTPStatus
from pathlib import Path

import trio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from peerinfer.blobs import parse_index
from peerinfer.errors import LimitExceeded, PeerinferError, StateUnusable, UnknownModel, UsageError
from peerinfer.ids import Cid, digest_of_cid
from peerinfer.limits import BLOB_BYTES_MAX
from peerinfer_node.gateway.refusals import Refusals, refusal
from peerinfer_node.gateway.streaming import Streamed
from peerinfer_node.ports import BlobStore

PATHS = ("/api/v1/blobs", "/api/v1/uploads")
"""Read piece by piece: such a body may be larger than memory."""

UPLOADS_BYTES_MAX = BLOB_BYTES_MAX
UPLOADS_MAX = 1024
STALL_S = 30.0
"""An upload of which nothing came for this long is given up."""

FREE_BYTES_MIN = 256 << 20
"""Disk that an upload leaves to the node's own state."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


class BlobRoutes:
    def __init__(self, blobs: BlobStore, uploads: Path, refusals: Refusals) -> None:
        self._blobs = blobs
        self._uploads = uploads
        self._refusals = refusals

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/api/v1/blobs", self.put, methods=["POST"]),
            Route("/api/v1/blobs/{cid}", self.get, methods=["GET"]),
            Route("/api/v1/uploads", self.upload, methods=["POST"]),
            Route("/api/v1/uploads", self.remove, methods=["DELETE"]),
        ]

    async def put(self, request: Request) -> Response:
        """Keeps bytes as a blob and answers with their cid."""
        self._uploads.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd, name = tempfile.mkstemp(prefix=".blob-", dir=self._uploads)
        path = Path(name)
        try:
            with os.fdopen(fd, "wb") as file:
                size = await _receive(request, file.fileno(), self._uploads, BLOB_BYTES_MAX)
            return JSONResponse({"cid": await self._blobs.put_file(str(path)), "bytes": size}, HTTPStatus.CREATED)
        finally:
            path.unlink(missing_ok=True)  # noqa: ASYNC240  (one entry of a folder)

    async def get(self, request: Request) -> Response | Streamed:
        """The bytes of a blob."""
        cid = Cid(request.path_params["cid"])
        try:
            digest_of_cid(cid)
        except (ValueError, IndexError):
            raise UsageError("that is no cid") from None
        index = await self._blobs.manifest(cid) if await self._blobs.has(cid) else None
        if index is None:
            raise UnknownModel(f"there is no blob {cid} here")
        chunks = len(parse_index(index).digests) // 32

        async def parts() -> AsyncGenerator[bytes | memoryview, None]:
            for number in range(chunks):
                chunk = await self._blobs.read_chunk(cid, number)
                if chunk is None:
                    raise StateUnusable(f"the blob {cid} is not whole any more")
                yield chunk

        def cut_off(error: PeerinferError) -> bytes:
            raise error  # There is no form for an error among bytes: the connection ends before its length is reached.

        return Streamed(
            parts(), "application/octet-stream", failed=self._refusals.told, refuse=refusal, last_words=cut_off
        )

    async def upload(self, request: Request) -> Response:
        """Keeps bytes as a file of the name given, for a job to read."""
        name = request.query_params.get("name", "")
        if _NAME.fullmatch(name) is None or name.startswith("."):
            raise UsageError("name: letters, digits, dots, dashes and underscores, at most 128 of them")
        self._uploads.mkdir(parents=True, exist_ok=True, mode=0o700)
        held = [entry for entry in self._uploads.iterdir() if entry.is_dir()]
        if len(held) >= UPLOADS_MAX:
            raise LimitExceeded("uploads", current=len(held), attempted=1, limit=UPLOADS_MAX, unit="files")
        folder = self._uploads / secrets.token_hex(8)
        folder.mkdir(mode=0o700)
        try:
            fd = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                await _receive(request, fd, self._uploads, UPLOADS_BYTES_MAX)
            finally:
                os.close(fd)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return JSONResponse({"path": str(folder / name)}, HTTPStatus.CREATED)

    async def remove(self, request: Request) -> Response:
        """Removes an uploaded file."""
        folder = Path(request.query_params.get("path", "")).parent
        # Compared as text, since nothing may be followed that leads out of the folder.
        if folder.parent != self._uploads or not re.fullmatch(r"[0-9a-f]{16}", folder.name):
            raise UsageError("path: that is no uploaded file")
        await trio.to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))
        return Response(status_code=HTTPStatus.NO_CONTENT)


def remove_forgotten(uploads: Path, *, older_than_s: float, now_s: float) -> None:
    """Removes what was uploaded long ago, and uploads that were cut off by the end of the node."""
    for entry in uploads.glob("*"):
        if now_s - entry.lstat().st_mtime > older_than_s or entry.name.startswith("."):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


async def _receive(request: Request, fd: int, folder: Path, bytes_max: int) -> int:
    """Writes a body to a file piece by piece; returns its size."""
    declared = request.headers.get("content-length", "0")
    _check_room(folder, int(declared) if declared.isdigit() else 0, bytes_max)
    size, checked = 0, 0
    pieces = request.stream().__aiter__()
    while True:
        with trio.move_on_after(STALL_S) as waiting:
            try:
                piece = await anext(pieces)
            except StopAsyncIteration:
                return size
            except ClientDisconnect:
                raise UsageError("the client went before the upload was whole") from None
        if waiting.cancelled_caught:
            raise UsageError(f"nothing came for {STALL_S:g} s")
        size += len(piece)
        if size > bytes_max:
            raise LimitExceeded("an upload", current=0, attempted=size, limit=bytes_max, unit="bytes")
        if size - checked > FREE_BYTES_MIN // 4:
            checked = size
            _check_room(folder, 0, bytes_max)
        if piece:
            try:
                await trio.to_thread.run_sync(_write_all, fd, piece)
            except OSError as error:
                raise StateUnusable(f"the upload cannot be kept: {error.strerror}") from None


def _write_all(fd: int, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _check_room(folder: Path, size: int, bytes_max: int) -> None:
    if size > bytes_max:
        raise LimitExceeded("an upload", current=0, attempted=size, limit=bytes_max, unit="bytes")
    free = shutil.disk_usage(folder).free
    if free - size < FREE_BYTES_MIN:
        raise StateUnusable("there is too little space on this node's disk for the upload")
