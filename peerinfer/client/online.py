"""One online request as the Open Inference Protocol has it, with binary tensors both ways."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peerinfer.errors import DecodeError, InputError

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
_DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()}

LENGTH = "Inference-Header-Content-Length"


def request_of(inputs: Mapping[str, NDArray[Any]], parameters: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
    """Body and headers. Raises `InputError` for arrays of a kind that no model takes."""
    described, parts = [], []
    for name, array in inputs.items():
        datatype = DATATYPES.get(array.dtype.name)
        if datatype is None:
            raise InputError(f"input {name!r}: {array.dtype} is not carried; give one of {', '.join(DATATYPES)}")
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        size = {"binary_data_size": len(data)}
        described.append({"name": name, "datatype": datatype, "shape": list(array.shape), "parameters": size})
        parts.append(data)
    head = {"inputs": described, "parameters": {**parameters, "binary_data_output": True}}
    text = json.dumps(head).encode()
    return b"".join([text, *parts]), {LENGTH: str(len(text)), "Content-Type": "application/octet-stream"}


def outputs_of(body: bytes, json_length: str | None) -> dict[str, NDArray[Any]]:
    """Raises `DecodeError` for what is not an answer."""
    try:
        length = len(body) if json_length is None else int(json_length)
        described, offset = json.loads(body[:length])["outputs"], length
        found = {}
        for each in described:
            dtype = np.dtype(_DTYPES[each["datatype"]])
            size = each["parameters"]["binary_data_size"]
            data = np.frombuffer(body[offset : offset + size], dtype.newbyteorder("<"))
            found[each["name"]] = data.reshape(each["shape"]).astype(dtype)
            offset += size
        return found
    except (ValueError, KeyError, TypeError) as error:
        raise DecodeError(f"the node answered something that is no result: {error}"[:200]) from None
