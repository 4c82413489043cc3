"""The application: all routes of this node's HTTP, behind limits on what a request may carry.

Calls that only do something answer 204. Errors are {"error": one line, "kind": the class in `peerinfer.errors`}; an
error in the middle of `watch` or `results` is the last line or record of the stream.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import BaseRoute

from peerinfer.control import Control
from peerinfer_node.gateway import blob_routes
from peerinfer_node.gateway.blob_routes import BlobRoutes
from peerinfer_node.gateway.body import REQUEST_BYTES_MAX, TENSORS_BYTES_MAX, Application, BoundedBody
from peerinfer_node.gateway.control_routes import ControlRoutes
from peerinfer_node.gateway.embeddings import EmbeddingRoutes
from peerinfer_node.gateway.events import EventRoutes, Feed
from peerinfer_node.gateway.metrics import MetricRoutes, NodeMetrics
from peerinfer_node.gateway.oip import OipRoutes
from peerinfer_node.gateway.openapi import DocumentRoutes
from peerinfer_node.gateway.refusals import Note, Refusals, error_answer
from peerinfer_node.ports import BlobStore
from peerinfer_node.serving import Serving

_LARGE = re.compile(r"/v2/(models/.+/infer|repository/models/.+/load)")


@dataclass(frozen=True, slots=True)
class Services:
    """What a node offers over HTTP besides its control: models online, bytes, figures."""

    serving: Serving
    blobs: BlobStore
    uploads: Path
    """Where uploaded files lie."""
    metrics: NodeMetrics


def build_app(control: Control, note: Note, feed: Feed, services: Services | None = None) -> Application:
    """The application, for an ASGI server that runs on trio. Somebody must run `feed`."""
    refusals = Refusals(note)
    routes: list[BaseRoute] = [*ControlRoutes(control, refusals).routes(), *EventRoutes(feed).routes()]
    if services is not None:
        routes += OipRoutes(services.serving, refusals).routes()
        routes += EmbeddingRoutes(services.serving, refusals).routes()
        routes += BlobRoutes(services.blobs, services.uploads, refusals).routes()
        routes += MetricRoutes(services.metrics).routes()
    routes += DocumentRoutes(routes).routes()
    app = Starlette(routes=routes, exception_handlers=refusals.handlers())
    app.router.redirect_slashes = False
    return BoundedBody(app, error_answer, _body_bytes_max)


def _body_bytes_max(method: str, path: str) -> int | None:
    if path in blob_routes.PATHS and method == "POST":
        return None
    return TENSORS_BYTES_MAX if _LARGE.fullmatch(path) else REQUEST_BYTES_MAX
