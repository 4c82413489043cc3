from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerinfer.errors import DecodeError
from peerinfer.limits import HEADER_BYTES_MAX
from peerinfer.messages import Execution, OutputGroup, TaskFailure
from peerinfer.tensors import Port, TensorSpec
from peerinfer_node.inference import pipe

MESSAGES = [
    pipe.Load(1, "cid", (pipe.Speed(10, 2, 0.5),)),
    pipe.Run(2, "cid", (1, 5), (TensorSpec("x", "float32", (6, 64)),), True, ("y",)),
    pipe.Unload(3, "cid"),
    pipe.Measure(4),
    pipe.Ready(0, "full", "no_new_privs"),
    pipe.Loaded(1, (Port("x", "float32", (-1, 64)),), (Port("y", "float32", ()),), 0.5, False, 8192.0, ("cid",)),
    pipe.NotLoaded(1, "model", "why", ()),
    pipe.Ran(
        2,
        (OutputGroup((0,), (TensorSpec("y", "float32", (1, 2)),)),),
        (TaskFailure(1, "model", "why"),),
        0.25,
        (pipe.Speed(63, 512, 0.0),),
        (Execution(5, 1, 0.125), Execution(1, 2, 0.125)),
    ),
    pipe.Stopped(2),
    pipe.Unknown(2),
    pipe.Unloaded(3),
    pipe.Measured(4, 100.0, 10.0, 900.0, 2.0, (0.5, -1.0)),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_was(message: pipe.Request | pipe.Reply) -> None:
    assert pipe.decode(pipe.encode(message)) == message


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_decode_error(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        pipe.decode(data)


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=12,
)


@given(st.integers(0, 13), st.lists(_values, max_size=6))
def test_any_fields_are_a_message_or_a_decode_error(kind: int, fields: list[object]) -> None:
    with contextlib.suppress(DecodeError):
        pipe.decode(msgpack.packb([kind, *fields]))


@pytest.mark.parametrize(
    "claim", [(HEADER_BYTES_MAX + 1, 0), (10, pipe.PIPE_BODY_BYTES_MAX + 1), (2**32 - 1, 2**64 - 1)]
)
def test_a_length_past_its_limit_is_refused_before_anything_is_allocated(claim: tuple[int, int]) -> None:
    prefix = claim[0].to_bytes(4, "little") + claim[1].to_bytes(8, "little") + b"\0"
    with pytest.raises(DecodeError, match="limit"):
        pipe.lengths_of(prefix)


def test_bytes_that_come_in_pieces_fill_one_place_after_the_other_until_the_sender_is_gone() -> None:
    places = [memoryview(bytearray(size)) for size in (3, 0, 4)]
    incoming = pipe.Incoming(*places)
    here, there = socket.socketpair()
    with there:
        with here:
            for piece, is_last in ((b"a", False), (b"bcd", False), (b"efg", True)):
                here.sendall(piece)
                assert incoming.receive_some(there) is is_last
            assert b"".join(places) == b"abcdefg"
        with pytest.raises(EOFError):
            pipe.Incoming(memoryview(bytearray(1))).receive_some(there)


@pytest.mark.parametrize(("body_bytes", "where"), [(101, 1), (0, 2), (5, 255)])
def test_a_body_that_cannot_lie_where_it_is_said_to_is_refused(body_bytes: int, where: int) -> None:
    prefix = bytes(4) + body_bytes.to_bytes(8, "little") + bytes([where])
    with pytest.raises(DecodeError, match="lie at place"):
        pipe.lengths_of(prefix, 100)


def test_a_body_goes_through_shared_memory_from_its_least_size_to_all_that_fits() -> None:
    shared = memoryview(bytearray(pipe.SHARED_BYTES_MIN + 10))
    for size, is_expected in (
        (pipe.SHARED_BYTES_MIN - 1, False),
        (pipe.SHARED_BYTES_MIN, True),
        (pipe.SHARED_BYTES_MIN + 10, True),
        (pipe.SHARED_BYTES_MIN + 11, False),
    ):
        here, there = socket.socketpair()
        with here, there:
            while not pipe.Outgoing(pipe.Measure(7), [b"a", b"b" * (size - 1)], shared).send_some(here):
                pass
            prefix = there.recv(pipe.PREFIX_BYTES, socket.MSG_WAITALL)
            header_bytes, body_bytes, is_shared = pipe.lengths_of(prefix, shared.nbytes)
            assert (body_bytes, is_shared) == (size, is_expected)
            assert pipe.decode(there.recv(header_bytes, socket.MSG_WAITALL)) == pipe.Measure(7)
            assert not is_shared or shared[:size] == b"a" + b"b" * (size - 1)


@pytest.mark.parametrize(
    "sizes",
    [[], [0], [10], [0, 3, 0], [10] * 3000, [100_000], [5, 200_000, 5], [70_000] * 3, [1] * 600 + [100_000] * 600],
    ids=lambda sizes: f"{len(sizes)} buffers",
)
def test_a_body_of_many_buffers_arrives_in_order(sizes: list[int]) -> None:
    body = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    here, there = socket.socketpair()
    with here, there:
        received = bytearray()

        def read() -> None:
            while data := there.recv(1 << 16):
                received.extend(data)

        reader = threading.Thread(target=read)
        reader.start()
        outgoing = pipe.Outgoing(pipe.Measure(7), body)
        while not outgoing.send_some(here):
            pass
        here.shutdown(socket.SHUT_WR)
        reader.join()
    header_bytes, body_bytes, is_shared = pipe.lengths_of(received[: pipe.PREFIX_BYTES])
    assert not is_shared
    assert pipe.decode(received[pipe.PREFIX_BYTES : pipe.PREFIX_BYTES + header_bytes]) == pipe.Measure(7)
    assert received[pipe.PREFIX_BYTES + header_bytes :] == b"".join(body)
    assert body_bytes == sum(sizes)


def test_a_reason_becomes_one_printable_line() -> None:
    assert pipe.shortened("a\n  b\x1b[31m\tc\0") == "a b [31m c"
    assert len(pipe.shortened("x" * 10_000)) == 500


def test_the_process_of_a_device_imports_no_trio_which_it_would_wait_for_at_every_start() -> None:
    program = "import sys, peerinfer_node.inference.worker_process\n"
    program += "from peerinfer_node.inference import batching, providers\nprint('trio' in sys.modules)"
    child = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, check=True, text=True)
    assert child.stdout == "False\n"
