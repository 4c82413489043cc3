"""One node of a whole world, through all its lives: the real `Node` on simulated ports, and what befalls its machine."""

from __future__ import annotations

from collections.abc import Callable

import trio

from peerinfer.candidacy import Candidacy
from peerinfer.ids import JobId, PeerId
from peerinfer_node.keys import MemoryKeys
from peerinfer_node.log import Log
from peerinfer_node.memory_blob_store import MemoryBlobStore
from peerinfer_node.node import Node, NodeSettings
from peerinfer_node.ports import Ports
from peerinfer_sim.clock import SimClock
from peerinfer_sim.determinism import inline, rng_for
from peerinfer_sim.disks import Disk, SimSeats, SimStore
from peerinfer_sim.event_log import EventLog
from peerinfer_sim.executor import Conduct, SimExecutor
from peerinfer_sim.internet import Internet
from peerinfer_sim.network import SimNetwork
from peerinfer_sim.scenario import NodeGroup
from peerinfer_sim.watch import whose

WALL_OFFSET_MAX_S = 2.0


class SimNode:
    """`number` counts the nodes of the world and gives this one its address."""

    def __init__(
        self,
        group: NodeGroup,
        place: int,
        number: int,
        *,
        seed: int,
        internet: Internet,
        log: EventLog,
        finds_neighbours: bool,
        bootstrap: tuple[str, ...],
    ) -> None:
        self.name = name = f"{group.name}-{place}"
        self._group = group
        self._number = number
        self._seed = seed
        self._internet = internet
        self._log = log
        self._finds_neighbours = finds_neighbours
        self._bootstrap = bootstrap
        self._keys = MemoryKeys(f"{seed}:{name}:identity".encode())
        quartz = rng_for(seed, name, "quartz").uniform(-group.drift_max, group.drift_max)
        wall_offset_s = rng_for(seed, name, "clock").uniform(-WALL_OFFSET_MAX_S, WALL_OFFSET_MAX_S)
        self._clock = SimClock(wall_offset_s, quartz)
        self._speed = group.items_per_s * rng_for(seed, name, "speed").lognormvariate(0.0, group.speed_spread)
        self._blobs = MemoryBlobStore()
        self.disk = Disk()
        self._store = SimStore(self.disk)
        self._seats = SimSeats(self.disk)
        self._lives = 0
        self._lost_s = 0.0
        self._again_at_s: float | None = None
        self._executors: list[SimExecutor] = []
        self._scope = trio.CancelScope()
        self._stop = trio.Event()
        self.node = self._build()

    @property
    def peer_id(self) -> PeerId:
        return self._keys.peer_id

    @property
    def is_up(self) -> bool:
        return self.peer_id in self._internet.networks

    @property
    def comes_back(self) -> bool:
        """It is dead, and will not stay so."""
        return self._again_at_s is not None

    @property
    def lies_told(self) -> int:
        return sum(executor.lies_told for executor in self._executors)

    def candidacy(self, job: JobId) -> Candidacy | None:
        return self.node.elections.machine(job)

    def holder_s(self) -> float:
        return self._clock.holder_s()

    # --- its lives ---------------------------------------------------------------------------------------------------

    async def live(self, after_s: float, on_death: Callable[[str], None]) -> None:
        """From its start until it is stopped, or has died for good."""
        whose.set(self.name)
        await trio.sleep(after_s)
        while True:
            with self._scope:
                async with self.node.run():
                    await self._stop.wait()
            if self._stop.is_set() or self._again_at_s is None:
                return
            on_death(self.name)
            await trio.sleep_until(self._again_at_s)
            self._store = await self._store.after_crash(self._lost_s)
            self._seats = self._seats.after_crash()
            self._scope, self._again_at_s = trio.CancelScope(), None
            self.node = self._build()
            self._log.add(trio.current_time(), self.name, "starts again")

    def crash(self, lasts_s: float, lost_s: float) -> None:
        """The process is gone, without a word. It starts again after `lasts_s`; never, if that is 0."""
        self._again_at_s = trio.current_time() + lasts_s if lasts_s else None
        self._lost_s = lost_s
        self._seats.is_dead = True
        self._store.is_dead = True
        self._internet.crash(self.peer_id)
        self._scope.cancel()

    def stop(self) -> None:
        self._stop.set()

    def _build(self) -> Node:
        self._lives += 1
        life = f"{self.name}/{self._lives}" if self._lives > 1 else self.name
        whose.set(self.name)
        group = self._group
        executor = SimExecutor(
            self.name,
            rng_for(self._seed, life, "device"),
            seconds_per_item=1 / self._speed,
            load_s=group.load_s,
            conduct=Conduct(lies=group.lies, fails=group.fails),
        )
        self._executors.append(executor)
        network = SimNetwork(
            self._internet, self.peer_id, self.name, self._number, finds_neighbours=self._finds_neighbours
        )
        ports = Ports(
            network=network,
            store=self._store,
            seats=self._seats,
            blobs=self._blobs,
            keys=self._keys,
            clock=self._clock,
            seed=rng_for(self._seed, life, "node").getrandbits(64),
            executors=(executor,),
            in_thread=inline,
        )
        settings = NodeSettings(self.name, lends=group.lends, is_daemon=group.daemon, bootstrap=self._bootstrap)
        log = Log(lambda line: self._log.add(trio.current_time(), self.name, line), level="debug")
        return Node(ports, settings, log)
