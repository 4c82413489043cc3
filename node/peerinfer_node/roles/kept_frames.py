"""Results that a worker keeps after it has answered, for the next coordinator: no work is done twice for want of a message.

A coordinator that dies takes with it what it was sent and had not written down. So a worker keeps its newest answers of
jobs that others may take over, and goes on computing for a coordinator that is gone. Whoever coordinates next is told
which frames there are. It sends the same tasks again, and is answered without a second run, with a receipt for the new
term. Only the very same inputs are answered so: whoever coordinated before may have lied about them.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from peerinfer.ids import JobId
from peerinfer.limits import KEPT_FRAMES_MAX, KEPT_RESULTS_BYTES_MAX
from peerinfer.messages import Frame, JobBrief
from peerinfer_node.ports import BatchResult, Executor

Tasks = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class KeptFrame:
    digest: bytes
    """Of its inputs, and of how they were run."""
    candidates: frozenset[str]
    """Who may coordinate its job."""
    result: BatchResult
    executor: Executor

    @property
    def size_bytes(self) -> int:
        return sum(len(group.body) for group in self.result.groups)


class KeptFrames:
    """The newest `KEPT_FRAMES_MAX` of them, within `KEPT_RESULTS_BYTES_MAX`."""

    def __init__(self) -> None:
        self._frames: OrderedDict[tuple[str, Tasks], KeptFrame] = OrderedDict()
        self._bytes = 0

    def keep(self, job: str, tasks: Tasks, frame: KeptFrame) -> None:
        """Nothing happens where a task failed: it is to be tried again elsewhere."""
        if frame.result.failures or frame.size_bytes > KEPT_RESULTS_BYTES_MAX:
            return
        self._remove((job, tasks))
        self._frames[job, tasks] = frame
        self._bytes += frame.size_bytes
        while len(self._frames) > KEPT_FRAMES_MAX or self._bytes > KEPT_RESULTS_BYTES_MAX:
            self._remove(next(iter(self._frames)))

    def find(self, job: str, tasks: Tasks, digest: bytes) -> KeptFrame | None:
        """What these inputs gave."""
        kept = self._frames.get((job, tasks))
        return kept if kept is not None and kept.digest == digest else None

    def of(self, peer: str, job: str | None = None) -> list[tuple[JobId, Tasks]]:
        """What this peer may be told of, as it may coordinate the jobs."""
        return [
            (JobId(of), tasks)
            for (of, tasks), kept in self._frames.items()
            if peer in kept.candidates and job in (None, of)
        ]

    def forget(self, job: str) -> None:
        for key in [key for key in self._frames if key[0] == job]:
            self._remove(key)

    def _remove(self, key: tuple[str, Tasks]) -> None:
        kept = self._frames.pop(key, None)
        if kept is not None:
            self._bytes -= kept.size_bytes


def digest_of(frame: Frame, brief: JobBrief, body: Iterable[bytes]) -> bytes:
    """What a frame's outputs follow from."""
    digest = hashlib.sha256(repr((brief.model, brief.merge, brief.outputs, len(frame.items), frame.tensors)).encode())
    digest.update(array("Q", frame.items))
    for part in body:
        digest.update(part)
    return digest.digest()
