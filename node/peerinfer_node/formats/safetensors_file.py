"""Reader of .safetensors. The package checks the file; the tensors are read in pieces from where it says they lie."""

from __future__ import annotations

import math

from peerinfer.errors import InputError
from peerinfer.limits import MIB, TENSORS_MAX
from peerinfer.tensors import ITEM_BYTES
from peerinfer_node.formats.columns import Column, FileColumn
from peerinfer_node.formats.source import SourceFile, reason_of, size_text

SAFETENSORS_HEADER_BYTES_MAX = 16 * MIB
"""The header names tensors; inputs of one model take a few hundred bytes."""

_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "BF16": "bfloat16",
}


def open_safetensors(file: SourceFile) -> dict[str, Column]:
    header_bytes = int.from_bytes(file.read(0, min(8, file.size_bytes)).tobytes(), "little")
    if file.size_bytes < 8 or 8 + header_bytes > file.size_bytes:
        raise InputError(
            f"{file.path} is not a whole .safetensors file: its header claims {size_text(header_bytes)} and the file "
            f"holds {size_text(file.size_bytes)}; save or copy it anew"
        )
    if header_bytes > SAFETENSORS_HEADER_BYTES_MAX:
        raise InputError(f"{file.path} has a header of {size_text(header_bytes)}; save only the inputs")
    import safetensors

    try:
        with safetensors.safe_open(file.real_path, framework="numpy") as tensors:
            # The package has checked that the tensors lie without gaps or overlaps, in the order of their offsets.
            names = tensors.offset_keys()
            slices = [tensors.get_slice(name) for name in names]
            found = [
                (name, str(part.get_dtype()), tuple(part.get_shape())) for name, part in zip(names, slices, strict=True)
            ]
    except Exception as error:  # its own errors, the system's, and those of values that no tensor has
        reason = reason_of(error)
        raise InputError(f"{file.path} is not a whole .safetensors file ({reason}); save or copy it anew") from None
    if not found:
        raise InputError(f"{file.path} holds no tensors; save them with safetensors.numpy.save_file")
    if len(found) > TENSORS_MAX:
        raise InputError(f"{file.path} holds {len(found)} tensors; peerinfer takes at most {TENSORS_MAX}")
    columns: dict[str, Column] = {}
    offset = 8 + header_bytes
    for name, code, shape in found:
        dtype = _DTYPES.get(code, code.lower())
        columns[name] = FileColumn(file, offset, dtype, shape)
        # Offsets behind a dtype that is not carried are wrong, and never used: such a file fits no model.
        offset += math.prod(shape) * ITEM_BYTES.get(dtype, 0)
    return columns
