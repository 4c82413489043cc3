"""The doors of a node to the world. Each has a real and a simulated twin of equal rank; the node cannot tell them apart.

Nothing here decides. Foreign exceptions are translated inside the adapters: callers see `peerinfer.errors` only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import trio

from peerinfer.batch_size import Measure
from peerinfer.elector_events import SeatRow
from peerinfer.governor import Sample
from peerinfer.ids import Cid, JobId, PeerId
from peerinfer.messages import Execution
from peerinfer.snapshots import Snapshot
from peerinfer.tensors import Buffer, Port, TensorSpec
from peerinfer_node.peer_rows import PeerRow, ReputationRow, StatementRow
from peerinfer_node.record_rows import RecordRow

T = TypeVar("T")


# --- network -------------------------------------------------------------------------------------------------------


class Stream(Protocol):
    """An ordered, encrypted byte stream to an authenticated peer."""

    @property
    def peer(self) -> PeerId: ...

    async def read(self, bytes_max: int) -> bytes:
        """At least one byte, or b"" when the other side has finished. Raises `StreamClosed` when it broke."""

    async def write(self, data: Buffer) -> None:
        """Returns when the data is handed over; waits while the other side does not read. Raises `StreamClosed`."""

    def write_nowait(self, data: Buffer) -> bool:
        """Hands all of the data over and returns True, or nothing where that has to wait. Raises `StreamClosed`.

        Not to be called while another task writes.
        """

    async def close(self) -> None:
        """Finishes politely. Never raises; waits a bounded time."""

    async def reset(self) -> None:
        """Ends at once, both ways. Never raises; waits a bounded time."""


StreamHandler = Callable[[Stream], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """Also when a connected peer is reached in another way now: directly instead of by a relay."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class PeerDisconnected:
    peer: PeerId


@dataclass(frozen=True, slots=True)
class AddressFound:
    """Discovery saw a peer at these addresses; nobody has dialled it yet."""

    peer: PeerId
    addresses: tuple[str, ...]


NetworkEvent = PeerConnected | PeerDisconnected | AddressFound


class Hole(Protocol):
    """A port of this machine from which a peer will be met half way."""

    port: int

    async def meet(self, host: str, port: int, within_s: float) -> trio.SocketStream: ...


class Network(Protocol):
    """Streams to peer ids. Addresses are multiaddrs in text form, ending in /p2p/<peer id>."""

    @property
    def peer_id(self) -> PeerId: ...

    def addresses(self) -> tuple[str, ...]:
        """Dialable addresses of this node, each with /p2p/<peer id>; empty if it does not listen."""

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        """Calls the handler for every incoming stream of this protocol. To be called before `run`."""

    def run(self) -> AbstractAsyncContextManager[None]:
        """Listens and accepts while the context is open; leaves no task and no socket behind.

        Raises `StateUnusable` if an address to listen on cannot be had (port taken), in one line.
        """

    async def dial(self, address: str) -> PeerId:
        """Connects to one address. Raises `DialFailed`; also when another identity answers there."""

    async def answers_at(self, address: str) -> bool:
        """Whether the peer that the address names answers there, on a connection made to find out and closed again."""

    def remote_host(self, peer: PeerId) -> str:
        """The IP address that a peer is connected from or to, "" if it is not, or only through a relay."""

    def dig(self, host: str) -> AbstractContextManager[Hole]:
        """A port from which to meet a peer at this IP address. Raises `DialFailed`."""

    async def punch(self, hole: Hole, peer: PeerId, host: str, port: int, *, opens: bool, within_s: float) -> None:
        """Dials from the hole until the peer dials it, too; then connects, as the dialler if `opens`.

        Raises `DialFailed`.
        """

    async def open_stream(self, peer: PeerId, protocol: str) -> Stream:
        """A new stream to a connected (or known) peer. Raises `DialFailed` or `StreamClosed`."""

    async def disconnect(self, peer: PeerId) -> None: ...

    def connected(self) -> list[PeerId]: ...

    def path(self, peer: PeerId) -> str:
        """ "direct", "relay" or "local" (this node itself); "" for a peer that is not connected."""

    def streams(self, peer: PeerId) -> int:
        """How many streams are open to or from a peer."""

    def events(self) -> AsyncIterator[NetworkEvent]:
        """What happens from now on. One reader; the oldest events are dropped past 1,024 unread."""


