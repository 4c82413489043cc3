"""What the daemon and the process of a device say to each other over a socket pair.

    header length (u32) | body length (u64) | where (u8) | header | body          little-endian

The header is a MessagePack array `[kind, field, …]`; the body, raw tensors or a model, is never parsed. It follows (0), or
lies in memory that both see (1, see `arena`). The daemon asks, one request at a time, and the process answers each with one
reply that carries the request's number. A second socket pair carries nothing but the numbers of requests to stop, so that
it can be read while an inference runs.

Neither side may trust the other's lengths: a process that a model has taken over writes what it likes. Reading gives a
message or `DecodeError` and allocates no more than `PIPE_BODY_BYTES_MAX`.
"""

from __future__ import annotations

import mmap
import socket
import struct
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import msgpack

from peerinfer.batch_size import MEASURES_MAX, ROWS_MAX
from peerinfer.codec import fields_of, flag, listed, number, one_of, packed_u32, part, record, text, uint, wire
from peerinfer.errors import DecodeError
from peerinfer.limits import (
    EXECUTIONS_MAX,
    FRAME_TASKS_MAX,
    GIB,
    HEADER_BYTES_MAX,
    KIB,
    MIB,
    NAME_CHARS_MAX,
    REASON_CHARS_MAX,
    TENSORS_MAX,
)
from peerinfer.messages import Execution, OutputGroup, TaskFailure
from peerinfer.tensors import Buffer, Port, TensorSpec

PIPE_BODY_BYTES_MAX = 2 * GIB
"""Of a request or a reply; both ends hold it in memory once."""

SESSIONS_MAX = 64
"""Models that one process keeps loaded, whatever their size."""

TASK_REASON_CHARS_MAX = 200
"""Of one failed task: a thousand of them fit one header, whatever the alphabet."""

SOCKET_BUFFER_BYTES = 1 * MIB
"""Asked for; the kernel gives what `net.core.wmem_max` allows. Larger buffers mean fewer wake-ups for large bodies."""

SHARED_BYTES_MIN = 64 * KIB
"""Smaller bodies travel with their header: one system call is cheaper than two looks at other memory."""

_PREFIX = struct.Struct("<IQB")
_STOP = struct.Struct("<Q")
_MAPPED_BYTES_MIN = 32 * MIB
_JOINED_BYTES_MAX = 64 * KIB
_VECTORS_MAX = 512  # Linux takes 1,024 buffers in one call.

_model = text(64)
_request = uint(63)
_name = text(NAME_CHARS_MAX)
_ports = listed(record(Port), TENSORS_MAX)


@part
class Speed:
    """A `batch_size.Measure`."""

    row_bytes_power: int = wire(uint(6))
    rows: int = wire(uint(ROWS_MAX.bit_length() + 1))
    run_s: float = wire(number)


_speeds = listed(record(Speed), MEASURES_MAX)

# --- requests ------------------------------------------------------------------------------------------------------


@part
class Load:
    """The body is the model."""

    request: int = wire(_request)
    model: str = wire(_model)
    speeds: tuple[Speed, ...] = wire(_speeds)
    """What was measured of it before."""


@part
class Run:
    """The fields are those of `ports.Batch`; the body is its tensors."""

    request: int = wire(_request)
    model: str = wire(_model)
    items: tuple[int, ...] = wire(packed_u32(FRAME_TASKS_MAX))
    tensors: tuple[TensorSpec, ...] = wire(listed(record(TensorSpec), TENSORS_MAX))
    merge: bool = wire(flag)
    outputs: tuple[str, ...] = wire(listed(_name, TENSORS_MAX))


@part
class Unload:
    request: int = wire(_request)
    model: str = wire(_model)


@part
class Measure:
    request: int = wire(_request)


# --- replies -------------------------------------------------------------------------------------------------------


@part
class Ready:
    """The first thing that a process says."""

    request: int = wire(_request)
    """Zero: nobody asked."""
    level: str = wire(one_of("full", "partial", "none"))
    layers: str = wire(_name)


