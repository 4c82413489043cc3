"""Honest noise passes, cheating does not, and strange numbers are compared like any others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_strategies import SAME_EVERY_TIME

from peerinfer.comparison import agree_at_once, disagreement, is_imprecise
from peerinfer.control import COMPARATORS

NAN, INF = float("nan"), float("inf")
RNG = np.random.default_rng(1)
LOGITS = RNG.standard_normal((64, 10)).astype(np.float32) * 5


def judge(claimed, reference, compare="allclose", dtype="float32", **more):
    return disagreement({"y": np.asarray(claimed, dtype)}, {"y": np.asarray(reference, dtype)}, compare=compare, **more)


def int8_like(values):
    """What a device gives that computes in eight bits and says it did not."""
    scale = np.abs(values).max() / 127
    return (np.round(values / scale) * scale).astype(values.dtype)


# --- noise and cheating --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compare", ["allclose", "argmax", "cosine"])
@pytest.mark.parametrize("seed", range(5))
def test_honest_noise_passes(compare, seed):
    noise = np.random.default_rng(seed).uniform(-1, 1, LOGITS.shape) * 1e-5 * np.abs(LOGITS).max()
    assert judge(LOGITS + noise, LOGITS, compare) == ""


def test_honest_noise_is_not_exact():
    assert judge(LOGITS * (1 + 1e-6), LOGITS, "exact").endswith("of 640 elements differ")


def test_eight_bits_for_thirty_two_are_noticed():
    assert "is right" in judge(int8_like(LOGITS), LOGITS)


def test_eight_bits_are_noticed_by_the_direction_of_long_vectors_too():
    vectors = np.random.default_rng(2).standard_normal((16, 512)).astype(np.float32) ** 3
    assert "cosine" in judge(int8_like(vectors), vectors, "cosine")


@pytest.mark.parametrize("seed", range(5))
def test_honest_noise_of_half_precision_passes(seed):
    """Three steps of the format at every element."""
    reference = LOGITS.astype(np.float16)
    steps = np.random.default_rng(seed).integers(-3, 4, LOGITS.shape)
    noisy = (reference.astype(np.float32) + steps * np.spacing(np.abs(reference)).astype(np.float32)).astype(np.float16)
    assert judge(noisy, reference, dtype="float16") == ""


def test_eight_bits_for_sixteen_are_noticed():
    reference = LOGITS.astype(np.float16)
    assert "is right" in judge(int8_like(reference.astype(np.float32)), reference, dtype="float16")


@pytest.mark.parametrize("compare", COMPARATORS)
def test_another_models_answers_are_noticed(compare):
    other = np.random.default_rng(3).standard_normal(LOGITS.shape).astype(np.float32)
    assert judge(other, LOGITS, compare) != ""


@pytest.mark.parametrize("compare", COMPARATORS)
@pytest.mark.parametrize("fill", [0.0, 1.0, NAN, INF])
def test_a_constant_for_an_answer_is_noticed(compare, fill):
    assert judge(np.full_like(LOGITS, fill), LOGITS, compare) != ""


@pytest.mark.parametrize("compare", ["exact", "allclose", "argmax", "cosine"])
def test_one_wrong_item_among_many_is_noticed(compare):
    """However small its numbers are beside those of the others."""
    reference = LOGITS.copy()
    reference[17] *= 1e-2
    claimed = reference.copy()
    claimed[17] = -claimed[17]
    assert judge(claimed, reference, compare) != ""


@SAME_EVERY_TIME
@given(st.sampled_from(COMPARATORS), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_a_result_always_agrees_with_itself(compare, rank, seed):
    rng = np.random.default_rng(seed)
    values = rng.choice([0.0, -0.0, 1.0, -2.5, 1e30, -1e30, 1e-30, NAN, INF, -INF], size=(3,) * rank)
    for dtype in ("float16", "float32", "float64"):
        with np.errstate(over="ignore"):
            assert judge(values, values, compare, dtype) == ""


# --- tables --------------------------------------------------------------------------------------------------------

AGREE = [
    ("exact", [1, 2], [1, 2], "int64"),
    ("exact", [NAN, 1], [NAN, 1], "float32"),
    ("exact", [0.0], [-0.0], "float32"),
    ("exact", [True, False], [True, False], "bool"),
    ("allclose", [1.0, 1000.0], [1.05, 1000.0], "float32"),
    ("allclose", [1000.5], [1000.0], "float32"),
    ("allclose", [NAN, INF, -INF, 1], [NAN, INF, -INF, 1], "float32"),
    ("allclose", 1.0, 1.0005, "float32"),
    ("allclose", [], [], "float32"),
    ("allclose", [[], []], [[], []], "float32"),
    ("allclose", [1e300, -1e300], [1e300, -1e300], "float64"),
    ("allclose", [0.0, 0.0], [0.0, 0.0], "float32"),
    ("argmax", [[0.1, 0.9]], [[0.4, 0.6]], "float32"),
    ("argmax", [[1.0, 1.000001]], [[1.000001, 1.0]], "float32"),
    ("argmax", [[NAN, 1.0]], [[NAN, 5.0]], "float32"),
    ("argmax", [[3, 7]], [[1, 2]], "int64"),
    ("argmax", [3.0, 7.0], [3.0001, 7.0], "float32"),
    ("argmax", 5.0, 5.0001, "float32"),
    ("argmax", NAN, NAN, "float32"),
    ("argmax", [4, 5], [4, 5], "int64"),
    ("argmax", [[], []], [[], []], "float32"),
    ("cosine", [[2.0, 0.0]], [[1.0, 0.0]], "float32"),
    ("cosine", [[0.0, 0.0]], [[0.0, 0.0]], "float32"),
    ("cosine", [[0.0, 0.0], [1.0, 0.0]], [[1e-9, 0.0], [1.0, 0.0]], "float32"),
    ("cosine", [[1e200, 1e200]], [[1e200, 1e200]], "float64"),
    ("cosine", [[NAN, 1.0]], [[NAN, 2.0]], "float32"),
    ("cosine", [5.0, 1.0], [5.0001, 1.0], "float32"),
    ("cosine", [[100, 101]], [[100, 100]], "int8"),
    ("cosine", 3, 3, "int64"),
]
DIFFER = [
    ("exact", [1, 2], [1, 3], "int64", "1 of 2 elements differ"),
    ("exact", [1.0], [1.0000001], "float32", "1 of 1 elements differ"),
    ("exact", [NAN], [1.0], "float32", "1 of 1 elements differ"),
    ("allclose", [1, 2], [1, 3], "int32", "1 of 2 elements differ"),
    ("allclose", [True], [False], "bool", "1 of 1 elements differ"),
    ("allclose", [1.2, 1000.0], [1.0, 1000.0], "float32", "1.2 where 1 is right (1 of 2 elements are off)"),
    ("allclose", [1.0], [NAN], "float32", "NaN or infinity stand in other places"),
    ("allclose", [NAN], [1.0], "float32", "NaN or infinity stand in other places"),
    ("allclose", [NAN], [INF], "float32", "NaN or infinity stand in other places"),
    ("allclose", [INF], [-INF], "float32", "NaN or infinity stand in other places"),
    ("allclose", [1.0], [0.0], "float32", "1 where 0 is right (1 of 1 elements are off)"),
    ("allclose", [1e308], [-1e308], "float64", "1e+308 where -1e+308 is right (1 of 1 elements are off)"),
    ("allclose", 1.1, 1.0, "float32", "1.1 where 1 is right (1 of 1 elements are off)"),
    ("argmax", [[0.9, 0.1]], [[0.4, 0.6]], "float32", "the largest element is another one in 1 rows"),
    ("argmax", [[NAN, 1.0]], [[1.0, 2.0]], "float32", "the largest element is another one in 1 rows"),
    ("argmax", [[INF, 1.0]], [[1.0, 2.0]], "float32", "the largest element is another one in 1 rows"),
    ("argmax", [[1.0, NAN]], [[NAN, 1.0]], "float32", "the largest element is another one in 1 rows"),
    ("argmax", [3.0, 8.0], [3.0, 7.0], "float32", "8 where 7 is right (1 of 2 elements are off)"),
    ("argmax", [4, 6], [4, 5], "int64", "1 of 2 elements differ"),
    ("argmax", 6.0, 5.0, "float32", "6 where 5 is right (1 of 1 elements are off)"),
    ("cosine", [[1.0, 0.0]], [[0.0, 1.0]], "float32", "cosine 0.000000 is below 0.9999"),
    ("cosine", [[-1.0, 0.0]], [[1.0, 0.0]], "float32", "cosine -1.000000 is below 0.9999"),
    ("cosine", [[0.0, 0.0]], [[1.0, 0.0]], "float32", "cosine -1.000000 is below 0.9999"),
    ("cosine", [[1.0, 0.0]], [[0.0, 0.0]], "float32", "cosine -1.000000 is below 0.9999"),
    ("cosine", [[NAN, 1.0]], [[1.0, 1.0]], "float32", "NaN or infinity stand in other places"),
    ("cosine", [5.0, 2.0], [5.0, 1.0], "float32", "2 where 1 is right (1 of 2 elements are off)"),
    ("cosine", [3], [4], "int64", "1 of 1 elements differ"),
]


@pytest.mark.parametrize(("compare", "claimed", "reference", "dtype"), AGREE)
def test_these_agree(compare, claimed, reference, dtype):
    assert judge(claimed, reference, compare, dtype) == ""


@pytest.mark.parametrize(("compare", "claimed", "reference", "dtype", "why"), DIFFER)
def test_these_differ_and_it_is_said_how(compare, claimed, reference, dtype, why):
    assert judge(claimed, reference, compare, dtype) == f"output 'y': {why}"


@pytest.mark.parametrize("compare", COMPARATORS)
@pytest.mark.parametrize(
    ("claimed", "why"),
    [
        ({}, "output 'y' is missing"),
        ({"z": np.zeros((2, 3), np.float32)}, "output 'y' is missing"),
        ({"y": np.zeros((2, 3), np.float64)}, "output 'y' is float64[2, 3], not float32[2, 3]"),
        ({"y": np.zeros((3, 2), np.float32)}, "output 'y' is float32[3, 2], not float32[2, 3]"),
        ({"y": np.zeros((), np.float32)}, "output 'y' is float32[], not float32[2, 3]"),
    ],
)
def test_another_form_is_never_the_same(compare, claimed, why):
    assert disagreement(claimed, {"y": np.zeros((2, 3), np.float32)}, compare=compare) == why


def test_every_output_is_compared():
    reference = {"a": np.zeros(2, np.float32), "b": np.ones(2, np.float32)}
    claimed = {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)}
    assert disagreement(claimed, reference, compare="allclose").startswith("output 'b'")


def test_tolerances_that_the_user_gives_replace_the_defaults():
    assert judge([1.2], [1.0], rtol=0.25) == ""
    assert judge([1.0, 1000.0], [1.5, 1000.0], atol=1e-3) == ""
    assert judge([1.0005], [1.0], rtol=0.0, atol=0.0) != ""
    assert judge([[1.0, 1.1]], [[1.1, 1.0]], "argmax", rtol=0.2) == ""


def test_what_is_only_too_coarse_is_told_from_what_is_false() -> None:
    right = {"y": np.linspace(-1, 1, 100, dtype=np.float32)}
    coarse = {"y": right["y"].astype(np.float16).astype(np.float32) + np.float32(1e-3)}
    false = {"y": right["y"] + np.float32(0.02)}
    assert disagreement(coarse, right, compare="allclose")
    assert is_imprecise(coarse, right, compare="allclose")
    assert not is_imprecise(false, right, compare="allclose")
    assert not is_imprecise(coarse, right, compare="exact")
    numbers = {"y": np.arange(4)}
    assert not is_imprecise({"y": np.arange(4) + 1}, numbers, compare="allclose")
    nothing = {"y": np.full(100, np.nan, np.float32)}
    assert not is_imprecise(nothing, right, compare="allclose")


# --- many at once ----------------------------------------------------------------------------------------------------


@SAME_EVERY_TIME
@given(
    st.integers(1, 6),
    st.sampled_from([0.0, 1e-5, 5e-4, 3e-3]),
    st.sampled_from([None, 0.0, 1e-6]),
    st.integers(0, 2**32 - 1),
)
def test_results_that_pass_together_pass_one_by_one(count, noise, atol, seed):
    rng = np.random.default_rng(seed)
    references = [{"y": rng.standard_normal((1, 5)).astype(np.float32) * 10.0**power} for power in range(count)]
    for reference in references:
        reference["y"][0, 0] = rng.choice([0.0, 1.0])
    claims = [{"y": each["y"] * np.float32(1 + noise * rng.uniform(-1, 1))} for each in references]
    singly = [disagreement(c, r, compare="allclose", atol=atol) for c, r in zip(claims, references, strict=True)]
    assert agree_at_once(claims, references, atol=atol) == (not any(singly))


@pytest.mark.parametrize(
    "claim",
    [{}, {"y": np.zeros((1, 3), np.float32)}, {"y": np.zeros((1, 2))}, {"y": np.array([[0, NAN]], np.float32)}],
)
def test_a_result_of_another_form_passes_with_no_others(claim):
    right = {"y": np.zeros((1, 2), np.float32)}
    assert agree_at_once([right, right], [right, right])
    assert not agree_at_once([right, claim], [right, right])


@pytest.mark.parametrize("dtype", ["int64", "float16", "bool"])
def test_what_is_compared_in_another_way_is_looked_at_one_by_one(dtype):
    rows = {"y": np.zeros((1, 2), dtype)}
    assert not agree_at_once([rows, rows], [rows, rows])
