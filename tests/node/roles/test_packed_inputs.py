"""A job's inputs as one encrypted blob: they come back as they were, or not at all."""

import random

import numpy as np
import pytest

from peerinfer.binding import bind
from peerinfer.errors import InputError, ProtocolError
from peerinfer.limits import CHUNK_BYTES
from peerinfer.tensors import FREE, Port, TensorSpec
from peerinfer_node.roles import packed_inputs
from peerinfer_node.roles.packed_inputs import PackedInputs, inputs_bytes, open_segments, pack_inputs, seal_segments

KEY, OTHER_KEY = b"k" * 32, b"o" * 32


class ArrayInputs:
    """`Inputs` over arrays in memory."""

    warnings = ()
    item_names = None

    def __init__(self, ports, **arrays):
        self.arrays = arrays
        self.ports = ports
        self.specs = tuple(TensorSpec(name, array.dtype.name, array.shape) for name, array in arrays.items())
        self.binding = bind(ports, self.specs)
        self.items = self.binding.items

    def rows(self, start, stop):
        return tuple(
            array if given.mode == "shared" else array[start:stop]
            for given, array in zip(self.binding.inputs, self.arrays.values(), strict=True)
        )


class Given:
    """What of a manifest `PackedInputs` reads."""

    def __init__(self, inputs):
        self.inputs = inputs.ports
        self.given = inputs.specs


@pytest.fixture(
    params=[
        lambda rng: ArrayInputs(
            (Port("x", "float32", (FREE, 3)),), x=rng.standard_normal((1000, 3)).astype(np.float32)
        ),
        lambda rng: ArrayInputs(
            (Port("a", "int64", (FREE,)), Port("b", "uint8", (FREE, 5, 7))),
            a=rng.integers(0, 99, 600),
            b=rng.integers(0, 256, (600, 5, 7)).astype(np.uint8),
        ),
        lambda rng: ArrayInputs(
            (Port("x", "float32", (FREE, 4)), Port("scale", "float32", ())),
            x=rng.standard_normal((50, 4)).astype(np.float32),
            scale=np.array(3, np.float32),
        ),
    ],
    ids=["one input", "two inputs", "an input that all items share"],
)
def inputs(request):
    return request.param(np.random.default_rng(1))


def opened(inputs):
    return PackedInputs(Given(inputs), open_segments(pack_inputs(inputs, KEY), KEY))


def test_inputs_come_back_as_they_were(inputs):
    back = opened(inputs)
    assert (back.specs, back.items) == (inputs.specs, inputs.items)
    for found, given in zip(back.rows(0, back.items), inputs.arrays.values(), strict=True):
        assert found.dtype == given.dtype
        np.testing.assert_array_equal(found, given)


def test_any_rows_can_be_read(inputs):
    back = opened(inputs)
    for found, given in zip(back.rows(7, 19), inputs.rows(7, 19), strict=True):
        np.testing.assert_array_equal(found, given)


def test_rows_are_packed_in_their_places_also_where_not_all_fit_together(inputs, monkeypatch):
    monkeypatch.setattr(packed_inputs, "_ROWS_TOGETHER_BYTES", 100)
    for found, given in zip(opened(inputs).rows(0, inputs.items), inputs.arrays.values(), strict=True):
        np.testing.assert_array_equal(found, given)


def test_inputs_larger_than_the_limit_are_refused_before_anything_is_read(monkeypatch):
    inputs = ArrayInputs((Port("x", "float32", (FREE, 3)),), x=np.zeros((10, 3), np.float32))
    monkeypatch.setattr(packed_inputs, "REPLICATED_BYTES_MAX", inputs_bytes(inputs.binding) - 1)
    monkeypatch.setattr(inputs, "rows", None)
    with pytest.raises(InputError, match="copied to a committee"):
        pack_inputs(inputs, KEY)


def test_inputs_of_another_size_than_the_manifest_says_are_refused(inputs):
    plain = open_segments(pack_inputs(inputs, KEY), KEY)
    for wrong in (plain[:-1], plain + b"\0", b""):
        with pytest.raises(ProtocolError, match="bytes, not"):
            PackedInputs(Given(inputs), wrong)


# --- sealing -----------------------------------------------------------------------------------------------------------

SIZES = (0, 1, 1000, CHUNK_BYTES - 17, CHUNK_BYTES - 16, CHUNK_BYTES - 15, 3 * CHUNK_BYTES + 5)


@pytest.mark.parametrize("size", SIZES)
def test_what_was_sealed_opens(size):
    plain = random.Random(size).randbytes(size)
    assert open_segments(seal_segments(plain, KEY), KEY) == plain


@pytest.mark.parametrize("size", SIZES[1:])
def test_another_key_opens_nothing(size):
    with pytest.raises(ProtocolError, match="do not open"):
        open_segments(seal_segments(bytes(size), KEY), OTHER_KEY)


def test_no_byte_can_be_changed():
    sealed = seal_segments(b"secret" * 50, KEY)
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(ProtocolError):
            open_segments(bytes(changed), KEY)


def test_no_segment_can_be_dropped_added_or_moved():
    sealed = seal_segments(random.Random(0).randbytes(3 * CHUNK_BYTES), KEY)
    parts = [sealed[start : start + CHUNK_BYTES] for start in range(0, len(sealed), CHUNK_BYTES)]
    assert len(parts) == 4
    for wrong in (parts[:-1], parts[1:], [*parts, parts[-1]], [parts[1], parts[0], *parts[2:]], [parts[0]] * 4):
        with pytest.raises(ProtocolError):
            open_segments(b"".join(wrong), KEY)


def test_a_blob_cut_anywhere_does_not_open():
    sealed = seal_segments(random.Random(0).randbytes(CHUNK_BYTES + 100), KEY)
    for length in (1, 15, 16, 17, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, len(sealed) - 1):
        with pytest.raises(ProtocolError):
            open_segments(sealed[:length], KEY)


def test_nothing_of_the_inputs_can_be_read_in_the_blob():
    plain = b"a line that somebody would recognise" * 1000
    assert b"recognise" not in seal_segments(plain, KEY)
