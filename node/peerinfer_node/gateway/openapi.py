"""`/openapi.json` and `/docs`, made from the routes themselves: their paths, methods and the first lines of their handlers.

The page is plain text in a table. It loads nothing from anywhere.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

import peerinfer

_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")

_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string"}, "kind": {"type": "string"}},
    "required": ["error"],
}

_STYLE = (
    "body{font:16px/1.5 system-ui;max-width:60em;margin:2em auto;padding:0 1em}"
    "td{padding:.2em 1em .2em 0;vertical-align:top}"
)


class DocumentRoutes:
    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._document = describe(routes)
        self._page = _page(self._document)

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/openapi.json", self.document, methods=["GET"]),
            Route("/docs", self.page, methods=["GET"]),
        ]

    async def document(self, request: Request) -> Response:
        """This description."""
        return JSONResponse(self._document)

    async def page(self, request: Request) -> Response:
        """This description for people."""
        return HTMLResponse(
            self._page, headers={"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
        )


def describe(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """The OpenAPI document of these routes."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if isinstance(route, WebSocketRoute):
            paths.setdefault(route.path, {})["get"] = _operation(route.path, route.endpoint, "101", "A WebSocket")
        elif isinstance(route, Route):
            for method in sorted((route.methods or set()) - {"HEAD"}):
                operation = _operation(route.path, route.endpoint, "200", "Done")
                paths.setdefault(route.path, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "peerinfer", "version": peerinfer.__version__, "description": "HTTP of one peerinfer node."},
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": _ERROR},
        },
        "security": [{"token": []}],
    }


def _operation(path: str, endpoint: Any, status: str, done: str) -> dict[str, Any]:
    summary = " ".join((endpoint.__doc__ or "").strip().partition("\n\n")[0].split())
    refused = {
        "description": "Refused",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    return {
        "summary": summary,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in _PARAMETER.findall(path)
        ],
        "responses": {status: {"description": done}, "default": refused},
    }


def _page(document: dict[str, Any]) -> str:
    rows = [
        f"<tr><td><b>{method.upper()}</b></td><td><code>{html.escape(path)}</code></td>"
        f"<td>{html.escape(operation['summary'])}</td></tr>"
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>peerinfer</title><style>{_STYLE}</style>"
        f"<h1>peerinfer {html.escape(document['info']['version'])}</h1>"
        "<p>Over TCP a request shows this node's token: <code>Authorization: Bearer …</code>. The Unix socket needs none. "
        "The same as <a href=/openapi.json>OpenAPI</a>.</p>"
        f"<table>{''.join(rows)}</table></html>"
    )
