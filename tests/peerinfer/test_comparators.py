"""Each output by its own rule, with the tolerance of the devices that computed it."""

from __future__ import annotations

import numpy as np
import pytest

from peerinfer.calibration import CEILING, MARGIN, OTHER_FLOOR, SAME_FLOOR, is_unsteady, moved, rule_for, spread_of
from peerinfer.comparator_names import PLACES_MAX, is_comparator, parse_compare, places_of
from peerinfer.comparators import Comparator
from peerinfer.comparison import disagreement
from peerinfer.messages import OutputRule
from peerinfer.tensors import TensorSpec

SCORES = np.array([[0.1, 0.9, 0.5, 0.4], [3.0, 1.0, 2.0, 0.0]], np.float32)
LABELS = np.array([1, 0], np.int64)


def rule(name: str, how: str, *tolerances: float) -> OutputRule:
    return OutputRule(name, how, *(tolerances or (-1.0,) * 4))


def test_words_of_the_command_line_name_a_comparator_for_all_and_for_some() -> None:
    assert parse_compare("allclose") == ("allclose", {})
    assert parse_compare("cosine,label=exact,scores=top-5") == ("cosine", {"label": "exact", "scores": "top-5"})
    assert parse_compare("a=b=exact") == ("allclose", {"a=b": "exact"})


@pytest.mark.parametrize(
    "text", ["", "close", "allclose,", "allclose,x", "x=", "x=exact,x=exact", "=exact", "top-0", "top-x"]
)
def test_words_that_name_none_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"is none of|should read") as refused:
        parse_compare(text)
    assert "\n" not in str(refused.value)


def test_as_many_places_as_can_be_asked_for() -> None:
    assert places_of(f"top-{PLACES_MAX}") == PLACES_MAX
    assert not is_comparator(f"top-{PLACES_MAX + 1}")
    assert places_of("argmax") == 1
    assert places_of("allclose") == 0


def test_the_largest_k_may_stand_in_any_order_but_must_be_the_same() -> None:
    swapped = SCORES.copy()
    swapped[0] = [0.1, 0.5, 0.9, 0.4]
    other = SCORES.copy()
    other[0] = [0.9, 0.1, 0.5, 0.4]
    assert disagreement({"y": swapped}, {"y": SCORES}, compare="top-2") == ""
    assert "largest element" in disagreement({"y": swapped}, {"y": SCORES}, compare="argmax")
    assert "2 largest elements are others in 1 rows" in disagreement({"y": other}, {"y": SCORES}, compare="top-2")
    assert disagreement({"y": other}, {"y": SCORES}, compare="top-99") == ""


def test_nearly_equal_candidates_for_the_last_place_may_be_taken_for_each_other() -> None:
    reference = np.array([[1.0, 0.5, 0.50001, 0.0]])
    claimed = np.array([[1.0, 0.50001, 0.5, 0.0]])
    assert disagreement({"y": claimed}, {"y": reference}, compare="top-2") == ""
    assert disagreement({"y": claimed}, {"y": reference}, compare="top-2", rtol=0.0, atol=0.0)


@pytest.mark.parametrize("how", ["top-2", "argmax"])
def test_nan_in_place_of_numbers_is_no_answer(how: str) -> None:
    nan = SCORES.copy()
    nan[0] = [np.nan, 0.0, 0.0, 0.0]
    assert disagreement({"y": nan}, {"y": SCORES}, compare=how)
    assert disagreement({"y": SCORES}, {"y": nan}, compare=how)


def test_each_output_is_compared_in_its_own_way() -> None:
    comparator = Comparator(rules={"label": rule("label", "exact"), "scores": rule("scores", "top-2")})
    reference = {"scores": SCORES, "label": LABELS, "x": SCORES}
    doubled = {"scores": SCORES * 2, "label": LABELS, "x": SCORES}
    assert comparator.problem(doubled, reference) == ""
    assert "'x'" in comparator.problem({**doubled, "x": SCORES * 2}, reference)
    assert "'label'" in comparator.problem({**doubled, "label": LABELS + 1}, reference)
    assert "missing" in comparator.problem({"scores": SCORES, "x": SCORES}, reference)


def test_devices_of_one_class_are_held_to_more() -> None:
    comparator = Comparator(rules={"y": rule("y", "allclose", 1e-4, 1e-5, 1e-3, 1e-4)})
    close = {"y": SCORES * np.float32(1.0005)}
    assert comparator.problem(close, {"y": SCORES}) == ""
    assert comparator.problem(close, {"y": SCORES}, is_same_class=True)
    assert comparator.agree_at_once([close], [{"y": SCORES}], is_same_class=False)
    assert not comparator.agree_at_once([close], [{"y": SCORES}], is_same_class=True)


