"""The checks of `peerinfer doctor`. Each looks at one thing and never raises: what cannot be seen is a finding."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from peerinfer.control import Json
from peerinfer.errors import NoDaemon, PeerinferError
from peerinfer.limits import GIB
from peerinfer.units import format_count, format_size
from peerinfer_node.config_file import DEFAULT_SOURCE, config_path, resolve
from peerinfer_node.devices.native import OPENVINO, version_of
from peerinfer_node.home import Home

CHILD_TIMEOUT_S = 30.0
DAEMON_TIMEOUT_S = 10.0
DISK_FREE_MIN = 2 * GIB
DISK_FREE_WANTED = 10 * GIB
MEMORY_FREE_MIN = GIB

CLOCK_EARLIEST_S = 1_767_225_600.0
"""2026-01-01: older than any machine's clock that runs this version should say."""

CLOCK_LATEST_S = 4_102_444_800.0
"""2100-01-01."""

_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_VERSION_FLAG = 1
_PR_GET_SECCOMP = 21


@dataclass(frozen=True, slots=True)
class Finding:
    """`state` is ok, warn (works, but worse than it could) or fail (does not work); `advice` says what to do."""

    check: str
    state: str
    found: str
    advice: str = ""


def examine(home: Home) -> list[Finding]:
    """All checks, in the order in which their troubles are best mended."""
    checks: list[tuple[str, Callable[[], Finding | list[Finding]]]] = [
        ("config", lambda: check_config(home.config_file)),
        ("python", check_python),
        ("onnxruntime", check_onnxruntime),
        ("graphics", check_graphics),
        ("measured", lambda: check_figures(home.state_db)),
        ("processors", check_processors),
        ("memory", check_memory),
        ("disk", lambda: check_disk(home.cache)),
        ("clock", lambda: check_clock(time.time())),
        ("landlock", check_landlock),
        ("seccomp", check_seccomp),
        ("identity", lambda: check_identity(home.identity_key)),
        ("daemon", lambda: check_daemon(home.socket)),
    ]
    findings: list[Finding] = []
    for name, check in checks:
        try:
            found = check()
            findings += found if isinstance(found, list) else [found]
        except Exception as error:
            # A doctor who faints helps nobody; the next check may say more.
            findings.append(Finding(name, "warn", f"could not be checked: {type(error).__name__}: {error}"))
    return findings


def check_config(default: Path) -> Finding:
    """As `join` and `run` will read it."""
    path, must_exist = config_path(os.environ, default)
    try:
        sources = resolve({}, os.environ, path, must_exist=must_exist).sources
    except PeerinferError as error:
        return Finding("config", "fail", str(error), f"neither join nor run starts with it: mend {path}")
    changed = sum(source != DEFAULT_SOURCE for source in sources.values())
    return Finding("config", "ok", f"{format_count(changed, 'setting')} of {len(sources)} changed; {path}")


def check_python() -> Finding:
    version = platform.python_version()
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        return Finding("python", "fail", version, "install Python 3.11, 3.12 or 3.13")
    return Finding("python", "ok", f"{version} on {platform.system()} {platform.machine()}")


def check_onnxruntime() -> Finding:
    """In a process of its own, as the node does it: a broken driver may take the process with it."""
    program = "import onnxruntime as o; print(o.__version__, *o.get_available_providers())"
    try:
        child = subprocess.run(  # noqa: S603
            [sys.executable, "-I", "-c", program], capture_output=True, timeout=CHILD_TIMEOUT_S, check=False, text=True
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("onnxruntime", "fail", f"did not start: {error}", "install peerinfer again")
    if child.returncode != 0:
        last = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
        return Finding("onnxruntime", "fail", f"cannot be imported: {last}", "install peerinfer again")
    version, *providers = child.stdout.split()
    found = [name for name in providers if name not in ("CPUExecutionProvider", "AzureExecutionProvider")]
    if webgpu := version_of("onnxruntime-ep-webgpu"):
        found.append(f"WebGPU provider {webgpu}")
    advice = ""
    if OPENVINO.provider in providers:
        advice = "the processor is lent through OpenVINO after: peerinfer config set device openvino"
    return Finding("onnxruntime", "ok", f"{version}, {', '.join(found) if found else 'CPU only'}", advice)


def check_graphics() -> list[Finding]:
    """Each card, under the number that --device knows it by, with what keeps it from use and what helps."""
    from peerinfer_node.devices.probe import find_gpus

    cards = find_gpus()
    if not cards:
        return [Finding("graphics", "ok", "no graphics card; the processor computes")]
    others_serve = any(card.is_usable for card in cards)
    findings = []
    for number, card in enumerate(cards):
        name = f"gpu:{number} {card.device.name}"
        if card.is_usable:
            size = format_size(card.device.memory_bytes)
            findings.append(Finding("graphics", "ok", f"{name}, {size}, good for {card.good_for}"))
            continue
        reasons = ", and ".join(obstacle.reason for obstacle in card.obstacles)
        advice = "; ".join(dict.fromkeys(obstacle.advice for obstacle in card.obstacles if obstacle.advice))
        helps = advice or "nothing can be done here; other devices compute"
        findings.append(
            Finding("graphics", "ok" if others_serve else "warn", f"{name} cannot be used: {reasons}", helps)
        )
    return findings


def check_figures(state_db: Path) -> Finding:
    """What the devices were good for when a node measured them last."""
    from peerinfer_node.devices.figures import kept_figures

    kept = kept_figures(state_db)
    if kept is None:
        return Finding("measured", "ok", "nothing yet; peerinfer bench and peerinfer join measure each device")
    at = time.strftime("%Y-%m-%d %H:%M", time.localtime(kept.measured_at_s))
    return Finding("measured", "ok", "; ".join(f"{name}: {words}" for name, words in kept.devices) + f" (on {at})")


def check_processors() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0]
    found = f"{usable} usable, load {load:.1f}"
    if load > usable:
        return Finding("processors", "warn", found, "other programs keep this machine busy; results will be slow")
    return Finding("processors", "ok", found)


