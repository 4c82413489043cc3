"""What happens to the executor when its process dies, hangs, lies or is not wanted any more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import models
import numpy as np
import psutil
import pytest
import trio
from models import batch_of, outputs_of
from promptness import check_prompt

from peerinfer.errors import AttemptTimeout, WorkerDied
from peerinfer.ids import cid_of
from peerinfer_node.devices.probe import cpu_device
from peerinfer_node.inference import device_process, subprocess_executor
from peerinfer_node.inference.subprocess_executor import SubprocessExecutor
from peerinfer_node.ports import Batch

pytestmark = pytest.mark.slow

SLOW = models.slow(1000)
"""With `EIGHT` rows at least ten seconds, in nodes of 10 to 40 ms."""

BLOCKING = models.slow(2, 2048)
"""With `SIXTEEN` rows two nodes of about two seconds each: too long to be stopped between them."""

EIGHT = np.ones((8, 1), np.float32)
SIXTEEN = np.ones((16, 1), np.float32)
STOPPED_IN_S = 0.6
"""Half a second as promised, and a little for a busy machine."""


@pytest.fixture
async def executor() -> AsyncIterator[SubprocessExecutor]:
    made = SubprocessExecutor(cpu_device(), threads=1)
    try:
        yield made
    finally:
        await made.close()
        assert psutil.Process().children() == []


def worker() -> psutil.Process:
    [child] = psutil.Process().children()
    return child


async def wait_until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    with trio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110  (another process)
            await trio.sleep(0.005)


async def wait_busy() -> None:
    """Until the process computes."""
    await wait_until(lambda: bool(psutil.Process().children()))
    process = worker()
    start = process.cpu_times().user
    await wait_until(lambda: process.cpu_times().user > start + 0.05)


async def check_that_it_works(executor: SubprocessExecutor) -> None:
    model, x = models.poisonable(), np.array([[3]], np.int64)
    await executor.load(cid_of(model), model)
    result = await executor.run(cid_of(model), batch_of([1], x=x), 10)
    assert outputs_of(result, [1])[0]["y"].tolist() == [[30]]


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT"])
async def test_a_process_that_dies_in_mid_run_is_reported_by_signal_and_replaced(
    executor: SubprocessExecutor, name: str
) -> None:
    await executor.load(cid_of(SLOW), SLOW)

    async def kill() -> None:
        await wait_busy()
        worker().send_signal(getattr(signal, name))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill)
        with pytest.raises(WorkerDied, match=name):
            await executor.run(cid_of(SLOW), batch_of([8], x=EIGHT), 60)
    assert not await executor.holds(cid_of(SLOW))
    with pytest.raises(KeyError):
        await executor.run(cid_of(SLOW), batch_of([8], x=EIGHT), 60)
    await check_that_it_works(executor)


async def test_a_process_that_died_between_two_calls_costs_nothing_but_its_models(
    executor: SubprocessExecutor,
) -> None:
    await check_that_it_works(executor)
    worker().kill()
    with trio.fail_after(60):
        while await executor.holds(cid_of(models.poisonable())):  # noqa: ASYNC110  (another process)
            await trio.sleep(0.005)
    await check_that_it_works(executor)


async def cancelled_after(executor: SubprocessExecutor, model: bytes, batch: Batch) -> float:
    """Seconds until a run that is cancelled has stopped."""
    await executor.load(cid_of(model), model)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(executor.run, cid_of(model), batch, 60)
        await wait_busy()
        started = time.perf_counter()
        nursery.cancel_scope.cancel()
    return time.perf_counter() - started


async def test_a_cancelled_run_stops_soon_and_keeps_the_process(
    executor: SubprocessExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess_executor, "STOP_GRACE_S", 60.0)  # it is never killed because the machine is busy
    await executor.load(cid_of(SLOW), SLOW)
    before = worker().pid
    await check_prompt(lambda: cancelled_after(executor, SLOW, batch_of([8], x=EIGHT)), STOPPED_IN_S)
    assert worker().pid == before
    assert await executor.holds(cid_of(SLOW))
    await check_that_it_works(executor)


async def test_a_cancelled_run_that_cannot_stop_is_killed_soon(executor: SubprocessExecutor) -> None:
    await executor.load(cid_of(BLOCKING), BLOCKING)
    before = worker().pid
    await check_prompt(lambda: cancelled_after(executor, BLOCKING, batch_of([16], x=SIXTEEN)), STOPPED_IN_S)
    assert not await executor.holds(cid_of(BLOCKING))
    await check_that_it_works(executor)
    assert worker().pid != before


async def test_a_call_cancelled_while_its_inputs_travel_leaves_a_working_executor(
    executor: SubprocessExecutor,
) -> None:
    model = models.identity(shape=["n", 1000])
    await executor.load(cid_of(model), model)
    os.kill(worker().pid, signal.SIGSTOP)
    x = np.zeros((8000, 1000), np.float32)
    with trio.move_on_after(0.2) as scope:
        await executor.run(cid_of(model), batch_of([8000], x=x), 60)
    assert scope.cancelled_caught
    await check_that_it_works(executor)


async def test_a_batch_may_take_its_timeout_for_each_task(executor: SubprocessExecutor) -> None:
    async def late_by() -> float:
        await executor.load(cid_of(SLOW), SLOW)
        started = time.perf_counter()
        with pytest.raises(AttemptTimeout, match=r"within 0\.4 s"):
            await executor.run(cid_of(SLOW), batch_of([4, 4], x=EIGHT), 0.2)
        assert time.perf_counter() - started >= 0.4
        return time.perf_counter() - started - 0.4

    await check_prompt(late_by, STOPPED_IN_S)
    await check_that_it_works(executor)


async def test_a_load_that_hangs_ends_in_a_timeout(
    executor: SubprocessExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    await check_that_it_works(executor)
    monkeypatch.setattr(subprocess_executor, "LOAD_TIMEOUT_S", 0.3)
    os.kill(worker().pid, signal.SIGSTOP)
    with pytest.raises(AttemptTimeout):
        await executor.load(cid_of(SLOW), SLOW)
    monkeypatch.undo()
    await check_that_it_works(executor)


async def test_an_endless_loop_of_a_trusted_model_is_stopped_by_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess_executor, "STOP_GRACE_S", 60.0)  # it is never killed because the machine is busy
    executor = SubprocessExecutor(cpu_device(), threads=1, allow_loops=True)
    try:
        short, endless = models.looping(3), models.looping(2**62)
        await executor.load(cid_of(short), short)
        await executor.load(cid_of(endless), endless)
        x = batch_of([1], x=np.ones(1, np.float32))
        assert not (await executor.run(cid_of(short), x, 10)).failures
        before = worker().pid
        with pytest.raises(AttemptTimeout):
            await executor.run(cid_of(endless), x, 0.3)
        assert worker().pid == before
        assert not (await executor.run(cid_of(short), x, 10)).failures
    finally:
        await executor.close()


async def test_calls_wait_their_turn(executor: SubprocessExecutor) -> None:
    model = models.mlp()
    await executor.load(cid_of(model), model)
    counts: list[int] = []

    async def run(count: int) -> None:
        x = np.full((count, 64), count, np.float32)
        result = await executor.run(cid_of(model), batch_of([1] * count, x=x), 10)
        counts.append(len(outputs_of(result, [1] * count)))

    async with trio.open_nursery() as nursery:
        for count in range(1, 30):
            nursery.start_soon(run, count)
    assert sorted(counts) == list(range(1, 30))
    assert len(psutil.Process().children()) == 1


async def test_closing_ends_a_run_under_way(executor: SubprocessExecutor) -> None:
    await executor.load(cid_of(SLOW), SLOW)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def close() -> None:
            await wait_busy()
            await executor.close()

        with pytest.raises(WorkerDied):
            await executor.run(cid_of(SLOW), batch_of([8], x=EIGHT), 60)
    with pytest.raises(WorkerDied, match="closed"):
        await executor.load(cid_of(SLOW), SLOW)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_process_ends_with_the_daemon_that_started_it(name: str) -> None:
    program = """
        import sys, trio, models, psutil
        from peerinfer.ids import cid_of
        from peerinfer_node.devices.probe import cpu_device
        from peerinfer_node.inference.subprocess_executor import SubprocessExecutor

        async def main():
            executor = SubprocessExecutor(cpu_device(), threads=1)
            await executor.load(cid_of(models.mlp()), models.mlp())
            print(psutil.Process().children()[0].pid, flush=True)
            await trio.sleep_forever()

        trio.run(main)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(models.__file__).parent)},
    ) as daemon:
        assert daemon.stdout is not None
        child = psutil.Process(int(daemon.stdout.readline()))
        daemon.send_signal(getattr(signal, name))
        daemon.wait(10)
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


