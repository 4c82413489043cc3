"""A frame on this node's devices, from its inputs to its answer, and the count of what was computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from peerinfer.cost import Given
from peerinfer.errors import DeviceUnfit, ExecutionError, ModelRefused, OutOfMemory, PeerinferError
from peerinfer.ids import Cid
from peerinfer.limits import FRAME_BLOB_BYTES_MAX, REASON_CHARS_MAX
from peerinfer.messages import Refused
from peerinfer_node.log import Log
from peerinfer_node.ports import Batch, BatchResult, BlobStore, Executor, Keys, LocalClock
from peerinfer_node.roles.frame_answers import Body, commitment_to, receipt_for, results_of
from peerinfer_node.roles.frames import all_failed
from peerinfer_node.roles.held_frames import Held
from peerinfer_node.roles.kept_frames import KeptFrame, KeptFrames, digest_of
from peerinfer_node.roles.models_at_work import FetchBlob, ModelsAtWork
from peerinfer_node.roles.work_stream import read_blob

Answer = tuple[Any, Body]


class Computing:
    """`kept` remembers answers for the jobs' next coordinators."""

    def __init__(
        self,
        *,
        executors: Sequence[Executor],
        kept: KeptFrames,
        blobs: BlobStore,
        fetch_blob: FetchBlob,
        fetch_model: FetchBlob,
        keys: Keys,
        clock: LocalClock,
        log: Log,
    ) -> None:
        self._executors = executors
        self._kept = kept
        self._blobs = blobs
        self._fetch_blob = fetch_blob
        self._models = ModelsAtWork(own=keys.peer_id, blobs=blobs, fetch=fetch_model)
        self._keys = keys
        self._clock = clock
        self._log = log
        self._resting: dict[Executor, str] = {}
        self.tasks_done = 0
        self.items_done = 0
        self.compute_s = 0.0
        self.power_of: Callable[[Executor], float | None] = lambda executor: None
        """Watts that a device takes now, where it tells."""
        self.energy_j = 0.0
        """Taken by devices that tell their power, while they computed; what they take at rest is counted in."""
        self.given = Given()
        """The same of what other coordinators asked for."""

    @property
    def resting(self) -> Mapping[Executor, str]:
        """Devices that must not be used now, and why."""
        return self._resting

    def rest(self, reasons: Mapping[Executor, str]) -> list[Executor]:
        """All others may be used. Returns those that rest from now on."""
        started = [executor for executor in reasons if executor not in self._resting]
        self._resting = dict(reasons)
        return started

    def fastest_first(self, executors: Sequence[Executor]) -> list[Executor]:
        """Those that may be used now."""
        allowed = [executor for executor in executors if executor not in self._resting]
        return sorted(allowed, key=lambda executor: -executor.device.gemm_gflops)

    async def answer(self, held: Held, executor: Executor) -> Answer:
        """Runs the frame on this device, or on another one if this one is not for its model."""
        others = [other for other in self.fastest_first(self._executors) if other is not executor]
        for chosen in (executor, *others):
            held.executor = chosen
            try:
                return await self._answer_of(held, chosen)
            except DeviceUnfit as error:
                self._log.debug("device unfit", device=chosen.device.name, reason=str(error))
                reason = str(error)
        return Refused(held.frame.frame, reason[:REASON_CHARS_MAX], True), ()

    async def _answer_of(self, held: Held, executor: Executor) -> Answer:
        """Raises `DeviceUnfit`."""
        frame, brief = held.frame, held.brief
        try:
            body = held.body
            if frame.inputs is not None:
                cid = Cid(frame.inputs)
                await self._fetch_blob(cid, [held.link.stream.peer])
                body = await read_blob(self._blobs, cid, bytes_max=frame.inputs_bytes, what="the inputs")
                await self._blobs.discard(cid)
                if len(body) != frame.inputs_bytes:
                    return Refused(frame.frame, "the inputs' blob has another size than the frame says", True), ()
            digest = digest_of(frame, brief, [body]) if held.candidates else b""
            kept = self._kept.find(frame.job, frame.tasks, digest) if held.candidates else None
            if kept is not None:
                return await self._say(held, kept.result, kept.executor, 0.0)
            batch = Batch(frame.items, frame.tensors, [body], brief.merge, brief.outputs)
            result = await self._models.run(brief, held.link.stream.peer, executor, batch)
            if held.candidates:
                self._kept.keep(frame.job, frame.tasks, KeptFrame(digest, held.candidates, result, executor))
            return await self._results(held, result, executor)
        except ModelRefused as error:
            return Refused(frame.frame, f"refuses the model: {error}"[:REASON_CHARS_MAX], True), ()
        except DeviceUnfit:
            raise
        except ExecutionError as error:
            return await self._results(held, all_failed(len(frame.tasks), error), executor)
        except PeerinferError as error:
            return Refused(frame.frame, str(error)[:REASON_CHARS_MAX], False), ()
        except KeyError:
            return Refused(frame.frame, "a blob was dropped from the cache while it was needed", False), ()

    async def without_room(self, held: Held, executor: Executor) -> Answer:
        """An answer in place of one that was too large to be sent: counted as memory, each task travels alone next."""
        failed = all_failed(len(held.frame.tasks), OutOfMemory("the answer to so many tasks has no room"))
        return await self._results(held, failed, executor)

    def _energy_j(self, executor: Executor, compute_s: float) -> float:
        return compute_s * (self.power_of(executor) or 0.0)

    async def _results(self, held: Held, result: BatchResult, executor: Executor) -> Answer:
        frame = held.frame
        body = [group.body for group in result.groups]
        body_bytes = sum(len(part) for part in body)
        if body_bytes > FRAME_BLOB_BYTES_MAX:
            reason = f"outputs of {body_bytes} bytes pass the limit of {FRAME_BLOB_BYTES_MAX} for one frame"
            return await self._results(held, all_failed(len(frame.tasks), OutOfMemory(reason)), executor)
        compute_s = result.compute_s
        done = sum(len(group.positions) for group in result.groups)
        items = sum(frame.items[position] for group in result.groups for position in group.positions)
        energy_j = self._energy_j(executor, compute_s)
        self.tasks_done += done
        self.items_done += items
        self.compute_s += compute_s
        self.energy_j += energy_j
        if held.link.stream.peer != self._keys.peer_id:
            self.given.add(done, items, compute_s, energy_j, items * self._models.item_flops(held.brief, frame))
        return await self._say(held, result, executor, compute_s)

    async def _say(self, held: Held, result: BatchResult, executor: Executor, compute_s: float) -> Answer:
        """`compute_s` is what it took this time."""
        body: Body = [group.body for group in result.groups]
        receipt = b""
        if held.brief.receipts:
            energy_j = self._energy_j(executor, result.compute_s)
            is_shown = held.brief.certificate and held.link.stream.peer != self._keys.peer_id
            work = commitment_to(held.frame, held.body, result) if is_shown else b""
            receipt = receipt_for(
                held.frame,
                body,
                result.compute_s,
                executor.device,
                energy_j,
                keys=self._keys,
                wall_s=self._clock.wall_s(),
                work=work,
            )
        results, body = await results_of(held.frame, held.brief, result, compute_s, receipt, self._blobs)
        if results.outputs is not None:
            held.link.outputs.append(Cid(results.outputs))
        return results, body