def check_memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    found = f"{format_size(memory.available)} of {format_size(memory.total)} free"
    if memory.available < MEMORY_FREE_MIN:
        return Finding("memory", "warn", found, "close other programs, or lend only small models")
    return Finding("memory", "ok", found)


def check_disk(cache: Path) -> Finding:
    """`cache` need not exist yet."""
    folder = cache
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        return Finding("disk", "fail", f"{folder} may not be written to", "choose another place with PEERINFER_HOME")
    free = shutil.disk_usage(folder).free
    found = f"{format_size(free)} free for {cache}"
    if free < DISK_FREE_MIN:
        return Finding("disk", "fail", found, "free some space, or choose another disk with PEERINFER_HOME")
    if free < DISK_FREE_WANTED:
        return Finding("disk", "warn", found, "set a smaller cache: peerinfer config set max_cache 1GiB")
    return Finding("disk", "ok", found)


def check_clock(wall_s: float) -> Finding:
    found = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(wall_s))
    if not CLOCK_EARLIEST_S <= wall_s <= CLOCK_LATEST_S:
        return Finding("clock", "fail", found, "set the clock: peers refuse what comes from the wrong time")
    return Finding("clock", "ok", found)


def check_landlock() -> Finding:
    version = ctypes.CDLL(None, use_errno=True).syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION_FLAG)
    if version < 1:
        return Finding("landlock", "warn", "not there", "use a kernel with Landlock: models could read files here")
    return Finding("landlock", "ok", f"version {version}")


def check_seccomp() -> Finding:
    # Asking for the mode fails with EINVAL exactly where the kernel has no seccomp.
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_GET_SECCOMP, 0, 0, 0, 0) < 0:
        return Finding("seccomp", "warn", "not there", "use a kernel with seccomp: models could reach the network")
    return Finding("seccomp", "ok", "there")


def check_identity(key: Path) -> Finding:
    try:
        status = key.lstat()
    except FileNotFoundError:
        return Finding("identity", "ok", "none yet; it is made on first use")
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
        return Finding("identity", "fail", f"{key} is not a file of yours", "move it away")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        return Finding("identity", "fail", f"others may read {key} (mode {mode:04o})", f"run: chmod 600 {key}")
    return Finding("identity", "ok", str(key))


def check_daemon(path: Path) -> list[Finding]:
    """Whether one runs, and what it has heard from others about itself. It is asked once for both."""
    import trio

    from peerinfer.client.daemon import HttpControl

    async def ask() -> Json:
        async with HttpControl(path) as control:
            with trio.fail_after(DAEMON_TIMEOUT_S):
                return await control.status()

    start = "start one: peerinfer join"
    only = Finding("reachability", "ok", "only a running daemon learns how others see it")
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return [Finding("daemon", "fail", f"{path} is not a socket", "remove the file, then: peerinfer join"), only]
        status = trio.run(ask)
    except (FileNotFoundError, NotADirectoryError):
        return [Finding("daemon", "ok", "none runs", start), only]
    except NoDaemon:
        return [Finding("daemon", "warn", f"none answers at {path}", f"the last one was killed; {start}"), only]
    except trio.TooSlowError:
        waited = f"no answer at {path} within {DAEMON_TIMEOUT_S:g} s"
        return [Finding("daemon", "fail", waited, "its log says what it does; stop it, then: peerinfer join"), only]
    except (PeerinferError, OSError) as error:
        return [Finding("daemon", "fail", f"{path}: {error}"), only]
    addresses = [str(address) for address in status["addresses"]]
    return [Finding("daemon", "ok", f"answers at {path}"), _reachability(str(status["reachability"]), addresses)]


def _reachability(found: str, addresses: list[str]) -> Finding:
    if not found.startswith(("0 peers", "listens nowhere", "unknown")):
        return Finding("reachability", "ok", found)
    if found.startswith("unknown"):
        return Finding(
            "reachability",
            "ok",
            found,
            "if no peer comes, give this node one: peerinfer join --bootstrap ADDR, or an INVITE",
        )
    ports = sorted({address.split("/")[4] for address in addresses if "/p2p-circuit" not in address}, key=int)
    if ports:
        forward = (
            f"forward TCP port{'s' if len(ports) > 1 else ''} {' and '.join(ports)} of your router to this machine and let "
            "it through the firewall"
        )
    else:
        forward = "listen somewhere (peerinfer config set listen --unset)"
    if "by relay" in found:
        return Finding("reachability", "ok", found, f"work goes by relay, in small frames; for a direct way {forward}")
    relay = (
        "ask a friend whose machine can be dialled to run: peerinfer join --relay; this node then finds it by itself, "
        "or is led to it by: peerinfer join --bootstrap ADDR, with the address that the friend's node prints"
    )
    return Finding("reachability", "warn", found, f"{forward}, or {relay}")
