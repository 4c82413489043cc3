"""What messages promise beyond their fields: numbers that stay, limits that fit each other, terms that have an order."""

import pytest

from peerinfer import contribution, evidence_messages
from peerinfer.codec import decode, encode, registered
from peerinfer.errors import DecodeError
from peerinfer.limits import (
    ADVERTS_PER_MESSAGE_MAX,
    FRAME_TASKS_MAX,
    HEADER_BYTES_MAX,
    NAME_CHARS_MAX,
    TENSOR_RANK_MAX,
    TENSORS_MAX,
    WINDOW_FRAMES_MAX,
)
from peerinfer.member_messages import Adverts
from peerinfer.messages import (
    Frame,
    JobBrief,
    KeepAlive,
    OutputGroup,
    Receipt,
    RecordGroup,
    ResultRecord,
    Results,
    Signed,
    TaskFailure,
    Term,
    Window,
)
from peerinfer.tensors import FREE, ITEM_BYTES, Port, TensorSpec, numpy_dtype
from peerinfer_node.keys import MemoryKeys

TAGS = {
    1: "Hello",
    2: "Window",
    3: "JobBrief",
    4: "Frame",
    5: "Results",
    6: "Refused",
    7: "Cancel",
    8: "JobDone",
    9: "KeepAlive",
    10: "Goodbye",
    20: "BlobManifestWanted",
    21: "BlobManifest",
    22: "BlobChunksWanted",
    23: "BlobChunk",
    24: "BlobRefused",
    30: "Adverts",
    31: "Heartbeat",
    40: "Signed",
    41: "Advert",
    42: "Receipt",
    43: "Manifest",
    44: "Contribution",
    45: "Attestation",
    46: "WorkDone",
    48: "FaultProof",
    49: "FaultEvidence",
    50: "ResultRecord",
}
TERM = Term(3, MemoryKeys(b"peer").peer_id)
TASKS = tuple(range(FRAME_TASKS_MAX))
SPECS = tuple(TensorSpec("n" * NAME_CHARS_MAX, "float32", (1 << 47,) * TENSOR_RANK_MAX) for _ in range(TENSORS_MAX))


def test_numbers_of_messages_are_for_ever():
    found = {tag: cls.__name__ for tag, cls in registered().items()}
    assert {contribution.Contribution.__name__, evidence_messages.Attestation.__name__} <= set(found.values())
    assert {tag: found.get(tag) for tag in TAGS} == TAGS


def test_a_frame_with_everything_at_its_limit_fits_one_header():
    frame = Frame(1 << 47, "j" * 64, TERM, TASKS, TASKS, TASKS, SPECS, "c" * 64, 1 << 47)
    assert decode(encode(frame)) == frame
    brief = JobBrief("j" * 64, TERM, "c" * 64, 1 << 47, ("n" * NAME_CHARS_MAX,) * TENSORS_MAX, True, 1.0)
    assert decode(encode(brief)) == brief


def test_results_whose_tasks_share_their_shapes_fit_one_header():
    groups = (OutputGroup(TASKS, SPECS),)
    assert len(encode(Results(1, groups, (), 1.0, bytes(16384)))) < HEADER_BYTES_MAX
    record = ResultRecord("p" * 64, 1, (RecordGroup(TASKS, TASKS, SPECS),))
    assert len(encode(record)) < HEADER_BYTES_MAX


def test_results_of_the_most_tasks_with_a_shape_each_fit_one_header_for_a_few_outputs():
    specs = tuple(TensorSpec("output", "float32", (1, 1000, 1000, 4)) for _ in range(16))
    groups = tuple(OutputGroup((task,), specs) for task in TASKS)
    assert len(encode(Results(1, groups, (), 1.0, bytes(16384)))) < HEADER_BYTES_MAX


def test_a_receipt_for_the_most_tasks_fits_where_results_carry_it():
    receipt = Receipt("j" * 64, TERM, 1 << 47, TASKS, TASKS, bytes(32), 1.0, "d" * NAME_CHARS_MAX)
    sealed = encode(Signed("p" * 64, encode(receipt), bytes(64)))
    results = Results(1, (), tuple(TaskFailure(task, "model", "") for task in TASKS), 1.0, sealed)
    assert decode(encode(results)) == results


@pytest.mark.parametrize("frames", [0, 1, WINDOW_FRAMES_MAX])
def test_a_window_within_the_limit_is_taken(frames):
    assert decode(encode(Window(frames))).frames == frames


@pytest.mark.parametrize("frames", [-1, WINDOW_FRAMES_MAX + 1, True, 1.0])
def test_a_window_past_the_limit_is_refused(frames):
    with pytest.raises(DecodeError, match="window"):
        decode(encode(Window(frames)))


def test_more_adverts_than_a_message_may_hold_are_refused():
    decode(encode(Adverts((b"",) * ADVERTS_PER_MESSAGE_MAX)))
    with pytest.raises(DecodeError):
        decode(encode(Adverts((b"",) * (ADVERTS_PER_MESSAGE_MAX + 1))))


def test_terms_are_ordered_by_round_then_by_candidate():
    low, middle, high = Term(2, "b"), Term(9, "a"), Term(10, "a")
    assert sorted([high, Term(2, "a"), middle, low], key=lambda term: term.order) == [Term(2, "a"), low, middle, high]


def test_the_shortest_message_takes_two_bytes():
    assert encode(KeepAlive()) == b"\x91\x09"


def test_a_port_says_what_it_is():
    assert str(Port("x", "float32", (FREE, 3, 224))) == "x: float32[?, 3, 224]"
    assert str(Port("s", "int64", ())) == "s: int64[]"


@pytest.mark.parametrize(
    ("shape", "size_bytes"), [((), 4), ((0,), 0), ((2, 3), 24), (((1 << 48) - 1,) * 2, 4 * ((1 << 48) - 1) ** 2)]
)
def test_the_size_of_a_tensor_is_exact_however_large(shape, size_bytes):
    assert TensorSpec("x", "float32", shape).size_bytes == size_bytes


def test_the_size_of_an_element_is_numpys():
    assert all(numpy_dtype(name).itemsize == size for name, size in ITEM_BYTES.items())
