"""Every error that peerinfer raises on purpose.

    PeerinferError
    ├── UsageError              2    the command or request was put together wrongly
    │   ├── UnknownModel        2    no model of this name or version is served here
    │   ├── UnknownJob          2    this node knows no job of this id
    │   └── NotSupported        2    the request is sound, and asks for what peerinfer does not do
    ├── InputError              3    the model or the inputs cannot be used; nothing was sent
    │   └── ModelRefused        3    the static check or ONNX Runtime refused the model
    ├── NoSuitablePeer          4    nobody fit for the job appeared in time
    │   └── TooFewElectors      4    too few daemons to elect a coordinator are known yet
    ├── PartialFailure          5    some tasks failed for good; the rest was written
    ├── VerificationFailed      6    results did not stand up to their check
    ├── NoDaemon                7    there is no daemon to talk to
    ├── Interrupted           130    the user pressed Ctrl-C
    ├── JobFailed               1    the job ended without a result
    ├── HomeInUse               1    another node holds this home directory
    ├── StateUnusable           1    a file of ours cannot be read or written
    ├── NetworkError            1    the world between peers broke
    │   ├── DialFailed               the peer could not be reached: certainly nothing happened
    │   │   └── KeyRefused           it is there, in another swarm: to dial again changes nothing
    │   └── StreamClosed             the stream ended: what was under way may or may not have happened
    ├── ProtocolError           1    the peer said something that the protocol does not allow
    │   └── DecodeError              bytes that are not a message
    ├── LimitExceeded           1    a named limit would have been passed
    ├── Busy                    1    there is no room for now; it says when there should be
    └── ExecutionError          1    the device could not run the batch
        ├── WorkerDied               the worker process ended: certainly no result
        ├── AttemptTimeout           the attempt took longer than it was allowed
        ├── OutOfMemory              the device ran out of memory
        └── DeviceUnfit              this device may not or cannot run this model; another one may

The number is the exit code of the command line (INTERFACES in the README). Kinds exist where a caller does something
different, and for no other reason.
"""

from __future__ import annotations


class PeerinferError(Exception):
    """Base of all. `str(error)` is one line that says what to do."""

    exit_code = 1
    http_status = 500


class UsageError(PeerinferError):
    exit_code = 2
    http_status = 400


class UnknownModel(UsageError):
    http_status = 404


class UnknownJob(UsageError):
    http_status = 404


class NotSupported(UsageError):
    http_status = 501


class InputError(PeerinferError):
    exit_code = 3
    http_status = 400


class ModelRefused(InputError):
    pass


class NoSuitablePeer(PeerinferError):
    exit_code = 4
    http_status = 503


class TooFewElectors(NoSuitablePeer):
    pass


class PartialFailure(PeerinferError):
    exit_code = 5


class VerificationFailed(PeerinferError):
    exit_code = 6


class NoDaemon(PeerinferError):
    exit_code = 7
    http_status = 503


class Interrupted(PeerinferError):
    exit_code = 130


class JobFailed(PeerinferError):
    pass


class HomeInUse(PeerinferError):
    pass


class StateUnusable(PeerinferError):
    pass


class NetworkError(PeerinferError):
    http_status = 503


class DialFailed(NetworkError):
    pass


class KeyRefused(DialFailed):
    pass


class StreamClosed(NetworkError):
    pass


class ProtocolError(PeerinferError):
    http_status = 502


class DecodeError(ProtocolError):
    pass


class LimitExceeded(PeerinferError):
    """A named limit would have been passed.

    Carries what is held now, what was asked for on top, and the limit, all in `unit`.
    """

    http_status = 429

    def __init__(self, name: str, *, current: float, attempted: float, limit: float, unit: str) -> None:
        on_top = f" on top of {_amount(current, unit)}" if current else ""
        super().__init__(f"{name}: {_amount(attempted, unit)}{on_top} would pass the limit of {_amount(limit, unit)}")
        self.name = name
        self.current = current
        self.attempted = attempted
        self.limit = limit


def _amount(value: float, unit: str) -> str:
    """`574 MiB`, `1,000 jobs`."""
    if unit == "bytes":
        for size, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
            if value >= size:
                return f"{value / size:.4g} {name}"
    return f"{value:,.4g} {unit}" if value % 1 else f"{value:,.0f} {unit}"


class Busy(PeerinferError):
    """There is no room for now."""

    http_status = 503
    retry_after_s = 1.0
    """What is said to clients that do not know better; the kind alone travels."""

    def __init__(self, line: str, *, retry_after_s: float) -> None:
        super().__init__(line)
        self.retry_after_s = retry_after_s


class ExecutionError(PeerinferError):
    pass


class WorkerDied(ExecutionError):
    pass


class AttemptTimeout(ExecutionError):
    pass


class OutOfMemory(ExecutionError):
    pass


class DeviceUnfit(ExecutionError):
    pass


def kinds() -> dict[str, type[PeerinferError]]:
    """Every kind of error by its name, so that the control API can hand one over and the client raise the same."""
    found: dict[str, type[PeerinferError]] = {}
    waiting: list[type[PeerinferError]] = [PeerinferError]
    while waiting:
        kind = waiting.pop()
        found[kind.__name__] = kind
        waiting.extend(kind.__subclasses__())
    return found
