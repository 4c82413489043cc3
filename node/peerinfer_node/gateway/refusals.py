"""Errors as HTTP answers: {"error": one line, "kind": the class in `peerinfer.errors`}."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from peerinfer.errors import Busy, PeerinferError, UsageError

Note = Callable[[str], None]
"""Takes one line for the log."""

PATH_CHARS_MAX = 4096

RETRY_AFTER_S = 1
"""What `busy` means to a client: a request takes milliseconds, so a second later there is room."""

_RETRIED_LATER = (429, 503)


class Refusals:
    """What becomes of an error that a route raised."""

    def __init__(self, note: Note) -> None:
        self._note = note

    def handlers(self) -> dict[Any, Any]:
        return {PeerinferError: self._refuse, HTTPException: self._refuse_route, Exception: self._refuse}

    def told(self, error: Exception) -> PeerinferError:
        """The error as the client may know it. What nobody expected goes to the log, without its details to the client."""
        if isinstance(error, PeerinferError):
            return error
        self._note(f"the control API failed: {type(error).__name__}: {error}")
        return PeerinferError("the node failed to answer; its log says why")

    async def _refuse(self, request: Request, error: Exception) -> Response:
        return refusal(self.told(error))

    async def _refuse_route(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        where = f"{request.method} {request.url.path}"
        line = f"there is no {where[:PATH_CHARS_MAX]}" if error.status_code in (404, 405) else str(error.detail)
        return error_answer(error.status_code, line, headers=dict(error.headers or {}))


def words(error: PeerinferError) -> dict[str, str]:
    return {"error": str(error), "kind": type(error).__name__}


def refusal(error: PeerinferError, *, status: int | None = None) -> Response:
    headers = {"retry-after": str(math.ceil(error.retry_after_s))} if isinstance(error, Busy) else {}
    return error_answer(status or error.http_status, str(error), type(error).__name__, headers)


def error_answer(
    status: int, line: str, kind: str = UsageError.__name__, headers: dict[str, str] | None = None
) -> Response:
    headers = dict(headers or {})
    if status in _RETRIED_LATER:
        headers.setdefault("retry-after", str(RETRY_AFTER_S))
    if status == 401:
        headers.setdefault("www-authenticate", "Bearer")
    return JSONResponse({"error": line, "kind": kind}, status, headers)
