"""What happens to a request before anything is sent: model and inputs are opened, fitted to each other, and cut."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

from peerinfer.binding import check_outputs
from peerinfer.blobs import chunks_of, index_of
from peerinfer.comparator_names import parse_compare
from peerinfer.control import JobRequest
from peerinfer.cost import growth
from peerinfer.errors import AttemptTimeout, ExecutionError, InputError, ModelRefused
from peerinfer.ids import Cid, PeerId
from peerinfer.limits import JOB_TASKS_MAX, MODEL_BYTES_MAX
from peerinfer.messages import Manifest, OutputRule
from peerinfer.splitting import Split, split_items
from peerinfer_node.formats import Inputs, open_inputs
from peerinfer_node.log import Log
from peerinfer_node.ports import Batch, BlobStore, Executor, InThread, ModelInterface
from peerinfer_node.roles.answers import raw_bytes
from peerinfer_node.roles.calibrating import measured_rules, named_rules

TRIAL_TIMEOUT_S = 20.0
"""The first item is run here to learn what an item costs; a slower model is guessed at this."""

UNKNOWN_ITEM_S = 1.0
PREPARING = "preparing"
"""Holds the model's blob from the moment it is known until its job holds it."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request after everything about it was checked."""

    interface: ModelInterface
    model: Cid
    model_bytes: int
    model_sha256: bytes
    inputs: Inputs
    split: Split
    seconds_per_item: float
    flops_per_item: float
    rules: tuple[OutputRule, ...]
    """How outputs are compared that have a way, or a measured tolerance, of their own."""
    task_keys: bytes
    """32 bytes for each task, in order: the same work has the same key in every job."""


def manifest_of(
    request: JobRequest,
    prepared: Prepared,
    submitter: PeerId,
    created_at_s: float,
    nonce: bytes,
    committee: tuple[PeerId, ...],
    lease_s: float,
) -> Manifest:
    """The description of a job that never changes. `created_at_s` is of the wall clock."""
    return Manifest(
        submitter=submitter,
        created_at_s=created_at_s,
        nonce=nonce,
        model=prepared.model,
        model_sha256=prepared.model_sha256,
        inputs=prepared.interface.inputs,
        outputs=prepared.interface.outputs,
        given=prepared.inputs.binding.specs,
        items=prepared.split.items,
        tasks=prepared.split.tasks,
        items_per_task=prepared.split.items_per_task,
        inputs_digest=hashlib.sha256(prepared.task_keys).digest(),
        verify=request.verify,
        compare=parse_compare(request.compare)[0],
        rtol=request.rtol if request.rtol is not None else -1.0,
        atol=request.atol if request.atol is not None else -1.0,
        committee=committee,
        byzantine=0,
        lease_s=lease_s,
        rules=prepared.rules,
    )


class Preparation:
    """Checks requests on this node's own device."""

    def __init__(self, *, blobs: BlobStore, executor: Executor, in_thread: InThread, log: Log) -> None:
        self._blobs = blobs
        self._executor = executor
        self._in_thread = in_thread
        self._log = log

    async def prepare(self, request: JobRequest) -> Prepared:
        """Raises `InputError` or one of its kinds, in one line, if the request cannot be run."""
        data = await self._in_thread(lambda: _read_model(request.model))
        model = await self._in_thread(lambda: index_of(chunks_of(data)).cid)
        await self._blobs.pin(model, PREPARING)
        try:
            try:
                interface = await self._executor.load(model, data)
            except ModelRefused as error:
                raise ModelRefused(f"{request.model}: {error}") from None
            check_outputs(interface.outputs)
            await self._blobs.put(data)
            inputs = await self._in_thread(
                lambda: open_inputs(
                    request.inputs,
                    interface.inputs,
                    image_size=request.image_size,
                    image_layout=request.image_layout,
                    image_mean=request.image_mean,
                    image_std=request.image_std,
                )
            )
            seconds_per_item = await self._trial(model, inputs)
            rules = await self._rules(request, model, interface, inputs, seconds_per_item)
            split = split_items(
                inputs.items,
                bytes_per_item=inputs.binding.item_bytes,
                seconds_per_item=seconds_per_item,
                block=inputs.binding.block,
                batch=request.batch,
            )
            if split.tasks > JOB_TASKS_MAX:
                raise InputError(f"{split.tasks} tasks pass the limit of {JOB_TASKS_MAX}; give a larger --batch")
            sha256, keys = await self._in_thread(lambda: _fingerprints(data, model, inputs, split))
        except BaseException:
            await self._blobs.unpin(PREPARING)
            raise
        flops = interface.flops * growth(interface.inputs, inputs.binding.specs)
        return Prepared(interface, model, len(data), sha256, inputs, split, seconds_per_item, flops, rules, keys)

    async def _rules(
        self,
        request: JobRequest,
        model: Cid,
        interface: ModelInterface,
        inputs: Inputs,
        seconds_per_item: float,
    ) -> tuple[OutputRule, ...]:
        how, named = parse_compare(request.compare)
        rules = named_rules(interface.outputs, named)
        has_own = request.rtol is not None and request.atol is not None
        if request.verify == "none" or request.local_only or has_own:
            return rules
        return await measured_rules(
            self._executor,
            model,
            inputs,
            interface.outputs,
            how,
            named,
            seconds_per_item=seconds_per_item,
            in_thread=self._in_thread,
            log=self._log,
        )

    async def _trial(self, model: Cid, inputs: Inputs) -> float:
        """Seconds that one item takes on this node's own device."""
        binding = inputs.binding
        rows = await self._in_thread(lambda: inputs.rows(0, binding.block))
        batch = Batch((1,), binding.frame_specs(binding.block), [raw_bytes(row) for row in rows], binding.merge)
        try:
            await self._executor.run(model, batch, TRIAL_TIMEOUT_S)  # The first run of a session is slower than others.
            result = await self._executor.run(model, batch, TRIAL_TIMEOUT_S)
        except AttemptTimeout:
            return TRIAL_TIMEOUT_S
        except (ExecutionError, KeyError) as error:
            self._log.warning("the first item did not run here", reason=str(error))
            return UNKNOWN_ITEM_S
        return max(result.compute_s, 1e-6) / binding.block


def task_key(model: Cid, inputs_fingerprint: bytes) -> bytes:
    return hashlib.sha256(b"peerinfer/task/1\0" + model.encode() + b"\0" + inputs_fingerprint).digest()


def _read_model(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MODEL_BYTES_MAX:
                raise InputError(f"{path} has {size} bytes; models may have {MODEL_BYTES_MAX}")
            data = file.read(MODEL_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"the model {path} cannot be read: {reason}; check the path") from None
    if not data:
        raise InputError(f"the model {path} is empty; give an ONNX file")
    return data


def _fingerprints(data: bytes, model: Cid, inputs: Inputs, split: Split) -> tuple[bytes, bytes]:
    keys = bytearray()
    for task in range(split.tasks):
        first = split.first_item(task)
        keys += task_key(model, inputs.fingerprint(first, first + split.items_of(task)))
    return hashlib.sha256(data).digest(), bytes(keys)
