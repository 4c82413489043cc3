from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerinfer.batch_size import BatchSize, Measure
from peerinfer.tensors import TensorSpec
from peerinfer_node.inference import batching
from peerinfer_node.inference.batching import Answer, Feeds, RunFailed, Signature, run_batch

Array = npt.NDArray[Any]


class Recorder:
    """A model made of a Python function of `x`, which remembers the shapes of its runs."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, feeds: Feeds) -> list[Array]:
        self.shapes.append(feeds["x"].shape)
        return [np.asarray(output) for output in self.function(**feeds)]


def run(
    items: Sequence[int],
    model: Recorder,
    *,
    merge: bool = True,
    rank: int = 2,
    has_item_axis: tuple[bool, ...] = (True,),
    outputs: tuple[str, ...] = ("y",),
    size: BatchSize | None = None,
    **arrays: Array,
) -> Answer:
    """Without a `size`, of a model that is known to be fastest with as many rows as possible."""
    if size is None:
        size = BatchSize(
            Measure(power, rows, 0.01) for power in range(8) for rows in (1, 2, 4, 8, 16, 32, 64, 128, 256)
        )
    specs = tuple(TensorSpec(name, array.dtype.name, array.shape) for name, array in arrays.items())
    body = memoryview(b"".join(array.tobytes() for array in arrays.values()))
    return run_batch(items, specs, body, merge, Signature({"x": rank}, outputs, has_item_axis), model, size)


def rows_of(answer: Answer, number: int = 0) -> Array:
    """The joined first group's output."""
    spec = answer.groups[0].tensors[number]
    return np.frombuffer(b"".join(array.tobytes() for array in answer.body), spec.dtype).reshape(spec.shape)


def test_small_tasks_run_together() -> None:
    model = Recorder(lambda x: [x * 2])
    x = np.arange(24, dtype=np.float32).reshape(6, 4)
    answer = run([1, 3, 2], model, x=x)
    assert model.shapes == [(6, 4)]
    assert [group.positions for group in answer.groups] == [(0, 1, 2)]
    assert np.array_equal(rows_of(answer), x * 2)


def test_sizes_are_tried_while_work_goes_through_and_no_run_takes_more_than_was_chosen() -> None:
    many = Recorder(lambda x: [x])
    run([1] * 21, many, size=BatchSize(), x=np.zeros((21, 1), np.float32))
    assert [rows for rows, _ in many.shapes][:9] == [2, 2, 2, 1, 2, 1, 2, 1, 2]
    many.shapes.clear()
    run([1] * 600, many, x=np.zeros((600, 1), np.float32))
    assert many.shapes == [(256, 1), (256, 1), (88, 1)]


def test_a_poison_task_fails_alone() -> None:
    def picky(x: Array) -> list[Array]:
        if (x < 0).any():
            raise RunFailed("model", "negative")
        return [x + 1]

    x = np.array([[1.0], [2], [-3], [4], [5]], np.float32)
    answer = run([2, 2, 1], Recorder(picky), x=x)
    assert [(failure.position, failure.kind, failure.reason) for failure in answer.failures] == [
        (1, "model", "negative")
    ]
    assert [group.positions for group in answer.groups] == [(0, 2)]
    assert rows_of(answer).ravel().tolist() == [2, 3, 6]


def test_a_model_that_mixes_its_rows_gets_every_task_alone() -> None:
    model = Recorder(lambda x: [x.sum(axis=0, keepdims=True)])
    x = np.arange(3, dtype=np.float32).reshape(3, 1)
    answer = run([1, 1, 1], model, x=x)
    assert rows_of(answer).ravel().tolist() == [0, 1, 2]
    answer = run([2, 1], model, x=x)
    assert [(failure.position, failure.kind) for failure in answer.failures] == [(0, "model")]
    assert "'y'" in answer.failures[0].reason
    assert "2 items" in answer.failures[0].reason


def test_an_output_without_any_axis_is_no_row_per_item() -> None:
    answer = run([2, 3], Recorder(lambda x: [x.sum()]), x=np.ones((5, 1), np.float32))
    assert [failure.position for failure in answer.failures] == [0, 1]
    assert not answer.groups


def test_outputs_of_different_shapes_make_groups() -> None:
    def as_wide_as_the_largest(x: Array) -> list[Array]:
        return [np.zeros((len(x), int(x.max())), np.float32)]

    x = np.array([[1], [2], [1]] + [[3]] * 300, np.float32)
    answer = run([1, 1, 1, 300], Recorder(as_wide_as_the_largest), x=x[:303])
    # 303 rows take two runs, of widths 3 and 3: they fit together, as a model may well want them.
    assert [group.tensors[0].shape for group in answer.groups] == [(303, 3)]
    answer = run([1, 1, 1], Recorder(as_wide_as_the_largest), merge=False, rank=1, x=x[:3])
    assert [(group.positions, group.tensors[0].shape) for group in answer.groups] == [
        ((0, 2), (2, 1, 1)),
        ((1,), (1, 1, 2)),
    ]


def test_a_task_whose_runs_do_not_fit_together_runs_whole() -> None:
    x = np.arange(300, dtype=np.float32).reshape(300, 1)
    model = Recorder(lambda x: [np.zeros((len(x), int(x.max())), np.float32)])
    answer = run([300], model, x=x)
    assert model.shapes[-1] == (300, 1)
    assert answer.groups[0].tensors[0].shape == (300, 299)


