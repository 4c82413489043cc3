from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peerinfer.binding import Binding, bind, check_outputs
from peerinfer.errors import InputError
from peerinfer.limits import TENSOR_RANK_MAX
from peerinfer.tensors import ITEM_BYTES, Port, TensorSpec

IMAGE = Port("x", "float32", (-1, 3, 224, 224))


def spec(name: str, dtype: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, dtype, shape)


def line_of(act: Callable[[], object]) -> str | None:
    """The one line of the `InputError` that `act` raises, or None if it raises nothing."""
    try:
        act()
    except InputError as error:
        return str(error)
    return None


REFUSALS = [
    ([IMAGE], [], "missing inputs: 'x'; the model takes 'x' (float32[?, 3, 224, 224]), given nothing"),
    (
        [Port("a", "int64", (-1,)), Port("b", "int64", (-1,))],
        [spec("a", "int64", 5)],
        "missing inputs: 'b'; the model takes 'a' (int64[?]), 'b' (int64[?]), given 'a'",
    ),
    (
        [IMAGE],
        [spec("x", "float32", 5, 3, 224, 224), spec("y", "float32", 5), spec("z", "float32", 5)],
        "extra inputs: 'y', 'z'; the model takes 'x' (float32[?, 3, 224, 224]); leave the others out",
    ),
    (
        [IMAGE],
        [spec("image", "float32", 5, 3, 224, 224)],
        "missing inputs: 'x'; the model takes 'x' (float32[?, 3, 224, 224]), given 'image'; rename the arrays",
    ),
    (
        [Port("a", "int64", (-1,)), Port("b", "int64", (-1,))],
        [spec("", "int64", 5)],
        "the array given has no name, and the model takes 'a' (int64[?]), 'b' (int64[?]); "
        "give one .npz with arrays of these names",
    ),
    ([IMAGE], [spec("x", "float32", 5, 3, 224, 224)] * 2, "inputs given twice: 'x'; give each once"),
    (
        [IMAGE],
        [spec("x", "float64", 100, 3, 224, 224)],
        "input 'x': the model takes float32[?, 3, 224, 224], given float64[100, 3, 224, 224]; "
        "convert with astype('float32')",
    ),
    (
        [Port("x", "float64", (-1,))],
        [spec("x", "float32", 100)],
        "input 'x': the model takes float64[?], given float32[100]; convert with astype('float64')",
    ),
    (
        [IMAGE],
        [spec("x", "complex128", 100, 3, 224, 224)],
        "input 'x': the model takes float32[?, 3, 224, 224], given complex128[100, 3, 224, 224]; give float32",
    ),
    (
        [IMAGE],
        [spec("x", "float32", 3, 224, 224)],
        "input 'x': the model takes float32[?, 3, 224, 224], given float32[3, 224, 224]; "
        "an axis is missing: the first one counts items; add it with array[None]",
    ),
    (
        [IMAGE],
        [spec("x", "float32", 100)],
        "input 'x': the model takes float32[?, 3, 224, 224], given float32[100]; "
        "give 4 axes, the first one counting items",
    ),
    (
        [IMAGE],
        [spec("x", "float32", 100, 3, 200, 224)],
        "input 'x': the model takes float32[?, 3, 224, 224], given float32[100, 3, 200, 224]; axis 2 must be 224",
    ),
    (
        [Port("x", "int8", (2, 7))],
        [spec("x", "int8", 9, 3, 7)],
        "input 'x': the model takes int8[2, 7], given int8[9, 3, 7]; axis 1 must be 2",
    ),
    (
        [IMAGE],
        [spec("x", "float32", 0, 3, 224, 224)],
        "input 'x': the model takes float32[?, 3, 224, 224], given float32[0, 3, 224, 224]; "
        "there are no items; give at least one along the first axis",
    ),
    (
        [Port("x", "float32", (-1, -1, 4))],
        [spec("x", "float32", 9, 0, 4)],
        "input 'x': the model takes float32[?, ?, 4], given float32[9, 0, 4]; axis 1 has length 0; leave no axis empty",
    ),
    (
        [Port("a", "int64", (-1,)), Port("b", "int64", (-1,))],
        [spec("a", "int64", 5), spec("b", "int64", 6)],
        "input 'b': expected 5 items as in 'a', given 6; the first axis of every array counts items",
    ),
    (
        [Port("x", "float32", (4, 2))],
        [spec("x", "float32", 10, 2)],
        "input 'x': the model takes 4 items at a time, given 10; give a multiple of 4 (pad with 2 more)",
    ),
    (
        [Port("x", "float32", (4, 2)), Port("y", "float32", (2, 2))],
        [spec("x", "float32", 8, 2), spec("y", "float32", 8, 2)],
        "input 'y': the model takes 2 items at a time here but 4 in 'x'; "
        "give whole inputs, stacked along a new first axis",
    ),
    (
        [Port("x", "float32", (4, 2)), Port("y", "float32", (2,))],
        [spec("x", "float32", 8, 2), spec("y", "float32", 8, 2)],
        "input 'x': the model takes 4 items at a time, but 'y' gives one whole input per item; "
        "stack 'x' along a new first axis too",
    ),
    (
        [Port("text", "bfloat16", (-1,))],
        [spec("text", "str", 5)],
        "input 'text': the model takes bfloat16, which peerinfer does not carry; it carries "
        "bool, uint8, int8, uint16, int16, float16, uint32, int32, float32, uint64, int64, float64, string",
    ),
    (
        [Port("text", "string", (-1,))],
        [spec("text", "int64", 5)],
        "input 'text': the model takes string[?], given int64[5]; give string",
    ),
    (
        [Port("x", "int64", (-1,))],
        [spec("x", "string64", 5)],
        "input 'x': the model takes int64[?], given string[5]; give int64",
    ),
    ([], [], "the model takes no inputs, so there is nothing to run it on"),
]


