"""Windows and macOS: every module can be imported there, and says honestly what it cannot do.

Nothing here was tried on those systems. What stands in for them is this process without the modules and names that they
lack, and with their `sys.platform`.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

LACKING = {
    "win32": {
        "modules": ["fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"],
        "os": ["O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_PATH", "fork", "getppid", "getuid", "geteuid", "killpg",
               "sched_getaffinity", "setsid"],
        "signal": ["SIGALRM", "SIGHUP", "SIGKILL", "SIGUSR1"],
        "socket": ["AF_UNIX", "SCM_RIGHTS"],
        "select": ["epoll", "poll"],
    },
    "darwin": {"modules": [], "os": ["O_PATH", "sched_getaffinity", "sched_setaffinity"], "select": ["epoll"]},
}  # fmt: skip

PROGRAM = """
import importlib, json, os, pkgutil, sys

packages = ("peerinfer", "peerinfer_node", "peerinfer_tui")
names = [name for package in packages
         for _, name, _ in pkgutil.walk_packages(importlib.import_module(package).__path__, package + ".")
         if not name.endswith("__main__")]
for name in names:  # once as it is here, which brings every library along: those are not ours
    importlib.import_module(name)
for name in [name for name in sys.modules if name.split(".")[0] in packages]:
    del sys.modules[name]

system, lacking = sys.argv[1], json.loads(sys.argv[2])
for module in lacking.pop("modules"):
    sys.modules[module] = None
for module, attributes in lacking.items():
    for attribute in attributes:
        if hasattr(importlib.import_module(module), attribute):
            delattr(importlib.import_module(module), attribute)
if system == "win32":
    import ctypes
    whole = ctypes.CDLL
    def library(name, *arguments, **options):
        if name is None:
            raise TypeError("there is no such library")
        return whole(name, *arguments, **options)
    ctypes.CDLL = library
sys.platform = system

failed = {}
for name in names:
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name] = f"{type(error).__name__}: {error}"
for name, why in failed.items():
    print(name, why)
from peerinfer_node.inference import sandbox
sandbox.readable_paths = lambda packages: []  # where Python lies on that system
layers = sandbox.lock_in([], memory_bytes=1 << 40, opening=sandbox.Opening())
print("level", layers.level)
"""


@pytest.mark.slow
@pytest.mark.parametrize("system", LACKING)
def test_every_module_is_imported_and_the_sandbox_is_said_to_be_none(system: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, system, json.dumps(LACKING[system])],
        check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "level none\n"), done.stdout + done.stderr
