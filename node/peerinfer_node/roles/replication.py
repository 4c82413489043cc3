"""Makes a job outlive its submitter: copies of its model and inputs on a quorum of its electors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import trio

from peerinfer.control import JobRequest
from peerinfer.elector import quorum_of
from peerinfer.errors import JobFailed, PeerinferError
from peerinfer.ids import Cid, JobId, PeerId
from peerinfer.messages import Manifest
from peerinfer.replica_messages import ReplicaOffered
from peerinfer_node.log import Log
from peerinfer_node.ports import BlobStore, InThread
from peerinfer_node.roles.elections import Elections
from peerinfer_node.roles.packed_inputs import pack_inputs
from peerinfer_node.roles.replicas import Replicas
from peerinfer_node.roles.stored_job import JobFiles


class Replication:
    """The submitter's side."""

    def __init__(
        self,
        *,
        blobs: BlobStore,
        replicas: Replicas,
        elections: Elections,
        in_thread: InThread,
        log: Log,
        sign: Callable[[bytes], bytes],
    ) -> None:
        self._blobs = blobs
        self._replicas = replicas
        self._elections = elections
        self._in_thread = in_thread
        self._log = log
        self._sign = sign

    async def replicate(
        self, job: JobId, manifest: Manifest, files: JobFiles, request: JobRequest, seconds_per_item: float
    ) -> None:
        """Returns when a quorum holds copies; goes on to the others in that time only.

        Raises `LimitExceeded` if the inputs are too large to be copied, `JobFailed` if too few electors took them.
        """
        key = hashlib.sha256(self._sign(b"peerinfer/1/job-key\0" + job.encode())).digest()
        sealed = await self._in_thread(lambda: pack_inputs(files.inputs, key))
        inputs = await self._blobs.put(sealed)
        await self._blobs.pin(inputs, job)
        model_bytes = len(await self._blobs.read(Cid(manifest.model)))
        offer = ReplicaOffered(
            job, request.to_json(), model_bytes, inputs, len(sealed), key, int(seconds_per_item * 1e9)
        )
        own = self._elections.own
        others = [PeerId(elector) for elector in manifest.committee if elector != own]
        held = [own] if own in manifest.committee else []
        problems: list[str] = []
        enough = trio.Event()

        async def one(elector: PeerId) -> None:
            try:
                await self._replicas.offer(elector, offer)
                held.append(elector)
            except PeerinferError as error:
                problems.append(str(error))
            if len(held) >= quorum_of(manifest) or len(held) + len(problems) == len(manifest.committee):
                enough.set()

        async with trio.open_nursery() as nursery:
            for elector in others:
                nursery.start_soon(one, elector)
            await enough.wait()
            if len(held) < quorum_of(manifest):
                nursery.cancel_scope.cancel()
        if len(held) < quorum_of(manifest):
            raise JobFailed(f"{len(held)} of {len(manifest.committee)} electors took copies: {'; '.join(problems)}")
        self._log.info("job outlives its submitter", job=job, electors=len(held))
