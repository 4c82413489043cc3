"""Keeps this node's advert true and fresh: issued on change, and every minute with some jitter."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import trio

from peerinfer.classes import CPU_PROVIDER
from peerinfer.envelope import seal
from peerinfer.limits import DEVICES_PER_NODE_MAX, NAME_CHARS_MAX, REASON_CHARS_MAX
from peerinfer.messages import Advert, DeviceAdvert
from peerinfer_node.devices.figures import keep_figures
from peerinfer_node.ports import Device, Ports
from peerinfer_node.roles.governor import GovernorRole
from peerinfer_node.roles.kept_models import KeptModels
from peerinfer_node.roles.members import MembersRole
from peerinfer_node.roles.own_elector import OwnElector
from peerinfer_node.roles.reachability import Reachability
from peerinfer_node.roles.work_stream import AGENT
from peerinfer_node.roles.worker import WorkerRole

if TYPE_CHECKING:
    from peerinfer_node.node import NodeSettings

ADVERT_EVERY_S = 300.0
"""Whether a node lives is found out by probes, so an advert that says nothing new only keeps it from being forgotten."""

ADVERT_JITTER = 0.2
REASONS_MAX = 8

MODELS_EVERY_S = 30.0
"""New models are told this often at most: whoever sends them must not make this node talk."""


class Advertiser:
    """Signs and spreads what this node offers. `devices` are the figures that it states."""

    def __init__(
        self,
        *,
        ports: Ports,
        settings: NodeSettings,
        worker: WorkerRole,
        members: MembersRole,
        reachability: Reachability,
        governor: GovernorRole,
        models: KeptModels,
        own_elector: OwnElector,
        rng: random.Random,
    ) -> None:
        self._ports = ports
        self._settings = settings
        self._worker = worker
        self._members = members
        self._reachability = reachability
        self._governor = governor
        self._models = models
        self._own_elector = own_elector
        self._models_told: tuple[str, ...] = ()
        self._models_told_s = -math.inf
        self._rng = rng
        self._incarnation = int(ports.clock.wall_s() * 1000)
        self._sequence = 0
        self._changed = trio.Event()
        self._left = False
        self.devices: list[Device] = [executor.device for executor in worker.executors]
        worker.on_state = lambda state, reason: self._changed.set()
        members.on_refute = self._refresh
        reachability.on_change = self._refresh

    async def run(self) -> None:
        while True:
            self._changed = trio.Event()
            self._members.advertise(self.advert())
            until_s = trio.current_time() + ADVERT_EVERY_S * (1 + ADVERT_JITTER * (2 * self._rng.random() - 1))
            while not self._changed.is_set() and trio.current_time() < until_s:
                with trio.move_on_at(min(until_s, trio.current_time() + MODELS_EVERY_S)):
                    await self._changed.wait()
                if self._models.told != self._models_told:
                    break

    def _refresh(self) -> None:
        self._changed.set()

    async def measure(self) -> None:
        """Benchmarks the devices, as far as their figures are not remembered, and states them."""
        self.devices = [await executor.benchmark() for executor in self._worker.executors]  # one core each, in turn
        measured = [device.measured_at_s for device in self.devices if device.measured_at_s]
        await keep_figures(self._ports.store, self.devices, min(measured, default=self._ports.clock.wall_s()))
        self._changed.set()

    async def say_left(self) -> None:
        """Tells everybody that this node goes."""
        self._left = True
        self._members.advertise(self.advert())
        await trio.sleep(0.05)  # Lets the farewell leave before the connections close.

    def _reasons(self, otherwise: str) -> tuple[str, ...]:
        """Each with its end, where it has one that can be known."""
        clock = self._ports.clock
        told = []
        for reason in self._governor.reasons[:REASONS_MAX]:
            end_s = clock.wall_s() + reason.until_s - clock.now_s()
            until = (
                f", until {datetime.fromtimestamp(round(end_s), UTC):%Y-%m-%d %H:%M UTC}"
                if math.isfinite(end_s)
                else ""
            )
            told.append(f"{reason.words}{until}"[:REASON_CHARS_MAX])
        words = self._worker.unsandboxed_words or otherwise
        return tuple(told) or ((words[:REASON_CHARS_MAX],) if words else ())

    def advert(self) -> bytes:
        picture = self._worker.picture
        now_s = self._ports.clock.now_s()
        if now_s >= self._models_told_s + MODELS_EVERY_S and self._models.told != self._models_told:
            self._models_told, self._models_told_s = self._models.told, now_s
        self._sequence += 1
        advert = Advert(
            incarnation=self._incarnation,
            sequence=self._sequence,
            issued_at_s=self._ports.clock.wall_s(),
            name=self._settings.name,
            agent=AGENT,
            addresses=self._reachability.addresses(),
            state="left" if self._left else picture.state,
            reasons=self._reasons(picture.reason),
            devices=tuple(
                DeviceAdvert(
                    device.name[:NAME_CHARS_MAX],
                    device.kind,
                    device.provider,
                    device.memory_bytes,
                    device.gemm_gflops,
                    device.bandwidth_gbs,
                )
                for device in self.devices[:DEVICES_PER_NODE_MAX]
                if device.provider == CPU_PROVIDER
                or device.gemm_gflops  # a card that could not be measured is of no use
            )
            if self._settings.lends and not self._worker.unsandboxed_words
            else (),
            models=self._models_told if self._settings.lends else (),
            sandbox=self._ports.executors[0].sandbox,
            relays=self._settings.relays,
            elects=self._settings.is_daemon and self._own_elector.takes_seats,
        )
        return seal(advert, self._ports.keys.peer_id, self._ports.keys.sign)
