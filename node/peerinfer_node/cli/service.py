"""join --service: a systemd service of this user, which starts with the machine or with the user's session.

The unit repeats the flags that were given. An invite is no flag of it: it is a secret, the unit can be read by others,
and the home remembers its swarm.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from peerinfer.errors import PeerinferError, UsageError
from peerinfer_node.cli.output import say

ACTIONS = ("install", "remove")
NAME = "peerinfer.service"
SYSTEMCTL_TIMEOUT_S = 120.0
WATCHDOG_S = 60
"""A start on a slow machine, with a benchmark and certificates to make, holds the loop for seconds, not for a minute."""

_UNIT = """\
# Made by `peerinfer join --service install`. Changed by hand, it is overwritten by the next install.
[Unit]
Description=peerinfer: lends this machine's devices to AI inference
StartLimitIntervalSec=600
StartLimitBurst=5

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
{environment}WatchdogSec={watchdog_s}
Restart=on-failure
RestartSec=10
# 2 wrong usage, 3 bad input: starting again does not help.
RestartPreventExitStatus=2 3
# The first start measures every device.
TimeoutStartSec=300
# SIGTERM finishes what runs, which takes at most half a minute.
TimeoutStopSec=60
KillMode=mixed
SuccessExitStatus=130

# Whatever the owner does on the machine goes first.
Nice=10
CPUWeight=20
IOWeight=20
OOMScoreAdjust=500

# Models run in a sandbox of their own (SECURITY.md); this bounds the daemon around it.
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
UMask=0077
LimitCORE=0

[Install]
WantedBy=default.target
"""


def unit_text(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """The unit that runs `command` with these variables."""
    lines = "".join(f"Environment={_quoted(f'{name}={value}')}\n" for name, value in sorted(environment.items()))
    return _UNIT.format(command=" ".join(map(_quoted, command)), environment=lines, watchdog_s=WATCHDOG_S)


def unit_path(environ: Mapping[str, str]) -> Path:
    base = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".config")
    return Path(base) / "systemd" / "user" / NAME


def install(flags: Sequence[str], environ: Mapping[str, str]) -> None:
    """Writes the unit and starts it. Raises `PeerinferError` if there is no systemd that would run it."""
    kept = {name: environ[name] for name in ("PEERINFER_HOME", "PEERINFER_CONFIG") if environ.get(name)}
    kept = {name: os.path.abspath(value) for name, value in kept.items()}
    path = unit_path(environ)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(unit_text([sys.executable, "-m", "peerinfer_node", "join", *flags], kept), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    say(f"wrote {path}")
    _systemctl("daemon-reload", then=f"the unit is written; once it runs: systemctl --user enable --now {NAME}")
    _systemctl("enable", NAME)
    _systemctl("restart", NAME, then=f"see: journalctl --user -u {NAME}")
    say(f"it runs; see: systemctl --user status {NAME}")
    say("to keep it running while you are logged out: loginctl enable-linger")


def remove(environ: Mapping[str, str]) -> None:
    """Stops the service and removes its unit. What the node has in its home stays."""
    path = unit_path(environ)
    if not path.exists():
        raise UsageError(f"there is no service to remove: {path} does not exist")
    try:
        _systemctl("disable", "--now", NAME)
    except PeerinferError as error:
        say(f"peerinfer: {error}")
    path.unlink(missing_ok=True)
    say(f"removed {path}; the node's home stays")


def _systemctl(*words: str, then: str = "") -> None:
    program = shutil.which("systemctl")
    hint = f"; {then}" if then else ""
    if program is None:
        raise UsageError(f"there is no systemd on this machine{hint}")
    try:
        done = subprocess.run(  # noqa: S603
            [program, "--user", *words], check=False, capture_output=True, text=True, timeout=SYSTEMCTL_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise PeerinferError(f"systemctl {words[0]} takes longer than {SYSTEMCTL_TIMEOUT_S:g} s{hint}") from None
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[:300] or f"exit code {done.returncode}"
        raise PeerinferError(f"systemctl --user {words[0]} failed: {said}{hint}")


def _quoted(word: str) -> str:
    """As systemd reads command lines: percent signs and dollars are its own."""
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    if any(letter in word for letter in "\n\r\0"):
        raise UsageError("a service's flags cannot hold line breaks")
    return f'"{text}"' if not word or any(letter in " \t\"\\';#" for letter in word) else text
