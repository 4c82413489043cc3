"""What the command line, the window and other programs may ask of a node. One vocabulary for the embedded node and HTTP.

Requests are checked here, once, whoever sends them; answers are JSON objects whose fields INTERFACES documents.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol, get_args, get_origin, get_type_hints

from peerinfer.comparator_names import parse_compare
from peerinfer.errors import UsageError

VERIFY = re.compile(r"none|spot|quorum:[2-9]|adaptive")
COMPARATORS = ("exact", "allclose", "argmax", "cosine")
PRIORITIES = ("urgent", "high", "normal", "low")
STRATEGIES = ("adaptive", "round-robin", "least-loaded", "gpu-match", "latency")
IMAGE_LAYOUTS = ("auto", "nchw", "nhwc")
JOB_STATES = ("queued", "running", "paused", "done", "failed", "cancelled")
JOB_ENDED = ("done", "failed", "cancelled")
NODE_STATES = ("running", "paused", "finishing", "idle")

NO_DAEMON = "no peerinfer daemon is running here; start one with: peerinfer join"

Json = dict[str, Any]

_WHOLE_FLOAT_MAX = 1 << 53


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What `peerinfer run` asks for. Paths are absolute; times are seconds, sizes bytes."""

    model: str
    inputs: tuple[str, ...]
    batch: int | None = None
    """Items per task; None chooses."""
    verify: str = "spot"
    compare: str = "allclose"
    rtol: float | None = None
    """None: by dtype."""
    atol: float | None = None
    priority: str = "normal"
    strategy: str = "adaptive"
    timeout_s: float = 60.0
    """How long to wait for a suitable peer."""
    task_timeout_s: float | None = None
    """Longest time for one task; None learns it."""
    deadline_s: float | None = None
    """The job fails if it is not done within this time."""
    retries: int = 3
    """Attempts after the first, on other peers where there are any, before a task fails for good."""
    resume: bool = False
    """Take the outputs of tasks that an earlier job has already computed from the same model and inputs."""
    local_only: bool = False
    """Only this node's own devices."""
    min_vram_bytes: int = 0
    device_kind: str | None = None
    image_size: tuple[int, int] | None = None
    """Height, width; None reads it from the model."""
    image_layout: str = "auto"
    image_mean: tuple[float, ...] = (0.0,)
    """Subtracted after scaling pixels to 0..1; one number or one per channel."""
    image_std: tuple[float, ...] = (1.0,)
    detach: bool = False
    """Return once copies of model and inputs are on a quorum of the job's electors."""
    replicate: bool = True
    """Let the electors of an attached job copy its model and inputs too, so that it survives this node."""

    def __post_init__(self) -> None:
        _check(bool(self.model), "model", "name a model file")
        _check(bool(self.inputs) and all(self.inputs), "inputs", "name at least one input file")
        _check(self.batch is None or 1 <= self.batch <= 1_000_000, "batch", "give 1 to 1000000 items, or auto")
        _check(
            VERIFY.fullmatch(self.verify) is not None, "verify", "choose none, spot, adaptive or quorum:2 to quorum:9"
        )
        try:
            parse_compare(self.compare)
        except ValueError as error:
            raise UsageError(f"compare: {error}") from None
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            _check(value is None or (math.isfinite(value) and value >= 0), name, "give a number of at least 0")
        _check(self.priority in PRIORITIES, "priority", f"choose {', '.join(PRIORITIES)}")
        _check(self.strategy in STRATEGIES, "strategy", f"choose {', '.join(STRATEGIES)}")
        _check(math.isfinite(self.timeout_s) and self.timeout_s >= 0, "timeout_s", "give a time of at least 0 s")
        for name in ("task_timeout_s", "deadline_s"):
            value = getattr(self, name)
            _check(value is None or (math.isfinite(value) and value > 0), name, "give a time above 0 s")
        _check(0 <= self.retries <= 100, "retries", "give 0 to 100")
        _check(self.min_vram_bytes >= 0, "min_vram_bytes", "give a size of at least 0")
        _check(self.device_kind in (None, "cpu", "gpu"), "device_kind", "choose cpu or gpu")
        _check(self.image_layout in IMAGE_LAYOUTS, "image_layout", f"choose {', '.join(IMAGE_LAYOUTS)}")
        _check(
            self.image_size is None or all(1 <= side <= 16384 for side in self.image_size),
            "image_size",
            "give HEIGHTxWIDTH, each 1 to 16384",
        )
        for name in ("image_mean", "image_std"):
            values = getattr(self, name)
            _check(1 <= len(values) <= 4, name, "give one number, or one per channel")
            _check(all(math.isfinite(value) for value in values), name, "give finite numbers")
        _check(all(value != 0 for value in self.image_std), "image_std", "no channel may be 0")

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> JobRequest:
        """Raises `UsageError` for anything that is not a request."""
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"the request is not JSON: {error}") from None
        return cls.from_mapping(raw)

    @classmethod
    def from_mapping(cls, raw: Any) -> JobRequest:
        if not isinstance(raw, Mapping):
            raise UsageError("the request is not a JSON object")
        known = {field.name for field in fields(cls)}
        unknown = sorted(str(name) for name in raw if name not in known)
        if unknown:
            raise UsageError(f"unknown field {unknown[0][:60]!r}; the fields are {', '.join(sorted(known))}")
        values: dict[str, Any] = {}
        hints = get_type_hints(cls)
        for name, value in raw.items():
            if isinstance(value, list):
                value = tuple(value)
            if not _is_a(value, hints[name]):
                raise UsageError(f"{name}: give {_kind_words(hints[name])}; given {_given_words(value)}")
            if type(value) is int and "float" in str(hints[name]):
                value = float(value)
            values[name] = value
        missing = [name for name in ("model", "inputs") if name not in values]
        if missing:
            raise UsageError(f"the request lacks {missing[0]!r}")
        return cls(**values)


