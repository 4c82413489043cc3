"""Peers that break the protocol against real daemons: they lose their stream, and the daemon serves the next job."""

import os
from contextlib import asynccontextmanager, suppress
from functools import partial

import models
import numpy as np
import pytest
import trio
from job_files import SLOW_ATOL, assert_adds_up, assert_same, direct, write_model, write_npz

from peerinfer.codec import encode
from peerinfer.config import NodeConfig
from peerinfer.errors import PeerinferError, StreamClosed
from peerinfer.ids import cid_of
from peerinfer.limits import BODY_BYTES_MAX, HEADER_BYTES_MAX
from peerinfer.messages import (
    PROTOCOL_VERSION,
    Cancel,
    Frame,
    Goodbye,
    Hello,
    JobBrief,
    KeepAlive,
    Refused,
    Results,
    Term,
    Window,
)
from peerinfer.tensors import TensorSpec
from peerinfer_node.home import Home
from peerinfer_node.keys import MemoryKeys
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.network.libp2p_network import Libp2pNetwork
from peerinfer_node.opening import open_node
from peerinfer_node.roles.work_stream import AGENT, WORK_PROTOCOL, greet

pytestmark = pytest.mark.slow

ANSWER_TIMEOUT_S = 60
PROTOCOLS = [WORK_PROTOCOL, "/peerinfer/members/1", "/peerinfer/blob/1", "/peerinfer/lease/1", "/peerinfer/journal/1"]
ROWS = np.random.default_rng(0).standard_normal((300, 64)).astype(np.float32)
JOB = "11111111111111111111111111111111"
TERM = Term(1, "somebody")


@pytest.fixture(scope="module")
def me(shared):
    return shared.join("me")


@pytest.fixture(scope="module")
def job_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    return write_model(folder / "mlp.onnx", models.mlp()), write_npz(folder / "rows.npz", x=ROWS)


async def finished(process):
    """The process after its end; other tasks of the test go on meanwhile."""
    await trio.to_thread.run_sync(process.wait)
    return process


@asynccontextmanager
async def dialled(daemon, protocol=WORK_PROTOCOL, name=b"stranger"):
    """A raw stream to the daemon."""
    network = Libp2pNetwork(MemoryKeys(name), (), mdns=False)
    async with network.run():
        with trio.fail_after(ANSWER_TIMEOUT_S):
            peer = await network.dial(daemon.address)
            stream = await network.open_stream(peer, protocol)
        yield stream


async def read_to_the_end(stream):
    """What the daemon still said. Raises trio.TooSlowError if it does not end the stream."""
    said = b""
    with trio.fail_after(ANSWER_TIMEOUT_S), suppress(StreamClosed):
        while part := await stream.read(65536):
            said += part
    return said


async def assert_serves(daemon):
    async with dialled(daemon, name=b"honest") as stream:
        hello = await greet(MessageStream(stream), swarm="")
        assert hello.version == PROTOCOL_VERSION


# --- strangers that dial -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_garbage_instead_of_a_greeting_costs_the_stream_only(protocol, me):
    for garbage in (b"\xff" * 64, b"\x05\x00hello", os.urandom(5000), b"GET / HTTP/1.1\r\n\r\n"):
        async with dialled(me, protocol) as stream:
            with suppress(StreamClosed):
                await stream.write(garbage)
                await stream.close()
            await read_to_the_end(stream)
    await assert_serves(me)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_another_version_is_told_which_one_is_spoken_here(protocol, me):
    async with dialled(me, protocol) as raw:
        stream = MessageStream(raw)
        await stream.send(Hello(PROTOCOL_VERSION + 1, "peerinfer/9.9.9"))
        said = []
        with trio.fail_after(ANSWER_TIMEOUT_S), suppress(EOFError, StreamClosed):
            while True:
                said.append((await stream.receive())[0])
        goodbyes = [message.reason for message in said if isinstance(message, Goodbye)]
        assert goodbyes, said
        assert f" version {PROTOCOL_VERSION + 1}" in goodbyes[0]
        assert f" {PROTOCOL_VERSION}" in goodbyes[0].replace(f" {PROTOCOL_VERSION + 1}", "")
    await assert_serves(me)


def framed(message, body=b""):
    """A message as it travels."""
    header = encode(message)
    assert len(header) <= HEADER_BYTES_MAX
    return varint(len(header)) + varint(len(body)) + header + body


def varint(length):
    encoded = bytearray()
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes((*encoded, length))


def brief(**changes):
    values = {
        "job": JOB, "term": TERM, "model": cid_of(models.mlp()), "model_bytes": len(models.mlp()), "outputs": (),
        "merge": True, "timeout_s": 5.0,
    }  # fmt: skip
    return JobBrief(**values | changes)


