"""Traces by OpenTelemetry's own API, seen by its own SDK; and nothing at all where neither is there."""

from __future__ import annotations

import sys

import pytest
import trio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from role_world import JOB, answer_to, coordinator_world, stay_alive

from peerinfer.messages import Frame, Window
from peerinfer_node import tracing
from peerinfer_node.stages import Spent
from peerinfer_node.tracing import Tracing

NS = 1_000_000_000


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What an SDK is given."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter


FRAME = Spent(7, "ada", 3, 0.0, (("queue", 0.25), ("transfer", 0.5), ("compute", 1.0)))


def test_a_frame_is_a_span_with_its_stages_one_after_the_other(spans: InMemorySpanExporter) -> None:
    Tracing(lambda: 100.0).frame("0123", FRAME)
    *stages, frame = spans.get_finished_spans()
    assert (frame.name, frame.start_time, frame.end_time) == ("frame", round(98.25 * NS), 100 * NS)
    assert dict(frame.attributes or {}) == {
        "peerinfer.job": "0123",
        "peerinfer.peer": "ada",
        "peerinfer.tasks": 3,
        "peerinfer.frame": 7,
    }
    assert [(each.name, (each.end_time or 0) - (each.start_time or 0)) for each in stages] == [
        ("queue", NS // 4),
        ("transfer", NS // 2),
        ("compute", NS),
    ]
    assert [each.start_time for each in stages[1:]] == [each.end_time for each in stages[:-1]]
    assert {each.parent.span_id for each in stages if each.parent} == {frame.context.span_id}


def test_checks_are_spans_of_their_own(spans: InMemorySpanExporter) -> None:
    Tracing(lambda: 100.0).frame("0123", Spent(None, "", 4, 0.0, (("verify", 0.5),)))
    assert [span.name for span in spans.get_finished_spans()] == ["verify", "check"]


def test_a_request_belongs_to_the_trace_of_whoever_sent_it(spans: InMemorySpanExporter) -> None:
    header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for headers, is_known in (({"traceparent": header}, True), ({}, False), ({"traceparent": "\x00nonsense"}, False)):
        spans.clear()
        Tracing(lambda: 100.0).request(headers, {"peerinfer.model": "mlp"}, 0.001, 0.002)
        *_, request = spans.get_finished_spans()
        assert request.name == "infer"
        assert (f"{request.context.trace_id:032x}" == header[3:35]) == is_known
        assert (request.parent is not None) == is_known


async def test_the_frames_of_a_job_are_traced(spans: InMemorySpanExporter, autojump_clock: object) -> None:
    async with coordinator_world() as world:
        job = world.accept(3, verify="none")
        side = await world.worker("worker")
        await side.greet()
        await side.say(Window(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stay_alive, side)
            while not job.has_ended.is_set():
                with trio.move_on_after(1.0):
                    frame = await side.hear(Frame)
                    results, outputs = answer_to(frame, side.body, side.keys)
                    await side.say(results, [outputs])
            nursery.cancel_scope.cancel()
    frames = [span for span in spans.get_finished_spans() if span.name == "frame"]
    assert sum(int((span.attributes or {})["peerinfer.tasks"]) for span in frames) == 3  # type: ignore[arg-type]
    assert {(span.attributes or {})["peerinfer.job"] for span in frames} == {JOB}


def test_without_the_package_or_an_sdk_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    Tracing(lambda: 100.0).frame("0123", FRAME)  # the API alone
    for name in [name for name in sys.modules if name.split(".")[0] == "opentelemetry"]:
        monkeypatch.setitem(sys.modules, name, None)
    bare = tracing.Tracing(lambda: 100.0)
    bare.frame("0123", FRAME)
    bare.request({}, {}, 0.0, 0.0)
