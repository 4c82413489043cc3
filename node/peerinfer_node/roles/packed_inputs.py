"""The inputs of a job as one encrypted blob, so that somebody else can coordinate it, and back.

The arrays lie one after the other, row-major, in the order of the manifest. They are sealed in segments of one chunk
with ChaCha20-Poly1305 under the job's own key; the nonce is the segment's number, and the number of segments is bound
into each, so that none can be dropped or moved.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from numpy.typing import NDArray

from peerinfer.binding import Binding, bind
from peerinfer.errors import InputError, ProtocolError
from peerinfer.limits import CHUNK_BYTES, MIB
from peerinfer.messages import Manifest
from peerinfer.tensors import ITEM_BYTES, TensorSpec, numpy_dtype
from peerinfer_node.formats import Inputs
from peerinfer_node.roles.answers import raw_bytes

REPLICATED_BYTES_MAX = 512 * MIB
"""Inputs larger than this are not copied to the committee: such a job does not survive its submitter."""

KEY_BYTES = 32
_TAG_BYTES = 16
_SEGMENT_BYTES = CHUNK_BYTES - _TAG_BYTES
_ROWS_TOGETHER_BYTES = 16 * MIB


def inputs_bytes(binding: Binding) -> int:
    """What the inputs take, unsealed."""
    return sum(spec.size_bytes for spec in binding.specs)


def check_size(inputs: Inputs) -> None:
    """Raises `InputError` if they are too large to be copied to a committee."""
    size = inputs_bytes(inputs.binding)
    if size > REPLICATED_BYTES_MAX:
        raise InputError(
            f"inputs copied to a committee may have {REPLICATED_BYTES_MAX >> 20} MiB as the model takes them, and these "
            f"have {size >> 20} MiB: hand them over in parts, or run without --detach"
        )


def pack_inputs(inputs: Inputs, key: bytes) -> bytes:
    """The sealed inputs. Reads everything: to be called in a thread. Raises `InputError`."""
    check_size(inputs)
    binding = inputs.binding
    size = inputs_bytes(binding)
    plain = bytearray(size)
    starts = _starts(binding.specs)
    step = max(_ROWS_TOGETHER_BYTES // max(binding.item_bytes, 1), 1)
    for first in range(0, binding.items, step):
        rows = inputs.rows(first, min(first + step, binding.items))
        for given, spec, start, array in zip(binding.inputs, binding.specs, starts, rows, strict=True):
            row_bytes = 0 if given.mode == "shared" else math.prod(spec.shape[1:]) * ITEM_BYTES[spec.dtype]
            data = raw_bytes(array)
            place = start + first * row_bytes
            plain[place : place + len(data)] = data
    return seal_segments(bytes(plain), key)


def seal_segments(plain: bytes, key: bytes) -> bytes:
    cipher = ChaCha20Poly1305(key)
    segments = -(-len(plain) // _SEGMENT_BYTES)
    return b"".join(
        cipher.encrypt(_nonce(number), plain[number * _SEGMENT_BYTES : (number + 1) * _SEGMENT_BYTES], _bound(segments))
        for number in range(segments)
    )


def open_segments(sealed: bytes, key: bytes) -> bytes:
    """Raises `ProtocolError` if the key is another or a byte was changed."""
    cipher = ChaCha20Poly1305(key)
    segments = -(-len(sealed) // CHUNK_BYTES)
    try:
        return b"".join(
            cipher.decrypt(_nonce(number), sealed[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES], _bound(segments))
            for number in range(segments)
        )
    except InvalidTag:
        raise ProtocolError("the copied inputs do not open with the job's key") from None


class PackedInputs:
    """Implements `Inputs` over opened bytes."""

    warnings: tuple[str, ...] = ()
    item_names: Sequence[str] | None = None

    def __init__(self, manifest: Manifest, plain: bytes) -> None:
        self.binding = bind(manifest.inputs, manifest.given)
        self.specs: tuple[TensorSpec, ...] = self.binding.specs
        self.items = self.binding.items
        if len(plain) != inputs_bytes(self.binding):
            raise ProtocolError(f"the copied inputs have {len(plain)} bytes, not {inputs_bytes(self.binding)}")
        self._arrays = [
            np.frombuffer(plain, numpy_dtype(spec.dtype), math.prod(spec.shape), start).reshape(spec.shape)
            for spec, start in zip(self.specs, _starts(self.specs), strict=True)
        ]

    def rows(self, start: int, stop: int) -> tuple[NDArray[Any], ...]:
        return tuple(array[start:stop] if array.ndim else array for array in self._arrays)

    def fingerprint(self, start: int, stop: int) -> bytes:
        whole = hashlib.sha256(b"packed/1")
        for rows in self.rows(start, stop):
            whole.update(raw_bytes(rows))
        return whole.digest()


def _starts(specs: Sequence[TensorSpec]) -> list[int]:
    starts, start = [], 0
    for spec in specs:
        starts.append(start)
        start += spec.size_bytes
    return starts


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")


def _bound(segments: int) -> bytes:
    return b"peerinfer/inputs/1" + segments.to_bytes(8, "big")
