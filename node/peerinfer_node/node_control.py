"""The node as people and programs see it: implements `Control` over the node's roles."""

from __future__ import annotations

import json
import math
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import peerinfer
from peerinfer.assignment import JobSpec, WorkerOffer
from peerinfer.blobs import parse_index
from peerinfer.classes import CPU_PROVIDER
from peerinfer.control import JobRequest, Json, ResultBlock
from peerinfer.errors import NoSuitablePeer, UsageError
from peerinfer.forecast import forecast
from peerinfer.governor import Reason
from peerinfer.ids import JobId, PeerId
from peerinfer.units import format_size
from peerinfer_node.devices.fit import fit_words
from peerinfer_node.inference.certified_executor import CertifiedExecutor
from peerinfer_node.peer_views import PeerViews
from peerinfer_node.ports import Executor
from peerinfer_node.roles.recruiting import offer_of

if TYPE_CHECKING:
    from peerinfer_node.node import Node

_PAUSE = "pause"


class NodeControl:
    """Every answer is made of the node's own pictures; nothing is kept here."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._peers = PeerViews(node)
        self.http = ""
        """The URL under which this node's HTTP is reached over TCP, "" if it is not."""
        self.token_file = ""

    # --- looking -----------------------------------------------------------------------------------------------------

    async def status(self) -> Json:
        node = self._node
        picture = node.worker.picture
        members = node.members.machine.members()
        return {
            "peer_id": node.peer_id,
            "name": node.settings.name,
            "swarm": node.settings.swarm,
            "addresses": list(node.ports.network.addresses()),
            "state": picture.state,
            "reasons": self._reasons(picture.reason),
            "reachability": "; ".join(filter(None, (node.reachability.text, node.punching.text))),
            "unreached": [
                {"address": address, "reason": reason} for address, reason in node.acquaintances.unreached.items()
            ],
            "peers": {
                "alive": sum(member.state == "alive" for member in members),
                "suspect": sum(member.state == "suspect" for member in members),
                "relayed": sum(member.path == "relay" for member in members),
            },
            "devices": await self.devices(),
            "jobs_coordinated": node.jobs.coordinated,
            "coordinators_served": picture.coordinators,
            "frames_running": picture.running,
            "frames_waiting": picture.waiting,
            "tasks_done": node.worker.computing.tasks_done,
            "items_done": node.worker.computing.items_done,
            "energy_j": round(node.worker.computing.energy_j, 3),
            "joules_per_task": round(node.worker.computing.energy_j / node.worker.computing.tasks_done, 6)
            if node.worker.computing.tasks_done
            else None,
            "contribution": self._peers.contribution(),
            "sandbox": node.executor.sandbox,
            "version": peerinfer.__version__,
            "pid": os.getpid(),
            "api": node.settings.api,
            "http": self.http,
            "token_file": self.token_file,
        }

    async def peers(self) -> list[Json]:
        return self._peers.all()

    async def why(self, model: str) -> list[Json]:
        return await self._peers.why(model)

    async def reputation(self, peer: str | None = None) -> list[Json]:
        return self._peers.reputation(peer)

    async def forecast(self, request: JobRequest) -> Json:
        node = self._node
        await self._check_let_in()
        started_s = node.ports.clock.now_s()
        prepared = await node.jobs.prepare(request)
        prepare_s = node.ports.clock.now_s() - started_s
        spec = JobSpec(
            job=JobId("0" * 32),
            model=prepared.model,
            model_bytes=prepared.model_bytes,
            tasks=prepared.split.tasks,
            items_per_task=prepared.split.items_per_task,
            bytes_per_task=prepared.inputs.binding.item_bytes * prepared.split.items_per_task,
            seconds_per_item=prepared.seconds_per_item,
            local_only=request.local_only,
            device_kind=request.device_kind,
            memory_bytes_min=request.min_vram_bytes,
            verify=request.verify,
        )
        offers: dict[PeerId, WorkerOffer] = {node.peer_id: node.recruiting.own_offer()} if node.settings.lends else {}
        excluded: dict[str, list[str]] = {}
        for member in node.members.machine.members():
            offer, reason = offer_of(member), self._peers.why_not(member)
            if offer is None or reason:
                excluded.setdefault(reason or "takes no work now", []).append(member.peer)
            else:
                offers[member.peer] = offer
        machine = node.coordinator.machine
        found = forecast(spec, offers, machine.estimates, bytes_per_s=machine.bytes_per_s, prepare_s=prepare_s)
        for requirement, peers in found.excluded.items():
            excluded.setdefault(requirement, []).extend(peers)
        return {
            "eligible": list(found.eligible),
            "excluded": [{"reason": reason, "count": len(peers), "peers": peers} for reason, peers in excluded.items()],
            "expected_s": found.expected_s,
            "interval_s": None if found.expected_s is None else [found.low_s, found.high_s],
            "measured": found.measured,
            "tasks": spec.tasks,
            "items_per_task": spec.items_per_task,
            "seconds_per_item": spec.seconds_per_item,
        }

    def _reasons(self, otherwise: str) -> list[Json]:
        """Why the node does not work, each with its end; `otherwise` is what the worker says where no limit speaks."""
        told = [self._rest(reason) for reason in self._node.governor.reasons]
        if words := self._node.worker.unsandboxed_words:
            told.append({"reason": words, "until": None, "name": "sandbox"})
        return told or ([{"reason": otherwise, "until": None}] if otherwise else [])

    def _rest(self, reason: Reason) -> Json:
        return {"reason": reason.words, "until": self._wall(reason.until_s), "name": reason.name}

    def _wall(self, until_s: float) -> float | None:
        clock = self._node.ports.clock
        return clock.wall_s() + until_s - clock.now_s() if math.isfinite(until_s) else None

    async def devices(self) -> list[Json]:
        found = [self._device(executor) for executor in self._node.worker.executors]
        return [*found, *self._node.settings.refused_devices]

    def _device(self, executor: Executor) -> Json:
        node, device = self._node, executor.device
        picture = node.worker.picture
        sample, reasons = node.governor.of(executor)
        words = [reason.words for reason in reasons] or ([picture.reason] if picture.reason else [])
        if isinstance(executor, CertifiedExecutor) and executor.broken:
            words.insert(0, executor.broken)
        quarantine = executor.quarantine if isinstance(executor, CertifiedExecutor) else None
        is_running = node.worker.is_running(executor)
        if reasons:
            state = "resting" if picture.state == "running" else picture.state
        else:
            state = "busy" if is_running else picture.state
        return {
            "selector": device.selector,
            "name": device.name,
            "kind": device.kind,
            "provider": device.provider,
            "vendor_id": device.vendor_id,
            "device_id": device.device_id,
            "vram_bytes": device.memory_bytes,
            "temperature_c": sample.temperature_c,
            "power_w": sample.power_w,
            "busy_ratio": sample.busy_ratio,
            "memory_used_bytes": sample.memory_used_bytes,
            "max_temp_c": node.settings.limits.max_temp_c,
            "max_power_w": node.settings.limits.max_power_w if device.kind == "gpu" else None,
            "benchmark": {
                "gemm_gflops": device.gemm_gflops,
                "bandwidth_gbs": device.bandwidth_gbs,
                "conv_images_s": device.conv_images_s,
                "resnet50_images_s": device.resnet50_images_s,
                "measured_at": device.measured_at_s or None,
            },
            "good_for": fit_words(device),
            "agreement": device.agreement,
            "fp16": device.has_fp16,
            "driver": device.driver,
            "certified": device.provider == CPU_PROVIDER or device.gemm_gflops > 0,
            "state": state,
            "reasons": words,
            "rests": [self._rest(reason) for reason in reasons],
            "losses": quarantine.losses if quarantine is not None else 0,
            "last_loss": quarantine.last_loss if quarantine is not None else "",
        }

    async def models(self) -> list[Json]:
        blobs = self._node.ports.blobs
        found = []
        for cid in await blobs.held():
            index = await blobs.manifest(cid)
            if index is not None:
                loaded = await self._node.executor.holds(cid)
                found.append({"cid": cid, "bytes": parse_index(index).size, "loaded": loaded})
        return found

    # --- jobs --------------------------------------------------------------------------------------------------------

    async def submit(self, request: JobRequest) -> str:
        for path in (request.model, *request.inputs):
            if not Path(path).is_absolute():
                raise UsageError(f"{path} is not an absolute path")
        self._check_own_devices(request)
        await self._check_let_in()
        return await self._node.jobs.submit(request)

    async def _check_let_in(self) -> None:
        """A command's node is there to ask those that were named; a daemon waits for whoever comes."""
        if not self._node.settings.is_daemon:
            await self._node.acquaintances.check_let_in()

    def _check_own_devices(self, request: JobRequest) -> None:
        """Nobody else will come to a job that stays here, so there is nothing to wait for."""
        offer = self._node.recruiting.own_offer()
        if self._node.settings.meets_peers and not request.local_only:
            return
        if request.device_kind not in (None, *offer.kinds):
            raise NoSuitablePeer(
                f"this node computes with no {str(request.device_kind).upper()}, and nobody else is asked; a graphics card "
                "of this machine is used by its daemon (peerinfer join), for jobs that do not run standalone"
            )
        if request.min_vram_bytes > offer.memory_bytes:
            raise NoSuitablePeer(
                f"no device of this node has {format_size(request.min_vram_bytes)} of memory, the largest has "
                f"{format_size(offer.memory_bytes)}, and nobody else is asked"
            )

    async def jobs(self) -> list[Json]:
        return await self._node.jobs.everything()

    async def job(self, job: str) -> Json:
        return await self._node.jobs.shown.show(job)

    def watch(self, job: str) -> AsyncIterator[Json]:
        return self._node.jobs.shown.watch(job)

    def results(self, job: str) -> AsyncIterator[ResultBlock]:
        return self._node.jobs.results(job)

    async def provenance(self, job: str) -> Json:
        return await self._node.jobs.shown.provenance(job)

    async def timeline(self, job: str) -> list[Json]:
        await self._node.jobs.shown.show(job)  # refuses a job that nobody knows
        return self._node.coordinator.stages.timeline(JobId(job))

    async def cancel(self, job: str) -> None:
        await self._node.jobs.cancel(job)

    async def prioritise(self, job: str, priority: str) -> None:
        await self._node.jobs.prioritise(job, priority)

    async def rescue(self, job: str, *, confirmed: bool) -> Json:
        return await self._node.jobs.rescue(job, confirmed=confirmed)

    # --- the owner's hand on the switch ------------------------------------------------------------------------------

    async def pause(self, *, until_s: float | None) -> None:
        if not self._node.settings.lends:
            raise UsageError("this node lends nothing, so there is nothing to pause")
        wall_s = self._node.ports.clock.wall_s()
        if until_s is not None and not (math.isfinite(until_s) and until_s > wall_s):
            raise UsageError("the pause would be over already; give a time in the future")
        await self._node.ports.store.set_setting(_PAUSE, json.dumps({"until_s": until_s}))
        self._pause(until_s)

    def _pause(self, until_s: float | None) -> None:
        clock = self._node.ports.clock
        self._node.governor.pause(math.inf if until_s is None else clock.now_s() + until_s - clock.wall_s())

    async def resume(self) -> None:
        await self._node.ports.store.set_setting(_PAUSE, None)
        self._node.governor.resume()

    async def finish(self) -> None:
        self._node.worker.finish()

    async def leave(self) -> None:
        await self._node.leave()

    async def restore(self) -> None:
        """A pause survives a restart."""
        stored = await self._node.ports.store.setting(_PAUSE)
        if stored is None:
            return
        until_s = json.loads(stored)["until_s"]
        if until_s is None or until_s > self._node.ports.clock.wall_s():
            self._pause(until_s)
        else:
            await self._node.ports.store.set_setting(_PAUSE, None)
