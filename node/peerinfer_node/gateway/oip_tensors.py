"""Requests and answers of the Open Inference Protocol v2 as bytes, with its binary tensor extension.

A request is JSON, or JSON followed by the raw bytes of its binary tensors in the order of its inputs; then the header
`Inference-Header-Content-Length` says where the JSON ends. Binary tensors are little-endian and row-major; BYTES has for
each element a length of 4 bytes and its bytes, which are UTF-8, since that is what ONNX calls a string. Sizes are checked
against the bytes that are there before memory is taken; strings go on in slots (`peerinfer.strings`), all as wide as the
longest, which is checked against the limit too.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peerinfer.errors import InputError, LimitExceeded, NotSupported, UsageError
from peerinfer.limits import FRAME_BLOB_BYTES_MAX, MIB, NAME_CHARS_MAX, TENSOR_RANK_MAX, TENSORS_MAX
from peerinfer.strings import contents, pack, slot_for
from peerinfer.tensors import ITEM_BYTES, dtype_name, is_string

JSON_BYTES_MAX = 16 * MIB
"""Numbers as text take up to twenty times their bytes while they are read; what is larger goes as binary tensors."""

DTYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
BYTES = "BYTES"
DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}
_LENGTH = struct.Struct("<I")

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class WantedOutput:
    name: str
    is_binary: bool


@dataclass(frozen=True, slots=True)
class InferRequest:
    id: str
    parameters: Mapping[str, Any]
    inputs: Tensors
    outputs: tuple[WantedOutput, ...]
    """Empty: all that the model gives."""
    is_binary: bool
    """How outputs go that are not asked for by name."""


@dataclass(slots=True)
class _Binary:
    """The bytes behind the JSON, and how far they have been read."""

    data: memoryview
    offset: int = field(default=0)

    def take(self, size: int, name: str) -> memoryview:
        if size > len(self.data) - self.offset:
            left = len(self.data) - self.offset
            raise UsageError(f"input {name[:60]!r} says it has {size} binary bytes, and {left} are left in the request")
        part = self.data[self.offset : self.offset + size]
        self.offset += size
        return part


def inflate(body: bytes, encoding: str, bytes_max: int) -> bytes:
    """A body as it was before `Content-Encoding`. Raises `LimitExceeded` for one that grows beyond `bytes_max`."""
    if encoding in ("", "identity"):
        return body
    windows = {"gzip": 31, "deflate": 15}
    if encoding not in windows:
        raise NotSupported(f"the content encoding {encoding[:40]!r} is not read; send gzip, deflate or none")
    unpacker = zlib.decompressobj(windows[encoding])
    try:
        found = unpacker.decompress(body, bytes_max + 1)
    except zlib.error:
        raise UsageError(f"the body is not {encoding}") from None
    if len(found) > bytes_max:
        raise LimitExceeded("a request", current=0, attempted=len(found), limit=bytes_max, unit="bytes")
    if not unpacker.eof:
        raise UsageError(f"the {encoding} body is cut off")
    return found


def read_request(body: bytes, json_length: str | None) -> InferRequest:
    """Raises `UsageError`, `InputError` or `NotSupported`, one line, for anything that is not a request."""
    raw, binary = _split(body, json_length)
    parameters = _mapping(raw.get("parameters", {}), "parameters")
    given = raw.get("inputs")
    if not isinstance(given, list) or not given:
        raise UsageError("the request has no list of inputs")
    if len(given) > TENSORS_MAX:
        raise UsageError(f"{len(given)} inputs; peerinfer carries at most {TENSORS_MAX}")
    inputs: Tensors = {}
    for each in given:
        name, array = _input(each, binary)
        if name in inputs:
            raise UsageError(f"the input {name[:60]!r} is given twice")
        inputs[name] = array
    if binary.offset != len(binary.data):
        raise UsageError(f"{len(binary.data) - binary.offset} bytes follow the last binary tensor")
    is_binary = parameters.get("binary_data_output", False) is True
    request_id = raw.get("id", "")
    if not isinstance(request_id, str):
        raise UsageError("id is not a text")
    return InferRequest(request_id, parameters, inputs, _outputs(raw.get("outputs", []), is_binary), is_binary)


def write_answer(
    head: Mapping[str, Any], outputs: Mapping[str, NDArray[Any]], binary: Mapping[str, bool]
) -> tuple[list[bytes | memoryview], int | None]:
    """The body in parts, and the length of its JSON if binary tensors follow it."""
    described, parts = [], list[bytes | memoryview]()
    for name, array in outputs.items():
        entry: dict[str, Any] = {
            "name": name,
            "datatype": datatype_of(dtype_name(array.dtype)),
            "shape": list(array.shape),
        }
        if binary[name] and array.dtype.kind == "V":
            data = memoryview(b"".join(_LENGTH.pack(len(text)) + text for text in contents(array)))
            entry["parameters"] = {"binary_data_size": len(data)}
            parts.append(data)
        elif array.dtype.kind == "V":
            entry["data"] = [text.decode() for text in contents(array)]
        elif binary[name]:
            data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data
            entry["parameters"] = {"binary_data_size": len(data)}
            parts.append(data)
        elif array.dtype == np.float16:
            raise UsageError(f"output {name[:60]!r} is FP16, which JSON has no form for; ask for binary_data")
        else:
            entry["data"] = array.reshape(-1).tolist()
        described.append(entry)
    text = json.dumps({**head, "outputs": described}, separators=(",", ":")).encode()
    return [text, *parts], len(text) if parts else None


def datatype_of(dtype: str) -> str:
    """The protocol's word for a dtype of a tensor or of a model."""
    return BYTES if is_string(dtype) else DATATYPES[dtype]