def _is_a(value: Any, kind: Any) -> bool:
    """Whether JSON's `value` is of a field's type. Whole numbers that a float holds exactly enough are good floats."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is tuple:
        kinds = (parts[0],) * len(value) if isinstance(value, tuple) and parts[-1] is Ellipsis else parts
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_is_a, value, kinds))
    if parts:
        return any(_is_a(value, part) for part in parts)
    if kind is float and type(value) is int:
        return abs(value) < _WHOLE_FLOAT_MAX
    return type(value) is kind


_KIND_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "nothing"}


def _kind_words(kind: Any) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is tuple:
        each = _KIND_WORDS[parts[0]].split(maxsplit=1)[1]
        return f"a list of {each}s" if parts[-1] is Ellipsis else f"a list of {len(parts)} {each}s"
    return " or ".join(map(_kind_words, parts)) if parts else _KIND_WORDS[kind]


def _given_words(value: Any) -> str:
    if type(value) is int and abs(value) >= _WHOLE_FLOAT_MAX:
        return "a larger one than fits"
    if isinstance(value, tuple):
        return (
            f"a list of {len(value)}: {', '.join(sorted({type(each).__name__ for each in value}))}" if value else "[]"
        )
    return "nothing" if value is None else type(value).__name__


def _check(good: bool, field: str, advice: str) -> None:
    if not good:
        raise UsageError(f"{field}: {advice}")


@dataclass(frozen=True, slots=True)
class ResultBlock:
    """Outputs of consecutive items: `rows[name]` has these items along its first axis (NumPy arrays)."""

    first_item: int
    items: int
    rows: Mapping[str, Any]


class Control(Protocol):
    """The node, seen from outside. Every call may raise a `PeerinferError`, over HTTP the same one as embedded."""

    async def status(self) -> Json: ...

    async def peers(self) -> list[Json]: ...

    async def why(self, model: str) -> list[Json]:
        """For each peer, whether it may run the model file, and the requirement that rules it out."""

    async def reputation(self, peer: str | None = None) -> list[Json]:
        """What this node has seen of its peers, or of one (its id, or the end of it), and what it makes of it."""

    async def forecast(self, request: JobRequest) -> Json:
        """Who could work for this job, why others could not, and how long it would take. Nothing is sent to anybody."""

    async def devices(self) -> list[Json]: ...

    async def models(self) -> list[Json]: ...

    async def submit(self, request: JobRequest) -> str:
        """Checks everything, accepts the job durably and returns its id. Nothing is sent if this raises."""

    async def jobs(self) -> list[Json]: ...

    async def job(self, job: str) -> Json: ...

    def watch(self, job: str) -> AsyncIterator[Json]:
        """`job(…)` now and whenever it changed (at most ten times a second); ends after a job that has ended."""

    def results(self, job: str) -> AsyncIterator[ResultBlock]:
        """What there is of the outputs, in any order."""

    async def provenance(self, job: str) -> Json: ...

    async def timeline(self, job: str) -> list[Json]:
        """The last frames of a job that this node coordinates, and what each spent in which stage."""

    async def cancel(self, job: str) -> None: ...

    async def prioritise(self, job: str, priority: str) -> None:
        """Changes the priority of a job of this node's own, whoever coordinates it; returns when that is done."""

    async def rescue(self, job: str, *, confirmed: bool) -> Json:
        """What a new generation of a job would mean whose committee has lost its quorum; with `confirmed` begins it."""

    async def pause(self, *, until_s: float | None) -> None:
        """Stops lending at once, until the wall clock says `until_s`, or until `resume`."""

    async def resume(self) -> None: ...

    async def finish(self) -> None:
        """Finishes what runs and takes no more."""

    async def leave(self) -> None:
        """Finishes what runs, says goodbye and ends the daemon."""