# --- a process that lies -------------------------------------------------------------------------------------------

LIAR = """#!{python} -I
import os, socket, sys
given = dict(argument.lstrip("-").split("=") for argument in sys.argv if "=" in argument)
data = socket.socket(fileno=int(given["fd"]))
from peerinfer.messages import OutputGroup, TaskFailure
from peerinfer.tensors import Port, TensorSpec
from peerinfer_node.inference.pipe import *

def say(message, body=(), shared=None):
    outgoing = Outgoing(message, body, shared)
    while not outgoing.send_some(data):
        pass

def hear():
    prefix = data.recv(PREFIX_BYTES, socket.MSG_WAITALL)
    header_bytes, body_bytes, is_shared = lengths_of(prefix, 1 << 40)
    data.recv(header_bytes + (0 if is_shared else body_bytes), socket.MSG_WAITALL)

def loaded():
    say(Ready(0, "full", ""))
    hear()
    say(Loaded(1, (), (), 0.1, False, 1.0, ("{cid}",)))
    hear()

EIGHT = [bytes(8)]

def row(*shape, name="y"):
    return (TensorSpec(name, "float32", shape),)

{lie}
"""

LIES = {
    "garbage": "data.send(b'GET / HTTP/1.1\\r\\n\\r\\n')",
    "huge lengths": "data.send(b'\\xff' * 12 + b'\\0')",
    "a header that is none": "data.send((5).to_bytes(4, 'little') + bytes(9) + b'\\x91\\xff\\xff\\xff\\xff')",
    "an answer before it is ready": "say(Unknown(0))",
    "another answer": "loaded(); say(Loaded(2, (), (), 0.1, False, 1.0, ()))",
    "an answer to another question": (
        "loaded(); say(Ran(1, (), tuple(TaskFailure(n, 'model', '') for n in (0, 1)), 1, (), ()))"
    ),
    "no outcome": "loaded(); say(Ran(2, (OutputGroup((0,), row(1)),), (), 0.1, (), ()), [bytes(4)])",
    "two outcomes": (
        "loaded(); say(Ran(2, (OutputGroup((0, 1), row(2)),), (TaskFailure(1, 'model', ''),), 1, (), ()), EIGHT)"
    ),
    "one outcome twice": "loaded(); say(Ran(2, (OutputGroup((1, 1), row(2)),), (), 0.1, (), ()), [bytes(8)])",
    "outcomes of one task in two groups": (
        "loaded(); say(Ran(2, (OutputGroup((0, 1), row(2)), OutputGroup((0,), row(1))), (), 0.1, (), ()), [bytes(12)])"
    ),
    "an unknown task": "loaded(); say(Ran(2, (OutputGroup((0, 1, 2), row(3)),), (), 0.1, (), ()), [bytes(12)])",
    "too few rows": "loaded(); say(Ran(2, (OutputGroup((0, 1), row(1)),), (), 0.1, (), ()), [bytes(4)])",
    "too few bytes": "loaded(); say(Ran(2, (OutputGroup((0, 1), row(2)),), (), 0.1, (), ()), [bytes(7)])",
    "too many bytes": "loaded(); say(Ran(2, (OutputGroup((0, 1), row(2)),), (), 0.1, (), ()), [bytes(9)])",
    "a scalar": "loaded(); say(Ran(2, (OutputGroup((0, 1), row()),), (), 0.1, (), ()), [bytes(4)])",
    "a negative time": "loaded(); say(Ran(2, (OutputGroup((0, 1), row(2)),), (), -1.0, (), ()), [bytes(8)])",
    "half an answer": "loaded(); data.send((100).to_bytes(4, 'little') + bytes(9) + b'half'); data.close()",
    "a body where no memory is": "loaded(); data.send(bytes(4) + (1 << 26).to_bytes(8, 'little') + b'\\1')",
    "a body at no place": "loaded(); data.send(bytes(4) + bytes(8) + b'\\2')",
    "nothing, and goes": "loaded(); os._exit(3)",
}


