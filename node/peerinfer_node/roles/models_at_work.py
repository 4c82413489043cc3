"""The models that coordinators' frames need, on this node's devices."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

from peerinfer.cost import growth
from peerinfer.errors import ModelRefused
from peerinfer.ids import Cid, PeerId
from peerinfer.limits import MODEL_BYTES_MAX
from peerinfer.messages import Frame, JobBrief
from peerinfer_node.ports import Batch, BatchResult, BlobStore, Executor, ModelInterface
from peerinfer_node.roles.work_stream import read_blob

INTERFACES_MAX = 256

FetchBlob = Callable[[Cid, Sequence[PeerId]], Awaitable[None]]


class ModelsAtWork:
    """Fetches and loads them when they are needed."""

    def __init__(self, *, own: PeerId, blobs: BlobStore, fetch: FetchBlob) -> None:
        self._own = own
        self._blobs = blobs
        self._fetch = fetch
        self._interfaces: OrderedDict[Cid, ModelInterface] = OrderedDict()
        """Of the models that others brought: what an item of theirs is worth."""

    async def run(self, brief: JobBrief, coordinator: PeerId, executor: Executor, batch: Batch) -> BatchResult:
        """Loads the model if it must be; once more if it fell out of the device's memory meanwhile."""
        model = Cid(brief.model)
        await self._load(brief, coordinator, executor)
        try:
            return await executor.run(model, batch, brief.timeout_s)
        except KeyError:
            await self._load(brief, coordinator, executor)
            return await executor.run(model, batch, brief.timeout_s)

    async def _load(self, brief: JobBrief, coordinator: PeerId, executor: Executor) -> None:
        model = Cid(brief.model)
        if await executor.holds(model) and (coordinator == self._own or model in self._interfaces):
            return
        if brief.model_bytes > MODEL_BYTES_MAX:
            raise ModelRefused(f"it has {brief.model_bytes} bytes, the limit is {MODEL_BYTES_MAX}")
        await self._fetch(model, [coordinator])
        data = await read_blob(self._blobs, model, bytes_max=brief.model_bytes, what="the model's bytes")
        self._interfaces[model] = await executor.load(model, data)
        if len(self._interfaces) > INTERFACES_MAX:
            self._interfaces.popitem(last=False)

    def item_flops(self, brief: JobBrief, frame: Frame) -> float:
        known = self._interfaces.get(Cid(brief.model))
        return known.flops * growth(known.inputs, frame.tensors) if known is not None else 0.0