# --- store ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as state.db remembers it."""

    job: JobId
    manifest: bytes
    """`Signed` `Manifest`."""
    request: str
    """What the user asked for, as JSON: enough to go on after a restart."""
    state: str
    """queued, running, paused, done, failed or cancelled."""
    created_at_s: float
    ended_at_s: float | None
    summary: str
    """JSON object with the totals; "{}" while it runs."""


class Store(Protocol):
    """What must survive a crash. Every method returns when its change is durable against kill -9."""

    async def add_job(self, row: JobRow) -> None: ...

    async def set_job_state(self, job: JobId, state: str, *, ended_at_s: float | None, summary: str) -> None: ...

    async def job(self, job: JobId) -> JobRow | None: ...

    async def jobs(self, *, limit: int = 1000) -> list[JobRow]:
        """The newest first."""

    async def forget_job(self, job: JobId) -> None:
        """Removes the job, its results, its receipts and its spool."""

    async def append_results(self, job: JobId, record: Sequence[Buffer]) -> int:
        """Appends one record to the job's spool and returns its offset. Raises `StateUnusable` when the disk is full."""

    async def read_results(self, job: JobId, offset: int) -> bytes:
        """The record at `offset`. Raises `StateUnusable` if it is not whole."""

    async def add_record(self, row: RecordRow) -> None:
        """Its tasks count from now on as this record says. Raises `StateUnusable` if the job is not known."""

    async def records_of(self, job: JobId) -> list[RecordRow]:
        """Every task that has a result stands in one of them, the one that was added last."""

    async def find_records(self, keys: Iterable[bytes]) -> list[RecordRow]:
        """Records of any job, with only those of their tasks that have these keys; each key once, newest job first."""

    async def void_results(self, job: JobId, tasks: Sequence[int]) -> None:
        """Nothing counts of these tasks any more. The receipts stay."""

    async def drop_results(self, job: JobId) -> None:
        """Removes its results, its receipts and its spool; the job itself is remembered."""

    async def results_bytes(self, job: JobId) -> int:
        """What its results take on the disk."""

    async def settle(self, job: JobId) -> None:
        """Returns when what is here of the job, results included, would survive a power cut."""

    async def receipts_of(self, job: JobId) -> list[RecordRow]:
        """Every record that has one, by frame, then by peer."""

    async def remember_peers(self, rows: Sequence[PeerRow]) -> None:
        """Inserts or replaces; keeps the `PEERS_REMEMBERED_MAX` seen last."""

    async def peers(self) -> list[PeerRow]:
        """The one seen last first."""

    async def save_reputation(self, rows: Sequence[ReputationRow], gone: Sequence[PeerId]) -> None: ...

    async def reputation(self) -> list[ReputationRow]:
        """The one seen longest ago first."""

    async def save_statements(self, rows: Sequence[StatementRow], gone: Sequence[bytes]) -> None:
        """Inserts or replaces; `gone` are signed bytes."""

    async def statements(self) -> list[StatementRow]: ...

    async def setting(self, key: str) -> str | None: ...

    async def set_setting(self, key: str, value: str | None) -> None: ...


class SeatStore(Protocol):
    """What an elector must not forget. Every method returns when its change is durable against a power cut."""

    async def save_seat(self, row: SeatRow) -> None: ...

    async def save_batches(self, job: JobId, first: int, batches: Sequence[bytes]) -> None:
        """Replaces the job's journal from `first` on; a snapshot of more than that goes as well."""

    async def save_snapshot(
        self, job: JobId, base: int, snapshot: Snapshot, batches: Sequence[bytes] | None = None
    ) -> None:
        """Takes the place of the batches before `base`, and with `batches` of those from there on, all at once."""

    async def snapshots(self) -> dict[JobId, Snapshot]:
        """Of the seats that have one."""

    async def forget(self, job: JobId, at_s: float) -> None:
        """Drops the seat and its journal, but not that there was one: see `given_up`."""

    async def given_up(self) -> list[JobId]:
        """Jobs whose seats were forgotten, the last `SEATS_GIVEN_UP_MAX` of them."""

    async def seats(self) -> list[tuple[SeatRow, tuple[bytes, ...]]]:
        """Every seat with its journal, from the base of its snapshot on."""

    async def forgot_at_s(self) -> float | None:
        """Wall clock of the moment at which promises were lost, or None."""


