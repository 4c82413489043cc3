"""Makes a job outlive its submitter: copies of its model and inputs on a quorum of its electors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import trio

from peerinfer.errors import JobFailed, PeerinferError
from peerinfer.ids import Cid, PeerId
from peerinfer.replica_messages import ReplicaOffered
from peerinfer_node.log import Log
from peerinfer_node.ports import BlobStore, InThread
from peerinfer_node.roles.blobs import BlobServer
from peerinfer_node.roles.elections import Elections
from peerinfer_node.roles.live_job import LiveJob
from peerinfer_node.roles.packed_inputs import check_size, pack_inputs
from peerinfer_node.roles.replicas import Replicas, copies_of


class Replication:
    """The submitter's side."""

    def __init__(
        self,
        *,
        blobs: BlobStore,
        blob_server: BlobServer,
        replicas: Replicas,
        elections: Elections,
        in_thread: InThread,
        log: Log,
        sign: Callable[[bytes], bytes],
    ) -> None:
        self._blobs = blobs
        self._blob_server = blob_server
        self._replicas = replicas
        self._elections = elections
        self._in_thread = in_thread
        self._log = log
        self._sign = sign

    async def replicate(self, live: LiveJob, nursery: trio.Nursery) -> None:
        """Returns when a quorum holds copies; the others go on fetching theirs, in `nursery`.

        Raises `InputError` if the inputs are too large to be copied, `JobFailed` if too few electors took them.
        """
        job, manifest, files = live.job, live.manifest, live.files
        assert files is not None
        check_size(files.inputs)
        offer = await self._offer(live)
        inputs, model = Cid(offer.inputs), Cid(manifest.model)
        seated = self._elections.seated(job, manifest)
        own, committee = self._elections.own, tuple(PeerId(elector) for elector in seated.electors)
        others = [elector for elector in committee if elector != own]
        held = [own] if own in committee else []
        problems: list[str] = []
        enough = trio.Event()

        async def one(elector: PeerId) -> None:
            try:
                await self._replicas.offer(elector, offer)
                held.append(elector)
            except PeerinferError as error:
                problems.append(str(error))
            if len(held) >= seated.quorum or len(held) + len(problems) == len(committee):
                enough.set()

        def note_given(cid: Cid, size: int) -> None:
            if cid in (inputs, model):
                live.copied_bytes = min(live.copied_bytes + size, live.copies_bytes)
                live.note_change()

        needed = seated.quorum - len(held)
        live.copied_bytes, live.copies_bytes = 0, needed * (offer.inputs_bytes + live.model_bytes)
        with self._blob_server.watched(note_given):
            for elector in others:
                nursery.start_soon(one, elector)
            await enough.wait()
        if len(held) < seated.quorum:
            raise JobFailed(f"{len(held)} of {len(committee)} electors took copies: {'; '.join(problems)}")
        live.copied_bytes = live.copies_bytes
        self._log.info("job outlives its submitter", job=job, electors=len(held))

    async def hand_on(self, live: LiveJob, elector: PeerId, replica: dict[str, Any] | None) -> None:
        """A copy for one more elector: of this node's own copy, or of its inputs. Raises as `replicate`."""
        if replica is None:
            await self._replicas.offer(elector, await self._offer(live))
            return
        inputs = Cid(replica["inputs"])
        offer = ReplicaOffered(
            live.job,
            json.dumps(replica["request"]),
            replica["model_bytes"],
            inputs,
            len(await self._blobs.read(inputs)),
            bytes.fromhex(replica["key"]),
            int(replica["seconds_per_item"] * 1e9),
        )
        await self._replicas.offer(elector, offer)

    async def _offer(self, live: LiveJob) -> ReplicaOffered:
        """Seals this node's inputs, which are the same bytes every time."""
        job, files = live.job, live.files
        assert files is not None
        key = hashlib.sha256(self._sign(b"peerinfer/1/job-key\0" + job.encode())).digest()
        sealed = await self._in_thread(lambda: pack_inputs(files.inputs, key))
        inputs = await self._blobs.put(sealed)
        await self._blobs.pin(inputs, copies_of(job))
        seconds = int(live.seconds_per_item * 1e9)
        # Nobody's business what the submitter's files are called, or where they lie.
        request = replace(live.request, model="-", inputs=("-",)).to_json()
        return ReplicaOffered(job, request, live.model_bytes, inputs, len(sealed), key, seconds)
