"""A job over inputs in files, whose results lie in the node's store until they are fetched."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from peerinfer.assignment import JobEnded
from peerinfer.binding import Binding
from peerinfer.comparators import Comparator
from peerinfer.control import ResultBlock
from peerinfer.errors import ExecutionError
from peerinfer.fairness import Priority
from peerinfer.ids import Cid, JobId, PeerId
from peerinfer.messages import JobBrief, Manifest
from peerinfer.splitting import Split
from peerinfer.tensors import Port
from peerinfer_node.formats import Inputs
from peerinfer_node.ports import Batch, BlobStore, Executor, InThread, Store
from peerinfer_node.record_rows import RecordRow
from peerinfer_node.roles.answers import Answer, Rows, cut, raw_bytes
from peerinfer_node.roles.evidence import Evidence, evidence_in, receipt_in
from peerinfer_node.roles.job_body import FrameInputs, Verdict
from peerinfer_node.roles.recorder import Recorder
from peerinfer_node.roles.result_digests import digests_in, digests_of
from peerinfer_node.roles.result_records import OpenRecord, record_of

MIXED = ("", "")
"""A peer that answered from devices of several classes: its answers are taken for another's."""

INLINE_READ_BYTES_MAX = 256 * 1024
"""Arrays below this size are cut in the event loop; a thread would cost more."""


@dataclass(frozen=True, slots=True)
class JobFiles:
    """What a job is made of, after everything about it was checked."""

    manifest: Manifest
    signed_manifest: bytes
    inputs: Inputs
    binding: Binding
    split: Split
    task_keys: bytes
    """32 bytes for each task, in order."""
    comparator: Comparator

    def task_key(self, task: int) -> bytes:
        return self.task_keys[32 * task : 32 * task + 32]