@pytest.mark.parametrize(("inputs", "arrays", "line"), REFUSALS, ids=[line[:60] for _, _, line in REFUSALS])
def test_arrays_that_do_not_fit_are_refused_with_this_line(
    inputs: list[Port], arrays: list[TensorSpec], line: str
) -> None:
    with pytest.raises(InputError) as caught:
        bind(inputs, arrays)
    assert str(caught.value) == line


def test_rows_of_a_free_first_dimension_are_merged() -> None:
    binding = bind([IMAGE], [spec("x", "float32", 100, 3, 224, 224)])
    assert (binding.items, binding.merge, binding.block) == (100, True, 1)
    assert binding.inputs[0].mode == "batched"
    assert binding.frame_specs(7) == (spec("x", "float32", 7, 3, 224, 224),)
    assert binding.specs == (spec("x", "float32", 100, 3, 224, 224),)
    assert binding.item_bytes == 3 * 224 * 224 * 4


def test_an_unnamed_array_binds_to_the_only_input() -> None:
    binding = bind([IMAGE], [spec("", "float32", 2, 3, 224, 224)])
    assert binding.inputs[0].name == "x"


def test_the_order_is_the_models_and_not_the_files() -> None:
    ports = [Port("a", "int64", (-1,)), Port("b", "int8", (-1, 2))]
    binding = bind(ports, [spec("b", "int8", 3, 2), spec("a", "int64", 3)])
    assert [given.name for given in binding.inputs] == ["a", "b"]
    assert binding.specs == (spec("a", "int64", 3), spec("b", "int8", 3, 2))


def test_a_fixed_batch_makes_blocks_that_do_not_merge() -> None:
    binding = bind([Port("x", "float32", (4, 2))], [spec("x", "float32", 12, 2)])
    assert (binding.items, binding.merge, binding.block) == (12, False, 4)
    assert binding.frame_specs(8) == (spec("x", "float32", 2, 4, 2),)
    with pytest.raises(ValueError, match="whole runs of 4"):
        binding.frame_specs(6)


def test_a_fixed_batch_of_one_runs_items_one_at_a_time_and_keeps_the_axis() -> None:
    binding = bind([Port("x", "float32", (1, 3, 8, 8))], [spec("x", "float32", 5, 3, 8, 8)])
    assert (binding.items, binding.merge, binding.block) == (5, False, 1)
    assert binding.frame_specs(5) == (spec("x", "float32", 5, 1, 3, 8, 8),)