@part
class Loaded:
    request: int = wire(_request)
    inputs: tuple[Port, ...] = wire(_ports)
    outputs: tuple[Port, ...] = wire(_ports)
    load_s: float = wire(number)
    is_widened: bool = wire(flag)
    flops: float = wire(number)
    """Operations for one item."""
    held: tuple[str, ...] = wire(listed(_model, SESSIONS_MAX))
    """Every model that is loaded now: others may have gone to make room."""


@part
class NotLoaded:
    """The model was refused, did not fit into memory, or is not for this device; or the device could not be measured."""

    request: int = wire(_request)
    kind: str = wire(one_of("model", "memory", "device"))
    reason: str = wire(text(REASON_CHARS_MAX))
    held: tuple[str, ...] = wire(listed(_model, SESSIONS_MAX))


@part
class Ran:
    """The body holds the groups' tensors one after the other."""

    request: int = wire(_request)
    groups: tuple[OutputGroup, ...] = wire(listed(record(OutputGroup), FRAME_TASKS_MAX))
    failures: tuple[TaskFailure, ...] = wire(listed(record(TaskFailure), FRAME_TASKS_MAX))
    compute_s: float = wire(number)
    speeds: tuple[Speed, ...] = wire(_speeds)
    """All that is measured of the model, where this batch brought something new; else empty."""
    executions: tuple[Execution, ...] = wire(listed(record(Execution), EXECUTIONS_MAX))
    """In which batches the tasks ran; of more sizes than fit, the first."""


@part
class Stopped:
    """The run was stopped as asked; there is no result."""

    request: int = wire(_request)


@part
class Unknown:
    """The model is not loaded."""

    request: int = wire(_request)


@part
class Unloaded:
    request: int = wire(_request)


@part
class Measured:
    request: int = wire(_request)
    gemm_gflops: float = wire(number)
    bandwidth_gbs: float = wire(number)
    conv_images_s: float = wire(number)
    resnet50_images_s: float = wire(number)
    """0 if it would have taken too long."""
    answers: tuple[float, ...] = wire(listed(number, 64))
    """Of the small convolution network to its image."""


Request = Load | Run | Unload | Measure
Reply = Ready | Loaded | NotLoaded | Ran | Stopped | Unknown | Unloaded | Measured

_CLASSES: tuple[type[Any], ...] = (
    Load, Run, Unload, Measure, Ready, Loaded, NotLoaded, Ran, Stopped, Unknown, Unloaded, Measured,
)  # fmt: skip
_KIND_OF = {cls: kind for kind, cls in enumerate(_CLASSES)}
_READERS = [record(cls) for cls in _CLASSES]


# --- bytes ---------------------------------------------------------------------------------------------------------


def encode(message: Request | Reply) -> bytes:
    """Raises ValueError if the header would be too long: names and reasons are bounded, but many can add up."""
    header: bytes = msgpack.packb((_KIND_OF[type(message)], *fields_of(message)))
    if len(header) > HEADER_BYTES_MAX:
        raise ValueError(f"a header of {len(header)} bytes passes the limit of {HEADER_BYTES_MAX}")
    return header


def decode(header: Buffer) -> Any:
    """The message in `header`, or `DecodeError`; no other error for any bytes."""
    try:
        raw = msgpack.unpackb(header, use_list=False)
        if not isinstance(raw, tuple) or not raw or type(raw[0]) is not int or not 0 <= raw[0] < len(_READERS):
            raise ValueError("not an array that starts with a kind")
        return _READERS[raw[0]](raw[1:])
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise DecodeError(f"not a message: {error}"[:200]) from None


def lengths_of(prefix: Buffer, shared_bytes: int = 0) -> tuple[int, int, bool]:
    """Lengths of header and body, and whether the body lies in the shared memory, which has so many bytes.

    Raises `DecodeError` if a length passes its limit.
    """
    header_bytes, body_bytes, where = _PREFIX.unpack(prefix)
    if header_bytes > HEADER_BYTES_MAX or body_bytes > PIPE_BODY_BYTES_MAX:
        raise DecodeError(f"lengths of {header_bytes} and {body_bytes} bytes pass the limits")
    if where > 1 or (where and body_bytes > shared_bytes):
        raise DecodeError(f"{body_bytes} bytes lie at place {where}, where there are {shared_bytes}")
    return header_bytes, body_bytes, where == 1


PREFIX_BYTES = _PREFIX.size