# --- blobs ---------------------------------------------------------------------------------------------------------


class BlobStore(Protocol):
    """Content-addressed bytes on disk, in chunks, within a size limit; the least recently used unpinned ones go first."""

    async def put(self, data: Buffer) -> Cid: ...

    async def put_file(self, path: str) -> Cid:
        """Raises `InputError` if the file cannot be read."""

    async def has(self, cid: Cid) -> bool: ...

    async def read(self, cid: Cid) -> bytes:
        """The whole blob. Raises KeyError if it is not held."""

    async def manifest(self, cid: Cid) -> bytes | None:
        """The bytes of its manifest, or None."""

    async def pieces(self, cid: Cid) -> tuple[bytes, frozenset[int] | None] | None:
        """The manifest of a blob that is held or comes in, and its chunks that are here; None instead of all of them."""

    async def read_chunk(self, cid: Cid, index: int) -> bytes | None:
        """Also of a blob that is not whole yet."""

    async def begin(self, cid: Cid, manifest: bytes) -> list[int]:
        """Makes room for a blob that is to be fetched; returns the chunks still missing (fewer after a break).

        Raises `ProtocolError` if the manifest's hash is not the cid, `LimitExceeded` if the blob is too large.
        """

    async def write_chunk(self, cid: Cid, index: int, data: Buffer) -> bool:
        """Stores one chunk if its hash is right (False: it is not). The blob is held once the last one is in."""

    async def pin(self, cid: Cid, holder: str) -> None:
        """Keeps the blob while `holder` (a job id) needs it."""

    async def unpin(self, holder: str, *, discard: bool = False) -> None:
        """With `discard`, what nobody else pins leaves the disk at once; otherwise it stays until its room is needed."""

    async def unpin_all_but(self, holders: Collection[str]) -> None:
        """Takes back the pins of all others: nobody is left who would do it."""

    async def discard(self, cid: Cid) -> None:
        """Nobody will ask for this blob again: it leaves the disk, unless it is pinned."""

    async def held(self) -> list[Cid]:
        """Most recently used first."""


# --- executor ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Device:
    """One thing that computes. Unknown figures are 0."""

    name: str
    kind: str
    """"cpu" or "gpu"."""
    provider: str
    """ONNX Runtime's name of the execution provider."""
    memory_bytes: int
    vendor_id: int = 0
    device_id: int = 0
    gemm_gflops: float = 0.0
    bandwidth_gbs: float = 0.0
    conv_images_s: float = 0.0
    """Of a small convolution network, one image after the other."""
    resnet50_images_s: float = 0.0
    """The same of ResNet-50; 0 also where it would take too long to measure."""
    answers: tuple[float, ...] = field(default=(), repr=False)
    """What the small network said to an image that is always the same."""
    measured_at_s: float = 0.0
    """When its figures were measured, by the wall clock; 0 if they were not."""
    agreement: float | None = None
    """How far a card's answers to it were from the processor's, as a share of the largest one."""
    has_fp16: bool | None = None
    driver: str = ""
    """Of a card: the kernel's driver and Vulkan's, with their versions."""
    selector: str = ""
    """What `--device` calls it."""