def test_an_array_with_one_axis_more_stacks_whole_inputs() -> None:
    binding = bind([Port("x", "float32", (-1, 8))], [spec("x", "float32", 5, 30, 8)])
    assert (binding.items, binding.merge, binding.block) == (5, False, 1)
    assert binding.inputs[0].mode == "stacked"
    assert binding.frame_specs(2) == (spec("x", "float32", 2, 30, 8),)


def test_speech_detection_takes_its_state_stacked_and_its_rate_shared() -> None:
    ports = [Port("input", "float32", (-1, 576)), Port("state", "float32", (2, -1, 128)), Port("sr", "int64", ())]
    binding = bind(
        ports, [spec("input", "float32", 9, 576), spec("state", "float32", 9, 2, 1, 128), spec("sr", "int64")]
    )
    assert (binding.items, binding.merge, binding.block) == (9, False, 1)
    assert [given.mode for given in binding.inputs] == ["batched", "stacked", "shared"]
    assert binding.frame_specs(3) == (
        spec("input", "float32", 3, 1, 576),
        spec("state", "float32", 3, 2, 1, 128),
        spec("sr", "int64"),
    )


def test_a_shared_scalar_does_not_keep_rows_from_merging() -> None:
    binding = bind([Port("x", "float32", (-1,)), Port("k", "int64", ())], [spec("x", "float32", 9), spec("k", "int64")])
    assert binding.merge
    assert binding.frame_specs(4) == (spec("x", "float32", 4), spec("k", "int64"))


def test_scalars_alone_are_one_item() -> None:
    binding = bind([Port("k", "int64", ())], [spec("k", "int64")])
    assert (binding.items, binding.merge, binding.block) == (1, False, 1)


def test_a_scalar_per_item_is_stacked() -> None:
    assert bind([Port("k", "int64", ())], [spec("k", "int64", 7)]).inputs[0].mode == "stacked"


def test_outputs_of_a_fixed_batch_are_cut_into_items() -> None:
    binding = bind([Port("x", "float32", (4, 2))], [spec("x", "float32", 12, 2)])
    values = np.arange(3 * 4 * 5).reshape(3, 4, 5)
    assert binding.per_item(Port("y", "int64", (4, 5)), values).tolist() == values.reshape(12, 5).tolist()
    assert binding.per_item(Port("y", "int64", (-1, 5)), values).shape == (12, 5)
    whole = np.array([[1, 2], [3, 4], [5, 6]])
    assert binding.per_item(Port("y", "int64", (2,)), whole)[:, 0].tolist() == [1] * 4 + [3] * 4 + [5] * 4


def test_outputs_of_a_batch_of_one_lose_the_axis_only_if_the_model_declares_it() -> None:
    binding = bind([Port("x", "float32", (1, 2))], [spec("x", "float32", 3, 2)])
    values = np.zeros((3, 1, 5))
    assert binding.per_item(Port("y", "float64", (1, 5)), values).shape == (3, 5)
    assert binding.per_item(Port("boxes", "float64", (-1, 5)), values).shape == (3, 1, 5)
    assert binding.per_item(Port("loss", "float64", ()), np.zeros(3)).shape == (3,)


def test_outputs_of_merged_and_of_stacked_tasks_are_left_alone() -> None:
    values = np.zeros((3, 1, 5))
    merged = bind([Port("x", "float32", (-1, 2))], [spec("x", "float32", 3, 2)])
    stacked = bind([Port("x", "float32", (1, 2))], [spec("x", "float32", 3, 1, 2)])
    assert merged.per_item(Port("y", "float64", (1, 5)), values) is values
    assert stacked.per_item(Port("y", "float64", (1, 5)), values) is values


def test_outputs_that_cannot_be_carried_are_refused() -> None:
    check_outputs([Port("y", "float32", (-1,))])
    with pytest.raises(InputError, match="output 'label': the model gives bfloat16, which peerinfer does not carry"):
        check_outputs([Port("label", "bfloat16", (-1,))])


