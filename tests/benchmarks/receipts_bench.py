"""What receipts cost on the way of small tasks: digests, signature and its check, for a frame as a job sends it.

Microseconds of one core for each task of the frame, both ends together. Beside them what the frame costs without: messages
encoded and decoded, the answer checked. A whole task of a large job takes 14 to 20 microseconds of both ends, which
`node_small_tasks` measures.
"""

from __future__ import annotations

from statistics import median
from time import thread_time

import numpy as np
from harness import Measurement

from peerinfer.codec import decode, encode
from peerinfer.ids import JobId
from peerinfer.messages import Frame, OutputGroup, Results, Term
from peerinfer.tensors import FREE, Port, TensorSpec
from peerinfer_node.keys import MemoryKeys
from peerinfer_node.ports import BatchResult, Device, Group
from peerinfer_node.roles.answers import check_results
from peerinfer_node.roles.frame_answers import commitment_to, receipt_for
from peerinfer_node.roles.frames import inputs_digest_of

_FRAMES = (1, 64, 1024)
"""Tasks: of a frame alone, of a usual one, of the largest."""

_IN, _OUT = 64, 10
_KEYS = MemoryKeys(b"worker")
_DEVICE = Device("a processor", "cpu", "CPUExecutionProvider", 1 << 34)
_OUTPUTS = {"y": Port("y", "float32", (FREE, _OUT))}
_NOW_S = 1_800_000_000.0
_REPETITIONS = 5


class _Path:
    """A frame of so many tasks there, and its answer back."""

    def __init__(self, tasks: int) -> None:
        numbers = tuple(range(tasks))
        self.body = np.zeros((tasks, _IN), np.float32).tobytes()
        self.outputs = np.zeros((tasks, _OUT), np.float32).tobytes()
        self.frame = Frame(
            frame=7,
            job=JobId("a" * 32),
            term=Term(1, _KEYS.peer_id),
            tasks=numbers,
            attempts=(0,) * tasks,
            items=(1,) * tasks,
            tensors=(TensorSpec("x", "float32", (tasks, _IN)),),
        )
        group = (numbers, (TensorSpec("y", "float32", (tasks, _OUT)),))
        self.result = BatchResult((Group(*group, self.outputs),), (), 0.01)
        self.groups = (OutputGroup(*group),)

    def receipt(self) -> bytes:
        work = commitment_to(self.frame, self.body, self.result)
        return receipt_for(self.frame, [self.outputs], 0.01, _DEVICE, 0.0, keys=_KEYS, wall_s=_NOW_S, work=work)

    def without(self) -> None:
        self._travel(Results(7, self.groups, (), 0.01, b""), has_receipt=False)

    def whole(self) -> None:
        digest = inputs_digest_of(None, [self.body])
        self._travel(Results(7, self.groups, (), 0.01, self.receipt()), inputs_digest=digest)

    def _travel(self, results: Results, *, has_receipt: bool = True, inputs_digest: bytes | None = None) -> None:
        frame, results = decode(encode(self.frame)), decode(encode(results))
        check_results(
            _KEYS.peer_id,
            frame,
            results,
            self.outputs,
            _OUTPUTS,
            wall_s=_NOW_S,
            has_receipt=has_receipt,
            inputs_digest=inputs_digest,
        )

    def microseconds(self, rounds: int) -> tuple[float, float]:
        """For each task: without a receipt, and what the receipt adds. In turn, so that both meet the same machine."""
        without, added = [], []
        for _ in range(_REPETITIONS):
            began_s = thread_time()
            for _ in range(rounds):
                self.without()
            between_s = thread_time()
            for _ in range(rounds):
                self.whole()
            ended_s = thread_time()
            without.append(between_s - began_s)
            added.append(ended_s - between_s - without[-1])
        each = 1e6 / (rounds * len(self.frame.tasks))
        return median(without) * each, median(added) * each


async def run(quick: bool) -> list[Measurement]:
    measured = []
    for tasks in _FRAMES:
        without, added = _Path(tasks).microseconds(20 if quick else 200)
        measured.append(Measurement(f"receipts_none_{tasks}", without, "µs/task"))
        measured.append(Measurement(f"receipts_added_{tasks}", added, "µs/task"))
    return measured