class StoredJob:
    """Implements `JobBody`."""

    def __init__(
        self,
        job: JobId,
        files: JobFiles,
        brief: JobBrief,
        *,
        store: Store,
        blobs: BlobStore,
        executor: Executor,
        on_change: Callable[[], None],
        recorder: Recorder,
        may_act: Callable[[], bool],
        on_end: Callable[[JobEnded], None],
        in_thread: InThread,
    ) -> None:
        self.job = job
        self.files = files
        self._brief = brief
        self._store = store
        self._blobs = blobs
        self._executor = executor
        self._on_change = on_change
        self._recorder = recorder
        self._may_act = may_act
        self._on_end = on_end
        self._in_thread = in_thread
        self._outputs = {port.name: port for port in files.manifest.outputs}
        self._places: dict[int, int] = {}
        """Where the records of provisional tasks lie in the spool."""
        self._copies: dict[int, dict[PeerId, int]] = {}
        """The same of further answers to them."""
        self._classes: dict[PeerId, tuple[str, str]] = {}
        """Of devices, by who answered: kind and provider, as the receipts say."""
        self.failures: dict[int, str] = {}

    # --- what the coordinator asks -----------------------------------------------------------------------------------

    @property
    def brief(self) -> JobBrief:
        return self._brief

    def prioritise(self, priority: Priority) -> None:
        self._brief = replace(self._brief, priority=priority)

    def may_act(self) -> bool:
        return self._may_act()

    @property
    def outputs(self) -> dict[str, Port]:
        return self._outputs

    async def inputs(self, tasks: Sequence[int]) -> FrameInputs:
        files = self.files
        size = files.binding.item_bytes * sum(files.split.items_of(task) for task in tasks)
        if files.inputs.item_names is None and size <= INLINE_READ_BYTES_MAX:
            return self._cut(tasks)
        return await self._in_thread(lambda: self._cut(tasks))

    def inputs_nowait(self, tasks: Sequence[int]) -> FrameInputs | None:
        return None  # they are read from a disk

    def _cut(self, tasks: Sequence[int]) -> FrameInputs:
        files, split = self.files, self.files.split
        counts = split.items_of_all(tasks)
        pieces = []
        start = 0
        while start < len(tasks):
            stop = start + 1
            while stop < len(tasks) and tasks[stop] == tasks[stop - 1] + 1:
                stop += 1
            first = split.first_item(tasks[start])
            pieces.append(files.inputs.rows(first, first + sum(counts[start:stop])))
            start = stop
        specs = files.binding.frame_specs(sum(counts))
        body = []
        for number, given in enumerate(files.binding.inputs):
            if given.mode == "shared" or len(pieces) == 1:
                body.append(raw_bytes(pieces[0][number]))
            else:
                body += [raw_bytes(piece[number]) for piece in pieces]
        rows = {count: files.binding.frame_rows(count) for count in set(counts)}
        return FrameInputs(tuple(rows[count] for count in counts), specs, body)

    async def keep(self, answer: Answer, tasks: Sequence[int]) -> None:
        record = record_of(answer)
        self._note_class(answer)
        offset = await self._store.append_results(self.job, record)
        await self._store.add_record(self._row(offset, answer.frame.frame, answer.peer, answer.receipt, tasks))
        if self.files.manifest.verify != "none":
            self._places.update(dict.fromkeys(tasks, offset))
        self._recorder.kept(offset, record, digests_of(answer, tasks))

    def keep_nowait(self, answer: Answer, tasks: Sequence[int]) -> bool:
        del answer, tasks
        return False

    async def compare(self, answer: Answer, tasks: Sequence[int]) -> Mapping[int, tuple[PeerId, ...]]:
        opened: dict[int, OpenRecord] = {}
        earlier = {task: await self._answers_to(task, opened) for task in tasks}
        self._note_class(answer)
        offset = await self._store.append_results(self.job, record_of(answer))
        # It counts for no task yet, but its receipt is kept.
        await self._store.add_record(self._row(offset, answer.frame.frame, answer.peer, answer.receipt, ()))
        for task in tasks:
            self._copies.setdefault(task, {})[answer.peer] = offset
        agrees = {}
        for task in tasks:
            rows = answer.rows(task)
            agrees[task] = tuple(
                peer
                for peer, known in earlier[task].items()
                if peer != answer.peer
                and not self._problem(known, rows, is_same=self._is_same_class(peer, answer.peer))
            )
        return agrees

    def _row(self, offset: int, frame: int, peer: PeerId, receipt: bytes, tasks: Sequence[int]) -> RecordRow:
        keys = b"".join(self.files.task_key(task) for task in tasks)
        return RecordRow(self.job, offset, tuple(tasks), keys, frame, peer, receipt)

    async def _answers_to(self, task: int, opened: dict[int, OpenRecord]) -> dict[PeerId, Rows]:
        """Every answer to a task that is here, by who gave it. A record of a thousand tasks is `opened` once for all."""
        places = list(self._copies.get(task, {}).values())
        if task in self._places:
            places.append(self._places[task])
        else:  # It was kept in an earlier term.
            places += [row.offset for row in await self._store.records_of(self.job) if task in row.tasks]
        found: dict[PeerId, Rows] = {}
        for offset in places:
            if offset not in opened:
                opened[offset] = OpenRecord(await self._store.read_results(self.job, offset))
            found[opened[offset].peer] = opened[offset].rows(task)
        return found

    async def audit(
        self, asked: Mapping[int, tuple[PeerId, ...]], fresh: Mapping[int, tuple[PeerId, Rows]]
    ) -> Mapping[int, Verdict]:
        known = {task: {peer: rows} for task, (peer, rows) in fresh.items()}
        opened: dict[int, OpenRecord] = {}
        for task, peers in asked.items():
            if len(peers) > 1 or task not in known:
                known[task] = await self._answers_to(task, opened)
        references = await self.compute_here(sorted(asked))
        agreeing = self._agreeing(asked, known, references)
        return {
            task: agreeing.get(task) or self._verdict(task, peers, known[task], references[task])
            for task, peers in asked.items()
        }

    def _agreeing(
        self,
        asked: Mapping[int, tuple[PeerId, ...]],
        known: Mapping[int, Mapping[PeerId, Rows]],
        references: Mapping[int, Rows | str],
    ) -> dict[int, Verdict]:
        """Verdicts on single answers that all agree, or none: sixty small ones take as long as one otherwise."""
        claims: list[Rows] = []
        right: list[Rows] = []
        verdicts: dict[int, Verdict] = {}
        for task, peers in asked.items():
            reference = references[task]
            if len(peers) == 1 and peers[0] in known[task] and not isinstance(reference, str):
                claims.append(known[task][peers[0]])
                right.append(reference)
                verdicts[task] = Verdict(peers)
        if len(claims) < 2:
            return {}
        is_same = all(self._is_same_class(verdict.right[0]) for verdict in verdicts.values() if verdict.right)
        agree = self.files.comparator.agree_at_once(claims, right, is_same_class=is_same)
        return verdicts if agree else {}

    def _verdict(
        self, task: int, peers: Sequence[PeerId], known: Mapping[PeerId, Rows], reference: Rows | str
    ) -> Verdict:
        if isinstance(reference, str):
            return Verdict(None, (), reference)
        problems = {
            peer: self._problem(known[peer], reference, is_same=self._is_same_class(peer))
            for peer in peers
            if peer in known
        }
        if not problems:
            return Verdict(None, (), "its result was voided")
        wrong = tuple(peer for peer, problem in problems.items() if problem)
        detail = f"task {task}: {problems[wrong[0]]}" if wrong else ""
        right = tuple(peer for peer, problem in problems.items() if not problem)
        return Verdict(
            right, wrong, detail, tuple(peer for peer in wrong if self._is_imprecise(known[peer], reference))
        )

    def _is_imprecise(self, claimed: Rows, reference: Rows) -> bool:
        return self.files.comparator.is_imprecise(claimed, reference)

    def _problem(self, claimed: Rows, reference: Rows, *, is_same: bool) -> str:
        return self.files.comparator.problem(claimed, reference, is_same_class=is_same)

    def _is_same_class(self, peer: PeerId, other: PeerId | None = None) -> bool:
        """Whether all answers of a peer came from devices like this node's own, or like those of another peer."""
        device = self._executor.device
        own = (device.kind, device.provider)
        return self._classes.get(peer) == (own if other is None else self._classes.get(other, own))

    def _note_class(self, answer: Answer) -> None:
        known = self._classes.setdefault(answer.peer, answer.device_class)
        if known != answer.device_class:
            self._classes[answer.peer] = MIXED

    async def compute_here(self, tasks: Sequence[int]) -> dict[int, Rows | str]:
        """The outputs of each task on this node's own device, or why there are none."""
        brief = self._brief
        model = Cid(brief.model)
        given = await self.inputs(tasks)
        batch = Batch(given.items, given.tensors, given.body, brief.merge, brief.outputs)
        try:
            if not await self._executor.holds(model):
                await self._executor.load(model, await self._blobs.read(model))
            result = await self._executor.run(model, batch, brief.timeout_s)
        except (ExecutionError, KeyError) as error:
            return dict.fromkeys(tasks, str(error))
        found: dict[int, Rows | str] = {tasks[position]: reason for position, _, reason in result.failures}
        for group in result.groups:
            first = 0
            for position in group.positions:
                found[tasks[position]] = cut(group.tensors, group.body, 0, first, given.items[position])
                first += given.items[position]
        return found

    async def evidence(self, task: int, peer: PeerId) -> Evidence | None:
        for offset in [*self._copies.get(task, {}).values(), *([self._places[task]] if task in self._places else ())]:
            record = OpenRecord(await self._store.read_results(self.job, offset))
            receipt = receipt_in(record) if record.peer == peer and task in record.tasks else None
            if receipt is not None and max(receipt.tasks) < self.files.split.tasks:
                given = await self.inputs(receipt.tasks)
                return evidence_in(record, receipt, given, self.files.manifest, task)
        return None

    async def settle(self, peer: PeerId, tasks: Sequence[int], *, is_last: bool) -> None:
        if self._copies:
            await self._put_first(
                {task: held[peer] for task in tasks if peer in (held := self._copies.pop(task, {}))},
            )
        for task in tasks if self._places else ():
            self._places.pop(task, None)
        self._recorder.settle(peer, tasks, is_last=is_last)

    async def _put_first(self, places: Mapping[int, int]) -> None:
        """These answers take the place of the first ones."""
        by_record: dict[int, list[int]] = {}
        for task, offset in places.items():
            by_record.setdefault(offset, []).append(task)
        for offset, tasks in by_record.items():
            data = await self._store.read_results(self.job, offset)
            record = OpenRecord(data)
            await self._store.add_record(self._row(offset, record.header.frame, record.peer, b"", tasks))
            self._recorder.kept(offset, [data], digests_in(record, tasks))

    async def void(self, tasks: Sequence[int]) -> None:
        for task in tasks:
            self._copies.pop(task, None)
            self._places.pop(task, None)
        self._recorder.void(tasks)
        await self._store.void_results(self.job, tasks)

    def changed(self) -> None:
        self._on_change()

    async def failed(self, task: int, reason: str) -> None:
        self.failures[task] = reason
        self._recorder.fail(task, reason)

    async def ended(self, end: JobEnded) -> None:
        self._on_end(end)


async def read_results(store: Store, job: JobId, manifest: Manifest, binding: Binding) -> AsyncIterator[ResultBlock]:
    """What there is of a job's outputs, one block for each task, record after record."""
    split = Split(manifest.items, manifest.items_per_task)
    outputs = {port.name: port for port in manifest.outputs}
    for row in sorted(await store.records_of(job), key=lambda row: row.offset):
        record = OpenRecord(await store.read_results(row.job, row.offset))
        for task in sorted(row.tasks):
            found = {name: binding.per_item(outputs[name], values) for name, values in record.rows(task).items()}
            yield ResultBlock(split.first_item(task), split.items_of(task), found)