def test_scalars_are_shared_by_all_rows() -> None:
    x = np.arange(4, dtype=np.float32).reshape(4, 1)
    for merge, rank in ((True, 2), (False, 1), (False, 2)):
        answer = run([1, 3], Recorder(lambda x, k: [x * k]), merge=merge, rank=rank, x=x, k=np.array(3, np.float32))
        assert rows_of(answer).ravel().tolist() == [0, 3, 6, 9]


def test_stacked_items_run_one_by_one_without_the_stack_s_axis() -> None:
    model = Recorder(lambda x: [x.sum(axis=0)])
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    answer = run([1, 1], model, merge=False, rank=2, has_item_axis=(False,), x=x)
    assert model.shapes == [(3, 4), (3, 4)]
    assert np.array_equal(rows_of(answer), x.sum(axis=1))


def test_stacked_scalars_are_arrays_without_axes() -> None:
    """ONNX Runtime takes no NumPy scalar for one."""
    seen: list[type] = []
    model = Recorder(lambda x: [seen.append(type(x)) or x * 2])
    answer = run([1, 2], model, merge=False, rank=0, x=np.arange(3, dtype=np.float32))
    assert model.shapes == [()] * 3
    assert seen == [np.ndarray] * 3
    assert np.array_equal(rows_of(answer), [0, 2, 4])


def test_stacked_items_of_the_model_s_own_rank_keep_their_axis() -> None:
    model = Recorder(lambda x: [x * 2, x.sum(axis=0)])
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    answer = run([2], model, merge=False, rank=2, has_item_axis=(True, False), outputs=("y", "s"), x=x)
    assert model.shapes == [(1, 4), (1, 4)]
    assert [spec.shape for spec in answer.groups[0].tensors] == [(2, 4), (2, 4)]
    assert np.array_equal(np.concatenate(answer.body[:2]), x * 2)


def test_items_of_one_task_must_give_outputs_of_one_shape() -> None:
    x = np.array([[1], [2]], np.float32)
    answer = run([2], Recorder(lambda x: [np.zeros(int(x[0]))]), merge=False, rank=1, has_item_axis=(False,), x=x)
    assert "one item per task" in answer.failures[0].reason


def test_outputs_past_the_limit_cost_the_tasks_that_pass_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "OUTPUT_BYTES_MAX", 100)
    x = np.zeros((3, 10), np.float32)
    answer = run([1, 1, 1], Recorder(lambda x: [x]), merge=False, rank=1, x=x)
    assert [group.positions for group in answer.groups] == [(0, 1)]
    assert [(failure.position, failure.kind) for failure in answer.failures] == [(2, "memory")]


def test_no_rows_at_all_are_run_as_no_rows() -> None:
    model = Recorder(lambda x: [x * 2])
    answer = run([0, 0], model, x=np.zeros((0, 4), np.float32))
    assert answer.groups[0].tensors[0].shape == (0, 4)


def test_inputs_that_do_not_lie_on_their_boundary_are_read_right() -> None:
    flags = np.array([True, False, True])
    x = np.array([[1.5], [2.5], [3.5]])
    answer = run([1, 1, 1], Recorder(lambda flags, x: [np.where(flags[:, None], x, -x)]), flags=flags, x=x)
    assert rows_of(answer).ravel().tolist() == [1.5, -2.5, 3.5]


def test_a_bool_is_true_or_false_whatever_its_byte() -> None:
    seen: list[Array] = []

    def model(feeds: Feeds) -> list[Array]:
        seen.append(feeds["x"].view(np.uint8).copy())
        return [feeds["x"]]

    run_batch(
        [3],
        (TensorSpec("x", "bool", (3,)),),
        memoryview(b"\0\1\xff"),
        True,
        Signature({}, ("y",), (True,)),
        model,
        BatchSize(),
    )
    assert np.concatenate(seen).tolist() == [0, 1, 1]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.booleans(), st.integers(0, 10))
def test_however_tasks_are_cut_they_get_what_one_run_would_give(items: list[int], merge: bool, poison: int) -> None:
    total = sum(items)
    x = np.arange(total, dtype=np.int64).reshape(total, 1)

    def model(x: Array) -> list[Array]:
        if (x == poison).any():
            raise RunFailed("model", "poison")
        return [x * x]

    answer = run(items, Recorder(model), merge=merge, x=x)
    ends = np.cumsum(items)
    expected = {int(np.searchsorted(ends, poison, side="right"))} if poison < total else set()
    assert {failure.position for failure in answer.failures} == expected
    survivors = [
        row
        for position, end in enumerate(ends)
        if position not in expected
        for row in range(end - items[position], end)
    ]
    if survivors:
        assert np.array_equal(rows_of(answer).ravel(), np.array(survivors) ** 2)
    else:
        assert not answer.groups


def test_out_of_memory_halves_the_rows_that_run_together_and_goes_on() -> None:
    def small_card(x: Array) -> list[Array]:
        if len(x) > 3:
            raise RunFailed("memory", "the card is full")
        return [x * 2]

    model = Recorder(small_card)
    x = np.arange(40, dtype=np.float32).reshape(10, 4)
    answer = run([4, 6], model, x=x)
    assert not answer.failures
    assert np.array_equal(rows_of(answer), x * 2)
    assert [shape[0] for shape in model.shapes] == [10, 4, 2, 2, 2, 2, 2]


def test_a_row_that_does_not_fit_alone_fails() -> None:
    def tiny_card(x: Array) -> list[Array]:
        raise RunFailed("memory", "the card is full")

    answer = run([1, 1], Recorder(tiny_card), x=np.zeros((2, 4), np.float32))
    assert [(failure.position, failure.kind) for failure in answer.failures] == [(0, "memory"), (1, "memory")]
