"""One online request as the Open Inference Protocol has it, with binary tensors both ways."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peerinfer.errors import DecodeError, InputError
from peerinfer.strings import contents, packed

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
_BYTES = "BYTES"
_DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()}

_LENGTH_BYTES = 4

LENGTH = "Inference-Header-Content-Length"


def request_of(inputs: Mapping[str, NDArray[Any]], parameters: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
    """Body and headers. Raises `InputError` for arrays of a kind that no model takes."""
    described, parts = [], []
    for name, array in inputs.items():
        if array.dtype.kind in "USO":
            datatype, data = _BYTES, _encoded(name, array)
        elif array.dtype.name in DATATYPES:
            datatype = DATATYPES[array.dtype.name]
            data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        else:
            raise InputError(f"input {name!r}: {array.dtype} is not carried; give str or one of {', '.join(DATATYPES)}")
        size = {"binary_data_size": len(data)}
        described.append({"name": name, "datatype": datatype, "shape": list(array.shape), "parameters": size})
        parts.append(data)
    head = {"inputs": described, "parameters": {**parameters, "binary_data_output": True}}
    text = json.dumps(head).encode()
    return b"".join([text, *parts]), {LENGTH: str(len(text)), "Content-Type": "application/octet-stream"}


def _encoded(name: str, array: NDArray[Any]) -> bytes:
    try:
        texts = contents(packed(array))
    except InputError as error:
        raise InputError(f"input {name!r}: {error}") from None
    return b"".join(len(text).to_bytes(_LENGTH_BYTES, "little") + text for text in texts)


def _decoded(data: bytes) -> NDArray[Any]:
    """Raises ValueError for what is not a BYTES tensor."""
    texts, offset = [], 0
    while offset < len(data):
        start = offset + _LENGTH_BYTES
        offset = start + int.from_bytes(data[offset:start], "little")
        if offset > len(data):
            raise ValueError("a string reaches beyond its tensor")
        texts.append(data[start:offset].decode())
    found = np.empty(len(texts), object)
    found[:] = texts
    return found


def outputs_of(body: bytes, json_length: str | None) -> dict[str, NDArray[Any]]:
    """Raises `DecodeError` for what is not an answer."""
    try:
        length = len(body) if json_length is None else int(json_length)
        described, offset = json.loads(body[:length])["outputs"], length
        found = {}
        for each in described:
            size = each["parameters"]["binary_data_size"]
            if each["datatype"] == _BYTES:
                found[each["name"]] = _decoded(body[offset : offset + size]).reshape(each["shape"])
                offset += size
                continue
            dtype = np.dtype(_DTYPES[each["datatype"]])
            data = np.frombuffer(body[offset : offset + size], dtype.newbyteorder("<"))
            found[each["name"]] = data.reshape(each["shape"]).astype(dtype)
            offset += size
        return found
    except (ValueError, KeyError, TypeError) as error:
        raise DecodeError(f"the node answered something that is no result: {error}"[:200]) from None
