"""The private swarm of a home: swarm.json, readable by its owner only, and the port that others know this node by.

A home belongs to one swarm for good. It keeps the invite it came in by, so that a restart needs none, and the port it
last listened on: an invite and the peers' memories lead there.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

from peerinfer.config import NodeConfig
from peerinfer.errors import StateUnusable, UsageError
from peerinfer.invites import Invite, PrivateSwarm, format_invite, parse_invite
from peerinfer_node.home import Home

_FILE_BYTES_MAX = 64 * 1024


def swarm_path(home: Home) -> Path:
    return home.data / "swarm.json"


def read_swarm(home: Home) -> Invite | None:
    """The swarm that this home belongs to, or None: the open one. Raises `StateUnusable` if the file is no good."""
    path = swarm_path(home)
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise StateUnusable(f"others can read {path}, which holds the swarm's key; run chmod 600 {path}")
            raw = json.loads(file.read(_FILE_BYTES_MAX))
        return parse_invite(raw["invite"])
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateUnusable(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError):
        raise StateUnusable(f"{path} is damaged; remove it and join the swarm again with an invite") from None


def write_swarm(home: Home, invite: Invite) -> None:
    """Makes this the home's swarm. Call `home.prepare` first."""
    kept = replace(invite, expires_at_s=0)  # Who is in stays in.
    _write(swarm_path(home), {"swarm": invite.swarm.name, "invite": format_invite(kept)})


def settle(home: Home, config: NodeConfig, *, wall_s: float, keeps: bool) -> NodeConfig:
    """The configuration with the swarm that it leads to: the invite given, or else the one this home is in.

    `keeps` makes an invite the home's own. Raises `UsageError` if it has expired, or if the home is in another swarm.
    """
    own = read_swarm(home)
    if not config.swarm:
        return config if own is None else replace(config, swarm=format_invite(own))
    invite = parse_invite(config.swarm)
    if own is not None and own.swarm == invite.swarm:
        # It is in already: the invite brings addresses, and may be as old as it likes.
        bootstrap = tuple(dict.fromkeys((*invite.bootstrap, *own.bootstrap)))
        invite = Invite(own.swarm, bootstrap)
    else:
        invite.check_in_time(wall_s)
        if own is not None and keeps:
            raise UsageError(
                f"this home belongs to swarm {own.swarm.name}, the invite is to {_other_name(invite.swarm, own.swarm)}; "
                f"use another PEERINFER_HOME for it, or remove {swarm_path(home)} to leave the first for good"
            )
    if keeps:
        home.prepare()
        write_swarm(home, invite)
    return replace(config, swarm=format_invite(replace(invite, expires_at_s=0)))


def _other_name(swarm: PrivateSwarm, own: PrivateSwarm) -> str:
    return swarm.name if swarm.name != own.name else f"another swarm that is called {swarm.name} too"


# --- the port ------------------------------------------------------------------------------------------------------


def remembered_port(home: Home) -> int | None:
    """The port that this node last listened on, if it was free to choose."""
    try:
        text = (home.data / "port").read_text("ascii")[:8].strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdecimal() and 1024 <= int(text) <= 65535 else None


def remember_port(home: Home, port: int) -> None:
    """Worth having, never worth failing for."""
    if port != remembered_port(home):
        with contextlib.suppress(OSError):
            (home.data / "port").write_text(f"{port}\n", "ascii")


def choose_port(home: Home) -> int:
    """A port for a node that has not run yet, so that its address can stand in an invite; the same from then on."""
    port = remembered_port(home)
    if port is None:
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = int(probe.getsockname()[1])
        remember_port(home, port)
    return port


def _write(path: Path, value: dict[str, Any]) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                json.dump(value, file)
                file.flush()
                os.fsync(file.fileno())
            beside.rename(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise StateUnusable(f"cannot write {path}: {error.strerror}") from None