def frame(**changes):
    values = {
        "frame": 1, "job": JOB, "term": TERM, "tasks": (0,), "attempts": (1,), "items": (1,),
        "tensors": (TensorSpec("x", "float32", (1, 64)),),
    }  # fmt: skip
    return Frame(**values | changes)


HELLO = framed(Hello(PROTOCOL_VERSION, AGENT))
BREACHES = {
    "garbage": b"\xff\xff\xff\xff\xff\xff",
    "a header beyond the limit": b"\xff\xff\xff\x7f\x00",
    "a body beyond the limit": b"\x01\xff\xff\xff\x7f",
    "a message of no known kind": b"\x02\x00\x92\x7f",
    "a message for coordinators": framed(Window(5)),
    "a refusal": framed(Refused(1, "no", True)),
    "a second greeting": HELLO,
    "a frame of an unknown job": framed(frame(), bytes(256)),
    "a model that is no cid": framed(brief(model="../../etc/passwd")),
    "a job that is no job": framed(brief(job="../jobs")),
    "a time without end": framed(brief(timeout_s=float("inf"))),
    "a frame without tasks": framed(brief()) + framed(frame(tasks=(), attempts=(), items=())),
    "a frame that says less than it carries": framed(brief()) + framed(frame(), bytes(260)),
    "a frame of another length": framed(brief())
    + framed(frame(tensors=(TensorSpec("x", "float32", (2, 64)),)), bytes(512)),
    "one frame twice": framed(brief()) + framed(frame(), bytes(256)) + framed(frame(), bytes(256)),
}


@pytest.mark.parametrize("kind", BREACHES)
async def test_a_coordinator_that_breaks_the_protocol_loses_its_stream(kind, me):
    async with dialled(me) as stream:
        with suppress(StreamClosed):
            await stream.write(HELLO + BREACHES[kind])
        await read_to_the_end(stream)
    await assert_serves(me)


async def test_cancelling_what_was_never_sent_and_dropping_out_in_the_middle_of_a_frame_do_nothing(me):
    async with dialled(me) as stream:
        await stream.write(HELLO + framed(Cancel(77, "never sent")) + framed(KeepAlive()))
        await stream.write(framed(brief()) + framed(frame(), bytes(256))[:100])
    # The connection is gone now, in the middle of the frame.
    await assert_serves(me)


async def test_a_coordinator_that_stops_in_the_middle_of_a_frame_keeps_nobody_waiting(shared, me, job_files, tmp_path):
    async with dialled(me) as stream:
        await stream.write(HELLO + framed(brief()) + framed(frame(), bytes(256))[:100])
        run = await finished(
            shared.start(
                "researcher", "run", *job_files, "-o", tmp_path / "out.npz", "--bootstrap", me.address, "--json"
            )
        )
        assert run.code == 0, run.told()
        assert_adds_up(run.json, items=len(ROWS))
        assert_same(tmp_path / "out.npz", direct(models.mlp(), x=ROWS))


async def test_many_streams_that_say_nothing_leave_room_for_others(me):
    network = Libp2pNetwork(MemoryKeys(b"many"), (), mdns=False)
    async with network.run():
        peer = await network.dial(me.address)
        for _ in range(40):
            await network.open_stream(peer, WORK_PROTOCOL)
        await assert_serves(me)


# --- strangers that volunteer --------------------------------------------------------------------------------------


@asynccontextmanager
async def volunteering(tmp_path, me, behave):
    """A node in this process that lends its device to the daemon, and behaves like this on work streams."""
    home = Home.resolve({"PEERINFER_HOME": str(tmp_path / "stranger")})
    config = NodeConfig(name="stranger", listen=("/ip4/127.0.0.1/tcp/0",), mdns=False, bootstrap=(me.address,))
    async with open_node(home, config, lends=True, networked=True) as node:
        node.ports.network.serve(WORK_PROTOCOL, partial(behave, node))
        await known_to(me, node)
        yield node


async def peer_of(daemon, node):
    """The node as the daemon sees it, or None."""
    peers = await trio.to_thread.run_sync(daemon.ask, "GET", "/peers")
    return next((peer for peer in peers if peer["peer_id"] == node.peer_id), None)


@asynccontextmanager
async def alone_at_first(daemon, met):
    """The daemon's own device takes nothing until the stranger has met the job; else it might be done before."""
    await trio.to_thread.run_sync(daemon.ask, "POST", "/node/pause")
    async with trio.open_nursery() as nursery:

        async def resume():
            try:
                with trio.move_on_after(ANSWER_TIMEOUT_S):
                    await met.wait()
            finally:  # Other tests use the daemon, too.
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(daemon.ask, "POST", "/node/resume")

        nursery.start_soon(resume)
        yield


async def known_to(daemon, node):
    """Returns when the daemon has heard what the node lends."""
    with trio.fail_after(ANSWER_TIMEOUT_S):
        while not ((peer := await peer_of(daemon, node)) and peer["devices"]):  # noqa: ASYNC110  (there is no event)
            await trio.sleep(0.05)


