"""The application: all routes of this node's HTTP, behind limits on what a request may carry.

Calls that only do something answer 204. Errors are {"error": one line, "kind": the class in `peerinfer.errors`}; an
error in the middle of `watch` or `results` is the last line or record of the stream.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.routing import BaseRoute

from peerinfer.control import Control
from peerinfer_node.gateway.body import Application, BoundedBody, small_body
from peerinfer_node.gateway.control_routes import ControlRoutes
from peerinfer_node.gateway.events import EventRoutes, Feed
from peerinfer_node.gateway.refusals import Note, Refusals, error_answer


def build_app(control: Control, note: Note, feed: Feed) -> Application:
    """The application, for an ASGI server that runs on trio. Somebody must run `feed`."""
    refusals = Refusals(note)
    routes: Sequence[BaseRoute] = [*ControlRoutes(control, refusals).routes(), *EventRoutes(feed).routes()]
    app = Starlette(routes=routes, exception_handlers=refusals.handlers())
    app.router.redirect_slashes = False
    return BoundedBody(app, error_answer, small_body)