@dataclass(frozen=True, slots=True)
class ModelInterface:
    """What a model takes and gives, as ONNX Runtime reads it, and what one item cost here."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    load_s: float
    is_widened: bool = False
    """The device computes no half precision, so the model runs in single precision instead."""
    flops: float = 1.0
    """Operations for one item, with all that the model leaves open taken as one."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Tasks of one model to run together.

    `tensors` lie one after the other in `body`. Where `merge` is set, their first axes are the items of all tasks
    joined (scalars are shared); otherwise the first axis stacks whole inputs, and every item runs by itself.
    """

    items: tuple[int, ...]
    tensors: tuple[TensorSpec, ...]
    body: Sequence[Buffer]
    merge: bool
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Outputs of some tasks of a batch, by position, joined along the first axis."""

    positions: tuple[int, ...]
    tensors: tuple[TensorSpec, ...]
    body: bytes | memoryview


@dataclass(frozen=True, slots=True)
class BatchResult:
    groups: tuple[Group, ...]
    failures: tuple[tuple[int, str, str], ...] = ()
    """(position, kind of `messages.FAILURE_KINDS`, reason)."""
    compute_s: float = 0.0
    executions: tuple[Execution, ...] = ()
    """In which batches the tasks ran, where the executor tells."""


class Executor(Protocol):
    """One device's worker. Runs one batch at a time; a second call waits its turn."""

    @property
    def device(self) -> Device: ...

    @property
    def sandbox(self) -> str:
        """ "full", "partial" or "none"; "none" also before the first process has started (`benchmark` starts it)."""

    async def holds(self, model: Cid) -> bool:
        """True if the model is loaded or can be loaded without its bytes being given again."""

    async def load(self, model: Cid, data: Buffer) -> ModelInterface:
        """Checks and loads a model. Raises `ModelRefused` with the reason, `DeviceUnfit` (another device may do),
        `OutOfMemory`, `WorkerDied`, or `AttemptTimeout` (a load has its own limit).
        """

    async def run(self, model: Cid, batch: Batch, timeout_s: float) -> BatchResult:
        """Runs a loaded model; `timeout_s` is for one task, a batch may take it for each of its tasks.

        Raises `WorkerDied`, `AttemptTimeout`, KeyError (not loaded), `InputError` (the batch contradicts itself),
        `DeviceUnfit` (another device may do).
        Cancelling the call stops the inference, killing the process if it must, within half a second.
        """

    async def unload(self, model: Cid) -> None: ...

    def measures(self, model: Cid) -> tuple[Measure, ...]:
        """How long runs of this model took by the rows joined in them, as far as it is known."""

    async def benchmark(self) -> Device:
        """Measures the device (fp32 GEMM, memory bandwidth, convolution networks); takes about two seconds.

        Returns the device with figures.
        """

    async def release(self) -> None:
        """Gives the device and its memory back at once; a batch under way fails with `WorkerDied`. Not for good."""

    async def close(self) -> None: ...


# --- keys, clock ---------------------------------------------------------------------------------------------------


class Keys(Protocol):
    """The node's identity."""

    @property
    def peer_id(self) -> PeerId: ...

    def sign(self, data: bytes) -> bytes: ...


class LocalClock(Protocol):
    def now_s(self) -> float:
        """Monotonic; what machines and deadlines use."""

    def wall_s(self) -> float:
        """Seconds since 1970, as this machine believes."""

    def holder_s(self) -> float:
        """For holders of leases: counts the time that the machine was suspended; may run fast, never slow."""

    def elector_s(self) -> float:
        """For electors: never counts more time than has passed."""


class InThread(Protocol):
    """Runs work that reads files or computes for long, so that the event loop does not wait for it."""

    async def __call__(self, work: Callable[[], T], /) -> T:
        """What `work()` returns or raises."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything that a node stands on."""

    network: Network
    store: Store
    seats: SeatStore
    blobs: BlobStore
    keys: Keys
    clock: LocalClock
    seed: int
    """Of every random choice the node makes."""
    executors: Sequence[Executor] = field(default_factory=tuple)
    """Devices. The first is also used for the node's own checks of models and results."""
    take_sample: Callable[[], Sample | None] | None = None
    """Reads the sensors of the machine and its devices, in a thread. None where there are no sensors."""
    in_thread: InThread = trio.to_thread.run_sync
    """A virtual clock cannot see threads, so a simulated node does such work where it stands."""