async def greeted(raw):
    stream = MessageStream(raw)
    await greet(stream, swarm="")
    await stream.send(Window(2))
    return stream


async def first_frame(raw):
    stream = await greeted(raw)
    while True:
        message, _ = await stream.receive()
        if isinstance(message, Frame):
            return stream, message


async def answers_garbage(node, raw):
    await first_frame(raw)
    await raw.write(b"\xff" * 100)
    await trio.sleep_forever()


async def greets_with_garbage(node, raw):
    await raw.write(os.urandom(1000))
    await trio.sleep_forever()


async def stops_in_the_middle(node, raw):
    await first_frame(raw)
    await raw.write(framed(KeepAlive()) + b"\x40\xff\x7f" + bytes(20))
    await trio.sleep_forever()


async def leaves_with_the_frame(node, raw):
    await first_frame(raw)
    await raw.reset()


async def answers_nothing_that_was_asked(node, raw):
    stream, asked = await first_frame(raw)
    await stream.send(Results(asked.frame + 1000, (), (), 0.1, b""))
    await stream.send(Results(asked.frame, (), (), 0.1, b"not a receipt"))
    await trio.sleep_forever()


async def claims_more_than_is_allowed(node, raw):
    await first_frame(raw)
    await raw.write(b"\x01" + bytes([0xFF, 0xFF, 0xFF, 0x7F]) + bytes(10))
    assert BODY_BYTES_MAX < 0x0FFFFFFF
    await trio.sleep_forever()


async def refuses_everything(node, raw):
    stream, asked = await first_frame(raw)
    while True:
        await stream.send(Refused(asked.frame, "\x1b[31mnot today\n", False))
        while not isinstance(asked := (await stream.receive())[0], Frame):
            pass


STRANGERS = [
    greets_with_garbage,
    answers_garbage,
    stops_in_the_middle,
    leaves_with_the_frame,
    answers_nothing_that_was_asked,
    claims_more_than_is_allowed,
    refuses_everything,
]


async def played(behave, node, raw):
    with suppress(PeerinferError, EOFError):
        await behave(node, raw)


@pytest.mark.parametrize("behave", STRANGERS, ids=lambda behave: behave.__name__)
async def test_a_volunteer_that_breaks_the_protocol_costs_no_item(behave, shared, me, job_files, tmp_path):
    met = trio.Event()

    async def observed(node, raw):
        met.set()
        await played(behave, node, raw)

    async with volunteering(tmp_path, me, observed) as node, alone_at_first(me, met):
        run = shared.start("me", "run", *job_files, "-o", tmp_path / "out.npz", "--batch", "3", "--json")
        await finished(run)
        assert run.code == 0, run.told()
        assert met.is_set(), "the job did not come by: nothing was tested"
        assert_adds_up(run.json, items=len(ROWS))
        assert {peer["peer_id"] for peer in run.json["peers"]} == {me.peer_id}
        assert node.peer_id != me.peer_id
        assert_same(tmp_path / "out.npz", direct(models.mlp(), x=ROWS))
    await assert_serves(me)


async def test_a_volunteer_that_lies_is_caught_and_none_of_its_answers_is_used(shared, me, tmp_path):
    """Every answer is wrong, and signed: its node runs, for real, another model than the one asked for."""
    model = write_model(tmp_path / "slow.onnx", models.slow(8))
    rows = np.linspace(-1, 1, 60, dtype=np.float32).reshape(-1, 1)
    home = Home.resolve({"PEERINFER_HOME": str(tmp_path / "liar")})
    config = NodeConfig(name="liar", listen=("/ip4/127.0.0.1/tcp/0",), mdns=False, bootstrap=(me.address,))
    async with open_node(home, config, lends=True, networked=True) as node:
        (executor,) = node.ports.executors
        run_truly = executor.run
        met = trio.Event()

        async def run(model, batch, timeout_s):
            met.set()
            result = await run_truly(model, batch, timeout_s)
            for group in result.groups:
                values = np.frombuffer(bytes(group.body), np.float32) + np.float32(0.5)
                object.__setattr__(group, "body", values.tobytes())
            return result

        executor.run = run
        await known_to(me, node)
        inputs = write_npz(tmp_path / "in.npz", x=rows)
        async with alone_at_first(me, met):
            process = shared.start("me", "run", model, inputs, "-o", tmp_path / "out.npz", "--batch", "1", "--json")
            await finished(process)
        assert process.code == 0, process.told()
        assert_adds_up(process.json, items=len(rows))
        assert {peer["peer_id"] for peer in process.json["peers"]} == {me.peer_id}
        assert_same(tmp_path / "out.npz", {"y": rows}, atol=SLOW_ATOL)
        assert (await peer_of(me, node))["reputation"]["evidence"] >= 1