def test_what_the_user_says_goes_before_what_was_measured() -> None:
    comparator = Comparator(rtol=0.5, atol=0.0, rules={"y": rule("y", "allclose", 1e-4, 1e-5, 1e-3, 1e-4)})
    assert comparator.problem({"y": SCORES * np.float32(1.3)}, {"y": SCORES}, is_same_class=True) == ""


def test_many_small_answers_are_looked_at_together_only_where_all_are_numbers() -> None:
    mixed = Comparator(rules={"label": rule("label", "exact")})
    assert not mixed.agree_at_once([{"label": LABELS}], [{"label": LABELS}], is_same_class=True)
    assert not Comparator().agree_at_once([], [], is_same_class=True)
    two = {"a": SCORES, "b": SCORES}
    assert Comparator().agree_at_once([two, two], [two, two], is_same_class=False)
    assert not Comparator().agree_at_once([two, {**two, "b": SCORES + 1}], [two, two], is_same_class=False)


# --- measured tolerances ---------------------------------------------------------------------------------------------


def test_a_steady_model_gets_the_narrow_tolerance_and_a_restless_one_what_it_needs() -> None:
    steady = rule_for("y", "allclose", SCORES, [SCORES], [SCORES * np.float32(1 + 1e-6)])
    assert (steady.rtol, steady.atol, steady.rtol_other, steady.atol_other) == (*SAME_FLOOR, *OTHER_FLOOR)
    restless = rule_for("y", "allclose", SCORES, [SCORES], [SCORES + np.float32(0.03)])
    assert restless.atol == SAME_FLOOR[1]
    assert restless.atol_other == pytest.approx(MARGIN * 0.03 / 3.0, rel=1e-3)
    assert not Comparator(rules={"y": restless}).problem({"y": SCORES + np.float32(0.1)}, {"y": SCORES})


def test_no_tolerance_is_so_wide_that_nothing_would_pass_for_an_answer() -> None:
    wild = rule_for("y", "allclose", SCORES, [SCORES * 0], [SCORES * -50])
    assert wild.atol_other == CEILING
    assert Comparator(rules={"y": wild}).problem({"y": SCORES * 0}, {"y": SCORES})
    assert is_unsteady(SCORES, [SCORES * -50])
    assert not is_unsteady(SCORES, [SCORES])


def test_whole_numbers_have_no_tolerance_and_half_precision_the_one_of_its_dtype() -> None:
    assert rule_for("k", "exact", LABELS, [LABELS], [LABELS]).rtol == -1.0
    half = rule_for("y", "allclose", SCORES.astype(np.float16), [], [])
    assert half.atol >= 1e-3


def test_what_moves_is_measured_by_the_largest_number_and_nan_says_nothing() -> None:
    assert spread_of(SCORES, [SCORES + np.float32(0.3)]) == pytest.approx(0.1, rel=1e-5)
    assert spread_of(SCORES, [np.full_like(SCORES, np.nan)]) == 0.0
    assert spread_of(SCORES * 0, [SCORES]) == 0.0
    assert spread_of(SCORES, [SCORES[:1]]) == 0.0


def test_inputs_are_moved_by_a_part_of_themselves_and_the_same_way_every_time() -> None:
    tensors = (TensorSpec("k", "int64", (2,)), TensorSpec("x", "float32", SCORES.shape))
    body = LABELS.tobytes() + SCORES.tobytes()
    found = moved(body, tensors, 1e-3, 7)
    assert found is not None
    assert found == moved(body, tensors, 1e-3, 7) != moved(body, tensors, 1e-3, 8)
    assert found[:16] == LABELS.tobytes()
    assert np.allclose(np.frombuffer(found[16:], np.float32).reshape(SCORES.shape), SCORES, rtol=1.1e-3, atol=0)
    assert moved(LABELS.tobytes(), tensors[:1], 1e-3, 7) is None


@pytest.mark.filterwarnings("error")
def test_answers_that_are_not_finite_are_measured_without_a_warning():
    answers = np.array([1.0, np.inf, -np.inf, np.nan, 3e38], np.float32)
    assert spread_of(answers, [answers, -answers]) == 2.0
    assert spread_of(np.array([np.inf, np.nan], np.float32), [answers[:2]]) == 0.0
