"""What is asked of a node is checked once, whoever asks: any JSON is a request or an error of one line."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_strategies import SAME_EVERY_TIME

from peerinfer.control import COMPARATORS, IMAGE_LAYOUTS, PRIORITIES, STRATEGIES, JobRequest
from peerinfer.errors import UsageError

BARE = {"model": "/m.onnx", "inputs": ["/x.npy"]}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)

requests = st.builds(
    JobRequest,
    model=st.text(min_size=1),
    inputs=st.lists(st.text(min_size=1), min_size=1, max_size=3).map(tuple),
    batch=st.none() | st.integers(1, 1_000_000),
    verify=st.sampled_from(["none", "spot", "quorum:2", "quorum:9"]),
    compare=st.sampled_from(COMPARATORS),
    rtol=st.none() | st.floats(0, 1e300),
    priority=st.sampled_from(PRIORITIES),
    strategy=st.sampled_from(STRATEGIES),
    timeout_s=st.floats(0, 1e300),
    deadline_s=st.none() | st.floats(0, 1e9, exclude_min=True),
    retries=st.integers(0, 100),
    resume=st.booleans(),
    min_vram_bytes=st.integers(0, 1 << 50),
    device_kind=st.sampled_from([None, "cpu", "gpu"]),
    image_size=st.none() | st.tuples(st.integers(1, 16384), st.integers(1, 16384)),
    image_layout=st.sampled_from(IMAGE_LAYOUTS),
    image_mean=st.lists(st.floats(-10, 10), min_size=1, max_size=4).map(tuple),
)


@SAME_EVERY_TIME
@given(requests)
def test_a_request_comes_back_from_its_json_as_it_was(request_):
    assert JobRequest.from_json(request_.to_json()) == request_


def test_the_least_that_must_be_said():
    request_ = JobRequest.from_mapping(BARE)
    assert request_ == JobRequest("/m.onnx", ("/x.npy",))
    assert (request_.verify, request_.priority, request_.strategy) == ("spot", "normal", "adaptive")


@SAME_EVERY_TIME
@given(JSON)
def test_any_json_is_a_request_or_an_error_of_one_line(raw):
    check_total(raw)


@SAME_EVERY_TIME
@given(st.sampled_from(sorted(JobRequest.__dataclass_fields__)), JSON)
def test_any_value_of_any_field_is_taken_or_an_error_of_one_line(name, value):
    check_total(BARE | {name: value})


def check_total(raw):
    try:
        found = JobRequest.from_json(json.dumps(raw))
    except UsageError as error:
        assert_one_line(error)
    else:
        assert JobRequest.from_json(found.to_json()) == found


def assert_one_line(error):
    line = str(error)
    assert line
    assert "\n" not in line


@pytest.mark.parametrize("text", ["", "{", "[1", "nul", b"\xff\xfe", "[" * 100_000, "5", "[]", '"x"', "null"])
def test_what_is_no_json_object_is_refused(text):
    with pytest.raises(UsageError, match="the request is not"):
        JobRequest.from_json(text)


BAD = {
    "no model": ({"model": ""}, "model: name a model file"),
    "no inputs": ({"inputs": []}, "inputs: name at least one input file"),
    "an empty input": ({"inputs": ["/x.npy", ""]}, "inputs: name at least one input file"),
    "no items": ({"batch": 0}, "batch: give 1 to 1000000 items, or auto"),
    "too many items": ({"batch": 1_000_001}, "batch: give 1 to 1000000 items, or auto"),
    "half an item": ({"batch": 1.5}, "batch: give a whole number or nothing; given float"),
    "a quorum of one": ({"verify": "quorum:1"}, "verify: choose none, spot, adaptive or quorum:2 to quorum:9"),
    "a quorum of ten": ({"verify": "quorum:10"}, "verify: choose none, spot, adaptive or quorum:2 to quorum:9"),
    "a line too many": ({"verify": "spot\n"}, "verify: choose none, spot, adaptive or quorum:2 to quorum:9"),
    "a comparator": ({"compare": "similar"}, "compare: 'similar' is none of exact, allclose, argmax, top-K, cosine"),
    "a tolerance below nothing": ({"rtol": -1e-9}, "rtol: give a number of at least 0"),
    "a tolerance of anything": ({"atol": math.inf}, "atol: give a number of at least 0"),
    "a tolerance of NaN": ({"rtol": math.nan}, "rtol: give a number of at least 0"),
    "a priority": ({"priority": "highest"}, "priority: choose urgent, high, normal, low"),
    "patience without end": ({"timeout_s": math.inf}, "timeout_s: give a time of at least 0 s"),
    "patience below nothing": ({"timeout_s": -1}, "timeout_s: give a time of at least 0 s"),
    "no time for a task": ({"task_timeout_s": 0}, "task_timeout_s: give a time above 0 s"),
    "no time at all": ({"deadline_s": 0}, "deadline_s: give a time above 0 s"),
    "retries below nothing": ({"retries": -1}, "retries: give 0 to 100"),
    "retries without end": ({"retries": 101}, "retries: give 0 to 100"),
    "yes for a number": ({"retries": True}, "retries: give a whole number; given bool"),
    "a number for yes": ({"resume": 1}, "resume: give true or false; given int"),
    "memory below nothing": ({"min_vram_bytes": -1}, "min_vram_bytes: give a size of at least 0"),
    "a device": ({"device_kind": "tpu"}, "device_kind: choose cpu or gpu"),
    "a layout": ({"image_layout": "nhw"}, "image_layout: choose auto, nchw, nhwc"),
    "a flat image": ({"image_size": [0, 5]}, "image_size: give HEIGHTxWIDTH, each 1 to 16384"),
    "an image of one side": (
        {"image_size": [5]},
        "image_size: give a list of 2 whole numbers or nothing; given a list of 1: int",
    ),
    "an endless image": ({"image_size": [5, 16385]}, "image_size: give HEIGHTxWIDTH, each 1 to 16384"),
    "no mean": ({"image_mean": []}, "image_mean: give one number, or one per channel"),
    "five means": ({"image_mean": [0, 0, 0, 0, 0]}, "image_mean: give one number, or one per channel"),
    "a mean of NaN": ({"image_mean": [math.nan]}, "image_mean: give finite numbers"),
    "a deviation of infinity": ({"image_std": [math.inf]}, "image_std: give finite numbers"),
    "a deviation of nothing": ({"image_std": [1, 0, 1]}, "image_std: no channel may be 0"),
    "an inputs' name that is none": ({"inputs": [5]}, "inputs: give a list of texts; given a list of 1: int"),
    "one name for many": ({"inputs": "/x.npy"}, "inputs: give a list of texts; given str"),
}


@pytest.mark.parametrize(("changes", "words"), BAD.values(), ids=BAD)
def test_a_field_past_its_edge_is_refused_with_what_to_do(changes, words):
    with pytest.raises(UsageError) as caught:
        JobRequest.from_json(json.dumps(BARE | changes))
    assert str(caught.value) == words


@pytest.mark.parametrize("name", ["model", "inputs"])
def test_what_is_missing_is_named(name):
    with pytest.raises(UsageError, match=f"lacks '{name}'"):
        JobRequest.from_mapping({key: value for key, value in BARE.items() if key != name})


def test_an_unknown_field_is_named_and_the_known_ones_are_listed():
    with pytest.raises(UsageError, match=r"unknown field 'modle'; the fields are .*\bmodel\b"):
        JobRequest.from_mapping(BARE | {"modle": 1})
    with pytest.raises(UsageError) as caught:
        JobRequest.from_mapping(BARE | {"x" * 10_000: 1})
    assert len(str(caught.value)) < 1000


def test_whole_numbers_are_good_seconds():
    assert JobRequest.from_json(json.dumps(BARE | {"timeout_s": 5})).timeout_s == 5.0
    with pytest.raises(UsageError, match="timeout_s: give a number; given a larger one than fits"):
        JobRequest.from_json(json.dumps(BARE | {"timeout_s": 10**400}))
