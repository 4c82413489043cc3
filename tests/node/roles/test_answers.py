"""Results of a frame: taken only if they fit what was asked, and cut so that each task gets its own rows."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from peerinfer.codec import encode
from peerinfer.envelope import seal, unseal
from peerinfer.errors import ProtocolError, StateUnusable
from peerinfer.fault_proofs import commitment
from peerinfer.ids import JobId
from peerinfer.limits import (
    CLOCK_SKEW_MAX_S,
    FRAME_TASKS_MAX,
    HEADER_BYTES_MAX,
    NAME_CHARS_MAX,
    TASK_TIMEOUT_MAX_S,
    TENSORS_MAX,
)
from peerinfer.messages import Execution, Frame, OutputGroup, Receipt, Results, TaskFailure, Term
from peerinfer.strings import packed, unpacked
from peerinfer.tensors import FREE, Port, TensorSpec
from peerinfer_node.keys import MemoryKeys
from peerinfer_node.roles.answers import check_results, cut, raw_bytes
from peerinfer_node.roles.result_digests import digest_of_rows, digests_of
from peerinfer_node.roles.result_records import OpenRecord, is_receipt_of, record_of

WORKER = MemoryKeys(b"worker")
JOB = JobId("1" * 32)
NOW_S = 1_800_000_000.0
TASKS, ITEMS = (30, 10, 20), (2, 1, 3)
FRAME = Frame(9, JOB, Term(1, "c"), TASKS, (0, 1, 0), ITEMS, (TensorSpec("x", "float32", (6, 2)),))
OUTPUTS = {"y": Port("y", "float32", (FREE, 2)), "n": Port("n", "int64", (FREE,))}


def arrays(rows, start=0):
    """Outputs whose numbers say which row of the frame they belong to."""
    numbers = np.arange(start, start + rows)
    return {"y": np.stack([numbers, -numbers], axis=1).astype(np.float32), "n": numbers.astype(np.int64)}


def group_of(positions, outputs):
    specs = tuple(TensorSpec(name, str(array.dtype), array.shape) for name, array in outputs.items())
    return OutputGroup(positions, specs), b"".join(array.tobytes() for array in outputs.values())


def results_of(groups, failures=(), frame=FRAME):
    body = b"".join(data for _, data in groups)
    receipt = Receipt(
        frame.job, frame.term, frame.frame, frame.tasks, frame.attempts, hashlib.sha256(body).digest(), 0.1, "CPU"
    )
    signed = seal(receipt, WORKER.peer_id, WORKER.sign)
    return Results(frame.frame, tuple(group for group, _ in groups), tuple(failures), 0.1, signed), body


def check(results, body, outputs=OUTPUTS, frame=FRAME):
    return check_results(WORKER.peer_id, frame, results, body, outputs, wall_s=NOW_S)


def test_each_task_gets_its_own_rows():
    answer = check(*results_of([group_of((0, 1, 2), arrays(6))]))
    assert answer.rows(30)["n"].tolist() == [0, 1]
    assert answer.rows(10)["n"].tolist() == [2]
    assert answer.rows(20)["n"].tolist() == [3, 4, 5]
    assert answer.rows(20)["y"].tolist() == [[3, -3], [4, -4], [5, -5]]


@pytest.mark.parametrize(
    ("executions", "is_believed"),
    [
        ((Execution(6, 1, 0.1),), True),
        ((Execution(4, 1, 0.1), Execution(2, 1, 0.1)), True),
        ((Execution(6, 1, 0.1), Execution(3, 2, 0.1), Execution(1, 6, 0.1)), True),  # tried again row by row
        ((Execution(6, 1000, 0.1),), False),
        ((Execution(0, 1000, 0.1),), False),
        ((Execution(6, 1, -0.1),), False),
        ((Execution(6, 1, 3 * TASK_TIMEOUT_MAX_S),), True),
        ((Execution(6, 1, 3 * TASK_TIMEOUT_MAX_S + 1),), False),
        ((Execution(6, 1, 1.7e308), Execution(6, 1, 1.7e308)), False),
    ],
)
def test_a_worker_is_believed_its_batches_if_they_can_be_those_of_the_frame(executions, is_believed):
    results, body = results_of([group_of((0, 1, 2), arrays(6))])
    answer = check_results(
        WORKER.peer_id, FRAME, replace(results, executions=executions), body, OUTPUTS, wall_s=NOW_S, has_receipt=False
    )
    assert answer.executions == (executions if is_believed else ())


def test_groups_may_hold_the_tasks_in_any_order():
    answer = check(*results_of([group_of((2,), arrays(3, 100)), group_of((1, 0), arrays(3, 200))]))
    assert answer.rows(20)["n"].tolist() == [100, 101, 102]
    assert answer.rows(10)["n"].tolist() == [200]
    assert answer.rows(30)["n"].tolist() == [201, 202]


def test_a_task_that_failed_has_no_rows():
    answer = check(*results_of([group_of((0, 2), arrays(5))], [TaskFailure(1, "model", "no")]))
    assert answer.rows(20)["n"].tolist() == [2, 3, 4]
    for task in (10, 99):
        with pytest.raises((KeyError, ValueError)):
            answer.rows(task)


def test_a_frame_may_fail_as_a_whole():
    failures = [TaskFailure(position, "crash", "no") for position in range(3)]
    assert check(*results_of([], failures)).groups == ()


def test_outputs_without_any_elements_are_outputs():
    """A detector that found nothing."""
    outputs = {"boxes": Port("boxes", "float32", (FREE, FREE, 4))}
    nothing = {"boxes": np.zeros((6, 0, 4), np.float32)}
    answer = check(*results_of([group_of((0, 1, 2), nothing)]), outputs=outputs)
    assert [answer.rows(task)["boxes"].shape for task in TASKS] == [(2, 0, 4), (1, 0, 4), (3, 0, 4)]


def test_outputs_that_vary_from_task_to_task_come_in_groups_of_their_own():
    outputs = {"boxes": Port("boxes", "float32", (FREE, FREE, 4))}
    groups = [
        group_of((position,), {"boxes": np.full((ITEMS[position], found, 4), position, np.float32)})
        for position, found in ((0, 3), (1, 0), (2, 5))
    ]
    answer = check(*results_of(groups), outputs=outputs)
    assert [answer.rows(task)["boxes"].shape for task in TASKS] == [(2, 3, 4), (1, 0, 4), (3, 5, 4)]
    assert (answer.rows(20)["boxes"] == 2).all()


@pytest.mark.parametrize(
    ("port", "item_shape", "fits"),
    [
        ((FREE, 10), (10,), True),
        ((FREE, 10), (11,), False),
        ((FREE, FREE), (7,), True),
        ((8, 10), (10,), True),
        ((8, 10), (8, 10), True),
        ((8, 10), (10, 8), False),
        ((FREE,), (), True),
        ((FREE,), (4,), True),
        ((FREE,), (4, 4), False),
        ((), (), True),
        ((1, 5), (), False),
    ],
)
def test_items_fit_an_output_with_its_first_axis_or_without(port, item_shape, fits):
    outputs = {"y": Port("y", "float32", port)}
    made = results_of([group_of((0, 1, 2), {"y": np.zeros((6, *item_shape), np.float32)})])
    if fits:
        check(*made, outputs=outputs)
    else:
        with pytest.raises(ProtocolError, match="the model gives"):
            check(*made, outputs=outputs)


def test_the_error_names_the_frame_and_the_peer():
    results, body = results_of([group_of((0, 1, 2), arrays(6))])
    with pytest.raises(ProtocolError, match=f"frame 9 from {WORKER.peer_id} claim other sizes"):
        check(results, body + b"x")


def test_groups_of_no_task_are_refused():
    """A thousand of them would make the record of the answer larger than a header may be."""
    empty = OutputGroup((), tuple(TensorSpec(name, port.dtype, (0, 2)) for name, port in OUTPUTS.items()))
    results, body = results_of([group_of((0, 1, 2), arrays(6))])
    with pytest.raises(ProtocolError, match="outputs of no task"):
        check(replace(results, groups=(*results.groups, empty)), body)


def test_a_record_has_room_wherever_its_answer_had():
    """The largest header that results can have: as many groups of one task as fit, with long names."""
    tasks = tuple(range(FRAME_TASKS_MAX))
    specs = tuple(TensorSpec("n" * NAME_CHARS_MAX, "float32", (1, 1)) for _ in range(TENSORS_MAX))
    frame = replace(FRAME, tasks=tasks, attempts=tasks, items=(1,) * FRAME_TASKS_MAX)

    def results(groups):
        failed = tuple(TaskFailure(position, "model", "") for position in range(groups, FRAME_TASKS_MAX))
        made, _ = results_of([], failed, frame)
        return replace(made, groups=tuple(OutputGroup((position,), specs) for position in range(groups)))

    def fits(groups):
        try:
            return bool(encode(results(groups)))
        except ValueError:
            return False

    most = max(groups for groups in range(40, 80) if fits(groups))
    assert len(encode(results(most))) > 0.9 * HEADER_BYTES_MAX
    largest = results(most)
    parts = {"frame": frame, "groups": largest.groups, "body": b"", "peer": WORKER.peer_id, "receipt": largest.receipt}
    record_of(type("Answer", (), parts))


def at(at_s):
    results, body = results_of([group_of((0, 1, 2), arrays(6))])
    _, receipt = unseal(Receipt, results.receipt)
    return replace(results, receipt=seal(replace(receipt, at_s=at_s), WORKER.peer_id, WORKER.sign)), body


@pytest.mark.parametrize("at_s", [0.0, NOW_S - 1e6, NOW_S, NOW_S + CLOCK_SKEW_MAX_S])
def test_clocks_may_differ_by_so_much(at_s):
    check(*at(at_s))


def test_a_receipt_from_further_in_the_future_is_none():
    with pytest.raises(ProtocolError, match="a receipt from the future; is that node's clock right"):
        check(*at(NOW_S + CLOCK_SKEW_MAX_S + 1.0))


# --- records ---------------------------------------------------------------------------------------------------------


def test_a_record_gives_back_what_was_answered():
    answer = check(*results_of([group_of((2,), arrays(3, 100)), group_of((1, 0), arrays(3, 200))]))
    record = OpenRecord(b"".join(bytes(part) for part in record_of(answer)))
    assert record.peer == WORKER.peer_id
    assert record.tasks == (20, 10, 30)
    found = {task: record.rows(task)["n"].tolist() for task in record.tasks}
    assert found == {10: [200], 20: [100, 101, 102], 30: [201, 202]}
    with pytest.raises(StateUnusable, match="task 11 lies elsewhere"):
        record.rows(11)


def test_a_record_is_taken_over_with_the_tasks_that_are_wanted_under_other_numbers():
    answer = check(*results_of([group_of((2,), arrays(3, 100)), group_of((1, 0), arrays(3, 200))]))
    data = b"".join(bytes(part) for part in record_of(answer))
    all_of_them = b"".join(bytes(part) for part in OpenRecord(data).renamed({20: 20, 10: 10, 30: 30}))
    assert all_of_them == data
    record = OpenRecord(b"".join(bytes(part) for part in OpenRecord(data).renamed({30: 7, 20: 30})))
    assert {task: record.rows(task)["n"].tolist() for task in record.tasks} == {30: [100, 101, 102], 7: [201, 202]}
    assert record.rows(7)["y"].tolist() == [[201, -201], [202, -202]]


def test_a_record_carries_the_receipt_of_who_is_named_in_it_or_none_that_counts():
    answer = check(*results_of([group_of((0, 1, 2), arrays(6))]))
    header = OpenRecord(b"".join(bytes(part) for part in record_of(answer))).header
    assert is_receipt_of(header)
    assert not is_receipt_of(replace(header, receipt=b""))
    assert not is_receipt_of(replace(header, frame=10))
    assert not is_receipt_of(replace(header, peer=MemoryKeys(b"another").peer_id))


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:3], lambda data: data[:-1], lambda data: data + b"x", lambda data: b"\xff" * len(data)],
)
def test_a_damaged_record_is_an_error_of_our_own_files(damage):
    answer = check(*results_of([group_of((0, 1, 2), arrays(6))]))
    data = b"".join(bytes(part) for part in record_of(answer))
    with pytest.raises(StateUnusable):
        OpenRecord(damage(data))


# --- bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int16).reshape(2, 3),
        np.arange(6).reshape(2, 3).T,
        np.arange(10)[::2],
        np.float32(3.5).reshape(()),
        np.zeros((0, 4), np.float32),
        np.array([True, False]),
    ],
    ids=["plain", "turned", "every second", "scalar", "empty", "bool"],
)
def test_the_bytes_of_an_array_are_row_after_row(array):
    assert bytes(raw_bytes(array)) == array.tobytes()


def test_rows_are_views_and_no_copies():
    body = np.arange(8, dtype=np.float32).tobytes()
    rows = cut([TensorSpec("y", "float32", (4, 2))], body, 0, 1, 2)["y"]
    assert rows.tolist() == [[2, 3], [4, 5]]
    assert rows.base is not None


def test_strings_are_taken_if_they_are_strings():
    outputs = {"label": Port("label", "string", (FREE,))}

    def answered(slots):
        tensors = (TensorSpec("label", f"string{slots.itemsize}", (6,)),)
        return check(*results_of([(OutputGroup((0, 1, 2), tensors), slots.tobytes())]), outputs=outputs)

    slots = packed(np.array(["a", "b\0", "c", "", "\u00e9", "f" * 20], object))
    answer = answered(slots)
    assert unpacked(answer.rows(20)["label"]).tolist() == ["", "\u00e9", "f" * 20]
    for place, byte in ((0, 200), (3, 1), (31, 1), (4, 0xFF)):
        forged = bytearray(slots.tobytes())
        forged[place] = byte
        with pytest.raises(ProtocolError, match=r"string|behind"):
            answered(np.frombuffer(forged, slots.dtype))
    with pytest.raises(ProtocolError, match="hold label as int64"):
        check(*results_of([group_of((0, 1, 2), {"label": np.zeros(6, np.int64)})]), outputs=outputs)


def test_stored_strings_are_read_back_and_anothers_are_looked_at():
    outputs = {"label": Port("label", "string", (FREE,))}
    slots = packed(np.array(["a", "b", "c", "d", "e", "f"], object))
    tensors = (TensorSpec("label", "string8", (6,)),)
    answer = check(*results_of([(OutputGroup((0, 1, 2), tensors), slots.tobytes())]), outputs=outputs)
    data = b"".join(bytes(part) for part in record_of(answer))
    record = OpenRecord(data)
    assert unpacked(record.rows(20)["label"]).tolist() == ["d", "e", "f"]
    assert digest_of_rows(record.rows(20)) == digests_of(answer, [20])[20]


def committed(work):
    """Results whose receipt commits to this, for inputs of a known digest."""
    results, body = results_of([group_of((0, 1, 2), arrays(6))])
    _, receipt = unseal(Receipt, results.receipt)
    signed = seal(replace(receipt, work=work), WORKER.peer_id, WORKER.sign)
    return replace(results, receipt=signed), body


def test_a_receipt_says_what_was_computed_from_what():
    results, _ = results_of([group_of((0, 1, 2), arrays(6))])
    digest = hashlib.sha256(b"inputs").digest()
    work = commitment(FRAME.items, FRAME.tensors, digest, results.groups)
    for said, good in ((work, True), (bytes(32), False), (b"", False)):
        given, body = committed(said)
        if good:
            answer = check_results(WORKER.peer_id, FRAME, given, body, OUTPUTS, wall_s=NOW_S, inputs_digest=digest)
            assert answer.rows(30)["n"].tolist() == [0, 1]
            continue
        with pytest.raises(ProtocolError, match="does not say what was computed"):
            check_results(WORKER.peer_id, FRAME, given, body, OUTPUTS, wall_s=NOW_S, inputs_digest=digest)
