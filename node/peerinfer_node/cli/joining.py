"""Carries out `peerinfer join` and `peerinfer serve`: a node and its control API, until it is told to leave."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import trio

from peerinfer.config import NodeConfig
from peerinfer.control import Control, Json
from peerinfer.errors import Interrupted, UsageError
from peerinfer.units import format_count
from peerinfer_node.cli.interrupts import Stop, open_stop
from peerinfer_node.cli.output import printable, say, show, show_json
from peerinfer_node.cli.progress import LiveLine
from peerinfer_node.cli.view import device_lines
from peerinfer_node.gateway.access import load_token
from peerinfer_node.gateway.app import Services
from peerinfer_node.gateway.blob_routes import remove_forgotten
from peerinfer_node.gateway.metrics import NodeMetrics
from peerinfer_node.gateway.server import TcpDoor, open_gateway
from peerinfer_node.home import Home
from peerinfer_node.log import Log
from peerinfer_node.node import Node
from peerinfer_node.opening import open_node
from peerinfer_node.service_notice import ServiceNotice
from peerinfer_node.serving import Serving

LIVE_INTERVAL_S = 1.0

UPLOADS_KEPT_S = 7 * 86400.0
"""Files that programs have uploaded for a job, and forgotten."""


def join(home: Home, config: NodeConfig, *, lends: bool = True, ends_with_stdin: bool = False) -> int:
    """Returns 0 after a clean end. Raises `Interrupted` if the user did not wait for it, `UsageError` for a folder of
    models that is not there.

    `ends_with_stdin`: when standard input ends, which it does when the program that holds its other end has ended, however
    that came about.
    """
    if config.models and not os.path.isdir(folder := _models(home, config)):
        raise UsageError(
            f"--models: there is no folder {folder}; create it, or leave that out to serve from {home.models}"
        )
    return trio.run(_join, home, config, lends, ends_with_stdin)


async def _join(home: Home, config: NodeConfig, lends: bool, ends_with_stdin: bool) -> int:
    live = LiveLine()
    as_json = config.log_format == "json"
    log = Log(say if as_json else live.note, level=config.log_level, as_json=as_json, wall_s=time.time)
    has_left = False
    async with (
        open_stop() as stop,
        open_node(home, config, lends=lends, networked=not config.is_standalone, stays=True, log=log) as node,
        open_gateway(
            node.control,
            home.socket,
            lambda line: log.error("control API", reason=line),
            tcp=_tcp_door(home, config),
            log=log,
            services=_services(home, config, node),
        ) as url,
    ):
        if url:
            node.control.http, node.control.token_file = url, str(home.token_file)
        ready = {**node.ready(), "http": url, "token_file": node.control.token_file}
        _announce(ready, await node.control.devices(), as_json=as_json)
        notice = ServiceNotice(os.environ)
        notice.tell(READY="1", STATUS=f"{node.peer_id} takes work")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(notice.feed_watchdog)
            if ends_with_stdin:
                nursery.start_soon(_leave_with_stdin, node)
            await _until_left(node, stop, live, is_live=not as_json and sys.stderr.isatty())
            nursery.cancel_scope.cancel()
        notice.tell(STOPPING="1")
        has_left = True
    live.clear()
    if not has_left:
        raise Interrupted("stopped at once; tasks that ran here are done again elsewhere")
    return 0


def _services(home: Home, config: NodeConfig, node: Node) -> Services:
    serving = Serving(
        online=node.online, blobs=node.ports.blobs, in_thread=node.ports.in_thread, folder=_models(home, config)
    )
    uploads = home.cache / "uploads"
    remove_forgotten(uploads, older_than_s=UPLOADS_KEPT_S, now_s=time.time())
    return Services(serving, node.ports.blobs, uploads, NodeMetrics(node, serving))


def _models(home: Home, config: NodeConfig) -> Path:
    return Path(os.path.abspath(os.path.expanduser(config.models))) if config.models else home.models


def _tcp_door(home: Home, config: NodeConfig) -> TcpDoor | None:
    if config.api is None:
        return None
    host, _, port = config.api.rpartition(":")
    return TcpDoor(host.strip("[]"), int(port), load_token(home.token_file))


async def _leave_with_stdin(node: Node) -> None:
    is_open = True
    while is_open:
        await trio.lowlevel.wait_readable(sys.stdin.fileno())
        is_open = bool(os.read(sys.stdin.fileno(), 4096))
    await node.control.leave()


async def _until_left(node: Node, stop: Stop, live: LiveLine, *, is_live: bool) -> None:
    async with trio.open_nursery() as nursery:

        async def leave_when_asked() -> None:
            await stop.asked.wait()
            live.note("finishing what runs, then leaving; Ctrl-C again stops at once")
            await node.control.leave()

        nursery.start_soon(leave_when_asked)
        if is_live:
            nursery.start_soon(_show_state, node.control, live)
        await node.wait_left()
        nursery.cancel_scope.cancel()


async def _show_state(control: Control, live: LiveLine) -> None:
    while True:
        width = shutil.get_terminal_size().columns
        live.show_text(state_line(await control.status())[: max(width - 1, 1)])
        await trio.sleep(LIVE_INTERVAL_S)


def _announce(ready: Json, devices: list[Json], *, as_json: bool) -> None:
    if as_json:
        show_json(ready)
    else:
        show(ready_lines(ready, devices))


def ready_lines(ready: Json, devices: list[Json]) -> list[str]:
    """What `join` prints; the last line begins with `ready`, for scripts that wait for it."""
    addresses = [str(address) for address in ready.get("addresses") or ()]
    lines = [f"peer id    {ready.get('peer_id')}"]
    lines += [f"address    {address}" for address in addresses] or ["address    none: this node dials others"]
    lines += [f"sandbox    {ready.get('sandbox')}"]
    if ready.get("lends") and devices:
        lines.append(f"lends      {ready['lends']}")
    if ready.get("reachability"):
        lines.append(f"reachable  {ready['reachability']}")
    if ready.get("http"):
        lines.append(f"http       {ready['http']}, with the token in {ready.get('token_file')}")
    lines += device_lines(devices)
    lines.append(" ".join(["ready", str(ready.get("peer_id")), *addresses[:1]]))
    return lines


def state_line(status: Json) -> str:
    """How the node does, in one line."""
    peers: Any = status.get("peers") or {}
    parts = [str(status.get("state")), format_count(int(peers.get("alive") or 0), "peer")]
    if status.get("jobs_coordinated"):
        parts.append(format_count(int(status["jobs_coordinated"]), "job"))
    for device in status.get("devices") or ():
        if isinstance(device, dict):
            busy = device.get("busy_ratio")
            ratio = f" {busy:.0%}" if isinstance(busy, (int, float)) else ""
            parts.append(f"{device.get('name')}{ratio}")
    reasons = [str(reason.get("reason")) for reason in status.get("reasons") or () if isinstance(reason, dict)]
    return printable("  ".join(parts + reasons))