def test_an_error_stays_one_line_for_the_strangest_names() -> None:
    with pytest.raises(InputError) as caught:
        bind([Port("x\n\x1b[31m" + "y" * 200, "float32", (-1,))], [spec(f"n\n{i}", "float32", 3) for i in range(60)])
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 2000


dims = st.sampled_from([-1, 0, 1, 2, 3, 4, 8])
shapes = st.lists(dims, max_size=4).map(tuple)
dtypes = st.sampled_from(["float32", "int64"])


@st.composite
def models_and_arrays(draw: st.DrawFn) -> tuple[list[Port], list[TensorSpec]]:
    """Models with arrays that often fit: shapes made from the model's own, with a slip now and then."""
    ports = [Port(f"in{i}", draw(dtypes), draw(shapes)) for i in range(draw(st.integers(1, 3)))]
    items = draw(st.sampled_from([0, 1, 4, 8, 12]))
    arrays = []
    for port in ports:
        filled = [draw(st.integers(1, 3)) if dim < 0 else dim for dim in port.shape]
        stack = draw(st.booleans())
        shape = [items, *(filled if stack else filled[1:])] if filled or stack else []
        if shape and draw(st.integers(0, 9)) == 0:
            shape[draw(st.integers(0, len(shape) - 1))] = draw(st.integers(0, 5))
        dtype = draw(dtypes) if draw(st.integers(0, 9)) == 0 else port.dtype
        arrays.append(TensorSpec(port.name, dtype, tuple(shape)))
    return ports, draw(st.permutations(arrays))


def fits(dims_given: tuple[int, ...], port: Port) -> bool:
    return len(dims_given) == len(port.shape) and all(
        want in (-1, have) and have > 0 for want, have in zip(port.shape, dims_given, strict=True)
    )


@settings(max_examples=400, deadline=None)
@given(models_and_arrays())
def test_what_binds_runs_and_what_does_not_says_so_in_one_line(case: tuple[list[Port], list[TensorSpec]]) -> None:
    ports, arrays = case
    line = line_of(lambda: bind(ports, arrays))
    if line is None:
        _check_against_the_model(ports, arrays, bind(ports, arrays))
    else:
        assert "\n" not in line


def _check_against_the_model(ports: list[Port], arrays: list[TensorSpec], binding: Binding) -> None:
    by_name = {array.name: array for array in arrays}
    assert binding.items % binding.block == 0
    frame = binding.frame_specs(binding.items)
    assert [part.name for part in frame] == [port.name for port in ports]
    for port, part, whole, given_mode in zip(ports, frame, binding.specs, binding.inputs, strict=True):
        assert whole == by_name[port.name]
        assert part.size_bytes == whole.size_bytes  # a frame is a reshape, nothing is added or lost
        assert len(part.shape) <= TENSOR_RANK_MAX
        if given_mode.mode == "shared" or binding.merge:
            assert fits(part.shape, port)
        else:
            assert part.shape[0] == binding.frame_rows(binding.items)
            assert fits(part.shape[1:], port)  # what one run of the model gets
    if binding.merge:
        assert all(port.shape == () or port.shape[0] < 0 for port in ports)
    per_item = sum(math.prod(array.shape[1:]) * ITEM_BYTES[array.dtype] for array in arrays if array.shape != ())
    assert binding.item_bytes == per_item


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.builds(Port, st.text(max_size=3), st.text(max_size=8) | dtypes, shapes), max_size=3),
    st.lists(
        st.builds(
            TensorSpec, st.text(max_size=3), st.text(max_size=8) | dtypes, st.lists(st.integers(0, 3)).map(tuple)
        ),
        max_size=3,
    ),
)
def test_anything_at_all_binds_or_is_an_input_error(ports: list[Port], arrays: list[TensorSpec]) -> None:
    assert "\n" not in (line_of(lambda: bind(ports, arrays)) or "")


def test_strings_keep_the_width_of_their_slots_on_the_way_to_the_model() -> None:
    binding = bind([Port("text", "string", (-1, 2))], [spec("text", "string32", 6, 2)])
    assert binding.specs == (TensorSpec("text", "string32", (6, 2)),)
    assert binding.frame_specs(4) == (TensorSpec("text", "string32", (4, 2)),)
    assert binding.item_bytes == 64