@pytest.fixture
def lying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the executor start a process that says what `lie` says."""

    def install(lie: str) -> None:
        script = tmp_path / "liar"
        cid = cid_of(models.mlp())
        script.write_text(LIAR.format(python=sys.executable, lie=f"{lie}\nimport time; time.sleep(600)", cid=cid))
        script.chmod(0o700)
        monkeypatch.setattr(device_process.sys, "executable", str(script))

    return install


@pytest.mark.parametrize("lie", LIES)
async def test_a_process_that_lies_is_killed(
    executor: SubprocessExecutor, lying: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    model = models.mlp()
    lying(LIES[lie])
    with pytest.raises(WorkerDied) as died, trio.fail_after(120):  # noqa: PT012  (either call may notice)
        await executor.load(cid_of(model), model)
        await executor.run(cid_of(model), batch_of([1, 1], x=np.zeros((2, 64), np.float32)), 60)
    assert "Error" not in str(died.value), "the lie itself is broken"
    assert psutil.Process().children() == []
    monkeypatch.undo()
    await check_that_it_works(executor)


async def test_a_process_that_cannot_start_says_why(
    executor: SubprocessExecutor, lying: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    lying("raise ImportError('\\x1b[31mlibfrob.so is missing')")
    with pytest.raises(WorkerDied, match=r"status 1: ImportError: libfrob\.so is missing$"):
        await executor.benchmark()
    monkeypatch.setattr(device_process.sys, "executable", "/nowhere/python")
    with pytest.raises(WorkerDied, match="could not be started: No such file"):
        await executor.benchmark()
    monkeypatch.undo()
    await check_that_it_works(executor)


async def test_a_process_that_keeps_the_shared_memory_is_one_that_does_not_answer(
    executor: SubprocessExecutor, lying: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess_executor, "LOAD_TIMEOUT_S", 0.5)
    lying(
        "from peerinfer_node.inference.arena import *; Arena(int(given['arena-fd'])).take(); say(Ready(0, 'full', ''))"
    )
    with pytest.raises(AttemptTimeout), trio.fail_after(60):
        await executor.load(cid_of(models.mlp()), models.mlp())
    assert psutil.Process().children() == []


TURNCOAT = """
from peerinfer_node.inference.arena import Arena
arena = Arena(int(given["arena-fd"]))
loaded()
size = 1 << 20
say(Ran(2, (OutputGroup((0, 1), row(2, size // 8)),), (), 0.1, (), ()), [bytes(size)], arena.answered)
while True:
    arena.answered[:size] = b"\\xff" * size
"""


async def test_a_process_cannot_change_its_answer_after_it_was_checked(
    executor: SubprocessExecutor, lying: Callable[[str], None]
) -> None:
    model = models.mlp()
    lying(TURNCOAT)
    await executor.load(cid_of(model), model)
    result = await executor.run(cid_of(model), batch_of([1, 1], x=np.zeros((2, 64), np.float32)), 5)
    process = executor._process
    assert process is not None
    assert process._arena is not None
    shared = process._arena.answered
    await wait_until(lambda: shared[(1 << 20) - 1] == 0xFF)
    before = bytes(result.groups[0].body)
    await wait_until(lambda: shared[0] == 0xFF)
    assert bytes(result.groups[0].body) == before  # it may be torn, but it stands


async def test_a_process_that_never_gets_ready_is_given_up(
    executor: SubprocessExecutor, lying: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess_executor, "START_TIMEOUT_S", 0.3)
    lying("pass")
    with pytest.raises(WorkerDied, match=r"not ready within 0\.3 s"):
        await executor.benchmark()


async def test_a_process_gets_no_folder_and_none_of_the_daemon_s_secrets(
    executor: SubprocessExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEERINFER_TEST_SECRET", "secret")
    await check_that_it_works(executor)
    process = worker()
    assert os.readlink(f"/proc/{process.pid}/cwd").endswith(
        "(deleted)"
    )  # no file by a relative name, and none can be made
    assert {"PATH", "LANG"} <= process.environ().keys()
    assert not {"HOME", "PEERINFER_TEST_SECRET"} & process.environ().keys()
    assert os.getsid(process.pid) == process.pid
    inherited = {
        os.readlink(f"/proc/{process.pid}/fd/{fd}").split(":")[0] for fd in os.listdir(f"/proc/{process.pid}/fd")
    }
    assert inherited <= {"/dev/null", "/memfd", "pipe", "socket"}


async def test_an_odd_batch_does_not_start_a_process(executor: SubprocessExecutor) -> None:
    with pytest.raises(KeyError):
        await executor.run(cid_of(b"?"), Batch((1,), (), [], True), 1)
    assert psutil.Process().children() == []
