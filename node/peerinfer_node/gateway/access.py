"""Who may use the control API over TCP: whoever knows the token of this home.

The Unix socket needs none: the file system lets only its owner open it. Over TCP every program and every user of the
machine could connect, and so could any web page that its owner looks at: a page whose host name is made to point at
127.0.0.1 (DNS rebinding) may send requests there as if it came from there. Such a request names the page's host, and is
refused for that; and it does not know the token.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import os
import secrets
import stat
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from peerinfer.errors import StateUnusable, UsageError
from peerinfer_node.gateway.body import Application, Receive, Refusal, Send, answer_while_draining

TOKEN_BYTES = 32
TOKEN_FILE_BYTES_MAX = 4096

OPEN_PATHS = frozenset({"/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready"})
"""Say nothing about this node but that it runs, and are what browsers and orchestrators ask for without a token."""


def load_token(path: Path) -> str:
    """The token in the file at `path`, which is made (0600) if there is none.

    Raises `StateUnusable` if it cannot be read, holds no token, or if others than its owner may read it.
    """
    try:
        return _read(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StateUnusable(f"cannot read {path}: {error.strerror}") from None
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(TOKEN_BYTES) + "\n")
        return _read(path)
    except OSError as error:
        raise StateUnusable(f"cannot write {path}: {error.strerror}") from None


def _read(path: Path) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(fd, "rb") as file:
        mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode) and mode & 0o077:
            raise StateUnusable(f"others may read the token in {path}: run chmod 600 on it, or remove it for a new one")
        token = file.read(TOKEN_FILE_BYTES_MAX).strip().decode("ascii", "replace")
    if len(token) < TOKEN_BYTES or not all("!" <= character <= "~" for character in token):
        raise StateUnusable(f"{path} holds no token of at least {TOKEN_BYTES} characters; remove it for a new one")
    return token


class Guarded:
    """Wraps an application: requests without the token, or for another host, do not reach it.

    `host` is where the gateway listens. On loopback only names of this machine are answered to; elsewhere the name under
    which it is reached is not ours to know, and the token alone must do.
    """

    def __init__(self, inner: Application, *, token: str, host: str, refuse: Refusal) -> None:
        self._inner = inner
        self._token = token.encode()
        self._host = host.lower()
        self._refuse = refuse

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._inner(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._is_ours(host):
            await self._turn_away(403, f"this node does not answer to the host {host[:100]!r}", scope, receive, send)
        elif scope["path"] in OPEN_PATHS or self._knows_token(headers.get(b"authorization", b"")):
            await self._inner(scope, receive, send)
        else:
            line = "give this node's token as `Authorization: Bearer …`; `peerinfer status` says where it lies"
            await self._turn_away(401, line, scope, receive, send)

    def _is_ours(self, host: str) -> bool:
        if not _is_loopback(self._host):
            return True
        name = _without_port(host).lower()
        return name in ("localhost", self._host) or _is_loopback(name)

    def _knows_token(self, header: bytes) -> bool:
        scheme, _, given = header.partition(b" ")
        # Compared in constant time, so that its characters cannot be found out one by one.
        return hmac.compare_digest(given.strip(), self._token) and scheme.lower() == b"bearer"

    async def _turn_away(
        self, status: int, line: str, scope: MutableMapping[str, Any], receive: Receive, send: Send
    ) -> None:
        if scope["type"] == "websocket":
            body = json.dumps({"error": line, "kind": UsageError.__name__}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
            await send({"type": "websocket.http.response.body", "body": body})
            return
        await answer_while_draining(self._refuse(status, line), scope, receive, send)


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() and not name.endswith(":") else host