def _split(body: bytes, json_length: str | None) -> tuple[dict[str, Any], _Binary]:
    length = len(body)
    if json_length is not None:
        if not json_length.isascii() or not json_length.isdigit() or len(json_length) > 12 or int(json_length) > length:
            raise UsageError(
                f"Inference-Header-Content-Length {json_length[:40]!r} does not fit a body of {length} bytes"
            )
        length = int(json_length)
    if length > JSON_BYTES_MAX:
        raise LimitExceeded("JSON of a request", current=0, attempted=length, limit=JSON_BYTES_MAX, unit="bytes")
    try:
        raw = json.loads(bytes(memoryview(body)[:length]))
    except (ValueError, RecursionError):
        raise UsageError("the request is not JSON") from None
    return _mapping(raw, "the request"), _Binary(memoryview(body)[length:])


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{what}: not a JSON object")
    return value


def _outputs(raw: Any, is_binary: bool) -> tuple[WantedOutput, ...]:
    if not isinstance(raw, list) or len(raw) > TENSORS_MAX:
        raise UsageError(f"outputs is not a list of at most {TENSORS_MAX}")
    found: dict[str, WantedOutput] = {}
    for each in raw:
        entry = _mapping(each, "an output")
        name = _name(entry)
        parameters = _mapping(entry.get("parameters", {}), f"the parameters of output {name[:60]!r}")
        _refuse_extensions(parameters)
        if parameters.get("classification"):
            raise NotSupported("classification of outputs is not done here; take the largest of the values")
        found[name] = WantedOutput(name, parameters.get("binary_data", is_binary) is True)
    return tuple(found.values())


def _name(entry: Mapping[str, Any]) -> str:
    name = entry.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARS_MAX:
        raise UsageError(f"every input and output has a name of at most {NAME_CHARS_MAX} characters")
    return name


def _refuse_extensions(parameters: Mapping[str, Any]) -> None:
    if any(key.startswith("shared_memory") for key in parameters):
        raise NotSupported("shared memory is not supported; send the tensors in the request")


