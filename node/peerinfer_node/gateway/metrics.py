"""`/metrics` in Prometheus' text format. Labels are words of ours, never a peer or a model: their number is bounded.

Everything is read from the node when it is asked for; nothing is counted twice. The names are documented in
docs/METRICS.md, and a test holds page, dashboard and this module together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

import peerinfer
from peerinfer_node.serving import Serving

if TYPE_CHECKING:
    from peerinfer_node.node import Node

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

MEMBER_STATES = ("alive", "suspect", "dead", "left")
BREAKER_STATES = ("closed", "half-open", "open")

_Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class NodeMetrics(Collector):
    """Every metric of a node. `openings` is how many models are served, and the like."""

    def __init__(self, node: Node, serving: Serving) -> None:
        self._node = node
        self._serving = serving
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def collect(self) -> Iterator[_Family]:
        yield from self._tasks()
        yield from self._swarm()
        yield from self._devices()
        yield from self._requests()

    def _tasks(self) -> Iterator[_Family]:
        node, stages = self._node, self._node.coordinator.stages
        outcomes = {
            "accepted": stages.kept,
            "failed": stages.failed,
            "voided": stages.voided,
            "computed_for_others": node.worker.computing.tasks_done,
        }
        yield _counter("peerinfer_tasks", "Tasks by what became of them", "outcome", outcomes)
        seconds = HistogramMetricFamily("peerinfer_task_seconds", "Seconds of tasks by stage", labels=["stage"])
        for stage, histogram in stages.histograms.items():
            seconds.add_metric([stage], list(histogram.cumulative()), histogram.total_s)
        yield seconds
        jobs = node.coordinator.machine.snapshot().values()
        yield _gauge(
            "peerinfer_jobs", "Jobs that this node coordinates", "kind", {"coordinated": node.jobs.coordinated}
        )
        picture = node.worker.picture
        depths = {
            "tasks": sum(job.open for job in jobs),
            "frames": picture.waiting,
            "requests": node.online.waiting,
        }
        yield _gauge(
            "peerinfer_queue_depth", "What waits: tasks to be given out, frames to be run, requests", "queue", depths
        )
        received, sent = node.coordinator.stream_bytes
        yield _counter(
            "peerinfer_stream_bytes", "Bytes on work streams to workers", "direction", {"in": received, "out": sent}
        )
        breakers = node.coordinator.machine.breakers(node.ports.clock.now_s())
        states = {state: breakers.get(state, breakers.get(state.replace("-", "_"), 0)) for state in BREAKER_STATES}
        yield _gauge("peerinfer_breaker_state", "Peers by the state of their circuit breaker", "state", states)

    def _swarm(self) -> Iterator[_Family]:
        node = self._node
        members = [member.state for member in node.members.machine.members()]
        yield _gauge(
            "peerinfer_peers", "Peers by state", "state", {state: members.count(state) for state in MEMBER_STATES}
        )
        yield GaugeMetricFamily(
            "peerinfer_leases_held", "Leases of jobs that this node holds", value=node.elections.leases_held
        )
        outcomes = {"won": node.elections.won, "lost": node.elections.lost}
        yield _counter("peerinfer_elections", "Leases won, and lost again", "outcome", outcomes)
        yield _gauge("peerinfer_info", "Always 1", "version", {peerinfer.__version__: 1})

    def _devices(self) -> Iterator[_Family]:
        temperature = GaugeMetricFamily(
            "peerinfer_device_temperature_celsius", "Temperature of a device", labels=["device", "kind"]
        )
        busy = GaugeMetricFamily("peerinfer_device_busy_ratio", "Share of a device in use", labels=["device", "kind"])
        power = GaugeMetricFamily(
            "peerinfer_device_power_watts", "Power that a device takes", labels=["device", "kind"]
        )
        rests = GaugeMetricFamily(
            "peerinfer_device_rests", "1 while a device rests for this reason", labels=["device", "kind", "reason"]
        )
        until = GaugeMetricFamily(
            "peerinfer_device_rests_until_timestamp_seconds",
            "When a reason to rest ends, where that can be known",
            labels=["device", "kind", "reason"],
        )
        clock = self._node.ports.clock
        for number, executor in enumerate(self._node.worker.executors):
            sample, reasons = self._node.governor.of(executor)
            labels = [str(number), executor.device.kind]
            for reason in reasons:
                rests.add_metric([*labels, reason.name], 1)
                if math.isfinite(reason.until_s):
                    until.add_metric([*labels, reason.name], clock.wall_s() + reason.until_s - clock.now_s())
            for family, value in (
                (temperature, sample.temperature_c),
                (busy, sample.busy_ratio),
                (power, sample.power_w),
            ):
                if value is not None:
                    family.add_metric(labels, value)
        yield from (temperature, busy, power, rests, until)
        yield CounterMetricFamily(
            "peerinfer_energy_joules", "Energy spent on tasks of others", value=self._node.worker.computing.energy_j
        )

    def _requests(self) -> Iterator[_Family]:
        models = self._serving.served()
        outcomes = {
            "succeeded": sum(model.statistics.succeeded for model in models),
            "failed": sum(model.statistics.failed for model in models),
        }
        yield _counter("peerinfer_requests", "Online requests by outcome", "outcome", outcomes)
        yield GaugeMetricFamily(
            "peerinfer_requests_under_way", "Online requests without an answer", value=self._serving.under_way
        )
        yield GaugeMetricFamily("peerinfer_models_served", "Models that are open for requests", value=len(models))


class MetricRoutes:
    def __init__(self, metrics: NodeMetrics) -> None:
        self._metrics = metrics

    def routes(self) -> list[BaseRoute]:
        return [Route("/metrics", self.metrics, methods=["GET"])]

    async def metrics(self, request: Request) -> Response:
        """Figures for Prometheus."""
        return Response(self._metrics.text(), media_type=MEDIA_TYPE)


def _counter(name: str, text: str, label: str, values: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for word, value in values.items():
        family.add_metric([word], value)
    return family


def _gauge(name: str, text: str, label: str, values: dict[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for word, value in values.items():
        family.add_metric([word], value)
    return family