def room_for(body_bytes: int) -> memoryview:
    """Writable memory. Large amounts are mapped, so that a claim alone costs nothing before bytes arrive.

    Smaller ones are not: fresh pages made 10 MB there and back take 14 ms instead of 7.
    """
    return memoryview(bytearray(body_bytes) if body_bytes < _MAPPED_BYTES_MIN else mmap.mmap(-1, body_bytes))


class Outgoing:
    """One message on its way: what of it a socket has not taken yet. Large tensors are never copied together."""

    def __init__(self, message: Request | Reply, body: Iterable[Buffer] = (), shared: memoryview | None = None) -> None:
        """`shared` is memory that the other side sees; a body that is worth it and fits is copied there, at once."""
        views = [memoryview(part).cast("B") for part in body if memoryview(part).nbytes]
        body_bytes = sum(view.nbytes for view in views)
        if body_bytes > PIPE_BODY_BYTES_MAX:
            raise ValueError(f"a body of {body_bytes} bytes passes the limit of {PIPE_BODY_BYTES_MAX}")
        header = encode(message)
        is_shared = shared is not None and SHARED_BYTES_MIN <= body_bytes <= shared.nbytes
        if shared is not None and is_shared:
            _copy_together(views, shared)
            views = []
        self._views: deque[memoryview] = deque()
        small = [_PREFIX.pack(len(header), body_bytes, is_shared), header]
        small_bytes = 0
        for view in views:
            if view.nbytes < _JOINED_BYTES_MAX and small_bytes < _JOINED_BYTES_MAX:
                small.append(bytes(view))
                small_bytes += view.nbytes
                continue
            self._views.append(memoryview(b"".join(small)))
            if view.nbytes < _JOINED_BYTES_MAX:
                small, small_bytes = [bytes(view)], view.nbytes
            else:
                small, small_bytes = [], 0
                self._views.append(view)
        self._views.append(memoryview(b"".join(small)))

    def send_some(self, sock: socket.socket) -> bool:
        """Gives the socket what it takes in one call; True when nothing is left. Raises OSError."""
        sent = sock.sendmsg([view for view, _ in zip(self._views, range(_VECTORS_MAX), strict=False)])
        while self._views and sent >= self._views[0].nbytes:
            sent -= self._views.popleft().nbytes
        if self._views and sent:
            self._views[0] = self._views[0][sent:]
        return not self._views


class Incoming:
    """Memory that a message's bytes go into as they come, one piece after the other."""

    def __init__(self, *targets: memoryview) -> None:
        self._waiting = [target for target in targets if target.nbytes]

    def receive_some(self, sock: socket.socket, flags: int = 0) -> bool:
        """Takes what the socket gives in one call; True when nothing is missing. Raises EOFError, OSError."""
        if not self._waiting:
            return True
        received = sock.recvmsg_into(self._waiting, 0, flags)[0]
        if not received:
            raise EOFError
        while self._waiting and received >= self._waiting[0].nbytes:
            received -= self._waiting.pop(0).nbytes
        if self._waiting and received:
            self._waiting[0] = self._waiting[0][received:]
        return not self._waiting


def _copy_together(views: Iterable[memoryview], target: memoryview) -> None:
    start = 0
    for view in views:
        target[start : start + view.nbytes] = view
        start += view.nbytes


def stop_bytes(request: int) -> bytes:
    return _STOP.pack(request)


def read_stop(control: socket.socket) -> int:
    """Waits for the number of a request to stop. Raises EOFError when the daemon is gone."""
    data = control.recv(_STOP.size, socket.MSG_WAITALL)
    if len(data) < _STOP.size:
        raise EOFError
    (request,) = _STOP.unpack(data)
    return int(request)


def exact(message: Any, kinds: Sequence[type[Any]]) -> Any:
    """The message if it is of one of these kinds, else `DecodeError`."""
    if type(message) not in kinds:
        raise DecodeError(f"a {type(message).__name__} came out of turn")
    return message


def shortened(reason: str, chars_max: int = REASON_CHARS_MAX) -> str:
    """One printable line that fits a reason field."""
    line = " ".join("".join(c if c.isprintable() else " " for c in reason).split())
    return line if len(line) <= chars_max else line[: chars_max - 1] + "…"