def _input(raw: Any, binary: _Binary) -> tuple[str, NDArray[Any]]:
    entry = _mapping(raw, "an input")
    name = _name(entry)
    shown = f"input {name[:60]!r}"
    datatype, shape = entry.get("datatype"), entry.get("shape")
    if datatype not in DTYPES and datatype != BYTES:
        raise UsageError(f"{shown}: the datatype is none of {', '.join((*DTYPES, BYTES))}")
    if (
        not isinstance(shape, list)
        or len(shape) > TENSOR_RANK_MAX
        or not all(type(size) is int and 0 <= size < 1 << 48 for size in shape)
    ):
        raise UsageError(f"{shown}: the shape is not a list of at most {TENSOR_RANK_MAX} sizes of at least 0")
    parameters = _mapping(entry.get("parameters", {}), f"the parameters of {shown}")
    _refuse_extensions(parameters)
    elements = math.prod(shape)
    size = parameters.get("binary_data_size")
    if size is None:
        return name, _from_json(entry.get("data"), datatype, shape, elements, shown)
    if type(size) is not int or size < 0:
        raise UsageError(f"{shown}: binary_data_size is not a number of bytes")
    if "data" in entry:
        raise UsageError(f"{shown}: give its data or its binary_data_size, not both")
    data = binary.take(size, name)
    if datatype == BYTES:
        return name, _slots(_strings(data, elements, shown), shape, shown)
    dtype = DTYPES[datatype]
    if elements * ITEM_BYTES[dtype] != size:
        raise UsageError(
            f"{shown}: {datatype} of shape {shape} takes {elements * ITEM_BYTES[dtype]} bytes, given {size}"
        )
    if dtype == "bool" and any(value > 1 for value in np.unique(np.frombuffer(data, np.uint8))):
        raise InputError(f"{shown}: a BOOL is a byte of 0 or 1")
    return name, np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).astype(dtype, copy=False).reshape(shape)


def _slots(texts: list[bytes], shape: Sequence[int], shown: str) -> NDArray[Any]:
    try:
        b"\0".join(texts).decode()  # a zero between two elements completes none
    except UnicodeError:
        raise InputError(f"{shown}: a string of a model is UTF-8, and one of these is not") from None
    try:
        slot = slot_for(max(map(len, texts), default=0))
    except InputError as error:
        raise InputError(f"{shown}: {error}") from None
    if slot * len(texts) > FRAME_BLOB_BYTES_MAX:
        raise InputError(
            f"{shown}: {len(texts)} strings, of which the longest takes {slot} bytes, pass the limit of "
            f"{FRAME_BLOB_BYTES_MAX} bytes together; send the long ones apart"
        )
    return pack(texts, shape, slot=slot)


def _strings(data: memoryview, elements: int, shown: str) -> list[bytes]:
    if elements * _LENGTH.size > len(data):
        raise UsageError(f"{shown}: {elements} BYTES elements do not fit {len(data)} bytes")
    found, offset = list[bytes](), 0
    for _ in range(elements):
        end = offset + _LENGTH.size
        length = _LENGTH.unpack(data[offset:end])[0] if end <= len(data) else len(data) + 1
        if length > len(data) - end:
            raise UsageError(f"{shown}: a BYTES element reaches beyond the tensor")
        found.append(bytes(data[end : end + length]))
        offset = end + length
    if offset != len(data):
        raise UsageError(f"{shown}: {len(data) - offset} bytes follow its last BYTES element")
    return found


def _from_json(data: Any, datatype: str, shape: Sequence[int], elements: int, shown: str) -> NDArray[Any]:
    if not isinstance(data, list):
        raise UsageError(f"{shown}: it has neither a list of data nor binary_data_size")
    if datatype == "FP16":
        raise UsageError(f"{shown}: FP16 has no form in JSON; send it as a binary tensor")
    if datatype == BYTES:
        return _texts(data, shape, elements, shown)
    try:
        array = np.array(data)
    except (ValueError, OverflowError, RecursionError):
        raise UsageError(f"{shown}: its data is not a list, or lists of equal length, of numbers") from None
    if array.size != elements or (array.ndim != 1 and list(array.shape) != list(shape)):
        raise UsageError(f"{shown}: the shape {shape} has {elements} elements, its data {array.size}")
    dtype = np.dtype(DTYPES[datatype])
    kinds = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[dtype.kind]
    if array.size and array.dtype.kind not in kinds:
        raise UsageError(f"{shown}: its data is not {datatype}")
    with np.errstate(over="ignore", invalid="ignore"):
        found = array.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(found, array):
        raise UsageError(f"{shown}: its data holds numbers that {datatype} does not")
    return found.reshape(shape)


def _texts(data: list[Any], shape: Sequence[int], elements: int, shown: str) -> NDArray[Any]:
    flat: list[Any] = data
    for _ in range(len(shape) - 1):
        if not any(isinstance(part, list) for part in flat):
            break
        flat = [element for part in flat for element in (part if isinstance(part, list) else [part])]
    if len(flat) != elements or not all(isinstance(element, str) for element in flat):
        raise UsageError(f"{shown}: the shape {list(shape)} has {elements} texts, its data is something else")
    return _slots([element.encode("utf-8", "surrogatepass") for element in flat], shape, shown)
