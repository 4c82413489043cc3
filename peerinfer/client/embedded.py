"""Finds the node to talk to: the daemon of a home, or a child process that ends with the program that started it.

`peerinfer serve` knows whether a daemon runs in the home, so it is asked in either case: it says where the node's socket
is, and then ends if the node is a daemon's, or goes on as the node. The child holds the other end of a pipe from here: when
this process ends, however that comes about, it ends too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from peerinfer.errors import PeerinferError, StateUnusable, kinds

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0


@asynccontextmanager
async def node_socket(
    home: Path | None, *, standalone: bool, invite: str | None, bootstrap: Sequence[str]
) -> AsyncGenerator[str, None]:
    """The path of the node's socket. Raises the error that kept the child from starting."""
    command = [sys.executable, "-m", "peerinfer_node", "serve"]
    command += [invite] if invite is not None else []
    command += ["--ends-with-stdin", "--log-format", "json", "--log-level", "error", "--api", "127.0.0.1:0"]
    command += ["--standalone"] if standalone else []
    for address in bootstrap:
        command += ["--bootstrap", address]
    environ = {**os.environ, **({} if home is None else {"PEERINFER_HOME": str(home)})}
    process = await anyio.open_process(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environ,
        start_new_session=True,
    )
    try:
        yield await _ready(process)
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)


async def _ready(process: anyio.abc.Process) -> str:
    assert process.stdout is not None
    assert process.stderr is not None
    told = b""
    with anyio.move_on_after(START_TIMEOUT_S):
        async for data in process.stdout:
            told += data
            if b"\n" in told:
                ready = json.loads(told.partition(b"\n")[0])
                return str(ready["api"])
        said = b""
        async for data in process.stderr:
            said += data
        code = await process.wait()
        lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
        line = lines[-1].removeprefix("peerinfer: error: ") if lines else f"it ended with code {code}"
        kind = next((kind for kind in kinds().values() if kind.exit_code == code and code > 1), PeerinferError)
        error = kind.__new__(kind)
        Exception.__init__(error, line)
        raise error
    raise StateUnusable(f"the node did not start within {START_TIMEOUT_S:g} s")


async def _end(process: anyio.abc.Process) -> None:
    assert process.stdin is not None
    await process.stdin.aclose()
    with anyio.move_on_after(STOP_TIMEOUT_S) as waiting:
        await process.wait()
    if waiting.cancelled_caught:
        process.kill()
        await process.wait()
    await process.aclose()
