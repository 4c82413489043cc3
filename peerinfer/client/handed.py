"""What callers hand over, checked before anything is sent: each mistake is one line that says what to give."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from typing import IO, Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from peerinfer.errors import InputError, UnknownJob, UsageError
from peerinfer.ids import is_job_id
from peerinfer.strings import contents, packed

Model = str | os.PathLike[str] | bytes
Inputs = Mapping[str, NDArray[Any]] | str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

TIMEOUT_S_MAX = 1e9
_HEX = frozenset("0123456789abcdef")


def check_url(url: str) -> None:
    """Raises `UsageError`."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (ValueError, TypeError, AttributeError):
        good = False
    if not good:
        raise UsageError(f"url: give http://HOST:PORT as `peerinfer join --api` prints it; given {url!r}"[:300])


def not_entered(name: str, block: str) -> AttributeError:
    """What was asked of a connection that is none yet."""
    return AttributeError(f"{name}: there is no connection yet; write `{block}` and use swarm.{name} inside that block")


def model_of(model: Any) -> str | bytes:
    """An absolute path, or the bytes. Raises `UsageError`."""
    if isinstance(model, bytes | bytearray | memoryview):
        return bytes(model)
    if isinstance(model, str | os.PathLike):
        return os.path.abspath(os.fsdecode(model))
    as_bytes = ", like model.SerializeToString()" if hasattr(model, "SerializeToString") else ""
    raise UsageError(f"model: give the path of an .onnx file or its bytes{as_bytes}; given {_kind(model)}")


def paths_of(inputs: Any) -> list[str]:
    """Of files. Raises `UsageError`."""
    several = [inputs] if isinstance(inputs, str | os.PathLike) else inputs
    if (
        not isinstance(several, Sequence)
        or isinstance(several, bytes | bytearray)
        or not all(isinstance(path, str | os.PathLike) for path in several)
    ):
        raise UsageError(f"inputs: give arrays by name, like {{'x': a}}, or files; given {_kind(inputs)}")
    return [os.path.abspath(os.fsdecode(path)) for path in several]


def arrays_of(inputs: Any) -> dict[str, NDArray[Any]]:
    """Raises `UsageError` or `InputError`."""
    if not isinstance(inputs, Mapping) or not inputs:
        raise UsageError(
            f"inputs: give arrays by the names of the model's inputs, like {{'x': a}}; given {_kind(inputs)}"
        )
    found = {}
    for name, array in inputs.items():
        if not isinstance(name, str):
            raise UsageError(f"inputs: {name!r} is no name of an input; names are texts"[:300])
        try:
            found[name] = np.asarray(array)
        except (ValueError, TypeError, RuntimeError) as error:  # Tensors on a card, or with a gradient, say what to do.
            why = "its parts differ in length, give all the same shape" if "inhomogeneous" in str(error) else error
            raise InputError(f"input {name!r}: not an array: {why}"[:300]) from None
    return found


def options_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """NumPy's numbers as Python's."""
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in options.items()}


def check_timeout(timeout_s: Any) -> None:
    """Raises `UsageError`."""
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float | np.number):
        raise UsageError(f"timeout_s: give seconds; given {_kind(timeout_s)}")
    if not math.isfinite(timeout_s) or not 0 <= timeout_s <= TIMEOUT_S_MAX:
        raise UsageError(f"timeout_s: give 0 to {TIMEOUT_S_MAX:g} seconds; given {timeout_s}")


def check_job(job: Any) -> None:
    """Raises `UsageError` and `UnknownJob` for what cannot be a job's id or the beginning of one."""
    if not isinstance(job, str):
        raise UsageError(f"job: give the id of a job, a text; given {_kind(job)}")
    if not is_job_id(job) and (not job or not _HEX.issuperset(job)):
        raise UnknownJob(f"there is no job {job[:40]!r}; jobs() lists them")


def write_arrays(file: IO[bytes], arrays: Mapping[str, NDArray[Any]]) -> None:
    """As numpy.savez, which cannot save an array called "file". Raises `InputError` for what it cannot hold."""
    held = {name: _storable(name, array) for name, array in arrays.items()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in held.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _storable(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Strings as an array that .npz takes without pickling. Raises `InputError` for objects that are none."""
    if array.dtype.kind != "O":
        return array
    try:
        texts = contents(packed(array))
    except InputError as error:
        raise InputError(f"input {name!r}: {error}") from None
    if any(text.endswith(b"\0") for text in texts):
        raise InputError(f"input {name!r}: strings that end in zeros do not travel in .npz; hand over a .jsonl file")
    return np.array(texts, np.bytes_).reshape(array.shape)


def _kind(value: Any) -> str:
    return "nothing" if value is None or (isinstance(value, Mapping) and not value) else type(value).__name__
